// SPDX-License-Identifier: MIT
// Feeds bytes to the TLS side of the handshake, as a server's answer to our first record or as what
// a server does that has shaken hands; the first byte chooses.
#include "client/protocol/tls.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <span>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace {

using nbd::Deadline;
using nbd::Error;
using nbd::Fd;
using Bytes = std::span<const std::uint8_t>;

constexpr std::array<unsigned char, 16> shared_key = {1, 2, 3, 4};
constexpr const char* shared_key_file = "us:01020304000000000000000000000000";

void require(bool holds) {
    if (!holds) std::abort();
}

Bytes take(Bytes& data, std::size_t count) {
    const Bytes head = data.first(std::min(count, data.size()));
    data = data.subspan(head.size());
    return head;
}

void send_all(int fd, Bytes bytes) {
    while (!bytes.empty()) {
        const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent <= 0) return;
        take(bytes, static_cast<std::size_t>(sent));
    }
}

/// A server that knows the shared key. What it does in TLS are one byte for the deed and one for
/// the length of what it says.
class Server {
public:
    explicit Server(int version) : context_(SSL_CTX_new(TLS_server_method())) {
        // OpenSSL writes to a client that has gone.
        ::signal(SIGPIPE, SIG_IGN);
        SSL_CTX_set_session_cache_mode(context_, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_min_proto_version(context_, version);
        SSL_CTX_set_max_proto_version(context_, version);
        SSL_CTX_set_cipher_list(context_, "PSK");
        SSL_CTX_set_ciphersuites(context_, "TLS_AES_128_GCM_SHA256");
        SSL_CTX_set_psk_server_callback(
            context_, [](SSL*, const char*, unsigned char* key, unsigned) -> unsigned {
                std::ranges::copy(shared_key, key);
                return shared_key.size();
            });
    }
    ~Server() { SSL_CTX_free(context_); }
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    void serve(int fd, Bytes deeds) const {
        SSL* const ssl = SSL_new(context_);
        SSL_set_fd(ssl, fd);
        if (SSL_accept(ssl) == 1)
            while (deeds.size() >= 2) {
                const Bytes deed = take(deeds, 2);
                act(ssl, deed[0] % 6, take(deeds, deed[1]));
            }
        SSL_free(ssl);
        ERR_clear_error();
    }

private:
    static void act(SSL* ssl, unsigned deed, Bytes bytes) {
        if (deed == 0) send_all(SSL_get_fd(ssl), bytes);
        if (deed == 1) SSL_write(ssl, bytes.data(), static_cast<int>(bytes.size()));
        if (deed == 2) SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
        if (deed == 3) SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED);
        if (deed == 4) SSL_new_session_ticket(ssl);
        if (deed == 5) SSL_shutdown(ssl);
        SSL_do_handshake(ssl);
    }

    SSL_CTX* context_;
};

/// Past our first byte, so that nothing comes before TLS begins.
void play_server(int fd, const Server* server, Bytes bytes) {
    char byte = 0;
    if (server != nullptr) {
        server->serve(fd, bytes);
    } else if (::recv(fd, &byte, 1, 0) == 1) {
        send_all(fd, bytes);
    }
    ::shutdown(fd, SHUT_WR);
    std::array<char, 4096> rest{};
    while (::recv(fd, rest.data(), rest.size(), 0) > 0) {
    }
}

std::unique_ptr<nbd::TlsContext> make_context(nbd::TlsType type) {
    nbd::TlsPolicy policy{.type = type, .hostname = "server"};
    policy.suites.assign(nbd::all_suites().begin(), nbd::all_suites().end());
    nbd::TlsTexts texts;
    if (type == nbd::TlsType::psk) {
        policy.psk = "file";
        texts.psk = nbd::Secret(std::string(shared_key_file));
    }
    auto context = nbd::TlsContext::make(std::move(policy), texts);
    require(context.has_value());
    return *std::move(context);
}

void check_error(const Error& error) {
    require(!error.what.empty() && error.kind != nbd::Kind::unreachable);
    for (const std::string& text : {error.what, error.hint})
        require(std::none_of(text.begin(), text.end(), [](char c) {
            return static_cast<unsigned char>(c) < 0x20 || c == '\x7f';
        }));
}

void go_on(nbd::TlsStream& stream, bool hand_over, const Deadline& deadline) {
    require(stream.suite().has_value());
    if (hand_over) {
        if (auto keys = stream.take_keys(deadline); !keys) check_error(keys.error());
        return;
    }
    std::array<std::byte, 3> piece{};
    for (;;) {
        if (auto read = stream.read_exactly(piece, deadline); !read)
            return check_error(read.error());
        if (auto written = stream.write_all(piece, deadline); !written)
            return check_error(written.error());
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const auto by_certificate = make_context(nbd::TlsType::x509);
    static const auto by_key = make_context(nbd::TlsType::psk);
    static const Server servers[] = {Server(TLS1_2_VERSION), Server(TLS1_3_VERSION)};
    int ends[2];
    if (size == 0 || ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return 0;
    const bool answers = (data[0] & 1) != 0;
    const bool hand_over = (data[0] & 2) != 0;
    const Server* const server = answers ? &servers[(data[0] >> 2) & 1] : nullptr;
    Fd ours(ends[0]);
    const Fd theirs(ends[1]);
    std::jthread thread(play_server, theirs.get(), server, Bytes(data + 1, size - 1));
    const Deadline deadline = Deadline::in(std::chrono::seconds(10));
    auto stream = nbd::TlsStream::connect(answers ? *by_key : *by_certificate, ours.get(), "server",
                                          deadline);
    require(stream.has_value() == answers);
    stream ? go_on(**stream, hand_over, deadline) : check_error(stream.error());
    if (stream) stream->reset();
    ours.reset();
    return 0;
}
