// SPDX-License-Identifier: MIT
// Addresses of endpoints, races of connection attempts, and sockets made fit for the kernel.
#include "client/protocol/connect.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace nbd {
namespace {

using namespace std::chrono_literals;

std::size_t open_descriptors() {
    const std::filesystem::directory_iterator entries("/proc/self/fd");
    return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
}

/// A listener on a free port of the loopback address, and its address.
struct Listener {
    explicit Listener(int backlog = 16) : socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in wanted{};
        wanted.sin_family = AF_INET;
        wanted.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&wanted), sizeof(wanted)), 0);
        if (backlog >= 0) {
            EXPECT_EQ(::listen(socket.get(), backlog), 0);
        }
        address.length = sizeof(sockaddr_in);
        EXPECT_EQ(::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address.storage),
                                &address.length),
                  0);
        sockaddr_in bound{};
        std::memcpy(&bound, &address.storage, sizeof(bound));
        port = std::to_string(ntohs(bound.sin_port));
        address.text = "127.0.0.1:" + port;
    }
    Fd socket;
    Address address;
    std::string port;
};

/// A bound port that nobody listens on refuses every connection.
Listener refusing() {
    return Listener(-1);
}

/// A listener whose queue is full: further connections stay without an answer.
struct Mute : Listener {
    Mute() : Listener(0) {
        for (int i = 0; i < 64; ++i) {
            Fd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
            const int result = ::connect(
                client.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.length);
            const bool pending = result != 0 && errno == EINPROGRESS &&
                                 !wait_for(client.get(), POLLOUT, Deadline::in(20ms));
            clients.push_back(std::move(client));
            if (pending) return;
        }
        ADD_FAILURE() << "the queue never fills";
    }
    std::vector<Fd> clients;
};

template <typename Value = int>
Value option(int fd, int level, int name) {
    Value value{};
    socklen_t length = sizeof(value);
    EXPECT_EQ(::getsockopt(fd, level, name, &value, &length), 0);
    return value;
}

TEST(Resolve, literal_addresses_need_no_child) {
    struct Case {
        TcpEndpoint endpoint;
        std::string_view text;
        int family;
    };
    const std::array cases = {
        Case{{"127.0.0.1", "10809"}, "127.0.0.1:10809", AF_INET},
        Case{{"::1", "9"}, "[::1]:9", AF_INET6},
        Case{{"2001:db8:0::1", "9"}, "[2001:db8::1]:9", AF_INET6},
        Case{{"fe80::1%lo", "9"}, "[fe80::1%lo]:9", AF_INET6},
    };
    for (const Case& c : cases) {
        // A name would need the child, which cannot answer before a deadline that has passed.
        const auto addresses = resolve(c.endpoint, Deadline::in(-1s));
        ASSERT_TRUE(addresses) << addresses.error().what;
        ASSERT_EQ(addresses->size(), 1u);
        EXPECT_EQ(addresses->front().text, c.text);
        EXPECT_EQ(addresses->front().storage.ss_family, c.family);
    }
}

TEST(Resolve, looks_names_up_and_leaves_nothing_behind) {
    const std::size_t before = open_descriptors();
    const auto addresses = resolve(TcpEndpoint{"localhost", "10809"}, Deadline::in(10s));
    ASSERT_TRUE(addresses) << addresses.error().what;
    ASSERT_FALSE(addresses->empty());
    for (const Address& address : *addresses)
        EXPECT_TRUE(address.text == "127.0.0.1:10809" || address.text == "[::1]:10809")
            << address.text;
    EXPECT_EQ(open_descriptors(), before);
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
    EXPECT_EQ(errno, ECHILD);
}

TEST(Resolve, names_what_it_could_not_find) {
    const auto service = resolve(TcpEndpoint{"localhost", "no-such-service"}, Deadline::in(10s));
    ASSERT_FALSE(service);
    EXPECT_EQ(service.error().kind, Kind::absent);
    EXPECT_NE(service.error().what.find("service"), std::string::npos) << service.error().what;
    // Without a name server this is "no answer", with one "no such host": an error in any case.
    const auto host = resolve(TcpEndpoint{"no-such-host.invalid", "9"}, Deadline::in(1s));
    ASSERT_FALSE(host);
    EXPECT_TRUE(host.error().kind == Kind::absent || host.error().kind == Kind::unreachable);
    EXPECT_TRUE(host.error().what.starts_with("cannot resolve no-such-host.invalid:9: "));
}

TEST(Resolve, ends_at_the_deadline_and_when_cancelled) {
    const auto late = resolve(TcpEndpoint{"localhost", "9"}, Deadline::in(-1s));
    // The child may have been quicker than the first look.
    if (!late) {
        EXPECT_EQ(late.error().kind, Kind::unreachable);
    }
    const Fd cancel(::eventfd(1, EFD_CLOEXEC));
    const auto cancelled = resolve(TcpEndpoint{"localhost", "9"}, Deadline::in(60s, cancel.get()));
    ASSERT_FALSE(cancelled);
    EXPECT_EQ(cancelled.error().kind, Kind::cancelled);
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "the child is reaped";
}

TEST(Resolve, unix_sockets_by_path_and_by_abstract_name) {
    const auto path = resolve(UnixEndpoint{"/run/s"}, Deadline::in(1s));
    ASSERT_TRUE(path);
    EXPECT_EQ(path->front().length, offsetof(sockaddr_un, sun_path) + 7);
    const auto abstract = resolve(UnixEndpoint{std::string("\0ab", 3)}, Deadline::in(1s));
    ASSERT_TRUE(abstract);
    EXPECT_EQ(abstract->front().length, offsetof(sockaddr_un, sun_path) + 3);
    EXPECT_EQ(abstract->front().text, "unix:@ab");
    EXPECT_TRUE(resolve(UnixEndpoint{std::string(107, 'p')}, Deadline::in(1s)));
    EXPECT_FALSE(resolve(UnixEndpoint{std::string(108, 'p')}, Deadline::in(1s)));
    EXPECT_FALSE(resolve(UnixEndpoint{""}, Deadline::in(1s)));
}

TEST(ConnectAny, passes_over_addresses_that_refuse) {
    const Listener nobody = refusing();
    const Listener server;
    const std::array addresses = {nobody.address, nobody.address, server.address};
    const auto winner = connect_any(addresses, Deadline::in(10s));
    ASSERT_TRUE(winner) << winner.error().what;
    EXPECT_EQ(winner->address.text, server.address.text);
    EXPECT_NE(::fcntl(winner->socket.get(), F_GETFL) & O_NONBLOCK, 0);
    EXPECT_NE(::fcntl(winner->socket.get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(ConnectAny, does_not_wait_for_a_mute_address_to_try_the_next) {
    const Mute mute;
    const Listener server;
    const std::array addresses = {mute.address, server.address};
    const auto begin = Clock::now();
    const auto winner = connect_any(addresses, Deadline::in(30s));
    ASSERT_TRUE(winner) << winner.error().what;
    EXPECT_EQ(winner->address.text, server.address.text);
    EXPECT_LT(Clock::now() - begin, 10s);
}

TEST(ConnectAny, says_why_it_failed) {
    const Listener nobody = refusing();
    const auto refused = connect_any(std::array{nobody.address}, Deadline::in(10s));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind, Kind::unreachable);
    EXPECT_EQ(refused.error().what,
              "cannot connect to " + nobody.address.text + ": connection refused");
    EXPECT_NE(refused.error().hint.find("10809"), std::string::npos);
    const Mute mute;
    const auto late = connect_any(std::array{mute.address}, Deadline::in(30ms));
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().kind, Kind::unreachable);
    EXPECT_EQ(late.error().what, "cannot connect to " + mute.address.text + ": timed out");
    const Fd cancel(::eventfd(1, EFD_CLOEXEC));
    const auto cancelled = connect_any(std::array{mute.address}, Deadline::in(60s, cancel.get()));
    ASSERT_FALSE(cancelled);
    EXPECT_EQ(cancelled.error().kind, Kind::cancelled);
    EXPECT_FALSE(connect_any({}, Deadline::in(1s)));
}

TEST(ConnectAny, reaches_unix_sockets_and_names_missing_ones) {
    const std::string path = testing::TempDir() + "nbd_connect_test.sock";
    ::unlink(path.c_str());
    const auto addresses = resolve(UnixEndpoint{path}, Deadline::in(1s));
    ASSERT_TRUE(addresses);
    const auto missing = connect_any(*addresses, Deadline::in(5s));
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().kind, Kind::unreachable);
    EXPECT_NE(missing.error().what.find("unix:" + path), std::string::npos);
    const Fd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::bind(server.get(), reinterpret_cast<const sockaddr*>(&addresses->front().storage),
                     addresses->front().length),
              0);
    ASSERT_EQ(::listen(server.get(), 1), 0);
    EXPECT_TRUE(connect_any(*addresses, Deadline::in(5s)));
    ::unlink(path.c_str());
}

TEST(ConnectRace, keeps_old_attempts_while_new_ones_start) {
    const Mute mute;
    ConnectRace race;
    EXPECT_TRUE(race.empty());
    EXPECT_FALSE(race.take_winner());
    for (std::size_t i = 0; i < ConnectRace::limit + 3; ++i) race.start(mute.address);
    EXPECT_EQ(race.poll_list().size(), ConnectRace::limit);
    EXPECT_FALSE(race.take_winner());
    ASSERT_TRUE(race.last_error()) << "the oldest were given up";
    EXPECT_NE(race.last_error()->what.find("timed out"), std::string::npos);
    const Listener server;
    race.start(server.address);
    EXPECT_EQ(race.poll_list().size(), ConnectRace::limit);
    ASSERT_TRUE(wait_for(race.poll_list().back().fd, POLLOUT, Deadline::in(5s)));
    const auto winner = race.take_winner();
    ASSERT_TRUE(winner);
    EXPECT_EQ(winner->address.text, server.address.text);
    EXPECT_TRUE(race.empty());
}

TEST(ConnectRace, forgets_failed_attempts_but_not_why) {
    const Listener nobody = refusing();
    const Mute mute;
    ConnectRace race;
    race.start(nobody.address);
    race.start(mute.address);
    ASSERT_TRUE(wait_for(race.poll_list().front().fd, POLLOUT, Deadline::in(5s)));
    EXPECT_FALSE(race.take_winner());
    EXPECT_EQ(race.poll_list().size(), 1u);
    ASSERT_TRUE(race.last_error());
    EXPECT_NE(race.last_error()->what.find(nobody.address.text), std::string::npos);
}

TEST(PrepareForKernel, clears_what_would_tear_the_link_down) {
    const Listener server;
    auto winner = connect_any(std::array{server.address}, Deadline::in(5s));
    ASSERT_TRUE(winner);
    const int fd = winner->socket.get();
    const timeval two_seconds{2, 0};
    const int on = 1;
    ASSERT_EQ(::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &two_seconds, sizeof(two_seconds)), 0);
    ASSERT_EQ(::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &two_seconds, sizeof(two_seconds)), 0);
    ASSERT_EQ(::setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on)), 0);
    const auto prepared = prepare_for_kernel(fd, 30s);
    ASSERT_TRUE(prepared) << prepared.error().what;
    EXPECT_EQ(::fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    EXPECT_EQ(option<timeval>(fd, SOL_SOCKET, SO_RCVTIMEO).tv_sec, 0);
    EXPECT_EQ(option<timeval>(fd, SOL_SOCKET, SO_SNDTIMEO).tv_sec, 0);
    EXPECT_EQ(option(fd, IPPROTO_TCP, TCP_CORK), 0);
    EXPECT_NE(option(fd, IPPROTO_TCP, TCP_NODELAY), 0);
}

TEST(PrepareForKernel, spreads_keepalive_over_the_time_given) {
    for (const std::chrono::seconds total : {1s, 2s, 5s, 10s, 30s, 3600s}) {
        const Listener server;
        auto winner = connect_any(std::array{server.address}, Deadline::in(5s));
        ASSERT_TRUE(winner);
        const int fd = winner->socket.get();
        ASSERT_TRUE(prepare_for_kernel(fd, total));
        EXPECT_NE(option(fd, SOL_SOCKET, SO_KEEPALIVE), 0);
        EXPECT_EQ(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), total / 1ms);
        const int idle = option(fd, IPPROTO_TCP, TCP_KEEPIDLE);
        const int interval = option(fd, IPPROTO_TCP, TCP_KEEPINTVL);
        const int probes = option(fd, IPPROTO_TCP, TCP_KEEPCNT);
        EXPECT_GE(idle, 1);
        EXPECT_LE(idle + probes * interval, std::max(total.count(), 4l)) << total.count();
    }
}

TEST(PrepareForKernel, takes_forever_as_the_longest_there_is_and_zero_as_off) {
    for (const std::chrono::seconds total : {0s, std::chrono::seconds::max()}) {
        const Listener server;
        auto winner = connect_any(std::array{server.address}, Deadline::in(5s));
        ASSERT_TRUE(winner);
        ASSERT_TRUE(prepare_for_kernel(winner->socket.get(), total));
        EXPECT_EQ(option(winner->socket.get(), SOL_SOCKET, SO_KEEPALIVE) != 0, total > 0s);
    }
}

TEST(PrepareForKernel, leaves_unix_sockets_their_nature) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends.data()), 0);
    const Fd ours(ends[0]);
    const Fd theirs(ends[1]);
    EXPECT_TRUE(prepare_for_kernel(ours.get(), 30s));
    EXPECT_EQ(::fcntl(ours.get(), F_GETFL) & O_NONBLOCK, 0);
    EXPECT_FALSE(prepare_for_kernel(-1, 30s));
}

/// Sends without reading until nothing more fits; how much that was.
std::size_t fill(int fd) {
    std::array<char, 65536> chunk{};
    std::size_t total = 0;
    for (ssize_t count = 0; (count = ::send(fd, chunk.data(), chunk.size(), MSG_DONTWAIT)) > 0;)
        total += static_cast<std::size_t>(count);
    return total;
}

/// Reads until the end; how much came and how it ended: 0 or an errno.
std::pair<std::size_t, int> drain(int fd) {
    std::array<char, 65536> chunk{};
    std::size_t total = 0;
    for (;;) {
        const ssize_t count = ::recv(fd, chunk.data(), chunk.size(), 0);
        if (count <= 0) return {total, count == 0 ? 0 : errno};
        total += static_cast<std::size_t>(count);
    }
}

/// A connection whose other side has not read what fills it.
struct Clogged {
    Listener server;
    Fd ours = connected();
    Fd theirs{::accept(server.socket.get(), nullptr, nullptr)};
    std::size_t queued = fill(ours.get());

    Fd connected() const {
        auto winner = connect_any(std::array{server.address}, Deadline::in(5s));
        return winner ? std::move(winner->socket) : Fd();
    }
};

TEST(LetReaderFinish, waits_for_what_came_before_the_end) {
    Clogged link;
    ASSERT_EQ(::send(link.theirs.get(), "answer", 6, 0), 6);
    ::shutdown(link.theirs.get(), SHUT_WR);
    std::thread reader([&link] {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        std::array<char, 16> bytes{};
        EXPECT_EQ(::recv(link.ours.get(), bytes.data(), bytes.size(), 0), 6);
    });
    let_reader_finish(link.ours.get());
    int unread = -1;
    EXPECT_EQ(::ioctl(link.ours.get(), FIONREAD, &unread), 0);
    EXPECT_EQ(unread, 0);
    reader.join();
    abort_connection(link.ours.get());
}

TEST(AbortConnection, delivers_nothing_that_was_still_to_be_sent) {
    for (const bool shut_before : {false, true}) {
        Clogged link;
        if (shut_before) ::shutdown(link.ours.get(), SHUT_RDWR);  // as the driver does
        abort_connection(link.ours.get());
        const auto [received, end] = drain(link.theirs.get());
        EXPECT_LT(received, link.queued);
        EXPECT_EQ(end, ECONNRESET);
    }
}

TEST(AbortConnection, is_seen_on_the_other_descriptors) {
    Clogged link;
    const auto copy = duplicate(link.ours.get());
    ASSERT_TRUE(copy);
    abort_connection(copy->get());
    pollfd ours{link.ours.get(), POLLRDHUP, 0};
    ASSERT_EQ(::poll(&ours, 1, 5000), 1);
    EXPECT_NE(ours.revents & POLLHUP, 0);
}

TEST(AbortConnection, ends_unix_sockets) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
    const Fd ours(ends[0]);
    const Fd theirs(ends[1]);
    abort_connection(ours.get());
    EXPECT_EQ(drain(theirs.get()), std::pair(std::size_t{0}, 0));
}

TEST(ResetOnClose, drops_what_was_still_to_be_sent_unless_taken_back) {
    for (const bool taken_back : {false, true}) {
        Clogged link;
        reset_on_close(link.ours.get(), true);
        if (taken_back) reset_on_close(link.ours.get(), false);
        link.ours.reset();
        const auto [received, end] = drain(link.theirs.get());
        EXPECT_EQ(received == link.queued, taken_back);
        EXPECT_EQ(end, taken_back ? 0 : ECONNRESET);
    }
}

}  // namespace
}  // namespace nbd
