// SPDX-License-Identifier: MIT
// Files of authorities, certificates and shared keys: what is read, refused, and never told.
#include "client/protocol/tls_credentials.h"

#include "tests/unit/temporary_directory.h"

#include <gtest/gtest.h>

namespace nbd {
namespace {

TEST(SharedKeys, OneOfSeveralIsFoundByItsName) {
    const std::string file = "# made by psktool\n\nalice:00ff\n  bob:A1b2c3 \r\nod:d:07\n";
    const auto bob = find_shared_key(file, "bob");
    ASSERT_TRUE(bob) << bob.error().what;
    EXPECT_EQ(bob->username, "bob");
    EXPECT_EQ(bob->key.text(), "\xa1\xb2\xc3");
    EXPECT_EQ(find_shared_key(file, "alice")->key.text(), std::string("\0\xff", 2));
    EXPECT_EQ(find_shared_key(file, "od:d")->key.text(), "\x07");
}

TEST(SharedKeys, TheOnlyOneNeedsNoName) {
    const auto only = find_shared_key("alice:0102", "");
    ASSERT_TRUE(only);
    EXPECT_EQ(only->username, "alice");
    const auto several = find_shared_key("alice:01\nbob:02\n", "");
    ASSERT_FALSE(several);
    EXPECT_EQ(several.error().what, "it has the keys of 2 users");
    EXPECT_NE(several.error().hint.find("--tls-username"), std::string::npos);
}

TEST(SharedKeys, WhatIsWrongIsSaidWithoutTheKey) {
    const std::string longest(512, 'a');
    EXPECT_TRUE(find_shared_key("alice:" + longest, ""));
    const struct {
        std::string file;
        std::string what;
    } cases[] = {
        {"", "it has no keys"},
        {"# nothing\n", "it has no keys"},
        {"alice", "line 1 is not of the form username:hexkey"},
        {":0102", "line 1 is not of the form username:hexkey"},
        {"\nalice:", "line 2: the key is not a hexadecimal number of at most 256 bytes"},
        {"alice:5ecre7", "line 1: the key is not a hexadecimal number of at most 256 bytes"},
        {"alice:123", "line 1: the key is not a hexadecimal number of at most 256 bytes"},
        {"alice:" + longest + "aa",
         "line 1: the key is not a hexadecimal number of at most 256 bytes"},
        {std::string(129, 'a') + ":00", "line 1: the user name is too long"},
    };
    for (const auto& c : cases) {
        const auto key = find_shared_key(c.file, "");
        ASSERT_FALSE(key) << c.file;
        EXPECT_EQ(key.error().kind, Kind::insecure);
        EXPECT_EQ(key.error().what, c.what);
        EXPECT_EQ((key.error().what + key.error().hint).find("5ecre7"), std::string::npos);
    }
    EXPECT_EQ(find_shared_key("alice:01", "al\x1b[1m").error().what,
              "it has no key of user \"al\\x1b[1m\"");
}

TEST(TlsFiles, AreReadOrNamed) {
    const TemporaryDirectory directory;
    directory.write("ca.pem", "authority");
    directory.write("key.pem", "key");
    directory.write("empty.pem", "\n");
    TlsPolicy policy;
    policy.ca = directory.path() + "/ca.pem";
    policy.key = directory.path() + "/key.pem";
    auto texts = read_tls_files(policy);
    ASSERT_TRUE(texts) << texts.error().what;
    EXPECT_EQ(texts->ca.text(), "authority");
    EXPECT_EQ(texts->key.text(), "key");
    EXPECT_TRUE(texts->certificate.empty());

    const std::size_t before = fingerprint(*texts);
    EXPECT_EQ(fingerprint(*read_tls_files(policy)), before);
    directory.write("key.pem", std::string(200'000, 'k'));
    texts = read_tls_files(policy);
    ASSERT_TRUE(texts);
    EXPECT_EQ(texts->key.text(), std::string(200'000, 'k'));
    EXPECT_NE(fingerprint(*texts), before);

    policy.certificate = directory.path() + "/absent.pem";
    const auto absent = read_tls_files(policy);
    ASSERT_FALSE(absent);
    EXPECT_EQ(absent.error().kind, Kind::insecure);
    EXPECT_EQ(absent.error().what, "cannot load our certificate from " + policy.certificate +
                                       ": no such file or directory");
    policy.certificate = directory.path() + "/empty.pem";
    EXPECT_EQ(read_tls_files(policy).error().what,
              "cannot load our certificate from " + policy.certificate + ": it is empty");
}

TEST(TlsFiles, TheSystemsAuthoritiesOnlyWhereOneIsChecked) {
    TlsPolicy policy;
    policy.verify = false;
    const auto unchecked = read_tls_files(policy);
    ASSERT_TRUE(unchecked);
    EXPECT_TRUE(unchecked->ca.empty());
    policy.verify = true;
    const auto checked = read_tls_files(policy);
    if (!checked)
        EXPECT_NE(checked.error().hint.find("ca-certificates"), std::string::npos);
    else
        EXPECT_FALSE(checked->ca.empty());
}

}  // namespace
}  // namespace nbd
