// SPDX-License-Identifier: MIT
// The handshake against scripted servers of every style.
#include "client/protocol/handshake.h"

#include "tests/unit/scripted_stream.h"

#include <array>
#include <gtest/gtest.h>

namespace nbd {
namespace {

using namespace nbd::script;
using namespace std::chrono_literals;

constexpr std::uint64_t limit = 0x7fffffffffffffff;

Deadline soon() {
    return Deadline::in(5s);
}

/// A script that begins with a fixed newstyle greeting.
ScriptedStream fixed(std::vector<Step> rest) {
    std::vector<Step> steps = {sends(greeting(3)), expects(client_flags(3))};
    steps.insert(steps.end(), rest.begin(), rest.end());
    return ScriptedStream(std::move(steps));
}

Handshake started(Stream& stream) {
    auto handshake = Handshake::start(stream, "store:10809", soon());
    EXPECT_TRUE(handshake) << handshake.error().what;
    return *std::move(handshake);
}

bool contains(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

TEST(Greeting, answers_only_the_flags_it_knows) {
    struct Case {
        std::uint16_t flags;
        std::uint32_t answer;
        Style style;
    };
    constexpr std::array cases = {Case{0, 0, Style::newstyle},
                                  Case{1, 1, Style::fixed_newstyle},
                                  Case{2, 2, Style::newstyle},
                                  Case{3, 3, Style::fixed_newstyle},
                                  Case{0xffff, 3, Style::fixed_newstyle},
                                  Case{0xfffc, 0, Style::newstyle}};
    for (const Case& c : cases) {
        ScriptedStream stream({sends(greeting(c.flags)), expects(client_flags(c.answer))});
        EXPECT_EQ(started(stream).style(), c.style) << c.flags;
        EXPECT_TRUE(stream.finished());
    }
}

TEST(Greeting, names_what_is_not_nbd) {
    struct Case {
        std::string sent;
        Kind kind;
        std::string_view part;
    };
    const std::array cases = {
        Case{"SSH-2.0-OpenSSH", Kind::protocol, "not an NBD server, it sent \"SSH-2.0-\""},
        Case{"\x1b[31mred!", Kind::protocol, "not an NBD server, it sent \"\\x1b[31mred\""},
        Case{"NBDMAGICIHAVEOPS", Kind::protocol, "unknown NBD dialect \"IHAVEOPS\""},
        Case{"", Kind::unreachable, "before any greeting"},
        Case{"NBDMAG", Kind::unreachable, "before any greeting"},
    };
    for (const Case& c : cases) {
        ScriptedStream stream({sends(c.sent)});
        const auto handshake = Handshake::start(stream, "store:10809", soon());
        ASSERT_FALSE(handshake) << c.sent;
        EXPECT_EQ(handshake.error().kind, c.kind);
        EXPECT_TRUE(handshake.error().what.starts_with("cannot negotiate with store:10809: "));
        EXPECT_TRUE(contains(handshake.error().what, c.part)) << handshake.error().what;
        EXPECT_FALSE(handshake.error().hint.empty());
    }
}

TEST(Go, takes_everything_the_server_tells) {
    auto stream = fixed({
        expects(info_option(opt_go, "root")),
        sends(reply(opt_go, rep_info, info_export(1000000, 0x1ff))),
        sends(reply(opt_go, rep_info, info_item(1, "canonical"))),
        sends(reply(opt_go, rep_info, info_item(2, "the root disk"))),
        sends(reply(opt_go, rep_info, info_item(3, numbers(512u, 4096u, 65536u)))),
        sends(reply(opt_go, rep_info, info_item(4711, "unknown items are skipped"))),
        sends(reply(opt_go, rep_ack)),
    });
    const auto info = started(stream).go("root");
    ASSERT_TRUE(info) << info.error().what;
    const ExportInfo wanted{"canonical", "the root disk", 1000000, 0x1ff,
                            BlockSizes{512, 4096, 65536}};
    EXPECT_EQ(*info, wanted);
    EXPECT_TRUE(info->has(TransmissionFlag::can_multi_conn));
    EXPECT_FALSE(info->has(TransmissionFlag::send_resize));
    EXPECT_TRUE(stream.finished());
}

TEST(Go, falls_back_to_export_name_on_unsup_only) {
    for (const bool no_zeroes : {true, false}) {
        const std::uint16_t flags = no_zeroes ? 3 : 1;
        ScriptedStream stream({
            sends(greeting(flags)),
            expects(client_flags(flags)),
            expects(info_option(opt_go, "root")),
            sends(reply(opt_go, err + 1, "what is GO?")),
            expects(option(opt_export_name, "root")),
            sends(numbers(std::uint64_t{4096}, std::uint16_t{3})),
            sends(no_zeroes ? "" : zeroes(124)),
        });
        const auto info = started(stream).go("root");
        ASSERT_TRUE(info) << info.error().what;
        EXPECT_EQ(*info, (ExportInfo{"root", "", 4096, 3}));
        EXPECT_TRUE(stream.finished());
    }
}

TEST(Go, uses_export_name_when_told_or_without_the_fixed_flag) {
    for (const std::uint16_t flags : std::initializer_list<std::uint16_t>{0, 1, 2, 3}) {
        ScriptedStream stream({
            sends(greeting(flags)),
            expects(client_flags(flags)),
            expects(option(opt_export_name, "root")),
            sends(numbers(std::uint64_t{512}, std::uint16_t{1})),
            sends((flags & 2) != 0 ? "" : zeroes(124)),
        });
        const bool use_go = (flags & 1) == 0;
        const auto info = started(stream).go("root", use_go);
        ASSERT_TRUE(info) << info.error().what;
        EXPECT_EQ(info->size, 512u);
        EXPECT_TRUE(stream.finished());
    }
}

TEST(Go, reads_a_closed_connection_after_export_name_as_no_such_export) {
    auto stream = fixed({expects(option(opt_export_name, "root"))});
    const auto info = started(stream).go("root", false);
    ASSERT_FALSE(info);
    EXPECT_EQ(info.error().kind, Kind::absent);
    EXPECT_TRUE(info.error().what.starts_with("cannot open export \"root\" of store:10809: "));
    EXPECT_TRUE(contains(info.error().what, "does not allow this client"));
    EXPECT_TRUE(contains(info.error().hint, "nbd-client exports URI"));
}

TEST(Oldstyle, serves_one_nameless_export) {
    // The upper half of the flags is not ours.
    ScriptedStream stream({sends(oldstyle_greeting(1000000, 0xabcd0003))});
    Handshake handshake = started(stream);
    EXPECT_EQ(handshake.style(), Style::oldstyle);
    const auto named = handshake.go("root");
    ASSERT_FALSE(named);
    EXPECT_EQ(named.error().kind, Kind::absent);
    EXPECT_EQ(named.error().what,
              "cannot open export \"root\" of store:10809: the server is oldstyle and serves one "
              "nameless export");
    const auto list = handshake.list();
    ASSERT_FALSE(list);
    EXPECT_EQ(list.error().kind, Kind::refused);
    for (const auto& info : {handshake.info(""), handshake.go("")}) {
        ASSERT_TRUE(info) << info.error().what;
        EXPECT_EQ(*info, (ExportInfo{"", "", 1000000, 3}));
    }
    EXPECT_TRUE(stream.finished());
}

TEST(Refusals, have_a_sentence_and_a_cure_each) {
    struct Case {
        std::uint32_t number;
        Kind kind;
        std::string_view cause;
        std::string_view hint;
    };
    constexpr std::array cases = {
        Case{2, Kind::refused, "policy", "configuration"},
        Case{3, Kind::refused, "invalid", "export name"},
        Case{4, Kind::refused, "platform", "log"},
        Case{5, Kind::refused, "requires TLS", "nbds://"},
        Case{6, Kind::absent, "no such export", "nbd-client exports URI"},
        Case{7, Kind::unreachable, "shutting down", "again"},
        Case{8, Kind::refused, "block sizes", "log"},
        Case{9, Kind::refused, "too large", "shorter"},
        Case{10, Kind::refused, "extended headers", "simple replies"},
        Case{0x123, Kind::refused, "0x80000123", "log"},
        Case{0x7fffffff, Kind::refused, "0xffffffff", "log"},
    };
    for (const Case& c : cases) {
        for (const std::uint32_t number : {opt_go, opt_info}) {
            auto stream = fixed({expects(info_option(number, "root")),
                                 sends(reply(number, err + c.number, "go\x1b[1maway\n"))});
            Handshake handshake = started(stream);
            const auto info = number == opt_go ? handshake.go("root") : handshake.info("root");
            ASSERT_FALSE(info);
            EXPECT_EQ(info.error().kind, c.kind) << c.cause;
            EXPECT_TRUE(contains(info.error().what, c.cause)) << info.error().what;
            EXPECT_TRUE(contains(info.error().what, "(it says \"go\\x1b[1maway\\x0a\")"))
                << info.error().what;
            EXPECT_TRUE(contains(info.error().hint, c.hint)) << info.error().hint;
        }
    }
}

TEST(Refusals, need_no_text_and_name_the_default_export) {
    auto stream = fixed({expects(info_option(opt_go, "")), sends(reply(opt_go, err + 6))});
    const auto info = started(stream).go("");
    ASSERT_FALSE(info);
    EXPECT_EQ(info.error().what,
              "cannot open the default export of store:10809: the server has no such export");
}

TEST(List, takes_names_and_descriptions) {
    auto stream = fixed({
        expects(option(opt_list)),
        sends(reply(opt_list, rep_server, listed("one"))),
        sends(reply(opt_list, rep_server, listed("two", "the second"))),
        sends(reply(opt_list, rep_server, listed(""))),
        sends(reply(opt_list, rep_ack)),
        expects(option(opt_list)),
        sends(reply(opt_list, rep_ack)),
        expects(option(opt_list)),
        sends(reply(opt_list, err + 2)),
        expects(option(opt_list)),
        sends(reply(opt_list, err + 1)),
    });
    Handshake handshake = started(stream);
    const auto list = handshake.list();
    ASSERT_TRUE(list) << list.error().what;
    EXPECT_EQ(*list, (std::vector<ListedExport>{{"one", ""}, {"two", "the second"}, {"", ""}}));
    const auto empty = handshake.list();
    ASSERT_TRUE(empty);
    EXPECT_TRUE(empty->empty());
    const auto forbidden = handshake.list();
    ASSERT_FALSE(forbidden);
    EXPECT_EQ(forbidden.error().what,
              "cannot list the exports of store:10809: the server's policy forbids it");
    EXPECT_TRUE(contains(forbidden.error().hint, "allowlist"));
    const auto unknown = handshake.list();
    ASSERT_FALSE(unknown);
    EXPECT_EQ(unknown.error().kind, Kind::refused);
    EXPECT_TRUE(stream.finished());
}

TEST(Info, leaves_the_handshake_open) {
    auto stream = fixed({
        expects(info_option(opt_info, "root")),
        sends(reply(opt_info, rep_info, info_export(4096, 1))),
        sends(reply(opt_info, rep_ack)),
        expects(option(opt_abort)),
        sends(reply(opt_abort, rep_ack)),
    });
    Handshake handshake = started(stream);
    const auto info = handshake.info("root");
    ASSERT_TRUE(info) << info.error().what;
    EXPECT_EQ(info->size, 4096u);
    handshake.abort();
    EXPECT_TRUE(stream.finished());
}

TEST(Info, goes_where_the_server_knows_no_info_or_tells_no_size) {
    const std::array answers = {
        reply(opt_info, err + 1),
        reply(opt_info, rep_info, info_export(0, 1)) + reply(opt_info, rep_ack),
    };
    for (const std::string& answer : answers) {
        auto stream = fixed({
            expects(info_option(opt_info, "root")),
            sends(answer),
            expects(info_option(opt_go, "root")),
            sends(reply(opt_go, rep_info, info_export(4096, 1))),
            sends(reply(opt_go, rep_ack)),
            // In transmission the polite end is NBD_CMD_DISC.
            expects(numbers(0x25609513u, std::uint16_t{0}, std::uint16_t{2}, std::uint64_t{0},
                            std::uint64_t{0}, 0u)),
        });
        Handshake handshake = started(stream);
        const auto info = handshake.info("root");
        ASSERT_TRUE(info) << info.error().what;
        EXPECT_EQ(info->size, 4096u);
        handshake.abort();
        EXPECT_TRUE(stream.finished());
    }
}

TEST(Abort, says_nothing_to_a_server_without_the_option) {
    ScriptedStream stream({sends(greeting(0)), expects(client_flags(0))});
    Handshake handshake = started(stream);
    handshake.abort();
    EXPECT_TRUE(stream.finished());
}

TEST(Abort, says_nothing_after_a_violation) {
    auto stream = fixed({expects(option(opt_list)), sends(reply(opt_list, rep_info, "x")),
                         expects(option(opt_abort))});
    Handshake handshake = started(stream);
    ASSERT_FALSE(handshake.list());
    handshake.abort();
    EXPECT_FALSE(stream.finished());
}

TEST(Violations, are_protocol_errors) {
    const std::string good = reply(opt_go, rep_info, info_export(4096, 1));
    struct Case {
        std::string sent;
        std::string_view part;
    };
    const std::array cases = {
        Case{reply(opt_go, rep_ack), "without NBD_INFO_EXPORT"},
        Case{"IHAVEOPT" + good, "magic"},
        Case{reply(opt_info, rep_ack), "reply to NBD_OPT_INFO instead of NBD_OPT_GO"},
        Case{reply(77, rep_ack), "reply to option 0x4d instead of NBD_OPT_GO"},
        Case{good + reply(opt_go, rep_ack, "x"), "NBD_REP_ACK with data"},
        Case{reply(opt_go, rep_server, listed("x")), "unexpected NBD_REP_SERVER"},
        Case{reply(opt_go, 0x77), "unexpected reply type 0x77"},
        Case{reply(opt_go, rep_info), "without a type"},
        Case{reply(opt_go, rep_info, "x"), "without a type"},
        Case{reply(opt_go, rep_info, info_item(0, "short")), "export size"},
        Case{reply(opt_go, rep_info, info_export(1, 1) + "x"), "export size"},
        Case{reply(opt_go, rep_info, info_item(3, numbers(512u, 4096u))), "block sizes"},
        Case{reply(opt_go, rep_info, info_item(3, numbers(512u, 4096u, 512u))) + good +
                 reply(opt_go, rep_ack),
             "smaller than the preferred"},
        Case{reply(opt_go, rep_info, info_item(1, zeroes(1))), "NUL"},
        Case{reply(opt_go, rep_info, info_item(2, std::string(4097, 'x'))), "4097 bytes"},
    };
    for (const Case& c : cases) {
        auto stream = fixed({expects(info_option(opt_go, "")), sends(c.sent)});
        const auto info = started(stream).go("");
        ASSERT_FALSE(info) << c.part;
        EXPECT_EQ(info.error().kind, Kind::protocol) << c.part;
        EXPECT_TRUE(contains(info.error().what, c.part)) << info.error().what;
    }
}

TEST(Names, are_checked_before_they_are_sent) {
    auto stream = fixed({
        expects(info_option(opt_go, std::string(4096, 'x'))),
        sends(reply(opt_go, err + 9)),
    });
    Handshake handshake = started(stream);
    for (const std::string& name : {std::string(4097, 'x'), "a" + zeroes(1)}) {
        for (const auto& info :
             {handshake.go(name), handshake.go(name, false), handshake.info(name)}) {
            ASSERT_FALSE(info);
            EXPECT_EQ(info.error().kind, Kind::usage);
        }
    }
    ASSERT_FALSE(handshake.go(std::string(4096, 'x')));
    EXPECT_TRUE(stream.finished());
}

TEST(Sizes, end_where_the_kernel_ends) {
    for (const std::uint64_t size :
         {std::uint64_t{0}, std::uint64_t{1000000}, limit, limit + 1, ~std::uint64_t{0}}) {
        auto by_go = fixed({expects(info_option(opt_go, "")),
                            sends(reply(opt_go, rep_info, info_export(size, 1))),
                            sends(reply(opt_go, rep_ack))});
        const auto gone = started(by_go).go("");
        auto by_name =
            fixed({expects(option(opt_export_name)), sends(numbers(size, std::uint16_t{1}))});
        const auto named = started(by_name).go("", false);
        ScriptedStream by_old({sends(oldstyle_greeting(size, 1))});
        const auto old = Handshake::start(by_old, "store", soon());
        EXPECT_EQ(gone.has_value(), size <= limit) << size;
        EXPECT_EQ(named.has_value(), size <= limit) << size;
        EXPECT_EQ(old.has_value(), size <= limit) << size;
        if (gone) {
            EXPECT_EQ(gone->size, size);
        } else {
            EXPECT_EQ(gone.error().kind, Kind::protocol);
            EXPECT_TRUE(contains(gone.error().what, std::to_string(size))) << gone.error().what;
        }
    }
}

TEST(Flags, are_kept_as_received) {
    for (const std::uint16_t flags : std::initializer_list<std::uint16_t>{0, 2, 0xffff}) {
        auto stream = fixed({expects(info_option(opt_go, "")),
                             sends(reply(opt_go, rep_info, info_export(512, flags))),
                             sends(reply(opt_go, rep_ack))});
        const auto info = started(stream).go("");
        ASSERT_TRUE(info);
        EXPECT_EQ(info->flags, flags);
    }
}

}  // namespace
}  // namespace nbd
