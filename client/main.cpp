// SPDX-License-Identifier: MIT
// Parses, runs, prints the error and its hint, returns the exit code.
#include "client/base/log.h"
#include "client/exit_status.h"
#include "client/options.h"
#include "client/verbs.h"

#include <fcntl.h>
#include <string>
#include <unistd.h>
#include <variant>
#include <vector>

namespace {

/// The classic dialect knows 1 for every failure, and 2 for a check that could not tell.
int failure_status(const nbd::CommandLine& line, const nbd::Error& error) {
    if (!line.classic) return nbd::exit_status(error.kind);
    return std::holds_alternative<nbd::CheckCommand>(line.command) ? 2 : 1;
}

/// A caller may have closed them; our sockets must not get their numbers.
void open_missing_streams() {
    int fd = -1;
    do {
        fd = ::open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    ::close(fd);
}

}  // namespace

int main(int argc, char** argv) {
    open_missing_streams();
    const std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
    const auto line = nbd::parse_command_line(arguments);
    if (!line) {
        nbd::log_error(line.error());
        return nbd::is_classic(arguments) ? 1 : nbd::exit_usage;
    }
    nbd::open_log(line->level, line->log_target);
    for (const std::string& warning : line->warnings) nbd::log(nbd::Level::warning, warning);
    const auto status = nbd::run(*line, argv);
    if (status) return *status;
    nbd::log_error(status.error());
    return failure_status(*line, status.error());
}
