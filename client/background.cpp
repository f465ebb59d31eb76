// SPDX-License-Identifier: MIT
// Goes on in the background once the device is ready, with a true exit code for who started us.
#include "client/background.h"

#include "client/exit_status.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace nbd {

namespace {

int wait_for_report(int report, pid_t child) {
    char byte = 0;
    ssize_t count = 0;
    do {
        count = ::read(report, &byte, 1);
    } while (count < 0 && errno == EINTR);
    if (count == 1) return exit_done;
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

Result<std::optional<Background::Parent>> Background::split() {
    auto [reading, writing] = TRY(make_pipe());
    const pid_t child = ::fork();
    if (child < 0) return errno_error(Kind::internal, "go into the background", errno);
    if (child > 0) {
        writing.reset();
        return std::optional(Parent{wait_for_report(reading.get(), child)});
    }
    // Who waits for us and is killed has seen a failure: no device may turn up later.
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    report_ = std::move(writing);
    return std::optional<Parent>();
}

void Background::detach() {
    ::prctl(PR_SET_PDEATHSIG, 0);
    ::setsid();
    // The working directory may have to be unmounted while we run.
    [[maybe_unused]] const int moved = ::chdir("/");
    // Who reads our output waits for its end: no copy of it may stay open here.
    const Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
        ::dup2(null.get(), stream);
    const char byte = 0;
    [[maybe_unused]] const ssize_t written = ::write(report_.get(), &byte, 1);
    report_.reset();
}

}  // namespace nbd
