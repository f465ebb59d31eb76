// SPDX-License-Identifier: MIT
// The verb grammar: argv to CommandLine, help and completion words.
#include "client/options.h"

#include "client/attach_options.h"
#include "client/base/text.h"
#include "client/classic.h"
#include "client/render.h"
#include "netlink/sysfs.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <utility>

namespace nbd {
namespace {

struct Option {
    std::string_view name;
    char letter;
    std::string_view metavar;  ///< empty: a flag
    std::string_view help;
    std::string_view heading;
};

/// A command line behind its verb, taken apart.
struct Parsed {
    std::vector<std::string> words;
    Settings own;       ///< the verb's own and the general options
    Settings settings;  ///< attach options

    std::size_t count(std::string_view name) const {
        return static_cast<std::size_t>(std::ranges::count(own, name, &Setting::name));
    }
    bool has(std::string_view name) const { return count(name) != 0; }
    /// The last one given, or "".
    std::string value(std::string_view name) const {
        const auto found = std::find_if(own.rbegin(), own.rend(),
                                        [&](const Setting& s) { return s.name == name; });
        return found == own.rend() ? "" : found->value;
    }
};

struct Verb {
    std::string_view name;
    std::array<std::string_view, 3> synopses;  ///< what may stand behind the options
    std::string_view summary;
    std::span<const Option> own;
    bool (*takes)(const AttachOption& option);
    Result<Command> (*build)(const Parsed& parsed);
};

Error usage(std::string what, std::string hint = {}) {
    return {Kind::usage, std::move(what), std::move(hint)};
}

// The verbs' own options.

constexpr std::string_view selection = "Selection";
constexpr std::string_view output = "Output";
constexpr std::string_view general = "General";

constexpr Option json_option{"json", '\0', "", "answer as JSON", output};

constexpr Option attach_own[] = {
    {"tab", '\0', "NAME", "attach this device of nbdtab", selection},
    {"all", '\0', "", "attach every device of nbdtab", selection},
    {"nbdtab", '\0', "FILE", "instead of /etc/nbdtab", selection},
};
constexpr Option detach_own[] = {
    {"all", '\0', "", "every attached device", selection},
    {"force", '\0', "", "even while it is in use", group::device},
    {"deferred", '\0', "", "as soon as its last user closes it", group::device},
};
constexpr Option resize_own[] = {
    {"force", '\0', "", "even if that makes the device smaller", group::device},
};
constexpr Option list_own[] = {
    {"output", 'o', "COLUMNS", "only these columns, +COLUMN: one more", output},
    {"noheadings", 'n', "", "no heading line", output},
    {"raw", '\0', "", "one blank between fields, unknown ones empty", output},
    {"bytes", 'b', "", "sizes in bytes", output},
    json_option,
    {"watch", '\0', "", "refresh in place", output},
};
constexpr Option json_own[] = {json_option};

constexpr Option general_options[] = {
    {"verbose", 'v', "", "say more, -vv: still more", general},
    {"quiet", 'q', "", "say nothing but errors", general},
    {"log-target", '\0', "WHERE", "auto, stderr, journal or kmsg", general},
    {"help", 'h', "", "show this help", general},
};

// What the verbs make of their words.

Result<void> check_words(const Parsed& parsed, std::size_t least, std::size_t most,
                         std::string_view what) {
    if (parsed.words.size() < least)
        return usage("cannot go on: " + std::string(what) + " is missing");
    if (parsed.words.size() > most)
        return usage("cannot understand " + nbd::quoted(parsed.words[most]) + ": too many words");
    return {};
}

/// What an attach-like command line asks for at `word`, with all its settings tried.
Result<Target> checked_target(std::string_view word, const Settings& settings) {
    AttachRequest request;
    request.target = TRY(parse_uri(word));
    TRY(apply_settings(request, settings));
    return std::move(request.target);
}

Result<Command> build_attach(const Parsed& parsed) {
    AttachCommand command{.all = parsed.has("all"), .settings = parsed.settings};
    if (parsed.has("nbdtab")) command.nbdtab = parsed.value("nbdtab");
    const bool from_tab = command.all || parsed.has("tab");
    if (command.all && parsed.has("tab"))
        return usage("cannot use --all and --tab together: --all is every device");
    if (parsed.has("nbdtab") && !from_tab)
        return usage("cannot use --nbdtab with a URI: nothing is read from it");
    TRY(check_words(parsed, from_tab ? 0 : 1, from_tab ? 0 : 2, "the URI of the export"));
    if (from_tab) {
        AttachRequest request;
        for (const Setting& setting : command.settings) TRY(apply_setting(request, setting));
        if (!command.all) command.tab = device_name(TRY(parse_device(parsed.value("tab"))));
        return Command(std::move(command));
    }
    if (parsed.words.size() == 2) {
        if (is_uri(parsed.words[1]) && !is_uri(parsed.words[0]))
            return usage("cannot understand " + nbd::quoted(parsed.words[0]) + ": not a URI",
                         "the URI comes first, then the device");
        TRY(parse_device(parsed.words[1]));
        command.device = parsed.words[1];
    }
    command.target = TRY(checked_target(parsed.words[0], parsed.settings));
    return Command(std::move(command));
}

Result<Command> build_detach(const Parsed& parsed) {
    DetachCommand command{.devices = parsed.words,
                          .all = parsed.has("all"),
                          .force = parsed.has("force"),
                          .deferred = parsed.has("deferred")};
    if (command.all && !command.devices.empty())
        return usage("cannot use --all with " + nbd::quoted(command.devices[0]) +
                     ": --all is every device");
    if (command.force && command.deferred)
        return usage("cannot use --force and --deferred together: now, or when nobody uses it");
    if (!command.all) TRY(check_words(parsed, 1, parsed.words.size(), "the device to detach"));
    return Command(std::move(command));
}

Result<Command> build_reattach(const Parsed& parsed) {
    TRY(check_words(parsed, 1, 2, "the device to reattach"));
    std::vector<std::string> words = parsed.words;
    if (is_uri(words[0])) std::swap(words.front(), words.back());
    if (is_uri(words[0])) return usage("cannot go on: the device to reattach is missing");
    ReattachCommand command{.device = words[0], .settings = parsed.settings};
    AttachRequest request;
    for (const Setting& setting : parsed.settings) TRY(apply_setting(request, setting));
    if (words.size() == 2) command.target = TRY(checked_target(words[1], parsed.settings));
    return Command(std::move(command));
}

Result<Command> build_resize(const Parsed& parsed) {
    TRY(check_words(parsed, 1, 1, "the device to resize"));
    return Command(ResizeCommand{.device = parsed.words[0], .force = parsed.has("force")});
}

Result<Command> build_list(const Parsed& parsed) {
    ListCommand command{.devices = parsed.words,
                        .no_headings = parsed.has("noheadings"),
                        .raw = parsed.has("raw"),
                        .bytes = parsed.has("bytes"),
                        .json = parsed.has("json"),
                        .blocks = parsed.has("verbose"),
                        .watch = parsed.has("watch")};
    const std::string columns = parsed.value("output");
    if (!columns.empty())
        for (const std::string_view column : split(columns, ','))
            command.columns.emplace_back(column);
    return Command(std::move(command));
}

Result<Command> build_check(const Parsed& parsed) {
    TRY(check_words(parsed, 1, 1, "the device to check"));
    return Command(CheckCommand{parsed.words[0]});
}

template <typename What>
Result<Command> build_query(const Parsed& parsed) {
    TRY(check_words(parsed, 1, 1, "the URI"));
    return Command(What{.target = TRY(checked_target(parsed.words[0], parsed.settings)),
                        .settings = parsed.settings,
                        .json = parsed.has("json")});
}

bool takes_all(const AttachOption&) {
    return true;
}
bool takes_none(const AttachOption&) {
    return false;
}
bool takes_reattach(const AttachOption& option) {
    return option.for_reattach();
}
bool takes_handshake(const AttachOption& option) {
    return option.for_handshake();
}

constexpr Verb verb_table[] = {
    {"attach",
     {"URI [DEVICE]", "--tab NAME", "--all"},
     "attach an export, print its device",
     attach_own,
     takes_all,
     build_attach},
    {"detach",
     {"DEVICE|URI...", "--all"},
     "undo it; returns when the device is free",
     detach_own,
     takes_none,
     build_detach},
    {"reattach",
     {"DEVICE [URI]"},
     "give an attached device a new connection, keep watching it",
     {},
     takes_reattach,
     build_reattach},
    {"resize",
     {"DEVICE"},
     "take over the size the export has now",
     resize_own,
     takes_none,
     build_resize},
    {"list", {"[DEVICE...]"}, "show what is attached", list_own, takes_none, build_list},
    {"check",
     {"DEVICE"},
     "exit with 0 if it is attached, 1 if not, 2 if unknown",
     {},
     takes_none,
     build_check},
    {"exports",
     {"URI"},
     "show what the server offers",
     json_own,
     takes_handshake,
     build_query<ExportsCommand>},
    {"info",
     {"URI"},
     "show size, flags and block sizes of an export",
     json_own,
     takes_handshake,
     build_query<InfoCommand>},
};

constexpr auto verb_names = [] {
    std::array<std::string_view, std::size(verb_table)> names{};
    for (std::size_t i = 0; i < names.size(); ++i) names[i] = verb_table[i].name;
    return names;
}();

const Verb* find_verb(std::string_view name) {
    const auto* const found = std::ranges::find(verb_table, name, &Verb::name);
    return found == std::end(verb_table) ? nullptr : found;
}

/// All options of a verb in the order help shows them.
std::vector<Option> options_of(const Verb& verb) {
    std::vector<Option> options(verb.own.begin(), verb.own.end());
    for (const AttachOption& option : attach_options())
        if (verb.takes(option))
            options.push_back(
                {option.name, option.letter, option.metavar, option.help, option.group});
    options.insert(options.end(), std::begin(general_options), std::end(general_options));
    return options;
}

/// What may stand without a verb.
std::vector<Option> top_options() {
    std::vector<Option> options(std::begin(general_options), std::end(general_options));
    options.push_back({"version", '\0', "", "show the version", general});
    return options;
}

// Help and completion words.

void add_option_lines(std::string& text, std::span<const Option> options) {
    constexpr std::size_t column = 34;
    std::string_view heading;
    for (const Option& option : options) {
        if (option.heading != heading) text += '\n' + std::string(option.heading) + ":\n";
        heading = option.heading;
        std::string left = option.letter != '\0' ? std::string("  -") + option.letter + ", --"
                                                 : std::string("      --");
        left += option.name;
        if (!option.metavar.empty()) left += ' ' + std::string(option.metavar);
        left.resize(std::max(column, left.size() + 2), ' ');
        text += left + std::string(option.help) + '\n';
    }
}

std::string verb_help(const Verb& verb) {
    std::string text;
    for (const std::string_view synopsis : verb.synopses) {
        if (synopsis.empty()) continue;
        text += text.empty() ? "Usage: " : "       ";
        text +=
            "nbd-client " + std::string(verb.name) + " [OPTION...] " + std::string(synopsis) + '\n';
    }
    text += "\n" + std::string(verb.summary) + '\n';
    add_option_lines(text, options_of(verb));
    return text;
}

std::string top_help() {
    std::string text = "Usage: nbd-client VERB [OPTION...] [ARGUMENT...]\n\nVerbs:\n";
    for (const Verb& verb : verb_table) {
        std::string left = "  " + std::string(verb.name);
        left.resize(12, ' ');
        text += left + std::string(verb.summary) + '\n';
    }
    add_option_lines(text, top_options());
    text +=
        "\nnbd-client VERB --help shows the options of a verb; no verb at all means list.\n"
        "The classic form, nbd-client HOST [PORT] DEVICE -N NAME, works as well: see\n"
        "nbd-client -h and nbd-client(8).\n";
    return text;
}

std::string lines_of(std::span<const std::string_view> words) {
    std::string text;
    for (const std::string_view word : words) text += std::string(word) + '\n';
    return text;
}

/// What the completion scripts ask for: the scripts themselves know no verb, option or column.
///   --words verbs | --words columns | --words options [VERB] | --words value VERB OPTION
Result<Command> completion_words(std::span<const std::string> arguments) {
    const std::string kind = arguments.empty() ? "" : arguments[0];
    const bool top = kind == "options" && arguments.size() == 1;
    const Verb* const verb = arguments.size() < 2 ? nullptr : find_verb(arguments[1]);
    if (kind == "verbs") return Command(PrintCommand{lines_of(verb_names)});
    if (kind == "columns") return Command(PrintCommand{lines_of(column_names())});
    if (!top && ((kind != "options" && kind != "value") || verb == nullptr))
        return usage("cannot list words: verbs, columns, options [VERB] or value VERB OPTION");
    std::string text;
    const std::vector<Option> options = top ? top_options() : options_of(*verb);
    for (const Option& option : options) {
        const std::string name = "--" + std::string(option.name);
        const std::string letter = option.letter == '\0' ? "" : std::string("-") + option.letter;
        if (kind == "options") text += name + '\n' + (letter.empty() ? "" : letter + '\n');
        if (kind == "value" && arguments.size() > 2 && !option.metavar.empty() &&
            (arguments[2] == name || arguments[2] == letter))
            text += std::string(option.metavar) + '\n';
    }
    return Command(PrintCommand{std::move(text)});
}

// CLI11, and its failures in our words.

Error unknown_option(const Verb& verb, const std::string& word) {
    const std::vector<Option> options = options_of(verb);
    std::vector<std::string_view> names;
    for (const Option& option : options) names.push_back(option.name);
    const std::string_view name =
        std::string_view(word).substr(std::min(word.find_first_not_of('-'), word.size()));
    const auto near = nearest(name.substr(0, name.find('=')), names);
    const std::string verb_name(verb.name);
    return usage("cannot understand " + nbd::quoted(word) + ": no such option of " + verb_name,
                 near ? "did you mean --" + std::string(*near) + '?'
                      : "nbd-client " + verb_name + " --help shows its options");
}

/// CLI11 leaves the words and what it does not know in one list.
Result<void> take_rest(Parsed& parsed, const Verb& verb, const std::vector<std::string>& rest) {
    bool only_words = false;
    for (const std::string& word : rest) {
        if (!only_words && word == "--")
            only_words = true;
        else if (!only_words && word.size() > 1 && word.front() == '-')
            return unknown_option(verb, word);
        else
            parsed.words.push_back(word);
    }
    return {};
}

/// "true" is what CLI11 makes of a flag without a value.
Result<void> take_option(Parsed& parsed, const Option& option,
                         const std::vector<std::string>& values) {
    const bool is_flag = option.metavar.empty();
    const bool is_setting = find_attach_option(option.name) != nullptr;
    for (const std::string& value : values) {
        const bool bare = is_flag && value == "true";
        if (is_flag && !bare && !is_setting)
            return usage("cannot understand --" + std::string(option.name) + '=' +
                         printable(value) + ": it takes no value");
        Settings& into = is_setting ? parsed.settings : parsed.own;
        into.push_back({std::string(option.name), bare ? "" : value});
    }
    return {};
}

/// CLI11 would take the next word for the value of "--name=".
Result<void> refuse_empty_values(std::span<const std::string> arguments) {
    for (const std::string& word : arguments) {
        if (word == "--") break;
        if (word.starts_with("--") && word.find('=') == word.size() - 1)
            return usage("cannot understand " + nbd::quoted(word) + ": its value is missing");
    }
    return {};
}

Result<Parsed> parse_arguments(const Verb& verb, std::vector<std::string> arguments) {
    TRY(refuse_empty_values(arguments));
    const std::vector<Option> options = options_of(verb);
    const std::string last = arguments.empty() ? "" : arguments.back();
    Parsed parsed;
    try {
        CLI::App app;
        app.set_help_flag();
        app.allow_extras();
        std::vector<CLI::Option*> handles;
        for (const Option& option : options) {
            std::string names = "--" + std::string(option.name);
            if (option.letter != '\0') names += std::string(",-") + option.letter;
            handles.push_back(option.metavar.empty() ? app.add_flag(names) : app.add_option(names));
            handles.back()->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
        }
        std::ranges::reverse(arguments);  // as CLI11 wants them
        app.parse(std::move(arguments));
        TRY(take_rest(parsed, verb, app.remaining()));
        for (std::size_t i = 0; i < options.size(); ++i)
            TRY(take_option(parsed, options[i], handles[i]->results()));
    } catch (const CLI::Error&) {
        // The only failure left: an option takes whatever follows, so it can only be the last word.
        return usage("cannot understand " + nbd::quoted(last) + ": its value is missing");
    }
    return parsed;
}

// Logging, by environment and options.

constexpr std::array<std::pair<std::string_view, Level>, 4> levels = {{{"error", Level::error},
                                                                       {"warning", Level::warning},
                                                                       {"info", Level::info},
                                                                       {"debug", Level::debug}}};
constexpr std::array<std::pair<std::string_view, LogTarget>, 4> log_targets = {
    {{"auto", LogTarget::automatic},
     {"stderr", LogTarget::stderr_stream},
     {"journal", LogTarget::journal},
     {"kmsg", LogTarget::kmsg}}};

template <typename Table>
auto find_named(const Table& table, std::string_view name)
    -> std::optional<typename Table::value_type::second_type> {
    for (const auto& [known, value] : table)
        if (known == name) return value;
    return std::nullopt;
}

template <typename Table, typename Value>
void from_environment(const char* name, const Table& table, Value& value,
                      std::vector<std::string>& warnings) {
    const char* const text = secure_getenv(name);
    if (text == nullptr || *text == '\0') return;
    const auto found = find_named(table, text);
    if (found)
        value = *found;
    else
        warnings.push_back(std::string(name) + '=' + printable(text) + " is not understood");
}

Result<void> take_logging(CommandLine& line, const Parsed& parsed) {
    line.verbose = parsed.has("verbose");
    if (line.verbose) line.level = parsed.count("verbose") > 1 ? Level::debug : Level::info;
    if (parsed.has("quiet")) line.level = Level::error;
    if (!parsed.has("log-target")) return {};
    const std::string name = parsed.value("log-target");
    const auto target = find_named(log_targets, name);
    if (!target)
        return usage("cannot use option log-target " + nbd::quoted(name) +
                     ": not auto, stderr, journal or kmsg");
    line.log_target = *target;
    return {};
}

Result<CommandLine> parse_verb(CommandLine line, const Verb& verb,
                               std::vector<std::string> arguments) {
    const Parsed parsed = TRY(parse_arguments(verb, std::move(arguments)));
    TRY(take_logging(line, parsed));
    line.command =
        parsed.has("help") ? Command(PrintCommand{verb_help(verb)}) : TRY(verb.build(parsed));
    return line;
}

/// The classic dialect; a mistyped verb looks like a host there.
Result<CommandLine> parse_as_classic(CommandLine line, const std::vector<std::string>& arguments) {
    const auto near = nearest(arguments[0], verb_names);
    auto classic = parse_classic(arguments);
    if (!classic) {
        Error error = std::move(classic).error();
        if (near) error.hint = "did you mean nbd-client " + std::string(*near) + '?';
        return error;
    }
    line.command = std::move(classic->command);
    line.classic = true;
    line.verbose = classic->verbose;
    if (line.verbose) line.level = Level::info;
    std::ranges::move(classic->warnings, std::back_inserter(line.warnings));
    if (near && arguments.size() == 1)
        line.warnings.push_back(nbd::quoted(arguments[0]) + " is taken for a host, did you mean " +
                                std::string(*near) + '?');
    return line;
}

/// How many words in front of the verb are logging options.
std::size_t leading_options(const std::vector<std::string>& arguments) {
    constexpr std::array<std::string_view, 5> plain = {"-v", "-vv", "--verbose", "-q", "--quiet"};
    std::size_t count = 0;
    while (count < arguments.size()) {
        const std::string& word = arguments[count];
        if (word == "--log-target" && count + 1 < arguments.size())
            count += 2;
        else if (word.starts_with("--log-target=") || std::ranges::find(plain, word) != plain.end())
            ++count;
        else
            break;
    }
    return count;
}

/// The word that decides the dialect.
std::string deciding_word(const std::vector<std::string>& arguments) {
    const std::size_t leading = leading_options(arguments);
    return leading < arguments.size() ? arguments[leading] : "list";
}

}  // namespace

std::span<const std::string_view> verbs() {
    return verb_names;
}

bool is_classic(const std::vector<std::string>& arguments) {
    const std::string word = deciding_word(arguments);
    return word != "--help" && word != "--version" && word != "--words" && !find_verb(word);
}

Result<CommandLine> parse_command_line(const std::vector<std::string>& arguments) {
    CommandLine line;
    from_environment("NBD_CLIENT_LOG", levels, line.level, line.warnings);
    from_environment("NBD_CLIENT_LOG_TARGET", log_targets, line.log_target, line.warnings);

    const std::size_t leading = leading_options(arguments);
    const std::string first = deciding_word(arguments);
    if (first == "--help") {
        line.command = PrintCommand{top_help()};
    } else if (first == "--version") {
        line.command = PrintCommand{"nbd-client " NBD_VERSION "\n"};
    } else if (first == "--words") {
        line.command = TRY(completion_words(std::span(arguments).subspan(leading + 1)));
    } else if (const Verb* const verb = find_verb(first)) {
        std::vector<std::string> rest = arguments;
        if (leading < rest.size()) rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(leading));
        return parse_verb(std::move(line), *verb, std::move(rest));
    } else {
        return parse_as_classic(std::move(line), arguments);
    }
    return line;
}

}  // namespace nbd
