// SPDX-License-Identifier: MIT
// From the secrets of a TLS handshake to the keys that protect records.
#include "client/protocol/tls_keys.h"

#include <array>
#include <memory>
#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <string>
#include <vector>

namespace nbd {

namespace {

struct FreeKdf {
    void operator()(EVP_KDF* kdf) const { EVP_KDF_free(kdf); }
    void operator()(EVP_KDF_CTX* context) const { EVP_KDF_CTX_free(context); }
};

constexpr std::size_t iv_length = 12;
constexpr std::size_t implicit_iv_length = 4;  // RFC 5288, section 3

const char* name_of(Digest digest) {
    return digest == Digest::sha256 ? "SHA256" : "SHA384";
}

OSSL_PARAM octets(const char* name, std::span<const unsigned char> bytes) {
    return OSSL_PARAM_construct_octet_string(name, const_cast<unsigned char*>(bytes.data()),
                                             bytes.size());
}

OSSL_PARAM digest_name(Digest digest) {
    return OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST,
                                            const_cast<char*>(name_of(digest)), 0);
}

Result<Secret> derive(const char* algorithm, const OSSL_PARAM* parameters, std::size_t length) {
    const std::unique_ptr<EVP_KDF, FreeKdf> kdf(EVP_KDF_fetch(nullptr, algorithm, nullptr));
    const std::unique_ptr<EVP_KDF_CTX, FreeKdf> context(kdf ? EVP_KDF_CTX_new(kdf.get()) : nullptr);
    Secret derived(length);
    if (!context || EVP_KDF_derive(context.get(), derived.data(), length, parameters) != 1)
        return Error{Kind::internal,
                     "cannot derive keys: OpenSSL refuses " + std::string(algorithm)};
    return derived;
}

Secret part(const Secret& whole, std::size_t& at, std::size_t length) {
    const std::size_t begin = at;
    at += length;
    return Secret(whole.bytes().subspan(begin, length));
}

bool is_aes(TlsCipher cipher) {
    return cipher != TlsCipher::chacha20_poly1305;
}

}  // namespace

std::size_t key_length(TlsCipher cipher) {
    return cipher == TlsCipher::aes_128_gcm ? 16 : 32;
}

Result<Secret> expand_label(Digest digest, std::span<const unsigned char> secret,
                            std::string_view label, std::span<const unsigned char> context,
                            std::size_t length) {
    const std::string full_label = "tls13 " + std::string(label);
    std::vector<unsigned char> info;
    info.push_back(static_cast<unsigned char>(length >> 8));
    info.push_back(static_cast<unsigned char>(length & 0xff));
    info.push_back(static_cast<unsigned char>(full_label.size()));
    info.insert(info.end(), full_label.begin(), full_label.end());
    info.push_back(static_cast<unsigned char>(context.size()));
    info.insert(info.end(), context.begin(), context.end());
    int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
    const std::array parameters = {OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
                                   digest_name(digest), octets(OSSL_KDF_PARAM_KEY, secret),
                                   octets(OSSL_KDF_PARAM_INFO, info), OSSL_PARAM_construct_end()};
    return derive("HKDF", parameters.data(), length);
}

Result<RecordKeys> keys_from_traffic_secret(TlsCipher cipher,
                                            std::span<const unsigned char> secret) {
    const Digest digest = cipher == TlsCipher::aes_256_gcm ? Digest::sha384 : Digest::sha256;
    RecordKeys keys;
    keys.key = TRY(expand_label(digest, secret, "key", {}, key_length(cipher)));
    keys.iv = TRY(expand_label(digest, secret, "iv", {}, iv_length));
    return keys;
}

Result<ConnectionKeys> keys_from_master_secret(TlsCipher cipher, Digest digest,
                                               std::span<const unsigned char> master_secret,
                                               std::span<const unsigned char> client_random,
                                               std::span<const unsigned char> server_random) {
    constexpr std::string_view label = "key expansion";
    std::vector<unsigned char> seed(label.begin(), label.end());
    seed.insert(seed.end(), server_random.begin(), server_random.end());
    seed.insert(seed.end(), client_random.begin(), client_random.end());
    const std::array parameters = {digest_name(digest),
                                   octets(OSSL_KDF_PARAM_SECRET, master_secret),
                                   octets(OSSL_KDF_PARAM_SEED, seed), OSSL_PARAM_construct_end()};
    const std::size_t key = key_length(cipher);
    const std::size_t iv = is_aes(cipher) ? implicit_iv_length : iv_length;
    const Secret block = TRY(derive("TLS1-PRF", parameters.data(), 2 * (key + iv)));
    ConnectionKeys keys;
    keys.suite = {TlsVersion::tls12, cipher};
    std::size_t at = 0;
    keys.send.key = part(block, at, key);
    keys.receive.key = part(block, at, key);
    keys.send.iv = part(block, at, iv);
    keys.receive.iv = part(block, at, iv);
    return keys;
}

}  // namespace nbd
