// SPDX-License-Identifier: MIT
// The watchdog end to end: real sockets and a real server, the kernel in memory.
#include "client/watch.h"

#include "client/base/log.h"
#include "client/base/text.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/test_server.h"

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <gtest/gtest.h>
#include <optional>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <vector>

namespace nbd {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t megabyte = 1 << 20;

/// The service manager's end: one datagram per published status, which is what we wait for.
class Manager {
public:
    explicit Manager(const std::string& path)
        : socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path.copy(static_cast<char*>(address.sun_path), path.size());
        EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
    }
    /// The next message; empty when none comes before the deadline.
    std::string next(const Deadline& deadline) const {
        if (!wait_for(socket_.get(), POLLIN, deadline)) return "";
        std::string message(512, '\0');
        const ssize_t count = ::recv(socket_.get(), message.data(), message.size(), 0);
        message.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
        return message;
    }

private:
    Fd socket_;
};

class WatchTest : public testing::Test {
protected:
    // Signals first: a thread that has them unblocked would die of them.
    WatchTest() {
        open_log(Level::error, LogTarget::stderr_stream);
        while (signals.take()) {
        }
    }
    ~WatchTest() override { EXPECT_TRUE(leave()); }

    AttachRequest request(unsigned connections) const {
        return {.target = server.target(),
                .index = 0,
                .connections = connections,
                .settle = false,
                .reconnect_for = reconnect_for};
    }

    /// Attaches and starts to watch.
    void start(unsigned connections) { start(request(connections)); }
    void start(
        const AttachRequest& wanted,
        const std::function<void(Attachment&)>& adapt = [](Attachment&) {}) {
        Dialer dialer(wanted);
        ASSERT_TRUE(dialer.resolve(Deadline::in(5s)));
        auto plan = negotiate(wanted, dialer, Deadline::in(5s));
        ASSERT_TRUE(plan) << plan.error().what;
        auto attachment = hand_over(wanted, *std::move(plan), kernel, sysfs,
                                    {.stays = false, .settings = {}}, -1);
        ASSERT_TRUE(attachment) << attachment.error().what;
        ASSERT_TRUE(server.wait_for_serving(attachment->connections.size()));
        kernel.forget_reconfigures();  // what attaching asked for
        adapt(*attachment);
        begin(wanted, *std::move(attachment), std::move(dialer));
    }
    void begin(const AttachRequest& wanted, Attachment attachment, Dialer dialer) {
        thread_ = std::thread([this, wanted, attachment = std::move(attachment),
                               dialer = std::move(dialer)]() mutable {
            const WatchWorld world{kernel, sysfs, signals, notifier, runtime()};
            outcome_ = watch(wanted, std::move(attachment), std::move(dialer), world);
            ended_.ring();
        });
    }

    /// Waits until the status file says so.
    bool reaches(LinkState state, unsigned live, std::uint64_t reconnects) const {
        const auto there = [&] {
            const auto stored = read_status(runtime(), 0);
            return stored && stored->status.state == state &&
                   stored->status.live_connections == live &&
                   stored->status.reconnects == reconnects;
        };
        const Deadline deadline = Deadline::in(5s);
        while (!there())
            if (manager.next(deadline).empty()) return there();
        return true;
    }
    bool reaches(LinkState state) const {
        const Deadline deadline = Deadline::in(5s);
        for (;;) {
            const auto stored = read_status(runtime(), 0);
            if (stored && stored->status.state == state) return true;
            if (manager.next(deadline).empty()) return false;
        }
    }
    /// Waits for the end of watch().
    bool returns() {
        if (!wait_for(ended_.fd(), POLLIN, Deadline::in(5s))) return false;
        thread_.join();
        return true;
    }
    bool leave() {
        if (!thread_.joinable()) return true;
        ::kill(::getpid(), SIGTERM);
        return returns();
    }
    std::string runtime() const { return kernel.root.path() + "/run"; }

    Signals signals = *Signals::block();
    FakeKernel kernel;
    TestServer server;
    Sysfs sysfs = kernel.sysfs();
    Manager manager{kernel.root.path() + "/notify"};
    Notifier notifier = Notifier::from_environment();
    std::optional<std::chrono::seconds> reconnect_for = forever;
    std::optional<Result<void>> outcome_;

private:
    Bell ended_;
    std::thread thread_;
};

TEST_F(WatchTest, ACutConnectionIsReplacedAlone) {
    start(4);
    ASSERT_TRUE(reaches(LinkState::attached, 4, 0));
    server.cut(2);
    ASSERT_TRUE(reaches(LinkState::attached, 4, 1));
    EXPECT_EQ(kernel.live_slots(0), 4U);
    const auto asked = kernel.reconfigures();
    ASSERT_EQ(asked.size(), 1U);
    EXPECT_EQ(asked[0].index, 0U);
    EXPECT_EQ(asked[0].backend, kernel.connects().at(0).backend);
    EXPECT_EQ(asked[0].sockets.size(), 1U);
    EXPECT_FALSE(asked[0].size) << "the queue would freeze across the dead connection";
    EXPECT_FALSE(asked[0].dead_conn_timeout);
    EXPECT_EQ(server.accepted(), 5U);
}

TEST_F(WatchTest, AllConnectionsAreReplacedOneByOne) {
    start(4);
    ASSERT_TRUE(reaches(LinkState::attached, 4, 0));
    server.cut_all();
    ASSERT_TRUE(reaches(LinkState::attached, 4, 4));
    EXPECT_EQ(kernel.live_slots(0), 4U);
    for (const ReconfigureRequest& asked : kernel.reconfigures()) {
        EXPECT_LE(asked.sockets.size(), 1U);
        EXPECT_FALSE(asked.size);
    }
}

TEST_F(WatchTest, AServerThatRestartsIsAPause) {
    start(2);
    ASSERT_TRUE(reaches(LinkState::attached, 2, 0));
    server.stop();
    ASSERT_TRUE(reaches(LinkState::reconnecting, 0, 0));
    server.start();
    const auto back = Clock::now();
    ASSERT_TRUE(reaches(LinkState::attached, 2, 2));
    EXPECT_LT(Clock::now() - back, 1s) << "a returning server must not wait for us";
    EXPECT_EQ(kernel.live_slots(0), 2U);
    EXPECT_EQ(read_status(runtime(), 0)->status.server, server.address());
    EXPECT_EQ(read_status(runtime(), 0)->status.last_error, "");
}

TEST_F(WatchTest, TheStatusTellsWhyThereIsNoServer) {
    start(1);
    server.stop();
    const Deadline deadline = Deadline::in(5s);
    std::string message;
    do message = manager.next(deadline);
    while (!message.empty() && message.find("refused") == std::string::npos);
    EXPECT_TRUE(message.starts_with("STATUS=reconnecting: cannot connect to " + server.address()))
        << message;
    EXPECT_NE(read_status(runtime(), 0)->status.last_error.find("refused"), std::string::npos);
}

TEST_F(WatchTest, AConnectionTheKernelDropsIsReplaced) {
    start(2);
    ASSERT_TRUE(reaches(LinkState::attached, 2, 0));
    kernel.drop_link(0, 1);
    ASSERT_TRUE(reaches(LinkState::attached, 2, 1));
    EXPECT_EQ(kernel.live_slots(0), 2U);
}

/// What the kernel was asked for between its first new connection and the second.
std::vector<ReconfigureRequest> after_first(const std::vector<ReconfigureRequest>& asked) {
    const auto has_socket = [](const ReconfigureRequest& one) { return !one.sockets.empty(); };
    const auto first = std::ranges::find_if(asked, has_socket);
    if (first == asked.end()) return {};
    return {first + 1, std::find_if(first + 1, asked.end(), has_socket)};
}

TEST_F(WatchTest, AConnectionTheKernelEndsWasTooSlowForItsTimer) {
    start(request(1), [](Attachment& attachment) { attachment.status.timeout = 4s; });
    for (unsigned reconnects : {1U, 2U}) {
        kernel.drop_link(0, 0);
        ASSERT_TRUE(reaches(LinkState::attached, 1, reconnects));
    }
    const auto asked = after_first(kernel.reconfigures());
    ASSERT_EQ(asked.size(), 1U);
    EXPECT_EQ(asked[0].timeout, 0s) << "patient from now on";
}

TEST_F(WatchTest, OverTheKernelsTlsItMayHaveBeenARecordWithoutData) {
    start(request(1), [](Attachment& attachment) {
        attachment.status.timeout = 4s;
        attachment.connections.at(0).offload = offload_kernel;
    });
    for (unsigned reconnects : {1U, 2U}) {
        kernel.drop_link(0, 0);
        ASSERT_TRUE(reaches(LinkState::attached, 1, reconnects));
    }
    EXPECT_TRUE(after_first(kernel.reconfigures()).empty()) << "its requests need the quick timer";
}

TEST_F(WatchTest, WorksWithoutLinkEvents) {
    kernel.has_link_events = false;
    start(1);
    ASSERT_TRUE(reaches(LinkState::attached, 1, 0));
    server.cut(0);
    EXPECT_TRUE(reaches(LinkState::attached, 1, 1));
}

TEST_F(WatchTest, WhenTheHorizonHasPassedItStillRevivesTheDevice) {
    reconnect_for = 0s;
    start(1);
    server.stop();
    ASSERT_TRUE(reaches(LinkState::failing));
    server.start();
    EXPECT_TRUE(reaches(LinkState::attached, 1, 1));
}

TEST_F(WatchTest, AnotherExportIsNotHandedOver) {
    start(1);
    ExportInfo shrunk{
        .name = "disk",
        .description = "",
        .size = megabyte / 2,
        .flags = flag_bits({TransmissionFlag::send_flush, TransmissionFlag::can_multi_conn})};
    server.set_export(shrunk);
    server.cut(0);
    ASSERT_TRUE(server.wait_for_accepted(4)) << "it keeps trying";
    EXPECT_TRUE(kernel.reconfigures().empty());
    EXPECT_NE(read_status(runtime(), 0)->status.last_error.find("shrunk"), std::string::npos);
    shrunk.size = megabyte;
    server.set_export(shrunk);
    EXPECT_TRUE(reaches(LinkState::attached, 1, 1));
}

TEST_F(WatchTest, AGrownExportIsTakenInAMessageOfItsOwn) {
    AttachRequest wanted = request(1);
    wanted.auto_resize = true;
    start(wanted);
    server.set_export(
        {.name = "disk",
         .description = "",
         .size = 2 * megabyte,
         .flags = flag_bits({TransmissionFlag::send_flush, TransmissionFlag::can_multi_conn})});
    server.cut(0);
    ASSERT_TRUE(kernel.wait_for_reconfigures(2));
    const auto asked = kernel.reconfigures();
    EXPECT_EQ(asked[0].sockets.size(), 1U);
    EXPECT_FALSE(asked[0].size);
    EXPECT_TRUE(asked[1].sockets.empty());
    EXPECT_EQ(asked[1].size, 2 * megabyte);
}

TEST_F(WatchTest, AnAlternateTakesOver) {
    TestServer alternate;
    AttachRequest wanted = request(2);
    wanted.alternates = {alternate.target()};
    start(wanted);
    ASSERT_TRUE(reaches(LinkState::attached, 2, 0));
    server.stop();
    ASSERT_TRUE(reaches(LinkState::attached, 2, 2));
    EXPECT_EQ(read_status(runtime(), 0)->status.server, alternate.address());

    // Connections of one device lead to one server, even if the first one is back.
    server.start();
    const std::size_t before = server.accepted();
    for (std::uint64_t count = 3; count <= 4; ++count) {
        ASSERT_TRUE(alternate.wait_for_serving(2));
        alternate.cut(0);
        ASSERT_TRUE(reaches(LinkState::attached, 2, count));
    }
    EXPECT_EQ(server.accepted(), before);
}

TEST_F(WatchTest, WhileOneConnectionLivesTheOthersStayWithItsServer) {
    TestServer alternate;
    AttachRequest wanted = request(2);
    wanted.alternates = {alternate.target()};
    start(wanted);
    ASSERT_TRUE(reaches(LinkState::attached, 2, 0));
    for (std::uint64_t count = 1; count <= 4; ++count) {
        ASSERT_TRUE(server.wait_for_serving(2));
        server.cut(0);
        ASSERT_TRUE(reaches(LinkState::attached, 2, count));
    }
    EXPECT_EQ(alternate.accepted(), 0U);
}

TEST_F(WatchTest, AKernelThatRefusesIsAskedAgain) {
    start(1);
    kernel.on_reconfigure = [calls = 0](const ReconfigureRequest&) mutable -> std::optional<Error> {
        if (++calls == 1)
            return Error{Kind::refused, "cannot reconfigure: no space left on device"};
        return std::nullopt;
    };
    server.cut(0);
    EXPECT_TRUE(reaches(LinkState::attached, 1, 1));
    EXPECT_EQ(kernel.reconfigures().size(), 2U);
}

TEST_F(WatchTest, AHungKernelDoesNotHangTheWatchdog) {
    const Bell released;
    const Bell finished;
    start(1);
    kernel.on_reconfigure = [&](const ReconfigureRequest&) {
        EXPECT_TRUE(wait_for(released.fd(), POLLIN, Deadline::in(5s)));
        finished.ring();
        return Error{Kind::internal, "too late"};
    };
    server.cut(0);
    ASSERT_TRUE(kernel.wait_for_reconfigures(1));
    EXPECT_TRUE(leave());
    // The thread left behind must not outlive what it uses.
    released.ring();
    EXPECT_TRUE(wait_for(finished.fd(), POLLIN, Deadline::in(5s)));
}

// A predecessor's connections: the kernel's alone, seen only through events.

class Successor : public WatchTest {
protected:
    /// Attaches, and forgets the connections as a killed watchdog does.
    void start_blind(unsigned connections) {
        const AttachRequest wanted = request(connections);
        Dialer dialer(wanted);
        ASSERT_TRUE(dialer.resolve(Deadline::in(5s)));
        auto plan = negotiate(wanted, dialer, Deadline::in(5s));
        ASSERT_TRUE(plan) << plan.error().what;
        auto attachment = hand_over(wanted, *std::move(plan), kernel, sysfs,
                                    {.stays = false, .settings = {}}, -1);
        ASSERT_TRUE(attachment) << attachment.error().what;
        ASSERT_TRUE(server.wait_for_serving(connections));
        kernel.forget_reconfigures();
        if (before) before();
        begin(wanted, {std::nullopt, attachment->status, {}}, std::move(dialer));
    }
    /// The first status says what was found, the second what the probe has shown.
    bool has_probed() const {
        const Deadline deadline = Deadline::in(5s);
        return !manager.next(deadline).empty() && !manager.next(deadline).empty();
    }
    /// Waits until the kernel has all its connections again, after so many adoptions at least.
    bool is_whole(std::uint64_t adoptions) {
        const Deadline deadline = Deadline::in(5s);
        for (;;) {
            const auto stored = read_status(runtime(), 0);
            if (stored && stored->status.state == LinkState::attached &&
                stored->status.reconnects >= adoptions && kernel.live_slots(0) == 2)
                return true;
            if (manager.next(deadline).empty()) return false;
        }
    }
    std::function<void()> before;
};

TEST_F(Successor, LeavesLivingConnectionsAlone) {
    start_blind(2);
    ASSERT_TRUE(has_probed());
    EXPECT_EQ(kernel.reconfigures().size(), 1U) << "it asks whether any is dead";
    EXPECT_TRUE(reaches(LinkState::attached, 2, 0));
    EXPECT_EQ(kernel.live_slots(0), 2U);
    EXPECT_EQ(server.accepted(), 3U);
}

TEST_F(Successor, ReplacesWhatDiedBeforeItCame) {
    before = [this] { server.cut_all(); };
    start_blind(2);
    ASSERT_TRUE(reaches(LinkState::attached, 2, 2));
    EXPECT_EQ(kernel.live_slots(0), 2U);
}

TEST_F(Successor, ReplacesWhatDiesLater) {
    start_blind(2);
    ASSERT_TRUE(has_probed());
    ASSERT_TRUE(server.wait_for_serving(3));
    server.cut(0);
    kernel.announce(0);
    ASSERT_TRUE(is_whole(1));
    ASSERT_TRUE(server.wait_for_serving(4)) << "whether the other has died as well";
    server.cut_all();
    kernel.announce(1);
    kernel.announce(0, true);
    EXPECT_TRUE(is_whole(3)) << "lost events are a reason to look as well";
}

// The end.

TEST_F(WatchTest, EndsWhenTheDeviceIsDetached) {
    start(2);
    ASSERT_TRUE(reaches(LinkState::attached, 2, 0));
    ASSERT_TRUE(kernel.disconnect(0));
    EXPECT_TRUE(returns());
    EXPECT_TRUE(*outcome_);
}

TEST_F(WatchTest, EndsWhenTheDeviceIsDetachedDuringAnOutage) {
    start(1);
    server.stop();
    ASSERT_TRUE(reaches(LinkState::reconnecting, 0, 0));
    ASSERT_TRUE(kernel.disconnect(0));
    EXPECT_TRUE(returns()) << "it looks before each dial";
}

TEST_F(WatchTest, EndsWhenTheIndexHasANewOwner) {
    start(1);
    server.stop();
    ASSERT_TRUE(reaches(LinkState::reconnecting, 0, 0));
    ASSERT_TRUE(kernel.disconnect(0));
    ASSERT_TRUE(kernel.connect({.index = 0, .size = megabyte, .backend = "another"}));
    server.start();
    EXPECT_TRUE(returns());
    EXPECT_TRUE(sysfs.read(0)->configured) << "it is not ours to touch";
}

TEST_F(WatchTest, TermLeavesTheDevice) {
    start(1);
    ASSERT_TRUE(reaches(LinkState::attached, 1, 0));
    EXPECT_TRUE(leave());
    EXPECT_TRUE(*outcome_);
    EXPECT_TRUE(kernel.disconnects().empty());
    EXPECT_EQ(kernel.live_slots(0), 1U);
}

TEST_F(WatchTest, IntDetachesAnUnusedDevice) {
    start(1);
    ASSERT_TRUE(reaches(LinkState::attached, 1, 0));
    ::kill(::getpid(), SIGINT);
    EXPECT_TRUE(returns());
    EXPECT_FALSE(sysfs.read(0)->configured);
}

TEST_F(WatchTest, IntLeavesAMountedDeviceAndGoesOnWatching) {
    open_log(Level::error, LogTarget::stderr_stream);
    kernel.root.write("proc/self/mountinfo", "36 35 43:0 / /mnt rw - ext4 /dev/nbd0 rw\n");
    start(1);
    ASSERT_TRUE(reaches(LinkState::attached, 1, 0));
    ::kill(::getpid(), SIGINT);
    server.cut(0);
    EXPECT_TRUE(reaches(LinkState::attached, 1, 1));
    EXPECT_TRUE(kernel.disconnects().empty());
}

TEST_F(WatchTest, HupFindsOutThatTheDeviceIsGone) {
    kernel.has_link_events = false;
    server.go_mute(false);
    start(1);
    server.go_mute();
    server.cut(0);
    ASSERT_TRUE(reaches(LinkState::reconnecting, 0, 0));
    ASSERT_TRUE(kernel.disconnect(0));
    ::kill(::getpid(), SIGHUP);
    EXPECT_TRUE(returns());
}

TEST_F(WatchTest, RefusesADeviceThatIsNotAttached) {
    const AttachRequest wanted = request(1);
    const WatchWorld world{kernel, sysfs, signals, notifier, runtime()};
    for (const std::uint32_t index : {0U, 77U}) {
        Attachment attachment;
        attachment.status.index = index;
        const auto refused = watch(wanted, std::move(attachment), Dialer(wanted), world);
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().kind, Kind::absent);
        EXPECT_NE(refused.error().what.find(device_path(index)), std::string::npos);
    }
}

}  // namespace
}  // namespace nbd
