// SPDX-License-Identifier: MIT
// What a record looks like on each kind of stderr, and that a full one never blocks us.
#include "client/base/log.h"

#include "client/base/fd.h"

#include <array>
#include <cstdlib>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <string>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace nbd {
namespace {

/// Puts a pipe or a socket pair in the place of stderr while it lives.
class Stderr {
public:
    enum Sort { pipe_ends, socket_ends };
    explicit Stderr(Sort sort) : saved_(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)) {
        std::array<int, 2> ends{};
        const int made = sort == pipe_ends
                             ? pipe2(ends.data(), O_CLOEXEC)
                             : socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data());
        if (made != 0) ADD_FAILURE() << "no pair of descriptors";
        reader_.reset(ends[0]);
        dup2(ends[1], STDERR_FILENO);
        close(ends[1]);
        fcntl(reader_.get(), F_SETFL, O_NONBLOCK);
    }
    ~Stderr() { dup2(saved_.get(), STDERR_FILENO); }

    /// All that waits.
    std::string take() const {
        std::string text;
        std::array<char, 4096> chunk{};
        for (;;) {
            const ssize_t count = read(reader_.get(), chunk.data(), chunk.size());
            if (count <= 0) return text;
            text.append(chunk.data(), static_cast<std::size_t>(count));
        }
    }

private:
    Fd saved_, reader_;
};

TEST(Log, PlainRecordsAndLevels) {
    const Stderr capture(Stderr::pipe_ends);
    open_log(Level::info, LogTarget::stderr_stream);
    log(Level::info, "attached");
    log(Level::debug, "not shown");
    EXPECT_EQ(capture.take(), "nbd-client: attached\n");
    EXPECT_TRUE(log_enabled(Level::error));
    EXPECT_FALSE(log_enabled(Level::debug));
}

TEST(Log, ErrorsComeWithTheirHintAtEveryLevel) {
    const Stderr capture(Stderr::pipe_ends);
    open_log(Level::error, LogTarget::stderr_stream);
    log_error({Kind::busy, "cannot x", "try y"});
    log_error({Kind::busy, "cannot z"});
    EXPECT_EQ(capture.take(), "nbd-client: cannot x\nhint: try y\nnbd-client: cannot z\n");
}

TEST(Log, ARecordIsOneLineWithoutControls) {
    const Stderr capture(Stderr::pipe_ends);
    open_log(Level::info, LogTarget::stderr_stream);
    log(Level::info, "a\nb\x1b[0m\x7f Grüße");
    EXPECT_EQ(capture.take(), "nbd-client: a b [0m  Grüße\n");
}

TEST(Log, LongRecordsAreCutBetweenCharacters) {
    const Stderr capture(Stderr::pipe_ends);
    open_log(Level::info, LogTarget::stderr_stream);
    std::string umlauts;
    for (int i = 0; i < 2000; ++i) umlauts += "ä";
    log(Level::info, umlauts);
    log(Level::info, "a" + umlauts);
    const std::string text = capture.take();
    const std::size_t second = text.find('\n') + 1;
    EXPECT_LE(second, 1024U);
    EXPECT_LE(text.size() - second, 1024U);
    EXPECT_GE(text.size(), 2000U);
    EXPECT_EQ(text.substr(second - 3, 3), "ä\n");
    EXPECT_EQ(text.substr(text.size() - 3), "ä\n");
}

TEST(Log, JournalRecordsCarryTheirPriority) {
    const Stderr capture(Stderr::socket_ends);
    struct stat file {};
    ASSERT_EQ(fstat(STDERR_FILENO, &file), 0);
    const std::string ours = std::to_string(file.st_dev) + ':' + std::to_string(file.st_ino);
    setenv("JOURNAL_STREAM", ours.c_str(), 1);
    open_log(Level::debug, LogTarget::automatic);
    log(Level::error, "e");
    log(Level::warning, "w");
    log(Level::info, "i");
    log(Level::debug, "d");
    log_error({Kind::busy, "cannot x", "try y"});
    EXPECT_EQ(capture.take(), "<3>e\n<4>w\n<6>i\n<7>d\n<3>cannot x\n<3>hint: try y\n");

    setenv("JOURNAL_STREAM", (ours + "1").c_str(), 1);
    open_log(Level::info, LogTarget::automatic);
    log(Level::info, "another stream");
    EXPECT_EQ(capture.take(), "nbd-client: another stream\n");
    unsetenv("JOURNAL_STREAM");
}

class FullSink : public testing::TestWithParam<Stderr::Sort> {};

TEST_P(FullSink, DropsCountsAndReports) {
    const Stderr capture(GetParam());
    open_log(Level::info, LogTarget::stderr_stream);
    // A blocking write would hang here: the test's time limit is the assertion.
    constexpr std::size_t records = 20000;
    for (std::size_t i = 0; i < records; ++i) log(Level::info, std::string(900, 'x'));
    EXPECT_EQ(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK, 0) << "the stream is shared with others";
    const std::string full = capture.take();
    EXPECT_LT(full.size(), records * 900);
    EXPECT_EQ(full.find("dropped"), std::string::npos);

    log(Level::info, "fits");
    const std::string text = capture.take();
    EXPECT_TRUE(text.ends_with(" log records were dropped\nnbd-client: fits\n")) << text;
    const auto taken = static_cast<std::size_t>(std::count(full.begin(), full.end(), '\n'));
    EXPECT_EQ(text.substr(0, text.find(" log")), "nbd-client: " + std::to_string(records - taken));
    log(Level::info, "again");
    EXPECT_EQ(capture.take(), "nbd-client: again\n");
}

INSTANTIATE_TEST_SUITE_P(Log, FullSink, testing::Values(Stderr::pipe_ends, Stderr::socket_ends));

}  // namespace
}  // namespace nbd
