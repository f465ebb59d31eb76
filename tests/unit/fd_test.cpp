// SPDX-License-Identifier: MIT
// Ownership of descriptors, and the small helpers around them.
#include "client/base/fd.h"

#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace nbd {
namespace {

bool is_open(int fd) {
    return ::fcntl(fd, F_GETFD) >= 0;
}
Fd open_null() {
    return Fd(::open("/dev/null", O_RDWR | O_CLOEXEC));
}

TEST(Fd, closes_at_the_end_of_its_life) {
    int number = -1;
    {
        const Fd fd = open_null();
        ASSERT_TRUE(fd);
        number = fd.get();
        EXPECT_TRUE(is_open(number));
    }
    EXPECT_FALSE(is_open(number));
}

TEST(Fd, moves_its_descriptor) {
    Fd first = open_null();
    const int number = first.get();
    Fd second(std::move(first));
    EXPECT_FALSE(first);
    EXPECT_EQ(second.get(), number);
    Fd third = open_null();
    const int overwritten = third.get();
    third = std::move(second);
    EXPECT_EQ(third.get(), number);
    EXPECT_FALSE(is_open(overwritten));
    Fd& same = third;
    third = std::move(same);
    EXPECT_TRUE(is_open(number)) << "self-assignment keeps it";
}

TEST(Fd, releases_and_resets) {
    Fd fd = open_null();
    const Fd kept(fd.release());
    EXPECT_FALSE(fd);
    EXPECT_TRUE(is_open(kept.get()));
    fd.reset(::dup(kept.get()));
    const int number = fd.get();
    fd.reset();
    EXPECT_FALSE(is_open(number));
}

TEST(Fd, is_true_for_descriptor_zero) {
    Fd zero(0);
    EXPECT_TRUE(zero);
    zero.release();
    EXPECT_FALSE(zero);
    EXPECT_EQ(Fd().get(), -1);
}

TEST(Duplicate, is_another_descriptor_of_the_same_file_and_close_on_exec) {
    const Fd fd = open_null();
    const auto copy = duplicate(fd.get());
    ASSERT_TRUE(copy);
    EXPECT_NE(copy->get(), fd.get());
    EXPECT_EQ(::fcntl(copy->get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    EXPECT_FALSE(duplicate(-1));
}

TEST(ErrnoText, is_lower_case_but_keeps_capitals_that_mean_something) {
    EXPECT_EQ(errno_text(ECONNREFUSED), "connection refused");
    EXPECT_EQ(errno_text(EIO), "input/output error");
    EXPECT_EQ(errno_text(123456), "error 123456");
    const Error error = errno_error(Kind::denied, "open /x", EACCES);
    EXPECT_EQ(error.kind, Kind::denied);
    EXPECT_EQ(error.what, "cannot open /x: permission denied");
}

TEST(ReadFile, reads_whole_small_files_and_names_the_missing) {
    const std::string path = testing::TempDir() + "nbd_fd_test_file";
    {
        const Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
        ASSERT_EQ(::write(file.get(), "a\0b\n", 4), 4);
    }
    const auto content = read_file(path);
    ASSERT_TRUE(content);
    EXPECT_EQ(*content, std::string("a\0b\n", 4));
    std::remove(path.c_str());
    const auto missing = read_file(path);
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().kind, Kind::absent);
    EXPECT_NE(missing.error().what.find(path), std::string::npos);
    const auto endless = read_file("/dev/zero", 10000);
    ASSERT_TRUE(endless);
    EXPECT_LT(endless->size(), 20000u);
}

}  // namespace
}  // namespace nbd
