// SPDX-License-Identifier: MIT
// NBD URIs: parses them into a Target, prints Targets canonically, corrects near misses.
#include "client/protocol/uri.h"

#include "client/base/text.h"
#include "client/protocol/wire.h"

#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <cctype>
#include <netinet/in.h>
#include <span>
#include <vector>

namespace nbd {

namespace {

constexpr std::size_t max_socket_path = 107;
constexpr std::size_t max_host = 255;

struct Scheme {
    std::string_view name;
    bool unix_socket;
    bool tls;
};

constexpr std::array<Scheme, 4> schemes = {{
    {"nbd", false, false},
    {"nbds", false, true},
    {"nbd+unix", true, false},
    {"nbds+unix", true, true},
}};

constexpr std::array<std::string_view, 6> query_keys = {
    "socket", "tls-type", "tls-hostname", "tls-verify-peer", "tls-certificates", "tls-psk-file"};

/// The query's values by key; a key that is not there has none.
struct Query {
    std::array<std::optional<std::string>, query_keys.size()> values;

    std::optional<std::string>& operator[](std::string_view key) {
        const auto* found = std::find(query_keys.begin(), query_keys.end(), key);
        return values[static_cast<std::size_t>(found - query_keys.begin())];
    }
};

/// A URI taken apart; everything but `text` and `host_and_port` is decoded.
struct Parts {
    std::string_view text;
    Scheme scheme;
    std::string user;
    std::string_view host_and_port;
    std::string export_name;
    Query query;
};

Error unusable(std::string_view uri, std::string_view cause, std::string hint = {}) {
    return {Kind::usage, "cannot use " + quoted(uri) + ": " + std::string(cause), std::move(hint)};
}

Error bad_host(std::string_view host, std::string_view cause, std::string hint = {}) {
    return {Kind::usage, "cannot use host " + quoted(host) + ": " + std::string(cause),
            std::move(hint)};
}

std::string did_you_mean(std::string_view uri) {
    return "did you mean " + quoted(uri) + "?";
}

bool is_plain(char c) {
    const auto byte = static_cast<unsigned char>(c);
    return std::isalnum(byte) != 0 || std::string_view("-._~/:").find(c) != std::string_view::npos;
}

std::string percent_encode(std::string_view text) {
    constexpr std::string_view digits = "0123456789ABCDEF";
    std::string encoded;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (is_plain(c))
            encoded += c;
        else
            encoded.append({'%', digits[byte >> 4], digits[byte & 15]});
    }
    return encoded;
}

/// Nothing when a percent sign is not followed by two hexadecimal digits.
std::optional<std::string> percent_decode(std::string_view text) {
    std::string decoded;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '%') {
            decoded += text[i];
            continue;
        }
        const auto high = i + 1 < text.size() ? hex_digit(text[i + 1]) : std::nullopt;
        const auto low = i + 2 < text.size() ? hex_digit(text[i + 2]) : std::nullopt;
        if (!high || !low) return std::nullopt;
        decoded += static_cast<char>(*high * 16 + *low);
        i += 2;
    }
    return decoded;
}

Result<std::string> decode(std::string_view uri, std::string_view part) {
    auto decoded = percent_decode(part);
    if (!decoded)
        return unusable(uri, "a percent sign is not followed by two hexadecimal digits",
                        "write the percent sign itself as %25");
    return *std::move(decoded);
}

Result<Scheme> parse_scheme(std::string_view uri, std::string_view name) {
    std::string lower(name);
    for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    for (const Scheme& scheme : schemes)
        if (scheme.name == lower) return scheme;
    if (lower == "nbd+vsock" || lower == "nbds+vsock")
        return Error{Kind::unsupported, "cannot use " + quoted(uri) +
                                            ": the kernel driver takes only TCP and unix sockets"};
    std::array<std::string_view, schemes.size()> names;
    std::transform(schemes.begin(), schemes.end(), names.begin(),
                   [](const Scheme& scheme) { return scheme.name; });
    const auto near = nearest(lower, names);
    return unusable(
        uri, "the scheme is not one of nbd, nbds, nbd+unix, nbds+unix",
        near ? did_you_mean(std::string(*near) + std::string(uri.substr(name.size()))) : "");
}

Result<Query> parse_query(std::string_view uri, std::string_view text) {
    Query query;
    for (const std::string_view pair : split(text, '&')) {
        if (pair.empty()) continue;
        const auto equals = std::min(pair.find('='), pair.size());
        const std::string_view key = pair.substr(0, equals);
        if (key.starts_with("x-")) continue;
        if (std::find(query_keys.begin(), query_keys.end(), key) == query_keys.end()) {
            const auto near = nearest(key, query_keys);
            return unusable(uri, "unknown query parameter " + quoted(key),
                            near ? did_you_mean(*near) : "");
        }
        if (query[key]) return unusable(uri, std::string(key) + " is given twice");
        query[key] = TRY(decode(uri, pair.substr(std::min(equals + 1, pair.size()))));
    }
    return query;
}

Result<Parts> take_apart(std::string_view uri, std::size_t scheme_length) {
    for (const char c : uri)
        if (static_cast<unsigned char>(c) <= ' ' || c == '\x7f')
            return unusable(uri, "it contains a blank or a control character",
                            "write a blank as %20");
    if (uri.find('#') != std::string_view::npos)
        return unusable(uri, "it has a fragment", "write # as %23");
    const Scheme scheme = TRY(parse_scheme(uri, uri.substr(0, scheme_length)));
    std::string_view rest = uri.substr(scheme_length + 3);
    const auto question = std::min(rest.find('?'), rest.size());
    const std::string_view query = rest.substr(std::min(question + 1, rest.size()));
    rest = rest.substr(0, question);
    const auto slash = std::min(rest.find('/'), rest.size());
    const std::string_view path = rest.substr(std::min(slash + 1, rest.size()));
    const std::string_view authority = rest.substr(0, slash);
    const auto at = authority.rfind('@');
    const bool has_user = at != std::string_view::npos;
    Parts parts{uri, scheme, {}, has_user ? authority.substr(at + 1) : authority, {}, {}};
    if (has_user) parts.user = TRY(decode(uri, authority.substr(0, at)));
    parts.export_name = TRY(decode(uri, path));
    parts.query = TRY(parse_query(uri, query));
    if (parts.export_name.size() > max_string)
        return unusable(uri, "the export name is longer than 4096 bytes");
    if (parts.export_name.find('\0') != std::string::npos)
        return unusable(uri, "the export name contains a NUL byte");
    return parts;
}

Result<std::string> parse_port(std::string_view port) {
    const auto number = parse_decimal(port);
    if (number && *number >= 1 && *number <= 65535) return std::to_string(*number);
    const bool is_name = std::all_of(port.begin(), port.end(), [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_';
    });
    const bool has_letter = std::any_of(port.begin(), port.end(), [](char c) {
        return std::isalpha(static_cast<unsigned char>(c)) != 0;
    });
    if (is_name && has_letter) return std::string(port);
    return Error{Kind::usage, "cannot use port " + quoted(port) +
                                  ": it is neither a number from 1 to 65535 nor a service name"};
}

/// Host and port apart, as in "store", "store:nbd", "[::1]:10809", or a bare IPv6 address.
struct HostAndPort {
    std::string_view host;
    std::string_view port = default_port;
};

HostAndPort split_port(std::string_view text) {
    const auto colon = text.rfind(':');
    const auto bracket = text.rfind(']');
    const bool bare_ipv6 = bracket == std::string_view::npos && text.find(':') != colon;
    if (colon == std::string_view::npos || bare_ipv6 ||
        (bracket != std::string_view::npos && colon < bracket))
        return {text};
    const std::string_view port = text.substr(colon + 1);
    return {text.substr(0, colon), port.empty() ? default_port : port};
}

/// What a text that is not a URI was probably meant to be: host, path, host:port, or qemu's
/// nbd:host:port[:exportname=x] and nbd:unix:path[:exportname=x].
std::optional<Target> guess(std::string_view text) {
    Target target;
    constexpr std::string_view qemu = "nbd:";
    constexpr std::string_view qemu_export = ":exportname=";
    if (text.starts_with(qemu)) {
        text.remove_prefix(qemu.size());
        const auto name = std::min(text.find(qemu_export), text.size());
        target.export_name = text.substr(std::min(name + qemu_export.size(), text.size()));
        text = text.substr(0, name);
    }
    const bool is_path = text.starts_with("unix:");
    if (is_path) text.remove_prefix(std::string_view("unix:").size());
    if (is_path || text.starts_with('/') || text.starts_with("./")) {
        if (text.empty() || text.size() > max_socket_path) return std::nullopt;
        target.endpoint = UnixEndpoint{std::string(text)};
        return target;
    }
    const auto slash = std::min(text.find('/'), text.size());
    if (slash < text.size()) target.export_name = text.substr(slash + 1);
    const auto [host, port] = split_port(text.substr(0, slash));
    auto endpoint = parse_host(host, port);
    if (!endpoint) return std::nullopt;
    target.endpoint = *std::move(endpoint);
    return target;
}

Error not_a_uri(std::string_view text) {
    const auto target = guess(text);
    return unusable(text, "it is not an NBD URI",
                    target ? did_you_mean(to_uri(*target))
                           : "write nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH");
}

Result<std::optional<TlsWish>> parse_tls(Parts& parts) {
    Query& query = parts.query;
    if (!parts.scheme.tls) {
        const bool wanted =
            !parts.user.empty() ||
            std::any_of(query_keys.begin() + 1, query_keys.end(),
                        [&query](std::string_view key) { return query[key].has_value(); });
        if (wanted)
            return unusable(parts.text, "user names and TLS parameters need a scheme with TLS",
                            did_you_mean("nbds" + std::string(parts.text.substr(3))));
        return std::optional<TlsWish>();
    }
    TlsWish wish;
    wish.username = parts.user;
    wish.hostname = query["tls-hostname"].value_or("");
    wish.certificates = query["tls-certificates"].value_or("");
    wish.psk_file = query["tls-psk-file"].value_or("");
    const std::string type = query["tls-type"].value_or(wish.psk_file.empty() ? "x509" : "psk");
    if (type != "x509" && type != "psk" && type != "anon")
        return unusable(parts.text, "tls-type is not one of x509, psk, anon");
    wish.type = type == "x509" ? TlsType::x509 : type == "psk" ? TlsType::psk : TlsType::anonymous;
    const std::string verify = query["tls-verify-peer"].value_or("1");
    if (verify != "0" && verify != "1")
        return unusable(parts.text, "tls-verify-peer is not 0 or 1");
    wish.verify_peer = verify == "1";
    return std::optional(std::move(wish));
}

Result<Endpoint> unix_endpoint(Parts& parts) {
    const auto socket = parts.query["socket"];
    const std::string scheme = std::string(parts.scheme.name) + ":///";
    const std::string host(parts.host_and_port);
    if (!host.empty() && socket) {
        const std::string name = host + (parts.export_name.empty() ? "" : "/" + parts.export_name);
        return unusable(
            parts.text, "a URI of a unix socket has no host",
            did_you_mean(scheme + percent_encode(name) + "?socket=" + percent_encode(*socket)));
    }
    if (!socket) {
        const std::string path = (host.empty() ? "" : "/" + host) + "/" + parts.export_name;
        return unusable(parts.text, "the query parameter socket=PATH is missing",
                        path == "/" ? "write " + scheme + "EXPORT?socket=PATH"
                                    : did_you_mean(scheme + "?socket=" + percent_encode(path)));
    }
    if (socket->empty() || socket->size() > max_socket_path)
        return unusable(parts.text, "a socket path has 1 to 107 bytes");
    if (socket->find('\0', 1) != std::string::npos)
        return unusable(parts.text, "the socket path contains a NUL byte");
    return Endpoint(UnixEndpoint{*socket});
}

Result<Endpoint> tcp_endpoint(Parts& parts) {
    if (const auto& socket = parts.query["socket"])
        return unusable(
            parts.text, "socket= belongs to URIs of unix sockets",
            did_you_mean(std::string(parts.scheme.name) + "+unix:///" +
                         percent_encode(parts.export_name) + "?socket=" + percent_encode(*socket)));
    if (parts.host_and_port.empty())
        return unusable(parts.text, "it names no host",
                        did_you_mean(std::string(parts.scheme.name) + "://localhost/" +
                                     percent_encode(parts.export_name)));
    const auto [host, port] = split_port(parts.host_and_port);
    if (host.find(':') != std::string_view::npos && !host.starts_with('['))
        return unusable(parts.text, "an IPv6 address stands in brackets",
                        did_you_mean(std::string(parts.scheme.name) + "://[" + std::string(host) +
                                     "]/" + percent_encode(parts.export_name)));
    auto endpoint = parse_host(TRY(decode(parts.text, host)), port);
    if (!endpoint) return std::move(endpoint).error();
    return Endpoint(*std::move(endpoint));
}

Result<void> check_ipv6(std::string_view host) {
    const std::string address(host.substr(0, host.find('%')));
    in6_addr parsed;
    if (::inet_pton(AF_INET6, address.c_str(), &parsed) == 1) return {};
    return bad_host(host, "it is not an IPv6 address");
}

/// The query of a canonical URI; what names local files or users is left out.
std::vector<std::string> canonical_query(const Target& target) {
    std::vector<std::string> query;
    if (const auto* path = std::get_if<UnixEndpoint>(&target.endpoint))
        query.push_back("socket=" + percent_encode(path->path));
    if (!target.tls) return query;
    if (target.tls->type == TlsType::psk) query.emplace_back("tls-type=psk");
    if (target.tls->type == TlsType::anonymous) query.emplace_back("tls-type=anon");
    if (!target.tls->hostname.empty())
        query.push_back("tls-hostname=" + percent_encode(target.tls->hostname));
    if (!target.tls->verify_peer) query.emplace_back("tls-verify-peer=0");
    return query;
}

}  // namespace

Result<Target> parse_uri(std::string_view text) {
    const auto scheme_length = text.find("://");
    if (scheme_length == std::string_view::npos) return not_a_uri(text);
    Parts parts = TRY(take_apart(text, scheme_length));
    Target target;
    target.endpoint = TRY(parts.scheme.unix_socket ? unix_endpoint(parts) : tcp_endpoint(parts));
    target.tls = TRY(parse_tls(parts));
    target.export_name = std::move(parts.export_name);
    return target;
}

Result<TcpEndpoint> parse_host(std::string_view host, std::string_view port) {
    std::string_view name = host;
    const bool bracketed = name.size() > 2 && name.front() == '[' && name.back() == ']';
    if (bracketed) name = name.substr(1, name.size() - 2);
    const bool is_ipv6 = bracketed || std::count(name.begin(), name.end(), ':') > 1;
    const bool sound = std::all_of(name.begin(), name.end(), [](char c) {
        return static_cast<unsigned char>(c) > ' ' && c != '\x7f' &&
               std::string_view("/?#@[]\\\"").find(c) == std::string_view::npos;
    });
    if (name.empty() || name.size() > max_host || !sound)
        return bad_host(host, "it is neither a name nor an address");
    if (is_ipv6) TRY(check_ipv6(name));
    if (!is_ipv6 && name.find(':') != std::string_view::npos)
        return bad_host(host, "a host name has no colon", "give the port as a word of its own");
    std::string number = TRY(parse_port(port));
    return TcpEndpoint{std::string(name), std::move(number)};
}

std::string to_uri(const Target& target) {
    std::string uri = target.tls ? "nbds" : "nbd";
    if (const auto* tcp = std::get_if<TcpEndpoint>(&target.endpoint)) {
        const bool is_ipv6 = tcp->host.find(':') != std::string::npos;
        const std::string host = percent_encode(tcp->host);
        uri += "://" + (is_ipv6 ? "[" + host + "]" : host);
        if (tcp->port != default_port) uri += ":" + tcp->port;
    } else {
        uri += "+unix://";
    }
    uri += "/" + percent_encode(target.export_name);
    const std::vector<std::string> query = canonical_query(target);
    return query.empty() ? uri : uri + "?" + join(query, "&");
}

std::string to_string(const Endpoint& endpoint) {
    if (const auto* path = std::get_if<UnixEndpoint>(&endpoint)) {
        const bool abstract = path->path.starts_with('\0');
        return "unix:" + (abstract ? "@" + printable(path->path.substr(1)) : printable(path->path));
    }
    const auto& tcp = *std::get_if<TcpEndpoint>(&endpoint);
    const bool is_ipv6 = tcp.host.find(':') != std::string::npos;
    return printable(is_ipv6 ? "[" + tcp.host + "]" : tcp.host) + ":" + printable(tcp.port);
}

}  // namespace nbd
