// SPDX-License-Identifier: MIT
// The netlink driver against a kernel played by libnl's replaced send and receive.
#include "netlink/netlink_kernel.h"

#include "tests/unit/fake_netlink.h"

#include <gtest/gtest.h>

namespace nbd {
namespace {

class NetlinkKernelTest : public testing::Test {
protected:
    void SetUp() override {
        auto channel = fake_.channel();
        ASSERT_TRUE(channel);
        kernel_ = netlink_kernel_over(std::move(*channel));
    }

    void will_say(int error, const std::string& text = {}) {
        fake_.answers.push_back([error, text](FakeNetlink& fake, std::uint32_t sequence) {
            fake.say(verdict_message(sequence, error, text));
        });
    }

    void will_connect(std::uint32_t index) {
        fake_.answers.push_back([index](FakeNetlink& fake, std::uint32_t sequence) {
            fake.say(index_message(sequence, NBD_CMD_CONNECT, index));
            fake.say(verdict_message(sequence, 0));
        });
    }

    int last_command() const {
        return static_cast<unsigned char>(fake_.sent.back().at(NLMSG_HDRLEN));
    }

    FakeNetlink fake_;
    std::unique_ptr<Kernel> kernel_;
    ConnectRequest request_{.size = 1 << 20, .sockets = {3}};
};

TEST_F(NetlinkKernelTest, ConnectReturnsTheIndexTheKernelTook) {
    will_connect(11);
    const auto index = kernel_->connect(request_);
    ASSERT_TRUE(index) << index.error().what;
    EXPECT_EQ(*index, 11u);
    EXPECT_EQ(last_command(), NBD_CMD_CONNECT);
}

TEST_F(NetlinkKernelTest, TwoCallsOnOneSocketGetTheirOwnVerdicts) {
    will_connect(4);
    will_say(EBUSY);
    will_connect(6);
    EXPECT_EQ(*kernel_->connect(request_), 4u);
    const auto busy = kernel_->connect(request_);
    ASSERT_FALSE(busy);
    EXPECT_EQ(busy.error().kind, Kind::busy);
    EXPECT_EQ(*kernel_->connect(request_), 6u);
}

TEST_F(NetlinkKernelTest, ConnectWithoutAnIndexInTheAnswer) {
    will_say(0);
    EXPECT_FALSE(kernel_->connect(request_));
    will_say(0);
    request_.index = 5;
    const auto index = kernel_->connect(request_);
    ASSERT_TRUE(index);
    EXPECT_EQ(*index, 5u);
}

TEST_F(NetlinkKernelTest, RefusalsKeepTheirKind) {
    const std::pair<int, Kind> cases[] = {{EPERM, Kind::denied},
                                          {EBUSY, Kind::busy},
                                          {EINVAL, Kind::refused},
                                          {EBADF, Kind::internal}};
    for (const auto& [error, kind] : cases) {
        will_say(error);
        const auto index = kernel_->connect(request_);
        ASSERT_FALSE(index);
        EXPECT_EQ(index.error().kind, kind) << error;
    }
}

TEST_F(NetlinkKernelTest, TheKernelsOwnTextIsShown) {
    will_say(EINVAL, "invalid attribute");
    const auto index = kernel_->connect(request_);
    ASSERT_FALSE(index);
    EXPECT_NE(index.error().what.find("(invalid attribute)"), std::string::npos);
}

TEST_F(NetlinkKernelTest, WhatCannotWorkIsNotSent) {
    request_.sockets = {3, 3};
    EXPECT_FALSE(kernel_->connect(request_));
    request_.sockets = {};
    EXPECT_FALSE(kernel_->connect(request_));
    EXPECT_FALSE(kernel_->reconfigure({.sockets = {3}, .size = 512}));
    EXPECT_TRUE(fake_.sent.empty());
}

TEST_F(NetlinkKernelTest, ReconfigureAndDisconnect) {
    EXPECT_TRUE(kernel_->can_reconfigure());
    will_say(0);
    EXPECT_TRUE(kernel_->reconfigure({.index = 1, .sockets = {3}}));
    EXPECT_EQ(last_command(), NBD_CMD_RECONFIGURE);
    will_say(EINVAL);
    const auto refused = kernel_->reconfigure({.index = 1});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind, Kind::refused);
    will_say(0);
    EXPECT_TRUE(kernel_->disconnect(1));
    EXPECT_EQ(last_command(), NBD_CMD_DISCONNECT);
    will_say(EINVAL);
    const auto absent = kernel_->disconnect(1);
    ASSERT_FALSE(absent);
    EXPECT_EQ(absent.error().kind, Kind::absent);
}

TEST(NetlinkKernelEvents, NeedTheGroup) {
    FakeNetlink fake;
    fake.has_group = false;
    const auto events = netlink_kernel_over(std::move(*fake.channel()))->link_events();
    ASSERT_FALSE(events);
    EXPECT_EQ(events.error().kind, Kind::unsupported);
}

TEST(NetlinkKernelEvents, DrainTakesEverythingThatWaits) {
    FakeNetlink fake;
    const auto events = link_events_over(fake.socket());
    fake.say(index_message(0, NBD_CMD_LINK_DEAD, 1));
    fake.say(index_message(0, NBD_CMD_LINK_DEAD, 1) + index_message(0, NBD_CMD_LINK_DEAD, 7));
    fake.say(index_message(0, NBD_CMD_CONNECT, 2));
    fake.say(data_message(0, NBD_CMD_LINK_DEAD, [](nl_msg*) {}));
    fake.queue.push_back({index_message(0, NBD_CMD_LINK_DEAD, 3), 4711});
    const auto batch = events->drain();
    EXPECT_EQ(batch.indexes, (std::vector<std::uint32_t>{1, 1, 7}));
    EXPECT_FALSE(batch.overrun);
    EXPECT_TRUE(events->drain().indexes.empty());
}

TEST(NetlinkKernelEvents, OverrunIsReportedOnceAndNotTheEnd) {
    FakeNetlink fake;
    const auto events = link_events_over(fake.socket());
    fake.say(index_message(0, NBD_CMD_LINK_DEAD, 1));
    fake.queue.push_back({{}, 0, NLE_NOMEM});
    fake.say(index_message(0, NBD_CMD_LINK_DEAD, 2));
    const auto batch = events->drain();
    EXPECT_EQ(batch.indexes, (std::vector<std::uint32_t>{1, 2}));
    EXPECT_TRUE(batch.overrun);
    EXPECT_FALSE(events->drain().overrun);
}

}  // namespace
}  // namespace nbd
