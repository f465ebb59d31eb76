// SPDX-License-Identifier: MIT
// A healthy connection is replaced only while no request is under way and none can come.
#include "client/renewal.h"

#include "tests/unit/fake_kernel.h"

#include <array>
#include <fcntl.h>
#include <filesystem>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace nbd {
namespace {

using namespace std::chrono_literals;

struct Pair {
    Pair() {
        std::array<int, 2> ends{};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
        ours = Fd(ends[0]);
        theirs = Fd(ends[1]);
    }
    Fd ours;
    Fd theirs;
};

class Renewal : public testing::Test {
protected:
    Renewal() {
        EXPECT_TRUE(kernel.connect({.index = 0,
                                    .size = 1 << 20,
                                    .timeout = 4s,
                                    .backend = "mine",
                                    .sockets = {old.ours.get()}}));
        inflight("0 0");
        kernel.root.write(attribute, "128\n");
    }

    void inflight(const std::string& words) const {
        kernel.root.write("sys/block/nbd0/inflight", words + "\n");
    }
    /// A write of the attribute takes until somebody reads there, as one in the kernel takes until
    /// the requests under way are answered.
    void writes_take_long() {
        const std::string path = kernel.root.path() + "/" + attribute;
        std::filesystem::remove(path);
        ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
        usual_ = std::jthread([path] {
            const Fd fifo(::open(path.c_str(), O_WRONLY));
            EXPECT_EQ(::write(fifo.get(), "128\n", 4), 4);
        });
        kernel.on_reconfigure = [this, path](const ReconfigureRequest&) -> std::optional<Error> {
            reader_ = Fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK));
            return std::nullopt;
        };
    }
    void renew() {
        const ReconfigureRequest request{
            .index = 0, .backend = "mine", .sockets = {fresh.ours.get()}};
        EXPECT_TRUE(nbd::renew(old.ours.get(), request, kernel, kernel.sysfs()));
    }
    bool is_old_alive() const {
        pollfd entry{old.ours.get(), POLLRDHUP, 0};
        return ::poll(&entry, 1, 0) == 0;
    }

    const std::string attribute = "sys/block/nbd0/queue/nr_requests";
    Pair old;
    Pair fresh;
    FakeKernel kernel;

private:
    std::jthread usual_;
    Fd reader_;
};

TEST_F(Renewal, WhileRequestsAreHeldBack) {
    writes_take_long();
    renew();
    EXPECT_TRUE(was_adopted(fresh.ours.get()));
    EXPECT_FALSE(is_old_alive());
    EXPECT_EQ(kernel.live_slots(0), 1U);
}

TEST_F(Renewal, NotWithARequestUnderWay) {
    writes_take_long();
    inflight("0 1");
    renew();
    EXPECT_FALSE(was_adopted(fresh.ours.get()));
    EXPECT_TRUE(is_old_alive());
    EXPECT_TRUE(kernel.reconfigures().empty());
}

TEST_F(Renewal, NotWhileNewRequestsMayCome) {
    renew();
    EXPECT_FALSE(was_adopted(fresh.ours.get())) << "each write was over at once";
    EXPECT_TRUE(is_old_alive());
    EXPECT_EQ(*read_file(kernel.root.path() + "/" + attribute), "128\n") << "as it was";
}

}  // namespace
}  // namespace nbd
