// SPDX-License-Identifier: MIT
// The driver by ioctl, for kernels without the netlink family: a thread of ours serves the device.
#include "netlink/ioctl_kernel.h"

#include "client/base/deadline.h"
#include "netlink/nbd_messages.h"
#include "netlink/sysfs.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <linux/nbd.h>
#include <mutex>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <utility>

namespace nbd {

namespace {

/// How long NBD_DO_IT may take from its call to the pid attribute.
constexpr std::chrono::seconds start_time{10};
/// Sysfs tells nothing when an attribute appears, so it is looked at that often.
constexpr std::chrono::milliseconds look_interval{2};

/// errno of an ioctl, or 0.
int control(int node, unsigned long request, unsigned long argument = 0) {
    return ::ioctl(node, request, argument) < 0 ? errno : 0;
}

/// Any signal would end NBD_DO_IT and with it the device, so the serving thread takes none.
class BlockedSignals {
public:
    BlockedSignals() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    BlockedSignals(const BlockedSignals&) = delete;
    BlockedSignals& operator=(const BlockedSignals&) = delete;

private:
    sigset_t before_;
};

/// Hands sockets and parameters to the driver; an errno or 0. A netlink connect cannot come
/// between: it fails while the node is open.
int set_up(int node, const ConnectRequest& request) {
    if (const int error = control(node, NBD_CLEAR_SOCK)) return error;
    for (const int socket : request.sockets)
        if (const int error = control(node, NBD_SET_SOCK, static_cast<unsigned long>(socket)))
            return error;
    const std::uint64_t block_size = std::max<std::uint64_t>(request.block_size, 1);
    const std::uint64_t blocks = request.size / block_size;
    if (!std::in_range<unsigned long>(blocks)) return EFBIG;
    const auto timeout = std::clamp(request.timeout, std::chrono::seconds(0), max_timeout);
    const std::pair<unsigned long, unsigned long> settings[] = {
        {NBD_SET_BLKSIZE, static_cast<unsigned long>(block_size)},
        {NBD_SET_SIZE_BLOCKS, static_cast<unsigned long>(blocks)},
        {NBD_SET_FLAGS, request.server_flags},
        {NBD_SET_TIMEOUT, static_cast<unsigned long>(timeout.count())},
    };
    for (const auto& [code, value] : settings) {
        // Left out means never; before Linux 5.4 a timeout of 0 means "at once".
        if (code == NBD_SET_TIMEOUT && value == 0) continue;
        if (const int error = control(node, code, value)) return error;
    }
    return 0;
}

class IoctlKernel final : public Kernel {
public:
    IoctlKernel(std::string root, Fd ended)
        : root_(std::move(root)), sysfs_(root_), ended_(std::move(ended)) {}

    ~IoctlKernel() override {
        // Unlike NBD_DISCONNECT this cannot wait for a peer that does not read.
        for (const auto& socket : sockets_) (void)::shutdown(socket.get(), SHUT_RDWR);
    }

    Result<std::uint32_t> connect(const ConnectRequest& request) override {
        TRY(check_connect(request));
        if (server_.joinable() && !ended())
            return refusal(Command::connect, request.index, EBUSY, "");
        forget_ended();
        if (request.index) return attach(*request.index, request);
        for (const std::uint32_t index : sysfs_.indexes()) {
            auto attached = attach(index, request);
            if (attached || attached.error().kind != Kind::busy) return attached;
        }
        return Error{Kind::busy, "cannot attach an nbd device: none is free",
                     "load the nbd module with a larger nbds_max"};
    }

    Result<void> reconfigure(const ReconfigureRequest& request) override {
        return Error{Kind::unsupported, "cannot reconfigure " + device_path(request.index) +
                                            ": this needs the driver's netlink interface"};
    }

    Result<void> disconnect(std::uint32_t index) override {
        const auto disk = sysfs_.read(index);
        if (!disk) return refusal(Command::disconnect, index, ENODEV, "");
        if (!disk->configured) return {};
        if (server_.joinable() && index == index_) return stop_serving();
        const Fd node(::open(node_path(index).c_str(), O_RDONLY | O_CLOEXEC));
        if (!node) return refusal(Command::disconnect, index, errno, "");
        return hang_up(node.get(), index);
    }

    Result<std::unique_ptr<LinkEvents>> link_events() override {
        return Error{Kind::unsupported,
                     "cannot listen for nbd events: this needs the driver's netlink interface"};
    }

    bool can_reconfigure() const override { return false; }
    int ended_fd() const override { return ended_.get(); }

private:
    std::string node_path(std::uint32_t index) const { return root_ + "dev/" + device_name(index); }

    bool ended() const {
        pollfd poll_ended = {ended_.get(), POLLIN, 0};
        return ::poll(&poll_ended, 1, 0) > 0;
    }

    void forget_ended() {
        if (server_.joinable()) server_.join();
        sockets_.clear();
        eventfd_t count = 0;
        (void)::eventfd_read(ended_.get(), &count);
    }

    Result<std::uint32_t> attach(std::uint32_t index, const ConnectRequest& request) {
        const auto refuse = [index](int error) {
            return refusal(Command::connect, index, error, "");
        };
        const int mode = (request.server_flags & NBD_FLAG_READ_ONLY) != 0 ? O_RDONLY : O_RDWR;
        Fd node(::open(node_path(index).c_str(), mode | O_CLOEXEC));
        if (!node) return refuse(errno);
        // Asked only now: the open node keeps others from configuring it.
        const auto disk = sysfs_.read(index);
        if (!disk) return refuse(ENODEV);
        if (disk->configured) return refuse(EBUSY);
        for (const int socket : request.sockets) sockets_.push_back(TRY(duplicate(socket)));
        if (const int error = set_up(node.get(), request)) {
            // Another task's set-up (EBUSY) is not ours to clear.
            if (error != EBUSY) (void)control(node.get(), NBD_CLEAR_SOCK);
            sockets_.clear();
            return refuse(error);
        }
        serve(std::move(node), index);
        return wait_for_start(index);
    }

    void serve(Fd node, std::uint32_t index) {
        index_ = index;
        result_ = 0;
        node_ = std::move(node);
        const BlockedSignals blocked;
        server_ = std::jthread([this, fd = node_.get()] {
            result_ = control(fd, NBD_DO_IT);
            (void)control(fd, NBD_CLEAR_QUE);
            (void)control(fd, NBD_CLEAR_SOCK);
            {
                // The last close is what frees the device, so it comes before the news of the end.
                const std::lock_guard lock(node_mutex_);
                node_.reset();
            }
            (void)::eventfd_write(ended_.get(), 1);
        });
    }

    Result<std::uint32_t> wait_for_start(std::uint32_t index) {
        const auto deadline = Deadline::in(start_time);
        do {
            const auto disk = sysfs_.read(index);
            if (disk && disk->configured) return index;
            if (wait_for(ended_.get(), POLLIN, deadline.at_most(look_interval))) {
                // Started and ended in between, or refused: either way there is no device.
                const int error = result_ != 0 ? result_.load() : ECONNRESET;
                forget_ended();
                return refusal(Command::connect, index, error, "");
            }
        } while (!deadline.expired());
        for (const auto& socket : sockets_) (void)::shutdown(socket.get(), SHUT_RDWR);
        return refusal(Command::connect, index, ETIMEDOUT, "");
    }

    static Result<void> hang_up(int node, std::uint32_t index) {
        // EINVAL: NBD_DISCONNECT finds nothing to disconnect, which is what was wanted.
        const int error = control(node, NBD_DISCONNECT);
        if (error != 0 && error != EINVAL) return refusal(Command::disconnect, index, error, "");
        // NBD_DISCONNECT alone leaves a netlink-made device configured.
        if (const int failed = control(node, NBD_CLEAR_SOCK))
            return refusal(Command::disconnect, index, failed, "");
        return {};
    }

    Result<void> stop_serving() {
        {
            const std::lock_guard lock(node_mutex_);
            if (node_) TRY(hang_up(node_.get(), index_));
        }
        server_.join();
        sockets_.clear();
        return {};
    }

    const std::string root_;
    const Sysfs sysfs_;
    Fd ended_;
    std::vector<Fd> sockets_;  ///< duplicates, to cut the connections without the driver's help
    std::uint32_t index_ = 0;
    std::mutex node_mutex_;  ///< guards node_ between this thread and the serving one
    Fd node_;
    std::atomic<int> result_ = 0;  ///< errno of NBD_DO_IT
    std::jthread server_;          ///< last: joined before anything it uses goes
};

}  // namespace

Result<std::unique_ptr<Kernel>> open_ioctl_kernel(std::string root) {
    if (!root.ends_with('/')) root += '/';
    Fd ended(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!ended) return errno_error(Kind::internal, "create an eventfd", errno);
    return std::unique_ptr<Kernel>(
        std::make_unique<IoctlKernel>(std::move(root), std::move(ended)));
}

}  // namespace nbd
