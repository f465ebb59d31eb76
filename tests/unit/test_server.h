// SPDX-License-Identifier: MIT
// A small NBD server in a thread: it shakes hands and then holds the connections without serving.
#pragma once

#include "client/base/bytes.h"
#include "client/base/fd.h"
#include "client/protocol/handshake.h"
#include "client/protocol/stream.h"
#include "client/protocol/uri.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/scripted_stream.h"

#include <arpa/inet.h>
#include <array>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <gtest/gtest.h>
#include <mutex>
#include <netinet/in.h>
#include <poll.h>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

namespace nbd {

inline std::uint16_t flag_bits(std::initializer_list<TransmissionFlag> flags) {
    unsigned bits = static_cast<unsigned>(TransmissionFlag::has_flags);
    for (const TransmissionFlag flag : flags) bits |= static_cast<unsigned>(flag);
    return static_cast<std::uint16_t>(bits);
}

class TestServer {
public:
    /// On a free port of 127.0.0.1.
    TestServer() { start(); }
    /// On a unix socket.
    explicit TestServer(std::string path) : path_(std::move(path)) { start(); }
    TestServer(const TestServer&) = delete;
    TestServer& operator=(const TestServer&) = delete;
    ~TestServer() { stop(); }

    // What it is like; may change at any time.

    void set_export(const ExportInfo& info) {
        const std::lock_guard lock(mutex_);
        export_ = info;
    }
    /// For the next connection only; several: for those after it.
    void set_next_export(const ExportInfo& info) {
        const std::lock_guard lock(mutex_);
        next_exports_.push_back(info);
    }
    void set_names(std::vector<std::string> names) {
        const std::lock_guard lock(mutex_);
        names_ = std::move(names);
    }
    void know_only_export_name() {
        const std::lock_guard lock(mutex_);
        knows_go_ = false;
    }
    /// Takes connections and says nothing.
    void go_mute(bool mute = true) {
        const std::lock_guard lock(mutex_);
        mute_ = mute;
    }

    // Where it is.

    Target target(const std::string& export_name = "disk") const {
        if (!path_.empty()) return {UnixEndpoint{path_}, export_name};
        return {TcpEndpoint{"127.0.0.1", std::to_string(port_)}, export_name};
    }
    /// As connections name it.
    std::string address() const {
        return path_.empty() ? "127.0.0.1:" + std::to_string(port_) : "unix:" + path_;
    }

    // What has happened.

    /// Connections taken, with or without a handshake.
    std::size_t accepted() const {
        const std::lock_guard lock(mutex_);
        return accepted_;
    }
    /// False when fewer than `count` connections have been taken after five seconds.
    bool wait_for_accepted(std::size_t count) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, std::chrono::seconds(5), [&] { return accepted_ >= count; });
    }

    /// The same for connections in their transmission phase, now.
    bool wait_for_serving(std::size_t count) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, std::chrono::seconds(5),
                                 [&] { return serving_.size() >= count; });
    }

    // What happens to it.

    /// Ends one connection in its transmission phase, or all of them.
    void cut(std::size_t number) {
        const std::lock_guard lock(mutex_);
        ASSERT_LT(number, serving_.size());
        serving_.erase(serving_.begin() + static_cast<std::ptrdiff_t>(number));
    }
    void cut_all() {
        const std::lock_guard lock(mutex_);
        serving_.clear();
    }
    /// As a killed process: address and connections go.
    void stop() {
        if (!thread_.joinable()) return;
        stop_.ring();
        thread_.join();
        stop_.silence();
        listener_.reset();
        if (!path_.empty()) ::unlink(path_.c_str());
        silent_.clear();
        cut_all();
    }
    /// Again on the address it had.
    void start() {
        path_.empty() ? listen_on_port() : listen_on_path();
        thread_ = std::thread([this] { run(); });
    }

private:
    void listen_on_port() {
        listener_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const int on = 1;
        ::setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port_);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t length = sizeof address;
        auto* const generic = reinterpret_cast<sockaddr*>(&address);
        ASSERT_EQ(::bind(listener_.get(), generic, length), 0) << errno_text(errno);
        ASSERT_EQ(::listen(listener_.get(), 64), 0);
        ASSERT_EQ(::getsockname(listener_.get(), generic, &length), 0);
        port_ = ntohs(address.sin_port);
    }

    void listen_on_path() {
        listener_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        ASSERT_LT(path_.size(), sizeof address.sun_path);
        path_.copy(static_cast<char*>(address.sun_path), path_.size());
        ASSERT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address),
                  0);
        ASSERT_EQ(::listen(listener_.get(), 64), 0);
    }

    void run() {
        for (;;) {
            std::array<pollfd, 2> fds = {pollfd{listener_.get(), POLLIN, 0},
                                         pollfd{stop_.fd(), POLLIN, 0}};
            if (::poll(fds.data(), fds.size(), -1) < 0) continue;
            if (fds[1].revents != 0) return;
            Fd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
            if (!client) continue;
            bool mute = false;
            {
                const std::lock_guard lock(mutex_);
                ++accepted_;
                mute = mute_;
                changed_.notify_all();
            }
            const bool serves = !mute && shake(client.get());
            if (mute) silent_.push_back(std::move(client));
            if (!serves) continue;
            const std::lock_guard lock(mutex_);
            serving_.push_back(std::move(client));
            changed_.notify_all();
        }
    }

    struct Asked {
        std::uint32_t option = 0;
        std::string data;
    };

    Result<std::string> receive(SocketStream& stream, std::size_t count) const {
        std::vector<std::byte> bytes(count);
        TRY(stream.read_exactly(bytes, deadline()));
        return Reader(bytes).rest_as_text();
    }
    void send(SocketStream& stream, const std::string& bytes) const {
        // A client that has gone is not our failure.
        static_cast<void>(stream.write_all(std::as_bytes(std::span(bytes)), deadline()));
    }
    Deadline deadline() const { return Deadline::in(std::chrono::seconds(5), stop_.fd()); }

    Result<Asked> next_option(SocketStream& stream) const {
        const std::string header = TRY(receive(stream, 16));
        Reader reader(std::as_bytes(std::span(header)));
        reader.text(8);
        Asked asked;
        asked.option = reader.integer<std::uint32_t>();
        asked.data = TRY(receive(stream, reader.integer<std::uint32_t>()));
        return asked;
    }

    static std::string description_of(const ExportInfo& info, std::uint32_t option) {
        std::string text =
            script::reply(option, script::rep_info, script::info_export(info.size, info.flags));
        if (info.block_sizes)
            text += script::reply(option, script::rep_info,
                                  script::info_item(3, script::numbers(info.block_sizes->minimum,
                                                                       info.block_sizes->preferred,
                                                                       info.block_sizes->maximum)));
        return text + script::reply(option, script::rep_ack);
    }

    std::string list() const {
        std::string text;
        for (const std::string& name : names_)
            text += script::reply(script::opt_list, script::rep_server, script::listed(name));
        return text + script::reply(script::opt_list, script::rep_ack);
    }

    ExportInfo take_export() {
        const std::lock_guard lock(mutex_);
        if (next_exports_.empty()) return export_;
        ExportInfo info = next_exports_.front();
        next_exports_.pop_front();
        return info;
    }

    bool knows(const std::string& name) const {
        return std::find(names_.begin(), names_.end(), name) != names_.end();
    }

    /// True when the connection has entered the transmission phase.
    bool shake(int client) {
        SocketStream stream(client);
        send(stream, script::greeting(3));
        const auto client_flags = receive(stream, 4);
        if (!client_flags) return false;
        const bool zeroes = (client_flags->back() & 2) == 0;
        const ExportInfo info = take_export();
        while (const auto asked = next_option(stream)) {
            const std::lock_guard lock(mutex_);
            const std::uint32_t option = asked->option;
            const bool by_go = option == script::opt_go || option == script::opt_info;
            if (option == script::opt_export_name) {
                if (!knows(asked->data)) return false;
                send(stream,
                     script::numbers(info.size, info.flags) + script::zeroes(zeroes ? 124 : 0));
                return true;
            }
            if (option == script::opt_list) {
                send(stream, list());
            } else if (by_go && knows_go_) {
                Reader reader(std::as_bytes(std::span(asked->data)));
                if (!knows(reader.text(reader.integer<std::uint32_t>()))) {
                    send(stream, script::reply(option, script::err + 6));
                    continue;
                }
                send(stream, description_of(info, option));
                if (option == script::opt_go) return true;
            } else if (option == script::opt_abort) {
                send(stream, script::reply(option, script::rep_ack));
                return false;
            } else {
                send(stream, script::reply(option, script::err + 1));
            }
        }
        return false;
    }

    std::string path_;
    std::uint16_t port_ = 0;
    Fd listener_;
    Bell stop_;

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    ExportInfo export_{
        .name = "disk",
        .description = "",
        .size = 1 << 20,
        .flags = flag_bits({TransmissionFlag::send_flush, TransmissionFlag::can_multi_conn})};
    std::deque<ExportInfo> next_exports_;
    std::vector<std::string> names_{"disk"};
    bool knows_go_ = true;
    bool mute_ = false;
    std::size_t accepted_ = 0;
    std::vector<Fd> serving_;
    std::vector<Fd> silent_;
    std::thread thread_;
};

}  // namespace nbd
