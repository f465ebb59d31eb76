// SPDX-License-Identifier: MIT
// Detaches a device: refuses while it is used, flushes, disconnects under a timer, waits until
// free.
#include "client/detach.h"

#include "client/base/deadline.h"
#include "client/base/log.h"
#include "client/base/process.h"
#include "client/base/text.h"
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

/// What is still in the page cache goes to the server before the connection ends. A server that
/// does not answer must not keep the device: what is unused has been written back at its last
/// close.
void flush(std::uint32_t index, const Sysfs& sysfs) {
    const auto answer = run_in_child(
        [path = sysfs.node(index)]() -> std::string {
            const Fd node(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
            return node && ::fsync(node.get()) == 0 ? "done" : "failed";
        },
        16, Deadline::in(5s));
    if (!answer || *answer != "done")
        log(Level::warning, "cannot flush " + device_path(index) + ": the server does not answer");
}

/// Shuts the watchdog's copies of the sockets down: a DISCONNECT that waits for a peer which takes
/// no more data returns then (all kernels tried, 6.1 to 7.3). pidfd_getfd: Linux 5.6.
void shut_sockets_of(pid_t watchdog) {
    const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, watchdog, 0)));
    // A watchdog has a dozen descriptors.
    for (int number = 3; number < 256; ++number) {
        const Fd copy(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
        int type = 0;
        socklen_t length = sizeof type;
        if (copy && ::getsockopt(copy.get(), SOL_SOCKET, SO_TYPE, &type, &length) == 0 &&
            type == SOCK_STREAM)
            ::shutdown(copy.get(), SHUT_RDWR);
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
void let_watchdog_leave(std::uint32_t index, const StoredStatus& stored,
                        const std::string& runtime_directory) {
    const Deadline deadline = Deadline::in(3s);
    ::kill(stored.status.pid, SIGHUP);
    while (!deadline.expired()) {
        const auto now = read_status(runtime_directory, index);
        if (!now || !now->watched) return;
        pause_until(deadline.at_most(10ms));
    }
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
    if (!disk->configured) return {};

    const auto stored = read_status(runtime_directory, index);
    // Nobody may open the node across a dead connection: the open would wait with it.
    const bool links_live = !stored || !stored->watched || stored->status.live_connections > 0;
    if (!force) {
        TRY(check_unused(index, sysfs));
        if (links_live && held_exclusively(index, sysfs)) return in_use(index, "somebody holds it");
    }
    if (links_live) flush(index, sysfs);
    // Whoever serves the device by ioctl cannot tell a detach from a server's end but by this.
    if (!disk->backend) remove_status(runtime_directory, index);
    TRY(disconnect_with_timer(index, kernel, stored));
    TRY(wait_until_free(index, sysfs));
    if (stored && stored->watched) let_watchdog_leave(index, *stored, runtime_directory);
    drop_stale_partitions(index, sysfs);
    remove_status(runtime_directory, index);
    return {};
}

Result<void> detach_when_closed(std::uint32_t index, Kernel& kernel, const Sysfs& sysfs,
                                const std::string& runtime_directory) {
    const auto disk = sysfs.read(index);
    const bool unused = !disk || (check_unused(index, sysfs) && !held_exclusively(index, sysfs));
    if (unused || !disk->configured) return detach(index, false, kernel, sysfs, runtime_directory);
    return kernel.reconfigure(
        {.index = index, .backend = disk->backend.value_or(""), .disconnect_on_close = true});
}

}  // namespace nbd
