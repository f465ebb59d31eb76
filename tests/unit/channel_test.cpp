// SPDX-License-Identifier: MIT
// A request gets its own verdict, whatever else stands in the socket's queue.
#include "netlink/channel.h"

#include "tests/unit/fake_netlink.h"

#include <gtest/gtest.h>

namespace nbd {
namespace {

class ChannelTest : public testing::Test {
protected:
    void SetUp() override {
        auto channel = fake_.channel();
        ASSERT_TRUE(channel) << channel.error().what;
        channel_.emplace(std::move(*channel));
    }

    Result<Verdict> request() {
        const auto message = disconnect_message(channel_->family(), 1);
        return channel_->exchange(**message);
    }

    FakeNetlink fake_;
    std::optional<Channel> channel_;
};

TEST_F(ChannelTest, ResolvesFamilyAndGroup) {
    EXPECT_EQ(channel_->family(), fake_family);
    EXPECT_EQ(channel_->group(), static_cast<int>(fake_group));
}

TEST(ChannelResolve, MissingFamilyIsUnsupported) {
    FakeNetlink fake;
    fake.has_family = false;
    const auto channel = fake.channel();
    ASSERT_FALSE(channel);
    EXPECT_EQ(channel.error().kind, Kind::unsupported);
    EXPECT_NE(channel.error().what.find("\"nbd\""), std::string::npos);
    EXPECT_FALSE(channel.error().hint.empty());
}

TEST(ChannelResolve, GroupMayBeMissing) {
    FakeNetlink fake;
    fake.has_group = false;
    const auto channel = fake.channel();
    ASSERT_TRUE(channel);
    EXPECT_EQ(channel->family(), fake_family);
    EXPECT_EQ(channel->group(), 0);
}

TEST(ChannelResolve, AnswerWithoutIdIsAnError) {
    FakeNetlink fake;
    fake.has_id = false;
    const auto channel = fake.channel();
    ASSERT_FALSE(channel);
    EXPECT_EQ(channel.error().kind, Kind::internal);
}

TEST_F(ChannelTest, AnswerAndAcknowledgementArriveApart) {
    fake_.answers.push_back([](FakeNetlink& fake, std::uint32_t sequence) {
        fake.say(index_message(sequence, NBD_CMD_CONNECT, 5));
        fake.say(verdict_message(sequence, 0));
    });
    const auto verdict = request();
    ASSERT_TRUE(verdict);
    EXPECT_EQ(verdict->error, 0);
    ASSERT_TRUE(verdict->answer);
    EXPECT_EQ(decode_index(*verdict->answer, NBD_CMD_CONNECT), 5u);
    EXPECT_TRUE(fake_.queue.empty());
}

TEST_F(ChannelTest, AnswerAndAcknowledgementArriveInOneDatagram) {
    fake_.answers.push_back([](FakeNetlink& fake, std::uint32_t sequence) {
        fake.say(index_message(sequence, NBD_CMD_CONNECT, 5) + verdict_message(sequence, 0));
    });
    const auto verdict = request();
    ASSERT_TRUE(verdict);
    ASSERT_TRUE(verdict->answer);
    EXPECT_EQ(decode_index(*verdict->answer, NBD_CMD_CONNECT), 5u);
}

TEST_F(ChannelTest, EachOfSeveralCallsGetsItsOwnVerdict) {
    for (const int error : {0, EBUSY, 0, EPERM}) {
        fake_.answers.push_back([error](FakeNetlink& fake, std::uint32_t sequence) {
            if (error == 0) fake.say(index_message(sequence, NBD_CMD_CONNECT, 5));
            fake.say(verdict_message(sequence, error));
        });
    }
    for (const int error : {0, EBUSY, 0, EPERM}) {
        const auto verdict = request();
        ASSERT_TRUE(verdict);
        EXPECT_EQ(verdict->error, error);
        EXPECT_EQ(static_cast<bool>(verdict->answer), error == 0);
    }
}

TEST_F(ChannelTest, StraysAreDropped) {
    fake_.answers.push_back([](FakeNetlink& fake, std::uint32_t sequence) {
        fake.say(verdict_message(sequence - 1, EPERM));
        fake.say(index_message(0, NBD_CMD_LINK_DEAD, 1));
        fake.queue.push_back({verdict_message(sequence, EPERM), 4711});
        fake.queue.push_back({index_message(sequence, NBD_CMD_CONNECT, 9), 4711});
        fake.say(Datagram("\x10\0\0\0", 4));
        fake.queue.push_back({{}, 0, NLE_INTR});
        fake.say(verdict_message(sequence, EBUSY));
    });
    const auto verdict = request();
    ASSERT_TRUE(verdict);
    EXPECT_EQ(verdict->error, EBUSY);
    EXPECT_FALSE(verdict->answer);
}

TEST_F(ChannelTest, ExtendedAcknowledgementIsReadBehindTheEchoedRequest) {
    for (const std::size_t echoed : {0u, 20u, 48u}) {
        fake_.answers.push_back([echoed](FakeNetlink& fake, std::uint32_t sequence) {
            fake.say(verdict_message(sequence, EINVAL, "no \x1b[31msize", echoed));
        });
        const auto verdict = request();
        ASSERT_TRUE(verdict);
        EXPECT_EQ(verdict->error, EINVAL);
        EXPECT_EQ(verdict->explanation, "no \\x1b[31msize") << echoed;
    }
}

TEST_F(ChannelTest, EchoLongerThanTheMessageYieldsNoText) {
    fake_.answers.push_back([](FakeNetlink& fake, std::uint32_t sequence) {
        Datagram datagram = verdict_message(sequence, EINVAL, "text", 4);
        const std::uint32_t length = 4000;
        std::memcpy(&datagram[NLMSG_HDRLEN + sizeof(int)], &length, sizeof length);
        fake.say(datagram);
    });
    const auto verdict = request();
    ASSERT_TRUE(verdict);
    EXPECT_EQ(verdict->error, EINVAL);
    EXPECT_EQ(verdict->explanation, "");
}

TEST_F(ChannelTest, TruncatedVerdictIsAnError) {
    fake_.answers.push_back([](FakeNetlink& fake, std::uint32_t sequence) {
        const MessagePtr message(nlmsg_alloc());
        nlmsg_put(message.get(), 0, sequence, NLMSG_ERROR, 0, 0);
        fake.say(bytes_of(message.get()));
    });
    const auto verdict = request();
    ASSERT_TRUE(verdict);
    EXPECT_EQ(verdict->error, EBADMSG);
}

TEST_F(ChannelTest, SilenceIsAnErrorAndDoesNotSpoilTheNextCall) {
    fake_.answers.push_back([](FakeNetlink&, std::uint32_t) {});
    const auto silent = request();
    ASSERT_FALSE(silent);
    EXPECT_EQ(silent.error().kind, Kind::internal);
    fake_.answers.push_back(
        [](FakeNetlink& fake, std::uint32_t sequence) { fake.say(verdict_message(sequence, 0)); });
    EXPECT_TRUE(request());
}

TEST_F(ChannelTest, LostAnswersAreAnError) {
    fake_.answers.push_back([](FakeNetlink& fake, std::uint32_t) {
        fake.queue.push_back({{}, 0, NLE_NOMEM});
    });
    EXPECT_FALSE(request());
}

TEST_F(ChannelTest, EndlessStraysEnd) {
    fake_.answers.push_back([](FakeNetlink& fake, std::uint32_t) {
        for (int i = 0; i < 2000; ++i) fake.say(index_message(0, NBD_CMD_LINK_DEAD, 1));
    });
    EXPECT_FALSE(request());
    EXPECT_FALSE(fake_.queue.empty());
}

}  // namespace
}  // namespace nbd
