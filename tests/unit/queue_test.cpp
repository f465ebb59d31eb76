// SPDX-License-Identifier: MIT
// What is written to the request queue of a device just attached, and what the last use left there.
#include "client/queue.h"

#include "tests/unit/fake_kernel.h"

#include <gtest/gtest.h>

namespace nbd {
namespace {

using namespace std::chrono_literals;

class Queue : public testing::Test {
protected:
    void has(const std::string& attribute, const std::string& value) const {
        kernel.root.write("sys/block/nbd0/queue/" + attribute, value + "\n");
    }
    std::string value(const std::string& attribute) const {
        const auto text = read_file(kernel.root.path() + "/sys/block/nbd0/queue/" + attribute);
        return text ? *text : "";
    }
    void prepare(bool quick = false) const {
        EXPECT_TRUE(prepare_queue(0, {agreed, quick, false}, kernel.sysfs(), Deadline::in(5s)));
    }

    FakeKernel kernel;
    ExportInfo agreed;
};

// A plain file keeps what stands behind the bytes written.

TEST_F(Queue, RequestsAreKeptBelowTheServersMaximum) {
    agreed.block_sizes = BlockSizes{512, 4096, 65536};
    prepare();
    EXPECT_TRUE(value("max_sectors_kb").starts_with("64")) << value("max_sectors_kb");
}

TEST_F(Queue, OnlyWhatTheLastUseLeftIsTakenBack) {
    agreed.block_sizes = BlockSizes{512, 4096, 1 << 25};
    prepare();
    EXPECT_TRUE(value("max_sectors_kb").starts_with("0"));
}

TEST_F(Queue, DiscardsAreSmallWhereTheyMustBeQuick) {
    for (const bool quick : {false, true}) {
        has("discard_max_hw_bytes", "999999488");  // as many digits as the limit
        has("discard_max_bytes", "000004096");     // left by the last use
        prepare(quick);
        EXPECT_TRUE(value("discard_max_bytes").starts_with(quick ? "268435456" : "999999488"));
    }
    has("discard_max_hw_bytes", "4194304");
    has("discard_max_bytes", "0004096");
    prepare(true);
    EXPECT_TRUE(value("discard_max_bytes").starts_with("4194304")) << "the driver's own is smaller";
    has("discard_max_hw_bytes", "0");
    has("discard_max_bytes", "0");
    prepare(true);
    EXPECT_EQ(value("discard_max_bytes"), "0\n") << "no discards, no limit";
}

}  // namespace
}  // namespace nbd
