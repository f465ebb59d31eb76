// SPDX-License-Identifier: MIT
// Attaches an export: negotiates, hands the sockets to the kernel, waits until the device is
// usable.
#include "client/attach.h"

#include "client/base/log.h"
#include "client/base/process.h"
#include "client/base/text.h"
#include "client/queue.h"
#include "client/ready.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <sched.h>
#include <sys/random.h>
#include <unistd.h>
#include <utility>

namespace nbd {

namespace {

using namespace std::chrono_literals;

constexpr unsigned most_auto_connections = 4;
constexpr std::uint64_t least_block_size = 512;
/// A server that takes longer for the first reads is none for the quick timeout.
constexpr auto quick_answer = quick_timeout / 2;
/// A sysfs attribute is one page; the identifier must be readable there whole.
constexpr std::size_t longest_backend = 1024;

unsigned online_cpus() {
    const long count = ::sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? static_cast<unsigned>(count) : 1;
}

/// How many connections to open. The driver refuses several without CAN_MULTI_CONN, and sockets
/// beyond the number of CPUs carry no traffic.
unsigned choose_connections(const AttachRequest& request, const ExportInfo& agreed,
                            std::vector<std::string>& warnings) {
    const bool allowed = agreed.has(TransmissionFlag::can_multi_conn);
    if (!request.connections) return allowed ? std::min(online_cpus(), most_auto_connections) : 1;
    if (*request.connections > 1 && !allowed) {
        warnings.push_back(
            "the server does not announce CAN_MULTI_CONN, using 1 connection instead of " +
            std::to_string(*request.connections));
        return 1;
    }
    return *request.connections;
}

Result<std::uint64_t> choose_block_size(const AttachRequest& request, const ExportInfo& agreed) {
    const std::uint64_t minimum = agreed.block_sizes ? agreed.block_sizes->minimum : 1;
    const std::uint64_t size = request.block_size.value_or(std::max(minimum, least_block_size));
    const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    // Linux 7.x takes up to 64 KiB; anything below 7 at most a page. Let the kernel decide above
    // that.
    if (!std::has_single_bit(size) || size < least_block_size ||
        size > std::max<std::uint64_t>(page, 65536))
        return Error{Kind::usage,
                     "cannot use block size " + std::to_string(size) +
                         ": the kernel takes powers of two from 512 to the page size",
                     "leave --block-size out"};
    if (size < minimum)
        return Error{Kind::refused,
                     "cannot use block size " + std::to_string(size) +
                         ": the server's minimum is " + std::to_string(minimum),
                     "leave --block-size out, or give " + std::to_string(minimum)};
    return size;
}

Result<std::uint64_t> choose_size(const AttachRequest& request, const ExportInfo& agreed,
                                  std::uint64_t block_size, std::vector<std::string>& warnings) {
    const std::uint64_t size = request.size.value_or(agreed.size);
    if (size > agreed.size)
        return Error{Kind::usage,
                     "cannot make the device " + std::to_string(size) +
                         " bytes large: the export has " + std::to_string(agreed.size),
                     "leave --size out"};
    const std::uint64_t whole = size - size % block_size;
    if (whole == 0)
        return Error{Kind::refused, "cannot attach the export: it has " + std::to_string(size) +
                                        " bytes, less than one block of " +
                                        std::to_string(block_size)};
    if (whole != size)
        warnings.push_back("the last " + std::to_string(size - whole) + " of " +
                           std::to_string(size) + " bytes do not fill a block of " +
                           std::to_string(block_size) + " and cannot be reached");
    return whole;
}

std::string fresh_id() {
    std::array<std::uint8_t, 8> bytes{};
    // Never blocks for so few bytes once the pool is ready; before that any number will do.
    [[maybe_unused]] const ssize_t count = ::getrandom(bytes.data(), bytes.size(), GRND_NONBLOCK);
    std::string text;
    for (const std::uint8_t byte : bytes) {
        text += "0123456789abcdef"[byte >> 4];
        text += "0123456789abcdef"[byte & 15];
    }
    return text;
}

std::string backend_for(const AttachRequest& request) {
    if (!request.id.empty()) return request.id;
    return to_uri(request.target).substr(0, longest_backend) + "#" + fresh_id();
}

/// Frees a device again unless the attachment succeeded.
class Rollback {
public:
    Rollback(Kernel& kernel, const Sysfs& sysfs, std::uint32_t index,
             const std::vector<Connection>& connections)
        : kernel_(kernel), sysfs_(sysfs), index_(index), connections_(connections) {}
    Rollback(const Rollback&) = delete;
    Rollback& operator=(const Rollback&) = delete;
    ~Rollback() {
        if (done_) return;
        // DISCONNECT sends to each socket first and would wait for one that does not take it.
        for (const Connection& connection : connections_) abort_connection(connection.socket.get());
        if (auto freed = kernel_.disconnect(index_); !freed) log(Level::error, freed.error().what);
        drop_stale_partitions(index_, sysfs_);
    }
    void commit() { done_ = true; }

private:
    Kernel& kernel_;
    const Sysfs& sysfs_;
    std::uint32_t index_;
    const std::vector<Connection>& connections_;
    bool done_ = false;
};

Error busy_error(const DiskState& disk) {
    std::string by =
        disk.backend && !disk.backend->empty() ? " to " + printable(*disk.backend) : "";
    if (disk.pid > 0) by += " by process " + std::to_string(disk.pid);
    return {Kind::busy, "cannot attach to " + device_path(disk.index) + ": it is attached" + by,
            "leave the device out to take a free one, or detach it first"};
}

/// The lock of a device that may still have a watchdog on its way out.
Result<RuntimeLock> lock_patiently(const std::string& directory, std::uint32_t index,
                                   int cancel_fd) {
    const Deadline deadline = Deadline::in(3s, cancel_fd);
    for (;;) {
        auto lock = RuntimeLock::take(directory, index);
        if (lock || lock.error().kind != Kind::busy || deadline.expired()) return lock;
        if (!pause_until(deadline.at_most(20ms)) && !deadline.expired()) return lock;
    }
}

/// CONNECT with a bounded patience: a probing udev makes the device busy for a moment, and one that
/// has just been destroyed is "going down". Both are refused before the sockets are touched, so
/// they can be offered again; after any other failure they may be dead.
Result<std::uint32_t> connect_patiently(const ConnectRequest& request, Kernel& kernel,
                                        const Sysfs& sysfs, int cancel_fd) {
    const Deadline deadline = Deadline::in(2s, cancel_fd);
    for (;;) {
        auto index = kernel.connect(request);
        if (index) return index;
        const Kind kind = index.error().kind;
        if (request.index && kind == Kind::busy)
            if (const auto disk = sysfs.read(*request.index); disk && disk->configured)
                return busy_error(*disk);
        const bool going_down =
            kind == Kind::refused && request.index && !sysfs.read(*request.index);
        if ((kind != Kind::busy && !going_down) || deadline.expired()) return index;
        if (!pause_until(deadline.at_most(50ms)) && !deadline.expired())
            return Error{Kind::cancelled, "interrupted"};
    }
}

/// Request timeout until the server has shown how quickly it answers: a request keeps the timer it
/// was sent with.
std::chrono::seconds first_timeout(const AttachRequest& request, unsigned connections) {
    if (request.io_timeout) return std::min(*request.io_timeout, max_timeout);
    return connections > 1 ? patient_timeout : 0s;
}

/// The timeout of a usable device. The ioctl interface sends nothing again, so nothing is gained
/// there from one that is shorter.
Result<void> settle_timeout(const AttachRequest& request, std::uint32_t index,
                            Clock::duration answered_in, Kernel& kernel, ConnectRequest& connect) {
    const auto wanted = choose_timeout(request, static_cast<unsigned>(connect.sockets.size()));
    if (wanted == connect.timeout || answered_in > quick_answer || !kernel.can_reconfigure())
        return {};
    TRY(kernel.reconfigure({.index = index, .backend = connect.backend, .timeout = wanted}));
    connect.timeout = wanted;
    return {};
}

/// The first connection is open; the others must come if they were asked for by number, and may
/// stay away (a server that limits its clients) if not.
Result<void> add_connections(const AttachRequest& request, const Dialer& dialer,
                             const Deadline& deadline, Plan& plan) {
    const unsigned count = choose_connections(request, plan.agreed, plan.warnings);
    if (count == 1) return {};
    const Deadline limit = request.connections ? deadline : deadline.at_most(2s);
    for (auto& more : dialer.dial_more(plan.connections.front(), count - 1, limit)) {
        if (more)
            plan.connections.push_back(*std::move(more));
        else if (request.connections || more.error().kind == Kind::cancelled)
            return std::move(more).error();
    }
    if (plan.connections.size() < count)
        plan.warnings.push_back("the server takes only " + std::to_string(plan.connections.size()) +
                                " of " + std::to_string(count) + " connections");
    return {};
}

bool worth_another_round(Kind kind) {
    switch (kind) {
        case Kind::unreachable:
        case Kind::refused:
        case Kind::absent:
        case Kind::protocol:
        case Kind::mismatch:
            return true;
        default:
            return false;
    }
}

}  // namespace

std::chrono::seconds choose_timeout(const AttachRequest& request, unsigned connections) {
    const bool quick = !request.io_timeout && request.reconnect_for.value_or(0s) != 0s;
    return quick ? quick_timeout : first_timeout(request, connections);
}

std::chrono::seconds choose_dead_conn_timeout(const AttachRequest& request) {
    return std::min(request.reconnect_for.value_or(0s), max_dead_conn_timeout);
}

Result<Plan> negotiate(const AttachRequest& request, Dialer& dialer, const Deadline& deadline) {
    Plan plan;
    plan.connections.push_back(TRY(dialer.dial(deadline)));
    plan.agreed = plan.connections.front().info;
    TRY(add_connections(request, dialer, deadline, plan));
    const auto count = static_cast<unsigned>(plan.connections.size());
    if (request.read_only)
        plan.agreed.flags |= static_cast<std::uint16_t>(TransmissionFlag::read_only);

    ConnectRequest& kernel_request = plan.request;
    kernel_request.index = request.index;
    kernel_request.block_size = TRY(choose_block_size(request, plan.agreed));
    kernel_request.size =
        TRY(choose_size(request, plan.agreed, kernel_request.block_size, plan.warnings));
    kernel_request.timeout = first_timeout(request, count);
    kernel_request.dead_conn_timeout = choose_dead_conn_timeout(request);
    kernel_request.server_flags = plan.agreed.flags;
    kernel_request.backend = backend_for(request);
    for (const Connection& connection : plan.connections)
        kernel_request.sockets.push_back(connection.socket.get());
    return plan;
}

Result<Plan> negotiate_patiently(const AttachRequest& request, Dialer& dialer, int cancel_fd,
                                 const std::function<void(const Error&)>& on_retry) {
    const Deadline patience = request.connect_for == forever
                                  ? Deadline::at(Clock::time_point::max(), cancel_fd)
                                  : Deadline::in(request.connect_for, cancel_fd);
    for (Clock::duration pause = 100ms;; pause = std::min<Clock::duration>(pause * 2, 2s)) {
        auto resolved = dialer.resolve(Deadline::in(request.connect_timeout, cancel_fd));
        auto plan =
            resolved ? negotiate(request, dialer, Deadline::in(request.connect_timeout, cancel_fd))
                     : Result<Plan>(resolved.error());
        if (plan || !worth_another_round(plan.error().kind) || patience.expired()) return plan;
        on_retry(plan.error());
        if (!pause_until(patience.at_most(pause)) && !patience.expired())
            return Error{Kind::cancelled, "interrupted"};
    }
}

std::string describe(const ConnectRequest& request) {
    std::string text = "NBD_CMD_CONNECT";
    const auto add = [&text](std::string_view name, const std::string& value) {
        text += "\n  " + std::string(name) + ": " + value;
    };
    add("index", request.index ? std::to_string(*request.index) : "any");
    add("size_bytes", std::to_string(request.size));
    add("block_size_bytes", std::to_string(request.block_size));
    add("timeout", format_duration(request.timeout));
    add("dead_conn_timeout", format_duration(request.dead_conn_timeout));
    std::string flags;
    for (unsigned bit = 0; bit < 16; ++bit) {
        const auto flag = static_cast<TransmissionFlag>(1U << bit);
        if ((request.server_flags >> bit & 1U) != 0 && !flag_name(flag).empty())
            flags += (flags.empty() ? "" : ",") + std::string(flag_name(flag));
    }
    add("server_flags", flags);
    add("backend_identifier", printable(request.backend));
    add("sockets", std::to_string(request.sockets.size()));
    return text + "\n";
}

std::optional<std::uint32_t> find_same(const AttachRequest& request, const Sysfs& sysfs) {
    const std::string wanted = request.id.empty() ? to_uri(request.target) : request.id;
    for (const std::uint32_t index : sysfs.indexes()) {
        const auto disk = sysfs.read(index);
        if (!disk || !disk->configured || !disk->backend) continue;
        const std::string_view backend = *disk->backend;
        if (backend == wanted || (request.id.empty() && without_fresh_id(backend) == wanted))
            return index;
    }
    return std::nullopt;
}

Result<Attachment> hand_over(const AttachRequest& request, Plan plan, Kernel& kernel,
                             const Sysfs& sysfs, const Watched& watched, int cancel_fd) {
    const std::uint32_t index = TRY(connect_patiently(plan.request, kernel, sysfs, cancel_fd));
    Rollback rollback(kernel, sysfs, index, plan.connections);
    std::optional<RuntimeLock> lock;
    if (watched.stays) lock = TRY(lock_patiently(watched.runtime_directory, index, cancel_fd));
    const Deadline deadline = Deadline::in(std::max(request.connect_timeout, 10s), cancel_fd);
    const auto count = static_cast<unsigned>(plan.connections.size());
    // With one connection a request that turns out slow gets its time.
    const bool quick = count > 1 && choose_timeout(request, count) == quick_timeout;
    const bool kernel_tls = plan.connections.front().offload == offload_kernel;
    TRY(prepare_queue(index, {plan.agreed, quick, kernel_tls}, sysfs, deadline));
    const auto answered_in =
        TRY(wait_until_usable(index, plan.request.size, sysfs, request.settle, deadline));
    TRY(settle_timeout(request, index, answered_in, kernel, plan.request));
    rollback.commit();

    const auto now = std::chrono::system_clock::now();
    Attachment attachment{.lock = std::move(lock),
                          .status = {.index = index,
                                     .backend = plan.request.backend,
                                     .uri = to_uri(request.target),
                                     .settings = watched.settings,
                                     .agreed = plan.agreed,
                                     .block_size = plan.request.block_size,
                                     .connections = count,
                                     .timeout = plan.request.timeout,
                                     .dead_conn_timeout = plan.request.dead_conn_timeout,
                                     .attached_since = now,
                                     .tls = request.target.tls.has_value(),
                                     .offload = plan.connections.front().offload,
                                     .pid = ::getpid(),
                                     .state = LinkState::attached,
                                     .state_since = now,
                                     .live_connections = count,
                                     .reconnects = 0,
                                     .server = plan.connections.front().server,
                                     .last_error = ""},
                          .connections = {}};
    attachment.connections = std::move(plan.connections);
    attachment.size = plan.request.size;
    return attachment;
}

}  // namespace nbd
