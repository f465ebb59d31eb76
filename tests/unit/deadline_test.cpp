// SPDX-License-Identifier: MIT
// Waits end at the deadline, on cancellation, or when the descriptor is ready.
#include "client/base/deadline.h"

#include "client/base/fd.h"

#include <array>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace nbd {
namespace {

using namespace std::chrono_literals;

Fd event(unsigned value) {
    return Fd(::eventfd(value, EFD_CLOEXEC | EFD_NONBLOCK));
}

TEST(Deadline, knows_when_it_has_passed) {
    EXPECT_TRUE(Deadline::in(0s).expired());
    EXPECT_TRUE(Deadline::in(-1s).expired());
    EXPECT_FALSE(Deadline::in(1h).expired());
    EXPECT_EQ(Deadline::in(-1s).poll_timeout(), 0);
}

TEST(Deadline, gives_poll_the_time_left_in_milliseconds_at_most_a_day) {
    EXPECT_GT(Deadline::in(10s).poll_timeout(), 9000);
    EXPECT_LE(Deadline::in(10s).poll_timeout(), 10000);
    EXPECT_EQ(Deadline::at(Clock::time_point::max()).poll_timeout(), 24 * 60 * 60 * 1000);
}

TEST(Deadline, shortens_but_never_lengthens) {
    const Deadline hour = Deadline::in(1h, 7);
    EXPECT_LT(hour.at_most(1s).time(), hour.time());
    EXPECT_EQ(hour.at_most(2h).time(), hour.time());
    EXPECT_EQ(hour.at_most(1s).cancel_fd(), 7);
}

TEST(WaitFor, tells_ready_from_late_from_cancelled) {
    const Fd quiet = event(0);
    const Fd ready = event(1);
    EXPECT_TRUE(wait_for(ready.get(), POLLIN, Deadline::in(1h)));
    EXPECT_TRUE(wait_for(ready.get(), POLLIN, Deadline::in(0s))) << "looks once even if late";
    const auto late = wait_for(quiet.get(), POLLIN, Deadline::in(5ms));
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().kind, Kind::unreachable);
    const auto cancelled = wait_for(quiet.get(), POLLIN, Deadline::in(1h, ready.get()));
    ASSERT_FALSE(cancelled);
    EXPECT_EQ(cancelled.error().kind, Kind::cancelled);
    // The descriptor that cancels is not read, so that every later wait ends as well.
    EXPECT_FALSE(wait_for(quiet.get(), POLLIN, Deadline::in(1h, ready.get())));
}

TEST(WaitFor, wakes_when_the_peer_closes) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe(ends.data()), 0);
    const Fd read_end(ends[0]);
    Fd write_end(ends[1]);
    write_end.reset();
    EXPECT_TRUE(wait_for(read_end.get(), POLLIN, Deadline::in(1h)));
}

TEST(PauseUntil, lasts_to_the_deadline_unless_cancelled) {
    const Fd ready = event(1);
    const auto begin = Clock::now();
    EXPECT_TRUE(pause_until(Deadline::in(10ms)));
    EXPECT_GE(Clock::now() - begin, 10ms);
    EXPECT_FALSE(pause_until(Deadline::in(1h, ready.get())));
}

}  // namespace
}  // namespace nbd
