// SPDX-License-Identifier: MIT
// TLS over a connected socket: a client's handshake, a stream, and the keys to go on without us.
#include "client/protocol/tls.h"

#include "client/base/bytes.h"
#include "client/base/text.h"

#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <chrono>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <utility>
#include <vector>

namespace nbd {

namespace {

constexpr std::size_t header_size = 5;
/// RFC 5246, section 6.2.3; TLS 1.3 allows less.
constexpr std::size_t max_record = 16384 + 2048;
constexpr unsigned first_type = 20;  // change_cipher_spec
constexpr unsigned last_type = 23;   // application_data
/// More records than any handshake has, and than a server may put before its answer.
constexpr std::size_t max_empty_records = 64;
constexpr std::size_t longest_quote = 32;
constexpr const char* meddler_hint =
    "something between here and the server may meddle with the connection";

Error insecure(std::string cause, std::string hint = {}) {
    return {Kind::insecure, std::move(cause), std::move(hint)};
}

bool is_address(const std::string& host) {
    std::array<unsigned char, sizeof(in6_addr)> bytes{};
    return ::inet_pton(AF_INET, host.c_str(), bytes.data()) == 1 ||
           ::inet_pton(AF_INET6, host.c_str(), bytes.data()) == 1;
}

std::optional<TlsCipher> cipher_of(const SSL_CIPHER* cipher) {
    switch (SSL_CIPHER_get_cipher_nid(cipher)) {
        case NID_aes_128_gcm:
            return TlsCipher::aes_128_gcm;
        case NID_aes_256_gcm:
            return TlsCipher::aes_256_gcm;
        case NID_chacha20_poly1305:
            return TlsCipher::chacha20_poly1305;
        default:
            return std::nullopt;
    }
}

bool is_readable(int fd) {
    pollfd entry{fd, POLLIN, 0};
    return ::poll(&entry, 1, 0) > 0;
}

}  // namespace

void TlsStream::Free::operator()(ssl_st* ssl) const {
    SSL_free(ssl);
}

Result<std::unique_ptr<TlsStream>> TlsStream::connect(const TlsContext& context, int fd,
                                                      const std::string& peer,
                                                      const Deadline& deadline) {
    std::unique_ptr<TlsStream> stream(new TlsStream(context, fd));
    auto shaken = stream->set_up();
    if (shaken) shaken = stream->check_silence();
    if (shaken) shaken = stream->shake(deadline);
    if (shaken) return stream;
    Error error = std::move(shaken).error();
    error.what = "cannot negotiate TLS with " + peer + ": " + error.what;
    return error;
}

TlsStream::~TlsStream() {
    if (!open_) return;
    // Polite, not needed: what does not go out at once does not go out.
    SSL_shutdown(ssl_.get());
    static_cast<void>(flush(Deadline::in(std::chrono::seconds(0))));
    ERR_clear_error();
}

Result<void> TlsStream::set_up() {
    ERR_clear_error();
    const TlsPolicy& policy = observed_.context->policy();
    ssl_.reset(SSL_new(observed_.context->get()));
    incoming_ = BIO_new(BIO_s_mem());
    outgoing_ = BIO_new(BIO_s_mem());
    if (!ssl_ || incoming_ == nullptr || outgoing_ == nullptr) {
        BIO_free(incoming_);
        BIO_free(outgoing_);
        return Error{Kind::internal, drain_tls_errors()};
    }
    SSL_set_bio(ssl_.get(), incoming_, outgoing_);
    BIO_set_mem_eof_return(incoming_, -1);
    SSL_set_app_data(ssl_.get(), &observed_);
    SSL_set_connect_state(ssl_.get());
    if (policy.hostname.empty()) return {};
    const char* const name = policy.hostname.c_str();
    const bool address = is_address(policy.hostname);
    if (!address && SSL_set_tlsext_host_name(ssl_.get(), name) != 1) return failure();
    if (!policy.verify || policy.type != TlsType::x509) return {};
    SSL_set_hostflags(ssl_.get(), X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    const int set = address ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl_.get()), name)
                            : SSL_set1_host(ssl_.get(), name);
    return set == 1 ? Result<void>() : failure();
}

/// An attacker may put words into the server's mouth before anything is protected: nothing may wait
/// when we begin.
Result<void> TlsStream::check_silence() const {
    std::array<char, longest_quote> early{};
    const ssize_t count = ::recv(fd_, early.data(), early.size(), MSG_PEEK | MSG_DONTWAIT);
    if (count > 0)
        return insecure("data came before TLS began: " +
                            quoted({early.data(), static_cast<std::size_t>(count)}),
                        "something between here and the server may have put it there");
    if (count == 0)
        return insecure("the server closed the connection when TLS was to begin",
                        "the server's log may say more");
    return {};
}

Result<void> TlsStream::shake(const Deadline& deadline) {
    for (std::size_t records = 0; records < max_empty_records; ++records) {
        ERR_clear_error();
        const int done = SSL_do_handshake(ssl_.get());
        const int state = SSL_get_error(ssl_.get(), done);
        if (done != 1 && state != SSL_ERROR_WANT_READ) {
            Error error = failure();
            // The alert that tells the server why.
            static_cast<void>(flush(deadline.at_most(std::chrono::seconds(1))));
            return error;
        }
        TRY(flush(deadline));
        if (done == 1) {
            if (observed_.context->policy().type == TlsType::psk &&
                SSL_get0_peer_certificate(ssl_.get()) != nullptr)
                return insecure("the server came with a certificate instead of the shared key",
                                "does the server know the key and its name?");
            begin_counting();
            return {};
        }
        TRY(feed_record(deadline));
    }
    return insecure("the handshake does not end");
}

/// TLS 1.3 counts from zero under the keys that it uses from here on; TLS 1.2 has used them for the
/// two last messages of the handshake already.
void TlsStream::begin_counting() {
    received_records_ = sent_records_ = SSL_version(ssl_.get()) == TLS1_3_VERSION ? 0 : 1;
    open_ = shaken_ = true;
}

Error TlsStream::failure() {
    open_ = false;
    if (shaken_ && observed_.trouble.alert < 0)
        return insecure(
            "what the server sends does not belong to this connection (" + drain_tls_errors() + ")",
            meddler_hint);
    return explain_tls_failure(observed_.trouble, observed_.context->policy());
}

/// The server has closed the connection without a word in TLS.
Error TlsStream::closed() {
    open_ = false;
    if (observed_.trouble.certificate_wanted)
        return insecure(
            "the server asked for a certificate of ours, got none and closed the "
            "connection",
            "--tls-cert and --tls-key name ours; the server's log may say more");
    if (shaken_) return {Kind::protocol, "the connection was closed by the server"};
    if (observed_.context->policy().type == TlsType::psk)
        return insecure("the server closed the connection when it had seen our shared key's name",
                        "name and key must be the same in the server's file");
    return insecure(any_record_ ? "the server closed the connection"
                                : "the server closed the connection when TLS was to begin",
                    "the server's log may say more");
}

/// The server does not take what we send; it may have said why before it closed the connection.
Error TlsStream::rejected(const Deadline& deadline) {
    for (std::size_t records = 0; records < max_empty_records; ++records) {
        if (auto fed = feed_record(deadline); !fed) return std::move(fed).error();
        if (peek() != SSL_ERROR_WANT_READ) break;
    }
    return observed_.trouble.alert >= 0 ? failure() : closed();
}

/// What OpenSSL makes of what it was given: SSL_ERROR_WANT_READ if there is nothing in it for us.
int TlsStream::peek() {
    std::byte byte{};
    std::size_t count = 0;
    ERR_clear_error();
    return SSL_get_error(ssl_.get(), SSL_peek_ex(ssl_.get(), &byte, 1, &count));
}

/// Reads one record from the socket and gives it to OpenSSL.
Result<void> TlsStream::feed_record(const Deadline& deadline) {
    std::array<std::byte, header_size> header{};
    if (auto read = socket_.read_exactly(header, deadline); !read)
        return read.error().kind == Kind::protocol ? closed() : std::move(read).error();
    Reader reader(header);
    const unsigned type = reader.integer<std::uint8_t>();
    const unsigned major = reader.integer<std::uint8_t>();
    reader.integer<std::uint8_t>();
    const std::size_t length = reader.integer<std::uint16_t>();
    if (type < first_type || type > last_type || major != 3 || length > max_record) {
        open_ = false;
        return insecure(
            "the server sends something else than TLS: " + quoted(Reader(header).rest_as_text()),
            meddler_hint);
    }
    any_record_ = true;
    std::vector<std::byte> body(length);
    if (auto read = socket_.read_exactly(body, deadline); !read)
        return read.error().kind == Kind::protocol ? closed() : std::move(read).error();
    ++received_records_;
    BIO_write(incoming_, header.data(), static_cast<int>(header.size()));
    BIO_write(incoming_, body.data(), static_cast<int>(body.size()));
    return {};
}

/// Sends what OpenSSL has written.
Result<void> TlsStream::flush(const Deadline& deadline) {
    char* data = nullptr;
    const long size = BIO_get_mem_data(outgoing_, &data);
    if (size <= 0) return {};
    const auto bytes = std::as_bytes(std::span(data, static_cast<std::size_t>(size)));
    count_sent(bytes);
    auto written = socket_.write_all(bytes, deadline);
    static_cast<void>(BIO_reset(outgoing_));
    if (written) return written;
    return written.error().kind == Kind::protocol ? rejected(deadline) : std::move(written).error();
}

/// OpenSSL writes whole records.
void TlsStream::count_sent(std::span<const std::byte> bytes) {
    while (bytes.size() >= header_size) {
        Reader reader(bytes);
        reader.text(3);
        const std::size_t length = reader.integer<std::uint16_t>();
        const std::uint64_t nonce = reader.integer<std::uint64_t>();
        if (length >= sizeof nonce) last_nonce_ = nonce;
        ++sent_records_;
        bytes = bytes.subspan(std::min(bytes.size(), header_size + length));
    }
}

Result<void> TlsStream::read_exactly(std::span<std::byte> buffer, const Deadline& deadline) {
    std::size_t empty_records = 0;
    while (!buffer.empty()) {
        if (!open_) return Error{Kind::protocol, "the connection is not open any more"};
        ERR_clear_error();
        std::size_t count = 0;
        const int done = SSL_read_ex(ssl_.get(), buffer.data(), buffer.size(), &count);
        const int state = SSL_get_error(ssl_.get(), done);
        TRY(flush(deadline));
        if (done == 1) {
            buffer = buffer.subspan(count);
            empty_records = 0;
        } else if (state == SSL_ERROR_ZERO_RETURN) {
            open_ = false;
            return Error{Kind::protocol, "the connection was closed by the server"};
        } else if (state != SSL_ERROR_WANT_READ) {
            return failure();
        } else if (++empty_records > max_empty_records) {
            open_ = false;
            return Error{Kind::protocol, "the server sends TLS records without data"};
        } else {
            TRY(feed_record(deadline));
        }
    }
    return {};
}

Result<void> TlsStream::write_all(std::span<const std::byte> bytes, const Deadline& deadline) {
    while (!bytes.empty()) {
        if (!open_) return Error{Kind::protocol, "the connection is not open any more"};
        ERR_clear_error();
        std::size_t count = 0;
        // Memory takes everything: there is nothing to wait for but the socket below.
        if (SSL_write_ex(ssl_.get(), bytes.data(), bytes.size(), &count) != 1) return failure();
        TRY(flush(deadline));
        bytes = bytes.subspan(count);
    }
    return {};
}

std::optional<TlsSuite> TlsStream::suite() const {
    const auto cipher = cipher_of(SSL_get_current_cipher(ssl_.get()));
    if (!cipher) return std::nullopt;
    return TlsSuite{
        SSL_version(ssl_.get()) == TLS1_3_VERSION ? TlsVersion::tls13 : TlsVersion::tls12, *cipher};
}

Result<ConnectionKeys> TlsStream::take_keys(const Deadline& deadline) {
    if (!open_) return Error{Kind::protocol, "the connection is not open any more"};
    // A late session ticket must not reach the kernel, which has no use for it but to fail.
    for (std::size_t late = 0; is_readable(fd_) && late < max_empty_records; ++late) {
        TRY(feed_record(deadline));
        const int state = peek();
        if (state == SSL_ERROR_ZERO_RETURN) return closed();
        if (state == SSL_ERROR_NONE) break;
        if (state != SSL_ERROR_WANT_READ) return failure();
    }
    TRY(flush(deadline));
    if (SSL_has_pending(ssl_.get()) != 0 || BIO_pending(incoming_) != 0 || is_readable(fd_))
        return Error{Kind::protocol, "the server speaks before it is asked"};
    if (observed_.rekeyed)
        return Error{Kind::protocol, "the server has changed its keys in the handshake"};
    auto keys = derive_keys();
    open_ = false;
    return keys;
}

Result<ssl_st*> TlsStream::continue_over_socket(const Deadline& deadline) {
    if (!open_) return Error{Kind::protocol, "the connection is not open any more"};
    TRY(flush(deadline));
    BIO* const socket = BIO_new_socket(fd_, BIO_NOCLOSE);
    if (socket == nullptr || BIO_pending(incoming_) != 0) {
        BIO_free(socket);
        return Error{Kind::internal, "OpenSSL has not read what it was given"};
    }
    SSL_set_bio(ssl_.get(), socket, socket);
    incoming_ = outgoing_ = nullptr;
    open_ = false;
    return ssl_.get();
}

Result<ConnectionKeys> TlsStream::derive_keys() const {
    const auto agreed = suite();
    if (!agreed) return Error{Kind::insecure, "they agreed on a cipher that was not offered"};
    ConnectionKeys keys;
    if (agreed->version == TlsVersion::tls13) {
        if (observed_.client_secret.empty() || observed_.server_secret.empty())
            return Error{Kind::internal, "OpenSSL has not told the secrets of the connection"};
        keys.suite = *agreed;
        keys.send = TRY(keys_from_traffic_secret(agreed->cipher, observed_.client_secret.bytes()));
        keys.receive =
            TRY(keys_from_traffic_secret(agreed->cipher, observed_.server_secret.bytes()));
    } else {
        Secret master(SSL_MAX_MASTER_KEY_LENGTH);
        const std::size_t length =
            SSL_SESSION_get_master_key(SSL_get_session(ssl_.get()), master.data(), master.size());
        std::array<unsigned char, SSL3_RANDOM_SIZE> client{};
        std::array<unsigned char, SSL3_RANDOM_SIZE> server{};
        SSL_get_client_random(ssl_.get(), client.data(), client.size());
        SSL_get_server_random(ssl_.get(), server.data(), server.size());
        const Digest digest =
            agreed->cipher == TlsCipher::aes_256_gcm ? Digest::sha384 : Digest::sha256;
        keys = TRY(keys_from_master_secret(agreed->cipher, digest, master.bytes().first(length),
                                           client, server));
        // Any other start could use a nonce twice.
        keys.send.explicit_nonce = last_nonce_ + 1;
    }
    keys.send.sequence = sent_records_;
    keys.receive.sequence = received_records_;
    return keys;
}

}  // namespace nbd
