// SPDX-License-Identifier: MIT
// An nbd driver in memory, with the sysfs tree and the nodes that belong to it in a directory.
#pragma once

#include "client/base/deadline.h"
#include "netlink/kernel.h"
#include "netlink/sysfs.h"
#include "tests/unit/temporary_directory.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <fcntl.h>
#include <filesystem>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <poll.h>
#include <string>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace nbd {

inline bool has_hung_up(int socket) {
    pollfd entry{socket, POLLRDHUP, 0};
    return ::poll(&entry, 1, 0) > 0;
}

/// The send timeout the driver leaves on a socket it uses; 0: none.
inline std::chrono::seconds send_timeout(int socket) {
    timeval timeout{};
    socklen_t length = sizeof timeout;
    EXPECT_EQ(::getsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &timeout, &length), 0);
    return std::chrono::seconds(timeout.tv_sec);
}

/// A counter that poll() sees.
class Bell {
public:
    void ring() const {
        const std::uint64_t one = 1;
        EXPECT_EQ(::write(fd_.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
    }
    void silence() const {
        std::uint64_t count = 0;
        [[maybe_unused]] const ssize_t taken = ::read(fd_.get(), &count, sizeof count);
    }
    int fd() const { return fd_.get(); }

private:
    Fd fd_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
};

class FakeKernel final : public Kernel {
public:
    /// Makes devices 0 and 1, both free.
    FakeKernel() {
        for (const std::uint32_t index : {0U, 1U}) add_device(index);
    }

    // What the test decides; to be set before the client runs.
    bool netlink = true;
    bool has_link_events = true;
    std::uint64_t missing_bytes = 0;  ///< how much smaller than asked for a device comes out
    /// Asked before the driver does anything, and may hang; an Error is its answer.
    std::function<std::optional<Error>(const ConnectRequest&)> on_connect;
    std::function<std::optional<Error>(const ReconfigureRequest&)> on_reconfigure;
    std::function<std::optional<Error>(std::uint32_t)> on_disconnect;

    Sysfs sysfs() const { return Sysfs(root.path()); }
    std::string node(std::uint32_t index) const { return sysfs().node(index); }

    void add_device(std::uint32_t index) {
        const std::string directory = sys(index);
        root.write(directory + "size", "0\n");
        root.write(directory + "ro", "0\n");
        root.write(directory + "dev", "43:" + std::to_string(index) + "\n");
        root.write(directory + "queue/logical_block_size", "512\n");
        root.write(directory + "queue/max_sectors_kb", "1280\n");
        root.write(directory + "queue/write_zeroes_max_bytes", "0\n");
        root.write("dev/" + device_name(index), "");
    }
    void remove_device(std::uint32_t index) {
        std::filesystem::remove_all(root.path() + "/" + sys(index));
    }

    // What the client has asked.

    std::vector<ConnectRequest> connects() const { return locked(connects_); }
    std::vector<ReconfigureRequest> reconfigures() const { return locked(reconfigures_); }
    std::vector<std::uint32_t> disconnects() const { return locked(disconnects_); }
    bool wait_for_connects(std::size_t count) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, std::chrono::seconds(5),
                                 [&] { return connects_.size() >= count; });
    }
    void forget_reconfigures() {
        const std::lock_guard lock(mutex_);
        reconfigures_.clear();
    }
    /// False when fewer than `count` RECONFIGUREs have come after five seconds.
    bool wait_for_reconfigures(std::size_t count) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, std::chrono::seconds(5),
                                 [&] { return reconfigures_.size() >= count; });
    }

    // What the device is like.

    std::size_t live_slots(std::uint32_t index) {
        const std::lock_guard lock(mutex_);
        const auto& slots = devices_[index].slots;
        return static_cast<std::size_t>(std::count_if(
            slots.begin(), slots.end(), [](const Slot& slot) { return !slot.is_dead(); }));
    }
    std::chrono::seconds timeout(std::uint32_t index) {
        const std::lock_guard lock(mutex_);
        return devices_[index].timeout;
    }

    // What happens to it.

    /// The driver ends a connection: its timer has fired, or the server spoke nonsense.
    void drop_link(std::uint32_t index, std::size_t slot) {
        {
            const std::lock_guard lock(mutex_);
            Slot& dropped = devices_[index].slots.at(slot);
            ::shutdown(dropped.socket.get(), SHUT_RDWR);
            dropped.dead = true;
        }
        announce(index);
    }
    /// Multicasts LINK_DEAD, or loses it.
    void announce(std::uint32_t index, bool lost = false) {
        const std::lock_guard lock(mutex_);
        if (lost)
            batch_.overrun = true;
        else
            batch_.indexes.push_back(index);
        bell_.ring();
    }
    /// The ioctl interface: DO_IT has returned.
    void end() const { ended_.ring(); }
    /// Whoever serves a device by ioctl asks for its end; false when nobody has after five seconds.
    bool wait_until_served() const {
        return wait_for(served_.fd(), POLLIN, Deadline::in(std::chrono::seconds(5))).has_value();
    }

    // The driver.

    Result<std::uint32_t> connect(const ConnectRequest& request) override {
        ended_.silence();
        note(connects_, request);
        if (on_connect)
            if (auto error = on_connect(request)) return *std::move(error);
        const std::lock_guard lock(mutex_);
        const std::uint32_t index = request.index.value_or(first_free());
        Device& device = devices_[index];
        if (device.configured) return Error{Kind::busy, "cannot attach: the device is in use"};
        device = Device{true, request.backend, request.timeout, {}};
        for (const int socket : request.sockets) device.adopt(device.slots.emplace_back(), socket);
        set_size(index, request.size - missing_bytes);
        if (netlink) replace(sys(index) + "backend", request.backend + "\n");
        replace(sys(index) + "pid", std::to_string(::getpid()) + "\n");
        return index;
    }

    Result<void> reconfigure(const ReconfigureRequest& request) override {
        note(reconfigures_, request);
        if (on_reconfigure)
            if (auto error = on_reconfigure(request)) return *std::move(error);
        const std::lock_guard lock(mutex_);
        Device& device = devices_[request.index];
        if (!device.configured || device.backend != request.backend)
            return Error{Kind::refused, "cannot reconfigure: invalid argument"};
        if (request.size) set_size(request.index, *request.size);
        if (request.timeout) device.timeout = *request.timeout;
        // A socket nobody needs is left alone, and that is a success.
        for (const int socket : request.sockets)
            for (Slot& slot : device.slots)
                if (slot.is_dead()) {
                    device.adopt(slot, socket);
                    break;
                }
        return {};
    }

    Result<void> disconnect(std::uint32_t index) override {
        note(disconnects_, index);
        if (on_disconnect)
            if (auto error = on_disconnect(index)) return *std::move(error);
        const std::lock_guard lock(mutex_);
        Device& device = devices_[index];
        if (!device.configured) return {};
        for (const Slot& slot : device.slots) ::shutdown(slot.socket.get(), SHUT_RDWR);
        device = Device();
        set_size(index, 0);
        for (const char* attribute : {"pid", "backend"})
            std::filesystem::remove(root.path() + "/" + sys(index) + attribute);
        return {};
    }

    Result<std::unique_ptr<LinkEvents>> link_events() override {
        if (!has_link_events) return Error{Kind::unsupported, "cannot listen: no multicast group"};
        return std::unique_ptr<LinkEvents>(new Events(*this));
    }
    bool can_reconfigure() const override { return netlink; }
    int ended_fd() const override {
        served_.ring();
        return netlink ? -1 : ended_.fd();
    }

    TemporaryDirectory root;

private:
    struct Slot {
        Fd socket;
        bool dead = false;
        bool is_dead() const { return dead || has_hung_up(socket.get()); }
    };
    struct Device {
        bool configured = false;
        std::string backend;
        std::chrono::seconds timeout{0};
        std::vector<Slot> slots;

        /// nbd_add_socket() and nbd_reconnect_socket(): the device's timeout becomes the socket's.
        void adopt(Slot& slot, int socket) const {
            auto reference = duplicate(socket);
            ASSERT_TRUE(reference);
            const timeval limit{timeout.count(), 0};
            ASSERT_EQ(::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit), 0);
            slot = Slot{*std::move(reference), false};
        }
    };

    class Events final : public LinkEvents {
    public:
        explicit Events(FakeKernel& kernel) : kernel_(kernel) {}
        int fd() const override { return kernel_.bell_.fd(); }
        Batch drain() override {
            const std::lock_guard lock(kernel_.mutex_);
            kernel_.bell_.silence();
            return std::exchange(kernel_.batch_, {});
        }

    private:
        FakeKernel& kernel_;
    };

    template <typename T>
    std::vector<T> locked(const std::vector<T>& record) const {
        const std::lock_guard lock(mutex_);
        return record;
    }

    template <typename T>
    void note(std::vector<T>& record, const T& asked) {
        const std::lock_guard lock(mutex_);
        record.push_back(asked);
        changed_.notify_all();
    }

    static std::string sys(std::uint32_t index) { return "sys/block/" + device_name(index) + "/"; }

    std::uint32_t first_free() {
        std::uint32_t index = 0;
        while (devices_[index].configured) ++index;
        return index;
    }

    /// In one step, as an attribute changes: a reader must not find it empty.
    void replace(const std::string& name, const std::string& content) const {
        root.write(name + ".new", content);
        std::filesystem::rename(root.path() + "/" + name + ".new", root.path() + "/" + name);
    }

    /// A sparse file takes the disk's place; anything else put there stays.
    void set_size(std::uint32_t index, std::uint64_t bytes) const {
        replace(sys(index) + "size", std::to_string(bytes / 512) + "\n");
        if (std::filesystem::is_regular_file(node(index)))
            std::filesystem::resize_file(node(index), bytes);
    }

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::map<std::uint32_t, Device> devices_;
    std::vector<ConnectRequest> connects_;
    std::vector<ReconfigureRequest> reconfigures_;
    std::vector<std::uint32_t> disconnects_;
    LinkEvents::Batch batch_;
    Bell bell_;
    Bell ended_;
    Bell served_;
};

}  // namespace nbd
