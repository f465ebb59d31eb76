// SPDX-License-Identifier: MIT
// The verbs attach and reattach, from the command to the exit status, in fore- or background.
#include "client/attach_verb.h"

#include "client/attach.h"
#include "client/attach_options.h"
#include "client/background.h"
#include "client/base/log.h"
#include "client/base/notify.h"
#include "client/base/text.h"
#include "client/devices.h"
#include "client/exit_status.h"
#include "client/hold.h"
#include "client/inquire.h"
#include "client/nbdtab.h"
#include "client/output.h"
#include "client/runtime.h"
#include "client/signals.h"
#include "client/survive.h"
#include "client/watch.h"
#include "netlink/open.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <signal.h>
#include <utility>

namespace nbd {

namespace {

using namespace std::chrono_literals;

constexpr std::chrono::seconds default_reconnect_for = 10min;

/// What stays the same for every device of a command line.
struct Caller {
    const CommandLine& line;
    char** argv;
};

struct Wanted {
    AttachRequest request;
    Settings settings;  ///< all that made the request, for the status file
};

/// The process that stays has another working directory than its caller.
void make_absolute(Target& target) {
    auto* endpoint = std::get_if<UnixEndpoint>(&target.endpoint);
    if (endpoint == nullptr || endpoint->path.starts_with('/') || endpoint->path.starts_with('\0'))
        return;
    std::error_code error;
    const auto path = std::filesystem::absolute(endpoint->path, error);
    if (!error) endpoint->path = path;
}

Result<Wanted> make_request(const Target& target, const std::string& device, Settings settings) {
    Wanted wanted{.request = {.target = target}, .settings = std::move(settings)};
    TRY(apply_settings(wanted.request, wanted.settings));
    if (!device.empty()) wanted.request.index = TRY(parse_device(device));
    if (!wanted.request.reconnect_for) {
        const auto patience = wanted.request.essential ? forever : default_reconnect_for;
        wanted.request.reconnect_for = patience;
        wanted.settings.push_back({"reconnect-for", format_duration(patience)});
    }
    make_absolute(wanted.request.target);
    TRY(check_supported(wanted.request.target));
    for (Target& alternate : wanted.request.alternates) {
        make_absolute(alternate);
        TRY(check_supported(alternate));
    }
    return wanted;
}

Settings joined(Settings first, const Settings& second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
}

void print_attached(const Caller& caller, const Attachment& attachment, bool ioctl) {
    const RuntimeStatus& status = attachment.status;
    const std::string device = device_path(status.index);
    if (!caller.line.classic) return print(device + "\n");
    // Scripts take the device and the size from these lines word for word.
    const std::uint64_t size = status.agreed.size;
    std::string text = "Negotiation: ..size = " + std::to_string(size >> 20) + "MB\n";
    if (ioctl)
        complain("bs=" + std::to_string(status.block_size) + ", sz=" + std::to_string(size) +
                 " bytes");
    else
        text += "Connected " + device + "\n";
    print(text);
}

/// Takes the lock of a device that may still have a watchdog on its way out.
Result<RuntimeLock> lock_patiently(std::uint32_t index, int cancel_fd) {
    const Deadline deadline = Deadline::in(3s, cancel_fd);
    for (;;) {
        auto lock = RuntimeLock::take(default_runtime_directory, index);
        if (lock || lock.error().kind != Kind::busy || deadline.expired()) return lock;
        if (!pause_until(deadline.at_most(20ms)) && !deadline.expired()) return lock;
    }
}

int interrupted_status(const Signals& signals) {
    return signals.take().value_or(SIGINT) == SIGTERM ? exit_terminated : exit_interrupted;
}

/// From here on nobody reads stderr.
void leave_to_background(Background& background, const CommandLine& line) {
    if (!background.attached()) return;
    background.detach();
    open_log(line.level,
             line.log_target == LogTarget::automatic ? LogTarget::kmsg : line.log_target);
}

Result<int> dry_run(const AttachRequest& request, const Signals& signals) {
    Dialer dialer(request);
    const Plan plan = TRY(negotiate_patiently(request, dialer, signals.fd(), [](const Error&) {}));
    for (const std::string& warning : plan.warnings) log(Level::warning, warning);
    print(describe(plan.request));
    return exit_done;
}

/// The work of the process that stays, or of the only one.
Result<int> serve(const Wanted& wanted, const Caller& caller, Kernel& kernel,
                  Background& background, Notifier& notifier) {
    const AttachRequest& request = wanted.request;
    const Sysfs sysfs;
    const bool stays = background.attached() || request.foreground || notifier.active();
    if (request.essential)
        if (auto prepared = survive(); !prepared) log(Level::warning, prepared.error().what);
    if (request.mark) mark_process(caller.argv);

    const Signals signals = TRY(Signals::block());
    Dialer dialer(request);
    auto plan = negotiate_patiently(request, dialer, signals.fd(), [&notifier](const Error& error) {
        log(Level::info, error.what);
        notifier.status("waiting for the server: " + printable(error.what));
    });
    if (!plan && plan.error().kind == Kind::cancelled) return interrupted_status(signals);
    if (!plan) return std::move(plan).error();
    for (const std::string& warning : plan->warnings) log(Level::warning, warning);

    auto handed =
        hand_over(request, *std::move(plan), kernel, sysfs, wanted.settings, signals.fd());
    if (!handed && handed.error().kind == Kind::cancelled) return interrupted_status(signals);
    Attachment attachment = TRY(std::move(handed));
    const std::uint32_t index = attachment.status.index;

    std::optional<RuntimeLock> lock;
    if (stays) {
        auto taken = lock_patiently(index, signals.fd());
        if (taken)
            lock = *std::move(taken);
        else
            log(Level::warning, taken.error().what);
    }
    if (auto written = publish_status(default_runtime_directory, attachment.status); !written)
        log(Level::warning, written.error().what);
    print_attached(caller, attachment, !kernel.can_reconfigure());
    if (!stays) return exit_done;

    notifier.ready("attached to " + attachment.status.server);
    leave_to_background(background, caller.line);
    if (auto dropped = drop_privileges(); !dropped) log(Level::warning, dropped.error().what);
    const WatchWorld world{kernel, sysfs, signals, notifier, default_runtime_directory};
    const bool repairs = kernel.can_reconfigure() && *request.reconnect_for != 0s;
    const auto keep = repairs ? watch : hold;
    TRY(keep(request, std::move(attachment), std::move(dialer), world));
    if (const auto disk = sysfs.read(index); !disk || !disk->configured)
        remove_status(default_runtime_directory, index);
    return exit_done;
}

/// Splits off the process that stays, if one has to.
Result<int> start(const Wanted& wanted, const Caller& caller) {
    const AttachRequest& request = wanted.request;
    const auto kernel =
        TRY(open_kernel(request.no_netlink ? Interface::ioctl : Interface::automatic));
    const bool ioctl = !kernel->can_reconfigure();
    if (ioctl && *request.reconnect_for != 0s)
        log(Level::warning,
            "the ioctl interface cannot keep requests waiting: after an outage the device is "
            "attached "
            "again, with I/O errors in between");
    Notifier notifier = Notifier::from_environment();
    Background background;
    const bool stays = ioctl || *request.reconnect_for != 0s;
    if (stays && !request.foreground && !notifier.active())
        if (const auto parent = TRY(background.split())) return parent->exit_status;
    return serve(wanted, caller, *kernel, background, notifier);
}

/// Watches a device that is attached already, from what its status file says.
Result<int> adopt(const Wanted& wanted, RuntimeStatus status, const Caller& caller) {
    const AttachRequest& request = wanted.request;
    const std::string device = device_path(status.index);
    const auto kernel = TRY(open_kernel(Interface::automatic));
    if (!kernel->can_reconfigure())
        return Error{Kind::unsupported, "cannot reattach " + device +
                                            ": the ioctl interface cannot replace connections"};
    Notifier notifier = Notifier::from_environment();
    Background background;
    if (!request.foreground && !notifier.active())
        if (const auto parent = TRY(background.split())) return parent->exit_status;
    if (request.essential)
        if (auto prepared = survive(); !prepared) log(Level::warning, prepared.error().what);
    if (request.mark) mark_process(caller.argv);
    const Signals signals = TRY(Signals::block());
    const RuntimeLock lock = TRY(RuntimeLock::take(default_runtime_directory, status.index));

    if (request.io_timeout) status.timeout = std::min(*request.io_timeout, max_timeout);
    status.dead_conn_timeout = std::min(*request.reconnect_for, max_dead_conn_timeout);
    status.settings = wanted.settings;
    status.uri = to_uri(request.target);
    TRY(kernel->reconfigure({.index = status.index,
                             .backend = status.backend,
                             .timeout = status.timeout,
                             .dead_conn_timeout = status.dead_conn_timeout}));
    Dialer dialer(request);
    // The watchdog goes on looking names up if this fails; it is there for bad times.
    if (auto found = dialer.resolve(Deadline::in(2s, signals.fd())); !found)
        log(Level::info, found.error().what);
    print(caller.line.classic ? "Connected " + device + "\n" : device + "\n");
    notifier.ready("watching " + device);
    leave_to_background(background, caller.line);
    if (auto dropped = drop_privileges(); !dropped) log(Level::warning, dropped.error().what);
    const std::uint32_t index = status.index;
    const Sysfs sysfs;
    TRY(watch(request, {.status = std::move(status), .connections = {}}, std::move(dialer),
              {*kernel, sysfs, signals, notifier, default_runtime_directory}));
    if (const auto disk = sysfs.read(index); !disk || !disk->configured)
        remove_status(default_runtime_directory, index);
    return exit_done;
}

/// --idempotent: nothing to do but perhaps to watch it again.
Result<int> attach_same(std::uint32_t index, const Wanted& wanted, const Caller& caller) {
    if (wanted.request.index && *wanted.request.index != index)
        return Error{Kind::busy, "cannot attach to " + device_path(*wanted.request.index) +
                                     ": the export is attached to " + device_path(index) +
                                     " already"};
    auto stored = read_status(default_runtime_directory, index);
    const bool watch_again = stored && !stored->watched && *wanted.request.reconnect_for != 0s &&
                             stored->status.backend == Sysfs().read(index)->backend.value_or("");
    if (watch_again) return adopt(wanted, std::move(stored->status), caller);
    print(caller.line.classic ? "Connected " + device_path(index) + "\n"
                              : device_path(index) + "\n");
    return exit_done;
}

Result<int> attach_one(const Wanted& wanted, const Caller& caller) {
    if (wanted.request.dry_run) return dry_run(wanted.request, TRY(Signals::block()));
    if (wanted.request.idempotent)
        if (const auto index = find_same(wanted.request, Sysfs()))
            return attach_same(*index, wanted, caller);
    return start(wanted, caller);
}

Result<int> attach_record(const NbdtabRecord& record, const AttachCommand& command,
                          const Caller& caller) {
    for (const std::string& warning : record.warnings) log(Level::warning, warning);
    const std::string& device = command.device.empty() ? record.device : command.device;
    const Settings settings = joined(joined(command.defaults, record.settings), command.settings);
    return attach_one(TRY(make_request(record.target, device, settings)), caller);
}

Result<int> attach_all(const AttachCommand& command, const Caller& caller) {
    const Nbdtab tab = TRY(read_nbdtab(command.nbdtab));
    int status = exit_done;
    const auto failed = [&status](const Error& error) {
        log_error(error);
        if (status == exit_done) status = exit_status(error.kind);
    };
    for (const auto& complaint : tab.complaints) failed(complaint.error);
    for (const NbdtabRecord& record : tab.records) {
        auto outcome = attach_record(record, command, caller);
        if (!outcome)
            failed(outcome.error());
        else if (status == exit_done)
            status = *outcome;
    }
    return status;
}

}  // namespace

Result<int> run_attach(const AttachCommand& command, const CommandLine& line, char** argv) {
    const Caller caller{line, argv};
    if (command.all) return attach_all(command, caller);
    if (command.tab)
        return attach_record(TRY(nbdtab_record(command.nbdtab, *command.tab)), command, caller);
    return attach_one(TRY(make_request(*command.target, command.device,
                                       joined(command.defaults, command.settings))),
                      caller);
}

Result<int> run_reattach(const ReattachCommand& command, const CommandLine& line, char** argv) {
    const Sysfs sysfs;
    const std::uint32_t index =
        TRY(find_devices(sysfs, default_runtime_directory, command.device)).front();
    const std::string act = "cannot reattach " + device_path(index) + ": ";
    const auto disk = sysfs.read(index);
    if (!disk || !disk->configured)
        return Error{Kind::absent, act + "it is not attached", "nbd-client attach attaches it"};
    auto stored = read_status(default_runtime_directory, index);
    if (!stored || stored->status.backend != disk->backend.value_or(""))
        return Error{Kind::absent, act + "it is not known how it was attached",
                     "it was not attached by this program, or /run has been emptied"};
    if (stored->watched)
        return Error{Kind::busy,
                     act + "process " + std::to_string(stored->status.pid) + " watches it already"};
    const Target target = command.target ? *command.target : TRY(parse_uri(stored->status.uri));
    const Wanted wanted =
        TRY(make_request(target, "", joined(stored->status.settings, command.settings)));
    return adopt(wanted, std::move(stored->status), {line, argv});
}

}  // namespace nbd
