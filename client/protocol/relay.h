// SPDX-License-Identifier: MIT
// The relay: carries a device's bytes between TLS and the kernel where that cannot do TLS itself.
#pragma once

#include <cstdint>

struct ssl_st;

namespace nbd {

/// Records sent under one key before it is renewed; AES-GCM should not protect more than 2^24.5
/// (RFC 8446, section 5.5).
inline constexpr std::uint64_t records_per_key = 1U << 23;

/// Carries bytes between `session`, past its handshake and over the socket `server`, and the
/// unencrypted end `plain` of a pair, until either side ends. What the server has sent is delivered
/// before this returns. Once the kernel's end is shut nothing goes to the server any more but the
/// driver's goodbye, and that not for long: `server` then is reset when it is closed, because a
/// request that came late would undo what went over the connection that took this one's place.
void run_relay(ssl_st* session, int server, int plain, std::uint64_t renew_after = records_per_key);

}  // namespace nbd
