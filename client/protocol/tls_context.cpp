// SPDX-License-Identifier: MIT
// A policy made ready for handshakes, and what OpenSSL's callbacks see of one of them.
#include "client/protocol/tls_context.h"

#include "client/base/text.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

namespace nbd {

namespace {

struct FreeOpenssl {
    void operator()(BIO* bio) const { BIO_free(bio); }
    void operator()(X509* certificate) const { X509_free(certificate); }
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using BioPtr = std::unique_ptr<BIO, FreeOpenssl>;
using CertificatePtr = std::unique_ptr<X509, FreeOpenssl>;
using KeyPtr = std::unique_ptr<EVP_PKEY, FreeOpenssl>;

TlsObserved& observed_of(const SSL* ssl) {
    return *static_cast<TlsObserved*>(SSL_get_app_data(ssl));
}

BioPtr reader_of(const Secret& text) {
    return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

/// A file with a passphrase must not make us ask for one.
int no_passphrase(char*, int, int, void*) {
    return -1;
}

int on_verified(int passed, X509_STORE_CTX* store) {
    if (passed == 1) return 1;
    const auto* ssl = static_cast<const SSL*>(
        X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
    RefusedCertificate& refused = observed_of(ssl).trouble.refused;
    refused = describe_certificate(X509_STORE_CTX_get_current_cert(store));
    refused.reason = X509_STORE_CTX_get_error(store);
    refused.depth = X509_STORE_CTX_get_error_depth(store);
    return 0;
}

void on_info(const SSL* ssl, int where, int value) {
    constexpr int fatal = 2;
    if ((where & SSL_CB_READ_ALERT) == SSL_CB_READ_ALERT && value >> 8 == fatal)
        observed_of(ssl).trouble.alert = value & 0xff;
}

int on_certificate_wanted(SSL* ssl, X509**, EVP_PKEY**) {
    observed_of(ssl).trouble.certificate_wanted = true;
    return 0;
}

void on_message(int, int, int type, const void* bytes, std::size_t size, SSL* ssl, void*) {
    if (type == SSL3_RT_HANDSHAKE && size > 0 &&
        *static_cast<const unsigned char*>(bytes) == SSL3_MT_KEY_UPDATE)
        observed_of(ssl).rekeyed = true;
}

/// "LABEL client-random secret", the random and the secret in hexadecimal.
void on_secret(const SSL* ssl, const char* line) {
    const auto words = split_words(line);
    if (words.size() != 3) return;
    Secret* const where = words[0] == "CLIENT_TRAFFIC_SECRET_0"   ? &observed_of(ssl).client_secret
                          : words[0] == "SERVER_TRAFFIC_SECRET_0" ? &observed_of(ssl).server_secret
                                                                  : nullptr;
    if (where == nullptr) return;
    long length = 0;
    unsigned char* const bytes = OPENSSL_hexstr2buf(std::string(words[2]).c_str(), &length);
    if (bytes == nullptr) return;
    *where = Secret(std::span<const unsigned char>(bytes, static_cast<std::size_t>(length)));
    OPENSSL_clear_free(bytes, static_cast<std::size_t>(length));
}

unsigned on_psk_wanted(SSL* ssl, const char*, char* identity, unsigned identity_size,
                       unsigned char* key, unsigned key_size) {
    const SharedKey& shared = observed_of(ssl).context->shared_key();
    if (shared.username.size() >= identity_size || shared.key.size() > key_size) return 0;
    std::memcpy(identity, shared.username.c_str(), shared.username.size() + 1);
    std::memcpy(key, shared.key.data(), shared.key.size());
    return static_cast<unsigned>(shared.key.size());
}

Error cannot_use(std::string_view what, const std::string& file, const std::string& cause) {
    return {Kind::insecure, "cannot use " + std::string(what) +
                                (file.empty() ? " of the system" : " in " + file) + ": " + cause};
}

Result<void> trust(SSL_CTX* context, const Secret& text, const std::string& file) {
    const BioPtr reader = reader_of(text);
    std::size_t count = 0;
    while (const CertificatePtr certificate{
        PEM_read_bio_X509_AUX(reader.get(), nullptr, no_passphrase, nullptr)}) {
        if (X509_STORE_add_cert(SSL_CTX_get_cert_store(context), certificate.get()) == 1) ++count;
    }
    const std::string cause = drain_tls_errors();
    if (count > 0) return {};
    return cannot_use("the authorities", file, "it has no certificates (" + cause + ")");
}

Result<void> use_certificate(SSL_CTX* context, const Secret& text, const std::string& file) {
    const BioPtr reader = reader_of(text);
    const CertificatePtr own(PEM_read_bio_X509_AUX(reader.get(), nullptr, no_passphrase, nullptr));
    if (!own || SSL_CTX_use_certificate(context, own.get()) != 1)
        return cannot_use("our certificate", file, drain_tls_errors());
    for (;;) {
        CertificatePtr above(PEM_read_bio_X509(reader.get(), nullptr, no_passphrase, nullptr));
        if (!above) break;
        if (SSL_CTX_add0_chain_cert(context, above.get()) == 1) above.release();
    }
    ERR_clear_error();
    return {};
}

Result<void> use_key(SSL_CTX* context, const Secret& text, const std::string& file) {
    const BioPtr reader = reader_of(text);
    const KeyPtr key(PEM_read_bio_PrivateKey(reader.get(), nullptr, no_passphrase, nullptr));
    if (!key) {
        Error error = cannot_use("our private key", file, drain_tls_errors());
        error.hint = "it is to be a PEM file without a passphrase";
        return error;
    }
    if (SSL_CTX_use_PrivateKey(context, key.get()) == 1) return {};
    return cannot_use("our private key", file, drain_tls_errors());
}

struct Names {
    TlsSuite suite;
    const char* of_certificates;
    const char* of_shared_keys;
};

/// OpenSSL's names. Every handshake has a fresh key exchange. TLS 1.3 shared keys go with SHA-256,
/// which leaves AES-256 out there.
constexpr std::array names = {
    Names{{TlsVersion::tls13, TlsCipher::aes_128_gcm},
          "TLS_AES_128_GCM_SHA256",
          "TLS_AES_128_GCM_SHA256"},
    Names{{TlsVersion::tls13, TlsCipher::aes_256_gcm}, "TLS_AES_256_GCM_SHA384", ""},
    Names{{TlsVersion::tls13, TlsCipher::chacha20_poly1305},
          "TLS_CHACHA20_POLY1305_SHA256",
          "TLS_CHACHA20_POLY1305_SHA256"},
    Names{{TlsVersion::tls12, TlsCipher::aes_128_gcm},
          "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256",
          "DHE-PSK-AES128-GCM-SHA256"},
    Names{{TlsVersion::tls12, TlsCipher::aes_256_gcm},
          "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384",
          "DHE-PSK-AES256-GCM-SHA384"},
    Names{{TlsVersion::tls12, TlsCipher::chacha20_poly1305},
          "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305",
          "ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-CHACHA20-POLY1305"},
};

std::string list_of(const TlsPolicy& policy, TlsVersion version) {
    std::vector<std::string> list;
    for (const TlsSuite& suite : policy.suites) {
        const auto* const known = std::ranges::find(names, suite, &Names::suite);
        if (suite.version != version || known == names.end()) continue;
        const char* const name =
            policy.type == TlsType::psk ? known->of_shared_keys : known->of_certificates;
        if (*name != '\0') list.emplace_back(name);
    }
    return join(list, ":");
}

}  // namespace

void TlsContext::Free::operator()(ssl_ctx_st* context) const {
    SSL_CTX_free(context);
}

Result<std::unique_ptr<TlsContext>> TlsContext::make(TlsPolicy policy, const TlsTexts& texts) {
    ERR_clear_error();
    std::unique_ptr<TlsContext> made(new TlsContext(std::move(policy)));
    made->context_.reset(SSL_CTX_new(TLS_client_method()));
    if (!made->context_) return Error{Kind::internal, "cannot set up TLS: " + drain_tls_errors()};
    TRY(made->set_up(texts));
    return made;
}

Result<void> TlsContext::set_up(const TlsTexts& texts) {
    SSL_CTX* const context = context_.get();
    SSL_CTX_set_options(context,
                        SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(context, policy_.verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, on_verified);
    SSL_CTX_set_info_callback(context, on_info);
    SSL_CTX_set_msg_callback(context, on_message);
    SSL_CTX_set_keylog_callback(context, on_secret);
    SSL_CTX_set_client_cert_cb(context, on_certificate_wanted);
    // Shared keys are verified by the handshake itself: an authority would let a certificate stand
    // in for them.
    if (!texts.ca.empty() && policy_.type == TlsType::x509)
        TRY(trust(context, texts.ca, policy_.ca));
    if (!texts.certificate.empty())
        TRY(use_certificate(context, texts.certificate, policy_.certificate));
    if (!texts.key.empty()) TRY(use_key(context, texts.key, policy_.key));
    if (policy_.type == TlsType::psk) {
        auto key = find_shared_key(texts.psk.text(), policy_.username);
        if (!key) {
            Error error = cannot_use("the shared keys", policy_.psk, key.error().what);
            error.hint = key.error().hint;
            return error;
        }
        shared_key_ = *std::move(key);
        SSL_CTX_set_psk_client_callback(context, on_psk_wanted);
    }
    return offer_suites();
}

Result<void> TlsContext::offer_suites() {
    SSL_CTX* const context = context_.get();
    const std::string newer = list_of(policy_, TlsVersion::tls13);
    const std::string older = list_of(policy_, TlsVersion::tls12);
    if (newer.empty() && older.empty())
        return Error{Kind::insecure, "cannot set up TLS: no cipher is left to offer",
                     "--tls-ciphers may name others"};
    const bool sound = SSL_CTX_set_min_proto_version(
                           context, older.empty() ? TLS1_3_VERSION : TLS1_2_VERSION) == 1 &&
                       SSL_CTX_set_max_proto_version(
                           context, newer.empty() ? TLS1_2_VERSION : TLS1_3_VERSION) == 1 &&
                       (newer.empty() || SSL_CTX_set_ciphersuites(context, newer.c_str()) == 1) &&
                       (older.empty() || SSL_CTX_set_cipher_list(context, older.c_str()) == 1);
    if (sound) return {};
    return Error{Kind::insecure, "cannot set up TLS: " + drain_tls_errors(),
                 "the system's policy for OpenSSL may forbid these ciphers"};
}

}  // namespace nbd
