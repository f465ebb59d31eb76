// SPDX-License-Identifier: MIT
// Staying with a device that no watchdog repairs.
#include "client/hold.h"

#include "client/base/log.h"
#include "client/base/text.h"
#include "client/runtime.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/test_server.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <thread>
#include <unistd.h>

namespace nbd {
namespace {

using namespace std::chrono_literals;

class HoldTest : public testing::Test {
protected:
    HoldTest() {
        open_log(Level::error, LogTarget::stderr_stream);
        while (signals.take()) {
        }
    }
    ~HoldTest() override {
        if (thread_.joinable()) {
            static_cast<void>(kernel.disconnect(0));
            remove_status(runtime(), 0);
            kernel.end();
            ::kill(::getpid(), SIGTERM);
            EXPECT_TRUE(returns());
        }
    }

    void start(bool netlink, std::chrono::seconds reconnect_for = 0s) {
        kernel.netlink = netlink;
        const AttachRequest wanted{.target = server.target(),
                                   .connections = 2,
                                   .settle = false,
                                   .reconnect_for = reconnect_for};
        Dialer dialer(wanted);
        ASSERT_TRUE(dialer.resolve(Deadline::in(5s)));
        auto plan = negotiate(wanted, dialer, Deadline::in(5s));
        ASSERT_TRUE(plan) << plan.error().what;
        const Watched watched{true, {}, runtime()};
        auto attachment = hand_over(wanted, *std::move(plan), kernel, sysfs, watched, -1);
        ASSERT_TRUE(attachment) << attachment.error().what;
        ASSERT_TRUE(publish_status(runtime(), attachment->status));
        ASSERT_TRUE(server.wait_for_serving(2));
        thread_ = std::thread([this, wanted, attachment = *std::move(attachment),
                               dialer = std::move(dialer)]() mutable {
            const WatchWorld world{kernel, sysfs, signals, notifier, runtime()};
            outcome = hold(wanted, std::move(attachment), std::move(dialer), world);
            ended_.ring();
        });
        ASSERT_TRUE(kernel.wait_until_served());
    }
    bool returns() {
        if (!wait_for(ended_.fd(), POLLIN, Deadline::in(5s))) return false;
        thread_.join();
        return true;
    }
    std::string runtime() const { return kernel.root.path() + "/run"; }
    bool is_free() const { return !sysfs.read(0)->configured; }

    Signals signals = *Signals::block();
    FakeKernel kernel;
    TestServer server;
    Sysfs sysfs = kernel.sysfs();
    Notifier notifier = Notifier::from_environment();
    Result<void> outcome = Error{};

private:
    Bell ended_;
    std::thread thread_;
};

// Netlink: the device lives in the kernel.

TEST_F(HoldTest, TheServersEndIsTheError) {
    start(true);
    server.cut(0);
    server.stop();
    ASSERT_TRUE(returns());
    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().kind, Kind::unreachable);
    EXPECT_EQ(outcome.error().what, "cannot keep /dev/nbd0: the server has ended the connection");
    EXPECT_TRUE(is_free());
}

TEST_F(HoldTest, ADetachIsNoError) {
    start(true);
    ASSERT_TRUE(kernel.disconnect(0));
    ASSERT_TRUE(returns());
    EXPECT_TRUE(outcome) << outcome.error().what;
}

TEST_F(HoldTest, TermLeavesTheDeviceToTheKernel) {
    start(true);
    ::kill(::getpid(), SIGTERM);
    ASSERT_TRUE(returns());
    EXPECT_TRUE(outcome);
    EXPECT_FALSE(is_free());
    EXPECT_EQ(kernel.live_slots(0), 2U);
}

TEST_F(HoldTest, IntDetaches) {
    start(true);
    ::kill(::getpid(), SIGHUP);
    ::kill(::getpid(), SIGINT);
    ASSERT_TRUE(returns());
    EXPECT_TRUE(outcome);
    EXPECT_TRUE(is_free());
}

// Ioctl: the device lives in this process.

class ServedHere : public HoldTest {
protected:
    /// The sockets end with DO_IT.
    void end_of_server() {
        server.cut_all();
        static_cast<void>(kernel.disconnect(0));
        kernel.end();
    }
};

TEST_F(ServedHere, TheServersEndIsTheError) {
    start(false);
    end_of_server();
    ASSERT_TRUE(returns());
    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().kind, Kind::unreachable);
    EXPECT_EQ(kernel.connects().size(), 1U);
}

TEST_F(ServedHere, ADetachIsNoError) {
    start(false, forever);
    // As detach() does it: the status first.
    remove_status(runtime(), 0);
    end_of_server();
    ASSERT_TRUE(returns());
    EXPECT_TRUE(outcome) << outcome.error().what;
    EXPECT_EQ(kernel.connects().size(), 1U);
}

TEST_F(ServedHere, AnOutageEndsWithAnotherAttachmentOfTheSameDevice) {
    start(false, forever);
    end_of_server();
    ASSERT_TRUE(kernel.wait_for_connects(2));
    const auto asked = kernel.connects();
    EXPECT_EQ(asked[1].index, 0U);
    EXPECT_EQ(asked[1].size, asked[0].size);
    EXPECT_EQ(asked[1].block_size, asked[0].block_size);
    EXPECT_EQ(asked[1].sockets.size(), 2U);
}

TEST_F(ServedHere, AnotherExportIsNotAttachedInItsPlace) {
    start(false, forever);
    server.set_export(
        {.name = "disk",
         .description = "",
         .size = 1 << 19,
         .flags = flag_bits({TransmissionFlag::send_flush, TransmissionFlag::can_multi_conn})});
    const std::size_t before = server.accepted();
    end_of_server();
    ASSERT_TRUE(server.wait_for_accepted(before + 2));
    remove_status(runtime(), 0);
    ::kill(::getpid(), SIGHUP);
    ASSERT_TRUE(returns()) << "a detach ends the search as well";
    EXPECT_TRUE(outcome);
    EXPECT_EQ(kernel.connects().size(), 1U);
}

TEST_F(ServedHere, TermDetachesAnUnusedDevice) {
    start(false);
    kernel.on_disconnect = [this](std::uint32_t) -> std::optional<Error> {
        kernel.end();
        return std::nullopt;
    };
    ::kill(::getpid(), SIGTERM);
    ASSERT_TRUE(returns());
    EXPECT_TRUE(outcome) << outcome.error().what;
    EXPECT_TRUE(is_free());
}

TEST_F(ServedHere, TermDoesNotKillADeviceUnderItsUser) {
    kernel.root.write("proc/self/mountinfo", "36 35 43:0 / /mnt rw - ext4 /dev/nbd0 rw\n");
    // Pending before it starts: it is the first thing looked at.
    ::kill(::getpid(), SIGTERM);
    start(false);
    end_of_server();
    ASSERT_TRUE(returns());
    EXPECT_FALSE(outcome) << "it has stayed until the server ended";
}

}  // namespace
}  // namespace nbd
