// SPDX-License-Identifier: MIT
// The key schedule against published vectors.
#include "client/protocol/tls_keys.h"

#include <gtest/gtest.h>
#include <openssl/crypto.h>
#include <string>

namespace nbd {
namespace {

Secret from_hex(const std::string& text) {
    long size = 0;
    unsigned char* const bytes = OPENSSL_hexstr2buf(text.c_str(), &size);
    EXPECT_NE(bytes, nullptr);
    Secret secret(std::span<const unsigned char>(bytes, static_cast<std::size_t>(size)));
    OPENSSL_free(bytes);
    return secret;
}

void expect_bytes(const Secret& actual, const std::string& hex) {
    EXPECT_EQ(actual.text(), from_hex(hex).text());
}

// RFC 8448, section 3: a simple 1-RTT handshake with TLS_AES_128_GCM_SHA256.
constexpr const char* client_secret =
    "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
constexpr const char* server_secret =
    "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";

TEST(TlsKeys, Rfc8448ApplicationTraffic) {
    const auto client =
        keys_from_traffic_secret(TlsCipher::aes_128_gcm, from_hex(client_secret).bytes());
    ASSERT_TRUE(client);
    expect_bytes(client->key, "17422dda596ed5d9acd890e3c63f5051");
    expect_bytes(client->iv, "5b78923dee08579033e523d9");
    const auto server =
        keys_from_traffic_secret(TlsCipher::aes_128_gcm, from_hex(server_secret).bytes());
    ASSERT_TRUE(server);
    expect_bytes(server->key, "9f02283b6c9c07efc26bb9f2ac92e356");
    expect_bytes(server->iv, "cf782b88dd83549aadf1e984");
}

TEST(TlsKeys, Rfc8448DerivedSecrets) {
    // "derived" from the early secret, whose context is the hash of nothing.
    const Secret early =
        from_hex("33ad0a1c607ec03b09e6cd9893680ce210adf300aa1f2660e1b22e10f170f92a");
    const Secret nothing =
        from_hex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    const auto derived =
        expand_label(Digest::sha256, early.bytes(), "derived", nothing.bytes(), 32);
    ASSERT_TRUE(derived);
    expect_bytes(*derived, "6f2615a108c702c5678f54fc9dbab69716c076189c48250cebeac3576c3611ba");
}

TEST(TlsKeys, LengthsFollowTheCipher) {
    const Secret secret(48);
    for (const auto& [cipher, length] :
         {std::pair{TlsCipher::aes_128_gcm, 16U}, std::pair{TlsCipher::aes_256_gcm, 32U},
          std::pair{TlsCipher::chacha20_poly1305, 32U}}) {
        const auto newer = keys_from_traffic_secret(cipher, secret.bytes());
        ASSERT_TRUE(newer);
        EXPECT_EQ(newer->key.size(), length);
        EXPECT_EQ(newer->iv.size(), 12U);
        const auto older = keys_from_master_secret(cipher, Digest::sha256, secret.bytes(),
                                                   secret.bytes(), secret.bytes());
        ASSERT_TRUE(older);
        EXPECT_EQ(older->send.key.size(), length);
        EXPECT_EQ(older->receive.key.size(), length);
        EXPECT_EQ(older->send.iv.size(), cipher == TlsCipher::chacha20_poly1305 ? 12U : 4U);
        EXPECT_NE(older->send.key.text(), older->receive.key.text());
        EXPECT_NE(older->send.iv.text(), older->receive.iv.text());
    }
}

}  // namespace
}  // namespace nbd
