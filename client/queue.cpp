// SPDX-License-Identifier: MIT
// Sets up the request queue of a device just attached, before anybody else uses it.
#include "client/queue.h"

#include "client/base/log.h"
#include "client/base/process.h"
#include "client/protocol/ktls.h"

#include <string>
#include <string_view>
#include <sys/utsname.h>

namespace nbd {

namespace {

/// Largest discard where a request must be answered within the quick timeout; the driver sends up
/// to 4 GiB at once, which a server may have to work on for many seconds.
constexpr std::uint64_t quick_discard = 256ULL << 20;

/// The largest requests do not go with CONNECT, and the kernel keeps them from one use of a device
/// to the next; before anybody else opens the node. The answer is a warning, or empty.
std::string limit_requests(std::uint32_t index, const ExportInfo& agreed, bool quick,
                           const Sysfs& sysfs) {
    const auto limit = [&](std::string_view attribute, std::uint64_t most) -> Result<void> {
        if (sysfs.queue_value(index, attribute).value_or(0) <= most) return {};
        return sysfs.write_queue(index, attribute, most);
    };
    // 0 takes back what the last use has set: since Linux 6.2, refused before.
    static_cast<void>(sysfs.write_queue(index, "max_sectors_kb", 0));
    const std::uint64_t wanted = agreed.block_sizes ? agreed.block_sizes->maximum / 1024 : 0;
    if (wanted > 0)
        if (auto set = limit("max_sectors_kb", wanted); !set) return set.error().what;
    if (const auto most = sysfs.queue_value(index, "discard_max_hw_bytes"); most.value_or(0) > 0) {
        static_cast<void>(sysfs.write_queue(index, "discard_max_bytes", *most));
        if (quick)
            if (auto set = limit("discard_max_bytes", quick_discard); !set) return set.error().what;
    }
    // 6.12 leaves WRITE_ZEROES on for the next user of an index (gone in 7.3).
    if (!agreed.has(TransmissionFlag::send_write_zeroes) &&
        sysfs.queue_value(index, "write_zeroes_max_bytes").value_or(0) > 0)
        return device_path(index) +
               ": this kernel may send the server WRITE_ZEROES, which it does not offer; another "
               "device avoids that";
    return "";
}

/// A scheduler makes the kernel's own threads send, which no signal reaches. The answer is a
/// warning, or empty.
std::string avoid_signals(std::uint32_t index, const Sysfs& sysfs) {
    utsname system{};
    ::uname(&system);
    if (!breaks_on_signals(system.release, system.version)) return "";
    if (sysfs.scheduler(index) != "none") return "";
    auto set = sysfs.set_scheduler(index, "mq-deadline");
    if (set) return "";
    return device_path(index) + ": a signal to a writing process may cut its connection (" +
           set.error().what + ")";
}

}  // namespace

/// In a child: since 6.12 a write to queue/ waits for requests in flight, and a server may have
/// gone mute just after its handshake.
Result<void> prepare_queue(std::uint32_t index, const QueueNeeds& needs, const Sysfs& sysfs,
                           const Deadline& deadline) {
    const auto work = [&] {
        std::string warning = limit_requests(index, needs.agreed, needs.quick, sysfs);
        if (warning.empty() && needs.kernel_tls) warning = avoid_signals(index, sysfs);
        return warning;
    };
    const std::string warning = TRY(run_in_child(work, 1024, deadline));
    if (!warning.empty()) log(Level::warning, warning);
    return {};
}

}  // namespace nbd
