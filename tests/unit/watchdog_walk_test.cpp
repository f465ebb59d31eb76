// SPDX-License-Identifier: MIT
// What the watchdog never does, whatever happens in whatever order.
#include "tests/unit/watchdog_story.h"

#include <gtest/gtest.h>
#include <random>

namespace nbd::story {
namespace {

/// Tells a watchdog anything in any order and checks after each step what must always hold.
class Walk {
public:
    explicit Walk(std::uint32_t seed) : random_(seed) { begin(); }

    void go(int steps) {
        for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
            if (pick(4) == 0)
                now_ += pick(2000) == 0 ? 20min : std::chrono::milliseconds(pick(700));
            one(event());
        }
    }
    int hand_overs() const { return hand_overs_; }
    int renewals() const { return renewals_; }
    int ends() const { return ends_; }
    int resizes() const { return resizes_; }
    int failings() const { return failings_; }

private:
    int pick(int below) { return static_cast<int>(random_() % static_cast<std::uint32_t>(below)); }

    template <typename T, std::size_t size>
    T one_of(const std::array<T, size>& choice) {
        return choice.at(random_() % size);
    }

    void begin() {
        config_ = config_of(static_cast<unsigned>(1 + pick(4)));
        config_.reconnect_for = one_of(std::array{forever, 0s, 10s, 600s});
        config_.timeout = one_of(std::array{0s, 4s, 30s});
        config_.timeout_is_ours = pick(2) == 0;
        config_.auto_resize = pick(2) == 0;
        if (pick(3) == 0) config_.slow_delay = std::chrono::seconds(pick(100));
        const auto live = static_cast<unsigned>(pick(static_cast<int>(config_.connections) + 1));
        state_ = state_of(config_, live);
        in_kernel_ = false;
        candidates_ = static_cast<std::size_t>(pick(4));
    }

    WatchEvent event() {
        switch (pick(17)) {
            case 0:
                return LinkDied{static_cast<DeathCause>(pick(3))};
            case 1:
                return LinkSuspected{};
            case 2:
                return AttemptFailed{refused(std::to_string(pick(3)))};
            case 3:
                return Dialled{export_of(megabyte * static_cast<std::uint64_t>(pick(4))), "other"};
            case 4:
            case 5:
                return Dialled{export_of(state_.size), "store:10809"};
            case 6:
            case 7:
                return Adopted{};
            case 8:
                return NotAdopted{};
            case 9:
                return HandOverFailed{refused()};
            case 10:
                return pick(20) == 0 ? WatchEvent(Resized{state_.export_size}) : TimePassed{};
            case 11:
                return DialNow{};
            case 12:
                if (pick(100) != 0) return TimePassed{};
                return pick(2) == 0 ? WatchEvent(DeviceGone{}) : Terminated{};
            case 13:
                return pick(50) == 0 ? WatchEvent(Interrupted{}) : TimePassed{};
            case 14:
                return KeysAge{};
            default:
                return TimePassed{};
        }
    }

    template <typename T>
    static int count(const std::vector<WatchAction>& actions) {
        int number = 0;
        for (const WatchAction& action : actions)
            number += std::holds_alternative<T>(action) ? 1 : 0;
        return number;
    }

    void one(const WatchEvent& event) {
        const WatchState before = state_;
        const auto actions = step(state_, config_, event, now_, candidates_);
        check_connections(event, actions);
        check_kernel(before, event, actions);
        check_time(before, event, actions);
        if (before.phase == Phase::ended) {
            EXPECT_TRUE(actions.empty());
            EXPECT_EQ(state_.phase, Phase::ended);
            if (pick(4) == 0) begin();
        } else if (state_.phase == Phase::ended) {
            ++ends_;
            EXPECT_EQ(count<Leave>(actions), 1);
        } else {
            EXPECT_EQ(count<Leave>(actions), 0);
        }
        if (testing::Test::HasFailure()) {
            ADD_FAILURE() << "event " << event.index() << ", " << name(before.phase) << " -> "
                          << name(state_.phase) << ": " << words(actions);
        }
    }

    void check_connections(const WatchEvent& event, const std::vector<WatchAction>& actions) {
        EXPECT_LE(state_.live + state_.blind, config_.connections);
        EXPECT_EQ(state_.dead(config_) + state_.live + state_.blind, config_.connections);
        if (state_.phase == Phase::resting) {
            EXPECT_EQ(state_.dead(config_), 0U) << "a dead connection is dialled for";
        }
        if (state_.live > 0) {
            EXPECT_FALSE(state_.failing);
        }
        // What is dialled is either handed over or dropped.
        const bool met = std::holds_alternative<Dialled>(event) && state_.phase != Phase::ended;
        if (met) {
            EXPECT_EQ(
                count<HandOver>(actions) + count<Renew>(actions) + count<DropConnection>(actions),
                1);
        }
    }

    void check_kernel(const WatchState& before, const WatchEvent& event,
                      const std::vector<WatchAction>& actions) {
        const int handed = count<HandOver>(actions) + count<Renew>(actions);
        renewals_ += count<Renew>(actions);
        if (handed > 0) {
            EXPECT_EQ(handed, 1);
            EXPECT_FALSE(in_kernel_) << "one socket at a time";
            EXPECT_TRUE(std::holds_alternative<Dialled>(event)) << "without a connection";
            const ExportInfo& info = std::get<Dialled>(event).info;
            EXPECT_GE(info.size, before.size) << "a different export";
            EXPECT_EQ(count<Resize>(actions), 0) << "size and sockets never together";
            ++hand_overs_;
        }
        if (count<Resize>(actions) > 0) {
            ++resizes_;
            EXPECT_EQ(state_.dead(config_), 0U) << "a size across a dead connection";
            EXPECT_TRUE(config_.auto_resize);
        }
        const bool answered = std::holds_alternative<Adopted>(event) ||
                              std::holds_alternative<NotAdopted>(event) ||
                              std::holds_alternative<HandOverFailed>(event);
        in_kernel_ = state_.phase != Phase::ended && (handed > 0 || (in_kernel_ && !answered));
        EXPECT_EQ(in_kernel_, state_.phase == Phase::handing_over);
    }

    void check_time(const WatchState& before, const WatchEvent& event,
                    const std::vector<WatchAction>& actions) {
        const auto wake = state_.wake_at(config_);
        if (state_.phase == Phase::dialling) {
            EXPECT_TRUE(state_.next_attempt);
            EXPECT_TRUE(wake);
        }
        if (count<StartAttempt>(actions) > 0) {
            EXPECT_EQ(state_.phase, Phase::dialling);
            EXPECT_GE(*state_.next_attempt, now_ + 15ms) << "no pause";
        }
        if (std::holds_alternative<TimePassed>(event) && state_.phase != Phase::ended && wake) {
            EXPECT_GT(*wake, now_) << "it would be woken without end";
        }
        if (state_.failing && !before.failing) ++failings_;
    }

    std::mt19937 random_;
    WatchConfig config_;
    WatchState state_;
    bool in_kernel_ = false;
    std::size_t candidates_ = 1;
    Time now_ = start;
    int hand_overs_ = 0;
    int renewals_ = 0;
    int ends_ = 0;
    int resizes_ = 0;
    int failings_ = 0;
};

TEST(Watchdog, KeepsItsPromisesOnALongRandomWalk) {
    Walk walk(20240229);
    walk.go(200'000);
    EXPECT_GT(walk.hand_overs(), 4000);
    EXPECT_GT(walk.renewals(), 100);
    EXPECT_GT(walk.ends(), 50);
    EXPECT_GT(walk.resizes(), 20);
    EXPECT_GT(walk.failings(), 20);
}

}  // namespace
}  // namespace nbd::story
