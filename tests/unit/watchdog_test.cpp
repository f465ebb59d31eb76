// SPDX-License-Identifier: MIT
// What the watchdog decides: every phase and event, the stories of outages, the pace.
#include "client/watchdog.h"

#include "tests/unit/watchdog_story.h"

#include <gtest/gtest.h>
#include <map>
#include <tuple>

namespace nbd::story {
namespace {

// Every phase and every event: two connections, of which one is dead unless the watchdog rests.

WatchState prepared(Phase phase, const WatchConfig& config) {
    WatchState state = state_of(config, config.connections);
    state.phase = phase;
    if (phase == Phase::resting || phase == Phase::ended) return state;
    state.live = 1;
    state.cause = DeathCause::peer;
    state.down_since = start;
    state.attempts = 3;
    if (phase == Phase::dialling) state.next_attempt = start + 80ms;
    return state;
}

struct Row {
    Phase phase;
    const char* label;
    WatchEvent event;
    Phase next;
    std::string actions;
};

std::vector<Row> rows() {
    constexpr auto resting = Phase::resting, dialling = Phase::dialling,
                   handing_over = Phase::handing_over, ended = Phase::ended;
    std::vector<Row> rows = {
        {resting, "LinkDied", LinkDied{}, dialling, "start publish"},
        {resting, "LinkSuspected", LinkSuspected{}, resting, ""},
        {resting, "KeysAge", KeysAge{}, dialling, "start"},
        {resting, "Dialled", dialled(), resting, "drop"},
        {resting, "Adopted", Adopted{}, resting, ""},
        {resting, "NotAdopted", NotAdopted{}, resting, ""},
        {resting, "HandOverFailed", HandOverFailed{refused()}, resting, ""},
        {resting, "Resized", Resized{2 * megabyte}, resting, "publish"},
        {resting, "TimePassed", TimePassed{}, resting, ""},
        {resting, "DialNow", DialNow{}, resting, ""},
        {resting, "DeviceGone", DeviceGone{}, ended, "leave info"},
        {resting, "Terminated", Terminated{}, ended, "leave info"},
        {resting, "Interrupted", Interrupted{}, resting, "detach"},

        {dialling, "LinkDied", LinkDied{}, dialling, "publish"},
        {dialling, "LinkSuspected", LinkSuspected{}, dialling, ""},
        {dialling, "KeysAge", KeysAge{}, dialling, ""},
        {dialling, "AttemptFailed", AttemptFailed{refused()}, dialling, ""},
        {dialling, "Dialled", dialled(), handing_over, "stop hand"},
        {dialling, "Dialled shrunk", dialled(megabyte / 2), dialling, "drop publish warning"},
        {dialling, "Adopted", Adopted{}, dialling, ""},
        {dialling, "NotAdopted", NotAdopted{}, dialling, ""},
        {dialling, "HandOverFailed", HandOverFailed{refused()}, dialling, ""},
        {dialling, "Resized", Resized{2 * megabyte}, dialling, "publish"},
        {dialling, "TimePassed", TimePassed{}, dialling, ""},
        {dialling, "DialNow", DialNow{}, dialling, "start"},
        {dialling, "DeviceGone", DeviceGone{}, ended, "leave info"},
        {dialling, "Terminated", Terminated{}, ended, "leave info"},
        {dialling, "Interrupted", Interrupted{}, dialling, "detach"},

        {handing_over, "LinkDied", LinkDied{}, handing_over, "publish"},
        {handing_over, "LinkSuspected", LinkSuspected{}, handing_over, ""},
        {handing_over, "KeysAge", KeysAge{}, handing_over, ""},
        {handing_over, "Dialled", dialled(), handing_over, "drop"},
        {handing_over, "Adopted", Adopted{}, resting, "stop publish info"},
        {handing_over, "NotAdopted", NotAdopted{}, dialling, "drop"},
        {handing_over, "HandOverFailed", HandOverFailed{refused()}, dialling, "drop"},
        {handing_over, "Resized", Resized{2 * megabyte}, handing_over, "publish"},
        {handing_over, "TimePassed", TimePassed{}, handing_over, ""},
        {handing_over, "DialNow", DialNow{}, handing_over, ""},
        {handing_over, "DeviceGone", DeviceGone{}, ended, "leave info"},
        {handing_over, "Terminated", Terminated{}, ended, "leave info"},
        {handing_over, "Interrupted", Interrupted{}, handing_over, "detach"},
    };
    const std::vector<std::pair<const char*, WatchEvent>> all = {
        {"LinkDied", LinkDied{}},     {"LinkSuspected", LinkSuspected{}},
        {"KeysAge", KeysAge{}},       {"AttemptFailed", AttemptFailed{}},
        {"Dialled", dialled()},       {"Adopted", Adopted{}},
        {"NotAdopted", NotAdopted{}}, {"HandOverFailed", HandOverFailed{}},
        {"Resized", Resized{1}},      {"TimePassed", TimePassed{}},
        {"DialNow", DialNow{}},       {"DeviceGone", DeviceGone{}},
        {"Terminated", Terminated{}}, {"Interrupted", Interrupted{}}};
    EXPECT_EQ(all.size(), std::variant_size_v<WatchEvent>);
    for (const auto& [label, event] : all) rows.push_back({ended, label, event, ended, ""});
    // A lookup of names may fail whenever it ends; outside an outage nobody cares.
    rows.push_back({resting, "AttemptFailed", AttemptFailed{refused()}, resting, ""});
    rows.push_back({handing_over, "AttemptFailed", AttemptFailed{refused()}, handing_over, ""});
    return rows;
}

TEST(Step, EveryPhaseAndEvent) {
    const WatchConfig config = config_of(2);
    std::map<std::pair<Phase, std::size_t>, int> seen;
    for (const Row& row : rows()) {
        SCOPED_TRACE(name(row.phase) + ", " + row.label);
        WatchState state = prepared(row.phase, config);
        const auto actions = step(state, config, row.event, start + 1ms, 1);
        EXPECT_EQ(words(actions), row.actions);
        EXPECT_EQ(name(state.phase), name(row.next));
        ++seen[{row.phase, row.event.index()}];
    }
    EXPECT_EQ(seen.size(), 4 * std::variant_size_v<WatchEvent>) << "the table has gaps";
}

// Stories.

TEST(Watchdog, OneOfFourDiesAndIsReplaced) {
    Story story(config_of(4));
    EXPECT_EQ(story.tell(LinkDied{DeathCause::peer}), "start publish");
    EXPECT_EQ(story.link_state(), LinkState::degraded);
    EXPECT_EQ(story.state.dead(story.config), 1U);
    EXPECT_FALSE(story.state.io_waits_since) << "three connections still serve";
    EXPECT_EQ(story.after(3ms, dialled()), "stop hand");
    EXPECT_FALSE(story.state.wake_at(story.config)) << "only the kernel is to answer";
    EXPECT_EQ(story.after(1ms, Adopted{}), "stop publish info");
    EXPECT_EQ(story.last_said(), "nbd0: connected to store:10809 again after 4 ms");
    EXPECT_EQ(story.link_state(), LinkState::attached);
    EXPECT_EQ(story.state.live, 4U);
    EXPECT_EQ(story.state.reconnects, 1U);
    EXPECT_EQ(story.wake(), "sleeps for ever");
}

TEST(Watchdog, FourDeadConnectionsAreReplacedOneByOne) {
    Story story(config_of(4));
    EXPECT_EQ(story.tell(LinkDied{DeathCause::peer}), "start publish");
    for (int i = 0; i < 3; ++i) EXPECT_EQ(story.tell(LinkDied{DeathCause::peer}), "publish");
    EXPECT_EQ(story.link_state(), LinkState::reconnecting);
    for (unsigned live = 1; live < 4; ++live) {
        EXPECT_EQ(story.adopt(), "start publish") << live;
        EXPECT_EQ(story.state.live, live);
        EXPECT_EQ(story.link_state(), LinkState::degraded);
        EXPECT_FALSE(story.state.io_waits_since);
    }
    EXPECT_EQ(story.adopt(), "stop publish info");
    EXPECT_EQ(story.link_state(), LinkState::attached);
    EXPECT_EQ(story.state.reconnects, 4U);
}

TEST(Watchdog, TheFirstRefusalIsQuietTheSecondIsToldLaterOnesWhenTheyDiffer) {
    Story story(config_of(1));
    story.tell(LinkDied{DeathCause::peer});
    EXPECT_EQ(story.tell(AttemptFailed{refused()}), "");
    EXPECT_EQ(story.wake(), "start");
    EXPECT_EQ(story.tell(AttemptFailed{refused()}), "publish warning");
    EXPECT_EQ(story.last_said(),
              "nbd0: reconnecting: cannot connect to store:10809: connection refused");
    for (int i = 0; i < 50; ++i) {
        EXPECT_EQ(story.wake(), "start");
        EXPECT_EQ(story.tell(AttemptFailed{refused()}), "");
    }
    EXPECT_EQ(story.tell(AttemptFailed{refused("cannot find store")}), "publish warning");
    EXPECT_EQ(story.state.last_error, "cannot find store");
    story.wake();
    EXPECT_EQ(story.adopt(), "stop publish warning") << "who was told of the outage learns its end";
    EXPECT_EQ(story.state.last_error, "");
}

TEST(Watchdog, TheNextOutageIsToldAnew) {
    Story story(config_of(1));
    for (int outage = 0; outage < 2; ++outage) {
        story.now += 1h;
        EXPECT_EQ(story.tell(LinkDied{DeathCause::peer}), "start publish");
        EXPECT_EQ(story.tell(AttemptFailed{refused()}), "");
        story.wake();
        EXPECT_EQ(story.tell(AttemptFailed{refused()}), "publish warning") << outage;
        story.wake();
        EXPECT_EQ(story.adopt(), "stop publish warning");
    }
}

TEST(Watchdog, AttemptsFollowTheDocumentedPace) {
    Story story(config_of(1));
    EXPECT_EQ(story.tell(LinkDied{DeathCause::peer}), "start publish") << "the first at once";
    Time last = story.now;
    while (story.now - start < 15min) {
        ASSERT_EQ(story.wake(), "start");
        story.tell(AttemptFailed{refused()});
        const auto outage = last - start;
        const auto pause = story.now - last;
        EXPECT_LE(pause, outage <= 1min ? 250ms : outage <= 10min ? 2s : 10s);
        EXPECT_GE(pause, 15ms);
        if (outage > 61s && outage < 10min) {
            EXPECT_GE(pause, 1400ms);
        }
        if (outage > 611s) {
            EXPECT_GE(pause, 7s);
        }
        last = story.now;
    }
}

TEST(Watchdog, HupDialsAtOnceAndQuicklyFromThenOn) {
    Story story(config_of(1));
    story.tell(LinkDied{DeathCause::peer});
    while (story.now - start < 1h) story.wake();
    EXPECT_GT(*story.state.next_attempt, story.now + 5s);
    EXPECT_EQ(story.tell(DialNow{}), "start");
    EXPECT_LT(*story.state.next_attempt, story.now + 100ms);
}

TEST(Watchdog, TheHorizonIsToldOnceAndALaterAdoptionRevives) {
    Story story(config_of(2, 10s));
    story.tell(LinkDied{DeathCause::peer});
    EXPECT_EQ(story.after(3s, TimePassed{}), "start");
    story.tell(LinkDied{DeathCause::peer});
    const Time waits_since = story.now;
    int errors = 0;
    while (story.now - waits_since < 30s) {
        const std::string actions = story.wake();
        if (actions.find("error") == std::string::npos) continue;
        ++errors;
        EXPECT_EQ(story.now, waits_since + 10s) << "counted from the last connection's death";
        EXPECT_EQ(story.last_said(),
                  "nbd0: no server for 10s: I/O fails from now on until one returns");
    }
    EXPECT_EQ(errors, 1);
    EXPECT_EQ(story.link_state(), LinkState::failing);
    EXPECT_EQ(story.adopt(), "start publish");
    EXPECT_EQ(story.link_state(), LinkState::degraded);
    EXPECT_EQ(story.adopt(), "stop publish info");
    EXPECT_EQ(story.link_state(), LinkState::attached);

    story.now += 1min;
    story.tell(LinkDied{DeathCause::peer});
    story.tell(LinkDied{DeathCause::peer});
    EXPECT_EQ(story.after(10s, TimePassed{}), "publish start error") << "a horizon of its own";
}

TEST(Watchdog, WithoutHorizonIoNeverFails) {
    Story story(config_of(1, forever));
    story.tell(LinkDied{DeathCause::peer});
    EXPECT_EQ(story.after(24h * 365, TimePassed{}), "start");
    EXPECT_EQ(story.link_state(), LinkState::reconnecting);
}

TEST(Watchdog, TheHorizonPassesWhileTheKernelHangsInAHandOver) {
    Story story(config_of(1, 10s));
    story.tell(LinkDied{DeathCause::peer});
    story.tell(dialled());
    EXPECT_EQ(story.wake(), "publish error");
    EXPECT_EQ(story.now, start + 10s);
    EXPECT_EQ(story.wake(), "sleeps for ever");
}

TEST(Watchdog, ADifferentExportIsNeverHandedOver) {
    ExportInfo read_only = export_of(megabyte);
    read_only.flags |= flags({TransmissionFlag::read_only});
    ExportInfo weaker = export_of(megabyte);
    weaker.flags = flags({TransmissionFlag::has_flags});
    for (const auto& [info, cause] : std::initializer_list<std::pair<ExportInfo, std::string>>{
             {export_of(megabyte - 512), "shrunk"},
             {read_only, "read-only"},
             {weaker, "send_flush"}}) {
        SCOPED_TRACE(cause);
        Story story(config_of(1));
        story.tell(LinkDied{DeathCause::peer});
        EXPECT_EQ(story.tell(Dialled{info, "store:10809"}), "drop publish warning");
        EXPECT_NE(story.last_said().find(cause), std::string::npos) << story.last_said();
        EXPECT_EQ(story.wake(), "start") << "it keeps trying";
        EXPECT_EQ(story.tell(Dialled{info, "store:10809"}), "drop") << "told once";
        story.wake();
        EXPECT_EQ(story.adopt(), "stop publish warning")
            << "and takes the right one when it returns";
    }
}

TEST(Watchdog, ThePredecessorsLinksAreProbedUntilTheKernelTakesNone) {
    WatchConfig config = config_of(3);
    config.timeout_is_ours = false;
    Story story(config, state_of(config, 0));
    EXPECT_EQ(story.link_state(), LinkState::attached) << "not known to be worse";
    EXPECT_EQ(story.tell(LinkSuspected{}), "start");
    EXPECT_EQ(story.adopt(), "start publish") << "one was dead: there may be more";
    EXPECT_EQ(std::tuple(story.state.live, story.state.blind), std::tuple(1U, 2U));
    story.tell(dialled());
    EXPECT_EQ(story.tell(NotAdopted{}), "drop stop publish");
    EXPECT_EQ(std::tuple(story.state.live, story.state.blind), std::tuple(1U, 2U));
    EXPECT_EQ(story.state.phase, Phase::resting);
    EXPECT_FALSE(story.state.suspect);

    story.now += 1min;
    EXPECT_EQ(story.tell(LinkSuspected{}), "start") << "a LINK_DEAD of one of the two left";
    EXPECT_EQ(story.adopt(), "start publish");
    EXPECT_EQ(story.adopt(), "stop publish info") << "none is blind any more";
    EXPECT_EQ(std::tuple(story.state.live, story.state.blind), std::tuple(3U, 0U));
    EXPECT_EQ(story.tell(LinkSuspected{}), "") << "all are seen now: events tell nothing new";
}

TEST(Watchdog, ProbingAHealthyPredecessorsLinksSaysNothingAboutTheServersPace) {
    const WatchConfig config = config_of(1);
    Story story(config, state_of(config, 0));
    story.tell(LinkSuspected{});
    story.tell(dialled());
    const std::string actions = story.tell(NotAdopted{});
    EXPECT_EQ(actions.find("timeout="), std::string::npos) << actions;
    EXPECT_EQ(story.state.timeout, quick_timeout);
}

/// The kernel's answer may be older than the death: it was on its way when the event came.
TEST(Watchdog, ASuspicionDuringAHandOverOutlivesItsAnswer) {
    const WatchConfig config = config_of(1);
    Story story(config, state_of(config, 0));
    story.tell(LinkSuspected{});
    story.tell(dialled());
    story.tell(LinkSuspected{});
    story.tell(NotAdopted{});
    EXPECT_EQ(name(story.state.phase), "dialling");
}

TEST(Watchdog, AnUnreachableServerOfAPredecessorCountsAsDown) {
    const WatchConfig config = config_of(1);
    Story story(config, state_of(config, 0));
    story.tell(LinkSuspected{});
    story.tell(AttemptFailed{refused()});
    EXPECT_EQ(story.link_state(), LinkState::reconnecting);
    story.wake();
    EXPECT_EQ(story.adopt(), "stop publish info");
    EXPECT_EQ(story.link_state(), LinkState::attached);
}

TEST(Watchdog, AKernelThatHasNotSeenTheDeathIsOfferedASocketAgain) {
    Story story(config_of(1));
    story.tell(LinkDied{DeathCause::peer});
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(story.tell(dialled()), "stop hand");
        EXPECT_EQ(story.tell(NotAdopted{}), "drop");
        EXPECT_EQ(story.wake(), "start");
    }
    EXPECT_EQ(story.adopt(), "stop publish info");
    EXPECT_EQ(story.state.live, 1U);
}

TEST(Watchdog, AFailedHandOverIsRepeatedAfterASecond) {
    Story story(config_of(1));
    story.tell(LinkDied{DeathCause::peer});
    story.tell(dialled());
    EXPECT_EQ(story.tell(HandOverFailed{{Kind::refused, "cannot reconfigure nbd0"}}), "drop");
    const Time failed = story.now;
    EXPECT_EQ(story.wake(), "start");
    EXPECT_EQ(story.now, failed + 1s);
    story.tell(dialled());
    EXPECT_EQ(story.tell(HandOverFailed{{Kind::refused, "cannot reconfigure nbd0"}}),
              "drop publish warning");
}

TEST(Watchdog, ASlowServerGetsAPatientTimeoutUntilTheNextOutage) {
    for (const unsigned connections : {1U, 2U}) {
        SCOPED_TRACE(connections);
        const std::string longer = connections == 1 ? "0" : "8s";
        Story story(config_of(connections));
        story.tell(LinkDied{DeathCause::timer});
        story.now += 5ms;
        story.tell(dialled());
        EXPECT_EQ(story.tell(Adopted{}), "timeout=" + longer + " stop publish info warning");
        EXPECT_NE(story.last_said().find("takes longer than 4s"), std::string::npos);
        EXPECT_EQ(story.state.timeout, longer_timeout(quick_timeout, connections));

        // An outage that is none of slowness brings the quick one back.
        story.now += 1h;
        story.tell(LinkDied{DeathCause::peer});
        // Without a timeout the kernel leaves no trace on the socket it takes.
        EXPECT_EQ(story.tell(dialled()), connections == 1 ? "stop hand+4s" : "stop hand");
        EXPECT_EQ(story.tell(Adopted{}), "timeout=4s stop publish info");
        EXPECT_EQ(story.state.timeout, quick_timeout);
    }
}

TEST(Watchdog, SeveralConnectionsGetTwiceTheTimeUpToAMinuteAndHalfOfItBackPerOutage) {
    Story story(config_of(2));
    const auto die_and_return = [&story](DeathCause cause) {
        story.now += 1h;
        story.tell(LinkDied{cause});
        story.now += 5ms;
        story.tell(dialled());
        story.tell(Adopted{});
        return story.state.timeout;
    };
    for (const auto timeout : {8s, 16s, 32s, 60s, 60s})
        EXPECT_EQ(die_and_return(DeathCause::timer), timeout);
    for (const auto timeout : {30s, 15s, 7s, 4s, 4s})
        EXPECT_EQ(die_and_return(DeathCause::peer), timeout);
    EXPECT_EQ(longer_timeout(90s, 2), 90s);
}

TEST(Watchdog, OnlyAQuickAnswerIsTakenForASlowServer) {
    const struct {
        const char* label;
        DeathCause cause;
        Clock::duration outage;
        bool ours;
        bool fails_first;
        bool patient;
    } cases[] = {
        {"slow", DeathCause::timer, 10ms, true, false, true},
        {"cannot be told who ended it", DeathCause::unknown, 10ms, true, false, false},
        {"the server ended it", DeathCause::peer, 10ms, true, false, false},
        {"was down", DeathCause::timer, 2s, true, false, false},
        {"refused first", DeathCause::timer, 10ms, true, true, false},
        {"--io-timeout", DeathCause::timer, 10ms, false, false, false},
    };
    for (const auto& one : cases) {
        SCOPED_TRACE(one.label);
        WatchConfig config = config_of(1);
        config.timeout_is_ours = one.ours;
        Story story(config);
        story.tell(LinkDied{one.cause});
        if (one.fails_first) story.tell(AttemptFailed{refused()});
        story.now += one.outage;
        story.tell(dialled());
        const std::string actions = story.tell(Adopted{});
        EXPECT_EQ(actions.find("timeout=") != std::string::npos, one.patient) << actions;
        EXPECT_EQ(story.state.timeout, one.patient ? 0s : quick_timeout);
    }
}

TEST(Watchdog, ATimeoutOfNoneIsLentForTheHandOverOnly) {
    WatchConfig config = config_of(1);
    config.timeout = 0s;
    config.timeout_is_ours = false;
    Story story(config);
    story.tell(LinkDied{DeathCause::timer});
    EXPECT_EQ(story.tell(dialled()), "stop hand+4s");
    EXPECT_EQ(story.tell(Adopted{}), "timeout=0 stop publish info");
}

TEST(Watchdog, AGrownExportIsToldOrTakenInASeparateStep) {
    for (const bool auto_resize : {false, true}) {
        SCOPED_TRACE(auto_resize);
        WatchConfig config = config_of(2);
        config.block_size = 4096;
        config.auto_resize = auto_resize;
        Story story(config);
        story.tell(LinkDied{DeathCause::peer});
        story.tell(LinkDied{DeathCause::peer});
        story.tell(dialled(2 * megabyte + 512));
        EXPECT_EQ(story.tell(Adopted{}), "start publish") << "not across a dead connection";
        story.tell(dialled(2 * megabyte + 512));
        const std::string grown = std::to_string(2 * megabyte);
        EXPECT_EQ(story.tell(Adopted{}), auto_resize ? "stop resize=" + grown + " publish info"
                                                     : "stop publish info warning");
        if (!auto_resize) {
            EXPECT_NE(story.last_said().find("nbd-client resize nbd0"), std::string::npos);
        }
        story.tell(Resized{2 * megabyte});
        EXPECT_EQ(story.state.size, 2 * megabyte);
    }
}

TEST(Watchdog, AfterGrowingTheOldSizeIsAShrunkOne) {
    Story story(config_of(1));
    story.tell(Resized{2 * megabyte});
    story.tell(LinkDied{DeathCause::peer});
    EXPECT_EQ(story.tell(dialled(megabyte)), "drop publish warning");
    EXPECT_EQ(story.tell(dialled(2 * megabyte)), "stop hand");
}

/// A server that takes every connection and drops it at once must not be dialled without any pause.
TEST(Watchdog, ADeathRightAfterEachAdoptionKeepsThePace) {
    for (const unsigned connections : {1U, 2U, 4U}) {
        SCOPED_TRACE(connections);
        Story story(config_of(connections));
        for (unsigned i = 0; i < connections; ++i) story.tell(LinkDied{DeathCause::peer});
        unsigned adoptions = 0;
        while (story.now - start < 10s && adoptions < 1000) {
            if (story.state.phase == Phase::dialling && story.state.next_attempt &&
                *story.state.next_attempt <= story.now)
                story.tell(TimePassed{});
            story.now += 1ms;
            if (story.tell(dialled()) == "stop hand") {
                story.tell(Adopted{});
                ++adoptions;
                story.tell(LinkDied{DeathCause::peer});
            }
            if (const auto at = story.state.wake_at(story.config))
                story.now = std::max(story.now, *at);
            story.tell(TimePassed{});
        }
        EXPECT_LT(adoptions, 100U) << "ten a second at most";
        EXPECT_GT(adoptions, 30U) << "but the pace of a returning server";
    }
}

TEST(Watchdog, ALinkThatLivedForAWhileStartsAnOutageOfItsOwn) {
    Story story(config_of(1));
    story.tell(LinkDied{DeathCause::peer});
    story.adopt();
    EXPECT_EQ(story.after(1s, LinkDied{DeathCause::peer}), "start publish");
    EXPECT_EQ(story.state.down_since, story.now);
}

TEST(Watchdog, SignalsAndTheEndOfTheDevice) {
    Story left(config_of(1));
    EXPECT_EQ(left.tell(Terminated{}), "leave info");
    EXPECT_EQ(left.last_said(), "nbd0: no longer watched, the device stays attached");

    Story detached(config_of(1));
    EXPECT_EQ(detached.tell(Interrupted{}), "detach");
    EXPECT_EQ(detached.state.phase, Phase::resting) << "a device in use stays, and is watched";
    EXPECT_EQ(detached.tell(DeviceGone{}), "leave info");
    EXPECT_EQ(detached.last_said(), "nbd0: detached");
    EXPECT_EQ(detached.tell(LinkDied{}), "");
}

// Delays.

TEST(RetryDelay, StaysWithinItsBounds) {
    std::uint32_t jitter = 7;
    for (const auto outage : {0s, 30s, 60s, 61s, 300s, 600s, 601s, 86400s})
        for (const std::size_t candidates : {0U, 1U, 2U, 5U, 100U})
            for (const unsigned attempts : {0U, 1U, 2U, 3U, 4U, 5U, 8U, 12U, 1000U, ~0U})
                for (int i = 0; i < 20; ++i) {
                    const auto delay =
                        retry_delay(attempts, outage, candidates, std::nullopt, jitter);
                    const auto most = outage <= 60s ? 250ms : outage <= 600s ? 2s : 10s;
                    EXPECT_LE(delay, most);
                    EXPECT_GE(delay, 18ms) << "25 ms less a quarter";
                }
}

TEST(RetryDelay, GrowsIsSharedAndVaries) {
    std::uint32_t jitter = 7;
    const auto most = [&jitter](unsigned attempts, Clock::duration outage, std::size_t candidates,
                                std::optional<std::chrono::seconds> slow = std::nullopt) {
        Clock::duration longest{};
        Clock::duration shortest = 1h;
        for (int i = 0; i < 2000; ++i) {
            const auto delay = retry_delay(attempts, outage, candidates, slow, jitter);
            longest = std::max(longest, delay);
            shortest = std::min(shortest, delay);
        }
        EXPECT_LT(shortest, longest * 8 / 10) << "clients must not come back in step";
        EXPECT_GT(shortest, longest * 7 / 10) << "a quarter off at most";
        return std::chrono::round<std::chrono::milliseconds>(longest).count();
    };
    EXPECT_EQ(most(1, 0s, 1), 25);
    EXPECT_EQ(most(2, 0s, 1), 50);
    EXPECT_EQ(most(3, 0s, 1), 100);
    EXPECT_EQ(most(4, 0s, 1), 200);
    EXPECT_EQ(most(5, 0s, 1), 250);
    EXPECT_EQ(most(20, 0s, 2), 125);
    EXPECT_EQ(most(20, 0s, 1000), 25);
    EXPECT_EQ(most(20, 2min, 1), 2000);
    EXPECT_EQ(most(20, 20min, 1), 10000);
    EXPECT_EQ(most(20, 2min, 1, 1s), 1000);
    EXPECT_EQ(most(20, 20min, 1, 1s), 1000);
    EXPECT_EQ(most(20, 2min, 1, 30s), 2000);
    EXPECT_EQ(most(20, 20min, 1, 30s), 30000);
}

// Keys that age.

TEST(Renewal, ReplacesOneThatIsAlive) {
    for (const unsigned connections : {1U, 4U}) {
        Story story(config_of(connections));
        EXPECT_EQ(story.tell(KeysAge{}), "start");
        EXPECT_EQ(story.link_state(), LinkState::attached);
        EXPECT_EQ(story.tell(dialled()), "stop renew");
        EXPECT_EQ(story.tell(LinkDied{DeathCause::peer}), "") << "our own doing";
        EXPECT_EQ(story.tell(Adopted{}), "stop publish info");
        EXPECT_EQ(story.link_state(), LinkState::attached);
        EXPECT_EQ(story.state.live, connections);
        EXPECT_EQ(story.state.reconnects, 0U);
    }
}

TEST(Renewal, WithoutATimeoutOneIsLent) {
    WatchConfig config = config_of(1);
    config.timeout = 0s;
    Story story(config);
    story.tell(KeysAge{});
    EXPECT_EQ(story.tell(dialled()), "stop renew+4s");
    story.tell(LinkDied{DeathCause::peer});
    EXPECT_EQ(story.tell(Adopted{}), "timeout=0 stop publish info");
}

TEST(Renewal, ThatFailsLeavesTheOldOneInPlace) {
    Story story(config_of(2));
    story.tell(KeysAge{});
    EXPECT_EQ(story.tell(AttemptFailed{refused()}), "stop publish info");
    EXPECT_EQ(name(story.state.phase), "resting");

    story.tell(KeysAge{});
    EXPECT_EQ(story.tell(dialled(megabyte / 2)), "drop stop publish info") << "another export";
    EXPECT_EQ(name(story.state.phase), "resting");

    story.tell(KeysAge{});
    story.tell(dialled());
    EXPECT_EQ(story.tell(NotAdopted{}), "drop stop publish") << "there was no quiet moment";
    EXPECT_EQ(story.state.live, 2U);
    EXPECT_EQ(story.link_state(), LinkState::attached);
}

TEST(Renewal, ADeathMeanwhileIsAnOutageLikeAnyOther) {
    Story story(config_of(2));
    story.tell(KeysAge{});
    EXPECT_EQ(story.after(10ms, LinkDied{DeathCause::peer}), "start publish");
    EXPECT_EQ(story.tell(dialled()), "stop hand");
    EXPECT_EQ(story.tell(Adopted{}), "stop publish info");
    EXPECT_EQ(story.state.reconnects, 1U);

    story.tell(KeysAge{});
    story.tell(dialled());
    story.tell(LinkDied{DeathCause::peer});
    story.tell(LinkDied{DeathCause::peer});
    EXPECT_EQ(story.tell(Adopted{}), "start publish") << "one of the two was not our doing";
    EXPECT_EQ(story.adopt(), "stop publish info");
    EXPECT_EQ(story.state.live, 2U);
}

TEST(Renewal, APredecessorsDeathMeanwhileIsNotForgotten) {
    const WatchConfig config = config_of(2);
    Story before(config, state_of(config, 1));
    before.tell(KeysAge{});
    EXPECT_EQ(before.tell(LinkSuspected{}), "start");
    EXPECT_EQ(before.tell(dialled()), "stop hand") << "what is alive stays";

    Story during(config, state_of(config, 1));
    during.tell(KeysAge{});
    during.tell(dialled());
    during.tell(LinkDied{DeathCause::peer});
    during.tell(LinkSuspected{});
    EXPECT_EQ(during.tell(Adopted{}), "start info") << "the event may have been of the other one";
}

}  // namespace
}  // namespace nbd::story
