// SPDX-License-Identifier: MIT
// The answer on stdout, whole or not at all.
#include "client/output.h"

#include <cerrno>
#include <string>
#include <unistd.h>

namespace nbd {

namespace {

void write_all(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t count = ::write(fd, text.data(), text.size());
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return;
        text.remove_prefix(static_cast<std::size_t>(count));
    }
}

}  // namespace

void print(std::string_view text) {
    write_all(STDOUT_FILENO, text);
}

void complain(std::string_view line) {
    write_all(STDERR_FILENO, std::string(line) + "\n");
}

}  // namespace nbd
