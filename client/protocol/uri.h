// SPDX-License-Identifier: MIT
// NBD URIs: parses them into a Target, prints Targets canonically, corrects near misses.
#pragma once

#include "client/base/result.h"

#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace nbd {

inline constexpr std::string_view default_port = "10809";

struct TcpEndpoint {
    std::string host;  ///< name or address, IPv6 without brackets, scope id after '%'
    std::string port{default_port};
    bool operator==(const TcpEndpoint&) const = default;
};

struct UnixEndpoint {
    std::string path;  ///< an abstract name begins with a NUL byte
    bool operator==(const UnixEndpoint&) const = default;
};

using Endpoint = std::variant<TcpEndpoint, UnixEndpoint>;

enum class TlsType { x509, psk, anonymous };

/// What the URI says about TLS; present only for nbds schemes, where TLS is mandatory.
struct TlsWish {
    TlsType type = TlsType::x509;
    std::string hostname;  ///< name to verify, empty: the host of the endpoint
    bool verify_peer = true;
    std::string username;      ///< PSK identity, from the authority's user part
    std::string certificates;  ///< directory (libnbd's tls-certificates)
    std::string psk_file;
    bool operator==(const TlsWish&) const = default;
};

/// Where an export is.
struct Target {
    Endpoint endpoint;
    std::string export_name;
    std::optional<TlsWish> tls = std::nullopt;
    bool operator==(const Target&) const = default;
};

/// Parses an NBD URI (the NBD project's uri.md). Near misses (a bare host, a bare path, qemu's
/// nbd:host:port, socket= on a TCP scheme …) fail with the corrected spelling as the hint.
Result<Target> parse_uri(std::string_view text);

/// A host as the classic command line and nbdtab write it: name, address, or bracketed IPv6.
Result<TcpEndpoint> parse_host(std::string_view host, std::string_view port = default_port);

/// Canonical URI: default port left out, percent-encoded, without user name or file names.
std::string to_uri(const Target& target);

/// "store:10809", "[::1]:10809", "unix:/run/nbd.sock", "unix:@name" for messages.
std::string to_string(const Endpoint& endpoint);

}  // namespace nbd
