// SPDX-License-Identifier: MIT
// Owns one file descriptor.
#include "client/base/fd.h"

#include <array>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <unistd.h>

namespace nbd {

void Fd::reset(int fd) {
    // EINTR is not retried: Linux has released the number already and another thread may own it.
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
}

std::string errno_text(int error) {
    const char* name = strerrordesc_np(error);
    std::string text = name != nullptr ? name : "error " + std::to_string(error);
    // "Connection refused" becomes "connection refused"; "I/O error" and the like keep their
    // capitals.
    if (text.size() > 1 && std::islower(static_cast<unsigned char>(text[1])) != 0)
        text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(text[0])));
    return text;
}

Error errno_error(Kind kind, std::string_view act, int error) {
    return {kind, "cannot " + std::string(act) + ": " + errno_text(error)};
}

Result<Fd> duplicate(int fd) {
    Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!copy) return errno_error(Kind::internal, "duplicate a descriptor", errno);
    return copy;
}

Result<Pipe> make_pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0)
        return errno_error(Kind::internal, "create a pipe", errno);
    return Pipe{Fd(ends[0]), Fd(ends[1])};
}

Result<std::string> read_file(const std::string& path, std::size_t limit) {
    const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) {
        const Kind kind = errno == ENOENT                     ? Kind::absent
                          : errno == EACCES || errno == EPERM ? Kind::denied
                                                              : Kind::internal;
        return errno_error(kind, "open " + path, errno);
    }
    std::string content;
    std::array<char, 4096> chunk;
    while (content.size() < limit) {
        const ssize_t count = ::read(file.get(), chunk.data(), chunk.size());
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return errno_error(Kind::internal, "read " + path, errno);
        if (count == 0) break;
        content.append(chunk.data(), static_cast<std::size_t>(count));
    }
    return content;
}

}  // namespace nbd
