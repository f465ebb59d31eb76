// SPDX-License-Identifier: MIT
// What the caller of a process that goes into the background sees of it.
#include "client/background.h"

#include "client/base/deadline.h"
#include "client/base/process.h"
#include "client/exit_status.h"
#include "tests/unit/temporary_directory.h"

#include <array>
#include <fcntl.h>
#include <functional>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace nbd {
namespace {

using namespace std::chrono_literals;

/// The exit status the parent leaves with, when `work` is what the child does. In a process of its
/// own: the child ends for real.
int status_of(const std::function<void(Background&)>& work) {
    const auto status = run_in_child(
        [&work]() -> std::string {
            Background background;
            auto split = background.split();
            if (!split) return "split";
            if (*split) return std::to_string((*split)->exit_status);
            work(background);
            ::_exit(0);
        },
        16, Deadline::in(5s));
    return status ? std::stoi(*status) : -1;
}

TEST(Background, TheParentsStatusIsTrue) {
    EXPECT_EQ(status_of([](Background& background) { background.detach(); }), exit_done);
    EXPECT_EQ(status_of([](Background&) { ::_exit(7); }), 7);
    EXPECT_EQ(status_of([](Background&) { ::_exit(0); }), 0) << "it had nothing to stay for";
    EXPECT_EQ(status_of([](Background&) { ::raise(SIGKILL); }), 128 + SIGKILL);
    EXPECT_EQ(status_of([](Background& background) {
                  background.detach();
                  ::_exit(7);
              }),
              exit_done)
        << "what comes later is nobody's business";
}

TEST(Background, TheParentLeavesWhileTheChildGoesOn) {
    const TemporaryDirectory directory;
    const std::string fifo = directory.path() + "/fifo";
    ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
    const Fd reading(::open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    const int status = status_of([&fifo](Background& background) {
        background.detach();
        const Fd writing(::open(fifo.c_str(), O_WRONLY | O_CLOEXEC));
        std::array<char, 64> where{};
        const bool ok = ::getcwd(where.data(), where.size()) != nullptr &&
                        std::string_view(where.data()) == "/" && ::getsid(0) == ::getpid() &&
                        !background.attached();
        std::string streams;
        for (const char* link : {"/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"}) {
            std::array<char, 64> target{};
            if (::readlink(link, target.data(), target.size() - 1) > 0) streams += target.data();
        }
        const std::string text = (ok ? "alone " : "not alone ") + streams;
        [[maybe_unused]] const ssize_t count = ::write(writing.get(), text.data(), text.size());
    });
    EXPECT_EQ(status, exit_done);
    ASSERT_TRUE(wait_for(reading.get(), POLLIN, Deadline::in(5s)));
    std::string text(256, '\0');
    const ssize_t count = ::read(reading.get(), text.data(), text.size());
    text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
    EXPECT_EQ(text, "alone /dev/null/dev/null/dev/null");
}

TEST(Background, NobodyIsAttachedToOneThatWasNotSplit) {
    EXPECT_FALSE(Background().attached());
}

}  // namespace
}  // namespace nbd
