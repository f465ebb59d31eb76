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

TEST(Offload, WhereTheKernelCannot) {
    AttachRequest request = request_for("nbds://store/");
    const std::vector<TlsSuite> all = every_suite();
    EXPECT_TRUE(check_offload(request, request.target, all));
    const auto failure = [&](const AttachRequest& wanted, const std::vector<TlsSuite>& carried) {
        const auto checked = check_offload(wanted, wanted.target, carried);
        EXPECT_EQ(checked.error().kind, Kind::unsupported);
        return checked.error().what;
    };
    EXPECT_NE(failure(request, {}).find("it has no TLS for any of the ciphers"), std::string::npos);
    const AttachRequest local = request_for("nbds+unix:///?socket=/s&tls-hostname=a");
    EXPECT_NE(failure(local, all).find("only over TCP"), std::string::npos);
    request.tls_offload = TlsOffload::never;
    EXPECT_NE(failure(request, all).find("--tls-offload=never"), std::string::npos);
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
