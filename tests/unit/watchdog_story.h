// SPDX-License-Identifier: MIT
// Tells a watchdog what happens, at times of our choice, and reads its actions as words.
#pragma once

#include "client/attach.h"
#include "client/base/text.h"
#include "client/watchdog.h"

#include <algorithm>
#include <array>
#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace nbd::story {

using namespace std::chrono_literals;
using Phase = WatchState::Phase;
using Time = Clock::time_point;

inline constexpr std::uint64_t megabyte = 1 << 20;
inline const Time start = Time() + 1h;

inline std::uint16_t flags(std::initializer_list<TransmissionFlag> list) {
    unsigned all = 0;
    for (const TransmissionFlag flag : list) all |= static_cast<unsigned>(flag);
    return static_cast<std::uint16_t>(all);
}

inline ExportInfo export_of(std::uint64_t size) {
    return {.name = "disk",
            .description = "",
            .size = size,
            .flags = flags({TransmissionFlag::has_flags, TransmissionFlag::send_flush,
                            TransmissionFlag::can_multi_conn})};
}

inline WatchConfig config_of(unsigned connections, std::chrono::seconds reconnect_for = forever) {
    return {.device = "nbd0",
            .connections = connections,
            .reconnect_for = reconnect_for,
            .timeout = quick_timeout,
            .timeout_is_ours = true,
            .slow_delay = std::nullopt,
            .block_size = 512,
            .auto_resize = false,
            .agreed = export_of(megabyte)};
}

inline WatchState state_of(const WatchConfig& config, unsigned live) {
    WatchState state;
    state.live = live;
    state.blind = config.connections - live;
    state.timeout = config.timeout;
    state.size = state.export_size = config.agreed.size;
    state.server = "store:10809";
    return state;
}

inline Error refused(
    const std::string& what = "cannot connect to store:10809: connection refused") {
    return {Kind::unreachable, what};
}

inline Dialled dialled(std::uint64_t size = megabyte) {
    return {export_of(size), "store:10809"};
}

/// One word per action; what is said as its level only.
inline std::string word(const WatchAction& action) {
    struct Words {
        std::string operator()(const StartAttempt&) { return "start"; }
        std::string operator()(const StopDialling&) { return "stop"; }
        std::string operator()(const HandOver& hand) {
            return hand.timeout ? "hand+" + format_duration(*hand.timeout) : "hand";
        }
        std::string operator()(const Renew& renew) {
            return renew.timeout ? "renew+" + format_duration(*renew.timeout) : "renew";
        }
        std::string operator()(const DropConnection&) { return "drop"; }
        std::string operator()(const SetTimeout& set) {
            return "timeout=" + format_duration(set.timeout);
        }
        std::string operator()(const Resize& resize) {
            return "resize=" + std::to_string(resize.size);
        }
        std::string operator()(const Publish&) { return "publish"; }
        std::string operator()(const Say& say) {
            if (say.level == Level::error) return "error";
            return say.level == Level::warning ? "warning" : "info";
        }
        std::string operator()(const Leave&) { return "leave"; }
        std::string operator()(const DetachAndLeave&) { return "detach"; }
    };
    return std::visit(Words(), action);
}

/// What is done in its order, then what is said.
inline std::string words(std::vector<WatchAction> actions) {
    std::stable_partition(actions.begin(), actions.end(), [](const WatchAction& action) {
        return !std::holds_alternative<Say>(action);
    });
    std::string text;
    for (const WatchAction& action : actions) text += (text.empty() ? "" : " ") + word(action);
    return text;
}

inline std::string name(Phase phase) {
    constexpr std::array names = {"resting", "dialling", "handing over", "ended"};
    return names.at(static_cast<std::size_t>(phase));
}

/// A watchdog that is told what happens, at times of our choice.
class Story {
public:
    explicit Story(WatchConfig watch_config, std::size_t addresses = 1)
        : Story(watch_config, state_of(watch_config, watch_config.connections), addresses) {}
    Story(WatchConfig watch_config, WatchState first, std::size_t addresses = 1)
        : config(std::move(watch_config)), state(std::move(first)), candidates(addresses) {}

    /// The actions in words; texts for the log are kept.
    std::string tell(const WatchEvent& event) {
        const auto actions = step(state, config, event, now, candidates);
        for (const WatchAction& action : actions)
            if (const Say* say = std::get_if<Say>(&action)) said.push_back(say->text);
        return words(actions);
    }
    std::string after(Clock::duration pause, const WatchEvent& event) {
        now += pause;
        return tell(event);
    }
    /// Lets time pass until the watchdog wants to be woken, and wakes it.
    std::string wake() {
        const auto at = state.wake_at(config);
        if (!at) return "sleeps for ever";
        EXPECT_GT(*at, now) << "no pause";
        now = std::max(now, *at);
        return tell(TimePassed{});
    }
    /// From a dialling watchdog to the kernel's answer.
    std::string adopt() {
        EXPECT_EQ(tell(dialled(state.size)), "stop hand");
        return tell(Adopted{});
    }
    LinkState link_state() const { return state.link_state(config); }
    std::string last_said() const { return said.empty() ? "" : said.back(); }

    WatchConfig config;
    WatchState state;
    std::size_t candidates;
    Time now = start;
    std::vector<std::string> said;
};

}  // namespace nbd::story
