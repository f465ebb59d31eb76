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
    /// After `quick` of them, a write of the attribute takes until the driver is reconfigured, as
    /// one in the kernel takes until the requests under way are answered.
    void writes_take_long(int quick = 1) {
        const std::string path = kernel.root.path() + "/" + attribute;
        const std::string full = path + ".full";
        std::filesystem::remove(path);
        ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
        ASSERT_EQ(::mkfifo(full.c_str(), 0600), 0);
        pipe_ = Fd(::open(full.c_str(), O_RDWR | O_NONBLOCK));
        ASSERT_EQ(::fcntl(pipe_.get(), F_SETPIPE_SZ, 4096), 4096);
        const std::string filling(4096 - static_cast<std::size_t>(quick) * 3, '-');
        ASSERT_EQ(::write(pipe_.get(), filling.data(), filling.size()),
                  static_cast<ssize_t>(filling.size()));
        usual_ = std::jthread([path, full] {
            // Whoever asks for the value waits for it while the pipe is put in its place.
            const Fd value(::open(path.c_str(), O_WRONLY));
            EXPECT_EQ(::rename(full.c_str(), path.c_str()), 0);
            EXPECT_EQ(::write(value.get(), "128\n", 4), 4);
        });
        kernel.on_reconfigure = [this](const ReconfigureRequest&) -> std::optional<Error> {
            std::array<char, 4096> rest{};
            [[maybe_unused]] const auto freed = ::read(pipe_.get(), rest.data(), rest.size());
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
    Fd pipe_;
};

TEST_F(Renewal, WhileRequestsAreHeldBack) {
    writes_take_long();
    renew();
    EXPECT_TRUE(was_adopted(fresh.ours.get()));
    EXPECT_FALSE(is_old_alive());
    EXPECT_EQ(kernel.live_slots(0), 1U);
}

TEST_F(Renewal, TheServerClosesTheOldConnection) {
    writes_take_long();
    std::string rest;
    std::jthread server([this, &rest] {
        char byte = 0;
        while (::recv(old.theirs.get(), &byte, 1, 0) == 1) rest += byte;
        // What is still to be said arrives.
        EXPECT_EQ(::send(old.theirs.get(), "reply", 5, 0), 5);
        old.theirs.reset();
    });
    renew();
    server.join();
    EXPECT_EQ(rest, "") << "nothing more is sent";
    std::array<char, 8> reply{};
    EXPECT_EQ(::recv(old.ours.get(), reply.data(), reply.size(), 0), 5);
    EXPECT_TRUE(was_adopted(fresh.ours.get()));
}

TEST_F(Renewal, NotWithARequestUnderWay) {
    writes_take_long();
    inflight("0 1");
    renew();
    EXPECT_FALSE(was_adopted(fresh.ours.get()));
    EXPECT_TRUE(is_old_alive());
    EXPECT_TRUE(kernel.reconfigures().empty());
}

TEST_F(Renewal, NotBeforeAFirstChangeHasWaitedForWhatIsNotCounted) {
    writes_take_long(0);
    renew();
    EXPECT_FALSE(was_adopted(fresh.ours.get()));
    EXPECT_TRUE(is_old_alive());
}

TEST_F(Renewal, NotWhileNewRequestsMayCome) {
    renew();
    EXPECT_FALSE(was_adopted(fresh.ours.get())) << "each write was over at once";
    EXPECT_TRUE(is_old_alive());
    EXPECT_EQ(*read_file(kernel.root.path() + "/" + attribute), "128\n") << "as it was";
}

}  // namespace
}  // namespace nbd
