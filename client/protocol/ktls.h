// SPDX-License-Identifier: MIT
// The kernel's TLS: what it can carry, and how a socket is handed its keys.
#pragma once

#include "client/base/deadline.h"
#include "client/protocol/tls_keys.h"
#include "client/protocol/tls_suite.h"

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace nbd {

/// What the kernel takes keys for, tried out on throwaway connections; loads its tls module if need
/// be. Nothing: no kernel TLS at all. All there is where the machine has no loopback to try on:
/// then the first real connection tells.
std::vector<TlsSuite> probe_kernel_tls();

/// Makes the kernel protect both directions of a connected TCP socket from here on; what it cannot
/// be asked again is undone by closing the socket only. Errors: unsupported, unreachable (the
/// connection is gone).
Result<void> install_kernel_tls(int fd, const ConnectionKeys& keys);

/// How many records the busier direction of a connection of the kernel's TLS has had under its
/// keys; nothing where that does not matter. AES-GCM wears its keys out, and servers with GnuTLS
/// change them after 2^24 records under TLS 1.3, which ends the connection; ChaCha20-Poly1305 does
/// neither.
std::optional<std::uint64_t> kernel_tls_records(int fd);

/// Before Linux 6.1.183 and 6.12.104 a signal that hits a writer in the midst of sending destroys a
/// connection of the kernel's TLS. True unless `release` or `version` (of uname) tells that it is
/// mended; can go with the last kernel that has it.
bool breaks_on_signals(std::string_view release, std::string_view version);

}  // namespace nbd
