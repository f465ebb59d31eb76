// SPDX-License-Identifier: MIT
// Rows, exports and export information as tables, raw lines, blocks or JSON, from one column table.
#include "client/render.h"

#include "client/base/text.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <nlohmann/json.hpp>

namespace nbd {
namespace {

using Json = nlohmann::ordered_json;

constexpr unsigned format_version = 1;
constexpr std::array<std::string_view, 5> default_columns{"NAME", "SIZE", "RO", "STATE", "URI"};

/// What one cell holds. The text is nothing when unknown; it is defused where it is printed.
using Text = std::optional<std::string>;
struct Cell {
    Text text;
    Json json;
};

struct Column {
    std::string_view name;  ///< also its heading
    std::string_view key;   ///< in JSON and in blocks
    bool right;             ///< aligned so
    std::string_view help;
    Cell (*cell)(const DeviceRow& row, bool bytes);
};

template <typename Number>
Cell number(const std::optional<Number>& value) {
    if (!value) return {};
    return {std::to_string(*value), *value};
}

Cell boolean(const std::optional<bool>& value) {
    if (!value) return {};
    return {*value ? "1" : "0", *value};
}

Cell text(const std::optional<std::string>& value) {
    if (!value || value->empty()) return {};
    return {*value, *value};
}

Cell time(const std::optional<std::chrono::system_clock::time_point>& value) {
    if (!value) return {};
    return {format_time(*value), format_time(*value)};
}

Cell list(const std::vector<std::string>& values) {
    return {values.empty() ? Text() : join(values, ","), values};
}

/// "degraded 2/4": how many of the connections live is what one wants to know then.
Cell state(const DeviceRow& row) {
    std::string words(to_string(row.state));
    if (row.state == LinkState::degraded && row.live_connections && row.connections)
        words +=
            ' ' + std::to_string(*row.live_connections) + '/' + std::to_string(*row.connections);
    return {words, to_string(row.state)};
}

/// The one place that knows the columns; in the order of JSON and of the help.
constexpr Column columns[] = {
    {"NAME", "device", false, "device node",
     [](const DeviceRow& row, bool) { return text(device_path(row.index)); }},
    {"INDEX", "index", true, "number of the device",
     [](const DeviceRow& row, bool) { return number(std::optional(row.index)); }},
    {"SIZE", "size", true, "size (with --bytes: in bytes)",
     [](const DeviceRow& row, bool bytes) {
         return Cell{bytes ? std::to_string(row.size) : format_size(row.size), row.size};
     }},
    {"BLOCK", "block_size", true, "logical block size in bytes",
     [](const DeviceRow& row, bool) { return number(row.block_size); }},
    {"RO", "read_only", true, "1 when read-only",
     [](const DeviceRow& row, bool) { return boolean(row.read_only); }},
    {"STATE", "state", false, "attached, degraded, reconnecting, failing",
     [](const DeviceRow& row, bool) { return state(row); }},
    {"SINCE", "since", false, "when this state began",
     [](const DeviceRow& row, bool) { return time(row.since); }},
    {"CONNS", "connections", true, "connections to the server",
     [](const DeviceRow& row, bool) { return number(row.connections); }},
    {"LIVE", "live_connections", true, "connections that live now",
     [](const DeviceRow& row, bool) { return number(row.live_connections); }},
    {"TLS", "tls", true, "1 when encrypted",
     [](const DeviceRow& row, bool) { return boolean(row.tls); }},
    {"OFFLOAD", "tls_offload", false, "who encrypts: ktls (the kernel), relay",
     [](const DeviceRow& row, bool) { return text(row.offload); }},
    {"ID", "id", false, "backend identifier in the kernel",
     [](const DeviceRow& row, bool) { return text(row.id); }},
    {"URI", "uri", false, "what is attached",
     [](const DeviceRow& row, bool) { return text(row.uri); }},
    {"PID", "pid", true, "process that watches the device",
     [](const DeviceRow& row, bool) { return number(row.pid); }},
    {"MOUNTPOINT", "mountpoints", false, "where it is mounted, [SWAP]",
     [](const DeviceRow& row, bool) { return list(row.mountpoints); }},
    {"PARTS", "partitions", false, "its partitions",
     [](const DeviceRow& row, bool) { return list(row.partitions); }},
    {"RECONNECTS", "reconnects", true, "connections replaced so far",
     [](const DeviceRow& row, bool) { return number(row.reconnects); }},
    {"SERVER", "server", false, "address of the newest connection",
     [](const DeviceRow& row, bool) { return text(row.server); }},
    {"CLOCK", "fails_at", false, "when waiting I/O will fail",
     [](const DeviceRow& row, bool) { return time(row.fails_at); }},
    {"ERROR", "last_error", false, "why the latest attempt to connect failed",
     [](const DeviceRow& row, bool) { return text(row.last_error); }},
};

using Columns = std::vector<const Column*>;

/// Case does not matter.
Result<const Column*> find_column(std::string_view word) {
    std::string name(word);
    for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    for (const Column& column : columns)
        if (column.name == name) return &column;
    const std::vector<std::string_view> names = column_names();
    const auto meant = nearest(name, names);
    const std::vector<std::string> all(names.begin(), names.end());
    return Error{
        Kind::usage, "cannot show column " + quoted(word) + ": there is no such column",
        meant ? "did you mean " + std::string(*meant) + "?" : "columns are " + join(all, ", ")};
}

/// Those asked for; a first word with a plus adds to the usual ones.
Result<Columns> chosen_columns(const ListCommand& command) {
    Columns chosen;
    const bool extend = !command.columns.empty() && command.columns.front().starts_with('+');
    if (extend || (command.columns.empty() && !command.json && !command.blocks))
        for (const std::string_view name : default_columns)
            chosen.push_back(TRY(find_column(name)));
    else if (command.columns.empty())
        for (const Column& column : columns) chosen.push_back(&column);
    for (const std::string_view word : command.columns)
        chosen.push_back(TRY(find_column(word.starts_with('+') ? word.substr(1) : word)));
    return chosen;
}

/// Anything of a peer or a file, whole: values are never truncated.
std::string defused(std::string_view value) {
    return printable(value, std::string_view::npos);
}

std::string raw_field(const Text& value) {
    std::string field;
    for (const char c : defused(value.value_or("")))
        if (c == ' ')
            field += "\\x20";
        else
            field += c;
    return field;
}

std::size_t width_of(std::string_view value) {
    const auto begins = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; };
    return static_cast<std::size_t>(std::count_if(value.begin(), value.end(), begins));
}

using Line = std::vector<std::string>;

std::vector<Line> lines_of(const ListCommand& command, const Columns& chosen,
                           std::span<const DeviceRow> rows) {
    std::vector<Line> lines;
    if (rows.empty()) return lines;
    if (!command.no_headings) {
        Line& headings = lines.emplace_back();
        for (const Column* column : chosen) headings.emplace_back(column->name);
    }
    for (const DeviceRow& row : rows) {
        Line& line = lines.emplace_back();
        for (const Column* column : chosen) {
            const Text value = column->cell(row, command.bytes).text;
            line.push_back(command.raw ? raw_field(value) : defused(value.value_or("-")));
        }
    }
    return lines;
}

std::string padded(const std::string& field, std::size_t width, bool right, bool last) {
    const std::string gap(width - width_of(field), ' ');
    if (right) return gap + field;
    return last ? field : field + gap;
}

std::string aligned(const Columns& chosen, const std::vector<Line>& lines) {
    std::vector<std::size_t> widths(chosen.size());
    for (const Line& line : lines)
        for (std::size_t i = 0; i < line.size(); ++i)
            widths[i] = std::max(widths[i], width_of(line[i]));
    std::string out;
    for (const Line& line : lines)
        for (std::size_t i = 0; i < line.size(); ++i) {
            const bool last = i + 1 == line.size();
            out += padded(line[i], widths[i], chosen[i]->right, last) + (last ? '\n' : ' ');
        }
    return out;
}

/// One block per device, an empty line between two.
std::string blocks(const ListCommand& command, const Columns& chosen,
                   std::span<const DeviceRow> rows) {
    std::string out;
    for (const DeviceRow& row : rows) {
        if (!out.empty()) out += '\n';
        for (const Column* column : chosen) {
            const Text value = column->cell(row, command.bytes).text;
            out += std::string(column->key) + ": " + defused(value.value_or("-")) + '\n';
        }
    }
    return out;
}

/// ASCII only, so that nothing in it can move a terminal's cursor; bytes that are not UTF-8 become
/// replacement characters.
std::string document(const Json& json) {
    return json.dump(2, ' ', true, Json::error_handler_t::replace) + '\n';
}

std::string list_json(const Columns& chosen, std::span<const DeviceRow> rows) {
    Json devices = Json::array();
    for (const DeviceRow& row : rows) {
        Json device = Json::object();
        for (const Column* column : chosen)
            device[std::string(column->key)] = column->cell(row, true).json;
        devices.push_back(std::move(device));
    }
    return document({{"version", format_version}, {"devices", std::move(devices)}});
}

/// Known flags by the protocol's names, others by their bit.
std::vector<std::string> flag_names(std::uint16_t flags) {
    std::vector<std::string> names;
    for (unsigned bit = 0; bit < 16; ++bit) {
        const auto flag = static_cast<std::uint16_t>(1U << bit);
        if ((flags & flag) == 0) continue;
        const std::string_view name = flag_name(static_cast<TransmissionFlag>(flag));
        names.push_back(name.empty() ? "bit_" + std::to_string(bit) : std::string(name));
    }
    return names;
}

std::string info_json(const Target& target, const ExportInfo& info) {
    const auto& sizes = info.block_sizes;
    const auto size = [&sizes](std::uint32_t BlockSizes::*which) {
        return sizes ? Json((*sizes).*which) : Json();
    };
    return document({{"version", format_version},
                     {"uri", to_uri(target)},
                     {"name", info.name},
                     {"description", info.description},
                     {"size", info.size},
                     {"read_only", info.has(TransmissionFlag::read_only)},
                     {"flags", flag_names(info.flags)},
                     {"minimum_block_size", size(&BlockSizes::minimum)},
                     {"preferred_block_size", size(&BlockSizes::preferred)},
                     {"maximum_block_size", size(&BlockSizes::maximum)}});
}

}  // namespace

std::vector<std::string_view> column_names() {
    std::vector<std::string_view> names;
    for (const Column& column : columns) names.push_back(column.name);
    return names;
}

std::string_view column_help(std::string_view name) {
    const Result<const Column*> column = find_column(name);
    return column ? (*column)->help : std::string_view();
}

Result<std::string> render_list(const ListCommand& command, std::span<const DeviceRow> rows) {
    const Columns chosen = TRY(chosen_columns(command));
    if (command.json) return list_json(chosen, rows);
    if (command.blocks) return blocks(command, chosen, rows);
    const std::vector<Line> lines = lines_of(command, chosen, rows);
    if (!command.raw) return aligned(chosen, lines);
    std::string out;
    for (const Line& line : lines) out += join(line, " ") + '\n';
    return out;
}

std::string render_exports(std::span<const ListedExport> exports, bool json) {
    if (json) {
        Json array = Json::array();
        for (const ListedExport& item : exports)
            array.push_back({{"name", item.name},
                             {"description", item.description},
                             {"size", item.size ? Json(*item.size) : Json()}});
        return document({{"version", format_version}, {"exports", std::move(array)}});
    }
    std::string out;
    for (const ListedExport& item : exports) {
        out += defused(item.name);
        if (!item.description.empty()) out += ": " + defused(item.description);
        out += '\n';
    }
    return out;
}

std::string render_info(const Target& target, const ExportInfo& info, bool json) {
    if (json) return info_json(target, info);
    std::string out;
    const auto line = [&out](std::string_view key, std::string_view value) {
        if (!value.empty()) out += std::string(key) + ": " + defused(value) + '\n';
    };
    line("uri", to_uri(target));
    line("name", info.name);
    line("description", info.description);
    line("size", format_size(info.size) + " (" + std::to_string(info.size) + " bytes)");
    line("read-only", info.has(TransmissionFlag::read_only) ? "yes" : "no");
    line("flags", join(flag_names(info.flags), " "));
    if (info.block_sizes) {
        line("minimum block size", std::to_string(info.block_sizes->minimum));
        line("preferred block size", std::to_string(info.block_sizes->preferred));
        line("maximum block size", std::to_string(info.block_sizes->maximum));
    }
    return out;
}

}  // namespace nbd
