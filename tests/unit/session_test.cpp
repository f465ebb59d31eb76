// SPDX-License-Identifier: MIT
// Which server is dialled, in which order, and which answers are fit for a device.
#include "client/session.h"

#include "tests/unit/temporary_directory.h"
#include "tests/unit/test_server.h"

#include <fcntl.h>
#include <gtest/gtest.h>

namespace nbd {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t megabyte = 1 << 20;

Deadline soon() {
    return Deadline::in(5s);
}

AttachRequest request_for(const Target& target, std::vector<Target> alternates = {}) {
    return {.target = target, .alternates = std::move(alternates)};
}

Result<Connection> dial(const AttachRequest& request, const Deadline& deadline = soon()) {
    Dialer dialer(request);
    TRY(dialer.resolve(deadline));
    return dialer.dial(deadline);
}

/// What a watchdog does with a dialer, until something has come of it.
std::optional<Result<Connection>> advance_until_done(Dialer& dialer) {
    const Deadline deadline = soon();
    while (!deadline.expired()) {
        if (auto outcome = dialer.advance(deadline)) return outcome;
        auto fds = dialer.poll_list();
        ::poll(fds.data(), fds.size(), deadline.poll_timeout());
    }
    return std::nullopt;
}

TEST(Dialer, GivesAConnectionFitForTheKernel) {
    TestServer server;
    const auto connection = dial(request_for(server.target()));
    ASSERT_TRUE(connection) << connection.error().what;
    EXPECT_EQ(connection->server, server.address());
    EXPECT_EQ(connection->target, 0U);
    EXPECT_EQ(connection->info.size, megabyte);
    EXPECT_TRUE(connection->info.has(TransmissionFlag::can_multi_conn));
    EXPECT_EQ(::fcntl(connection->socket.get(), F_GETFL) & O_NONBLOCK, 0);
    EXPECT_EQ(send_timeout(connection->socket.get()), 0s);
    EXPECT_TRUE(server.wait_for_serving(1));
}

TEST(Dialer, KnowsTheOldWaysIn) {
    TestServer old;
    old.know_only_export_name();
    AttachRequest request = request_for(old.target());
    const auto by_fallback = dial(request);
    ASSERT_TRUE(by_fallback) << by_fallback.error().what;
    EXPECT_EQ(by_fallback->info.size, megabyte);
    request.no_optgo = true;
    EXPECT_TRUE(dial(request));

    request.preinit = true;
    request.size = 8192;
    const auto without = dial(request);
    ASSERT_TRUE(without);
    EXPECT_EQ(without->info.size, 8192U);
    EXPECT_EQ(without->info.flags, flag_bits({}));
}

TEST(Dialer, TriesItsTargetsInTheirOrder) {
    TestServer first;
    TestServer second;
    TestServer third;
    const AttachRequest request = request_for(first.target(), {second.target(), third.target()});
    const struct {
        const char* label;
        void (*trouble)(TestServer&);
    } troubles[] = {
        {"none", [](TestServer&) {}},
        {"has no such export", [](TestServer& server) { server.set_names({}); }},
        {"is down", [](TestServer& server) { server.stop(); }},
    };
    const auto serving = [&request]() -> int {
        const auto connection = dial(request);
        return connection ? static_cast<int>(connection->target) : -1;
    };
    for (const auto& trouble : troubles) {
        SCOPED_TRACE(trouble.label);
        trouble.trouble(first);
        const bool well = std::string(trouble.label) == "none";
        EXPECT_EQ(serving(), well ? 0 : 1);
    }
    second.stop();
    EXPECT_EQ(serving(), 2);
    third.stop();
    EXPECT_EQ(serving(), -1);
}

TEST(Dialer, AMuteServerDoesNotUseUpTheTimeOfTheNext) {
    TestServer mute;
    mute.go_mute();
    TestServer other;
    const auto connection = dial(request_for(mute.target(), {other.target()}), Deadline::in(2s));
    ASSERT_TRUE(connection) << connection.error().what;
    EXPECT_EQ(connection->target, 1U);
    EXPECT_EQ(mute.accepted(), 1U);
}

TEST(Dialer, FailsWithTheFirstTargetsReason) {
    TestServer server;
    const auto failed = dial(request_for(server.target("other"), {server.target("third")}));
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().kind, Kind::absent);
    EXPECT_NE(failed.error().what.find("other"), std::string::npos) << failed.error().what;
    EXPECT_EQ(server.accepted(), 2U);
}

TEST(Dialer, StopsWhenCancelled) {
    TestServer mute;
    mute.go_mute();
    TestServer other;
    const Bell bell;
    bell.ring();
    const auto failed =
        dial(request_for(mute.target(), {other.target()}), Deadline::in(1h, bell.fd()));
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().kind, Kind::cancelled);
}

TEST(Dialer, OpensMoreConnectionsWhereTheFirstLeads) {
    TestServer other;
    TestServer server;
    other.set_names({});
    Dialer dialer(request_for(other.target(), {server.target()}));
    ASSERT_TRUE(dialer.resolve(soon()));
    const auto first = dialer.dial(soon());
    ASSERT_TRUE(first);
    const auto more = dialer.dial_more(*first, 3, soon());
    ASSERT_EQ(more.size(), 3U);
    for (const auto& connection : more) {
        ASSERT_TRUE(connection) << connection.error().what;
        EXPECT_EQ(connection->server, server.address());
        EXPECT_EQ(connection->target, 1U);
    }
    EXPECT_TRUE(server.wait_for_serving(4));
    EXPECT_EQ(other.accepted(), 1U);
}

TEST(Dialer, MoreConnectionsMustAgree) {
    const ExportInfo larger{
        .name = "disk", .description = "", .size = 2 * megabyte, .flags = flag_bits({})};
    const ExportInfo weaker{
        .name = "disk", .description = "", .size = megabyte, .flags = flag_bits({})};
    for (const ExportInfo& odd : {larger, weaker}) {
        TestServer server;
        Dialer dialer(request_for(server.target()));
        ASSERT_TRUE(dialer.resolve(soon()));
        const auto first = dialer.dial(soon());
        ASSERT_TRUE(first);
        server.set_next_export(odd);
        int failures = 0;
        for (const auto& more : dialer.dial_more(*first, 3, soon())) {
            if (more) continue;
            ++failures;
            EXPECT_EQ(more.error().kind, Kind::mismatch);
            EXPECT_NE(more.error().what.find("disagree"), std::string::npos);
        }
        EXPECT_EQ(failures, 1);
    }
}

TEST(Dialer, MoreConnectionsMayFailEachForItself) {
    TestServer server;
    Dialer dialer(request_for(server.target()));
    ASSERT_TRUE(dialer.resolve(soon()));
    const auto first = dialer.dial(soon());
    ASSERT_TRUE(first);
    server.stop();
    const auto more = dialer.dial_more(*first, 2, soon());
    ASSERT_EQ(more.size(), 2U);
    for (const auto& one : more) EXPECT_EQ(one.error().kind, Kind::unreachable);
}

TEST(Dialer, WithoutWaitingTheTargetsTakeTurns) {
    TestServer one;
    TestServer two;
    Dialer dialer(request_for(one.target(), {two.target()}));
    ASSERT_TRUE(dialer.resolve(soon()));
    EXPECT_EQ(dialer.candidates(), 2U);
    for (const std::size_t expected : {0U, 1U, 0U}) {
        EXPECT_FALSE(dialer.dialling());
        ASSERT_FALSE(dialer.start_attempt());
        EXPECT_TRUE(dialer.dialling());
        const auto outcome = advance_until_done(dialer);
        ASSERT_TRUE(outcome && *outcome);
        EXPECT_EQ((*outcome)->target, expected);
    }
}

TEST(Dialer, SticksToOneTarget) {
    TestServer one;
    TestServer two;
    Dialer dialer(request_for(one.target(), {two.target()}));
    ASSERT_TRUE(dialer.resolve(soon()));
    dialer.stick_to(1);
    EXPECT_EQ(dialer.candidates(), 1U);
    for (int i = 0; i < 3; ++i) {
        ASSERT_FALSE(dialer.start_attempt());
        const auto outcome = advance_until_done(dialer);
        ASSERT_TRUE(outcome && *outcome);
        EXPECT_EQ((*outcome)->target, 1U);
    }
    dialer.stick_to(std::nullopt);
    EXPECT_EQ(dialer.candidates(), 2U);
}

TEST(Dialer, TellsWhyAnAttemptFailed) {
    const TemporaryDirectory directory;
    TestServer server(directory.path() + "/socket");
    Dialer dialer(request_for(server.target()));
    ASSERT_TRUE(dialer.resolve(soon()));
    server.stop();
    auto failed = dialer.start_attempt();
    if (!failed) {
        const auto outcome = advance_until_done(dialer);
        ASSERT_TRUE(outcome && !*outcome);
        failed = outcome->error();
    }
    EXPECT_EQ(failed->kind, Kind::unreachable);
    EXPECT_NE(failed->what.find(server.address()), std::string::npos) << failed->what;

    server.start();
    ASSERT_FALSE(dialer.start_attempt());
    const auto outcome = advance_until_done(dialer);
    EXPECT_TRUE(outcome && *outcome) << "an old failure must not stick";
}

TEST(Dialer, StoppingGivesAttemptsUp) {
    TestServer server;
    Dialer dialer(request_for(server.target()));
    ASSERT_TRUE(dialer.resolve(soon()));
    ASSERT_FALSE(dialer.start_attempt());
    dialer.stop();
    EXPECT_FALSE(dialer.dialling());
    EXPECT_TRUE(dialer.poll_list().empty());
    EXPECT_FALSE(dialer.advance(soon()));
}

TEST(Dialer, KeepsTheAddressesOfATargetThatIsNotFoundAnyMore) {
    TestServer server;
    const AttachRequest request = request_for(server.target(), {server.target()});
    Dialer dialer(request);
    EXPECT_EQ(dialer.candidates(), 0U);
    EXPECT_FALSE(dialer.start_attempt()) << "nothing to dial";
    auto addresses = Dialer::look_up(request, soon());
    ASSERT_TRUE(addresses);
    dialer.use(*addresses);
    EXPECT_EQ(dialer.candidates(), 2U);
    dialer.use({{}, {}});
    EXPECT_EQ(dialer.candidates(), 2U);
    EXPECT_TRUE(dialer.dial(soon()));
}

TEST(Dialer, LookingUpFailsOnlyWhenNothingIsFound) {
    TestServer server;
    const Target bad{UnixEndpoint{std::string(200, 'x')}, "disk"};
    const auto some = Dialer::look_up(request_for(bad, {server.target()}), soon());
    ASSERT_TRUE(some);
    ASSERT_EQ(some->size(), 2U);
    EXPECT_TRUE((*some)[0].empty());
    EXPECT_EQ((*some)[1].size(), 1U);
    EXPECT_FALSE(Dialer::look_up(request_for(bad, {bad}), soon()));
}

TEST(SameExport, OnlyWhatADeviceCanCarryOnWith) {
    constexpr auto flush = TransmissionFlag::send_flush;
    constexpr auto read_only = TransmissionFlag::read_only;
    const auto info = [](std::uint64_t size, std::uint16_t flags,
                         std::optional<BlockSizes> sizes = std::nullopt) {
        return ExportInfo{
            .name = "disk", .description = "", .size = size, .flags = flags, .block_sizes = sizes};
    };
    const std::uint16_t plain = flag_bits({flush});
    constexpr std::uint32_t mebi = 1 << 20;
    const struct {
        const char* label;
        ExportInfo agreed;
        ExportInfo now;
        const char* cause;  ///< nullptr: the same
    } cases[] = {
        {"equal", info(megabyte, plain), info(megabyte, plain), nullptr},
        {"grown", info(megabyte, plain), info(megabyte + 1, plain), nullptr},
        {"shrunk", info(megabyte, plain), info(megabyte - 1, plain),
         "shrunk from 1048576 to 1048575"},
        {"gone read-only", info(megabyte, plain), info(megabyte, flag_bits({flush, read_only})),
         "read-only"},
        {"read-only as ever", info(megabyte, flag_bits({read_only})),
         info(megabyte, flag_bits({read_only})), nullptr},
        {"writable now", info(megabyte, flag_bits({read_only})), info(megabyte, plain), nullptr},
        {"no flush", info(megabyte, plain), info(megabyte, flag_bits({})), "lost send_flush"},
        {"no fua", info(megabyte, flag_bits({TransmissionFlag::send_fua})), info(megabyte, plain),
         "lost send_fua"},
        {"no trim", info(megabyte, flag_bits({TransmissionFlag::send_trim})), info(megabyte, plain),
         "lost send_trim"},
        {"no zeroes", info(megabyte, flag_bits({TransmissionFlag::send_write_zeroes})),
         info(megabyte, plain), "lost send_write_zeroes"},
        {"a flag nobody uses", info(megabyte, flag_bits({TransmissionFlag::send_df})),
         info(megabyte, flag_bits({})), nullptr},
        {"new flags", info(megabyte, plain),
         info(megabyte, flag_bits({flush, TransmissionFlag::send_trim})), nullptr},
        {"block sizes it respects", info(megabyte, plain),
         info(megabyte, plain, BlockSizes{512, 4096, 32 * mebi}), nullptr},
        {"a minimum above the device's", info(megabyte, plain),
         info(megabyte, plain, BlockSizes{4096, 4096, 32 * mebi}), "minimum block size is 4096"},
        {"a maximum below the default", info(megabyte, plain),
         info(megabyte, plain, BlockSizes{1, 4096, mebi}), "maximum block size is 1048576"},
        {"a maximum as agreed", info(megabyte, plain, BlockSizes{1, 4096, mebi}),
         info(megabyte, plain, BlockSizes{1, 4096, mebi}), nullptr},
        {"a maximum below the agreed", info(megabyte, plain, BlockSizes{1, 4096, mebi}),
         info(megabyte, plain, BlockSizes{1, 4096, mebi / 2}), "maximum block size"},
        {"none any more", info(megabyte, plain, BlockSizes{1, 4096, mebi}), info(megabyte, plain),
         nullptr},
    };
    for (const auto& one : cases) {
        SCOPED_TRACE(one.label);
        const auto same =
            check_same_export(one.agreed, one.now, {one.agreed.size, 512, 1}, "store:10809");
        EXPECT_EQ(same.has_value(), one.cause == nullptr);
        if (same || one.cause == nullptr) continue;
        EXPECT_EQ(same.error().kind, Kind::mismatch);
        EXPECT_TRUE(same.error().what.starts_with("cannot use the export of store:10809: "));
        EXPECT_NE(same.error().what.find(one.cause), std::string::npos) << same.error().what;
    }
}

TEST(SameExport, TheDevicesSizeCountsNotTheExports) {
    const ExportInfo agreed{.name = "", .description = "", .size = megabyte, .flags = 1};
    ExportInfo now = agreed;
    now.size = megabyte / 2;
    EXPECT_TRUE(check_same_export(agreed, now, {megabyte / 4, 512, 1}, "s"));
    EXPECT_FALSE(check_same_export(agreed, now, {megabyte, 512, 1}, "s"));
}

TEST(SameExport, SeveralConnectionsNeedAServerThatAllowsThem) {
    const ExportInfo agreed{.name = "",
                            .description = "",
                            .size = megabyte,
                            .flags = flag_bits({TransmissionFlag::can_multi_conn})};
    ExportInfo now = agreed;
    now.flags = flag_bits({});
    EXPECT_TRUE(check_same_export(agreed, now, {megabyte, 512, 1}, "s"));
    const auto lost = check_same_export(agreed, now, {megabyte, 512, 2}, "s");
    ASSERT_FALSE(lost);
    EXPECT_NE(lost.error().what.find("can_multi_conn"), std::string::npos);
}

}  // namespace
}  // namespace nbd
