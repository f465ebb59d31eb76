// SPDX-License-Identifier: MIT
// Children that answer, hang, are too talkative or do not exist.
#include "client/base/process.h"

#include "client/base/fd.h"
#include "client/base/text.h"
#include "tests/unit/temporary_directory.h"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace nbd {
namespace {

using namespace std::chrono_literals;

Deadline soon() {
    return Deadline::in(5s);
}

std::string hang() {
    for (;;) ::pause();
}

bool has_children() {
    return ::waitpid(-1, nullptr, WNOHANG) >= 0 || errno != ECHILD;
}

TEST(RunInChild, ReturnsWhatTheWorkReturns) {
    for (const std::string& text :
         {std::string(), std::string("done"), std::string(100'000, 'x')}) {
        const auto answer = run_in_child([&text] { return text; }, 1 << 20, soon());
        ASSERT_TRUE(answer);
        EXPECT_EQ(*answer, text);
    }
    EXPECT_FALSE(has_children());
}

TEST(RunInChild, WorksInAProcessOfItsOwn) {
    const auto answer = run_in_child([] { return std::to_string(::getpid()); }, 16, soon());
    ASSERT_TRUE(answer);
    EXPECT_NE(*answer, std::to_string(::getpid()));
}

TEST(RunInChild, TakesNoMoreThanTheLimit) {
    const auto answer = run_in_child([] { return std::string(1 << 20, 'x'); }, 10, soon());
    ASSERT_TRUE(answer);
    EXPECT_EQ(*answer, std::string(10, 'x'));
    EXPECT_FALSE(has_children()) << "the writer of the rest is ended";
}

TEST(RunInChild, AChildThatDiesSaysNothing) {
    const auto answer = run_in_child(
        []() -> std::string {
            ::raise(SIGKILL);
            return "alive";
        },
        16, soon());
    ASSERT_TRUE(answer);
    EXPECT_EQ(*answer, "");
}

TEST(RunInChild, AHangingChildIsEndedAtTheDeadline) {
    const auto answer = run_in_child(hang, 16, Deadline::in(20ms));
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().kind, Kind::unreachable);
    EXPECT_FALSE(has_children());
}

TEST(RunInChild, ASignalEndsTheWaitAndTheChild) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe(ends.data()), 0);
    const Fd reading(ends[0]);
    const Fd writing(ends[1]);
    ASSERT_EQ(::write(writing.get(), "x", 1), 1);
    const auto answer = run_in_child(hang, 16, Deadline::in(1h, reading.get()));
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().kind, Kind::cancelled);
    EXPECT_FALSE(has_children());
}

TEST(RunInChild, LeavesNoDescriptorBehind) {
    const auto lowest_free = [] { return Fd(::dup(STDERR_FILENO)).get(); };
    const int before = lowest_free();
    for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(run_in_child([] { return std::string("x"); }, 16, soon()));
        EXPECT_FALSE(run_in_child(hang, 16, Deadline::in(1ms)));
    }
    EXPECT_EQ(lowest_free(), before);
}

TEST(RunProgram, TellsTheExitStatus) {
    const struct {
        std::vector<std::string> arguments;
        int expected;
    } cases[] = {
        {{"true"}, 0},
        {{"false"}, 1},
        {{"sh", "-c", "exit 42"}, 42},
        {{"sh", "-c", "kill -TERM $$"}, 128 + SIGTERM},
    };
    for (const auto& one : cases) {
        const auto status = run_program(one.arguments, soon());
        ASSERT_TRUE(status) << status.error().what;
        EXPECT_EQ(*status, one.expected) << join(one.arguments, " ");
    }
}

TEST(RunProgram, ArgumentsAreNoShellText) {
    const auto status =
        run_program({"sh", "-c", "test \"$1\" = '$(exit 3) *'", "sh", "$(exit 3) *"}, soon());
    ASSERT_TRUE(status);
    EXPECT_EQ(*status, 0);
}

TEST(RunProgram, StartsWithoutBlockedSignalsAndWithoutOurStreams) {
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    ASSERT_EQ(::sigprocmask(SIG_BLOCK, &term, nullptr), 0);
    const auto unblocked =
        run_program({"grep", "-q", "^SigBlk:[[:space:]]*0*$", "/proc/self/status"}, soon());
    ASSERT_EQ(::sigprocmask(SIG_UNBLOCK, &term, nullptr), 0);
    EXPECT_EQ(*unblocked, 0);
    const auto quiet =
        run_program({"sh", "-c", "test \"$(readlink /proc/$$/fd/2)\" = /dev/null"}, soon());
    EXPECT_EQ(*quiet, 0);
}

TEST(RunProgram, IsNotLookedForWhereTheCallerSays) {
    ASSERT_EQ(::setenv("PATH", "/nonexistent", 1), 0);
    EXPECT_TRUE(run_program({"true"}, soon()));
}

TEST(RunProgram, OneThatIsMissingIsAbsent) {
    const auto status = run_program({"nbd-no-such-program"}, soon());
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().kind, Kind::absent);
    EXPECT_EQ(status.error().what, "cannot run nbd-no-such-program: not found");
}

TEST(RunProgram, AHangingOneIsGivenUpAndEnded) {
    const TemporaryDirectory directory;
    const std::string fifo = directory.path() + "/fifo";
    ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
    const std::string other = directory.path() + "/other";
    ASSERT_EQ(::mkfifo(other.c_str(), 0600), 0);
    const Fd reading(::open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    const auto begin = Clock::now();
    // It writes once it runs, and then waits for a writer that never comes.
    const auto status =
        run_program({"sh", "-c", "exec 4>\"$1\"; echo x >&4; read line <\"$2\"", "sh", fifo, other},
                    Deadline::in(1s, reading.get()));
    ASSERT_FALSE(status);
    EXPECT_LT(Clock::now() - begin, 900ms) << "nothing is waited for after that";
    std::array<char, 8> text{};
    ASSERT_EQ(::read(reading.get(), text.data(), text.size()), 2);
    ASSERT_TRUE(wait_for(reading.get(), POLLIN, soon())) << "its end closes the pipe";
    EXPECT_EQ(::read(reading.get(), text.data(), text.size()), 0);
}

TEST(LeaveBehind, OutlivesTheCallAndIsNobodysChild) {
    std::array<int, 2> to{};
    std::array<int, 2> from{};
    ASSERT_EQ(::pipe(to.data()), 0);
    ASSERT_EQ(::pipe(from.data()), 0);
    const Fd reading(from[0]);
    Fd writing(to[1]);
    ASSERT_TRUE(leave_behind(
        [&] {
            char byte = 0;
            while (::read(to[0], &byte, 1) == 1)
                if (::write(from[1], "!", 1) != 1) return;
        },
        std::array{to[0], from[1]}));
    ::close(to[0]);
    ::close(from[1]);
    EXPECT_FALSE(has_children());
    char byte = 0;
    ASSERT_EQ(::write(writing.get(), "?", 1), 1);
    ASSERT_EQ(::read(reading.get(), &byte, 1), 1);
    EXPECT_EQ(byte, '!');
    // It has no copy of our end: its own sees us leave.
    writing.reset();
    EXPECT_EQ(::read(reading.get(), &byte, 1), 0);
}

TEST(LeaveBehind, KeepsNothingOfOurs) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe(ends.data()), 0);
    const Fd reading(ends[0]);
    Fd writing(ends[1]);
    const Fd high(::fcntl(writing.get(), F_DUPFD, 600));
    sigset_t terminate;
    sigset_t before;
    sigemptyset(&terminate);
    sigaddset(&terminate, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &terminate, &before);
    const auto old = ::signal(SIGPIPE, SIG_IGN);
    ASSERT_TRUE(leave_behind(
        [&] {
            std::string seen;
            for (int number = 0; number < 1024; ++number)
                if (::fcntl(number, F_GETFD) >= 0) seen += std::to_string(number) + " ";
            seen += ::getsid(0) == ::getpid() ? "alone " : "in a session ";
            seen += ::signal(SIGPIPE, SIG_DFL) == SIG_DFL ? "default " : "ignored ";
            sigset_t blocked;
            ::sigprocmask(SIG_SETMASK, nullptr, &blocked);
            seen += sigismember(&blocked, SIGTERM) == 0 ? "open" : "blocked";
            [[maybe_unused]] const ssize_t written = ::write(high.get(), seen.data(), seen.size());
        },
        std::array{high.get()}));
    ::signal(SIGPIPE, old);
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    std::array<char, 256> seen{};
    const ssize_t count = ::read(reading.get(), seen.data(), seen.size());
    ASSERT_GT(count, 0);
    EXPECT_EQ(std::string(seen.data(), static_cast<std::size_t>(count)),
              "0 1 2 " + std::to_string(high.get()) + " alone default open");
}

}  // namespace
}  // namespace nbd
