// SPDX-License-Identifier: MIT
// From the greeting into TLS: everything that could keep us in the clear is a failure of its own.
#include "client/protocol/dialogue.h"

#include "tests/unit/tls_server.h"

#include <gtest/gtest.h>
#include <set>

namespace nbd {
namespace {

using namespace std::chrono_literals;

const Identity& authority() {
    static const Identity it("authority", "", nullptr, {}, true);
    return it;
}

const Identity& store() {
    static const Identity it("store", "IP:127.0.0.1", &authority());
    return it;
}

Result<std::unique_ptr<TlsContext>> context() {
    return client_context({.hostname = "127.0.0.1"}, &authority());
}

Error failure(TlsServerSettings settings) {
    settings.identity = &store();
    const TlsServer server(std::move(settings));
    const auto ready = context();
    EXPECT_TRUE(ready);
    const Fd fd = server.connect();
    const auto dialogue = Dialogue::open(fd.get(), "store:10809", ready->get(), Deadline::in(5s));
    return dialogue ? Error{Kind::internal, "it went well"} : dialogue.error();
}

TEST(Dialogue, GoesOnInsideTls) {
    const TlsServer server({.identity = &store()});
    const auto ready = context();
    ASSERT_TRUE(ready);
    const Fd fd = server.connect();
    auto dialogue = Dialogue::open(fd.get(), "store:10809", ready->get(), Deadline::in(5s));
    ASSERT_TRUE(dialogue) << dialogue.error().what;
    ASSERT_NE(dialogue->tls(), nullptr);
    const auto list = dialogue->handshake().list();
    ASSERT_TRUE(list) << list.error().what;
    ASSERT_EQ(list->size(), 1U);
    EXPECT_EQ(list->front().name, "disk");
    const auto info = dialogue->handshake().go("disk");
    ASSERT_TRUE(info) << info.error().what;
    EXPECT_EQ(info->size, 1U << 20);
}

TEST(Dialogue, NothingKeepsUsInTheClear) {
    constexpr std::uint32_t starttls = 5;
    const struct {
        TlsServerSettings settings;
        std::string what;
        std::string hint;
    } cases[] = {
        {{.instead_of_ack = script::reply(starttls, script::err + 1)},
         "cannot protect the connection to store:10809: the server has no TLS "
         "(NBD_REP_ERR_UNSUP)",
         "nbd:// connects without protection"},
        {{.instead_of_ack = script::reply(starttls, script::err + 2, "not\nyou")},
         "the server has no TLS (NBD_REP_ERR_POLICY, it says \"not\\x0ayou\")",
         ""},
        {{.instead_of_ack = script::reply(starttls, script::rep_info, "")},
         "asked for TLS, the server answers NBD_REP_INFO",
         "suppress TLS"},
        {{.instead_of_ack = script::reply(starttls, script::rep_ack, "more")},
         "NBD_REP_ACK with data",
         "suppress TLS"},
        {{.instead_of_ack = std::string(20, 'x')}, "does not answer as it should", "suppress TLS"},
        {{.close_at_starttls = true},
         "asked for TLS, the server does not answer as it should: the connection was closed by "
         "the server",
         "suppress TLS"},
        {{.after_ack = script::reply(script::opt_go, script::rep_ack)},
         "cannot negotiate TLS with store:10809: data came before TLS began: \"\\x00\\x03",
         "put it there"},
        {{.close_at_hello = true}, "the server closed the connection when TLS was to begin", "log"},
        {{.instead_of_hello = "HTTP/1.1 400 Bad Request\r\n"},
         "the server sends something else than TLS: \"HTTP/\"",
         "meddle"},
        {{.instead_of_hello = std::string("\x16\x03\x03\xff\xff", 5)},
         "the server sends something else than TLS: ",
         "meddle"},
        {{.instead_of_hello = std::string("\x17\x03\x03\x00\x04", 5) + "data"},
         "cannot negotiate TLS with store:10809: ",
         "log"},
        {{.instead_of_greeting = script::oldstyle_greeting(4096, 1)},
         "the server is too old for TLS",
         "set TLS up"},
        {{.instead_of_greeting = script::greeting(0)},
         "the server is too old for TLS",
         "set TLS up"},
    };
    std::set<std::string> sentences;
    for (const auto& c : cases) {
        const Error error = failure(c.settings);
        EXPECT_EQ(error.kind, Kind::insecure) << error.what;
        EXPECT_NE(error.what.find(c.what), std::string::npos) << error.what;
        EXPECT_NE(error.hint.find(c.hint), std::string::npos) << error.hint;
        sentences.insert(error.what);
    }
    EXPECT_GE(sentences.size(), std::size(cases) - 1);
}

TEST(Dialogue, IsPlainWithoutAContext) {
    const TlsServer server({.identity = &store()});
    const Fd fd = server.connect();
    auto dialogue = Dialogue::open(fd.get(), "store:10809", nullptr, Deadline::in(5s));
    ASSERT_TRUE(dialogue);
    EXPECT_EQ(dialogue->tls(), nullptr);
}

}  // namespace
}  // namespace nbd
