// SPDX-License-Identifier: MIT
// What alerts and certificates are in words; whole handshakes are in tls_test.
#include "client/protocol/tls_words.h"

#include "tests/unit/tls_server.h"

#include <gtest/gtest.h>

namespace nbd {
namespace {

TEST(TlsWords, ACertificateTellsNamesAndDates) {
    const Identity authority("the \x1b[1m authority", "", nullptr, {}, true);
    const Identity store("store", "DNS:a,DNS:b,IP:::1,DNS:c,DNS:d,DNS:e,DNS:f", &authority);
    const RefusedCertificate words = describe_certificate(store.certificate());
    EXPECT_EQ(words.subject, "CN=store");
    EXPECT_EQ(words.issuer.find('\x1b'), std::string::npos) << words.issuer;
    EXPECT_EQ(words.names, (std::vector<std::string>{"a", "b", "::1", "c", "d", "…"}));
    EXPECT_EQ(words.not_after.size(), std::string("2026-01-31T08:15:00Z").size());
    EXPECT_LT(words.not_before, words.not_after);
    EXPECT_EQ(describe_certificate(nullptr).subject, "");
    const Identity nameless("only common", "");
    EXPECT_EQ(describe_certificate(nameless.certificate()).names,
              std::vector<std::string>{"only common"});
}

std::string words_for(int alert, bool certificate_wanted, const TlsPolicy& policy = {}) {
    const Error error =
        explain_tls_failure({.alert = alert, .certificate_wanted = certificate_wanted}, policy);
    EXPECT_EQ(error.kind, Kind::insecure);
    EXPECT_NE(error.hint, "");
    return error.what;
}

TEST(Alerts, HaveMeanings) {
    const std::string wants = "the server wants a certificate of ours and got none";
    const std::string rejects = "the server does not accept our certificate";
    EXPECT_EQ(words_for(SSL_AD_CERTIFICATE_REQUIRED, true),
              wants + " (alert \"certificate required\")");
    EXPECT_TRUE(words_for(SSL_AD_HANDSHAKE_FAILURE, true).starts_with(wants));
    EXPECT_TRUE(words_for(SSL_AD_HANDSHAKE_FAILURE, false)
                    .starts_with("the server knows none of the ciphers offered"));
    for (const int alert : {SSL_AD_BAD_CERTIFICATE, SSL_AD_CERTIFICATE_REVOKED,
                            SSL_AD_CERTIFICATE_EXPIRED, SSL_AD_UNKNOWN_CA, SSL_AD_ACCESS_DENIED})
        EXPECT_TRUE(words_for(alert, false).starts_with(rejects)) << alert;
    EXPECT_TRUE(words_for(SSL_AD_PROTOCOL_VERSION, false)
                    .starts_with("the server knows neither TLS 1.2 nor 1.3"));
    EXPECT_EQ(words_for(SSL_AD_INTERNAL_ERROR, false),
              "the server ends TLS (alert \"internal error\")");
    EXPECT_TRUE(
        words_for(SSL_AD_UNKNOWN_PSK_IDENTITY, false, {.type = TlsType::psk, .psk = "keys.psk"})
            .starts_with("the server does not take our shared key"));
}

TEST(Alerts, WithoutOneOpensslSpeaks) {
    EXPECT_EQ(words_for(-1, false), "the handshake fails");
}

}  // namespace
}  // namespace nbd
