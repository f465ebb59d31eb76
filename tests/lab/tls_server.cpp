// SPDX-License-Identifier: MIT
// An NBD server that speaks TLS in odd ways and commits faults to order.
//
//   tls_server LISTEN FILE PAIR [NAME=VALUE...]
//
// LISTEN is /PATH or IPV4:PORT, FILE what every export name means, PAIR.pem and PAIR.key are the
// certificate and its key. NAME is
//
//   orders     a FIFO that it makes: a fault read from it is committed on each connection that has
//              an export open; the answer tells on how many, once they have: `ok FAULT COUNT`
//   at-option  a fault that each connection commits before its first answer inside TLS
//   version    1.2 or 1.3: the only one          ciphers   of TLS 1.2 or of 1.3, OpenSSL's names
//   tickets    after the handshake (2)           record    most bytes of data in a record (16384)
//   flush      how many milliseconds a flush takes
//   padding    to which multiples of bytes TLS 1.3 fills records up (0: none)
//
// and a fault
//
//   key-update, key-update-requested   new keys for what is sent; and the client shall do the same
//   ticket                             a session ticket
//   alert, close-notify                the end of TLS, in anger or politely; TCP stays open
//   corrupt                            a record with a wrong bit
//   fin, rst                           the end of TCP without a word in TLS

#include "tests/lab/nbd_service.h"
#include "tests/lab/tool.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <span>
#include <sys/eventfd.h>
#include <thread>
#include <vector>

namespace {

using namespace std::chrono_literals;
using lab::Descriptor;

constexpr std::size_t smallest_fragment = 512;  // of OpenSSL; smaller ones are several writes
constexpr std::size_t largest_fragment = 16384;

using Settings = std::map<std::string, std::string, std::less<>>;

struct FreeSession {
    void operator()(SSL* session) const { SSL_free(session); }
};

class Connection final : lab::Carrier {
public:
    Connection(SSL_CTX* context, Descriptor socket, const lab::Disk& disk, std::size_t record,
               std::string at_option)
        : session_(SSL_new(context)),
          socket_(std::move(socket)),
          service_(*this, disk),
          record_(record),
          at_option_(std::move(at_option)),
          thread_([this] { run(); }) {}

    bool ended() const { return ended_; }

    // From another thread: true once the fault is committed.
    bool order(const std::string& fault) {
        std::unique_lock lock(mutex_);
        if (!open_) return false;
        ordered_ = fault;
        eventfd_write(bell_.get(), 1);
        return answered_.wait_for(lock, 10s, [this] { return !open_ || ordered_.empty(); }) &&
               committed_;
    }

private:
    void run() {
        // Bounds each step of a handshake and each record, not the pauses between requests.
        const timeval patience{10, 0};
        setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        setsockopt(socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
        const int on = 1;
        setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        if (service_.negotiate()) {
            set_open(true);
            while (service_.serve_request()) {
            }
            set_open(false);
        }
        if (silent_) await_end();
        session_.reset();
        socket_ = Descriptor();
        ended_ = true;
    }

    void set_open(bool open) {
        const std::scoped_lock lock(mutex_);
        open_ = open;
        answered_.notify_all();
    }

    // The other side has to go first.
    void await_end() const {
        std::array<char, 4096> rest{};
        for (;;) {
            const ssize_t count = recv(socket_.get(), rest.data(), rest.size(), 0);
            if (count == 0 || (count < 0 && errno != EAGAIN)) return;
        }
    }

    // --- bytes, in the clear until both sides have shaken hands

    bool read(std::span<std::byte> buffer) override {
        if (!shaken_)
            return buffer.empty() || recv(socket_.get(), buffer.data(), buffer.size(),
                                          MSG_WAITALL) == static_cast<ssize_t>(buffer.size());
        while (!buffer.empty()) {
            if (!await_record()) return false;
            std::size_t count = 0;
            const int done = SSL_read_ex(session_.get(), buffer.data(), buffer.size(), &count);
            if (done != 1 && SSL_get_error(session_.get(), done) != SSL_ERROR_WANT_READ)
                return false;
            buffer = buffer.subspan(count);
        }
        return true;
    }

    bool write(std::span<const std::byte> bytes) override {
        if (!shaken_)
            return send(socket_.get(), bytes.data(), bytes.size(), 0) ==
                   static_cast<ssize_t>(bytes.size());
        while (!bytes.empty()) {
            const auto piece = bytes.first(std::min(bytes.size(), record_));
            std::size_t count = 0;
            if (SSL_write_ex(session_.get(), piece.data(), piece.size(), &count) != 1) return false;
            bytes = bytes.subspan(count);
        }
        return true;
    }

    bool start_tls() override {
        if (!session_ || SSL_set_fd(session_.get(), socket_.get()) != 1) return false;
        // Whoever waits for data must learn of orders after a record without any.
        SSL_clear_mode(session_.get(), SSL_MODE_AUTO_RETRY);
        shaken_ = SSL_accept(session_.get()) == 1;
        return shaken_;
    }

    bool before_answer() override {
        const std::string fault = std::exchange(at_option_, "");
        return fault.empty() || (commit(fault) && !silent_ && socket_);
    }

    // Commits what is ordered meanwhile, even in the midst of a request.
    bool await_record() {
        while (SSL_pending(session_.get()) == 0) {
            std::array<pollfd, 2> fds = {pollfd{bell_.get(), POLLIN, 0},
                                         pollfd{socket_.get(), POLLIN, 0}};
            poll(fds.data(), fds.size(), -1);
            if (fds[0].revents == 0) return true;
            if (!obey()) return false;
        }
        return true;
    }

    bool obey() {
        const std::scoped_lock lock(mutex_);
        eventfd_t rung = 0;
        eventfd_read(bell_.get(), &rung);
        committed_ = commit(ordered_);
        ordered_.clear();
        answered_.notify_all();
        return !silent_ && socket_;
    }

    // --- faults

    // Afterwards the connection may have nothing more to say, or not be there at all.
    bool commit(std::string_view fault) {
        SSL* const session = session_.get();
        ERR_clear_error();
        if (fault == "key-update" || fault == "key-update-requested")
            return SSL_key_update(session, fault == "key-update" ? SSL_KEY_UPDATE_NOT_REQUESTED
                                                                 : SSL_KEY_UPDATE_REQUESTED) == 1 &&
                   SSL_do_handshake(session) == 1;
        if (fault == "ticket")
            return SSL_new_session_ticket(session) == 1 && SSL_do_handshake(session) == 1;
        if (fault == "corrupt") return send_corrupt_record();
        if (fault == "rst") {
            const linger at_once{1, 0};
            setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
            socket_ = Descriptor();
            return true;
        }
        silent_ = true;
        if (fault == "fin") return shutdown(socket_.get(), SHUT_WR) == 0;
        if (fault == "close-notify") return SSL_shutdown(session) >= 0;
        return fault == "alert" && send_fatal_alert();
    }

    // OpenSSL is made to believe that the client sent nonsense.
    bool send_fatal_alert() {
        constexpr std::array<unsigned char, 5 + 32> nonsense = {23, 3, 3, 0, 32};
        SSL_set0_rbio(session_.get(), BIO_new_mem_buf(nonsense.data(), nonsense.size()));
        char byte = 0;
        const int done = SSL_read(session_.get(), &byte, 1);
        return SSL_get_error(session_.get(), done) == SSL_ERROR_SSL;
    }

    bool send_corrupt_record() {
        BIO* const memory = BIO_new(BIO_s_mem());
        SSL_set0_wbio(session_.get(), memory);
        const bool written = SSL_write(session_.get(), "fault", 5) == 5;
        char* record = nullptr;
        const auto size = static_cast<std::size_t>(BIO_get_mem_data(memory, &record));
        bool sent = false;
        if (written && size > 0) {
            record[size - 1] ^= 1;
            sent = send(socket_.get(), record, size, 0) == static_cast<ssize_t>(size);
        }
        SSL_set0_wbio(session_.get(), BIO_new_socket(socket_.get(), BIO_NOCLOSE));
        return sent;
    }

    std::unique_ptr<SSL, FreeSession> session_;
    Descriptor socket_;
    lab::NbdService service_;
    std::size_t record_;
    std::string at_option_;
    bool shaken_ = false;
    bool silent_ = false;  // nothing more is sent or answered

    Descriptor bell_{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    std::mutex mutex_;
    std::condition_variable answered_;
    bool open_ = false;
    std::string ordered_;
    bool committed_ = false;
    std::atomic<bool> ended_ = false;
    std::jthread thread_;  // last: it uses all of the above
};

constexpr std::array<std::string_view, 8> faults = {
    "key-update", "key-update-requested", "ticket", "alert", "close-notify", "corrupt", "fin",
    "rst"};
constexpr std::array<std::string_view, 8> names = {"orders",  "at-option", "version", "ciphers",
                                                   "tickets", "record",    "padding", "flush"};

class Server {
public:
    Server(const std::string& listen, const std::string& file, const std::string& pair,
           Settings settings)
        : settings_(std::move(settings)),
          context_(SSL_CTX_new(TLS_server_method())),
          file_(open(file.c_str(), O_RDWR | O_CLOEXEC)) {
        disk_ = {file_.get(), static_cast<std::uint64_t>(lseek(file_.get(), 0, SEEK_END)), {}};
        if (!file_) lab::die("cannot open " + file);
        record_ = number_of("record", largest_fragment);
        disk_.flush_time = std::chrono::milliseconds(number_of("flush", 0));
        if (!set_up(pair)) {
            ERR_print_errors_fp(stderr);
            std::exit(1);
        }
        if (settings_.contains("orders")) orders_ = lab::Orders(settings_["orders"]);
        listener_ = lab::Address(listen).listen();
    }

    [[noreturn]] void run() {
        for (;;) {
            std::array<pollfd, 2> fds = {pollfd{listener_.get(), POLLIN, 0},
                                         pollfd{orders_.fd(), POLLIN, 0}};
            poll(fds.data(), fds.size(), -1);
            if (fds[0].revents != 0) welcome();
            if (fds[1].revents != 0) take_orders();
        }
    }

private:
    std::size_t number_of(const std::string& name, std::size_t otherwise) {
        if (!settings_.contains(name)) return otherwise;
        const auto value = lab::number(settings_[name]);
        errno = EINVAL;
        if (!value || static_cast<std::size_t>(*value) > largest_fragment) lab::die(name);
        return static_cast<std::size_t>(*value);
    }

    bool set_up(const std::string& pair) {
        SSL_CTX* const context = context_.get();
        const std::string& ciphers = settings_["ciphers"];
        const auto set_ciphers =
            ciphers.starts_with("TLS_") ? SSL_CTX_set_ciphersuites : SSL_CTX_set_cipher_list;
        const std::string& version = settings_["version"];
        const int minimum = version == "1.3" ? TLS1_3_VERSION : TLS1_2_VERSION;
        const int maximum = version == "1.2" ? TLS1_2_VERSION : TLS1_3_VERSION;
        return context != nullptr && record_ > 0 &&
               SSL_CTX_use_certificate_file(context, (pair + ".pem").c_str(), SSL_FILETYPE_PEM) ==
                   1 &&
               SSL_CTX_use_PrivateKey_file(context, (pair + ".key").c_str(), SSL_FILETYPE_PEM) ==
                   1 &&
               SSL_CTX_set_min_proto_version(context, minimum) == 1 &&
               SSL_CTX_set_max_proto_version(context, maximum) == 1 &&
               (ciphers.empty() || set_ciphers(context, ciphers.c_str()) == 1) &&
               SSL_CTX_set_num_tickets(context, number_of("tickets", 2)) == 1 &&
               SSL_CTX_set_max_send_fragment(context, std::max(record_, smallest_fragment)) == 1 &&
               SSL_CTX_set_block_padding(context, number_of("padding", 0)) == 1;
    }

    void welcome() {
        connections_.remove_if([](const Connection& connection) { return connection.ended(); });
        Descriptor socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (socket)
            connections_.emplace_back(context_.get(), std::move(socket), disk_, record_,
                                      settings_["at-option"]);
    }

    void take_orders() {
        while (const auto fault = orders_.take()) {
            const auto count =
                std::ranges::find(faults, *fault) == faults.end()
                    ? 0
                    : std::ranges::count_if(connections_, [&](Connection& connection) {
                          return connection.order(*fault);
                      });
            lab::Orders::answer(count > 0, *fault + ' ' + std::to_string(count));
        }
    }

    struct FreeContext {
        void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
    };

    Settings settings_;
    std::unique_ptr<SSL_CTX, FreeContext> context_;
    Descriptor file_;
    lab::Disk disk_{};
    std::size_t record_ = 0;
    lab::Orders orders_;
    Descriptor listener_;
    std::list<Connection> connections_;
};

}  // namespace

int main(int argc, char** argv) {
    Settings settings;
    bool right = argc >= 4;
    for (int i = 4; i < argc; ++i) {
        const std::string_view argument = argv[i];
        const std::size_t end = std::min(argument.find('='), argument.size());
        const std::string_view name = argument.substr(0, end);
        right = right && end < argument.size() && std::ranges::find(names, name) != names.end();
        if (right) settings.emplace(name, argument.substr(end + 1));
    }
    if (!right) {
        std::fputs("usage: tls_server LISTEN FILE PAIR [NAME=VALUE...]\n", stderr);
        return 2;
    }
    std::signal(SIGPIPE, SIG_IGN);
    Server(argv[1], argv[2], argv[3], std::move(settings)).run();
}
