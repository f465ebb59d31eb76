// SPDX-License-Identifier: MIT
// Runs a command line: dispatches to the use cases and prints their results in the caller's
// dialect.
#include "client/verbs.h"

#include "client/attach_options.h"
#include "client/attach_verb.h"
#include "client/base/deadline.h"
#include "client/base/log.h"
#include "client/base/text.h"
#include "client/detach.h"
#include "client/devices.h"
#include "client/exit_status.h"
#include "client/inquire.h"
#include "client/output.h"
#include "client/render.h"
#include "client/resize.h"
#include "client/signals.h"
#include "netlink/open.h"

#include <algorithm>
#include <chrono>
#include <unistd.h>
#include <vector>

namespace nbd {

namespace {

using namespace std::chrono_literals;

constexpr auto refresh_interval = 1s;

Result<AttachRequest> connection_request(const Target& target, const Settings& settings) {
    AttachRequest request{.target = target};
    TRY(apply_settings(request, settings));
    return request;
}

class Runner {
public:
    Runner(const CommandLine& line, char** argv) : line_(line), argv_(argv) {}

    Result<int> operator()(const AttachCommand& command) {
        return run_attach(command, line_, argv_);
    }
    Result<int> operator()(const ReattachCommand& command) {
        return run_reattach(command, line_, argv_);
    }

    Result<int> operator()(const DetachCommand& command) {
        std::vector<std::uint32_t> indexes;
        if (command.all)
            for (const DeviceRow& row : attached_devices(sysfs_, default_runtime_directory))
                indexes.push_back(row.index);
        for (const std::string& word : command.devices)
            for (const std::uint32_t index :
                 TRY(find_devices(sysfs_, default_runtime_directory, word)))
                indexes.push_back(index);
        int status = exit_done;
        for (const std::uint32_t index : indexes) {
            auto outcome = detach_one(index, command);
            if (outcome) continue;
            if (indexes.size() == 1) return std::move(outcome).error();
            log_error(outcome.error());
            if (status == exit_done) status = exit_status(outcome.error().kind);
        }
        return status;
    }

    Result<int> operator()(const ResizeCommand& command) {
        const std::uint32_t index = TRY(parse_device(command.device));
        const auto kernel = TRY(open_kernel(Interface::automatic));
        const std::uint64_t size =
            TRY(resize(index, command.force, *kernel, sysfs_, default_runtime_directory));
        print(device_path(index) + " " + std::to_string(size) + "\n");
        return exit_done;
    }

    Result<int> operator()(const ListCommand& command) {
        if (!command.watch) {
            print(TRY(list(command)));
            return exit_done;
        }
        const Signals signals = TRY(Signals::block());
        // Clear, home: in place on a terminal, one answer after the other elsewhere.
        const std::string before = ::isatty(STDOUT_FILENO) == 1 ? "\x1b[H\x1b[2J" : "";
        do {
            print(before + TRY(list(command)));
        } while (pause_until(Deadline::in(refresh_interval, signals.fd())));
        return exit_done;
    }

    Result<int> operator()(const CheckCommand& command) {
        const auto disk = sysfs_.read(TRY(parse_device(command.device)));
        if (!disk || !disk->configured) return exit_no;
        // The empty line behind the pid is what the reference prints.
        if (line_.classic) print(std::to_string(disk->pid) + "\n\n");
        return exit_done;
    }

    Result<int> operator()(const ExportsCommand& command) {
        const AttachRequest request = TRY(connection_request(command.target, command.settings));
        const auto exports = TRY(ask_exports(request, Deadline::in(request.connect_timeout)));
        print((line_.classic ? "Negotiation: ..\n" : "") + render_exports(exports, command.json));
        return exit_done;
    }

    Result<int> operator()(const InfoCommand& command) {
        const AttachRequest request = TRY(connection_request(command.target, command.settings));
        const ExportInfo info = TRY(ask_info(request, Deadline::in(request.connect_timeout)));
        print(render_info(command.target, info, command.json));
        return exit_done;
    }

    Result<int> operator()(const PrintCommand& command) {
        print(command.text);
        return exit_done;
    }

private:
    Result<std::string> list(const ListCommand& command) const {
        std::vector<DeviceRow> rows = attached_devices(sysfs_, default_runtime_directory);
        if (!command.devices.empty()) {
            std::vector<std::uint32_t> wanted;
            for (const std::string& word : command.devices)
                for (const std::uint32_t index :
                     TRY(find_devices(sysfs_, default_runtime_directory, word)))
                    wanted.push_back(index);
            std::erase_if(rows, [&wanted](const DeviceRow& row) {
                return std::find(wanted.begin(), wanted.end(), row.index) == wanted.end();
            });
        }
        return render_list(command, rows);
    }

    Result<void> detach_one(std::uint32_t index, const DetachCommand& command) {
        const auto disk = sysfs_.read(index);
        const auto stored = read_status(default_runtime_directory, index);
        // A device that is free needs no driver to be so.
        if (disk && !disk->configured && !(stored && stored->watched)) return {};
        if (!disk)
            return Error{Kind::absent, "cannot detach " + device_path(index) + ": no such device",
                         "nbd-client list shows what is attached"};
        const bool made_by_ioctl = !disk->backend;
        const auto kernel = TRY(open_kernel(Interface::automatic));
        if (command.deferred)
            return detach_when_closed(index, *kernel, sysfs_, default_runtime_directory);
        TRY(detach(index, command.force, *kernel, sysfs_, default_runtime_directory));
        // Scripts of the ioctl days look for this line.
        if (line_.classic && made_by_ioctl) print("disconnect, sock, done\n");
        return {};
    }

    const CommandLine& line_;
    char** argv_;
    Sysfs sysfs_;
};

}  // namespace

Result<int> run(const CommandLine& line, char** argv) {
    return std::visit(Runner(line, argv), line.command);
}

}  // namespace nbd
