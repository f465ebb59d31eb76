// SPDX-License-Identifier: MIT
// Owns one file descriptor.
#pragma once

#include "client/base/result.h"

#include <string_view>
#include <utility>

namespace nbd {

/// Move-only owner of a descriptor. A parameter `int fd` borrows, a parameter `Fd` takes over.
/// There is no implicit int: descriptor 0 is valid and would read as false.
class Fd {
public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd&& other) noexcept : fd_(other.release()) {}
    Fd& operator=(Fd&& other) noexcept {
        if (this != &other) reset(other.release());
        return *this;
    }
    Fd(const Fd&) = delete;
    Fd& operator=(const Fd&) = delete;
    ~Fd() { reset(); }

    int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }
    int release() { return std::exchange(fd_, -1); }
    void reset(int fd = -1);

private:
    int fd_ = -1;
};

/// The text of an errno value ("connection refused"), lower case as error sentences want it.
std::string errno_text(int error);

/// An Error whose sentence is "cannot <act>: <text of error>".
Error errno_error(Kind kind, std::string_view act, int error);

/// Another descriptor of the same open file, close-on-exec.
Result<Fd> duplicate(int fd);

struct Pipe {
    Fd reading;
    Fd writing;
};
/// A pipe whose ends are close-on-exec.
Result<Pipe> make_pipe();

/// Whole content of a small file, at most `limit` bytes (sysfs attributes, procfs tables).
Result<std::string> read_file(const std::string& path, std::size_t limit = 1 << 20);

}  // namespace nbd
