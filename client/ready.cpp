// SPDX-License-Identifier: MIT
// Waits until an attached device can be used: node, size, a read, partitions, udev.
#include "client/ready.h"

#include "client/base/fd.h"
#include "client/base/process.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <fcntl.h>
#include <unistd.h>

namespace nbd {

namespace {

using namespace std::chrono_literals;

constexpr std::size_t probe_length = 4096;
/// Largest logical block size of any kernel (7.x).
constexpr std::size_t largest_block = 65536;

/// The words after "cannot read /dev/nbd0: ", empty when all is well.
std::string probe(const std::string& path, std::uint64_t size) {
    const Fd node(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!node) return errno_text(errno);
    // Past the cache, or the answer would say nothing about the server.
    ::posix_fadvise(node.get(), 0, 0, POSIX_FADV_DONTNEED);
    std::array<std::byte, probe_length> block;
    const std::uint64_t last = size - std::min<std::uint64_t>(size, probe_length);
    for (const std::uint64_t offset : {std::uint64_t{0}, last}) {
        const ssize_t count =
            ::pread(node.get(), block.data(), block.size(), static_cast<off_t>(offset));
        if (count < 0) return errno_text(errno);
        if (count == 0) return "the device is empty";
    }
    return "";
}

Result<void> wait_for_node(const std::string& path, const Deadline& deadline) {
    while (::access(path.c_str(), F_OK) != 0) {
        if (deadline.expired())
            return Error{Kind::unsupported, "cannot use " + path + ": the node does not appear",
                         "is devtmpfs mounted on /dev?"};
        // devtmpfs creates the node before CONNECT returns; only udev and mdev are later.
        if (!pause_until(deadline.at_most(20ms)) && !deadline.expired())
            return Error{Kind::cancelled, "interrupted"};
    }
    return {};
}

}  // namespace

Result<Clock::duration> wait_until_usable(std::uint32_t index, std::uint64_t size,
                                          const Sysfs& sysfs, bool settle,
                                          const Deadline& deadline) {
    const std::string path = sysfs.node(index);
    TRY(wait_for_node(path, deadline));
    const auto state = sysfs.read(index);
    if (!state || !state->configured)
        return Error{Kind::unreachable, "cannot use " + path + ": the kernel has dropped it again"};
    if (state->size != size)
        return Error{Kind::internal, "cannot use " + path + ": it has " +
                                         std::to_string(state->size) + " bytes, not " +
                                         std::to_string(size)};
    const auto start = Clock::now();
    const auto trouble = run_in_child([&] { return probe(path, size); }, 256, deadline);
    if (!trouble && trouble.error().kind == Kind::cancelled) return trouble.error();
    const std::string words = trouble ? *trouble : "no answer from the server";
    if (!words.empty()) return Error{Kind::unreachable, "cannot read " + path + ": " + words};
    const auto answered_in = Clock::now() - start;
    // Without a udev there is nothing to wait for.
    if (settle && ::access("/run/udev/control", F_OK) == 0)
        static_cast<void>(run_program({"udevadm", "settle", "--timeout=5"}, deadline.at_most(6s)));
    return answered_in;
}

bool can_read(std::uint32_t index, std::uint64_t block_size, const Sysfs& sysfs,
              const Deadline& deadline) {
    const auto answer = run_in_child(
        [&]() -> std::string {
            // Untouched but in the child: costs the watchdog no memory.
            alignas(largest_block) static std::array<std::byte, largest_block> block;
            const Fd node(::open(sysfs.node(index).c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
            const std::size_t length = std::min<std::uint64_t>(block_size, block.size());
            return node && ::pread(node.get(), block.data(), length, 0) > 0 ? "alive" : "dead";
        },
        16, deadline);
    return answer && *answer == "alive";
}

void drop_stale_partitions(std::uint32_t index, const Sysfs& sysfs) {
    const Fd node(::open(sysfs.node(index).c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
}

}  // namespace nbd
