// SPDX-License-Identifier: MIT
// What the watchdog decides: a pure function from state and event to new state and actions.
#pragma once

#include "client/base/deadline.h"
#include "client/base/log.h"
#include "client/protocol/handshake.h"
#include "client/runtime.h"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace nbd {

/// What does not change while a device is watched.
struct WatchConfig {
    std::string device;  ///< "nbd0", for messages
    unsigned connections = 1;
    std::chrono::seconds reconnect_for{0};  ///< how long I/O waits, `forever` allowed
    std::chrono::seconds timeout{0};        ///< the kernel's request timeout as attached
    bool timeout_is_ours = true;            ///< false: --io-timeout said it, leave it alone
    std::optional<std::chrono::seconds> slow_delay;  ///< --reconnect-delay
    std::uint64_t block_size = 512;
    bool auto_resize = false;
    ExportInfo agreed;
};

enum class DeathCause {
    peer,   ///< the server or the network ended the connection
    timer,  ///< the kernel did, because a request went unanswered
    unknown,
};

// Events.
struct LinkDied {
    DeathCause cause = DeathCause::unknown;
};
struct KeysAge {};  ///< a healthy connection is to be replaced before its TLS keys are worn out
struct LinkSuspected {};  ///< a connection died that we cannot see (taken over from a predecessor)
struct AttemptFailed {
    Error error;
};
struct Dialled {
    ExportInfo info;
    std::string server;
};
struct Adopted {};     ///< the kernel uses the socket now
struct NotAdopted {};  ///< the kernel says no connection is dead
struct HandOverFailed {
    Error error;
};
struct Resized {
    std::uint64_t size = 0;
};
struct TimePassed {};
struct DialNow {};      ///< HUP
struct DeviceGone {};   ///< somebody detached it
struct Terminated {};   ///< TERM
struct Interrupted {};  ///< INT
using WatchEvent =
    std::variant<LinkDied, KeysAge, LinkSuspected, AttemptFailed, Dialled, Adopted, NotAdopted,
                 HandOverFailed, Resized, TimePassed, DialNow, DeviceGone, Terminated, Interrupted>;

// Actions, to be done in order.
struct StartAttempt {};
struct StopDialling {};
/// Give the kernel the connection just dialled; `timeout` is sent along when set.
struct HandOver {
    std::optional<std::chrono::seconds> timeout;
};
/// The same in a moment without requests, in place of the one whose keys age.
struct Renew {
    std::optional<std::chrono::seconds> timeout;
};
struct DropConnection {};
struct SetTimeout {
    std::chrono::seconds timeout;
};
struct Resize {
    std::uint64_t size;
};
struct Publish {};
struct Say {
    Level level;
    std::string text;
};
struct Leave {};           ///< end, the device stays
struct DetachAndLeave {};  ///< end, the device goes if nobody uses it
using WatchAction = std::variant<StartAttempt, StopDialling, HandOver, Renew, DropConnection,
                                 SetTimeout, Resize, Publish, Say, Leave, DetachAndLeave>;

struct WatchState {
    enum class Phase {
        resting,       ///< every connection lives, as far as we know
        dialling,      ///< attempts are under way or due
        handing_over,  ///< the kernel has been given a socket and has not answered
        ended,
    };
    Phase phase = Phase::resting;
    unsigned live = 0;      ///< connections whose sockets we hold and see alive
    unsigned blind = 0;     ///< connections of a predecessor, which only LINK_DEAD tells about
    bool renewing = false;  ///< none is dead: what is dialled is to replace one in good time
    bool suspect = false;  ///< a blind one may be dead: hand in sockets until the kernel takes none

    Clock::time_point down_since{};  ///< of the outage under way, the first connection's death
    std::optional<Clock::time_point> io_waits_since;  ///< no connection is left
    std::optional<Clock::time_point> next_attempt;
    Clock::time_point last_adopted{};
    unsigned attempts = 0;   ///< in this outage
    unsigned adoptions = 0;  ///< in this outage
    unsigned failures = 0;   ///< in this outage
    DeathCause cause = DeathCause::unknown;
    bool failing = false;  ///< I/O fails: reconnect_for has passed
    bool told = false;     ///< the log knows of this outage

    std::chrono::seconds timeout{0};  ///< the kernel's request timeout outside hand-overs
    std::uint64_t size = 0;           ///< the device's
    std::uint64_t export_size = 0;    ///< the newest connection's
    std::string server;
    std::string last_error;
    std::uint64_t reconnects = 0;
    std::uint32_t jitter = 1;  ///< state of the random sequence

    unsigned dead(const WatchConfig& config) const { return config.connections - live - blind; }
    LinkState link_state(const WatchConfig& config) const;
    /// When TimePassed is due; nothing: never.
    std::optional<Clock::time_point> wake_at(const WatchConfig& config) const;
};

/// One step. `candidates` is how many addresses take turns in being dialled.
std::vector<WatchAction> step(WatchState& state, const WatchConfig& config, const WatchEvent& event,
                              Clock::time_point now, std::size_t candidates);

/// The pause before the next attempt: at once for the first, then 25 ms doubling to 250 ms during
/// the first minute of an outage, to 2 s until the tenth, to 10 s after it (or --reconnect-delay);
/// the addresses share it, and up to a quarter is taken off at random.
Clock::duration retry_delay(unsigned attempts, Clock::duration outage, std::size_t candidates,
                            std::optional<std::chrono::seconds> slow_delay, std::uint32_t& jitter);

/// The next longer request timeout for a server that has not answered within `timeout`, so that the
/// same request is not sent again for ever. One connection: 0, the kernel only looks then. Several:
/// twice as long, at most a minute; the driver takes 0 for 30 s and ends the connection all the
/// same.
std::chrono::seconds longer_timeout(std::chrono::seconds timeout, unsigned connections);

}  // namespace nbd
