// SPDX-License-Identifier: MIT
// Work that may hang, done in a child process that can be left behind.
#include "client/base/process.h"

#include "client/base/fd.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace nbd {

namespace {

using namespace std::chrono_literals;

void write_all_or_give_up(int fd, const std::string& text) {
    std::size_t done = 0;
    while (done < text.size()) {
        const ssize_t count = ::write(fd, text.data() + done, text.size() - done);
        if (count <= 0 && errno != EINTR) return;
        if (count > 0) done += static_cast<std::size_t>(count);
    }
}

/// A child that hangs must not keep our sockets, our lock or the ends of pipes others wait for.
/// Returns the descriptor's new number.
int close_all_but(int fd) {
    constexpr int first = STDERR_FILENO + 1;
    // A program started from here must not keep our reader waiting.
    if (fd != first) ::dup3(fd, first, O_CLOEXEC);
    const Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
        ::dup2(null.get(), stream);
    // close_range(2) is of Linux 5.9.
    if (::syscall(SYS_close_range, first + 1, ~0U, 0) != 0)
        for (int number = first + 1; number < 1024; ++number) ::close(number);
    return first;
}

Result<std::string> read_to_end(int fd, std::size_t limit, const Deadline& deadline) {
    std::string text;
    std::array<char, 4096> chunk;
    for (;;) {
        TRY(wait_for(fd, POLLIN, deadline));
        const std::size_t room = std::min(chunk.size(), limit - text.size());
        const ssize_t count = ::read(fd, chunk.data(), room);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return errno_error(Kind::internal, "read from a child process", errno);
        if (count == 0) return text;
        text.append(chunk.data(), static_cast<std::size_t>(count));
    }
}

/// Ends a child. One that is stuck in the kernel, perhaps waiting for our own dead device, is left
/// behind: waiting for it would be waiting for ourselves.
void end_child(pid_t child, int pipe) {
    ::kill(child, SIGKILL);
    ::kill(-child, SIGKILL);  // and the program it has started
    // Its death closes the other end of the pipe.
    const bool gone = read_to_end(pipe, 4096, Deadline::in(1s)).has_value();
    while (::waitpid(child, nullptr, gone ? 0 : WNOHANG) < 0 && errno == EINTR) {
    }
}

}  // namespace

Result<std::string> run_in_child(const std::function<std::string()>& work, std::size_t limit,
                                 const Deadline& deadline) {
    auto [reading, writing] = TRY(make_pipe());
    const pid_t child = ::fork();
    if (child < 0) return errno_error(Kind::internal, "start a child process", errno);
    if (child == 0) {
        ::setpgid(0, 0);
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        const int report = close_all_but(writing.release());
        write_all_or_give_up(report, work());
        ::_exit(0);
    }
    writing.reset();
    auto text = read_to_end(reading.get(), limit, deadline);
    end_child(child, reading.get());
    return text;
}

Result<int> run_program(const std::vector<std::string>& arguments, const Deadline& deadline) {
    const auto work = [&arguments]() -> std::string {
        std::vector<char*> argv;
        for (const std::string& argument : arguments)
            argv.push_back(const_cast<char*>(argument.c_str()));
        argv.push_back(nullptr);
        sigset_t none;
        sigemptyset(&none);
        ::sigprocmask(SIG_SETMASK, &none, nullptr);
        // Only the system's directories: the caller's PATH must not decide what root runs.
        ::setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
        pid_t program = 0;
        if (::posix_spawnp(&program, argv[0], nullptr, nullptr, argv.data(), environ) != 0)
            return "";
        int status = 0;
        while (::waitpid(program, &status, 0) < 0 && errno == EINTR) {
        }
        return std::to_string(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    };
    const std::string status = TRY(run_in_child(work, 16, deadline));
    if (status.empty())
        return Error{Kind::absent, "cannot run " + arguments.front() + ": not found"};
    return std::stoi(status);
}

}  // namespace nbd
