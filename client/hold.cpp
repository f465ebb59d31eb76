// SPDX-License-Identifier: MIT
// Stays with a device that no watchdog can repair: no reconnecting asked for, or the ioctl
// interface.
#include "client/hold.h"

#include "client/base/log.h"
#include "client/base/text.h"
#include "client/detach.h"

#include <algorithm>
#include <chrono>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <utility>
#include <vector>

namespace nbd {

namespace {

using namespace std::chrono_literals;

class Hold {
public:
    Hold(const AttachRequest& request, Attachment attachment, Dialer dialer,
         const WatchWorld& world)
        : request_(request),
          attachment_(std::move(attachment)),
          dialer_(std::move(dialer)),
          world_(world),
          served_here_(!world.kernel.can_reconfigure()) {}

    Result<void> run() {
        for (;;) {
            wait_for_end();
            if (!ended_) return {};
            if (asked_to_end_ || !served_here_ || request_.reconnect_for.value_or(0s) == 0s) break;
            log(Level::warning, name() + ": the server is gone, I/O fails until it returns");
            attach_again();
            if (asked_to_end_) return {};
        }
        // A detach by somebody shuts the sockets before it frees the device.
        if (asked_to_end_ || freed_soon()) return {};
        if (!served_here_) TRY(world_.kernel.disconnect(attachment_.status.index));
        return Error{Kind::unreachable,
                     "cannot keep " + device_path(attachment_.status.index) +
                         ": the server has ended the connection",
                     "--reconnect-for keeps a device through this"};
    }

private:
    std::string name() const { return device_name(attachment_.status.index); }

    /// Returns with `ended_` set when the connections are gone, without it when we are to leave.
    void wait_for_end() {
        ended_ = false;
        for (;;) {
            std::vector<pollfd> fds = {{world_.signals.fd(), POLLIN, 0},
                                       {world_.kernel.ended_fd(), POLLIN, 0}};
            // In ioctl mode DO_IT itself says when all is over.
            if (!served_here_)
                for (const Connection& connection : attachment_.connections)
                    fds.push_back({connection.socket.get(), POLLRDHUP, 0});
            if (::poll(fds.data(), fds.size(), -1) < 0) continue;
            if (fds[0].revents != 0 && take_signals()) return;
            ended_ = fds[1].revents != 0 || (!served_here_ && bury_dead());
            if (ended_ && served_here_ && !has_status()) asked_to_end_ = true;
            if (ended_) return;
            if (!served_here_ && !still_attached()) return;
        }
    }

    /// detach() takes the status file away first: DO_IT returns alike for it and for a dead server.
    bool has_status() const {
        return read_status(world_.runtime_directory, attachment_.status.index).has_value();
    }

    bool still_attached() const {
        return is_attachment(world_.sysfs.read(attachment_.status.index), attachment_.status);
    }

    bool freed_soon() const {
        const Deadline deadline = Deadline::in(1s);
        while (still_attached() && !served_here_ && !deadline.expired())
            pause_until(deadline.at_most(20ms));
        return !still_attached() && !served_here_;
    }

    /// True when no connection is left of a device that is still attached.
    bool bury_dead() {
        std::erase_if(attachment_.connections, [](const Connection& connection) {
            pollfd entry{connection.socket.get(), POLLRDHUP, 0};
            return ::poll(&entry, 1, 0) > 0;
        });
        return attachment_.connections.empty() && still_attached();
    }

    /// True when we are to leave.
    bool take_signals() {
        while (const auto number = world_.signals.take()) {
            if (*number == SIGHUP) continue;
            if (*number == SIGTERM && !served_here_) return true;
            // Without us the device would die under its user.
            auto freed = detach(attachment_.status.index, false, world_.kernel, world_.sysfs,
                                world_.runtime_directory);
            if (!freed) {
                log(Level::warning, freed.error().what);
                continue;
            }
            asked_to_end_ = true;
            if (!served_here_) return true;
        }
        return false;
    }

    /// Goes on until it succeeds or we are to leave; no failure of an attempt is the end.
    void attach_again() {
        while (!asked_to_end_ && has_status()) {
            if (auto attached = try_to_attach()) {
                log(Level::warning,
                    name() + ": attached again to " + attachment_.connections.front().server);
                return;
            } else if (attached.error().kind != Kind::cancelled) {
                log(Level::info, name() + ": " + attached.error().what);
            }
            pause_until(Deadline::in(1s, world_.signals.fd()));
            take_signals();
        }
        asked_to_end_ = true;
    }

    Result<void> try_to_attach() {
        const Deadline deadline = Deadline::in(request_.connect_timeout, world_.signals.fd());
        TRY(dialer_.resolve(deadline));
        Plan plan = TRY(negotiate(request_, dialer_, deadline));
        const RuntimeStatus& status = attachment_.status;
        TRY(check_same_export(status.agreed, plan.connections.front().info,
                              {attachment_.size, status.block_size, status.connections},
                              plan.connections.front().server));
        plan.request.index = status.index;
        plan.request.size = attachment_.size;
        plan.request.block_size = status.block_size;
        TRY(world_.kernel.connect(plan.request));
        attachment_.connections = std::move(plan.connections);
        return {};
    }

    AttachRequest request_;
    Attachment attachment_;
    Dialer dialer_;
    WatchWorld world_;
    bool served_here_;
    bool ended_ = false;
    bool asked_to_end_ = false;
};

}  // namespace

Result<void> hold(const AttachRequest& request, Attachment attachment, Dialer dialer,
                  const WatchWorld& world) {
    return Hold(request, std::move(attachment), std::move(dialer), world).run();
}

}  // namespace nbd
