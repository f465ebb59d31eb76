// SPDX-License-Identifier: MIT
// Answers on stdout and stderr, whole, to whatever is there.
#include "client/output.h"

#include "client/base/fd.h"

#include <array>
#include <gtest/gtest.h>
#include <signal.h>
#include <string>
#include <thread>
#include <unistd.h>

namespace nbd {
namespace {

/// A pipe in the place of a standard stream as long as it lives.
class Captured {
public:
    explicit Captured(int stream) : stream_(stream), saved_(::dup(stream)) {
        std::array<int, 2> ends{};
        EXPECT_EQ(::pipe(ends.data()), 0);
        reading_ = Fd(ends[0]);
        const Fd writing(ends[1]);
        ::dup2(writing.get(), stream_);
    }
    ~Captured() { restore(); }
    Captured(const Captured&) = delete;
    Captured& operator=(const Captured&) = delete;

    void restore() {
        if (saved_) ::dup2(saved_.get(), stream_);
        saved_.reset();
    }
    void stop_reading() { reading_.reset(); }
    /// Everything up to restore().
    std::string text() const {
        std::string all;
        std::array<char, 4096> chunk;
        for (;;) {
            const ssize_t count = ::read(reading_.get(), chunk.data(), chunk.size());
            if (count <= 0) return all;
            all.append(chunk.data(), static_cast<std::size_t>(count));
        }
    }

private:
    int stream_;
    Fd saved_;
    Fd reading_;
};

TEST(Output, PrintsWordForWordOnStdout) {
    Captured out(STDOUT_FILENO);
    print("/dev/nbd0\n");
    print("");
    print(std::string_view("a\0b", 3));
    out.restore();
    EXPECT_EQ(out.text(), std::string("/dev/nbd0\na\0b", 13));
}

TEST(Output, ComplainsInLinesOnStderr) {
    Captured error(STDERR_FILENO);
    complain("bs=512, sz=1048576 bytes");
    error.restore();
    EXPECT_EQ(error.text(), "bs=512, sz=1048576 bytes\n");
}

TEST(Output, MoreThanAPipeHolds) {
    const std::string much(1 << 20, 'x');
    Captured out(STDOUT_FILENO);
    std::string seen;
    std::thread reader([&] { seen = out.text(); });
    print(much);
    out.restore();
    reader.join();
    EXPECT_EQ(seen.size(), much.size());
}

TEST(Output, AReaderThatHasGoneIsNoFailure) {
    ::signal(SIGPIPE, SIG_IGN);
    Captured out(STDOUT_FILENO);
    out.stop_reading();
    print("nobody reads this\n");
    out.restore();
    SUCCEED() << "print() has returned";
}

}  // namespace
}  // namespace nbd
