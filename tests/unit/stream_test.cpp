// SPDX-License-Identifier: MIT
// The socket stream: whole messages over pieces, and each way a wait can end.
#include "client/protocol/stream.h"

#include <array>
#include <gtest/gtest.h>
#include <string>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace nbd {
namespace {

using namespace std::chrono_literals;

struct Pair {
    Fd ours, theirs;
};

Pair connected(int flags = 0) {
    std::array<int, 2> ends{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0, ends.data()), 0);
    return {Fd(ends[0]), Fd(ends[1])};
}

void say(int fd, std::string_view text) {
    ASSERT_EQ(::send(fd, text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
}

std::string text_of(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(SocketStream, reads_what_is_asked_for_and_no_byte_more) {
    const Pair pair = connected();
    say(pair.theirs.get(), "handshakeKERNEL");
    SocketStream stream(pair.ours.get());
    std::array<std::byte, 9> buffer{};
    ASSERT_TRUE(stream.read_exactly(buffer, Deadline::in(1s)));
    EXPECT_EQ(text_of(buffer), "handshake");
    std::array<char, 16> rest{};
    EXPECT_EQ(::recv(pair.ours.get(), rest.data(), rest.size(), MSG_DONTWAIT), 6);
}

TEST(SocketStream, puts_pieces_together_on_blocking_and_non_blocking_sockets) {
    for (const int flags : {0, static_cast<int>(SOCK_NONBLOCK)}) {
        const Pair pair = connected(flags);
        const std::jthread server([fd = pair.theirs.get()] {
            for (const char c : std::string("piece by piece")) {
                say(fd, std::string(1, c));
                std::this_thread::yield();
            }
        });
        SocketStream stream(pair.ours.get());
        std::array<std::byte, 14> buffer{};
        ASSERT_TRUE(stream.read_exactly(buffer, Deadline::in(5s)));
        EXPECT_EQ(text_of(buffer), "piece by piece");
    }
}

TEST(SocketStream, writes_more_than_the_socket_holds) {
    const Pair pair = connected();
    constexpr std::size_t size = 4 * 1024 * 1024;
    std::size_t received = 0;
    std::jthread server([fd = pair.theirs.get(), &received] {
        std::vector<char> buffer(65536);
        while (received < size) {
            const ssize_t count = ::recv(fd, buffer.data(), buffer.size(), 0);
            if (count <= 0) return;
            received += static_cast<std::size_t>(count);
        }
    });
    SocketStream stream(pair.ours.get());
    const std::vector<std::byte> bytes(size);
    EXPECT_TRUE(stream.write_all(bytes, Deadline::in(10s)));
    server.join();
    EXPECT_EQ(received, size);
}

TEST(SocketStream, tells_a_closed_connection_from_a_late_one) {
    Pair pair = connected();
    SocketStream stream(pair.ours.get());
    std::array<std::byte, 4> buffer{};
    say(pair.theirs.get(), "ab");
    const auto late = stream.read_exactly(buffer, Deadline::in(10ms));
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().kind, Kind::unreachable);
    EXPECT_EQ(late.error().what, "timed out");
    say(pair.theirs.get(), "ab");
    pair.theirs.reset();
    const auto closed = stream.read_exactly(buffer, Deadline::in(5s));
    ASSERT_FALSE(closed);
    EXPECT_EQ(closed.error().kind, Kind::protocol);
    // A write to the closed peer is an error, not a SIGPIPE.
    const auto written = stream.write_all(buffer, Deadline::in(5s));
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().kind, Kind::protocol);
}

TEST(SocketStream, gives_up_writing_at_the_deadline) {
    const Pair pair = connected();
    SocketStream stream(pair.ours.get());
    const std::vector<std::byte> bytes(64 * 1024 * 1024);
    const auto written = stream.write_all(bytes, Deadline::in(20ms));
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().kind, Kind::unreachable);
}

TEST(SocketStream, is_cancelled_by_a_readable_descriptor) {
    const Pair pair = connected();
    const Fd cancel(::eventfd(1, EFD_CLOEXEC));
    SocketStream stream(pair.ours.get());
    std::array<std::byte, 4> buffer{};
    const auto read = stream.read_exactly(buffer, Deadline::in(60s, cancel.get()));
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().kind, Kind::cancelled);
}

TEST(SocketStream, reports_a_descriptor_that_is_no_socket) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe(ends.data()), 0);
    const Fd read_end(ends[0]);
    const Fd write_end(ends[1]);
    SocketStream stream(read_end.get());
    std::array<std::byte, 1> buffer{};
    const auto read = stream.read_exactly(buffer, Deadline::in(1s));
    ASSERT_FALSE(read);
    EXPECT_FALSE(read.error().what.empty());
}

}  // namespace
}  // namespace nbd
