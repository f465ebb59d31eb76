// SPDX-License-Identifier: MIT
// A small proxy that breaks connections to order: cable, firewall and half-dead server in one.
//
//   cut_proxy LISTEN TARGET CONTROL
//
// LISTEN and TARGET are /PATH or IPV4:PORT; CONTROL is a FIFO that it makes. Each line read from it
// is answered by one line on stdout, `ok ...` or `bad ...`, once the order is carried out:
//
//   cut K       close the K-th live connection, counted from 1 in the order of arrival
//   cutall      close all of them
//   freeze      forward nothing, keep connections open and accept new ones: silence
//   thaw        forward again
//   refuse      stop listening
//   accept      listen again
//   delay MS    hold every piece of data for so long
//   count       say how many connections live

#include "tests/lab/tool.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <list>
#include <netinet/tcp.h>
#include <poll.h>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using lab::Address;
using lab::Descriptor;
using std::chrono::milliseconds;

void prepare(int fd) {
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));  // fails harmlessly on a unix socket
    fcntl(fd, F_SETFL, O_NONBLOCK);
}

// One direction of a connection: at most one piece of data waits, which is all the back-pressure
// needed.
class Flow {
public:
    // Returns false when the sender has ended and all it sent is delivered, or an end is broken.
    bool receive(int from, milliseconds delay) {
        buffer_.resize(256 * 1024);
        const ssize_t n = recv(from, buffer_.data(), buffer_.size(), 0);
        buffer_.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
        due_ = Clock::now() + delay;
        return n > 0 || (n < 0 && errno == EAGAIN);
    }
    bool deliver(int to) {
        const ssize_t n = send(to, buffer_.data(), buffer_.size(), MSG_NOSIGNAL);
        if (n > 0) buffer_.erase(buffer_.begin(), buffer_.begin() + n);
        return n > 0 || errno == EAGAIN;
    }
    bool empty() const { return buffer_.empty(); }
    Clock::time_point due() const { return due_; }

private:
    std::vector<char> buffer_;
    Clock::time_point due_;
};

struct Connection {
    Descriptor client;
    Descriptor server;  // dialled when first needed, so that a frozen proxy needs no server
    Flow to_server;
    Flow to_client;
};

class Proxy {
public:
    Proxy(const std::string& listen, const std::string& target, const std::string& control)
        : address_(listen), target_(target), listener_(address_.listen()), orders_(control) {}

    [[noreturn]] void run() {
        for (;;) {
            if (!frozen_) pump();
            std::vector<pollfd> waits{{orders_.fd(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
            const int timeout = gather(waits);
            if (poll(waits.data(), waits.size(), timeout) < 0 && errno != EINTR) lab::die("poll");
            if (waits[1].revents != 0) welcome();
            if (waits[0].revents != 0) read_orders();
        }
    }

private:
    // Adds what each connection waits for; returns poll's time-out, until the first delayed piece
    // is due.
    int gather(std::vector<pollfd>& waits) const {
        auto next = Clock::time_point::max();
        const auto now = Clock::now();
        const auto want = [&](const Flow& flow, int from, int to) {
            if (flow.empty())
                waits.push_back({from, POLLIN, 0});
            else if (flow.due() <= now)
                waits.push_back({to, POLLOUT, 0});
            else
                next = std::min(next, flow.due());
        };
        for (const Connection& c : connections_) {
            if (frozen_) break;
            want(c.to_server, c.client.get(), c.server.get());
            want(c.to_client, c.server.get(), c.client.get());
        }
        if (next == Clock::time_point::max()) return -1;
        return static_cast<int>(std::chrono::ceil<milliseconds>(next - now).count());
    }

    // Every descriptor is non-blocking, so trying is as good as asking poll who was ready.
    bool move(Flow& flow, int from, int to) const {
        if (flow.empty() && !flow.receive(from, delay_)) return false;
        return flow.empty() || flow.due() > Clock::now() || flow.deliver(to);
    }

    bool dial(Connection& c) const {
        if (!c.server && (c.server = target_.connect())) prepare(c.server.get());
        return static_cast<bool>(c.server);
    }

    void pump() {
        std::erase_if(connections_, [this](Connection& c) {
            return !dial(c) || !move(c.to_server, c.client.get(), c.server.get()) ||
                   !move(c.to_client, c.server.get(), c.client.get());
        });
    }

    void welcome() {
        Connection c;
        c.client = Descriptor(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!c.client) return;
        prepare(c.client.get());
        if (frozen_ || dial(c)) connections_.push_back(std::move(c));
    }

    void read_orders() {
        while (const auto order = orders_.take()) {
            const std::size_t space = std::min(order->find(' '), order->size());
            const auto argument =
                lab::number(std::string_view(*order).substr(std::min(space + 1, order->size())));
            const bool known = obey(order->substr(0, space), argument);
            const std::string answer =
                *order == "count" ? ' ' + std::to_string(connections_.size()) : "";
            lab::Orders::answer(known, *order + answer);
        }
    }

    bool obey(std::string_view order, std::optional<int> argument) {
        if (order == "cut" && argument && *argument >= 1 &&
            static_cast<std::size_t>(*argument) <= connections_.size())
            connections_.erase(std::next(connections_.begin(), *argument - 1));
        else if (order == "cutall")
            connections_.clear();
        else if (order == "freeze" || order == "thaw")
            frozen_ = order == "freeze";
        else if (order == "refuse") {
            listener_ = Descriptor();
            address_.forget();
        } else if (order == "accept")
            listener_ = listener_ ? std::move(listener_) : address_.listen();
        else if (order == "delay" && argument)
            delay_ = milliseconds(*argument);
        else
            return order == "count";
        return true;
    }

    Address address_;
    Address target_;
    Descriptor listener_;
    std::list<Connection> connections_;
    lab::Orders orders_;
    milliseconds delay_{0};
    bool frozen_ = false;
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) {
        std::fputs("usage: cut_proxy LISTEN TARGET CONTROL\n", stderr);
        return 2;
    }
    std::signal(SIGPIPE, SIG_IGN);
    Proxy(argv[1], argv[2], argv[3]).run();
}
