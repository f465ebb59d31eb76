// SPDX-License-Identifier: MIT
// What the lab's servers share: descriptors, addresses, and orders that come through a FIFO.
#pragma once

#include <arpa/inet.h>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <netinet/in.h>
#include <optional>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <utility>

namespace lab {

[[noreturn]] inline void die(const std::string& what) {
    std::fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what.c_str(),
                 std::strerror(errno));
    std::exit(1);
}

class Descriptor {
public:
    explicit Descriptor(int fd = -1) : fd_(fd) {}
    ~Descriptor() {
        if (fd_ >= 0) close(fd_);
    }
    Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }

private:
    int fd_;
};

inline std::optional<int> number(std::string_view text) {
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
    return value;
}

// /PATH or IPV4:PORT, as the socket calls want it.
class Address {
public:
    explicit Address(const std::string& text) : text_(text) {
        if (text.starts_with('/')) {
            auto* unix_address = reinterpret_cast<sockaddr_un*>(&storage_);
            unix_address->sun_family = AF_UNIX;
            text.copy(unix_address->sun_path, sizeof(unix_address->sun_path) - 1);
            length_ = sizeof(sockaddr_un);
            return;
        }
        auto* inet_address = reinterpret_cast<sockaddr_in*>(&storage_);
        const std::size_t colon = text.rfind(':');
        const auto port = number(std::string_view(text).substr(colon + 1));
        inet_address->sin_family = AF_INET;
        if (colon == std::string::npos || !port ||
            inet_pton(AF_INET, text.substr(0, colon).c_str(), &inet_address->sin_addr) != 1) {
            errno = EINVAL;
            die(text);
        }
        inet_address->sin_port = htons(static_cast<std::uint16_t>(*port));
        length_ = sizeof(sockaddr_in);
    }

    Descriptor listen() const {
        Descriptor fd(socket(storage_.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const int on = 1;
        setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        forget();
        if (bind(fd.get(), get(), length_) < 0 || ::listen(fd.get(), 64) < 0)
            die("cannot listen on " + text_);
        return fd;
    }

    // Takes the name of a unix socket away, so that dialling it fails at once.
    void forget() const {
        if (storage_.ss_family == AF_UNIX) unlink(text_.c_str());
    }

    Descriptor connect() const {  // empty when nobody answers; local, so it never takes long
        Descriptor fd(socket(storage_.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
        return ::connect(fd.get(), get(), length_) == 0 ? std::move(fd) : Descriptor();
    }

private:
    const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage_); }

    std::string text_;
    sockaddr_storage storage_{};
    socklen_t length_ = 0;
};

// A FIFO of our own making, from which each line is an order; each is answered by a line on stdout,
// `ok ...` or `bad ...`, once it is carried out.
class Orders {
public:
    Orders() = default;  // none ever come
    explicit Orders(const std::string& path) {
        unlink(path.c_str());
        if (mkfifo(path.c_str(), 0600) < 0) die("cannot make " + path);
        // RDWR: no end of file
        fifo_ = Descriptor(open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
        if (!fifo_) die("cannot open " + path);
    }

    int fd() const { return fifo_.get(); }

    // The next whole line, without waiting for it.
    std::optional<std::string> take() {
        char buffer[512];
        const ssize_t n = read(fifo_.get(), buffer, sizeof(buffer));
        pending_.append(buffer, n > 0 ? static_cast<std::size_t>(n) : 0);
        const std::size_t end = pending_.find('\n');
        if (end == std::string::npos) return std::nullopt;
        std::string order = pending_.substr(0, end);
        pending_.erase(0, end + 1);
        return order;
    }

    static void answer(bool done, const std::string& text) {
        std::printf("%s %s\n", done ? "ok" : "bad", text.c_str());
        std::fflush(stdout);
    }

private:
    Descriptor fifo_;
    std::string pending_;
};

}  // namespace lab
