// SPDX-License-Identifier: MIT
// Reads nbdtab: one device per line, tolerant, every bad line on its own.
#include "client/nbdtab.h"

#include "client/attach_options.h"
#include "client/base/fd.h"
#include "client/base/text.h"
#include "netlink/sysfs.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>

namespace nbd {
namespace {

constexpr std::string_view blanks = " \t\r\v\f";

/// Keys of the reference whose option is called otherwise here.
struct OldKey {
    std::string_view name;
    std::string_view option;
};
constexpr std::array old_keys = {
    OldKey{"bs", "block-size"},      OldKey{"conns", "connections"},
    OldKey{"timeout", "io-timeout"}, OldKey{"swap", "essential"},
    OldKey{"cacertfile", "tls-ca"},  OldKey{"certfile", "tls-cert"},
    OldKey{"keyfile", "tls-key"},    OldKey{"tlshostname", "tls-hostname"},
    OldKey{"no_optgo", "no-optgo"},
};

/// Keys that are no option: they say where the export is, or combine with others.
constexpr std::array<std::string_view, 6> special_keys = {"unix",         "port",     "persist",
                                                          "dead-timeout", "priority", "sdp"};

/// The fields of one line while it is taken apart; the words are still quoted.
struct Line {
    std::string_view device, host, export_name;
    std::vector<std::string_view> options;
};

/// What the options of one line add up to.
struct Options {
    Settings settings;
    std::vector<std::string> warnings;
    bool unix_path = false;
    bool persist = false;
    std::string port{default_port};
    std::string dead_timeout;
};

/// Where the first of `stops` stands outside quotes and behind no backslash, else the end; nothing
/// when a quote stays open.
std::optional<std::size_t> find_bare(std::string_view text, std::string_view stops) {
    char quote = '\0';
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c == '\\' && quote != '\'') {
            ++i;
        } else if (quote != '\0') {
            if (c == quote) quote = '\0';
        } else if (c == '"' || c == '\'') {
            quote = c;
        } else if (stops.find(c) != std::string_view::npos) {
            return i;
        }
    }
    if (quote != '\0') return std::nullopt;
    return text.size();
}

std::string unquote(std::string_view word) {
    std::string text;
    char quote = '\0';
    for (std::size_t i = 0; i < word.size(); ++i) {
        const char c = word[i];
        if (c == '\\' && quote != '\'' && i + 1 < word.size())
            text += word[++i];
        else if (quote == '\0' && (c == '"' || c == '\''))
            quote = c;
        else if (quote != '\0' && c == quote)
            quote = '\0';
        else
            text += c;
    }
    return text;
}

Error usage(std::string what, std::string hint = {}) {
    return {Kind::usage, std::move(what), std::move(hint)};
}

/// The words of a line up to its comment.
Result<std::vector<std::string_view>> words_of(std::string_view line) {
    std::vector<std::string_view> words;
    for (;;) {
        line.remove_prefix(std::min(line.find_first_not_of(blanks), line.size()));
        if (line.empty() || line.front() == '#') return words;
        const auto end = find_bare(line, blanks);
        if (!end) return usage("cannot understand " + quoted(line) + ": the quote is not closed");
        words.push_back(line.substr(0, *end));
        line.remove_prefix(*end);
    }
}

std::string_view key_of(std::string_view option) {
    return option.substr(0, find_bare(option, "=").value_or(option.size()));
}

std::string_view option_name(std::string_view key) {
    const auto* const old = std::ranges::find(old_keys, key, &OldKey::name);
    return old == old_keys.end() ? key : old->option;
}

bool is_known(std::string_view key) {
    return std::ranges::find(special_keys, key) != special_keys.end() ||
           find_attach_option(option_name(key)) != nullptr;
}

Result<Line> fields_of(const std::vector<std::string_view>& words) {
    Line line{.device = words[0], .host = {}, .export_name = {}, .options = {}};
    if (words.size() < 2) return usage("cannot find a server: the line has only a device");
    line.host = words[1];
    std::size_t next = 2;
    if (!is_uri(line.host)) {
        if (words.size() < 3)
            return usage("cannot find an export name: the line has only a device and a host",
                         "\"\" is the default export");
        line.export_name = words[next++];
    } else if (next < words.size() && words[next] == "-") {
        ++next;
    } else if (next < words.size()) {
        const std::string_view first = key_of(split(words[next], ',').front());
        if (!is_known(first) && !first.starts_with('_'))
            return usage("cannot understand " + quoted(words[next]) + ": no option",
                         "behind a URI stand options only: the URI has the export name");
    }
    for (; next < words.size(); ++next) {
        std::string_view rest = words[next];
        while (!rest.empty()) {
            const std::size_t end = *find_bare(rest, ",");
            if (end > 0) line.options.push_back(rest.substr(0, end));
            rest.remove_prefix(std::min(end + 1, rest.size()));
        }
    }
    return line;
}

void warn_unknown(Options& options, std::string_view key) {
    std::vector<std::string_view> names(special_keys.begin(), special_keys.end());
    for (const OldKey& old : old_keys) names.push_back(old.name);
    for (const AttachOption& option : attach_options()) names.push_back(option.name);
    const auto near = nearest(key, names);
    options.warnings.push_back("option " + quoted(key) + " is not known and has no effect" +
                               (near ? ", did you mean " + std::string(*near) + '?' : ""));
}

Result<void> take_special(Options& options, std::string_view key, std::string value) {
    if (key == "unix") options.unix_path = true;
    if (key == "port") options.port = std::move(value);
    if (key == "persist") options.persist = true;
    if (key == "dead-timeout") options.dead_timeout = std::move(value);
    if (key == "sdp") options.warnings.emplace_back("option sdp has no effect: SDP is gone");
    if (key == "priority")
        return usage("cannot use option priority: its words belong to another TLS library",
                     "leave it out, the safe ciphers of TLS 1.2 and 1.3 are used");
    return {};
}

Result<Options> options_of(const Line& line) {
    Options options;
    for (const std::string_view text : line.options) {
        const std::string_view raw_key = key_of(text);
        const std::string key = unquote(raw_key);
        std::string value =
            text.size() > raw_key.size() ? unquote(text.substr(raw_key.size() + 1)) : std::string();
        if (key.starts_with('_')) continue;
        if (!is_known(key))
            warn_unknown(options, key);
        else if (std::ranges::find(special_keys, key) != special_keys.end())
            TRY(take_special(options, key, std::move(value)));
        else
            options.settings.push_back({std::string(option_name(key)), std::move(value)});
    }
    complete_reference_settings(options.settings, options.persist, options.dead_timeout);
    return options;
}

Result<Target> target_of(const Line& line, const Options& options) {
    const std::string host = unquote(line.host);
    if (is_uri(line.host)) return parse_uri(host);
    if (host.empty()) return usage("cannot find a server: the host is empty");
    const std::string name = unquote(line.export_name);
    if (options.unix_path) return Target{UnixEndpoint{host}, name};
    return Target{TRY(parse_host(host, options.port)), name};
}

Result<NbdtabRecord> record_of(const std::vector<std::string_view>& words, std::string device) {
    const Line line = TRY(fields_of(words));
    Options options = TRY(options_of(line));
    AttachRequest request;
    request.target = TRY(target_of(line, options));
    TRY(apply_settings(request, options.settings));
    return NbdtabRecord{.device = std::move(device),
                        .target = std::move(request.target),
                        .settings = std::move(options.settings),
                        .warnings = std::move(options.warnings)};
}

std::string place(unsigned line, std::string_view file_name) {
    return "line " + std::to_string(line) + " of " + printable(file_name);
}

/// The device of a line whose words cannot be told apart, as far as it can be read.
std::string first_device(std::string_view line) {
    const auto index = parse_device(split_words(line).front());
    return index ? device_name(*index) : "";
}

/// Collects records and complaints so that per device only the last line counts.
class Table {
public:
    explicit Table(std::string_view file_name) : file_name_(file_name) {}

    void add(unsigned number, std::string_view text) {
        auto words = words_of(text);
        if (!words) return complain(number, first_device(text), std::move(words).error());
        if (words->empty()) return;
        const auto index = parse_device(unquote(words->front()));
        if (!index) return complain(number, "", index.error());
        std::string device = device_name(*index);
        auto record = record_of(*words, device);
        if (!record) return complain(number, std::move(device), std::move(record).error());
        keep(number, *std::move(record));
    }

    Nbdtab take() && {
        Nbdtab tab;
        for (auto& [device, record] : records_) tab.records.push_back(std::move(record));
        std::ranges::sort(tab.records, {}, &NbdtabRecord::line);
        tab.complaints = std::move(complaints_);
        return tab;
    }

private:
    void complain(unsigned number, std::string device, Error error) {
        records_.erase(device);
        complaints_.push_back({number, std::move(device),
                               std::move(error).during("reading " + place(number, file_name_))});
    }

    void keep(unsigned number, NbdtabRecord record) {
        record.line = number;
        for (std::string& warning : record.warnings)
            warning = place(number, file_name_) + ": " + warning;
        auto& kept = records_[record.device];
        if (kept.line != 0)
            record.warnings.push_back(place(kept.line, file_name_) + " has no effect: " + "line " +
                                      std::to_string(number) + " is for " + record.device +
                                      " as well");
        kept = std::move(record);
    }

    std::string_view file_name_;
    std::map<std::string, NbdtabRecord, std::less<>> records_;
    std::vector<Nbdtab::Complaint> complaints_;
};

}  // namespace

const NbdtabRecord* Nbdtab::find(std::string_view device) const {
    const auto found = std::ranges::find(records, device, &NbdtabRecord::device);
    return found == records.end() ? nullptr : &*found;
}

Nbdtab parse_nbdtab(std::string_view text, std::string_view file_name) {
    Table table(file_name);
    unsigned number = 0;
    for (const std::string_view line : split(text, '\n')) table.add(++number, line);
    return std::move(table).take();
}

Result<Nbdtab> read_nbdtab(const std::string& file) {
    return parse_nbdtab(TRY(read_file(file)), file);
}

Result<NbdtabRecord> nbdtab_record(const std::string& file, std::string_view device) {
    const std::string name = device_name(TRY(parse_device(device)));
    const Nbdtab tab = TRY(read_nbdtab(file));
    if (const NbdtabRecord* const record = tab.find(name)) return *record;
    for (const auto& complaint : tab.complaints)
        if (complaint.device == name) return complaint.error;
    return Error{Kind::absent,
                 "cannot find " + name + " in " + printable(file) + ": no such record",
                 "each line is: device host export [options]"};
}

}  // namespace nbd
