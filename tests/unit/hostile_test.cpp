// SPDX-License-Identifier: MIT
// Servers that mean harm or are broken: every step ends, in bounded time and memory.
#include "client/base/text.h"
#include "client/protocol/handshake.h"
#include "tests/unit/scripted_stream.h"

#include <array>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <thread>

namespace nbd {
namespace {

using namespace nbd::script;
using namespace std::chrono_literals;

Deadline soon() {
    return Deadline::in(20s);
}

bool has_raw_control(std::string_view text) {
    return std::any_of(text.begin(), text.end(),
                       [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == '\x7f'; });
}

void expect_clean(const Error& error) {
    EXPECT_FALSE(has_raw_control(error.what)) << printable(error.what);
    EXPECT_FALSE(has_raw_control(error.hint)) << printable(error.hint);
    EXPECT_LE(error.what.size(), 4096u);
}

/// Sends a prologue, then one block for ever; takes everything it is told.
class EndlessStream final : public Stream {
public:
    EndlessStream(std::string prologue, std::string block)
        : text_(std::move(prologue)), block_(std::move(block)) {}

    Result<void> read_exactly(std::span<std::byte> buffer, const Deadline&) override {
        for (std::byte& b : buffer) {
            if (offset_ == text_.size()) {
                text_ = block_;
                offset_ = 0;
            }
            b = static_cast<std::byte>(text_[offset_++]);
        }
        total_ += buffer.size();
        largest_ = std::max(largest_, buffer.size());
        return {};
    }
    Result<void> write_all(std::span<const std::byte>, const Deadline&) override { return {}; }
    std::size_t total() const { return total_; }
    std::size_t largest() const { return largest_; }

private:
    std::string text_;
    std::string block_;
    std::size_t offset_ = 0;
    std::size_t total_ = 0;
    std::size_t largest_ = 0;
};

TEST(Endless, lists_end_at_a_number_of_names_and_of_bytes) {
    struct Case {
        std::string entry;
        std::size_t most_bytes;
    };
    const std::array cases = {
        Case{listed(""), max_listed_exports * 32},
        Case{listed("a name", "and more"), max_listed_exports * 64},
        Case{listed(std::string(4096, 'n'), std::string(4096, 'd')), max_list_bytes + 70000},
    };
    for (const Case& c : cases) {
        EndlessStream stream(greeting(3), reply(opt_list, rep_server, c.entry));
        auto handshake = Handshake::start(stream, "store", soon());
        ASSERT_TRUE(handshake);
        const auto list = handshake->list();
        ASSERT_FALSE(list);
        EXPECT_EQ(list.error().kind, Kind::protocol);
        EXPECT_NE(list.error().what.find("does not end"), std::string::npos);
        EXPECT_LE(stream.total(), c.most_bytes);
    }
}

TEST(Endless, ten_thousand_names_are_a_list) {
    std::string text = greeting(3);
    for (std::size_t i = 0; i < max_listed_exports; ++i)
        text += reply(opt_list, rep_server, listed("n"));
    EndlessStream stream(text + reply(opt_list, rep_ack), "x");
    auto handshake = Handshake::start(stream, "store", soon());
    ASSERT_TRUE(handshake);
    const auto list = handshake->list();
    ASSERT_TRUE(list) << list.error().what;
    EXPECT_EQ(list->size(), max_listed_exports);
}

TEST(Endless, information_ends_at_a_number_of_items) {
    const std::array items = {info_export(4096, 1), info_item(1, "name"),
                              info_item(4711, std::string(65534, 'x'))};
    for (const std::string& item : items) {
        EndlessStream go(greeting(3), reply(opt_go, rep_info, item));
        EndlessStream info(greeting(3), reply(opt_info, rep_info, item));
        auto going = Handshake::start(go, "store", soon());
        auto asking = Handshake::start(info, "store", soon());
        ASSERT_TRUE(going && asking);
        for (const auto& answer : {going->go(""), asking->info("")}) {
            ASSERT_FALSE(answer);
            EXPECT_EQ(answer.error().kind, Kind::protocol);
            EXPECT_NE(answer.error().what.find("does not end"), std::string::npos);
        }
        EXPECT_LE(go.total(), (max_info_replies + 1) * (item.size() + 20) + 18);
    }
}

TEST(Lengths, of_replies_are_bounded_before_anything_is_allocated) {
    for (const std::uint32_t type : {rep_ack, rep_server, rep_info, err + 1, err + 6, 0x77u}) {
        for (const std::uint32_t length :
             {max_reply_data + 1, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
            for (const std::uint32_t number : {opt_list, opt_info, opt_go}) {
                EndlessStream stream(greeting(3) + reply_header(number, type, length), "x");
                auto handshake = Handshake::start(stream, "store", soon());
                ASSERT_TRUE(handshake);
                const Error error = number == opt_list   ? handshake->list().error()
                                    : number == opt_info ? handshake->info("").error()
                                                         : handshake->go("").error();
                EXPECT_EQ(error.kind, Kind::protocol);
                EXPECT_NE(error.what.find(std::to_string(length)), std::string::npos);
                EXPECT_EQ(stream.largest(), 20u);
            }
        }
    }
}

TEST(Lengths, at_the_limit_are_read_and_judged) {
    for (const std::uint32_t length : {0u, 1u, max_reply_data}) {
        EndlessStream stream(greeting(3) + reply_header(opt_go, err + 6, length), "\x1b");
        auto handshake = Handshake::start(stream, "store", soon());
        ASSERT_TRUE(handshake);
        const auto answer = handshake->go("");
        ASSERT_FALSE(answer);
        EXPECT_EQ(answer.error().kind, Kind::absent);
        expect_clean(answer.error());
    }
}

TEST(Lengths, of_listed_names_stay_within_the_reply) {
    for (const std::uint32_t length :
         {5u, 4097u, 0x7fffffffu, 0x80000000u, 0xfffffffcu, 0xffffffffu}) {
        EndlessStream stream(greeting(3) + reply(opt_list, rep_server, numbers(length) + "name"),
                             "x");
        auto handshake = Handshake::start(stream, "store", soon());
        ASSERT_TRUE(handshake);
        const auto list = handshake->list();
        ASSERT_FALSE(list) << length;
        EXPECT_EQ(list.error().kind, Kind::protocol);
        EXPECT_NE(list.error().what.find("shorter than the name"), std::string::npos);
    }
}

/// One way through the whole handshake: what the server sends, and what the client does.
struct Path {
    std::string server;
    bool (*walk)(Handshake& handshake, Error& error);
};

template <typename T>
bool keep(const Result<T>& result, Error& error) {
    if (!result) error = result.error();
    return result.has_value();
}

std::vector<Path> paths() {
    const std::string items = reply(opt_go, rep_info, info_export(1000000, 0x1ff)) +
                              reply(opt_go, rep_info, info_item(2, "text")) +
                              reply(opt_go, rep_info, info_item(3, numbers(1u, 4096u, ~0u)));
    const std::string by_name = numbers(std::uint64_t{512}, std::uint16_t{1});
    const auto go = [](Handshake& h, Error& e) { return keep(h.go("root"), e); };
    const auto go_old = [](Handshake& h, Error& e) { return keep(h.go(""), e); };
    const auto name = [](Handshake& h, Error& e) { return keep(h.go("root", false), e); };
    const auto list = [](Handshake& h, Error& e) { return keep(h.list(), e); };
    return {
        {greeting(3) + items + reply(opt_go, rep_ack), go},
        {greeting(1) + reply(opt_go, err + 1, "no") + by_name + zeroes(124), go},
        {greeting(1) + by_name + zeroes(124), name},
        {greeting(3) + by_name, name},
        {greeting(0) + by_name + zeroes(124), go},
        {oldstyle_greeting(4096, 1), go_old},
        {greeting(3) + reply(opt_list, rep_server, listed("one", "first")) +
             reply(opt_list, rep_server, listed("two")) + reply(opt_list, rep_ack),
         list},
    };
}

/// The bytes then a closed connection, whatever the client says.
class FixedStream final : public Stream {
public:
    explicit FixedStream(std::string_view text) : text_(text) {}
    explicit FixedStream(std::string&&) = delete;  // it borrows
    Result<void> read_exactly(std::span<std::byte> buffer, const Deadline&) override {
        for (std::byte& b : buffer) {
            if (text_.empty()) return Error{Kind::protocol, "closed"};
            b = static_cast<std::byte>(text_.front());
            text_.remove_prefix(1);
        }
        return {};
    }
    Result<void> write_all(std::span<const std::byte>, const Deadline&) override { return {}; }
    bool used_up() const { return text_.empty(); }

private:
    std::string_view text_;
};

TEST(Closing, at_every_byte_of_every_path_is_an_error_and_only_the_whole_succeeds) {
    for (const Path& path : paths()) {
        const std::string_view whole = path.server;
        for (std::size_t length = 0; length <= whole.size(); ++length) {
            FixedStream stream(whole.substr(0, length));
            Error error{Kind::internal, ""};
            auto handshake = Handshake::start(stream, "store", soon());
            const bool done = handshake ? path.walk(*handshake, error) : keep(handshake, error);
            EXPECT_EQ(done, length == whole.size()) << length << " of " << whole.size();
            EXPECT_TRUE(stream.used_up());
            if (done) continue;
            EXPECT_TRUE(error.what.starts_with("cannot ")) << error.what;
            EXPECT_TRUE(error.kind == Kind::protocol || error.kind == Kind::unreachable ||
                        error.kind == Kind::absent)
                << error.what;
        }
    }
}

TEST(Closing, with_any_single_byte_changed_never_breaks_us) {
    for (const Path& path : paths()) {
        for (std::size_t at = 0; at < path.server.size(); ++at) {
            for (const unsigned mask : {0x01u, 0x80u, 0xffu}) {
                std::string server = path.server;
                server[at] = static_cast<char>(static_cast<unsigned char>(server[at]) ^ mask);
                FixedStream stream(server);
                Error error{Kind::internal, ""};
                auto handshake = Handshake::start(stream, "store", soon());
                const bool done = handshake ? path.walk(*handshake, error) : keep(handshake, error);
                if (!done) expect_clean(error);
            }
        }
    }
}

TEST(Terminals, get_no_control_character_from_any_text) {
    const std::string evil =
        "\x1b]0;title\x07\r\n\x9b"
        "31m\x7f\xff";
    const std::array servers = {
        evil + "padding",
        "NBDMAGIC" + evil,
        greeting(3) + reply(opt_go, err + 6, evil),
        greeting(3) + reply(opt_go, err + 0x1b, evil),
        greeting(3) + reply(opt_go, err + 2, std::string(60000, '\x1b')),
        greeting(3) + reply(opt_go, rep_info, info_item(1, evil)),
    };
    for (const std::string& server : servers) {
        FixedStream stream(server);
        auto handshake = Handshake::start(stream, "store", soon());
        const Error error = handshake ? handshake->go(evil).error() : std::move(handshake).error();
        expect_clean(error);
    }
    const std::string server =
        greeting(3) + reply(opt_list, rep_server, listed(evil, evil)) + reply(opt_list, rep_ack);
    FixedStream stream(server);
    auto handshake = Handshake::start(stream, "store", soon());
    ASSERT_TRUE(handshake);
    const auto list = handshake->list();
    ASSERT_TRUE(list);
    EXPECT_EQ(list->front().name, evil) << "the caller gets what was sent";
    EXPECT_FALSE(has_raw_control(printable(list->front().description)));
}

/// A server on a real socket that sends one byte per `pace` until the client has gone.
class DrippingServer {
public:
    DrippingServer(std::string text, Clock::duration pace) {
        std::array<int, 2> ends{};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
        client_.reset(ends[0]);
        thread_ = std::jthread([text = std::move(text), pace, server = Fd(ends[1])] {
            for (const char c : text) {
                pause_until(Deadline::in(pace));
                if (::send(server.get(), &c, 1, MSG_NOSIGNAL) != 1) return;
            }
            static_cast<void>(wait_for(server.get(), 0, Deadline::in(10s)));
        });
    }
    ~DrippingServer() { client_.reset(); }
    DrippingServer(const DrippingServer&) = delete;
    DrippingServer& operator=(const DrippingServer&) = delete;
    int client() const { return client_.get(); }

private:
    std::jthread thread_;
    Fd client_;
};

TEST(Slowness, ends_at_the_overall_deadline) {
    const std::string server =
        greeting(3) + reply(opt_go, rep_info, info_export(4096, 1)) + reply(opt_go, rep_ack);
    // Mute; a byte now and then, in the greeting or later: each byte is prompt enough by itself.
    for (const auto& [text, pace] :
         {std::pair{std::string(), 0ms}, std::pair{server, 20ms}, std::pair{server, 4ms}}) {
        DrippingServer dripping(text, pace);
        SocketStream stream(dripping.client());
        const auto begin = Clock::now();
        const Deadline deadline = Deadline::in(150ms);
        auto handshake = Handshake::start(stream, "store", deadline);
        const Error error =
            handshake ? handshake->go("root").error() : std::move(handshake).error();
        EXPECT_EQ(error.kind, Kind::unreachable);
        EXPECT_NE(error.what.find("timed out"), std::string::npos) << error.what;
        EXPECT_GE(Clock::now() - begin, 150ms);
        EXPECT_LT(Clock::now() - begin, 2s);
    }
}

TEST(Slowness, alone_is_no_error) {
    DrippingServer dripping(greeting(3) + reply(opt_list, rep_ack), 1ms);
    SocketStream stream(dripping.client());
    auto handshake = Handshake::start(stream, "store", soon());
    ASSERT_TRUE(handshake) << handshake.error().what;
    const auto list = handshake->list();
    ASSERT_TRUE(list) << list.error().what;
    EXPECT_TRUE(list->empty());
}

TEST(Slowness, goodbyes_wait_no_longer_than_a_second) {
    DrippingServer dripping(greeting(3), 0ms);
    SocketStream stream(dripping.client());
    auto handshake = Handshake::start(stream, "store", soon());
    ASSERT_TRUE(handshake);
    const auto begin = Clock::now();
    handshake->abort();
    EXPECT_LT(Clock::now() - begin, 3s);
}

}  // namespace
}  // namespace nbd
