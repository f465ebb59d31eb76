// SPDX-License-Identifier: MIT
// What is to be attached and how: the one value all front ends produce and the use cases consume.
#pragma once

#include "client/protocol/tls_suite.h"
#include "client/protocol/uri.h"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nbd {

/// A word that is meant as an URI, be it a correct one or not.
inline bool is_uri(std::string_view word) {
    return word.find("://") != std::string_view::npos;
}

/// Who encrypts what the device transfers.
enum class TlsOffload {
    automatic,  ///< the kernel where it can, else a process of ours
    require,    ///< the kernel, or failure
    never,      ///< a process of ours
};

struct AttachRequest {
    Target target;
    std::vector<Target> alternates = {};  ///< further servers of the same export, in order
    std::optional<std::uint32_t> index = std::nullopt;  ///< nothing: the kernel chooses

    // The device.
    bool read_only = false;
    std::optional<unsigned> connections = std::nullopt;  ///< nothing: auto
    std::optional<std::uint64_t> block_size = std::nullopt;
    std::optional<std::uint64_t> size = std::nullopt;  ///< bytes, instead of the server's
    std::string id = {};  ///< backend identifier, empty: URI plus a fresh id
    bool no_netlink = false;
    bool settle = true;  ///< return only when node, partitions and udev are ready

    // Time.
    std::optional<std::chrono::seconds> io_timeout = std::nullopt;  ///< nothing: chosen, 0: off
    std::optional<std::chrono::seconds> reconnect_for =
        std::nullopt;                          ///< nothing: the dialect's default
    std::chrono::seconds connect_timeout{10};  ///< one round of connecting and handshaking
    std::chrono::seconds connect_for{0};       ///< patience of the first connect, 0: one round
    std::chrono::seconds keepalive{30};        ///< a silent peer is dead after this, 0: off
    std::optional<std::chrono::seconds> reconnect_delay = std::nullopt;  ///< cap between two dials

    // The handshake.
    bool no_optgo = false;
    bool preinit = false;  ///< classic: the socket is past its handshake; needs `size`

    // TLS.
    std::string tls_ca = {}, tls_cert = {}, tls_key = {}, tls_psk = {}, tls_hostname = {};
    std::string tls_username = {};            ///< whose pre-shared key is ours
    std::vector<TlsCipher> tls_ciphers = {};  ///< best first; empty: what is fastest here
    TlsOffload tls_offload = TlsOffload::automatic;
    /// Records under the same AES keys after which a connection is renewed; 0: never.
    std::uint64_t tls_rekey_after = 12ULL << 20;
    bool tls_insecure = false;  ///< do not check who the server is

    // The process.
    bool essential = false;  ///< root, swap: locked memory, no OOM kill
    bool mark = false;       ///< '@' as first character of argv[0]
    bool foreground = false;
    bool idempotent = false;  ///< attached already with the same id is success
    bool auto_resize = false;
    bool dry_run = false;
};

/// One option by its long name and its value ("" for a flag); also what nbdtab lines, the classic
/// command line and the runtime file hold, so that an attachment can be asked for again.
struct Setting {
    std::string name;
    std::string value;
    bool operator==(const Setting&) const = default;
};
using Settings = std::vector<Setting>;

}  // namespace nbd
