// SPDX-License-Identifier: MIT
// A size changes only when the server says so, by itself, and while every connection lives.
#include "client/resize.h"

#include "client/runtime.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/test_server.h"

#include <gtest/gtest.h>

namespace nbd {
namespace {

constexpr std::uint64_t megabyte = 1 << 20;

class Resize : public testing::Test {
protected:
    Resize() {
        EXPECT_TRUE(kernel.connect({.index = 0, .size = megabyte, .backend = "mine"}));
        status.backend = "mine";
        status.uri = to_uri(server.target());
        status.block_size = 4096;
        status.connections = status.live_connections = 2;
        EXPECT_TRUE(publish_status(runtime(), status));
    }

    void serve(std::uint64_t size) {
        server.set_export(
            {.name = "disk", .description = "", .size = size, .flags = flag_bits({})});
    }
    Result<std::uint64_t> run(bool force = false, std::uint32_t index = 0) {
        return resize(index, force, kernel, kernel.sysfs(), runtime());
    }
    std::string runtime() const { return kernel.root.path() + "/run"; }

    TestServer server;
    FakeKernel kernel;
    RuntimeStatus status;
};

TEST_F(Resize, TakesWholeBlocksOfAGrownExport) {
    serve(2 * megabyte + 4095);
    const auto size = run();
    ASSERT_TRUE(size) << size.error().what;
    EXPECT_EQ(*size, 2 * megabyte);
    EXPECT_EQ(kernel.sysfs().read(0)->size, 2 * megabyte);
    const auto asked = kernel.reconfigures();
    ASSERT_EQ(asked.size(), 1U);
    EXPECT_EQ(asked[0].size, 2 * megabyte);
    EXPECT_EQ(asked[0].backend, "mine");
    EXPECT_TRUE(asked[0].sockets.empty());
    EXPECT_FALSE(asked[0].timeout);
}

TEST_F(Resize, NothingToDoIsNothingDone) {
    const auto size = run();
    ASSERT_TRUE(size);
    EXPECT_EQ(*size, megabyte);
    EXPECT_TRUE(kernel.reconfigures().empty());
}

TEST_F(Resize, ShrinkingNeedsForce) {
    serve(megabyte / 2);
    const auto refused = run();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind, Kind::mismatch);
    EXPECT_EQ(refused.error().what,
              "cannot resize /dev/nbd0: the export has shrunk from 1048576 to 524288 bytes");
    EXPECT_TRUE(kernel.reconfigures().empty());
    EXPECT_EQ(*run(true), megabyte / 2);
}

TEST_F(Resize, WaitsForEveryConnection) {
    serve(2 * megabyte);
    status.live_connections = 1;
    ASSERT_TRUE(publish_status(runtime(), status));
    const auto lock = RuntimeLock::take(runtime(), 0);
    ASSERT_TRUE(lock);
    EXPECT_EQ(run().error().kind, Kind::unreachable);
    EXPECT_TRUE(kernel.reconfigures().empty());
    status.live_connections = 2;
    ASSERT_TRUE(publish_status(runtime(), status));
    EXPECT_TRUE(run());
}

TEST_F(Resize, ADeviceThatWaitsForAServerNeedsSomebodyWhoKnowsItsConnections) {
    serve(2 * megabyte);
    status.dead_conn_timeout = std::chrono::seconds(600);
    ASSERT_TRUE(publish_status(runtime(), status));
    const auto refused = run();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind, Kind::unreachable);
    EXPECT_NE(refused.error().hint.find("nbd-client reattach nbd0"), std::string::npos);
    const auto lock = RuntimeLock::take(runtime(), 0);
    EXPECT_TRUE(run());
}

TEST_F(Resize, OnlyWhatThisProgramHasAttached) {
    EXPECT_EQ(run(false, 1).error().what, "cannot resize /dev/nbd1: it is not attached");
    EXPECT_EQ(run(false, 77).error().kind, Kind::absent);
    status.backend = "an earlier life";
    ASSERT_TRUE(publish_status(runtime(), status));
    EXPECT_EQ(run().error().kind, Kind::absent);
    remove_status(runtime(), 0);
    EXPECT_EQ(run().error().kind, Kind::absent);
    EXPECT_EQ(server.accepted(), 0U);
}

TEST_F(Resize, PassesFailuresOn) {
    serve(2 * megabyte);
    kernel.on_reconfigure = [](const ReconfigureRequest&) {
        return Error{Kind::refused, "cannot reconfigure"};
    };
    EXPECT_EQ(run().error().what, "cannot reconfigure");
    server.stop();
    EXPECT_EQ(run().error().kind, Kind::unreachable);
    EXPECT_EQ(kernel.sysfs().read(0)->size, megabyte);
}

}  // namespace
}  // namespace nbd
