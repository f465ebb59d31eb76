// SPDX-License-Identifier: MIT
// The classic dialect: translates the reference nbd-client's command line into a CommandLine.
#include "client/classic.h"

#include "client/attach_options.h"
#include "client/base/text.h"
#include "netlink/sysfs.h"

#include <algorithm>
#include <cctype>
#include <optional>
#include <string_view>

namespace nbd {
namespace {

enum class Action { attach, check, disconnect, list, help, version };

/// What the words have said so far.
struct Draft {
    Settings settings;
    std::vector<std::string> words;
    std::vector<std::string> warnings;
    std::optional<std::string> export_name;
    std::string device;  ///< of -c and -d
    std::string dead_timeout;
    std::vector<Action> actions;
    bool unix_path = false;
    bool persist = false;
    bool verbose = false;
};

enum class Value { none, text, number };

/// One option: either it is a setting under another name, or `take` says what it does.
struct ClassicOption {
    std::string_view name;
    char letter;
    Value value;
    std::string_view setting;
    Result<void> (*take)(Draft& draft, std::string_view value);
};

Error usage(std::string what, std::string hint = {}) {
    return {Kind::usage, std::move(what), std::move(hint)};
}

template <Action action>
Result<void> act(Draft& draft, std::string_view device) {
    draft.actions.push_back(action);
    if (!device.empty()) draft.device = device;
    return {};
}

template <bool Draft::*member>
Result<void> flag(Draft& draft, std::string_view) {
    draft.*member = true;
    return {};
}

Result<void> take_name(Draft& draft, std::string_view value) {
    draft.export_name = value;
    return {};
}

Result<void> take_dead_timeout(Draft& draft, std::string_view value) {
    draft.dead_timeout = value;
    return {};
}

Result<void> take_sdp(Draft& draft, std::string_view) {
    draft.warnings.emplace_back("-sdp has no effect: SDP is gone");
    return {};
}

Result<void> take_priority(Draft&, std::string_view) {
    return usage("cannot use -priority: its words belong to another TLS library",
                 "leave it out, the safe ciphers of TLS 1.2 and 1.3 are used");
}

constexpr ClassicOption table[] = {
    {"block-size", 'b', Value::number, "block-size", nullptr},
    {"cacertfile", 'A', Value::text, "tls-ca", nullptr},
    {"certfile", 'F', Value::text, "tls-cert", nullptr},
    {"check", 'c', Value::text, "", act<Action::check>},
    {"connections", 'C', Value::number, "connections", nullptr},
    {"dead-timeout", 'T', Value::number, "", take_dead_timeout},
    {"disconnect", 'd', Value::text, "", act<Action::disconnect>},
    {"enable-tls", 'x', Value::none, "tls", nullptr},
    {"help", 'h', Value::none, "", act<Action::help>},
    {"identifier", 'i', Value::text, "id", nullptr},
    {"keyfile", 'K', Value::text, "tls-key", nullptr},
    {"list", 'l', Value::none, "", act<Action::list>},
    {"name", 'N', Value::text, "", take_name},
    {"no-optgo", 'g', Value::none, "no-optgo", nullptr},
    {"nofork", 'n', Value::none, "foreground", nullptr},
    {"nonetlink", 'L', Value::none, "no-netlink", nullptr},
    {"persist", 'p', Value::none, "", flag<&Draft::persist>},
    {"preinit", 'P', Value::none, "preinit", nullptr},
    {"priority", 'y', Value::text, "", take_priority},
    {"readonly", 'R', Value::none, "read-only", nullptr},
    {"sdp", 'S', Value::none, "", take_sdp},
    {"size", 'B', Value::number, "size", nullptr},
    {"swap", 's', Value::none, "essential", nullptr},
    {"systemd-mark", 'm', Value::none, "mark", nullptr},
    {"timeout", 't', Value::number, "io-timeout", nullptr},
    {"tlshostname", 'H', Value::text, "tls-hostname", nullptr},
    {"unix", 'u', Value::none, "", flag<&Draft::unix_path>},
    {"verbose", 'v', Value::none, "", flag<&Draft::verbose>},
    {"version", 'V', Value::none, "", act<Action::version>},
};

constexpr std::string_view help_text =
    "Usage: nbd-client [OPTION...] HOST [PORT] [DEVICE] [-N NAME]\n"
    "       nbd-client [OPTION...] -u PATH [DEVICE] [-N NAME]\n"
    "       nbd-client DEVICE                  (from /etc/nbdtab)\n"
    "       nbd-client -d DEVICE               (disconnect)\n"
    "       nbd-client -c DEVICE               (is it connected?)\n"
    "       nbd-client -l HOST [PORT]          (list exports)\n"
    "This is the classic command line; nbd-client --help shows the verbs,\n"
    "nbd-client(8) both.\n";

/// Scripts look for these words.
constexpr const char* version_text = "This is nbd-client, from nbd " NBD_VERSION "\n";

Result<void> take(Draft& draft, const ClassicOption& option, std::string_view value) {
    std::string text(value);
    if (option.value == Value::number) {
        const auto number = parse_number(value);
        if (!number)
            return usage("cannot understand -" + std::string(option.name) + ' ' + quoted(value) +
                         ": not a number");
        text = std::to_string(*number);
    }
    if (option.take != nullptr) return option.take(draft, text);
    draft.settings.push_back({std::string(option.setting), std::move(text)});
    return {};
}

/// The options a long name may mean: the one of that very name, else all it abbreviates.
std::vector<const ClassicOption*> matches(std::string_view name) {
    std::vector<const ClassicOption*> found;
    for (const ClassicOption& option : table) {
        if (option.name == name) return {&option};
        if (option.name.starts_with(name)) found.push_back(&option);
    }
    return found;
}

const ClassicOption* find_letter(char letter) {
    const auto* const found = std::ranges::find(table, letter, &ClassicOption::letter);
    return found == std::end(table) ? nullptr : found;
}

Error ambiguous(std::string_view word, const std::vector<const ClassicOption*>& candidates) {
    std::vector<std::string> names;
    for (const ClassicOption* option : candidates) names.push_back('-' + std::string(option->name));
    return usage("cannot understand " + quoted(word) + ": it may mean " + join(names, " or "));
}

Error unknown(std::string_view word) {
    std::vector<std::string_view> names;
    for (const ClassicOption& option : table) names.push_back(option.name);
    const std::string_view name = word.substr(std::min(word.find_first_not_of('-'), word.size()));
    const auto near = nearest(name.substr(0, name.find('=')), names);
    return usage("cannot understand " + quoted(word) + ": no such option",
                 near ? "did you mean -" + std::string(*near) + '?' : "nbd-client -h shows some");
}

/// Walks the arguments as getopt_long_only does.
class Walk {
public:
    Walk(const std::vector<std::string>& arguments, Draft& draft)
        : arguments_(arguments), draft_(draft) {}

    Result<void> run() {
        bool only_words = false;
        while (next_ < arguments_.size()) {
            const std::string_view word = arguments_[next_++];
            if (!only_words && word == "--")
                only_words = true;
            else if (!only_words && word.size() > 1 && word.front() == '-')
                TRY(option(word));
            else
                TRY(plain(word));
        }
        return {};
    }

private:
    /// With one dash a single letter, and what is no long name, is a cluster of letters.
    Result<void> option(std::string_view word) {
        const bool two_dashes = word.starts_with("--");
        const std::string_view body = word.substr(two_dashes ? 2 : 1);
        const bool has_letter = find_letter(body.front()) != nullptr;
        if (!two_dashes && body.size() == 1 && has_letter) return letters(word, body);
        const std::string_view name = body.substr(0, body.find('='));
        const auto found = matches(name);
        if (found.size() > 1) return ambiguous(word, found);
        if (found.size() == 1) return long_option(word, *found.front());
        if (!two_dashes && has_letter) return letters(word, body);
        return unknown(word);
    }

    Result<void> long_option(std::string_view word, const ClassicOption& option) {
        const std::size_t equals = word.find('=');
        const bool glued = equals != std::string_view::npos;
        if (option.value != Value::none)
            return take(draft_, option, glued ? word.substr(equals + 1) : TRY(following(word)));
        if (glued) return usage("cannot understand " + quoted(word) + ": it takes no value");
        return take(draft_, option, "");
    }

    Result<void> letters(std::string_view word, std::string_view body) {
        while (!body.empty()) {
            const ClassicOption* const option = find_letter(body.front());
            if (option == nullptr) return unknown(word);
            body.remove_prefix(1);
            if (option->value == Value::none)
                TRY(take(draft_, *option, ""));
            else
                return take(draft_, *option, body.empty() ? TRY(following(word)) : body);
        }
        return {};
    }

    /// The next argument, whatever it looks like.
    Result<std::string_view> following(std::string_view word) {
        if (next_ == arguments_.size())
            return usage("cannot understand " + quoted(word) + ": its value is missing");
        return std::string_view(arguments_[next_++]);
    }

    Result<void> plain(std::string_view word) {
        for (const std::string_view old : {"bs", "timeout"}) {
            if (!word.starts_with(old) || !word.substr(old.size()).starts_with('=')) continue;
            const ClassicOption& option = old == "bs" ? *find_letter('b') : *find_letter('t');
            draft_.warnings.push_back(std::string(old) + "= is an old spelling of -" +
                                      std::string(option.name));
            return take(draft_, option, word.substr(old.size() + 1));
        }
        draft_.words.emplace_back(word);
        return {};
    }

    const std::vector<std::string>& arguments_;
    Draft& draft_;
    std::size_t next_ = 0;
};

/// Where the words say the export is, and what is left of them.
struct Place {
    std::string host;
    std::string port{default_port};
    std::string device;
};

/// A port by number (also 0x and 0, as strtol took it) or by service name.
Result<std::string> parse_port(std::string_view word) {
    if (std::isdigit(static_cast<unsigned char>(word.front())) == 0) return std::string(word);
    const auto number = parse_number(word);
    if (!number || *number == 0 || *number > 65535)
        return usage("cannot understand port " + quoted(word) + ": not a number from 1 to 65535");
    return std::to_string(*number);
}

/// "0" was no port for strtol, so the reference took it for a device.
bool is_device(std::string_view word) {
    const bool number = !word.empty() && std::isdigit(static_cast<unsigned char>(word[0])) != 0;
    return word.starts_with('/') || word == "0" || (!number && parse_device(word).has_value());
}

Result<Place> place_of(const Draft& draft) {
    if (draft.words.empty())
        return usage("cannot attach: no host and no device given", "nbd-client -h shows the forms");
    Place place{.host = draft.words[0], .device = {}};
    std::size_t next = 1;
    if (next < draft.words.size() && !is_uri(place.host) && !draft.words[next].empty() &&
        !is_device(draft.words[next]))
        place.port = TRY(parse_port(draft.words[next++]));
    if (next < draft.words.size()) {
        place.device = draft.words[next++];
        TRY(parse_device(place.device));
    }
    if (next < draft.words.size())
        return usage("cannot understand " + quoted(draft.words[next]) + ": too many words",
                     "the words are: host, port, device");
    return place;
}

Result<Target> target_of(const Draft& draft, const Place& place) {
    const std::string name = draft.export_name.value_or("");
    if (is_uri(place.host)) {
        Target target = TRY(parse_uri(place.host));
        if (!name.empty() && !target.export_name.empty())
            return usage("cannot use -name " + quoted(name) + ": the URI names an export already");
        if (!name.empty()) target.export_name = name;
        return target;
    }
    if (draft.unix_path) return Target{UnixEndpoint{place.host}, name};
    return Target{TRY(parse_host(place.host, place.port)), name};
}

Settings settings_of(const Draft& draft) {
    Settings settings = draft.settings;
    complete_reference_settings(settings, draft.persist, draft.dead_timeout);
    return settings;
}

/// No reconnecting unless asked for.
const Setting classic_default{"reconnect-for", "0"};

Result<AttachCommand> from_nbdtab(const Draft& draft) {
    AttachCommand command{.tab = device_name(TRY(parse_device(draft.words[0])))};
    if (draft.export_name)
        return usage("cannot use -name with " + draft.words[0] + ": nbdtab names its export",
                     "give the host as well to attach something else");
    command.defaults = {classic_default};
    command.settings = settings_of(draft);
    AttachRequest request;
    for (const Setting& setting : command.settings) TRY(apply_setting(request, setting));
    return command;
}

/// A device alone means its nbdtab record. With -N "nbd0" is a host, as it may well be one.
bool is_nbdtab_form(const Draft& draft) {
    if (draft.unix_path || draft.words.size() != 1) return false;
    const std::string_view word = draft.words[0];
    if (word.starts_with("/dev/")) return parse_device(word).has_value();
    return word.starts_with("nbd") && !draft.export_name && parse_device(word).has_value();
}

Result<AttachCommand> attach_command(const Draft& draft) {
    if (is_nbdtab_form(draft)) return from_nbdtab(draft);
    const Place place = TRY(place_of(draft));
    Settings settings = settings_of(draft);
    if (std::ranges::find(settings, "reconnect-for", &Setting::name) == settings.end())
        settings.push_back(classic_default);
    AttachRequest request;
    request.target = TRY(target_of(draft, place));
    TRY(apply_settings(request, settings));
    if (request.no_netlink && place.device.empty())
        return usage("cannot attach without a device: with -nonetlink the kernel chooses none",
                     "name one, for instance /dev/nbd0");
    return AttachCommand{.target = std::move(request.target),
                         .device = place.device,
                         .settings = std::move(settings)};
}

Result<ExportsCommand> list_command(const Draft& draft) {
    const Place place = TRY(place_of(draft));
    if (!place.device.empty())
        return usage("cannot understand " + quoted(place.device) + ": -list needs no device");
    AttachRequest request;
    request.target = TRY(target_of(draft, place));
    ExportsCommand command;
    for (Setting& setting : settings_of(draft)) {
        TRY(apply_setting(request, setting));
        if (find_attach_option(setting.name)->for_handshake())
            command.settings.push_back(std::move(setting));
    }
    command.target = std::move(request.target);
    return command;
}

Result<Command> command_of(Draft& draft) {
    if (draft.actions.empty()) return Command(TRY(attach_command(draft)));
    const Action action = draft.actions.front();
    if (action == Action::help) return Command(PrintCommand{std::string(help_text)});
    if (action == Action::version) return Command(PrintCommand{version_text});
    if (std::ranges::any_of(draft.actions, [&](Action other) { return other != action; }))
        return usage("cannot do several things at once: give one of -check, -disconnect, -list");
    if (action == Action::list) return Command(TRY(list_command(draft)));
    if (!draft.words.empty())
        draft.warnings.push_back(quoted(draft.words[0]) + " has no effect here");
    if (action == Action::check) return Command(CheckCommand{draft.device});
    return Command(DetachCommand{.devices = {draft.device}});
}

}  // namespace

Result<CommandLine> parse_classic(const std::vector<std::string>& arguments) {
    Draft draft;
    TRY(Walk(arguments, draft).run());
    CommandLine line{.command = TRY(command_of(draft)), .classic = true};
    line.verbose = draft.verbose;
    line.level = draft.verbose ? Level::info : Level::warning;
    line.warnings = std::move(draft.warnings);
    return line;
}

}  // namespace nbd
