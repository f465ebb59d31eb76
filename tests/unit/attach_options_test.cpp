// SPDX-License-Identifier: MIT
// The one table of attach options: values, limits, options that exclude each other.
#include "client/attach_options.h"

#include "client/base/text.h"

#include <gtest/gtest.h>
#include <set>

namespace nbd {
namespace {

using std::chrono::seconds;

AttachRequest applied(const Settings& settings) {
    AttachRequest request;
    const auto result = apply_settings(request, settings);
    EXPECT_TRUE(result) << result.error().what;
    return request;
}

std::string failure(const Settings& settings) {
    AttachRequest request;
    const auto result = apply_settings(request, settings);
    if (result) return "";
    EXPECT_EQ(result.error().kind, Kind::usage);
    return result.error().what;
}

TEST(AttachOptions, AreNamedOnceAndFitTheHelp) {
    std::set<std::string_view> names;
    std::set<char> letters;
    for (const AttachOption& option : attach_options()) {
        EXPECT_TRUE(names.insert(option.name).second) << option.name;
        EXPECT_TRUE(option.letter == '\0' || letters.insert(option.letter).second) << option.name;
        EXPECT_FALSE(option.help.empty()) << option.name;
        EXPECT_EQ(find_attach_option(option.name), &option);
    }
    EXPECT_EQ(find_attach_option("persist"), nullptr);
}

TEST(AttachOptions, SetTheirMember) {
    const std::string id(1024, 'x');
    const AttachRequest r = applied({{"connections", "4"},
                                     {"block-size", "4K"},
                                     {"size", "1G"},
                                     {"id", id},
                                     {"io-timeout", "30"},
                                     {"reconnect-for", "5m"},
                                     {"reconnect-delay", "10"},
                                     {"connect-timeout", "3s"},
                                     {"connect-for", "forever"},
                                     {"keepalive", "0"},
                                     {"tls", ""},
                                     {"tls-ca", "ca"},
                                     {"tls-cert", "cert"},
                                     {"tls-key", "key"},
                                     {"tls-psk", "psk"},
                                     {"tls-hostname", "name"}});
    EXPECT_EQ(r.connections, 4U);
    EXPECT_EQ(r.block_size, 4096U);
    EXPECT_EQ(r.size, 1024U * 1024 * 1024);
    EXPECT_EQ(r.id, id);
    EXPECT_EQ(r.io_timeout, seconds(30));
    EXPECT_EQ(r.reconnect_for, seconds(300));
    EXPECT_EQ(r.reconnect_delay, seconds(10));
    EXPECT_EQ(r.connect_timeout, seconds(3));
    EXPECT_EQ(r.connect_for, forever);
    EXPECT_EQ(r.keepalive, seconds(0));
    EXPECT_EQ(r.tls_ca + r.tls_cert + r.tls_key + r.tls_psk + r.tls_hostname, "cacertkeypskname");
}

TEST(AttachOptions, FlagsTakeYesAndNo) {
    const std::pair<std::string, bool AttachRequest::*> flags[] = {
        {"read-only", &AttachRequest::read_only},
        {"no-netlink", &AttachRequest::no_netlink},
        {"no-optgo", &AttachRequest::no_optgo},
        {"tls-insecure", &AttachRequest::tls_insecure},
        {"essential", &AttachRequest::essential},
        {"mark", &AttachRequest::mark},
        {"foreground", &AttachRequest::foreground},
        {"idempotent", &AttachRequest::idempotent},
        {"auto-resize", &AttachRequest::auto_resize},
        {"dry-run", &AttachRequest::dry_run}};
    for (const auto& [name, member] : flags) {
        EXPECT_FALSE(applied({}).*member) << name;
        for (const char* yes : {"", "yes", "true"})
            EXPECT_TRUE(applied({{name, yes}}).*member) << name << yes;
        for (const char* no : {"no", "false"})
            EXPECT_FALSE(applied({{name, ""}, {name, no}}).*member) << name << no;
        EXPECT_EQ(failure({{name, "maybe"}}),
                  "cannot use option " + name + " \"maybe\": it is yes or no");
    }
    EXPECT_TRUE(applied({}).settle);
    EXPECT_FALSE(applied({{"no-settle", ""}}).settle);
    EXPECT_TRUE(applied({{"no-settle", "no"}}).settle);
    EXPECT_TRUE(applied({{"preinit", ""}, {"size", "512"}}).preinit);
}

TEST(AttachOptions, TheLastOneWinsAndAlternatesAddUp) {
    EXPECT_EQ(applied({{"connections", "4"}, {"connections", "2"}}).connections, 2U);
    EXPECT_EQ(applied({{"connections", "4"}, {"connections", "auto"}}).connections, std::nullopt);
    const auto two = applied({{"alternate", "nbd://b/x"}, {"alternate", "nbd://c/x"}}).alternates;
    ASSERT_EQ(two.size(), 2U);
    EXPECT_EQ(to_uri(two[0]), "nbd://b/x");
    EXPECT_EQ(to_uri(two[1]), "nbd://c/x");
}

TEST(AttachOptions, CiphersAndOffloadAreWords) {
    const auto r = applied(
        {{"tls", ""}, {"tls-ciphers", "aes-256-gcm,aes-128-gcm"}, {"tls-offload", "require"}});
    EXPECT_EQ(r.tls_ciphers, (std::vector{TlsCipher::aes_256_gcm, TlsCipher::aes_128_gcm}));
    EXPECT_EQ(r.tls_offload, TlsOffload::require);
    EXPECT_EQ(applied({{"tls-offload", "never"}}).tls_offload, TlsOffload::never);
    EXPECT_EQ(applied({{"tls-offload", "auto"}}).tls_offload, TlsOffload::automatic);
    EXPECT_EQ(failure({{"tls-offload", "perhaps"}}),
              "cannot use option tls-offload \"perhaps\": it is auto, require or never");
    EXPECT_EQ(failure({{"tls-ciphers", "des"}}),
              "cannot use option tls-ciphers \"des\": there is no cipher \"des\"");
}

TEST(AttachOptions, TlsEngagesTheTarget) {
    EXPECT_FALSE(applied({}).target.tls);
    EXPECT_TRUE(applied({{"tls", ""}}).target.tls);
    EXPECT_FALSE(applied({{"tls", "no"}}).target.tls);
    EXPECT_EQ(failure({{"tls", ""}, {"tls", "no"}}),
              "cannot use option tls \"no\": the URI asks for TLS");
}

TEST(AttachOptions, BadValuesAreNamed) {
    const std::string block = ": not a power of two of 512 bytes or more";
    const std::string count = ": not a number from 1 to 1024 nor auto";
    const std::pair<Setting, std::string> cases[] = {
        {{"block-size", "1000"}, block},
        {{"block-size", "256"}, block},
        {{"block-size", "0"}, block},
        {{"block-size", "junk"}, block},
        {{"connections", "0"}, count},
        {{"connections", "-1"}, count},
        {{"connections", "1025"}, count},
        {{"connections", "many"}, count},
        {{"size", "0"}, ": not a size in bytes"},
        {{"size", "10X"}, ": not a size in bytes"},
        {{"io-timeout", "soon"}, ": not a duration"},
        {{"io-timeout", "forever"}, ": it has to end"},
        {{"keepalive", "forever"}, ": it has to end"},
        {{"keepalive", "10h"}, ": longer than 9h6m7s"},
        {{"connect-timeout", "0"}, ": shorter than 1s"},
        {{"reconnect-delay", "0"}, ": shorter than 1s"},
        {{"reconnect-for", "-1"}, ": not a duration"},
        {{"id", "a\nb"}, ": it has control characters"},
        {{"id", std::string(1025, 'x')}, ": longer than 1024 bytes"},
    };
    for (const auto& [setting, cause] : cases)
        EXPECT_EQ(failure({setting}),
                  "cannot use option " + setting.name + ' ' + nbd::quoted(setting.value) + cause);
    for (const char* text :
         {"id", "tls-ca", "tls-cert", "tls-key", "tls-psk", "tls-hostname", "tls-username"})
        EXPECT_EQ(failure({{text, ""}}),
                  "cannot use option " + std::string(text) + ": its value is missing");
    EXPECT_NE(failure({{"alternate", "store"}}), "");
    EXPECT_NE(failure({{"tls", ""}, {"alternate", "nbd://b/x"}}).find("protected by TLS"),
              std::string::npos);
    EXPECT_NE(failure({{"alternate", "nbds://b/x"}}).find("protected by TLS"), std::string::npos);
}

TEST(AttachOptions, UnknownNamesGetTheNearest) {
    AttachRequest request;
    const auto result = apply_setting(request, {"conections", "4"});
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().what, "cannot understand option \"conections\": no such option");
    EXPECT_EQ(result.error().hint, "did you mean connections?");
    EXPECT_EQ(apply_setting(request, {"zzzzzz", ""}).error().hint, "");
}

TEST(AttachOptions, AreCheckedTogether) {
    EXPECT_EQ(failure({{"size", "5000"}, {"block-size", "4096"}}),
              "cannot use size 5000: not a multiple of the block size 4096");
    EXPECT_EQ(failure({{"size", "1000"}}),
              "cannot use size 1000: not a multiple of the block size 512");
    EXPECT_EQ(applied({{"size", "8192"}, {"block-size", "4096"}}).size, 8192U);
    EXPECT_EQ(failure({{"tls-ca", "f"}}),
              "cannot use TLS options with a server that is not asked for TLS");
    EXPECT_NE(failure({{"tls-hostname", "n"}}), "");
    EXPECT_EQ(failure({{"tls-insecure", ""}}), "");
    EXPECT_NE(failure({{"preinit", ""}}), "");
    EXPECT_NE(failure({{"preinit", ""}, {"size", "512"}, {"tls", ""}}), "");
    EXPECT_NE(failure({{"id", "x"}, {"no-netlink", ""}}), "");
}

TEST(AttachOptions, ReferenceWordsMeanMore) {
    const auto complete = [](Settings settings, bool persist, std::string_view dead_timeout) {
        complete_reference_settings(settings, persist, dead_timeout);
        return settings;
    };
    EXPECT_EQ(complete({}, false, ""), Settings());
    EXPECT_EQ(complete({}, true, "0"), Settings({{"reconnect-for", "forever"}}));
    EXPECT_EQ(complete({}, true, "9"), Settings({{"reconnect-for", "9"}}));
    EXPECT_EQ(complete({{"reconnect-for", "5m"}}, true, ""), Settings({{"reconnect-for", "5m"}}));
    EXPECT_EQ(complete({{"tls-key", "k"}}, false, ""),
              Settings({{"tls-key", "k"}, {"tls-cert", "k"}, {"tls", ""}}));
}

}  // namespace
}  // namespace nbd
