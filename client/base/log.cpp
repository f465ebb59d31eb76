// SPDX-License-Identifier: MIT
// One line per record to one sink, never blocking: the sink may be waiting for our own device.
#include "client/base/log.h"

#include "client/base/fd.h"
#include "client/base/text.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <fcntl.h>
#include <poll.h>
#include <string>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace nbd {
namespace {

constexpr std::string_view program = "nbd-client: ";

struct Sink {
    Level level = Level::warning;
    bool is_socket = false;  ///< stderr is; write() to it could block
    bool prioritised = false;
    Fd kmsg;  ///< instead of stderr
    std::atomic<std::uint64_t> dropped{0};
};

Sink& sink() {
    static Sink the_sink;
    return the_sink;
}

/// One record in a buffer smaller than PIPE_BUF, so that a pipe takes it whole or not at all.
class Line {
public:
    void append(std::string_view text) {
        const std::size_t room = bytes_.size() - 1 - length_;
        for (const char c : text.substr(0, room)) bytes_[length_++] = is_control(c) ? ' ' : c;
        if (text.size() > room) drop_broken_character();
    }
    std::string_view finish() {
        bytes_[length_++] = '\n';
        return {bytes_.data(), length_};
    }

private:
    static bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

    void drop_broken_character() {
        const auto continues = [](char c) {
            return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
        };
        while (length_ > 0 && continues(bytes_[length_ - 1])) --length_;
        if (length_ > 0 && static_cast<unsigned char>(bytes_[length_ - 1]) >= 0xc0) --length_;
    }

    std::array<char, 1024> bytes_;
    std::size_t length_ = 0;
};

/// The priority as syslog numbers it.
std::string_view priority(Level level) {
    constexpr std::array<std::string_view, 4> priorities{"<3>", "<4>", "<6>", "<7>"};
    return priorities[static_cast<std::size_t>(level)];
}

/// True when the sink took the bytes. O_NONBLOCK is not an option on stderr: it would hold for
/// every process that shares the terminal or pipe.
bool write_now(const Sink& to, std::string_view bytes) {
    if (to.kmsg) return write(to.kmsg.get(), bytes.data(), bytes.size()) >= 0;
    if (to.is_socket)
        return send(STDERR_FILENO, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
    pollfd waiting{.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
    if (poll(&waiting, 1, 0) != 1 || (waiting.revents & POLLOUT) == 0) return false;
    return write(STDERR_FILENO, bytes.data(), bytes.size()) >= 0;
}

bool write_line(const Sink& to, Level level, std::string_view lead, std::string_view text) {
    Line line;
    if (to.prioritised) line.append(priority(level));
    if (!to.prioritised || to.kmsg) line.append(lead);
    line.append(text);
    return write_now(to, line.finish());
}

void emit(Level level, std::string_view lead, std::string_view text) {
    Sink& to = sink();
    if (const std::uint64_t lost = to.dropped.exchange(0); lost != 0) {
        const std::string report = std::to_string(lost) + " log records were dropped";
        if (!write_line(to, Level::warning, program, report)) {
            to.dropped += lost + 1;
            return;
        }
    }
    if (!write_line(to, level, lead, text)) ++to.dropped;
}

/// systemd.exec(5): "device:inode" of the stream that leads to the journal.
bool stderr_is_journal(const struct stat& file) {
    const char* const value = secure_getenv("JOURNAL_STREAM");
    if (value == nullptr) return false;
    const auto parts = split(value, ':');
    return parts.size() == 2 && parse_decimal(parts[0]) == file.st_dev &&
           parse_decimal(parts[1]) == file.st_ino;
}

}  // namespace

void open_log(Level level, LogTarget target) {
    Sink& to = sink();
    struct stat file {};
    const bool known = fstat(STDERR_FILENO, &file) == 0;
    to.level = level;
    to.is_socket = known && S_ISSOCK(file.st_mode);
    to.kmsg.reset();
    if (target == LogTarget::kmsg)
        to.kmsg = Fd(open("/dev/kmsg", O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    const bool to_journal = target == LogTarget::automatic && known && stderr_is_journal(file);
    to.prioritised = to.kmsg || target == LogTarget::journal || to_journal;
}

bool log_enabled(Level level) {
    return level <= sink().level;
}

void log(Level level, std::string_view text) {
    if (log_enabled(level)) emit(level, program, text);
}

void log_error(const Error& error) {
    emit(Level::error, program, error.what);
    const std::string_view lead = sink().kmsg ? program : "";
    if (!error.hint.empty()) emit(Level::error, lead, "hint: " + error.hint);
}

}  // namespace nbd
