// SPDX-License-Identifier: MIT
// Turns an endpoint into addresses and addresses into a connected socket fit for the kernel.
#pragma once

#include "client/base/deadline.h"
#include "client/base/fd.h"
#include "client/protocol/uri.h"

#include <chrono>
#include <deque>
#include <optional>
#include <poll.h>
#include <span>
#include <string>
#include <sys/socket.h>
#include <vector>

namespace nbd {

/// One socket address of a server; `text` is "127.0.0.1:10809", "[::1]:10809" or "unix:/path".
struct Address {
    sockaddr_storage storage{};
    socklen_t length = 0;
    std::string text;
    std::size_t tag = 0;  ///< the caller's own mark, kept as it is
};

/// All addresses of an endpoint, in the resolver's order. Names are looked up in a child process,
/// because getaddrinfo() can neither be bounded nor cancelled; literal addresses and unix sockets
/// need no child. A name that does not exist (absent) is told from a resolver that does not answer
/// (unreachable).
Result<std::vector<Address>> resolve(const Endpoint& endpoint, const Deadline& deadline);

/// Connection attempts under way at the same time: a new one may be started while older ones still
/// wait for an answer, so a server that returns is found at once and a slow one is not given up.
class ConnectRace {
public:
    struct Winner {
        Fd socket;  ///< non-blocking, close-on-exec
        Address address;
    };
    /// Most attempts under way; starting one more gives up the oldest.
    static constexpr std::size_t limit = 8;

    /// The error of the attempt that ended with this: the new one, refused at once, or the oldest.
    std::optional<Error> start(const Address& address);
    /// What to poll for (POLLOUT), one entry per attempt under way.
    std::vector<pollfd> poll_list() const;
    /// Looks at every attempt without waiting; the first that is connected ends the race.
    std::optional<Winner> take_winner();
    bool empty() const { return attempts_.empty(); }
    void clear() { attempts_.clear(); }
    /// Why the latest failed attempt failed: "cannot connect to store:10809: connection refused".
    const std::optional<Error>& last_error() const { return last_error_; }

private:
    struct Attempt {
        Fd socket;
        Address address;
    };
    std::deque<Attempt> attempts_;
    std::optional<Error> last_error_;
};

/// Tries all addresses, a new one every 250 ms or as soon as one fails, until one is connected, all
/// have failed or the deadline passes.
Result<ConnectRace::Winner> connect_any(std::span<const Address> addresses,
                                        const Deadline& deadline);

/// Socket options the kernel driver needs on a socket before hand-over: blocking, no SO_*TIMEO left
/// from us (it would tear an idle link down), TCP_NODELAY, no cork; keepalive and TCP_USER_TIMEOUT
/// so that a silent peer is seen after `keepalive` (0: off).
Result<void> prepare_for_kernel(int fd, std::chrono::seconds keepalive);

/// Whether the last close of a TCP socket resets the connection: what is left to send is dropped
/// then, not delivered. A write that reached the server after the same write and newer ones had
/// gone over another connection would undo them.
void reset_on_close(int fd, bool yes);

/// Waits until another reader of a connection that has ended has read what came before, for 50 ms
/// at most: an answer that is thrown away would be missed until its request's timer.
void let_reader_finish(int fd);

/// Ends a connection, through whichever descriptor, without delivering what is left to send.
void abort_connection(int fd);

}  // namespace nbd
