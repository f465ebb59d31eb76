// SPDX-License-Identifier: MIT
// Detaches a device: refuses while it is used, flushes, disconnects under a timer, waits until
// free.
#include "client/detach.h"

#include "client/base/deadline.h"
#include "client/base/log.h"
#include "client/base/process.h"
#include "client/base/text.h"
#include "client/protocol/connect.h"
#include "client/ready.h"
#include "client/runtime.h"
#include "client/worker.h"

#include <cerrno>
#include <chrono>
#include <fcntl.h>
#include <optional>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace nbd {

namespace {

using namespace std::chrono_literals;

std::string describe(const DiskUser& user) {
    const std::string device = user.device + " is ";
    switch (user.how) {
        case DiskUser::How::mounted:
            return device + (user.where == "/" ? "the root file system"
                                               : "mounted on " + printable(user.where));
        case DiskUser::How::swap:
            return device + "in use as swap";
        case DiskUser::How::held:
            return device + "held by " + printable(user.where);
    }
    return device + "in use";
}

Error in_use(std::uint32_t index, const std::string& how) {
    return {Kind::busy, "cannot detach " + device_path(index) + ": " + how,
            "unmount it or take it out of use first; --force detaches all the same and loses data"};
}

/// An exclusive open fails while anybody holds the device, also in mount namespaces we cannot see.
/// In a child with a limit: the open waits if the connection is dead.
bool held_exclusively(std::uint32_t index, const Sysfs& sysfs) {
    const auto answer = run_in_child(
        [path = sysfs.node(index)]() -> std::string {
            const Fd node(::open(path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
            return !node && errno == EBUSY ? "busy" : "free";
        },
        16, Deadline::in(2s));
    return answer && *answer == "busy";
}

/// What is still in the page cache goes to the server before the connection ends. Fails when the
/// server does not answer in time; where I/O fails at once there is nothing left to save.
Result<void> flush(std::uint32_t index, const Sysfs& sysfs, Clock::duration limit) {
    const auto done = run_in_child(
        [path = sysfs.node(index)]() -> std::string {
            const Fd node(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
            return node && ::fsync(node.get()) == 0 ? "done" : "failed";
        },
        16, Deadline::in(limit));
    if (done) return {};
    return Error{Kind::unreachable,
                 "cannot flush " + device_path(index) + ": the server does not answer",
                 "--force detaches all the same"};
}

/// Ends the connections through the watchdog's copies of the sockets: a DISCONNECT that waits for a
/// peer which takes no more data returns then (all kernels tried, 6.1 to 7.3). pidfd_getfd:
/// Linux 5.6.
void shut_sockets_of(pid_t watchdog) {
    const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, watchdog, 0)));
    // A watchdog has a dozen descriptors.
    for (int number = 3; number < 256; ++number) {
        const Fd copy(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
        int type = 0;
        socklen_t length = sizeof type;
        if (copy && ::getsockopt(copy.get(), SOL_SOCKET, SO_TYPE, &type, &length) == 0 &&
            type == SOCK_STREAM)
            abort_connection(copy.get());
    }
}

std::optional<Result<void>> wait_for_job(Worker& worker, Clock::duration limit) {
    if (!wait_for(worker.fd(), POLLIN, Deadline::in(limit))) return std::nullopt;
    return worker.take();
}

/// DISCONNECT hangs while the send buffer to a stalled server is full, holding a lock that every
/// user of generic netlink on the machine waits for.
Result<void> disconnect_with_timer(std::uint32_t index, Kernel& kernel,
                                   const std::optional<StoredStatus>& stored) {
    Worker worker;
    worker.start([&kernel, index] { return kernel.disconnect(index); });
    if (auto outcome = wait_for_job(worker, 5s)) return *std::move(outcome);
    if (stored && stored->watched) shut_sockets_of(stored->status.pid);
    if (auto outcome = wait_for_job(worker, 25s)) return *std::move(outcome);
    return Error{Kind::busy, "cannot detach " + device_path(index) + ": the kernel does not answer",
                 "it waits for the server; stop the server or cut the connection"};
}

Result<void> wait_until_free(std::uint32_t index, const Sysfs& sysfs) {
    const Deadline deadline = Deadline::in(5s);
    for (;;) {
        const auto disk = sysfs.read(index);
        if (!disk || !disk->configured) return {};
        if (deadline.expired())
            return Error{Kind::busy,
                         "cannot free " + device_path(index) +
                             ": it is disconnected, but somebody still has it open",
                         "it becomes free when the last user closes it"};
        // sysfs sends no event for this attribute.
        pause_until(deadline.at_most(10ms));
    }
}

/// The watchdog sees its live connections end, but in an outage it has none: HUP makes it look.
void let_watchdog_leave(const StoredStatus& stored, const std::string& runtime_directory) {
    const Deadline deadline = Deadline::in(3s);
    ::kill(stored.status.pid, SIGHUP);
    while (!deadline.expired()) {
        const auto now = read_status(runtime_directory, stored.status.index);
        if (!now || !now->watched) return;
        pause_until(deadline.at_most(10ms));
    }
}

/// Between two attachments of a device served by ioctl nothing is configured, but somebody is about
/// to change that.
Result<void> end_holder(std::uint32_t index, const std::optional<StoredStatus>& stored,
                        const std::string& runtime_directory) {
    if (!stored || !stored->watched) return {};
    remove_status(runtime_directory, index);
    let_watchdog_leave(*stored, runtime_directory);
    return {};
}

}  // namespace

Result<void> check_unused(std::uint32_t index, const Sysfs& sysfs) {
    const auto users = sysfs.users(index);
    if (!users.empty()) return in_use(index, describe(users.front()));
    return {};
}

Result<void> detach(std::uint32_t index, bool force, Kernel& kernel, const Sysfs& sysfs,
                    const std::string& runtime_directory) {
    const auto disk = sysfs.read(index);
    if (!disk)
        return Error{Kind::absent, "cannot detach " + device_path(index) + ": no such device",
                     "nbd-client list shows what is attached"};
    auto stored = read_status(runtime_directory, index);
    // Whoever watches a device may be detaching it itself.
    if (stored && stored->status.pid == ::getpid()) stored->watched = false;
    if (!disk->configured) return end_holder(index, stored, runtime_directory);

    // Nobody may open the node across a dead connection: the open would wait with it.
    const bool links_live = !stored || !stored->watched || stored->status.live_connections > 0;
    if (!force) {
        TRY(check_unused(index, sysfs));
        if (links_live && held_exclusively(index, sysfs)) return in_use(index, "somebody holds it");
    }
    if (links_live) {
        auto flushed = flush(index, sysfs, force ? 5s : 30s);
        if (!flushed && !force) return flushed;
        if (!flushed) log(Level::warning, flushed.error().what);
    }
    // Whoever serves the device by ioctl cannot tell a detach from a server's end but by this.
    if (!disk->backend) remove_status(runtime_directory, index);
    TRY(disconnect_with_timer(index, kernel, stored));
    if (auto freed = wait_until_free(index, sysfs); !freed) {
        // There is nothing left to watch, but the kernel shows the device until its last close.
        if (stored && stored->watched) ::kill(stored->status.pid, SIGTERM);
        return freed;
    }
    if (stored && stored->watched) let_watchdog_leave(*stored, runtime_directory);
    drop_stale_partitions(index, sysfs);
    if (stored && !is_attachment(sysfs.read(index), stored->status))
        remove_status(runtime_directory, index);
    return {};
}

Result<void> detach_when_closed(std::uint32_t index, Kernel& kernel, const Sysfs& sysfs,
                                const std::string& runtime_directory) {
    const auto disk = sysfs.read(index);
    if (!disk || !disk->configured) return detach(index, false, kernel, sysfs, runtime_directory);
    const auto stored = read_status(runtime_directory, index);
    if (stored && stored->watched && stored->status.live_connections == 0)
        return Error{
            Kind::unreachable,
            "cannot detach " + device_path(index) + " when it is closed: no connection is alive",
            "try again when the server is back, or detach --force"};
    // The last close detaches; if nobody else has it open, ours is the last.
    const Fd node(::open(sysfs.node(index).c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    return kernel.reconfigure(
        {.index = index, .backend = disk->backend.value_or(""), .disconnect_on_close = true});
}

}  // namespace nbd
