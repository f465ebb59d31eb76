// SPDX-License-Identifier: MIT
// NBD URIs: what they mean, how they are printed, and what near misses are answered.
#include "client/protocol/uri.h"

#include <array>
#include <gtest/gtest.h>

namespace nbd {
namespace {

std::string operator""_b(const char* text, std::size_t length) {
    return {text, length};
}

Target tcp(std::string host, std::string port, std::string name) {
    return {TcpEndpoint{std::move(host), std::move(port)}, std::move(name)};
}

Target local(std::string path, std::string name) {
    return {UnixEndpoint{std::move(path)}, std::move(name)};
}

Target with_tls(Target target, TlsWish wish = {}) {
    target.tls = std::move(wish);
    return target;
}

TEST(ParseUri, understands_the_protocol_document) {
    struct Case {
        std::string_view uri;
        Target target;
        std::string_view canonical;
    };
    const std::array cases = {
        Case{"nbd://example.com/disk", tcp("example.com", "10809", "disk"),
             "nbd://example.com/disk"},
        Case{"nbd://example.com", tcp("example.com", "10809", ""), "nbd://example.com/"},
        Case{"nbd://example.com/", tcp("example.com", "10809", ""), "nbd://example.com/"},
        Case{"nbd://example.com?", tcp("example.com", "10809", ""), "nbd://example.com/"},
        Case{"nbd://example.com//disk", tcp("example.com", "10809", "/disk"),
             "nbd://example.com//disk"},
        Case{"nbd://example.com/hello%20world", tcp("example.com", "10809", "hello world"),
             "nbd://example.com/hello%20world"},
        Case{"NBD://example.com:010809/a", tcp("example.com", "10809", "a"), "nbd://example.com/a"},
        Case{"nbd://example.com:/a", tcp("example.com", "10809", "a"), "nbd://example.com/a"},
        Case{"nbd://10.0.0.1:65535/", tcp("10.0.0.1", "65535", ""), "nbd://10.0.0.1:65535/"},
        Case{"nbd://store:nbd-alt/", tcp("store", "nbd-alt", ""), "nbd://store:nbd-alt/"},
        Case{"nbd://[::1]/x", tcp("::1", "10809", "x"), "nbd://[::1]/x"},
        Case{"nbd://[::1]:1/x", tcp("::1", "1", "x"), "nbd://[::1]:1/x"},
        Case{"nbd://[fe80::1%25eth0]/", tcp("fe80::1%eth0", "10809", ""),
             "nbd://[fe80::1%25eth0]/"},
        Case{"nbd://h/%e2%9c%93%3F%23%26", tcp("h", "10809", "\xe2\x9c\x93?#&"),
             "nbd://h/%E2%9C%93%3F%23%26"},
        Case{"nbd://h/a?x-colour=red&x-", tcp("h", "10809", "a"), "nbd://h/a"},
        Case{"nbd+unix:///disk?socket=sock", local("sock", "disk"), "nbd+unix:///disk?socket=sock"},
        Case{"nbd+unix:///?socket=/run/a%20b", local("/run/a b", ""),
             "nbd+unix:///?socket=/run/a%20b"},
        Case{"nbd+unix://?socket=/s", local("/s", ""), "nbd+unix:///?socket=/s"},
        Case{"nbd+unix:////x?socket=/a%3Db", local("/a=b", "/x"), "nbd+unix:////x?socket=/a%3Db"},
        Case{"nbd+unix:///?socket=%00/abstract", local("\0/abstract"_b, ""),
             "nbd+unix:///?socket=%00/abstract"},
        Case{"nbds://h/a", with_tls(tcp("h", "10809", "a")), "nbds://h/a"},
        Case{"nbds+unix://alice@/?socket=s&tls-certificates=certs",
             with_tls(local("s", ""), {TlsType::x509, "", true, "alice", "certs", ""}),
             "nbds+unix:///?socket=s"},
        Case{"nbds://al%40ice@h/?tls-type=psk&tls-psk-file=/k&tls-verify-peer=0",
             with_tls(tcp("h", "10809", ""), {TlsType::psk, "", false, "al@ice", "", "/k"}),
             "nbds://h/?tls-type=psk&tls-verify-peer=0"},
        Case{"nbds://h/?tls-psk-file=/k",
             with_tls(tcp("h", "10809", ""), {TlsType::psk, "", true, "", "", "/k"}),
             "nbds://h/?tls-type=psk"},
        Case{"nbds://h/?tls-hostname=store&tls-type=anon&tls-verify-peer=1",
             with_tls(tcp("h", "10809", ""), {TlsType::anonymous, "store", true, "", "", ""}),
             "nbds://h/?tls-type=anon&tls-hostname=store"},
    };
    for (const Case& c : cases) {
        const auto target = parse_uri(c.uri);
        ASSERT_TRUE(target) << c.uri << ": " << target.error().what;
        EXPECT_EQ(*target, c.target) << c.uri;
        EXPECT_EQ(to_uri(*target), c.canonical) << c.uri;
        // The canonical form means the same, but for users and files.
        const auto again = parse_uri(c.canonical);
        ASSERT_TRUE(again) << again.error().what;
        EXPECT_EQ(to_uri(*again), c.canonical);
        EXPECT_EQ(again->endpoint, c.target.endpoint);
        EXPECT_EQ(again->export_name, c.target.export_name);
        EXPECT_EQ(again->tls.has_value(), c.target.tls.has_value());
    }
}

TEST(ParseUri, survives_every_byte_in_a_name) {
    for (int c = 1; c < 256; ++c) {
        const Target target = tcp("h", "10809", "a" + std::string(1, static_cast<char>(c)));
        const auto again = parse_uri(to_uri(target));
        ASSERT_TRUE(again) << c;
        EXPECT_EQ(*again, target) << c;
    }
}

TEST(ParseUri, corrects_near_misses) {
    struct Case {
        std::string_view text;
        std::string_view correction;
    };
    constexpr std::array cases = {
        Case{"store", "nbd://store/"},
        Case{"store:10809", "nbd://store/"},
        Case{"store:9", "nbd://store:9/"},
        Case{"store/root", "nbd://store/root"},
        Case{"store:9/root", "nbd://store:9/root"},
        Case{"10.0.0.1", "nbd://10.0.0.1/"},
        Case{"::1", "nbd://[::1]/"},
        Case{"[::1]:9", "nbd://[::1]:9/"},
        Case{"/run/nbd.sock", "nbd+unix:///?socket=/run/nbd.sock"},
        Case{"./nbd sock", "nbd+unix:///?socket=./nbd%20sock"},
        Case{"unix:/run/s", "nbd+unix:///?socket=/run/s"},
        Case{"nbd:store:9", "nbd://store:9/"},
        Case{"nbd:store:9:exportname=a b", "nbd://store:9/a%20b"},
        Case{"nbd:unix:/run/s", "nbd+unix:///?socket=/run/s"},
        Case{"nbd:unix:/run/s:exportname=x", "nbd+unix:///x?socket=/run/s"},
        Case{"nbd://store/x?socket=/s", "nbd+unix:///x?socket=/s"},
        Case{"nbds:///?socket=/s", "nbds+unix:///?socket=/s"},
        Case{"nbd+unix://x?socket=/s", "nbd+unix:///x?socket=/s"},
        Case{"nbd+unix://run/nbd.sock", "nbd+unix:///?socket=/run/nbd.sock"},
        Case{"nbd+unix:///run/nbd.sock", "nbd+unix:///?socket=/run/nbd.sock"},
        Case{"nbd:///x", "nbd://localhost/x"},
        Case{"nbd://::1/x", "nbd://[::1]/x"},
        Case{"ndb://store/x", "nbd://store/x"},
        Case{"nbd+unx:///?socket=/s", "nbd+unix:///?socket=/s"},
        Case{"nbd://user@store/x", "nbds://user@store/x"},
        Case{"nbd://store/?tls-hostname=x", "nbds://store/?tls-hostname=x"},
        Case{"nbds://store/?tls-hostnam=x", "tls-hostname"},
        Case{"nbd+unix:///?sockt=/s", "socket"},
    };
    for (const Case& c : cases) {
        const auto target = parse_uri(c.text);
        ASSERT_FALSE(target) << c.text;
        EXPECT_EQ(target.error().kind, Kind::usage) << c.text;
        EXPECT_EQ(target.error().hint, "did you mean \"" + std::string(c.correction) + "\"?")
            << c.text;
        if (c.correction.find("://") != std::string_view::npos) {
            EXPECT_TRUE(parse_uri(c.correction)) << c.correction;
        }
    }
}

TEST(ParseUri, refuses_what_it_cannot_mean) {
    const std::string long_name(4097, 'x');
    const std::string long_path(108, 'p');
    struct Case {
        std::string uri;
        std::string_view part;
    };
    const std::array cases = {
        Case{"", "not an NBD URI"},
        Case{":", "not an NBD URI"},
        Case{"nbd:", "not an NBD URI"},
        Case{"http://store/", "scheme"},
        Case{"nbd://store:0/", "cannot use port \"0\""},
        Case{"nbd://store:65536/", "cannot use port \"65536\""},
        Case{"nbd://store:-1/", "cannot use port \"-1\""},
        Case{"nbd://store:99999999999999999999/", "cannot use port"},
        Case{"nbd://[::1/", "cannot use host"},
        Case{"nbd://[store]/", "IPv6"},
        Case{"nbd://[1::2::3]/", "IPv6"},
        Case{"nbd://st%20ore/", "cannot use host"},
        Case{"nbd://st%00ore/", "cannot use host"},
        Case{"nbd://" + std::string(256, 'h') + "/", "cannot use host"},
        Case{"nbd://store/%", "percent"},
        Case{"nbd://store/%1", "percent"},
        Case{"nbd://store/%zz", "percent"},
        Case{"nbd+unix:///?socket=%g0", "percent"},
        Case{"nbd://store/a b", "blank"},
        Case{"nbd://store/a\x1b[31m", "control"},
        Case{"nbd://store/a#b", "fragment"},
        Case{"nbd://store/a%00b", "NUL"},
        Case{"nbd://store/" + long_name, "4096"},
        Case{"nbd://store/?readonly=1", "unknown query parameter \"readonly\""},
        Case{"nbd+unix:///?socket=/a&socket=/b", "socket is given twice"},
        Case{"nbd+unix:///?socket=", "1 to 107"},
        Case{"nbd+unix:///?socket=" + long_path, "1 to 107"},
        Case{"nbd+unix:///?socket=/a%00b", "NUL"},
        Case{"nbd+unix:///", "socket=PATH is missing"},
        Case{"nbds://store/?tls-type=x508", "tls-type"},
        Case{"nbds://store/?tls-verify-peer=yes", "tls-verify-peer"},
    };
    for (const Case& c : cases) {
        const auto target = parse_uri(c.uri);
        ASSERT_FALSE(target) << c.uri;
        EXPECT_EQ(target.error().kind, Kind::usage) << c.uri;
        EXPECT_TRUE(target.error().what.starts_with("cannot use "));
        EXPECT_NE(target.error().what.find(c.part), std::string::npos) << target.error().what;
        EXPECT_EQ(target.error().what.find('\x1b'), std::string::npos);
    }
}

TEST(ParseUri, keeps_the_limits_exactly) {
    EXPECT_TRUE(parse_uri("nbd://store/" + std::string(4096, 'x')));
    EXPECT_TRUE(parse_uri("nbd+unix:///?socket=" + std::string(107, 'p')));
    EXPECT_TRUE(parse_uri("nbd://" + std::string(255, 'h')));
}

TEST(ParseUri, says_that_the_kernel_takes_no_vsock) {
    for (const std::string_view uri : {"nbd+vsock://2/x", "nbds+vsock://2"}) {
        const auto target = parse_uri(uri);
        ASSERT_FALSE(target);
        EXPECT_EQ(target.error().kind, Kind::unsupported);
        EXPECT_NE(target.error().what.find("TCP and unix"), std::string::npos);
    }
}

TEST(ParseHost, takes_names_and_addresses) {
    struct Case {
        std::string_view host;
        std::string_view port;
        TcpEndpoint endpoint;
    };
    const std::array cases = {
        Case{"store", "10809", {"store", "10809"}},
        Case{"store_1.lan", "9", {"store_1.lan", "9"}},
        Case{"192.0.2.1", "nbd", {"192.0.2.1", "nbd"}},
        Case{"::1", "9", {"::1", "9"}},
        Case{"[::1]", "9", {"::1", "9"}},
        Case{"[fe80::1%eth0]", "9", {"fe80::1%eth0", "9"}},
    };
    for (const Case& c : cases) {
        const auto endpoint = parse_host(c.host, c.port);
        ASSERT_TRUE(endpoint) << c.host << ": " << endpoint.error().what;
        EXPECT_EQ(*endpoint, c.endpoint) << c.host;
    }
    for (const std::string_view host :
         {"", "[]", "store:9", "a b", "a/b", "[::1", "::1]", "a@b", "\x1b", "[::g]", "1:2:3"}) {
        const auto endpoint = parse_host(host);
        ASSERT_FALSE(endpoint) << host;
        EXPECT_EQ(endpoint.error().kind, Kind::usage);
    }
    for (const std::string_view port : {"", "0", "65536", "-", "1 2", "+1", "0x10 "})
        EXPECT_FALSE(parse_host("store", port)) << port;
}

TEST(ToString, names_endpoints_for_messages) {
    EXPECT_EQ(to_string(TcpEndpoint{"store", "10809"}), "store:10809");
    EXPECT_EQ(to_string(TcpEndpoint{"::1", "9"}), "[::1]:9");
    EXPECT_EQ(to_string(UnixEndpoint{"/run/s"}), "unix:/run/s");
    EXPECT_EQ(to_string(UnixEndpoint{"\0name"_b}), "unix:@name");
    EXPECT_EQ(to_string(UnixEndpoint{"/a\x1b"}), "unix:/a\\x1b");
}

}  // namespace
}  // namespace nbd
