// SPDX-License-Identifier: MIT
// The relay between a real TLS server and both ends of a pair: bytes, pressure, ends, new keys.
#include "client/protocol/relay.h"

#include "client/protocol/connect.h"
#include "client/protocol/tls.h"
#include "client/protocol/wire.h"
#include "tests/unit/tls_server.h"

#include <chrono>
#include <functional>
#include <future>
#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <poll.h>
#include <random>
#include <sys/ioctl.h>
#include <vector>

namespace nbd {
namespace {

using namespace std::chrono_literals;

Deadline soon() {
    return Deadline::in(30s);
}

const Identity& store() {
    static const Identity it("store", "IP:127.0.0.1");
    return it;
}

std::string goodbye() {
    const Writer writer = encode_disconnect();
    return Reader(writer.bytes()).rest_as_text();
}

/// Reproducible bytes, different at each place.
class Pattern {
public:
    void fill(std::span<unsigned char> bytes) {
        for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(next());
    }
    bool matches(std::span<const unsigned char> bytes) {
        for (const unsigned char byte : bytes)
            if (byte != static_cast<unsigned char>(next())) return false;
        return true;
    }

private:
    std::uint64_t next() {
        return (state_ = state_ * 6364136223846793005U + 1442695040888963407U) >> 56;
    }
    std::uint64_t state_ = 1;
};

/// A connection past its handshake, with a relay in a thread.
class RelayTest : public testing::Test {
protected:
    ~RelayTest() override {
        plain_.reset();
        if (relay_.joinable()) relay_.join();
    }

    void start(TlsServerSettings settings, std::uint64_t renew_after = records_per_key) {
        settings.identity = &store();
        server_ = std::make_unique<TlsServer>(std::move(settings));
        auto context = client_context({.hostname = "127.0.0.1"}, &store());
        ASSERT_TRUE(context);
        context_ = *std::move(context);
        socket_ = server_->connect();
        SocketStream stream(socket_.get());
        std::array<std::byte, 18> greeting{};
        ASSERT_TRUE(stream.read_exactly(greeting, soon()));
        const std::string hello = script::client_flags(3) + script::option(5);
        ASSERT_TRUE(stream.write_all(std::as_bytes(std::span(hello)), soon()));
        std::array<std::byte, 20> acknowledgement{};
        ASSERT_TRUE(stream.read_exactly(acknowledgement, soon()));
        auto tls = TlsStream::connect(*context_, socket_.get(), "store", soon());
        ASSERT_TRUE(tls) << tls.error().what;
        tls_ = *std::move(tls);
        const std::string go = script::info_option(script::opt_go, "disk");
        ASSERT_TRUE(tls_->write_all(std::as_bytes(std::span(go)), soon()));
        std::array<std::byte, 20 + 12 + 20> reply{};
        ASSERT_TRUE(tls_->read_exactly(reply, soon()));
        begin(renew_after);
    }

    void begin(std::uint64_t renew_after) {
        auto session = tls_->continue_over_socket(soon());
        ASSERT_TRUE(session) << session.error().what;
        int ends[2] = {};
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        plain_.reset(ends[0]);
        relay_ = std::thread([this, ssl = *session, end = ends[1], renew_after] {
            Fd ours(end);
            run_relay(ssl, socket_.get(), ours.get(), renew_after);
            ended_at_ = Clock::now();
            ended_ = true;
            tls_.reset();
            socket_.reset();
        });
    }

    bool say(const std::string& text) {
        return static_cast<bool>(
            SocketStream(plain_.get()).write_all(std::as_bytes(std::span(text)), soon()));
    }
    std::string hear(std::size_t count) {
        std::string text(count, '\0');
        auto read = SocketStream(plain_.get())
                        .read_exactly(std::as_writable_bytes(std::span(text)), soon());
        return read ? text : read.error().what;
    }

    std::unique_ptr<TlsServer> server_;
    std::unique_ptr<TlsContext> context_;
    Fd socket_;
    std::unique_ptr<TlsStream> tls_;
    Fd plain_;
    std::thread relay_;
    std::atomic<bool> ended_ = false;
    Clock::time_point ended_at_{};
};

/// Sends back what comes, in pieces of all sizes; `often` runs now and then.
void echo(SSL* ssl, const std::function<void(SSL*)>& often = {}) {
    std::minstd_rand random(7);
    std::vector<unsigned char> bytes(100'000);
    for (unsigned round = 0;; ++round) {
        std::size_t got = 0;
        if (SSL_read_ex(ssl, bytes.data(), 1 + random() % bytes.size(), &got) != 1) return;
        for (std::size_t at = 0; at < got;) {
            const std::size_t piece = std::min<std::size_t>(got - at, 1 + random() % 40'000);
            std::size_t written = 0;
            if (SSL_write_ex(ssl, bytes.data() + at, piece, &written) != 1) return;
            at += written;
        }
        if (often && round % 50 == 49) often(ssl);
    }
}

void echo_once(SSL* ssl) {
    std::array<unsigned char, 7> bytes{};
    std::size_t count = 0;
    SSL_read_ex(ssl, bytes.data(), bytes.size(), &count);
    SSL_write_ex(ssl, bytes.data(), count, &count);
}

void swap_much(int plain, std::size_t size) {
    std::thread writer([plain, size] {
        std::minstd_rand random(3);
        Pattern pattern;
        std::vector<unsigned char> bytes(300'000);
        for (std::size_t left = size; left > 0;) {
            const std::size_t piece = std::min<std::size_t>(left, 1 + random() % bytes.size());
            pattern.fill(std::span(bytes).first(piece));
            if (!SocketStream(plain).write_all(std::as_bytes(std::span(bytes).first(piece)),
                                               soon()))
                return;
            left -= piece;
        }
    });
    std::minstd_rand random(5);
    Pattern pattern;
    std::vector<unsigned char> bytes(300'000);
    bool right = true;
    for (std::size_t left = size; left > 0 && right;) {
        const auto piece =
            std::span(bytes).first(std::min<std::size_t>(left, 1 + random() % bytes.size()));
        right = SocketStream(plain).read_exactly(std::as_writable_bytes(piece), soon()) &&
                pattern.matches(piece);
        left -= piece.size();
    }
    EXPECT_TRUE(right);
    if (!right) ::shutdown(plain, SHUT_RDWR);
    writer.join();
}

TEST_F(RelayTest, CarriesMuchBothWaysAtOnce) {
    start({.after_go = [](SSL* ssl) { echo(ssl); }});
    swap_much(plain_.get(), 64 << 20);
}

TEST_F(RelayTest, BothVersionsAndEveryCipher) {
    for (const char* ciphers :
         {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256",
          "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"}) {
        start({.version = ciphers[0] == 'T' ? TLS1_3_VERSION : TLS1_2_VERSION,
               .ciphers = ciphers,
               .after_go = [](SSL* ssl) { echo(ssl); }});
        swap_much(plain_.get(), 2 << 20);
        plain_.reset();
        relay_.join();
        server_.reset();
    }
}

TEST_F(RelayTest, KeysChangeOnEitherSideInMidstream) {
    unsigned changes = 0;
    const auto change = [&changes](SSL* ssl) {
        SSL_key_update(
            ssl, ++changes % 2 == 0 ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED);
    };
    start({.version = TLS1_3_VERSION, .after_go = [change](SSL* ssl) { echo(ssl, change); }}, 100);
    swap_much(plain_.get(), 16 << 20);
    EXPECT_GT(changes, 2U);
}

TEST_F(RelayTest, WhatCameBeforeItBeganIsNotLost) {
    start({.after_go = [](SSL* ssl) {
        std::size_t written = 0;
        SSL_write_ex(ssl, "early", 5, &written);
        char byte = 0;
        SSL_read(ssl, &byte, 1);
    }});
    EXPECT_EQ(hear(5), "early");
}

TEST_F(RelayTest, ASlowServerHoldsTheKernelBack) {
    std::promise<void> go;
    const auto may = go.get_future().share();
    start({.after_go = [may](SSL* ssl) {
        may.wait();
        echo(ssl);
    }});
    // Nobody reads: it fills and stays full, and nothing turns in circles over it.
    std::vector<char> bytes(64 << 20);
    std::size_t taken = 0;
    for (int quiet = 0; quiet < 20;) {
        const ssize_t count =
            ::send(plain_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count > 0) taken += static_cast<std::size_t>(count);
        quiet = count > 0 ? 0 : quiet + 1;
        std::this_thread::sleep_for(5ms);
    }
    EXPECT_LT(taken, bytes.size());
    const std::clock_t before = std::clock();
    std::this_thread::sleep_for(300ms);
    EXPECT_LT(std::clock() - before, CLOCKS_PER_SEC / 20);
    go.set_value();
    EXPECT_EQ(hear(taken), std::string(taken, '\0'));
}

TEST_F(RelayTest, ASlowKernelHoldsTheServerBack) {
    constexpr std::size_t size = 16 << 20;
    std::atomic<std::size_t> sent = 0;
    start({.after_go = [&sent](SSL* ssl) {
        const std::string piece(1 << 16, 'x');
        for (std::size_t written = 0; sent < size; sent += written)
            if (SSL_write_ex(ssl, piece.data(), piece.size(), &written) != 1) return;
        SSL_shutdown(ssl);
    }});
    std::this_thread::sleep_for(300ms);
    EXPECT_LT(sent, size);
    const std::clock_t before = std::clock();
    std::this_thread::sleep_for(300ms);
    EXPECT_LT(std::clock() - before, CLOCKS_PER_SEC / 20);
    EXPECT_EQ(hear(size), std::string(size, 'x'));
    EXPECT_EQ(hear(1), "the connection was closed by the server");
}

TEST_F(RelayTest, WhatTheServerSaidLastIsDelivered) {
    for (const bool polite : {true, false}) {
        start({.after_go = [polite](SSL* ssl) {
            const std::string last(100'000, 'l');
            std::size_t written = 0;
            SSL_write_ex(ssl, last.data(), last.size(), &written);
            if (polite) SSL_shutdown(ssl);
        }});
        EXPECT_EQ(hear(100'000), std::string(100'000, 'l'));
        EXPECT_EQ(hear(1), "the connection was closed by the server");
        relay_.join();
        server_.reset();
    }
}

TEST_F(RelayTest, AnAlertEndsIt) {
    start({.after_go = [](SSL* ssl) {
        // Not a record that anybody could believe.
        ::send(SSL_get_fd(ssl), "\x17\x03\x03\x00\x20 this was never encrypted, really", 37, 0);
        char byte = 0;
        SSL_read(ssl, &byte, 1);
    }});
    EXPECT_EQ(hear(1), "the connection was closed by the server");
}

TEST_F(RelayTest, TheGoodbyeArrives) {
    std::promise<std::string> heard;
    std::promise<int> end;
    start({.after_go = [&](SSL* ssl) {
        echo_once(ssl);
        std::string words(goodbye().size(), '\0');
        std::size_t got = 0;
        for (std::size_t at = 0; at < words.size(); at += got)
            if (SSL_read_ex(ssl, words.data() + at, words.size() - at, &got) != 1) break;
        heard.set_value(words);
        char byte = 0;
        end.set_value(SSL_get_error(ssl, SSL_read(ssl, &byte, 1)));
    }});
    ASSERT_TRUE(say("request"));
    EXPECT_EQ(hear(7), "request");
    ASSERT_TRUE(say(goodbye()));
    plain_.reset();
    EXPECT_EQ(heard.get_future().get(), goodbye());
    EXPECT_EQ(end.get_future().get(), SSL_ERROR_ZERO_RETURN) << "TLS is ended as it should be";
}

/// What the server gets of a connection that is given up while it does not read.
class GivenUp : public RelayTest {
protected:
    /// More than all buffers take together.
    void say_too_much() {
        const std::string piece(1 << 16, 'w');
        for (int quiet = 0; quiet < 10;) {
            const ssize_t count =
                ::send(plain_.get(), piece.data(), piece.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
            quiet = count > 0 ? 0 : quiet + 1;
            if (count < 0) std::this_thread::sleep_for(5ms);
        }
    }

    /// The relay has taken all but a last one, and cannot pass on what it has.
    void say_goodbyes_until_one_is_left() {
        const int little = 1;
        ::setsockopt(socket_.get(), SOL_SOCKET, SO_SNDBUF, &little, sizeof little);
        for (int quiet = 0; quiet < 1000;) {
            int left = 0;
            ASSERT_EQ(::ioctl(plain_.get(), SIOCOUTQ, &left), 0);
            const bool full = !is_writable(socket_.get());
            quiet = full && left > 0 ? quiet + 1 : 0;
            if (left == 0) {
                ASSERT_TRUE(say(full ? goodbye() : std::string(4096, 'w')));
            }
            if (quiet > 0) std::this_thread::sleep_for(100us);
        }
    }

    static bool is_writable(int fd) {
        pollfd entry{fd, POLLOUT, 0};
        return ::poll(&entry, 1, 0) > 0;
    }

    void give_up_after(const std::function<void()>& last_words) {
        std::promise<void> gone;
        const auto has_gone = gone.get_future().share();
        std::promise<int> end;
        start({.after_go = [has_gone, &end](SSL* ssl) {
            has_gone.wait();
            std::array<char, 65536> bytes{};
            std::size_t got = 0;
            while (SSL_read_ex(ssl, bytes.data(), bytes.size(), &got) == 1) {
            }
            end.set_value(errno);
        }});
        last_words();
        const auto then = Clock::now();
        ::shutdown(plain_.get(), SHUT_RDWR);
        gone.set_value();
        relay_.join();
        EXPECT_LT(ended_at_ - then, 200ms);
        EXPECT_EQ(end.get_future().get(), ECONNRESET);
    }
};

TEST_F(GivenUp, NothingComesLate) {
    give_up_after([&] { say_too_much(); });
}

TEST_F(GivenUp, NotEvenIfTheDriverSaidGoodbyeBehindIt) {
    give_up_after([&] {
        say_too_much();
        ::send(plain_.get(), goodbye().data(), goodbye().size(), MSG_DONTWAIT);
    });
}

TEST_F(GivenUp, NotEvenIfOnlyTheGoodbyeIsStillToBeTaken) {
    give_up_after([&] { say_goodbyes_until_one_is_left(); });
}

TEST_F(RelayTest, WithoutAGoodbyeTheConnectionIsReset) {
    std::promise<int> end;
    start({.after_go = [&end](SSL* ssl) {
        std::array<char, 64> bytes{};
        std::size_t got = 0;
        while (SSL_read_ex(ssl, bytes.data(), bytes.size(), &got) == 1) {
        }
        end.set_value(errno);
    }});
    ASSERT_TRUE(say("a request"));
    plain_.reset();
    EXPECT_EQ(end.get_future().get(), ECONNRESET);
}

}  // namespace
}  // namespace nbd
