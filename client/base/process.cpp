// SPDX-License-Identifier: MIT
// Work in processes of its own: a child that may hang, a program, one that outlives us.
#include "client/base/process.h"

#include "client/base/fd.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <fcntl.h>
#include <optional>
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

/// `first` to `last`, or all that there are.
void close_numbers(int first, std::optional<int> last = std::nullopt) {
    if (last && *last < first) return;
    // close_range(2) is of Linux 5.9.
    if (::syscall(SYS_close_range, first, last ? static_cast<unsigned>(*last) : ~0U, 0) == 0)
        return;
    for (int number = first; number <= last.value_or(1023); ++number) ::close(number);
}

/// Nothing of ours but these, under their numbers; standard streams lead nowhere. A child that
/// hangs must not keep our sockets, our lock or the ends of pipes others wait for.
void keep_only(std::span<const int> kept) {
    std::vector<int> numbers(kept.begin(), kept.end());
    std::ranges::sort(numbers);
    const Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
        if (!std::ranges::binary_search(numbers, stream)) ::dup2(null.get(), stream);
    int next = STDERR_FILENO + 1;
    for (const int number : numbers) {
        close_numbers(next, number - 1);
        next = std::max(next, number + 1);
    }
    close_numbers(next);
}

void reset_signals() {
    for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
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
        keep_only(std::array{writing.get()});
        write_all_or_give_up(writing.get(), work());
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

Result<void> leave_behind(const std::function<void()>& work, std::span<const int> kept) {
    const pid_t between = ::fork();
    if (between < 0) return errno_error(Kind::internal, "start a process", errno);
    if (between == 0) {
        // Whose parent has ended belongs to init.
        if (const pid_t child = ::fork(); child != 0) ::_exit(child < 0 ? errno : 0);
        ::setsid();
        [[maybe_unused]] const int moved = ::chdir("/");
        reset_signals();
        keep_only(kept);
        work();
        ::_exit(0);
    }
    int status = 0;
    pid_t waited = 0;
    do {
        waited = ::waitpid(between, &status, 0);
    } while (waited < 0 && errno == EINTR);
    // No status: whoever started us has it that children are not waited for.
    if (waited < 0 || status == 0) return {};
    return errno_error(Kind::internal, "start a process",
                       WIFEXITED(status) ? WEXITSTATUS(status) : EINTR);
}

}  // namespace nbd
