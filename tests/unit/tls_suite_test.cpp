// SPDX-License-Identifier: MIT
// Names and order of the ciphers, and what a processor's description says.
#include "client/protocol/tls_suite.h"

#include <gtest/gtest.h>

namespace nbd {
namespace {

using enum TlsCipher;

TEST(TlsSuite, NamesReadBack) {
    for (const TlsSuite& suite : all_suites()) {
        const auto parsed = parse_ciphers(to_string(suite.cipher));
        ASSERT_TRUE(parsed);
        EXPECT_EQ(*parsed, std::vector{suite.cipher});
    }
    EXPECT_EQ(to_string(TlsSuite{TlsVersion::tls12, chacha20_poly1305}),
              "TLS 1.2 with chacha20-poly1305");
}

TEST(TlsSuite, AListKeepsItsOrder) {
    const auto parsed = parse_ciphers("chacha20-poly1305, aes-128-gcm");
    ASSERT_TRUE(parsed);
    EXPECT_EQ(*parsed, (std::vector{chacha20_poly1305, aes_128_gcm}));
    EXPECT_EQ(*parse_ciphers("chacha20-poly1305:aes-128-gcm"), *parsed);
    for (const char* text : {"", "aes-128-gcm,", "aes", "aes-128-gcm,aes-128-gcm", "aes-128-cbc"})
        EXPECT_FALSE(parse_ciphers(text)) << text;
    EXPECT_EQ(parse_ciphers("aes-129-gcm").error().hint, "did you mean aes-128-gcm?");
}

TEST(TlsSuite, TheProcessorDecidesWhatComesFirst) {
    const std::string x86 = "processor : 0\nflags\t\t: fpu sse2 pclmulqdq aes avx\n";
    const std::string arm = "processor : 0\nFeatures\t: fp asimd aes pmull\n";
    EXPECT_TRUE(has_aes_instructions(x86));
    EXPECT_TRUE(has_aes_instructions(arm));
    EXPECT_FALSE(has_aes_instructions("flags : fpu vaes aesni\n"));
    EXPECT_FALSE(has_aes_instructions("model name : aes\n"));
    EXPECT_FALSE(has_aes_instructions(""));
    EXPECT_EQ(default_ciphers(true).front(), aes_128_gcm);
    EXPECT_EQ(default_ciphers(false).front(), chacha20_poly1305);
    EXPECT_EQ(default_ciphers(true).size(), 3U);
    EXPECT_EQ(default_ciphers(false).size(), 3U);
}

TEST(TlsSuite, WhatIsOfferedIsCutToWhatCanBeCarried) {
    const std::vector wanted = {chacha20_poly1305, aes_128_gcm};
    EXPECT_EQ(suites_to_offer(wanted, all_suites()),
              (std::vector<TlsSuite>{{TlsVersion::tls13, chacha20_poly1305},
                                     {TlsVersion::tls13, aes_128_gcm},
                                     {TlsVersion::tls12, chacha20_poly1305},
                                     {TlsVersion::tls12, aes_128_gcm}}));
    const std::vector<TlsSuite> carried = {{TlsVersion::tls12, aes_128_gcm},
                                           {TlsVersion::tls13, aes_256_gcm}};
    EXPECT_EQ(suites_to_offer(wanted, carried),
              (std::vector<TlsSuite>{{TlsVersion::tls12, aes_128_gcm}}));
    EXPECT_TRUE(suites_to_offer(wanted, {}).empty());
}

}  // namespace
}  // namespace nbd
