// SPDX-License-Identifier: MIT
// The relay: carries a device's bytes between TLS and the kernel where that cannot do TLS itself.
#include "client/protocol/relay.h"

#include "client/base/deadline.h"
#include "client/protocol/connect.h"
#include "client/protocol/wire.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <fcntl.h>
#include <linux/sockios.h>
#include <memory>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <span>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <vector>

namespace nbd {

namespace {

using namespace std::chrono_literals;

constexpr std::size_t capacity = 256 * 1024;
/// What OpenSSL takes from the socket at once: several records.
constexpr std::size_t read_ahead = 128 * 1024;
/// The same encrypted, in records of up to 16 KiB with at most 29 bytes each for themselves.
constexpr std::size_t sealed_capacity = capacity + capacity / 256;
constexpr auto goodbye_limit = 100ms;
constexpr std::size_t goodbye_size = 28;

/// Bytes on their way in one direction; taken in only when all before have gone, which is what
/// keeps a fast side from running away.
class Buffer {
public:
    Buffer() : bytes_(capacity) {}
    bool empty() const { return begin_ == end_; }
    std::span<const std::byte> content() const {
        return std::span(bytes_).subspan(begin_, end_ - begin_);
    }
    std::span<std::byte> room() { return std::span(bytes_).subspan(end_); }
    void add(std::size_t count) { end_ += count; }
    void drop(std::size_t count) {
        begin_ += count;
        if (begin_ == end_) begin_ = end_ = 0;
    }
    void clear() { begin_ = end_ = 0; }

private:
    std::vector<std::byte> bytes_;
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
};

class Relay {
public:
    Relay(SSL* session, int server, int plain, std::uint64_t renew_after)
        : session_(session), server_(server), plain_(plain), renew_after_(renew_after) {
        ::fcntl(server, F_SETFL, ::fcntl(server, F_GETFL) | O_NONBLOCK);
        // However we end, even by a signal.
        reset_on_close(server, true);
        SSL_set_mode(session, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        SSL_free_buffers(session);
        SSL_set_default_read_buffer_len(session, read_ahead);
        SSL_set_read_ahead(session, 1);
        SSL_alloc_buffers(session);
        seal_into_memory();
    }

    void run() {
        while (!server_ended_ || !replies_.empty()) {
            if (!wait()) return say_goodbye();
            take_requests();
            while (unsent() && !kernel_left() && send_sealed()) {
            }
            take_replies();
            give_replies();
        }
    }

private:
    /// Records are collected: each system call for itself would cost more than encrypting them.
    void seal_into_memory() {
        BIO* sessions = nullptr;
        BIO* ours = nullptr;
        server_ended_ = BIO_new_bio_pair(&sessions, sealed_capacity, &ours, 1) != 1;
        if (server_ended_) return;
        SSL_set0_wbio(session_, sessions);
        sealed_.reset(ours);
    }

    /// False once the kernel has left.
    bool wait() {
        const short from_server = static_cast<short>(
            (replies_.empty() && !server_ended_ ? receive_needs_ : 0) | (unsent() ? POLLOUT : 0));
        const short from_kernel = static_cast<short>(POLLRDHUP | (wants_requests() ? POLLIN : 0) |
                                                     (replies_.empty() ? 0 : POLLOUT));
        // A socket of which nothing is wanted would still tell of its end, again and again.
        std::array<pollfd, 2> fds = {pollfd{plain_, from_kernel, 0},
                                     pollfd{from_server == 0 ? -1 : server_, from_server, 0}};
        ::poll(fds.data(), fds.size(), more_replies_ && replies_.empty() ? 0 : -1);
        return (fds[0].revents & (POLLRDHUP | POLLHUP | POLLERR)) == 0;
    }

    /// Also when it was the driver's timer, or the watchdog, that shut the kernel's end. Looked at
    /// before each sending: we may have been stopped for any time.
    bool kernel_left() const {
        pollfd entry{plain_, POLLRDHUP, 0};
        return ::poll(&entry, 1, 0) > 0;
    }

    bool unsent() const {
        return !server_deaf_ && (!requests_.empty() || BIO_ctrl_pending(sealed_.get()) > 0);
    }
    bool wants_requests() const { return !server_deaf_ && !unsent(); }

    void take_requests() {
        if (wants_requests()) receive_requests();
    }

    bool receive_requests() {
        const auto room = requests_.room();
        if (room.empty()) return false;
        const ssize_t count = ::recv(plain_, room.data(), room.size(), MSG_DONTWAIT);
        if (count <= 0) return false;
        const auto got = room.first(static_cast<std::size_t>(count));
        const auto kept = got.last(std::min(got.size(), last_.size()));
        std::shift_left(last_.begin(), last_.end(), static_cast<std::ptrdiff_t>(kept.size()));
        std::ranges::copy(kept, last_.end() - static_cast<std::ptrdiff_t>(kept.size()));
        requests_.add(got.size());
        return true;
    }

    /// Encrypts what there is room for.
    void seal() {
        while (!requests_.empty()) {
            ERR_clear_error();
            std::size_t count = 0;
            const auto content = requests_.content();
            const int done = SSL_write_ex(session_, content.data(), content.size(), &count);
            if (done != 1) {
                if (SSL_get_error(session_, done) != SSL_ERROR_WANT_WRITE) stop_sending();
                return;
            }
            requests_.drop(count);
            renew_key();
        }
    }

    /// The server may still have said something before.
    void stop_sending() {
        server_deaf_ = true;
        requests_.clear();
    }

    /// False when the socket takes no more.
    bool send_sealed() {
        seal();
        char* records = nullptr;
        const int size = BIO_nread0(sealed_.get(), &records);
        if (size <= 0 || server_deaf_) return false;
        const ssize_t count =
            ::send(server_, records, static_cast<std::size_t>(size), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count < 0 && errno != EAGAIN) stop_sending();
        if (count <= 0) return false;
        BIO_nread(sealed_.get(), &records, static_cast<int>(count));
        return true;
    }

    void renew_key() {
        if (++sent_records_ % renew_after_ == 0 && SSL_version(session_) == TLS1_3_VERSION)
            SSL_key_update(session_, SSL_KEY_UPDATE_NOT_REQUESTED);
    }

    void take_replies() {
        if (!replies_.empty() || server_ended_) return;
        more_replies_ = false;
        while (!replies_.room().empty()) {
            ERR_clear_error();
            std::size_t count = 0;
            const auto room = replies_.room();
            const int done = SSL_read_ex(session_, room.data(), room.size(), &count);
            if (done != 1) {
                const int state = SSL_get_error(session_, done);
                receive_needs_ = state == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN;
                server_ended_ = state != SSL_ERROR_WANT_READ && state != SSL_ERROR_WANT_WRITE;
                return;
            }
            receive_needs_ = POLLIN;
            replies_.add(count);
            // poll() tells of what is in the socket, not of what OpenSSL has taken from it.
            if (SSL_has_pending(session_) == 0) return;
        }
        more_replies_ = true;
    }

    void give_replies() {
        while (!replies_.empty()) {
            const auto content = replies_.content();
            const ssize_t count =
                ::send(plain_, content.data(), content.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
            if (count <= 0) return;
            replies_.drop(static_cast<std::size_t>(count));
        }
    }

    void say_goodbye() {
        while (!server_deaf_ && receive_requests()) {
        }
        const Writer disconnect = encode_disconnect();
        if (requests_.content().size() > goodbye_size || BIO_ctrl_pending(sealed_.get()) > 0 ||
            server_deaf_ || server_ended_ || !std::ranges::equal(last_, disconnect.bytes()))
            return;
        seal();
        ERR_clear_error();
        SSL_shutdown(session_);
        const Deadline deadline = Deadline::in(goodbye_limit);
        while (unsent())
            if (!send_sealed() && (server_deaf_ || !wait_for(server_, POLLOUT, deadline))) return;
        for (int left = 1; ::ioctl(server_, SIOCOUTQ, &left) == 0 && left > 0;)
            if (deadline.expired() || !pause_until(deadline.at_most(1ms))) return;
        reset_on_close(server_, false);
    }

    struct FreeBio {
        void operator()(BIO* bio) const { BIO_free(bio); }
    };

    SSL* session_;
    std::unique_ptr<BIO, FreeBio> sealed_;  ///< our end of where the session writes
    int server_;
    int plain_;
    std::uint64_t renew_after_;
    Buffer requests_;
    Buffer replies_;
    std::array<std::byte, goodbye_size> last_{};  ///< of what the kernel has sent
    std::uint64_t sent_records_ = 0;
    short receive_needs_ = POLLIN;
    bool more_replies_ = true;  ///< OpenSSL may hold some that no poll() tells of
    bool server_deaf_ = false;  ///< it takes nothing any more
    bool server_ended_ = false;
};

}  // namespace

void run_relay(ssl_st* session, int server, int plain, std::uint64_t renew_after) {
    Relay(session, server, plain, renew_after).run();
}

}  // namespace nbd
