// SPDX-License-Identifier: MIT
// Certificates made on the spot, and an NBD server in a thread that protects its connections.
#pragma once

#include "client/base/fd.h"
#include "client/protocol/tls_context.h"
#include "client/protocol/tls_suite.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/scripted_stream.h"
#include "tests/unit/temporary_directory.h"

#include <arpa/inet.h>
#include <array>
#include <atomic>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <signal.h>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <utility>

namespace nbd {

struct Wipe {
    void operator()(X509* it) const { X509_free(it); }
    void operator()(EVP_PKEY* it) const { EVP_PKEY_free(it); }
    void operator()(SSL_CTX* it) const { SSL_CTX_free(it); }
    void operator()(SSL* it) const { SSL_free(it); }
    void operator()(BIO* it) const { BIO_free(it); }
    void operator()(X509_EXTENSION* it) const { X509_EXTENSION_free(it); }
};
template <typename T>
using Owned = std::unique_ptr<T, Wipe>;

struct Validity {
    long from = -3600;  ///< seconds from now
    long to = 86400;
};

/// A key and a certificate.
class Identity {
public:
    /// `names` as OpenSSL writes them: "DNS:store,IP:127.0.0.1"; empty: none. Without an issuer it
    /// signs itself.
    Identity(const std::string& common_name, const std::string& names,
             const Identity* issuer = nullptr, Validity validity = {}, bool authority = false)
        : key_(EVP_EC_gen("P-256")), certificate_(X509_new()) {
        X509* const x = certificate_.get();
        X509_set_version(x, 2);
        static std::atomic<long> serial{1};
        ASN1_INTEGER_set(X509_get_serialNumber(x), serial++);
        X509_gmtime_adj(X509_getm_notBefore(x), validity.from);
        X509_gmtime_adj(X509_getm_notAfter(x), validity.to);
        X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8,
                                   reinterpret_cast<const unsigned char*>(common_name.c_str()), -1,
                                   -1, 0);
        X509_set_pubkey(x, key_.get());
        const Identity& signer = issuer != nullptr ? *issuer : *this;
        X509_set_issuer_name(x, X509_get_subject_name(signer.certificate_.get()));
        add(NID_basic_constraints, authority ? "critical,CA:TRUE" : "CA:FALSE");
        if (!names.empty()) add(NID_subject_alt_name, names);
        EXPECT_GT(X509_sign(x, signer.key_.get(), EVP_sha256()), 0);
    }

    X509* certificate() const { return certificate_.get(); }
    EVP_PKEY* key() const { return key_.get(); }

    std::string certificate_text() const {
        const Owned<BIO> bio(BIO_new(BIO_s_mem()));
        PEM_write_bio_X509(bio.get(), certificate_.get());
        return content(bio.get());
    }
    std::string key_text() const {
        const Owned<BIO> bio(BIO_new(BIO_s_mem()));
        PEM_write_bio_PrivateKey(bio.get(), key_.get(), nullptr, nullptr, 0, nullptr, nullptr);
        return content(bio.get());
    }

private:
    void add(int kind, const std::string& value) {
        const Owned<X509_EXTENSION> extension(
            X509V3_EXT_conf_nid(nullptr, nullptr, kind, value.c_str()));
        X509_add_ext(certificate_.get(), extension.get(), -1);
    }
    static std::string content(BIO* bio) {
        char* text = nullptr;
        const long size = BIO_get_mem_data(bio, &text);
        return {text, static_cast<std::size_t>(size)};
    }

    Owned<EVP_PKEY> key_;
    Owned<X509> certificate_;
};

/// What the server is like.
struct TlsServerSettings {
    const Identity* identity = nullptr;
    const Identity* client_authority = nullptr;  ///< ask for certificates of this one
    std::string shared_key_user = {};            ///< instead of certificates
    std::string shared_key = {};                 ///< bytes
    int version = 0;                             ///< the only one, 0: both
    std::string ciphers = {};                    ///< OpenSSL's names, of TLS 1.2 and 1.3
    unsigned tickets = 2;
    std::string instead_of_greeting = {};  ///< sent, then the connection is closed
    std::string instead_of_ack = {};       ///< sent in answer to NBD_OPT_STARTTLS
    std::string after_ack = {};            ///< sent together with the acknowledgement
    std::string instead_of_hello = {};     ///< sent in answer to the client's first record
    bool close_at_starttls = false;
    bool close_at_hello = false;
    std::function<void(SSL*)> after_go = {};  ///< what it does once an export is open
};

/// Listens on 127.0.0.1 and serves one connection after the other.
class TlsServer {
public:
    explicit TlsServer(TlsServerSettings settings) : settings_(std::move(settings)) {
        // OpenSSL writes to a client that has gone.
        ::signal(SIGPIPE, SIG_IGN);
        context_.reset(SSL_CTX_new(TLS_server_method()));
        set_up();
        listener_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t length = sizeof address;
        auto* const generic = reinterpret_cast<sockaddr*>(&address);
        EXPECT_EQ(::bind(listener_.get(), generic, length), 0);
        EXPECT_EQ(::listen(listener_.get(), 8), 0);
        EXPECT_EQ(::getsockname(listener_.get(), generic, &length), 0);
        port_ = ntohs(address.sin_port);
        thread_ = std::thread([this] { serve(); });
    }
    TlsServer(const TlsServer&) = delete;
    TlsServer& operator=(const TlsServer&) = delete;
    ~TlsServer() {
        stop_.ring();
        thread_.join();
    }

    std::string port() const { return std::to_string(port_); }
    std::string address() const { return "127.0.0.1:" + port(); }
    /// What the last client said it wants to talk to; empty without SNI.
    std::string asked_name() const { return asked_name_; }
    /// The common name in the last client's certificate.
    std::string client_name() const { return client_name_; }

    /// A connected socket.
    Fd connect() const {
        Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(port_);
        EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        return fd;
    }

private:
    void set_up() {
        SSL_CTX* const context = context_.get();
        SSL_CTX_set_app_data(context, this);
        if (settings_.identity != nullptr) {
            SSL_CTX_use_certificate(context, settings_.identity->certificate());
            SSL_CTX_use_PrivateKey(context, settings_.identity->key());
        }
        if (settings_.client_authority != nullptr) {
            X509_STORE_add_cert(SSL_CTX_get_cert_store(context),
                                settings_.client_authority->certificate());
            SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
        }
        if (settings_.version != 0) {
            SSL_CTX_set_min_proto_version(context, settings_.version);
            SSL_CTX_set_max_proto_version(context, settings_.version);
        }
        if (!settings_.ciphers.empty()) {
            const bool newer = settings_.ciphers.starts_with("TLS_");
            EXPECT_EQ((newer ? SSL_CTX_set_ciphersuites : SSL_CTX_set_cipher_list)(
                          context, settings_.ciphers.c_str()),
                      1);
        }
        SSL_CTX_set_num_tickets(context, settings_.tickets);
        SSL_CTX_set_tlsext_servername_callback(context, note_name);
        if (!settings_.shared_key.empty())
            SSL_CTX_set_psk_server_callback(context, give_shared_key);
    }

    static int note_name(SSL* ssl, int*, void*) {
        auto& self = *static_cast<TlsServer*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
        const char* const name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
        self.asked_name_ = name != nullptr ? name : "";
        return SSL_TLSEXT_ERR_OK;
    }
    static unsigned give_shared_key(SSL* ssl, const char* user, unsigned char* key, unsigned size) {
        auto& self = *static_cast<TlsServer*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
        const std::string& shared = self.settings_.shared_key;
        if (user != self.settings_.shared_key_user || shared.size() > size) return 0;
        std::copy(shared.begin(), shared.end(), key);
        return static_cast<unsigned>(shared.size());
    }

    void serve() {
        for (;;) {
            std::array<pollfd, 2> fds = {pollfd{listener_.get(), POLLIN, 0},
                                         pollfd{stop_.fd(), POLLIN, 0}};
            ::poll(fds.data(), fds.size(), -1);
            if (fds[1].revents != 0) return;
            Fd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
            // Nobody is waited for longer than any test lasts.
            const timeval patience{5, 0};
            ::setsockopt(client.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
            talk(client.get());
        }
    }

    static bool send_all(int fd, const std::string& bytes) {
        return ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
               static_cast<ssize_t>(bytes.size());
    }
    static bool receive(int fd, std::size_t count) {
        std::string bytes(count, '\0');
        return count == 0 || ::recv(fd, bytes.data(), count, MSG_WAITALL) > 0;
    }
    /// Waits for the client's word to have no unread bytes when we close: that would reset the
    /// connection and destroy what we have said.
    static void linger(int fd) {
        ::shutdown(fd, SHUT_WR);
        std::array<char, 4096> rest{};
        while (::recv(fd, rest.data(), rest.size(), 0) > 0) {
        }
    }

    void talk(int fd) {
        if (!settings_.instead_of_greeting.empty()) {
            send_all(fd, settings_.instead_of_greeting);
            return linger(fd);
        }
        constexpr std::uint32_t opt_starttls = 5;
        if (!send_all(fd, script::greeting(3)) || !receive(fd, 4)) return;
        if (!receive(fd, 16) || settings_.close_at_starttls) return;
        const std::string answer = settings_.instead_of_ack.empty()
                                       ? script::reply(opt_starttls, script::rep_ack)
                                       : settings_.instead_of_ack;
        send_all(fd, answer + settings_.after_ack);
        if (!settings_.instead_of_ack.empty()) return linger(fd);
        if (settings_.close_at_hello) return;
        if (!settings_.instead_of_hello.empty()) {
            receive(fd, 5);
            send_all(fd, settings_.instead_of_hello);
            return linger(fd);
        }
        protect(fd);
        linger(fd);
        ERR_clear_error();
    }

    void protect(int fd) {
        const Owned<SSL> ssl(SSL_new(context_.get()));
        SSL_set_fd(ssl.get(), fd);
        if (SSL_accept(ssl.get()) != 1) return;
        client_name_ = "";
        if (const Owned<X509> client(SSL_get1_peer_certificate(ssl.get())); client) {
            std::array<char, 64> name{};
            X509_NAME_get_text_by_NID(X509_get_subject_name(client.get()), NID_commonName,
                                      name.data(), static_cast<int>(name.size()));
            client_name_ = name.data();
        }
        while (answer_option(ssl.get())) {
        }
    }

    static std::string read(SSL* ssl, std::size_t count) {
        std::string bytes(count, '\0');
        for (std::size_t at = 0; at < count;) {
            std::size_t got = 0;
            if (SSL_read_ex(ssl, bytes.data() + at, count - at, &got) != 1) return "";
            at += got;
        }
        return bytes;
    }
    static void write(SSL* ssl, const std::string& bytes) {
        std::size_t written = 0;
        SSL_write_ex(ssl, bytes.data(), bytes.size(), &written);
    }

    /// False when the client has left.
    bool answer_option(SSL* ssl) {
        const std::string header = read(ssl, 16);
        if (header.empty()) return false;
        Reader reader(std::as_bytes(std::span(header)));
        reader.text(8);
        const auto option = reader.integer<std::uint32_t>();
        read(ssl, reader.integer<std::uint32_t>());
        if (option == script::opt_list) {
            write(ssl, script::reply(option, script::rep_server, script::listed("disk")) +
                           script::reply(option, script::rep_ack));
            return true;
        }
        if (option == script::opt_abort) {
            write(ssl, script::reply(option, script::rep_ack));
            return false;
        }
        write(ssl, script::reply(option, script::rep_info, script::info_export(1 << 20, 1)) +
                       script::reply(option, script::rep_ack));
        if (option == script::opt_go && settings_.after_go) settings_.after_go(ssl);
        return option != script::opt_go;
    }

    TlsServerSettings settings_;
    Owned<SSL_CTX> context_;
    Fd listener_;
    std::uint16_t port_ = 0;
    Bell stop_;
    std::string asked_name_;
    std::string client_name_;
    std::thread thread_;
};

inline std::vector<TlsSuite> every_suite() {
    return {all_suites().begin(), all_suites().end()};
}

/// A context for a client that trusts `authority`, or the failure to make one.
inline Result<std::unique_ptr<TlsContext>> client_context(TlsPolicy policy,
                                                          const Identity* authority = nullptr,
                                                          const Identity* own = nullptr) {
    if (policy.suites.empty()) policy.suites = every_suite();
    TlsTexts texts;
    if (authority != nullptr) {
        policy.ca = "ca.pem";
        texts.ca = Secret(authority->certificate_text());
    }
    if (own != nullptr) {
        texts.certificate = Secret(own->certificate_text());
        texts.key = Secret(own->key_text());
    }
    return TlsContext::make(std::move(policy), texts);
}

}  // namespace nbd
