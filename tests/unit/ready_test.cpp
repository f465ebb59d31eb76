// SPDX-License-Identifier: MIT
// When an attached device counts as usable.
#include "client/ready.h"

#include "tests/unit/fake_kernel.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <thread>

namespace nbd {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t megabyte = 1 << 20;

class Ready : public testing::Test {
protected:
    Ready() { EXPECT_TRUE(kernel.connect({.index = 0, .size = megabyte})); }

    Result<Clock::duration> wait(const Deadline& deadline = Deadline::in(5s),
                                 std::uint64_t size = megabyte) {
        return wait_until_usable(0, size, kernel.sysfs(), false, deadline);
    }
    void replace_node() const { std::filesystem::remove(kernel.node(0)); }

    FakeKernel kernel;
};

TEST_F(Ready, ADeviceThatCanBeRead) {
    EXPECT_TRUE(wait());
}

TEST_F(Ready, OneSmallerThanAProbe) {
    ASSERT_TRUE(kernel.reconfigure({.index = 0, .size = 512}));
    EXPECT_TRUE(wait(Deadline::in(5s), 512));
}

TEST_F(Ready, AnotherSizeThanAskedFor) {
    const auto wrong = wait(Deadline::in(5s), 2 * megabyte);
    ASSERT_FALSE(wrong);
    EXPECT_EQ(wrong.error().kind, Kind::internal);
    EXPECT_NE(wrong.error().what.find("1048576 bytes, not 2097152"), std::string::npos);
}

TEST_F(Ready, OneTheKernelHasDroppedAgain) {
    ASSERT_TRUE(kernel.disconnect(0));
    EXPECT_EQ(wait().error().kind, Kind::unreachable);
}

TEST_F(Ready, ANodeThatNeverAppears) {
    replace_node();
    const auto missing = wait(Deadline::in(30ms));
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().kind, Kind::unsupported);
    EXPECT_EQ(missing.error().what, "cannot use " + kernel.node(0) + ": the node does not appear");
    EXPECT_FALSE(missing.error().hint.empty());
}

TEST_F(Ready, ANodeThatAppearsLater) {
    const std::string aside = kernel.root.path() + "/aside";
    std::filesystem::rename(kernel.node(0), aside);
    const std::jthread udev([&] { std::filesystem::rename(aside, kernel.node(0)); });
    EXPECT_TRUE(wait());
}

TEST_F(Ready, ASignalEndsTheWaitForANode) {
    replace_node();
    const Bell bell;
    bell.ring();
    EXPECT_EQ(wait(Deadline::in(1h, bell.fd())).error().kind, Kind::cancelled);
}

TEST_F(Ready, ANodeThatCannotBeRead) {
    replace_node();
    std::filesystem::create_directory(kernel.node(0));
    const auto failed = wait();
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().kind, Kind::unreachable);
    EXPECT_EQ(failed.error().what, "cannot read " + kernel.node(0) + ": is a directory");
}

TEST_F(Ready, ADeviceWithoutContent) {
    std::filesystem::resize_file(kernel.node(0), 0);
    EXPECT_EQ(wait().error().what, "cannot read " + kernel.node(0) + ": the device is empty");
}

/// Opening a pipe waits for a writer, as opening a device waits for its server.
TEST_F(Ready, ADeviceThatHangsIsGivenUp) {
    replace_node();
    ASSERT_EQ(::mkfifo(kernel.node(0).c_str(), 0600), 0);
    const auto hung = wait(Deadline::in(30ms));
    ASSERT_FALSE(hung);
    EXPECT_EQ(hung.error().kind, Kind::unreachable);
    EXPECT_EQ(hung.error().what, "cannot read " + kernel.node(0) + ": no answer from the server");
    const Bell bell;
    bell.ring();
    EXPECT_EQ(wait(Deadline::in(1h, bell.fd())).error().kind, Kind::cancelled);
}

TEST_F(Ready, DroppingPartitionsNeverHangs) {
    replace_node();
    ASSERT_EQ(::mkfifo(kernel.node(0).c_str(), 0600), 0);
    drop_stale_partitions(0, kernel.sysfs());
    drop_stale_partitions(77, kernel.sysfs());
    SUCCEED() << "it has returned";
}

}  // namespace
}  // namespace nbd
