// SPDX-License-Identifier: MIT
// What the kernel is asked for, in which order, and that a failure leaves the device free.
#include "client/attach.h"

#include "client/base/log.h"
#include "client/base/text.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/test_server.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

namespace nbd {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t megabyte = 1 << 20;
constexpr auto multi = TransmissionFlag::can_multi_conn;

class Attach : public testing::Test {
protected:
    Attach() { open_log(Level::error, LogTarget::stderr_stream); }

    AttachRequest request() const { return {.target = server.target(), .settle = false}; }
    Result<Plan> plan(const AttachRequest& wanted) const {
        Dialer dialer(wanted);
        TRY(dialer.resolve(Deadline::in(5s)));
        return negotiate(wanted, dialer, Deadline::in(5s));
    }
    Result<Attachment> attach(const AttachRequest& wanted, int cancel_fd = -1, bool stays = false) {
        const Watched watched{stays, {{"size", "1"}}, kernel.root.path() + "/run"};
        return hand_over(wanted, TRY(plan(wanted)), kernel, kernel.sysfs(), watched, cancel_fd);
    }
    bool is_free(std::uint32_t index) const { return !kernel.sysfs().read(index)->configured; }
    void serve(std::uint64_t size, std::uint16_t flags,
               std::optional<BlockSizes> sizes = std::nullopt) {
        server.set_export({.name = "disk",
                           .description = "",
                           .size = size,
                           .flags = flags,
                           .block_sizes = sizes});
    }

    TestServer server;
    FakeKernel kernel;
};

// The plan.

TEST_F(Attach, AsManyConnectionsAsHelp) {
    const auto cpus = static_cast<std::size_t>(::sysconf(_SC_NPROCESSORS_ONLN));
    const struct {
        std::optional<unsigned> asked;
        std::uint16_t flags;
        std::size_t expected;
        bool warns;
    } cases[] = {
        {std::nullopt, flag_bits({multi}), std::min<std::size_t>(cpus, 4), false},
        {std::nullopt, flag_bits({}), 1, false},
        {3, flag_bits({multi}), 3, false},
        {1, flag_bits({multi}), 1, false},
        {3, flag_bits({}), 1, true},
        {1, flag_bits({}), 1, false},
    };
    for (const auto& one : cases) {
        serve(megabyte, one.flags);
        AttachRequest wanted = request();
        wanted.connections = one.asked;
        const auto made = plan(wanted);
        ASSERT_TRUE(made) << made.error().what;
        EXPECT_EQ(made->connections.size(), one.expected);
        EXPECT_EQ(made->request.sockets.size(), one.expected);
        EXPECT_EQ(made->warnings.size(), one.warns ? 1U : 0U);
        for (std::size_t i = 0; i < one.expected; ++i) {
            EXPECT_EQ(made->request.sockets[i], made->connections[i].socket.get());
        }
    }
}

TEST_F(Attach, BlockSize) {
    const struct {
        std::optional<std::uint64_t> asked;
        std::optional<std::uint32_t> minimum;
        std::optional<std::uint64_t> expected;
        Kind kind = Kind::internal;
    } cases[] = {
        {std::nullopt, std::nullopt, 512},
        {std::nullopt, 1, 512},
        {std::nullopt, 4096, 4096},
        {1024, std::nullopt, 1024},
        {4096, 512, 4096},
        {512, 4096, std::nullopt, Kind::refused},
        {256, std::nullopt, std::nullopt, Kind::usage},
        {1000, std::nullopt, std::nullopt, Kind::usage},
        {131072, std::nullopt, std::nullopt, Kind::usage},
        {0, std::nullopt, std::nullopt, Kind::usage},
    };
    for (const auto& one : cases) {
        SCOPED_TRACE(one.asked.value_or(1));
        std::optional<BlockSizes> sizes;
        if (one.minimum) sizes = BlockSizes{*one.minimum, 4096, 1 << 25};
        serve(megabyte, flag_bits({}), sizes);
        AttachRequest wanted = request();
        wanted.block_size = one.asked;
        const auto made = plan(wanted);
        ASSERT_EQ(made.has_value(), one.expected.has_value());
        if (made) {
            EXPECT_EQ(made->request.block_size, *one.expected);
        } else {
            EXPECT_EQ(made.error().kind, one.kind) << made.error().what;
        }
    }
}

TEST_F(Attach, Size) {
    const struct {
        std::uint64_t served;
        std::optional<std::uint64_t> asked;
        std::optional<std::uint64_t> expected;
        std::size_t warnings = 0;
        Kind kind = Kind::internal;
    } cases[] = {
        {megabyte, std::nullopt, megabyte},
        {megabyte + 100, std::nullopt, megabyte, 1},
        {megabyte, 4096, 4096},
        {megabyte, 4097, 4096, 1},
        {megabyte, megabyte + 1, std::nullopt, 0, Kind::usage},
        {100, std::nullopt, std::nullopt, 0, Kind::refused},
        {0, std::nullopt, std::nullopt, 0, Kind::refused},
    };
    for (const auto& one : cases) {
        SCOPED_TRACE(one.served);
        serve(one.served, flag_bits({}));
        AttachRequest wanted = request();
        wanted.size = one.asked;
        const auto made = plan(wanted);
        ASSERT_EQ(made.has_value(), one.expected.has_value());
        if (!made) {
            EXPECT_EQ(made.error().kind, one.kind) << made.error().what;
            continue;
        }
        EXPECT_EQ(made->request.size, *one.expected);
        EXPECT_EQ(made->warnings.size(), one.warnings);
    }
}

TEST_F(Attach, TheTwoTimeouts) {
    using Seconds = std::optional<std::chrono::seconds>;
    const struct {
        Seconds io_timeout;
        Seconds reconnect_for;
        unsigned connections;
        std::chrono::seconds first_timeout;
        std::chrono::seconds timeout;
        std::chrono::seconds dead_conn_timeout;
    } cases[] = {
        {std::nullopt, std::nullopt, 1, 0s, 0s, 0s},
        {std::nullopt, 0s, 2, patient_timeout, patient_timeout, 0s},
        {std::nullopt, 600s, 1, 0s, quick_timeout, 600s},
        {std::nullopt, forever, 2, patient_timeout, quick_timeout, max_dead_conn_timeout},
        {30s, 600s, 1, 30s, 30s, 600s},
        {0s, 600s, 1, 0s, 0s, 600s},
        {forever, std::nullopt, 1, max_timeout, max_timeout, 0s},
    };
    for (const auto& one : cases) {
        AttachRequest wanted = request();
        wanted.io_timeout = one.io_timeout;
        wanted.reconnect_for = one.reconnect_for;
        wanted.connections = one.connections;
        const auto made = plan(wanted);
        ASSERT_TRUE(made);
        EXPECT_EQ(made->request.timeout, one.first_timeout);
        EXPECT_EQ(choose_timeout(wanted, one.connections), one.timeout);
        EXPECT_EQ(made->request.dead_conn_timeout, one.dead_conn_timeout);
    }
}

TEST_F(Attach, BackendIsTheUriAndAFreshIdOrWhatTheUserSays) {
    AttachRequest wanted = request();
    const auto first = plan(wanted);
    const auto second = plan(wanted);
    ASSERT_TRUE(first && second);
    const std::string uri = to_uri(wanted.target);
    EXPECT_EQ(without_fresh_id(first->request.backend), uri);
    EXPECT_EQ(first->request.backend.size(), uri.size() + 17);
    EXPECT_NE(first->request.backend, second->request.backend);
    wanted.id = "my#id";
    EXPECT_EQ(plan(wanted)->request.backend, "my#id");
}

TEST_F(Attach, ReadOnlyGoesWithTheServersFlags) {
    AttachRequest wanted = request();
    const auto open = plan(wanted);
    wanted.read_only = true;
    const auto closed = plan(wanted);
    ASSERT_TRUE(open && closed);
    EXPECT_EQ(open->request.server_flags, open->agreed.flags);
    EXPECT_EQ(closed->request.server_flags,
              open->agreed.flags | flag_bits({TransmissionFlag::read_only}));
    EXPECT_TRUE(closed->agreed.has(TransmissionFlag::read_only))
        << "a read-only server will do later";
}

TEST_F(Attach, WithoutANumberFewerConnectionsWillDo) {
    server.set_next_export(
        {.name = "disk", .description = "", .size = megabyte, .flags = flag_bits({multi})});
    for (int i = 0; i < 3; ++i) {
        server.set_next_export(
            {.name = "disk", .description = "", .size = 2 * megabyte, .flags = flag_bits({multi})});
    }
    const auto made = plan(request());
    ASSERT_TRUE(made) << made.error().what;
    EXPECT_EQ(made->connections.size(), 1U);
    const bool several = ::sysconf(_SC_NPROCESSORS_ONLN) > 1;
    ASSERT_EQ(made->warnings.size(), several ? 1U : 0U);
    if (several) {
        EXPECT_TRUE(made->warnings[0].starts_with("the server takes only 1 of "));
    }
}

TEST_F(Attach, ConnectionsThatDisagreeAreNoPlan) {
    AttachRequest wanted = request();
    wanted.connections = 2;
    server.set_next_export(
        {.name = "disk", .description = "", .size = megabyte, .flags = flag_bits({multi})});
    const auto made = plan(wanted);
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().kind, Kind::mismatch);
}

// Patience.

TEST_F(Attach, WaitsForAServerOnlyWhenAskedTo) {
    server.stop();
    AttachRequest wanted = request();
    Dialer dialer(wanted);
    int rounds = 0;
    const auto impatient = negotiate_patiently(wanted, dialer, -1, [&](const Error&) { ++rounds; });
    ASSERT_FALSE(impatient);
    EXPECT_EQ(impatient.error().kind, Kind::unreachable);
    EXPECT_EQ(rounds, 0);

    wanted.connect_for = forever;
    const auto patient = negotiate_patiently(wanted, dialer, -1, [&](const Error& error) {
        EXPECT_EQ(error.kind, Kind::unreachable);
        if (++rounds == 1) server.start();
    });
    EXPECT_TRUE(patient);
    EXPECT_EQ(rounds, 1);
}

TEST_F(Attach, PatienceEndsWithASignal) {
    server.stop();
    AttachRequest wanted = request();
    wanted.connect_for = 1h;
    Dialer dialer(wanted);
    const Bell bell;
    const auto cancelled =
        negotiate_patiently(wanted, dialer, bell.fd(), [&](const Error&) { bell.ring(); });
    ASSERT_FALSE(cancelled);
    EXPECT_EQ(cancelled.error().kind, Kind::cancelled);
}

TEST_F(Attach, NoPatienceForTheUsersOwnMistakes) {
    AttachRequest wanted = request();
    wanted.connect_for = forever;
    wanted.block_size = 1000;
    Dialer dialer(wanted);
    const auto made = negotiate_patiently(wanted, dialer, -1, [](const Error&) { FAIL(); });
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().kind, Kind::usage);
}

TEST(Describe, SaysAllThatTheKernelWouldBeTold) {
    const ConnectRequest request{.index = 3,
                                 .size = megabyte,
                                 .block_size = 4096,
                                 .timeout = 4s,
                                 .dead_conn_timeout = 600s,
                                 .server_flags = flag_bits({TransmissionFlag::send_flush}),
                                 .backend = "nbd://store\x1b/disk",
                                 .sockets = {7, 8}};
    EXPECT_EQ(describe(request),
              "NBD_CMD_CONNECT\n"
              "  index: 3\n"
              "  size_bytes: 1048576\n"
              "  block_size_bytes: 4096\n"
              "  timeout: 4s\n"
              "  dead_conn_timeout: 10m\n"
              "  server_flags: has_flags,send_flush\n"
              "  backend_identifier: nbd://store\\x1b/disk\n"
              "  sockets: 2\n");
    EXPECT_NE(describe(ConnectRequest{}).find("  index: any\n"), std::string::npos);
}

// The hand-over.

TEST_F(Attach, ADeviceIsUsableWhenItReturns) {
    AttachRequest wanted = request();
    wanted.index = 1;
    wanted.connections = 2;
    wanted.reconnect_for = 600s;
    const auto attached = attach(wanted);
    ASSERT_TRUE(attached) << attached.error().what;
    EXPECT_FALSE(is_free(1));
    EXPECT_TRUE(is_free(0));
    EXPECT_EQ(kernel.live_slots(1), 2U);
    EXPECT_TRUE(kernel.disconnects().empty());

    const RuntimeStatus& status = attached->status;
    EXPECT_EQ(status.index, 1U);
    EXPECT_EQ(status.backend, kernel.connects().at(0).backend);
    EXPECT_EQ(status.uri, to_uri(wanted.target));
    EXPECT_EQ(status.settings, (Settings{{"size", "1"}}));
    EXPECT_EQ(status.agreed.size, megabyte);
    EXPECT_EQ(status.connections, 2U);
    EXPECT_EQ(status.live_connections, 2U);
    EXPECT_EQ(status.timeout, quick_timeout);
    EXPECT_EQ(status.dead_conn_timeout, 600s);
    EXPECT_EQ(status.server, server.address());
    EXPECT_EQ(status.pid, ::getpid());
    ASSERT_EQ(attached->connections.size(), 2U) << "to watch them";
    EXPECT_FALSE(has_hung_up(attached->connections[0].socket.get()));
}

TEST_F(Attach, TheQuickTimeoutComesWithTheFirstAnswers) {
    AttachRequest wanted = request();
    wanted.connections = 2;
    wanted.reconnect_for = 600s;
    ASSERT_TRUE(attach(wanted));
    EXPECT_EQ(kernel.connects().at(0).timeout, patient_timeout);
    const auto asked = kernel.reconfigures();
    ASSERT_EQ(asked.size(), 1U);
    EXPECT_EQ(asked[0].backend, kernel.connects().at(0).backend);
    EXPECT_EQ(asked[0].timeout, quick_timeout);
    EXPECT_TRUE(asked[0].sockets.empty());
}

TEST_F(Attach, TheIoctlInterfaceStaysPatient) {
    kernel.netlink = false;
    AttachRequest wanted = request();
    wanted.connections = 1;
    wanted.reconnect_for = 600s;
    const auto attached = attach(wanted);
    ASSERT_TRUE(attached);
    EXPECT_EQ(attached->status.timeout, 0s) << "a slow answer would end the device";
    EXPECT_TRUE(kernel.reconfigures().empty());
}

TEST_F(Attach, SeveralConnectionsNeedQuickAnswers) {
    const std::string queue = "sys/block/nbd0/queue/";
    for (const unsigned connections : {1U, 2U}) {
        SCOPED_TRACE(connections);
        kernel.root.write(queue + "discard_max_hw_bytes", "999999488\n");
        kernel.root.write(queue + "discard_max_bytes", "000004096\n");
        AttachRequest wanted = request();
        wanted.connections = connections;
        wanted.reconnect_for = 600s;
        ASSERT_TRUE(attach(wanted));
        const auto limit = kernel.sysfs().queue_value(0, "discard_max_bytes");
        EXPECT_EQ(limit, connections == 1 ? 999999488U : 256U << 20);
        ASSERT_TRUE(kernel.disconnect(0));
    }
}

TEST_F(Attach, TheKernelChoosesWhenTheUserDoesNot) {
    ASSERT_TRUE(kernel.connect({.size = megabyte}));
    const auto attached = attach(request());
    ASSERT_TRUE(attached);
    EXPECT_EQ(attached->status.index, 1U);
    EXPECT_FALSE(kernel.connects().at(1).index);
}

TEST_F(Attach, ABusyMomentIsWaitedOut) {
    kernel.on_connect = [calls = 0](const ConnectRequest&) mutable -> std::optional<Error> {
        if (++calls < 3) return Error{Kind::busy, "busy"};
        return std::nullopt;
    };
    EXPECT_TRUE(attach(request()));
    EXPECT_EQ(kernel.connects().size(), 3U);
}

TEST_F(Attach, ADeviceThatIsGoingDownIsWaitedFor) {
    kernel.remove_device(0);
    AttachRequest wanted = request();
    wanted.index = 0;
    kernel.on_connect = [this, calls = 0](const ConnectRequest&) mutable -> std::optional<Error> {
        if (++calls < 3) return Error{Kind::refused, "going down"};
        kernel.add_device(0);
        return std::nullopt;
    };
    const auto attached = attach(wanted);
    EXPECT_TRUE(attached) << attached.error().what;
    EXPECT_EQ(kernel.connects().size(), 3U);
}

TEST_F(Attach, WhoStaysWithTheDeviceHoldsItsLock) {
    const std::string runtime = kernel.root.path() + "/run";
    {
        const auto attached = attach(request(), -1, true);
        ASSERT_TRUE(attached) << attached.error().what;
        EXPECT_FALSE(RuntimeLock::take(runtime, 0));
    }
    EXPECT_TRUE(RuntimeLock::take(runtime, 0));
    ASSERT_TRUE(kernel.disconnect(0));
    const auto left = attach(request());
    ASSERT_TRUE(left);
    EXPECT_TRUE(RuntimeLock::take(runtime, 0));
}

TEST_F(Attach, WithoutTheLockNothingStaysAttached) {
    kernel.root.write("run", "not a directory");
    const auto attached = attach(request(), -1, true);
    EXPECT_FALSE(attached);
    EXPECT_TRUE(is_free(0));
    EXPECT_EQ(kernel.disconnects().size(), 1U);
}

TEST_F(Attach, AnAttachedDeviceIsNotWaitedForAndItsOwnerNamed) {
    ASSERT_TRUE(kernel.connect({.index = 0, .size = megabyte, .backend = "nbd://other/disk\x1b"}));
    AttachRequest wanted = request();
    wanted.index = 0;
    const auto attached = attach(wanted);
    ASSERT_FALSE(attached);
    EXPECT_EQ(attached.error().kind, Kind::busy);
    EXPECT_EQ(attached.error().what,
              "cannot attach to /dev/nbd0: it is attached to "
              "nbd://other/disk\\x1b by process " +
                  std::to_string(::getpid()));
    EXPECT_EQ(kernel.connects().size(), 2U);
    EXPECT_TRUE(kernel.disconnects().empty()) << "it is not ours";
}

TEST_F(Attach, WaitingForABusyDeviceEndsWithASignal) {
    const Bell bell;
    kernel.on_connect = [&bell](const ConnectRequest&) {
        bell.ring();
        return Error{Kind::busy, "busy"};
    };
    const auto attached = attach(request(), bell.fd());
    ASSERT_FALSE(attached);
    EXPECT_EQ(attached.error().kind, Kind::cancelled);
}

TEST_F(Attach, OtherRefusalsAreFinal) {
    for (const Kind kind : {Kind::denied, Kind::unsupported, Kind::absent, Kind::refused}) {
        kernel.on_connect = [kind](const ConnectRequest&) { return Error{kind, "no"}; };
        const std::size_t before = kernel.connects().size();
        const auto attached = attach(request());
        ASSERT_FALSE(attached);
        EXPECT_EQ(attached.error().kind, kind);
        EXPECT_EQ(kernel.connects().size(), before + 1);
        EXPECT_TRUE(kernel.disconnects().empty()) << "nothing to undo";
    }
}

TEST_F(Attach, AnyFailureAfterwardsLeavesTheDeviceFree) {
    const struct {
        const char* label;
        std::function<void(FakeKernel&)> trouble;
        Kind kind;
    } troubles[] = {
        {"another size", [](FakeKernel& fake) { fake.missing_bytes = 4096; }, Kind::internal},
        {"no node",
         [](FakeKernel& fake) {
             std::filesystem::remove(fake.node(0));
             std::filesystem::create_symlink("nowhere", fake.node(0));
         },
         Kind::cancelled},
        {"a node that cannot be read",
         [](FakeKernel& fake) {
             std::filesystem::remove(fake.node(0));
             std::filesystem::create_directory(fake.node(0));
         },
         Kind::unreachable},
        {"a node that hangs",
         [](FakeKernel& fake) {
             std::filesystem::remove(fake.node(0));
             ASSERT_EQ(::mkfifo(fake.node(0).c_str(), 0600), 0);
         },
         Kind::cancelled},
    };
    const Bell bell;
    for (const auto& one : troubles) {
        SCOPED_TRACE(one.label);
        one.trouble(kernel);
        bool shut_down = false;
        std::vector<int> sockets;
        kernel.on_connect = [&](const ConnectRequest& asked) -> std::optional<Error> {
            sockets = asked.sockets;
            if (one.kind == Kind::cancelled) bell.ring();
            return std::nullopt;
        };
        kernel.on_disconnect = [&](std::uint32_t) -> std::optional<Error> {
            // DISCONNECT would wait for a peer that takes no more data.
            shut_down = std::all_of(sockets.begin(), sockets.end(), has_hung_up);
            return std::nullopt;
        };
        const auto attached = attach(request(), bell.fd());
        ASSERT_FALSE(attached);
        EXPECT_EQ(attached.error().kind, one.kind) << attached.error().what;
        EXPECT_TRUE(is_free(0));
        EXPECT_TRUE(shut_down);
        bell.silence();
        kernel.missing_bytes = 0;
    }
    EXPECT_EQ(kernel.disconnects().size(), std::size(troubles));
}

// The same again.

TEST_F(Attach, FindsWhatIsAttachedAlready) {
    AttachRequest wanted = request();
    const Sysfs sysfs = kernel.sysfs();
    EXPECT_FALSE(find_same(wanted, sysfs));
    ASSERT_TRUE(
        kernel.connect({.index = 1, .size = megabyte, .backend = to_uri(wanted.target) + "#0123"}));
    EXPECT_EQ(find_same(wanted, sysfs), 1U);
    wanted.id = "mine";
    EXPECT_FALSE(find_same(wanted, sysfs));
    ASSERT_TRUE(kernel.connect({.index = 0, .size = megabyte, .backend = "mine"}));
    EXPECT_EQ(find_same(wanted, sysfs), 0U);
    wanted.id = "min";
    EXPECT_FALSE(find_same(wanted, sysfs));
    ASSERT_TRUE(kernel.disconnect(1));
    wanted.id.clear();
    EXPECT_FALSE(find_same(wanted, sysfs)) << "it is free again";
}

TEST(FreshId, IsCutOff) {
    EXPECT_EQ(without_fresh_id("nbd://store/a#b#12"), "nbd://store/a#b");
    EXPECT_EQ(without_fresh_id("plain"), "plain");
}

}  // namespace
}  // namespace nbd
