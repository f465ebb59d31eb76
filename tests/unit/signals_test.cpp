// SPDX-License-Identifier: MIT
// Signals as descriptors.
#include "client/signals.h"

#include "client/base/deadline.h"

#include <array>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <thread>
#include <unistd.h>

namespace nbd {
namespace {

using namespace std::chrono_literals;

bool is_readable(int fd) {
    return wait_for(fd, POLLIN, Deadline::in(0s)).has_value();
}

TEST(Signals, AreTakenOneByOne) {
    const auto signals = Signals::block();
    ASSERT_TRUE(signals);
    EXPECT_FALSE(signals->take());
    EXPECT_FALSE(is_readable(signals->fd()));
    for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
        ::kill(::getpid(), number);
        EXPECT_TRUE(is_readable(signals->fd()));
        EXPECT_EQ(signals->take(), number);
        EXPECT_FALSE(signals->take());
    }
}

TEST(Signals, EndAWaitWithoutBeingUsedUp) {
    const auto signals = Signals::block();
    ASSERT_TRUE(signals);
    ::kill(::getpid(), SIGTERM);
    EXPECT_FALSE(pause_until(Deadline::in(1h, signals->fd())));
    EXPECT_FALSE(pause_until(Deadline::in(1h, signals->fd())));
    EXPECT_EQ(signals->take(), SIGTERM);
    EXPECT_TRUE(pause_until(Deadline::in(0s, signals->fd())));
}

TEST(Signals, AreBlockedInLaterThreadsToo) {
    const auto signals = Signals::block();
    ASSERT_TRUE(signals);
    std::jthread([] { ::pthread_kill(::pthread_self(), SIGHUP); }).join();
    ::kill(::getpid(), SIGTERM);
    EXPECT_EQ(signals->take(), SIGTERM) << "and HUP died with the thread it was for";
}

TEST(Signals, ABrokenPipeIsAnErrorNotTheEnd) {
    const auto signals = Signals::block();
    ASSERT_TRUE(signals);
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe(ends.data()), 0);
    const Fd writing(ends[1]);
    ::close(ends[0]);
    EXPECT_EQ(::write(writing.get(), "x", 1), -1);
    EXPECT_EQ(errno, EPIPE);
}

}  // namespace
}  // namespace nbd
