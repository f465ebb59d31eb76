// SPDX-License-Identifier: MIT
// Dials the servers of an export until a connection is past its handshake and fit for the kernel.
#pragma once

#include "client/base/deadline.h"
#include "client/base/fd.h"
#include "client/protocol/connect.h"
#include "client/protocol/handshake.h"
#include "client/request.h"
#include "client/secure.h"

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <poll.h>
#include <string>
#include <vector>

namespace nbd {

/// One connection in the transmission phase; not one byte of it has been read ahead.
struct Connection {
    Fd socket;
    std::string server;       ///< address text
    std::size_t target = 0;   ///< which of the dialer's targets: 0 is the request's own
    std::size_t address = 0;  ///< which of the dialer's addresses
    ExportInfo info;
    std::string offload = {};  ///< who protects it once handed over; empty: it is plain
    /// Its relay's socket to the server, shared with it: through this end it can be silenced even
    /// while it is stopped.
    Fd beyond_relay = Fd();
    std::unique_ptr<TlsStream> for_relay = {};  ///< what no relay has taken over yet
};

/// Knows every address of the target and its alternates, and how to shake hands there.
class Dialer {
public:
    explicit Dialer(const AttachRequest& request);

    /// Addresses per target, in the order of the request's own target and its alternates.
    using Addresses = std::vector<std::vector<Address>>;

    /// Looks up every target; a failure only when none has an address. Touches nothing of the
    /// dialer, so that it may run beside it.
    static Result<Addresses> look_up(const AttachRequest& request, const Deadline& deadline);

    /// Dials these from now on. A target without addresses keeps the ones it had: the resolver may
    /// live behind the very device we serve.
    /// Whether that made a difference.
    bool use(Addresses addresses);

    /// Which target has the address of this text.
    std::optional<std::size_t> target_of(std::string_view address) const;

    /// Loads what TLS needs, or looks whether it has changed.
    Result<void> prepare(const Deadline& deadline);

    /// prepare(), look_up() and use().
    Result<void> resolve(const Deadline& deadline);

    /// Waits until one address gives the export; all are tried, the request's own target first.
    Result<Connection> dial(const Deadline& deadline);

    /// `count` more connections to where `first` leads, in parallel, each agreeing with it on the
    /// export or failed.
    std::vector<Result<Connection>> dial_more(const Connection& first, unsigned count,
                                              const Deadline& deadline) const;

    // The same without waiting, for the watchdog.

    /// Dials only this target from now on (nothing: all): connections of one device must lead to
    /// one server, because only that keeps what it caches coherent between them.
    void stick_to(std::optional<std::size_t> target) { only_ = target; }
    /// How many addresses take their turn.
    std::size_t candidates() const;
    /// Starts one attempt at the next address in turn; older attempts stay under way. The error of
    /// the attempt that ended with this: refused at once, or the oldest of too many.
    std::optional<Error> start_attempt();
    std::vector<pollfd> poll_list() const { return race_.poll_list(); }
    /// Looks at the attempts; one that is connected is taken through the handshake, which waits
    /// until `deadline` at most. Nothing while all are still under way.
    std::optional<Result<Connection>> advance(const Deadline& deadline);
    bool dialling() const { return !race_.empty(); }
    void stop() { race_.clear(); }

private:
    Result<void> negotiate(Connection& connection, const Deadline& deadline) const;
    Result<Connection> shake(ConnectRace::Winner winner, const Deadline& deadline) const;
    Result<Connection> finish(Result<Connection> connection, const Deadline& deadline) const;
    const Target& target(std::size_t number) const;

    AttachRequest request_;
    Security security_;
    bool rejected_ = false;  ///< the last handshake failed for want of something in the TLS files
    Addresses addresses_;
    std::vector<Address> candidates_;  ///< all of them in order; `tag` is the index
    std::vector<std::size_t> candidate_target_;
    std::optional<std::size_t> only_;
    std::size_t turn_ = 0;
    ConnectRace race_;
};

/// What a reconnect must not change.
struct DeviceShape {
    std::uint64_t size = 0;  ///< bytes
    std::uint64_t block_size = 512;
    unsigned connections = 1;
};

/// Whether `now` can carry on where `agreed` was: not smaller than the device, still writable if it
/// was, no flag lost that the driver uses, block sizes the device already respects. Kind::mismatch
/// otherwise. `server` names the peer in the sentence.
Result<void> check_same_export(const ExportInfo& agreed, const ExportInfo& now,
                               const DeviceShape& device, const std::string& server);

}  // namespace nbd
