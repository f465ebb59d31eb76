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
#include "client/nbdtab.h"
#include "client/output.h"
#include "client/runtime.h"
#include "client/secure.h"
#include "client/signals.h"
#include "client/survive.h"
#include "client/watch.h"
#include "netlink/open.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <signal.h>
#include <unistd.h>
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
    Settings settings;  ///< what reattach needs of all that made the request
};

/// How an attempt to attach ended.
struct Outcome {
    int status = exit_done;
    bool stayed = false;  ///< this process has stayed with the device: nothing else is its business
};

/// The process that stays has another working directory than its caller.
std::string absolute(const std::string& path) {
    std::error_code error;
    const auto whole = std::filesystem::absolute(path, error);
    return error || path.empty() ? path : whole.string();
}

void make_absolute(Target& target) {
    if (auto* const local = std::get_if<UnixEndpoint>(&target.endpoint))
        local->path = absolute(local->path);
    if (!target.tls) return;
    target.tls->certificates = absolute(target.tls->certificates);
    target.tls->psk_file = absolute(target.tls->psk_file);
}

/// The process that stays has another directory, and `reattach` knows the target by its canonical
/// URI, which names neither users nor files: all of it becomes options.
Result<void> settle_tls(Wanted& wanted, Settings& settings) {
    AttachRequest& request = wanted.request;
    if (!request.target.tls) return {};
    for (std::string* path :
         {&request.tls_ca, &request.tls_cert, &request.tls_key, &request.tls_psk})
        *path = absolute(*path);
    const TlsPolicy policy = TRY(tls_policy(request, request.target, {}));
    const Settings named = {{"tls-ca", policy.ca},
                            {"tls-cert", policy.certificate},
                            {"tls-key", policy.key},
                            {"tls-psk", policy.psk},
                            {"tls-username", policy.username}};
    for (const Setting& setting : named) {
        std::erase_if(settings, [&](const Setting& old) { return old.name == setting.name; });
        if (!setting.value.empty()) settings.push_back(setting);
    }
    return {};
}

/// What describes a device as long as it is attached, not how this process came to attach it.
Settings lasting(const Settings& settings) {
    Settings result;
    std::ranges::copy_if(settings, std::back_inserter(result), [](const Setting& setting) {
        const AttachOption* option = find_attach_option(setting.name);
        return option != nullptr && option->for_reattach() &&
               (option->group != group::process || setting.name == "essential");
    });
    return result;
}

Result<Wanted> make_request(const Target& target, const std::string& device, Settings settings) {
    Wanted wanted{.request = {.target = target}, .settings = {}};
    TRY(apply_settings(wanted.request, settings));
    if (!device.empty()) wanted.request.index = TRY(parse_device(device));
    if (!wanted.request.reconnect_for) {
        const auto patience = wanted.request.essential ? forever : default_reconnect_for;
        wanted.request.reconnect_for = patience;
        settings.push_back({"reconnect-for", format_duration(patience)});
    }
    make_absolute(wanted.request.target);
    TRY(settle_tls(wanted, settings));
    wanted.settings = lasting(settings);
    for (Target& alternate : wanted.request.alternates) make_absolute(alternate);
    return wanted;
}

Settings joined(Settings first, const Settings& second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
}

void print_device(const Caller& caller, std::uint32_t index) {
    print((caller.line.classic ? "Connected " : "") + device_path(index) + "\n");
}

void print_attached(const Caller& caller, const Attachment& attachment, bool ioctl) {
    const RuntimeStatus& status = attachment.status;
    if (!caller.line.classic) return print_device(caller, status.index);
    // Scripts take the device and the size from these lines word for word.
    const std::uint64_t size = status.agreed.size;
    print("Negotiation: ..size = " + std::to_string(size >> 20) + "MB\n");
    if (!ioctl) return print_device(caller, status.index);
    complain("bs=" + std::to_string(status.block_size) + ", sz=" + std::to_string(size) + " bytes");
}

int interrupted_status(const Signals& signals) {
    return signals.take().value_or(SIGINT) == SIGTERM ? exit_terminated : exit_interrupted;
}

/// Before anything is connected, in the process that stays.
Result<Signals> prepare_process(const AttachRequest& request, const Caller& caller) {
    if (request.essential)
        if (auto prepared = survive(); !prepared) log(Level::warning, prepared.error().what);
    if (request.mark || (request.essential && in_initramfs())) mark_process(caller.argv);
    return Signals::block();
}

bool uses_unix_socket(const AttachRequest& request) {
    const auto is_unix = [](const Target& target) {
        return std::holds_alternative<UnixEndpoint>(target.endpoint);
    };
    return is_unix(request.target) || std::ranges::any_of(request.alternates, is_unix);
}

/// The rest of the life of the process that stays.
Result<Outcome> stay(const AttachRequest& request, Attachment attachment, Dialer dialer,
                     const WatchWorld& world, Background& background, const Caller& caller) {
    const std::uint32_t index = attachment.status.index;
    world.notifier.ready("attached to " + attachment.status.server);
    if (background.attached()) {
        background.detach();
        // From here on nobody reads stderr.
        const LogTarget target = caller.line.log_target;
        open_log(caller.line.level, target == LogTarget::automatic ? LogTarget::kmsg : target);
    }
    if (auto dropped = drop_privileges(uses_unix_socket(request)); !dropped)
        log(Level::warning, dropped.error().what);
    const bool repairs = world.kernel.can_reconfigure() && *request.reconnect_for != 0s;
    const auto keep = repairs ? watch : hold;
    auto kept = keep(request, std::move(attachment), std::move(dialer), world);
    const auto disk = world.sysfs.read(index);
    if (!disk || !disk->configured) remove_status(world.runtime_directory, index);
    if (!kept) log_error(kept.error());
    return Outcome{kept ? exit_done : exit_status(kept.error().kind), true};
}

Result<Outcome> dry_run(const AttachRequest& request, const Signals& signals) {
    Dialer dialer(request);
    const Plan plan = TRY(negotiate_patiently(request, dialer, signals.fd(), [](const Error&) {}));
    for (const std::string& warning : plan.warnings) log(Level::warning, warning);
    print(describe(plan.request));
    return Outcome{};
}

/// The work of the process that stays, or of the only one.
Result<Outcome> serve(const Wanted& wanted, const Caller& caller, Kernel& kernel,
                      Background& background, Notifier& notifier) {
    const AttachRequest& request = wanted.request;
    const bool stays = background.attached() || request.foreground || notifier.active();
    const Signals signals = TRY(prepare_process(request, caller));
    const Sysfs sysfs;
    Dialer dialer(request);
    auto plan = negotiate_patiently(request, dialer, signals.fd(), [&notifier](const Error& error) {
        log(Level::info, error.what);
        notifier.status("waiting for the server: " + printable(error.what));
    });
    if (!plan && plan.error().kind == Kind::cancelled)
        return Outcome{interrupted_status(signals), stays};
    if (!plan) return std::move(plan).error();
    for (const std::string& warning : plan->warnings) log(Level::warning, warning);
    if (*request.reconnect_for == 0s && plan->connections.front().offload == offload_kernel)
        log(Level::warning,
            "TLS in the kernel without reconnecting: the server's first change of keys, due after "
            "16 million records with AES, ends the device (--reconnect-for avoids that)");

    const Watched watched{.stays = stays, .settings = wanted.settings};
    auto handed = hand_over(request, *std::move(plan), kernel, sysfs, watched, signals.fd());
    if (!handed && handed.error().kind == Kind::cancelled)
        return Outcome{interrupted_status(signals), stays};
    Attachment attachment = TRY(std::move(handed));
    if (auto written = publish_status(watched.runtime_directory, attachment.status); !written)
        log(Level::warning, written.error().what);
    print_attached(caller, attachment, !kernel.can_reconfigure());
    if (!stays) return Outcome{};
    return stay(request, std::move(attachment), std::move(dialer),
                {kernel, sysfs, signals, notifier, watched.runtime_directory}, background, caller);
}

/// The child's failure is its own to report: its parent's caller must not see it twice, and it must
/// not go on with what is left of the parent's work.
Result<Outcome> report_in_child(Result<Outcome> outcome, const Caller& caller) {
    if (outcome) return Outcome{outcome->status, true};
    log_error(outcome.error());
    return Outcome{caller.line.classic ? 1 : exit_status(outcome.error().kind), true};
}

/// Runs `work` in the process that is to stay, if one is, and in this one otherwise.
template <typename Work>
Result<Outcome> split_off(bool stays, const AttachRequest& request, const Caller& caller,
                          Work work) {
    Notifier notifier = Notifier::from_environment();
    Background background;
    if (!stays || request.foreground || notifier.active()) return work(background, notifier);
    if (const auto parent = TRY(background.split())) return Outcome{parent->exit_status};
    return report_in_child(work(background, notifier), caller);
}

Result<Outcome> start(const Wanted& wanted, const Caller& caller) {
    const AttachRequest& request = wanted.request;
    const auto kernel =
        TRY(open_kernel(request.no_netlink ? Interface::ioctl : Interface::automatic));
    const bool ioctl = !kernel->can_reconfigure();
    const bool reconnects = *request.reconnect_for != 0s;
    if (ioctl && reconnects)
        log(Level::warning,
            "the ioctl interface cannot keep requests waiting: after an outage the device is "
            "attached again, with I/O errors in between");
    return split_off(ioctl || reconnects, request, caller,
                     [&](Background& background, Notifier& notifier) {
                         return serve(wanted, caller, *kernel, background, notifier);
                     });
}

/// Takes a device over from its status file and goes on watching it.
Result<Outcome> take_over(const Wanted& wanted, RuntimeStatus status, Kernel& kernel,
                          const Caller& caller, Background& background, Notifier& notifier) {
    const AttachRequest& request = wanted.request;
    const std::string runtime_directory = default_runtime_directory;
    const Signals signals = TRY(prepare_process(request, caller));
    auto lock = TRY(RuntimeLock::take(runtime_directory, status.index));
    status.pid = ::getpid();
    status.timeout = choose_timeout(request, status.connections);
    status.dead_conn_timeout = choose_dead_conn_timeout(request);
    status.settings = wanted.settings;
    status.uri = to_uri(request.target);
    if (auto written = publish_status(runtime_directory, status); !written)
        log(Level::warning, written.error().what);
    TRY(kernel.reconfigure({.index = status.index,
                            .backend = status.backend,
                            .timeout = status.timeout,
                            .dead_conn_timeout = status.dead_conn_timeout}));
    Dialer dialer(request);
    TRY(dialer.prepare(Deadline::in(2s, signals.fd())));
    // The watchdog goes on looking names up if this fails; it is there for bad times.
    auto found = Dialer::look_up(request, Deadline::in(2s, signals.fd()));
    found ? static_cast<void>(dialer.use(*std::move(found))) : log(Level::info, found.error().what);
    const Sysfs sysfs;
    print_device(caller, status.index);
    Attachment attachment{.lock = std::move(lock), .status = std::move(status), .connections = {}};
    return stay(request, std::move(attachment), std::move(dialer),
                {kernel, sysfs, signals, notifier, runtime_directory}, background, caller);
}

Result<Outcome> adopt(const Wanted& wanted, const RuntimeStatus& status, const Caller& caller) {
    const auto kernel = TRY(open_kernel(Interface::automatic));
    const std::string act = "cannot reattach " + device_path(status.index) + ": ";
    if (!kernel->can_reconfigure())
        return Error{Kind::unsupported, act + "the ioctl interface cannot replace connections"};
    if (*wanted.request.reconnect_for == 0s)
        return Error{Kind::usage, act + "it was attached without reconnecting",
                     "--reconnect-for says how long I/O is to wait for a server"};
    return split_off(true, wanted.request, caller, [&](Background& background, Notifier& notifier) {
        return take_over(wanted, status, *kernel, caller, background, notifier);
    });
}

/// --idempotent: nothing to do but perhaps to watch it again.
Result<Outcome> attach_same(std::uint32_t index, const Wanted& wanted, const Caller& caller) {
    const std::string device = device_path(index);
    if (wanted.request.index && *wanted.request.index != index)
        return Error{Kind::busy, "cannot attach to " + device_path(*wanted.request.index) +
                                     ": the export is attached to " + device + " already"};
    const auto stored = read_status(default_runtime_directory, index);
    const bool known = stored && is_attachment(Sysfs().read(index), stored->status);
    if (known && !stored->watched && *wanted.request.reconnect_for != 0s)
        return adopt(wanted, stored->status, caller);
    if (known && stored->watched && stored->status.live_connections == 0)
        return Error{
            Kind::unreachable, "cannot use " + device + ": it is attached, but its server is gone",
            "process " + std::to_string(stored->status.pid) + " reconnects when it returns"};
    print_device(caller, index);
    return Outcome{};
}

Result<Outcome> attach_one(const Wanted& wanted, const Caller& caller) {
    if (wanted.request.dry_run) return dry_run(wanted.request, TRY(Signals::block()));
    if (wanted.request.idempotent)
        if (const auto index = find_same(wanted.request, Sysfs()))
            return attach_same(*index, wanted, caller);
    return start(wanted, caller);
}

Result<Outcome> attach_record(const NbdtabRecord& record, const AttachCommand& command,
                              const Caller& caller) {
    for (const std::string& warning : record.warnings) log(Level::warning, warning);
    const std::string& device = command.device.empty() ? record.device : command.device;
    const Settings settings = joined(joined(command.defaults, record.settings), command.settings);
    return attach_one(TRY(make_request(record.target, device, settings)), caller);
}

Result<int> attach_all(const AttachCommand& command, const Caller& caller) {
    // Each device gets a process of its own; one of them must not speak for all to a service
    // manager.
    static_cast<void>(Notifier::from_environment());
    const Nbdtab tab = TRY(read_nbdtab(command.nbdtab));
    int status = exit_done;
    const auto failed = [&status](const Error& error) {
        log_error(error);
        if (status == exit_done) status = exit_status(error.kind);
    };
    for (const auto& complaint : tab.complaints) failed(complaint.error);
    for (const NbdtabRecord& record : tab.records) {
        const auto outcome = attach_record(record, command, caller);
        if (!outcome)
            failed(outcome.error());
        else if (outcome->stayed)
            return outcome->status;
        else if (status == exit_done)
            status = outcome->status;
    }
    return status;
}

}  // namespace

Result<int> run_attach(const AttachCommand& command, const CommandLine& line, char** argv) {
    const Caller caller{line, argv};
    if (command.all) {
        AttachRequest request;
        TRY(apply_settings(request, command.settings));
        if (request.foreground)
            return Error{Kind::usage, "cannot stay in the foreground with every device",
                         "leave --foreground out, or attach one with --tab"};
        return attach_all(command, caller);
    }
    if (command.tab) {
        const NbdtabRecord record = TRY(nbdtab_record(command.nbdtab, *command.tab));
        return TRY(attach_record(record, command, caller)).status;
    }
    const Wanted wanted = TRY(
        make_request(*command.target, command.device, joined(command.defaults, command.settings)));
    return TRY(attach_one(wanted, caller)).status;
}

Result<int> run_reattach(const ReattachCommand& command, const CommandLine& line, char** argv) {
    const Sysfs sysfs;
    const std::uint32_t index =
        TRY(find_devices(sysfs, default_runtime_directory, command.device)).front();
    const std::string act = "cannot reattach " + device_path(index) + ": ";
    const auto disk = sysfs.read(index);
    if (!disk || !disk->configured)
        return Error{Kind::absent, act + "it is not attached", "nbd-client attach attaches it"};
    const auto stored = read_status(default_runtime_directory, index);
    if (!stored || !is_attachment(disk, stored->status))
        return Error{Kind::absent, act + "it is not known how it was attached",
                     "it was not attached by this program, or /run has been emptied"};
    if (stored->watched)
        return Error{Kind::busy,
                     act + "process " + std::to_string(stored->status.pid) + " watches it already"};
    const Target target = command.target ? *command.target : TRY(parse_uri(stored->status.uri));
    const Wanted wanted =
        TRY(make_request(target, "", joined(stored->status.settings, command.settings)));
    return TRY(adopt(wanted, stored->status, {line, argv})).status;
}

}  // namespace nbd
