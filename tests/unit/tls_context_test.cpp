// SPDX-License-Identifier: MIT
// Which files and ciphers make a context, and what is said of those that do not.
#include "client/protocol/tls_context.h"

#include "tests/unit/tls_server.h"

#include <gtest/gtest.h>

namespace nbd {
namespace {

TlsPolicy policy_with_files() {
    return {.ca = "ca.pem",
            .certificate = "cert.pem",
            .key = "key.pem",
            .psk = "keys.psk",
            .suites = every_suite()};
}

std::string failure(TlsPolicy policy, const TlsTexts& texts) {
    const auto made = TlsContext::make(std::move(policy), texts);
    if (made) return "";
    EXPECT_EQ(made.error().kind, Kind::insecure);
    return made.error().what;
}

TEST(TlsContext, TakesWhatIsSound) {
    const Identity authority("authority", "", nullptr, {}, true);
    const Identity own("us", "DNS:us", &authority);
    TlsTexts texts;
    texts.ca = Secret(authority.certificate_text() + authority.certificate_text());
    texts.certificate = Secret(own.certificate_text() + authority.certificate_text());
    texts.key = Secret(own.key_text());
    EXPECT_EQ(failure(policy_with_files(), texts), "");
}

TEST(TlsContext, NamesTheFileItCannotUse) {
    const Identity one("one", "");
    const Identity other("other", "");
    const auto has = [](const std::string& text, const std::string& part) {
        return text.find(part) != std::string::npos;
    };
    TlsTexts nonsense;
    nonsense.ca = Secret(std::string("nonsense"));
    EXPECT_TRUE(has(failure(policy_with_files(), nonsense),
                    "cannot use the authorities in ca.pem: it has no certificates"));

    TlsTexts no_certificate;
    no_certificate.certificate = Secret(one.key_text());
    EXPECT_TRUE(has(failure(policy_with_files(), no_certificate),
                    "cannot use our certificate in cert.pem: "));

    TlsTexts mismatch;
    mismatch.certificate = Secret(one.certificate_text());
    mismatch.key = Secret(other.key_text());
    EXPECT_TRUE(
        has(failure(policy_with_files(), mismatch), "cannot use our private key in key.pem: "));

    TlsPolicy shared = policy_with_files();
    shared.type = TlsType::psk;
    TlsTexts keys;
    keys.psk = Secret(std::string("alice:xyz"));
    EXPECT_TRUE(has(failure(shared, keys), "cannot use the shared keys in keys.psk: line 1: "));
}

TEST(TlsContext, NeedsACipher) {
    TlsPolicy policy;
    EXPECT_EQ(failure(policy, {}), "cannot set up TLS: no cipher is left to offer");
    for (const TlsSuite& suite : all_suites()) {
        policy.suites = {suite};
        EXPECT_EQ(failure(policy, {}), "") << to_string(suite);
    }
    // Shared keys under TLS 1.3 go with SHA-256.
    policy.type = TlsType::psk;
    policy.suites = {{TlsVersion::tls13, TlsCipher::aes_256_gcm}};
    TlsTexts keys;
    keys.psk = Secret(std::string("alice:00"));
    EXPECT_NE(failure(policy, keys), "");
}

}  // namespace
}  // namespace nbd
