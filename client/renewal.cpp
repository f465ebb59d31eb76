// SPDX-License-Identifier: MIT
// Replaces a healthy connection between two requests, before its TLS keys are worn out.
#include "client/renewal.h"

#include "client/base/deadline.h"
#include "client/base/fd.h"
#include "client/base/process.h"
#include "client/protocol/connect.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <new>
#include <sched.h>
#include <string>
#include <string_view>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <system_error>
#include <thread>
#include <unistd.h>

namespace nbd {

namespace {

using namespace std::chrono_literals;

/// How long a server may take to answer what is under way; new requests wait as long.
constexpr auto longest_drain = 400ms;
/// How long a server may take to answer what it still has and to close a connection that we have.
constexpr auto longest_goodbye = 1s;
/// More pairs of changes than there is time for.
constexpr int pairs = 1000;
/// The driver sees the end of a connection within milliseconds.
constexpr auto longest_death = 2s;

/// Each change of queue/nr_requests makes the block layer finish what is under way and hold new
/// requests back meanwhile (blk_mq_freeze_queue(), all kernels from 5.10 to 7.3). In a child: with
/// a connection dead at the wrong moment it may take as long as the outage.
class HeldBack {
public:
    HeldBack(std::uint32_t index, const Sysfs& sysfs)
        : index_(index), sysfs_(sysfs), usual_(sysfs.queue_value(index, attribute).value_or(0)) {
        void* const memory = ::mmap(nullptr, sizeof(Step), PROT_READ | PROT_WRITE,
                                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return;
        step_ = new (memory) Step(0);
        if (usual_ < 8) return;
        try {
            child_ = std::jthread([this] { change(pairs); });
        } catch (const std::system_error&) {
            // No memory for a thread: nothing is held back, and no moment is quiet.
        }
    }
    ~HeldBack() {
        if (child_.joinable()) {
            const std::uint64_t one = 1;
            [[maybe_unused]] const ssize_t written = ::write(stop_.get(), &one, sizeof one);
            child_.join();
            stop_.reset();
            change(0);
        }
        if (step_ != nullptr) ::munmap(step_, sizeof(Step));
    }
    HeldBack(const HeldBack&) = delete;
    HeldBack& operator=(const HeldBack&) = delete;

    /// Whether the child has come so far as to hold anything back.
    bool has_begun() const { return step_ != nullptr && step_->load() > 0; }

    /// Whether no request is under way, and none can come while the change under way lasts. It may
    /// have begun a moment ago and may end in milliseconds: nothing here sleeps. A flush is not
    /// counted as in flight: but the first change of a pair has waited for it, and the second
    /// follows at once.
    bool is_quiet() const {
        const unsigned step = step_ != nullptr ? step_->load() : 0;
        if (step % 4 != 3) return false;
        const auto end = Clock::now() + 500us;
        do {
            if (sysfs_.inflight(index_) != 0) return false;
            ::sched_yield();
        } while (Clock::now() < end);
        return sysfs_.inflight(index_) == 0 && step_->load() == step;
    }

private:
    static constexpr std::string_view attribute = "nr_requests";
    /// Shared with the child: odd while it is changing the attribute.
    using Step = std::atomic<unsigned>;

    /// To one less and back at once.
    void change_twice() const {
        const std::array values = {std::to_string(usual_ - 1), std::to_string(usual_)};
        const std::array files = {sysfs_.open_queue(index_, attribute),
                                  sysfs_.open_queue(index_, attribute)};
        for (std::size_t i = 0; i < values.size(); ++i) {
            if (!files[i]) return;
            step_->fetch_add(1);
            [[maybe_unused]] const ssize_t written =
                ::write(files[i]->get(), values[i].data(), values[i].size());
            step_->fetch_add(1);
        }
    }
    /// So many times; nothing, and as it was, for 0.
    void change(int times) const {
        const auto work = [this, times]() -> std::string {
            for (int i = 0; i < times; ++i) change_twice();
            static_cast<void>(sysfs_.write_queue(index_, attribute, usual_));
            return "";
        };
        static_cast<void>(run_in_child(work, 1, Deadline::in(longest_death, stop_.get())));
    }

    std::uint32_t index_;
    const Sysfs& sysfs_;
    std::uint64_t usual_;
    Step* step_ = nullptr;
    Fd stop_{::eventfd(0, EFD_CLOEXEC)};
    std::jthread child_;
};

bool becomes_quiet(const HeldBack& held) {
    const auto begin_limit = Clock::now() + longest_death;
    while (!held.has_begun() && Clock::now() < begin_limit) std::this_thread::sleep_for(1ms);
    const auto end = Clock::now() + longest_drain;
    while (Clock::now() < end) {
        if (held.is_quiet()) return true;
        ::sched_yield();
    }
    return false;
}

Result<void> replace(int old_socket, const ReconfigureRequest& request, Kernel& kernel) {
    // What has come between all the same is answered before the server closes; what comes now is
    // sent again at once.
    ::shutdown(old_socket, SHUT_WR);
    const auto begin = Clock::now();
    for (bool ended = false;;) {
        TRY(kernel.reconfigure(request));
        const auto waited = Clock::now() - begin;
        if (was_adopted(request.sockets.front()) || waited > longest_death) return {};
        if (!ended && waited > longest_goodbye) {
            abort_connection(old_socket);
            ended = true;
        }
        std::this_thread::sleep_for(2ms);
    }
}

}  // namespace

bool was_adopted(int socket) {
    timeval timeout{};
    socklen_t length = sizeof timeout;
    return ::getsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &timeout, &length) == 0 &&
           (timeout.tv_sec != 0 || timeout.tv_usec != 0);
}

Result<void> renew(int old_socket, const ReconfigureRequest& request, Kernel& kernel,
                   const Sysfs& sysfs) {
    const HeldBack held(request.index, sysfs);
    if (!becomes_quiet(held)) return {};
    return replace(old_socket, request, kernel);
}

}  // namespace nbd
