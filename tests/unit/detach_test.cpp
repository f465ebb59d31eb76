// SPDX-License-Identifier: MIT
// Which devices may go, and in which order they do.
#include "client/detach.h"

#include "client/base/log.h"
#include "client/runtime.h"
#include "tests/unit/fake_kernel.h"

#include <array>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace nbd {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t megabyte = 1 << 20;

class Detach : public testing::Test {
protected:
    Detach() {
        open_log(Level::error, LogTarget::stderr_stream);
        EXPECT_TRUE(kernel.connect({.index = 0, .size = megabyte, .backend = "mine"}));
    }

    Result<void> run(bool force = false, std::uint32_t index = 0) {
        return detach(index, force, kernel, kernel.sysfs(), runtime());
    }
    void publish(unsigned live_connections = 1, pid_t pid = ::getpid()) const {
        RuntimeStatus status;
        status.backend = "mine";
        status.pid = pid;
        status.live_connections = live_connections;
        ASSERT_TRUE(publish_status(runtime(), status));
    }
    bool is_free() const { return !kernel.sysfs().read(0)->configured; }
    std::string runtime() const { return kernel.root.path() + "/run"; }
    void make_node_hang() const {
        std::filesystem::remove(kernel.node(0));
        ASSERT_EQ(::mkfifo(kernel.node(0).c_str(), 0600), 0);
    }

    FakeKernel kernel;
};

/// A process that holds the device's lock until HUP.
class Watchdog {
public:
    explicit Watchdog(const std::string& runtime) {
        std::array<int, 2> ends{};
        EXPECT_EQ(::pipe(ends.data()), 0);
        pid_ = ::fork();
        if (pid_ == 0) {
            sigset_t hup;
            sigemptyset(&hup);
            sigaddset(&hup, SIGHUP);
            ::sigprocmask(SIG_BLOCK, &hup, nullptr);
            const auto lock = RuntimeLock::take(runtime, 0);
            const bool told = lock && ::write(ends[1], "x", 1) == 1;
            int number = 0;
            ::_exit(told && ::sigwait(&hup, &number) == 0 && number == SIGHUP ? 0 : 1);
        }
        const Fd reading(ends[0]);
        ::close(ends[1]);
        char byte = 0;
        EXPECT_EQ(::read(reading.get(), &byte, 1), 1);
    }
    ~Watchdog() {
        if (pid_ > 0) ::kill(pid_, SIGKILL);
        static_cast<void>(wait());
    }
    Watchdog(const Watchdog&) = delete;
    Watchdog& operator=(const Watchdog&) = delete;

    pid_t pid() const { return pid_; }
    /// True when HUP has made it leave.
    bool wait() {
        int status = -1;
        if (pid_ > 0) ::waitpid(pid_, &status, 0);
        pid_ = 0;
        return WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }

private:
    pid_t pid_ = 0;
};

TEST_F(Detach, FreesTheDeviceAndForgetsIt) {
    publish();
    const auto done = run();
    ASSERT_TRUE(done) << done.error().what;
    EXPECT_TRUE(is_free());
    EXPECT_FALSE(read_status(runtime(), 0));
    EXPECT_EQ(kernel.disconnects(), (std::vector<std::uint32_t>{0}));
}

TEST_F(Detach, AFreeDeviceIsDetachedAndNoDeviceIsNot) {
    EXPECT_TRUE(run(false, 1));
    EXPECT_TRUE(kernel.disconnects().empty());
    const auto absent = run(false, 77);
    ASSERT_FALSE(absent);
    EXPECT_EQ(absent.error().kind, Kind::absent);
    EXPECT_EQ(absent.error().what, "cannot detach /dev/nbd77: no such device");
}

TEST_F(Detach, RefusesADeviceInUseAndNamesTheUser) {
    const struct {
        const char* file;
        const char* content;
        const char* words;
    } users[] = {
        {"proc/self/mountinfo", "36 35 43:0 / /mnt rw - ext4 /dev/nbd0 rw\n",
         "nbd0 is mounted on /mnt"},
        {"proc/1/mountinfo", "36 35 43:0 / / rw - ext4 /dev/nbd0 rw\n",
         "nbd0 is the root file system"},
        {"proc/swaps", "Filename Type Size Used Priority\n/dev/nbd0 partition 1020 0 -2\n",
         "nbd0 is in use as swap"},
        {"sys/block/nbd0/holders/dm-0/dev", "253:0\n", "nbd0 is held by dm-0"},
    };
    for (const auto& user : users) {
        kernel.root.write(user.file, user.content);
        const auto refused = run();
        ASSERT_FALSE(refused) << user.words;
        EXPECT_EQ(refused.error().kind, Kind::busy);
        EXPECT_EQ(refused.error().what, "cannot detach /dev/nbd0: " + std::string(user.words));
        EXPECT_NE(refused.error().hint.find("--force"), std::string::npos);
        EXPECT_EQ(check_unused(0, kernel.sysfs()).error().what, refused.error().what);
        std::filesystem::remove_all(kernel.root.path() + "/" + user.file);
        std::filesystem::remove_all(kernel.root.path() + "/sys/block/nbd0/holders");
    }
    EXPECT_TRUE(kernel.disconnects().empty());
    EXPECT_TRUE(check_unused(0, kernel.sysfs()));
}

TEST_F(Detach, ForceDetachesAllTheSame) {
    kernel.root.write("proc/self/mountinfo", "36 35 43:0 / /mnt rw - ext4 /dev/nbd0 rw\n");
    EXPECT_TRUE(run(true));
    EXPECT_TRUE(is_free());
}

TEST_F(Detach, TheKernelsRefusalIsTheError) {
    publish();
    kernel.on_disconnect = [](std::uint32_t) {
        return Error{Kind::denied, "cannot: no privilege"};
    };
    const auto refused = run();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().what, "cannot: no privilege");
    EXPECT_TRUE(read_status(runtime(), 0)) << "it is attached as before";
}

TEST_F(Detach, TheNodeIsNotOpenedAcrossADeadConnection) {
    make_node_hang();
    Watchdog watchdog(runtime());
    publish(0, watchdog.pid());
    const auto begin = Clock::now();
    const auto done = run();
    ASSERT_TRUE(done) << done.error().what;
    EXPECT_LT(Clock::now() - begin, 1s);
    EXPECT_TRUE(is_free());
}

TEST_F(Detach, WaitsUntilTheWatchdogHasLeft) {
    Watchdog watchdog(runtime());
    publish(1, watchdog.pid());
    ASSERT_TRUE(run());
    EXPECT_TRUE(watchdog.wait()) << "HUP makes it look during an outage";
    EXPECT_FALSE(read_status(runtime(), 0));
}

TEST_F(Detach, WhoServesByIoctlLearnsOfItFirst) {
    kernel.netlink = false;
    ASSERT_TRUE(kernel.disconnect(0));
    ASSERT_TRUE(kernel.connect({.index = 0, .size = megabyte}));
    publish();
    kernel.on_disconnect = [this](std::uint32_t) -> std::optional<Error> {
        EXPECT_FALSE(read_status(runtime(), 0)) << "DO_IT returns alike for a dead server";
        return std::nullopt;
    };
    EXPECT_TRUE(run());
}

TEST_F(Detach, WhenClosedLeavesItToTheLastUser) {
    const auto done = detach_when_closed(0, kernel, kernel.sysfs(), runtime());
    ASSERT_TRUE(done) << done.error().what;
    const auto asked = kernel.reconfigures();
    ASSERT_EQ(asked.size(), 1U);
    EXPECT_EQ(asked[0].disconnect_on_close, true);
    EXPECT_EQ(asked[0].backend, "mine");
    EXPECT_TRUE(asked[0].sockets.empty());
    EXPECT_TRUE(kernel.disconnects().empty());
}

TEST_F(Detach, WhenClosedTreatsFreeAndMissingDevicesAsDetachDoes) {
    EXPECT_TRUE(detach_when_closed(1, kernel, kernel.sysfs(), runtime()));
    EXPECT_EQ(detach_when_closed(77, kernel, kernel.sysfs(), runtime()).error().kind, Kind::absent);
    EXPECT_TRUE(kernel.reconfigures().empty());
}

}  // namespace
}  // namespace nbd
