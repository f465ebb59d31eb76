// SPDX-License-Identifier: MIT
// What the ioctl interface decides without a kernel: which device, and what it cannot do.
#include "netlink/ioctl_kernel.h"

#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <linux/nbd.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace nbd {
namespace {

namespace fs = std::filesystem;

class IoctlKernelTest : public testing::Test {
protected:
    void SetUp() override {
        std::string name = testing::TempDir() + "ioctl_kernel_test.XXXXXX";
        root_ = ::mkdtemp(name.data());
        fs::create_directories(root_ / "dev");
        auto kernel = open_ioctl_kernel(root_);
        ASSERT_TRUE(kernel);
        kernel_ = std::move(*kernel);
        int ends[2];
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        socket_.reset(ends[0]);
        peer_.reset(ends[1]);
        request_.size = 1 << 20;
        request_.sockets = {socket_.get()};
    }
    void TearDown() override { fs::remove_all(root_); }

    /// A disk whose node is an ordinary file: each ioctl fails with ENOTTY.
    void add_disk(std::uint32_t index, bool configured) {
        const std::string name = "nbd" + std::to_string(index);
        fs::create_directories(root_ / "sys/block" / name);
        if (configured) std::ofstream(root_ / "sys/block" / name / "pid") << "1\n";
        std::ofstream(root_ / "dev" / name) << "";
    }

    Error connect_error() {
        const auto index = kernel_->connect(request_);
        EXPECT_FALSE(index);
        return index ? Error{} : index.error();
    }

    fs::path root_;
    std::unique_ptr<Kernel> kernel_;
    Fd socket_;
    Fd peer_;
    ConnectRequest request_;
};

TEST_F(IoctlKernelTest, CannotDoWhatOnlyNetlinkCan) {
    EXPECT_FALSE(kernel_->can_reconfigure());
    const auto reconfigured = kernel_->reconfigure({.index = 1});
    ASSERT_FALSE(reconfigured);
    EXPECT_EQ(reconfigured.error().kind, Kind::unsupported);
    const auto events = kernel_->link_events();
    ASSERT_FALSE(events);
    EXPECT_EQ(events.error().kind, Kind::unsupported);
}

TEST_F(IoctlKernelTest, NamedDeviceThatDoesNotExist) {
    request_.index = 3;
    const Error error = connect_error();
    EXPECT_EQ(error.kind, Kind::absent);
    EXPECT_EQ(error.what, "cannot attach /dev/nbd3: no such device");
}

TEST_F(IoctlKernelTest, NodeThatIsNoNbdDevice) {
    add_disk(0, false);
    request_.index = 0;
    const Error error = connect_error();
    EXPECT_EQ(error.kind, Kind::refused);
    EXPECT_EQ(error.what, "cannot attach /dev/nbd0: it is not an nbd device");
}

TEST_F(IoctlKernelTest, NodeOfAnotherUser) {
    add_disk(0, false);
    request_.index = 0;
    fs::permissions(root_ / "dev/nbd0", fs::perms::none);
    fs::permissions(root_, fs::perms{0755});
    // Root may open everything.
    const uid_t self = ::geteuid();
    if (self == 0) {
        ASSERT_EQ(::seteuid(65534), 0);
    }
    const Kind kind = connect_error().kind;
    ASSERT_EQ(::seteuid(self), 0);
    EXPECT_EQ(kind, Kind::denied);
}

TEST_F(IoctlKernelTest, AttachedDeviceIsBusy) {
    add_disk(0, true);
    request_.index = 0;
    EXPECT_EQ(connect_error().kind, Kind::busy);
}

TEST_F(IoctlKernelTest, SearchPassesAttachedDevices) {
    add_disk(0, true);
    add_disk(1, true);
    EXPECT_EQ(connect_error().what, "cannot attach an nbd device: none is free");
    add_disk(2, false);
    EXPECT_EQ(connect_error().what, "cannot attach /dev/nbd2: it is not an nbd device");
}

TEST_F(IoctlKernelTest, RefusesBeforeTouchingADevice) {
    add_disk(0, false);
    request_.sockets = {socket_.get(), socket_.get()};
    EXPECT_EQ(connect_error().kind, Kind::internal);
    request_.sockets = {socket_.get(), peer_.get()};
    EXPECT_EQ(connect_error().kind, Kind::refused);
    request_.sockets = {};
    EXPECT_EQ(connect_error().kind, Kind::internal);
}

TEST_F(IoctlKernelTest, FailedConnectLeavesSocketAndObjectUsable) {
    add_disk(0, false);
    EXPECT_EQ(connect_error().kind, Kind::refused);
    EXPECT_EQ(connect_error().kind, Kind::refused);
    pollfd ended = {kernel_->ended_fd(), POLLIN, 0};
    EXPECT_EQ(::poll(&ended, 1, 0), 0);
    kernel_.reset();
    char byte = 'x';
    ASSERT_EQ(::send(peer_.get(), &byte, 1, MSG_NOSIGNAL), 1);
    EXPECT_EQ(::recv(socket_.get(), &byte, 1, MSG_DONTWAIT), 1);
}

TEST_F(IoctlKernelTest, DisconnectOfAFreeDeviceNeedsNoNode) {
    add_disk(0, false);
    fs::remove(root_ / "dev/nbd0");
    EXPECT_TRUE(kernel_->disconnect(0));
}

TEST_F(IoctlKernelTest, DisconnectFailures) {
    const auto absent = kernel_->disconnect(0);
    ASSERT_FALSE(absent);
    EXPECT_EQ(absent.error().kind, Kind::absent);
    add_disk(0, true);
    const auto refused = kernel_->disconnect(0);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().what, "cannot detach /dev/nbd0: it is not an nbd device");
}

}  // namespace
}  // namespace nbd
