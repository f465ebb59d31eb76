// SPDX-License-Identifier: MIT
// Jobs that end, fail and hang.
#include "client/worker.h"

#include "client/base/deadline.h"
#include "tests/unit/fake_kernel.h"

#include <atomic>
#include <future>
#include <gtest/gtest.h>

namespace nbd {
namespace {

using namespace std::chrono_literals;

std::optional<Result<void>> outcome_of(Worker& worker) {
    if (!wait_for(worker.fd(), POLLIN, Deadline::in(5s))) return std::nullopt;
    return worker.take();
}

bool is_readable(int fd) {
    return wait_for(fd, POLLIN, Deadline::in(0s)).has_value();
}

TEST(Worker, TellsTheOutcomeOnce) {
    Worker worker;
    EXPECT_FALSE(worker.busy());
    EXPECT_FALSE(worker.take());
    worker.start([]() -> Result<void> { return Error{Kind::refused, "no"}; });
    EXPECT_TRUE(worker.busy());
    const auto outcome = outcome_of(worker);
    ASSERT_TRUE(outcome);
    ASSERT_FALSE(*outcome);
    EXPECT_EQ(outcome->error().kind, Kind::refused);
    EXPECT_FALSE(worker.busy());
    EXPECT_FALSE(worker.take());
    EXPECT_FALSE(is_readable(worker.fd()));
}

TEST(Worker, RunsJobsOneAfterTheOtherInItsOnlyThread) {
    Worker worker;
    std::thread::id first;
    for (int i = 0; i < 100; ++i) {
        std::thread::id here;
        worker.start([&here]() -> Result<void> {
            here = std::this_thread::get_id();
            return {};
        });
        const auto outcome = outcome_of(worker);
        ASSERT_TRUE(outcome && *outcome);
        if (i == 0) first = here;
        EXPECT_EQ(here, first);
    }
    EXPECT_NE(first, std::this_thread::get_id());
}

TEST(Worker, ABusyOneDoesNotHoldUsUp) {
    std::promise<void> release;
    const auto released = release.get_future().share();
    Worker worker;
    worker.start([released]() -> Result<void> {
        released.wait();
        return {};
    });
    EXPECT_FALSE(is_readable(worker.fd()));
    EXPECT_FALSE(worker.take());
    EXPECT_TRUE(worker.busy());
    release.set_value();
    const auto outcome = outcome_of(worker);
    EXPECT_TRUE(outcome && *outcome);
}

TEST(Worker, AHangingJobIsLeftBehind) {
    std::promise<void> release;
    const auto released = release.get_future().share();
    std::promise<void> done;
    {
        Worker worker;
        worker.start([released, &done]() -> Result<void> {
            released.wait();
            done.set_value();
            return {};
        });
    }  // returns although the job has not
    release.set_value();
    EXPECT_EQ(done.get_future().wait_for(5s), std::future_status::ready) << "and it may still end";
}

TEST(Worker, AnIdleOrFinishedOneEndsWithItsThread) {
    const auto threads = [] {
        return std::distance(std::filesystem::directory_iterator("/proc/self/task"), {});
    };
    const auto before = threads();
    {
        const Worker idle;
        Worker finished;
        finished.start([]() -> Result<void> { return {}; });
        ASSERT_TRUE(wait_for(finished.fd(), POLLIN, Deadline::in(5s)));
        EXPECT_EQ(threads(), before + 2);
    }
    EXPECT_EQ(threads(), before);
}

}  // namespace
}  // namespace nbd
