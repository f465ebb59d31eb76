// SPDX-License-Identifier: MIT
// TLS with a real server: whom we believe, in which words we do not, and the keys that are left.
#include "client/protocol/tls.h"

#include "tests/unit/tls_server.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>

namespace nbd {
namespace {

using namespace std::chrono_literals;

Deadline soon() {
    return Deadline::in(5s);
}

const Identity& authority() {
    static const Identity it("the authority", "", nullptr, {}, true);
    return it;
}

const Identity& store() {
    static const Identity it("store", "DNS:store.example,IP:127.0.0.1", &authority());
    return it;
}

/// Goes through the start of the NBD handshake by hand and shakes hands.
Result<std::unique_ptr<TlsStream>> protect(const TlsServer& server, int fd,
                                           const TlsContext& context) {
    SocketStream plain(fd);
    std::array<std::byte, 18> greeting{};
    TRY(plain.read_exactly(greeting, soon()));
    const std::string start = script::client_flags(3) + script::option(5);
    TRY(plain.write_all(std::as_bytes(std::span(start)), soon()));
    std::array<std::byte, 20> acknowledgement{};
    TRY(plain.read_exactly(acknowledgement, soon()));
    return TlsStream::connect(context, fd, server.address(), soon());
}

struct Outcome {
    Error error;
    bool connected = false;
    std::optional<TlsSuite> suite = {};
};

/// One attempt, up to the answer to NBD_OPT_GO: only that shows under TLS 1.3 whether the server
/// accepts us.
Outcome attempt(TlsServerSettings settings, TlsPolicy policy,
                const Identity* trusted = &authority(), const Identity* own = nullptr) {
    const TlsServer server(std::move(settings));
    auto context = client_context(std::move(policy), trusted, own);
    if (!context) return {context.error()};
    const Fd fd = server.connect();
    auto stream = protect(server, fd.get(), **context);
    if (!stream) return {stream.error()};
    const std::string go = script::info_option(script::opt_go, "disk");
    auto answered = (*stream)->write_all(std::as_bytes(std::span(go)), soon());
    std::array<std::byte, 20> reply{};
    if (answered) answered = (*stream)->read_exactly(reply, soon());
    if (!answered) return {answered.error()};
    return {{}, true, (*stream)->suite()};
}

TlsPolicy check(const std::string& hostname) {
    return {.hostname = hostname};
}

TEST(Tls, BelievesARightCertificate) {
    const TlsServerSettings settings{.identity = &store()};
    for (const char* name : {"store.example", "127.0.0.1"}) {
        const Outcome outcome = attempt(settings, check(name));
        EXPECT_TRUE(outcome.connected) << outcome.error.what;
    }
}

TEST(Tls, TellsTheServerWhichNameItWants) {
    const TlsServer server({.identity = &store()});
    for (const auto& [name, asked] :
         {std::pair{"store.example", "store.example"}, std::pair{"127.0.0.1", ""}}) {
        auto context = client_context(check(name), &authority());
        ASSERT_TRUE(context);
        const Fd fd = server.connect();
        ASSERT_TRUE(protect(server, fd.get(), **context));
        EXPECT_EQ(server.asked_name(), asked);
    }
}

TEST(Tls, EveryReasonNotToBelieveHasItsOwnWords) {
    const Identity stranger("stranger", "", nullptr, {}, true);
    const Identity impostor("the authority", "", nullptr, {}, true);
    const Identity foreign("store", "DNS:store.example", &stranger);
    const Identity forged("store", "DNS:store.example", &impostor);
    const Identity other("store", "DNS:a.example,DNS:b\x1b[1m.example,IP:10.0.0.1", &authority());
    const Identity nameless("just a name", "", &authority());
    const Identity expired("store", "DNS:store.example", &authority(), {-7200, -3600});
    const Identity early("store", "DNS:store.example", &authority(), {3600, 7200});
    const Identity alone("store", "DNS:store.example");
    const struct {
        const Identity& identity;
        const char* name;
        std::string what;
        std::string hint;
    } cases[] = {
        {foreign, "store.example",
         "the server's certificate is vouched for by \"CN=stranger\", which is not among the "
         "authorities in ca.pem",
         "--tls-ca"},
        {forged, "store.example",
         "the server's certificate is vouched for by \"CN=the authority\", which is not among the "
         "authorities in ca.pem",
         "--tls-ca"},
        {other, "store.example",
         "the server's certificate is not for \"store.example\" but for a.example, "
         "b\\x1b[1m.example, 10.0.0.1",
         "--tls-hostname"},
        {other, "10.0.0.2", "the server's certificate is not for \"10.0.0.2\" but for", ""},
        {nameless, "store.example",
         "the server's certificate is not for \"store.example\" but for just a name", ""},
        {expired, "store.example", "the server's certificate has expired on 2", "clock"},
        {early, "store.example", "the server's certificate is not valid before 2", "clock"},
        {alone, "store.example", "the server's certificate is self-signed (\"CN=store\")",
         "--tls-ca"},
    };
    for (const auto& c : cases) {
        for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
            const Outcome outcome =
                attempt({.identity = &c.identity, .version = version}, check(c.name));
            EXPECT_FALSE(outcome.connected) << c.what;
            EXPECT_EQ(outcome.error.kind, Kind::insecure);
            EXPECT_TRUE(outcome.error.what.starts_with("cannot negotiate TLS with 127.0.0.1:"));
            EXPECT_NE(outcome.error.what.find(c.what), std::string::npos) << outcome.error.what;
            EXPECT_NE(outcome.error.hint.find(c.hint), std::string::npos) << outcome.error.hint;
        }
        EXPECT_TRUE(
            attempt({.identity = &c.identity}, {.hostname = c.name, .verify = false}).connected)
            << "insecure is insecure";
    }
    EXPECT_TRUE(attempt({.identity = &alone}, check("store.example"), &alone).connected)
        << "a self-signed certificate can be its own authority";
}

TEST(Tls, TheServerHasItsReasonsToo) {
    const Identity strangers("strangers", "", nullptr, {}, true);
    const Identity us("us", "DNS:us", &authority());
    const Identity them("them", "DNS:them", &strangers);
    for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
        const TlsServerSettings settings{
            .identity = &store(), .client_authority = &authority(), .version = version};
        EXPECT_TRUE(attempt(settings, check("store.example"), &authority(), &us).connected);

        const Outcome none = attempt(settings, check("store.example"));
        EXPECT_EQ(none.error.kind, Kind::insecure);
        EXPECT_NE(none.error.what.find("the server wants a certificate of ours and got none "
                                       "(alert \""),
                  std::string::npos)
            << none.error.what;
        EXPECT_NE(none.error.hint.find("--tls-cert"), std::string::npos);

        const Outcome wrong = attempt(settings, check("store.example"), &authority(), &them);
        EXPECT_EQ(wrong.error.kind, Kind::insecure);
        EXPECT_NE(wrong.error.what.find("the server does not accept our certificate (alert \""),
                  std::string::npos)
            << wrong.error.what;
    }
}

TEST(Tls, NothingInCommon) {
    const Outcome ciphers =
        attempt({.identity = &store(), .version = TLS1_2_VERSION, .ciphers = "AES128-SHA"},
                check("store.example"));
    EXPECT_EQ(ciphers.error.kind, Kind::insecure);
    EXPECT_NE(ciphers.error.what.find("knows none of the ciphers offered"), std::string::npos)
        << ciphers.error.what;
    TlsPolicy newer = check("store.example");
    newer.suites = {{TlsVersion::tls13, TlsCipher::aes_128_gcm}};
    const Outcome versions =
        attempt({.identity = &store(), .version = TLS1_2_VERSION}, std::move(newer));
    EXPECT_EQ(versions.error.kind, Kind::insecure);
}

TEST(Tls, SharedKeys) {
    const std::string key("\x01\x02\x03\x04\x05\x06\x07\x08", 8);
    const auto attempt_with = [&](const std::string& file, int version) {
        const TlsServer server({.shared_key_user = "alice",
                                .shared_key = key,
                                .version = version,
                                .ciphers = version == TLS1_2_VERSION
                                               ? "DHE-PSK-AES128-GCM-SHA256:DHE-PSK-CHACHA20-"
                                                 "POLY1305:ECDHE-PSK-CHACHA20-POLY1305"
                                               : "TLS_AES_128_GCM_SHA256"});
        TlsTexts texts;
        texts.psk = Secret(std::string(file));
        auto context = TlsContext::make(
            {.type = TlsType::psk, .psk = "keys.psk", .suites = every_suite()}, texts);
        EXPECT_TRUE(context);
        const Fd fd = server.connect();
        const auto stream = protect(server, fd.get(), **context);
        return stream ? std::string() : stream.error().what;
    };
    for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
        EXPECT_EQ(attempt_with("alice:0102030405060708", version), "");
        EXPECT_NE(attempt_with("alice:0102030405060709", version), "");
        EXPECT_NE(attempt_with("bob:0102030405060708", version), "");
    }
}

TEST(Tls, OnlyWhatWasOfferedIsTaken) {
    for (const TlsSuite& suite : all_suites()) {
        TlsPolicy policy = check("store.example");
        policy.suites = {suite};
        const Outcome outcome = attempt({.identity = &store()}, std::move(policy));
        ASSERT_TRUE(outcome.connected) << to_string(suite) << ": " << outcome.error.what;
        EXPECT_EQ(outcome.suite, suite);
    }
}

// What the kernel would do with the keys, done by hand.

std::string protected_record(const ConnectionKeys& keys, const std::string& text) {
    const bool newer = keys.suite.version == TlsVersion::tls13;
    const bool aes = keys.suite.cipher != TlsCipher::chacha20_poly1305;
    const std::string explicit_nonce =
        !newer && aes ? script::numbers(keys.send.explicit_nonce) : "";
    const std::string sequence = script::numbers(keys.send.sequence);
    const std::string plain = newer ? text + '\x17' : text;
    const std::string header =
        "\x17\x03\x03" +
        script::numbers(static_cast<std::uint16_t>(explicit_nonce.size() + plain.size() + 16));
    std::string nonce(keys.send.iv.text());
    if (explicit_nonce.empty())
        for (std::size_t i = 0; i < 8; ++i)
            nonce[4 + i] = static_cast<char>(nonce[4 + i] ^ sequence[i]);
    nonce += explicit_nonce;
    const std::string additional =
        newer
            ? header
            : sequence + "\x17\x03\x03" + script::numbers(static_cast<std::uint16_t>(plain.size()));
    const EVP_CIPHER* const cipher = !aes                         ? EVP_chacha20_poly1305()
                                     : keys.send.key.size() == 16 ? EVP_aes_128_gcm()
                                                                  : EVP_aes_256_gcm();
    const std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)> context(
        EVP_CIPHER_CTX_new(), &EVP_CIPHER_CTX_free);
    const auto bytes = [](const std::string& from) {
        return reinterpret_cast<const unsigned char*>(from.data());
    };
    std::string body(plain.size() + 16, '\0');
    auto* const out = reinterpret_cast<unsigned char*>(body.data());
    int length = 0;
    EVP_EncryptInit_ex(context.get(), cipher, nullptr, keys.send.key.data(), bytes(nonce));
    EVP_EncryptUpdate(context.get(), nullptr, &length, bytes(additional),
                      static_cast<int>(additional.size()));
    EVP_EncryptUpdate(context.get(), out, &length, bytes(plain), static_cast<int>(plain.size()));
    EVP_EncryptFinal_ex(context.get(), out + length, &length);
    EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_GET_TAG, 16, out + plain.size());
    return header + explicit_nonce + body;
}

TEST(Tls, TheKeysGoOnWhereTheStreamEnds) {
    for (const TlsSuite& suite : all_suites()) {
        for (const unsigned tickets : {0U, 2U, 8U}) {
            SCOPED_TRACE(to_string(suite) + ", tickets " + std::to_string(tickets));
            std::string heard;
            {
                const TlsServer server(
                    {.identity = &store(), .tickets = tickets, .after_go = [&heard](SSL* ssl) {
                         std::array<char, 64> text{};
                         std::size_t size = 0;
                         SSL_read_ex(ssl, text.data(), text.size(), &size);
                         heard.assign(text.data(), size);
                     }});
                TlsPolicy policy = check("store.example");
                policy.suites = {suite};
                const auto context = client_context(std::move(policy), &authority());
                ASSERT_TRUE(context);
                const Fd fd = server.connect();
                const auto stream = protect(server, fd.get(), **context);
                ASSERT_TRUE(stream) << stream.error().what;
                const std::string go = script::info_option(script::opt_go, "disk");
                ASSERT_TRUE((*stream)->write_all(std::as_bytes(std::span(go)), soon()));
                std::array<std::byte, 20 + 12 + 20> reply{};
                ASSERT_TRUE((*stream)->read_exactly(reply, soon()));
                const auto keys = (*stream)->take_keys(soon());
                ASSERT_TRUE(keys) << keys.error().what;
                EXPECT_EQ(keys->suite, suite);
                const bool newer = suite.version == TlsVersion::tls13;
                EXPECT_EQ(keys->send.sequence, newer ? 1U : 2U);
                EXPECT_EQ(keys->receive.sequence, newer ? 1U + tickets : 2U);
                EXPECT_FALSE((*stream)->take_keys(soon())) << "only once";
                const std::string record = protected_record(*keys, "from the kernel");
                ASSERT_EQ(::send(fd.get(), record.data(), record.size(), 0),
                          static_cast<ssize_t>(record.size()));
            }
            EXPECT_EQ(heard, "from the kernel");
        }
    }
}

/// A record that OpenSSL cannot decrypt.
void send_nonsense(SSL* ssl) {
    constexpr std::array<unsigned char, 5 + 32> record = {23, 3, 3, 0, 32};
    EXPECT_EQ(::send(SSL_get_fd(ssl), record.data(), record.size(), 0),
              static_cast<ssize_t>(record.size()));
}

/// A server that does something once the export is open, and a client that has read its answer.
struct Opened {
    explicit Opened(std::function<void(SSL*)> then, int version)
        : server({.identity = &store(), .version = version, .after_go = [then](SSL* ssl) {
                      then(ssl);
                      char byte = 0;
                      SSL_read(ssl, &byte, 1);
                  }}) {
        stream = *protect(server, fd.get(), *context);
        const std::string go = script::info_option(script::opt_go, "disk");
        EXPECT_TRUE(stream->write_all(std::as_bytes(std::span(go)), soon()));
        std::array<std::byte, 20 + 12 + 20> reply{};
        EXPECT_TRUE(stream->read_exactly(reply, soon()));
        EXPECT_TRUE(wait_for(fd.get(), POLLIN, soon()));
    }
    TlsServer server;
    std::unique_ptr<TlsContext> context = *client_context(check("store.example"), &authority());
    Fd fd = server.connect();
    std::unique_ptr<TlsStream> stream;
};

TEST(Tls, TheKernelGetsNoConnectionOnWhichMoreWasSaid) {
    const auto speak = [](SSL* ssl) {
        std::size_t written = 0;
        SSL_write_ex(ssl, "early", 5, &written);
    };
    const auto change_keys = [](SSL* ssl) {
        SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
        SSL_do_handshake(ssl);
    };
    const auto leave = [](SSL* ssl) { SSL_shutdown(ssl); };
    const struct {
        std::function<void(SSL*)> then;
        std::vector<int> versions;
        std::string what;
    } cases[] = {
        {speak, {TLS1_2_VERSION, TLS1_3_VERSION}, "the server speaks before it is asked"},
        {change_keys, {TLS1_3_VERSION}, "the server has changed its keys in the handshake"},
        {leave, {TLS1_2_VERSION, TLS1_3_VERSION}, "the connection was closed by the server"},
        {send_nonsense,
         {TLS1_2_VERSION, TLS1_3_VERSION},
         "what the server sends does not belong to this connection"},
    };
    for (const auto& one : cases) {
        for (const int version : one.versions) {
            SCOPED_TRACE(one.what + ", version " + std::to_string(version));
            const Opened opened(one.then, version);
            const auto keys = opened.stream->take_keys(soon());
            ASSERT_FALSE(keys);
            EXPECT_EQ(keys.error().what.substr(0, one.what.size()), one.what);
        }
    }
}

TEST(Tls, WhatCannotBeDecryptedHasItsOwnWords) {
    for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
        const Opened opened(send_nonsense, version);
        std::array<std::byte, 1> more{};
        const auto read = opened.stream->read_exactly(more, soon());
        ASSERT_FALSE(read);
        EXPECT_EQ(read.error().kind, Kind::insecure);
        EXPECT_TRUE(read.error().what.starts_with(
            "what the server sends does not belong to this connection ("))
            << read.error().what;
        EXPECT_NE(read.error().hint.find("meddle"), std::string::npos);
    }
}

TEST(Tls, AMuteServerIsNotWaitedForLongerThanAllowed) {
    int ends[2] = {};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    const Fd ours(ends[0]);
    const Fd theirs(ends[1]);
    const auto context = client_context(check("store.example"), &authority());
    ASSERT_TRUE(context);
    const auto mute = TlsStream::connect(**context, ours.get(), "store:10809", Deadline::in(30ms));
    ASSERT_FALSE(mute);
    EXPECT_EQ(mute.error().kind, Kind::unreachable);
    EXPECT_EQ(mute.error().what, "cannot negotiate TLS with store:10809: timed out");
}

}  // namespace
}  // namespace nbd
