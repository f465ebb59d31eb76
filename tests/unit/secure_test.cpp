// SPDX-License-Identifier: MIT
// What a request's words mean for its TLS, and which of them would leave something unchecked.
#include "client/secure.h"

#include "tests/unit/temporary_directory.h"
#include "tests/unit/tls_server.h"

#include <gtest/gtest.h>

namespace nbd {
namespace {

using namespace std::chrono_literals;

AttachRequest request_for(const std::string& uri) {
    return {.target = *parse_uri(uri)};
}

Result<TlsPolicy> policy_of(const AttachRequest& request) {
    return tls_policy(request, request.target, {});
}

TEST(TlsPolicyOf, TakesTheUrisWords) {
    const auto policy = policy_of(
        request_for("nbds://alice@store.example./disk?tls-type=psk&tls-psk-file=/etc/keys.psk"));
    ASSERT_TRUE(policy) << policy.error().what;
    EXPECT_EQ(policy->type, TlsType::psk);
    EXPECT_EQ(policy->hostname, "store.example");
    EXPECT_EQ(policy->username, "alice");
    EXPECT_EQ(policy->psk, "/etc/keys.psk");
    EXPECT_TRUE(policy->verify);
    EXPECT_EQ(policy_of(request_for("nbds://[fe80::1%25eth0]/"))->hostname, "fe80::1");
    EXPECT_EQ(policy_of(request_for("nbds://store/?tls-hostname=other"))->hostname, "other");
}

TEST(TlsPolicyOf, OptionsOverrideTheUri) {
    AttachRequest request =
        request_for("nbds://alice@store/?tls-hostname=one&tls-psk-file=/uri.psk");
    request.tls_hostname = "two";
    request.tls_psk = "/option.psk";
    request.tls_username = "bob";
    const auto policy = policy_of(request);
    ASSERT_TRUE(policy);
    EXPECT_EQ(policy->hostname, "two");
    EXPECT_EQ(policy->psk, "/option.psk");
    EXPECT_EQ(policy->username, "bob");
}

TEST(TlsPolicyOf, ADirectoryOfCertificates) {
    const TemporaryDirectory directory;
    const std::string uri = "nbds://store/?tls-certificates=" + directory.path();
    const auto without = policy_of(request_for(uri));
    ASSERT_TRUE(without);
    EXPECT_EQ(without->ca, directory.path() + "/ca-cert.pem");
    EXPECT_EQ(without->certificate, "");
    directory.write("client-cert.pem", "certificate");
    const auto with = policy_of(request_for(uri));
    ASSERT_TRUE(with);
    EXPECT_EQ(with->certificate, directory.path() + "/client-cert.pem");
    EXPECT_EQ(with->key, directory.path() + "/client-key.pem");
}

TEST(TlsPolicyOf, NothingStaysUncheckedUnlessTheUserSaysSo) {
    const struct {
        const char* uri;
        const char* cause;
    } cases[] = {
        {"nbds://store/?tls-verify-peer=0", "tls-verify-peer=0 would trust anybody"},
        {"nbds://store/?tls-type=anon", "anonymous TLS does not tell who the server is"},
        {"nbds://store/?tls-type=psk", "there is no file of shared keys"},
        {"nbds+unix:///?socket=/run/nbd.sock", "a unix socket has no host name to check"},
    };
    for (const auto& c : cases) {
        const auto policy = policy_of(request_for(c.uri));
        ASSERT_FALSE(policy) << c.uri;
        EXPECT_EQ(policy.error().kind, Kind::insecure);
        EXPECT_TRUE(policy.error().what.starts_with("cannot protect nbds"));
        EXPECT_NE(policy.error().what.find(c.cause), std::string::npos) << policy.error().what;
        EXPECT_NE(policy.error().hint, "");
    }
    AttachRequest insecure = request_for("nbds://store/?tls-verify-peer=0");
    insecure.tls_insecure = true;
    ASSERT_TRUE(policy_of(insecure));
    EXPECT_FALSE(policy_of(insecure)->verify);
    AttachRequest keyless = request_for("nbds://store/");
    keyless.tls_cert = "cert.pem";
    EXPECT_NE(policy_of(keyless).error().hint.find("--tls-key"), std::string::npos);
}

const char* const here = "nbds://store/";
const char* const local = "nbds+unix:///?socket=/s&tls-hostname=a";

Result<Offload> chosen(const char* uri, TlsOffload wish, bool essential, bool carried = true) {
    AttachRequest request = request_for(uri);
    request.tls_offload = wish;
    request.essential = essential;
    return choose_offload(request, request.target,
                          carried ? every_suite() : std::vector<TlsSuite>{});
}

TEST(OffloadChoice, TheKernelWhereItCan) {
    for (const TlsOffload wish : {TlsOffload::automatic, TlsOffload::require})
        for (const bool essential : {false, true}) {
            const auto offload = chosen(here, wish, essential);
            ASSERT_TRUE(offload);
            EXPECT_FALSE(offload->relay);
            EXPECT_EQ(offload->sentence, "");
        }
}

TEST(OffloadChoice, ARelayWhereTheKernelCannot) {
    const auto lacking = chosen(here, TlsOffload::automatic, false, false);
    ASSERT_TRUE(lacking);
    EXPECT_TRUE(lacking->relay);
    EXPECT_EQ(lacking->level, Level::warning) << "the user can do something about it";
    EXPECT_NE(lacking->sentence.find("no TLS for any of the ciphers"), std::string::npos);
    EXPECT_NE(lacking->sentence.find("modprobe tls"), std::string::npos);
    const auto by_path = chosen(local, TlsOffload::automatic, false);
    ASSERT_TRUE(by_path);
    EXPECT_TRUE(by_path->relay);
    EXPECT_EQ(by_path->level, Level::info);
    EXPECT_NE(by_path->sentence.find("only over TCP"), std::string::npos);
}

TEST(OffloadChoice, RequiredIsRequired) {
    for (const bool essential : {false, true}) {
        const auto lacking = chosen(here, TlsOffload::require, essential, false);
        ASSERT_FALSE(lacking);
        EXPECT_EQ(lacking.error().kind, Kind::unsupported);
        EXPECT_NE(lacking.error().what.find("no TLS for any of the ciphers"), std::string::npos);
        ASSERT_FALSE(chosen(local, TlsOffload::require, essential));
    }
}

TEST(OffloadChoice, SwapNeverGoesThroughARelayUnlessSomebodyInsists) {
    const auto refused = chosen(local, TlsOffload::automatic, true);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind, Kind::unsupported);
    EXPECT_NE(refused.error().what.find("wait for memory"), std::string::npos);
    EXPECT_NE(refused.error().hint.find("--tls-offload=never"), std::string::npos);
    ASSERT_FALSE(chosen(here, TlsOffload::automatic, true, false));
    const auto insisted = chosen(here, TlsOffload::never, true);
    ASSERT_TRUE(insisted);
    EXPECT_TRUE(insisted->relay);
    EXPECT_EQ(insisted->level, Level::warning);
    EXPECT_NE(insisted->sentence.find("stops the machine"), std::string::npos);
}

TEST(OffloadChoice, NeverIsNobodysNews) {
    const auto offload = chosen(here, TlsOffload::never, false);
    ASSERT_TRUE(offload);
    EXPECT_TRUE(offload->relay);
    EXPECT_EQ(offload->sentence, "");
}

class SecurityFiles : public testing::Test {
protected:
    SecurityFiles() : authority("authority", "", nullptr, {}, true) {
        directory.write("ca.pem", authority.certificate_text());
        request = request_for("nbds://store/");
        request.tls_ca = directory.path() + "/ca.pem";
    }
    Identity authority;
    TemporaryDirectory directory;
    AttachRequest request;
};

TEST_F(SecurityFiles, AreLoadedOnceAndKept) {
    Security security(request, false);
    EXPECT_EQ(security.context(0), nullptr);
    ASSERT_TRUE(security.load());
    const TlsContext* const first = security.context(0);
    ASSERT_NE(first, nullptr);
    security.refresh(Deadline::in(5s));
    EXPECT_EQ(security.context(0), first) << "nothing has changed";

    std::filesystem::remove(request.tls_ca);
    security.refresh(Deadline::in(5s));
    EXPECT_EQ(security.context(0), first) << "what is gone is not needed";

    directory.write("ca.pem", "half a file");
    security.refresh(Deadline::in(5s));
    EXPECT_EQ(security.context(0), first) << "nor is what makes no sense";
}

TEST_F(SecurityFiles, WhatTheKernelRefusesAfterAllGoesThroughARelay) {
    const Error refused{Kind::unsupported, "cannot give the kernel the keys"};
    Security security(request, false);
    ASSERT_TRUE(security.load());
    EXPECT_FALSE(security.needs_relay(0));
    EXPECT_FALSE(security.relay_instead(0, {Kind::unreachable, "the server has gone"}));
    EXPECT_FALSE(security.needs_relay(0));
    EXPECT_TRUE(security.relay_instead(0, refused));
    EXPECT_TRUE(security.needs_relay(0));
    EXPECT_FALSE(security.relay_instead(0, refused)) << "no relay stands in for a relay";
    for (const bool essential : {true, false}) {
        AttachRequest strict = request;
        strict.essential = essential;
        if (!essential) strict.tls_offload = TlsOffload::require;
        Security other(strict, false);
        ASSERT_TRUE(other.load());
        EXPECT_FALSE(other.relay_instead(0, refused));
        EXPECT_FALSE(other.needs_relay(0));
    }
}

TEST_F(SecurityFiles, AreReadAgainWhenTheyChange) {
    Security security(request, false);
    ASSERT_TRUE(security.load());
    const Identity other("other", "", nullptr, {}, true);
    const Identity store("store", "DNS:store", &other);
    directory.write("ca.pem", other.certificate_text());
    security.refresh(Deadline::in(5s));
    const TlsServer server({.identity = &store});
    const Fd fd = server.connect();
    const auto dialogue =
        Dialogue::open(fd.get(), "store:10809", security.context(0), Deadline::in(5s));
    EXPECT_TRUE(dialogue) << dialogue.error().what;
}

TEST_F(SecurityFiles, EachTargetHasItsOwn) {
    request.alternates = {*parse_uri("nbd://plain/"), *parse_uri("nbds://other/")};
    Security security(request, false);
    ASSERT_TRUE(security.load());
    EXPECT_EQ(security.context(0)->policy().hostname, "store");
    EXPECT_EQ(security.context(1), nullptr);
    EXPECT_EQ(security.context(2)->policy().hostname, "other");
    request.tls_ca += ".absent";
    EXPECT_EQ(Security(request, false).load().error().kind, Kind::insecure);
}

TEST(Security, NeedsNothingWithoutTls) {
    Security security(request_for("nbd://store/"), true);
    EXPECT_TRUE(security.load());
    EXPECT_EQ(security.context(0), nullptr);
}

}  // namespace
}  // namespace nbd
