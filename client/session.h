// SPDX-License-Identifier: MIT
// Dials the servers of an export until a connection is past its handshake and fit for the kernel.
#pragma once

#include "client/base/deadline.h"
#include "client/base/fd.h"
#include "client/protocol/connect.h"
#include "client/protocol/handshake.h"
#include "client/request.h"

#include <chrono>
#include <cstddef>
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
    void use(Addresses addresses);

    /// look_up() and use().
    Result<void> resolve(const Deadline& deadline);

    /// Waits until one address gives the export; all are tried, the request's own target first.
    Result<Connection> dial(const Deadline& deadline);

    /// `count` more connections to where `first` leads, in parallel; all must agree on the export.
    Result<std::vector<Connection>> dial_more(const Connection& first, unsigned count,
                                              const Deadline& deadline) const;

    // The same without waiting, for the watchdog.

    /// Dials only this target from now on (nothing: all): connections of one device must lead to
    /// one server, because only that keeps what it caches coherent between them.
    void stick_to(std::optional<std::size_t> target) { only_ = target; }
    /// How many addresses take their turn.
    std::size_t candidates() const;
    /// Starts one attempt at the next address in turn; older attempts stay under way. The error of
    /// an attempt that has failed already, when no other is left.
    std::optional<Error> start_attempt();
    std::vector<pollfd> poll_list() const { return race_.poll_list(); }
    /// Looks at the attempts; one that is connected is taken through the handshake, which waits
    /// until `deadline` at most. Nothing while all are still under way.
    std::optional<Result<Connection>> advance(const Deadline& deadline);
    bool dialling() const { return !race_.empty(); }
    void stop() { race_.clear(); }

private:
    Result<Connection> shake(ConnectRace::Winner winner, const Deadline& deadline) const;
    const Target& target(std::size_t number) const;

    AttachRequest request_;
    Addresses addresses_;
    std::vector<Address> candidates_;  ///< all of them in order; `tag` is the index
    std::vector<std::size_t> candidate_target_;
    std::optional<std::size_t> only_;
    std::size_t turn_ = 0;
    ConnectRace race_;
};

/// Whether `now` can carry on where `agreed` was: same or larger size, still writable if it was, no
/// flag lost that the driver uses, block sizes the device already respects. Kind::mismatch
/// otherwise. `size` and `block_size` are the device's, `server` names the peer in the sentence.
Result<void> check_same_export(const ExportInfo& agreed, const ExportInfo& now, std::uint64_t size,
                               std::uint64_t block_size, const std::string& server);

}  // namespace nbd
