// SPDX-License-Identifier: MIT
// Parses and prints numbers, sizes and durations; splits, joins and defuses text.
#include "client/base/text.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <ctime>
#include <limits>

namespace nbd {
namespace {

constexpr std::string_view blanks = " \t\r\n\v\f";
constexpr std::string_view size_letters = "KMGTPE";

/// Far beyond any use, and small enough that adding it to any clock cannot overflow.
constexpr std::chrono::seconds longest = std::chrono::hours(24) * 36525;

std::optional<std::uint64_t> parse_digits(std::string_view text, int base) {
    std::uint64_t value = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value, base);
    if (error != std::errc{} || stop != end) return std::nullopt;
    return value;
}

std::optional<std::uint64_t> scaled(std::uint64_t value, std::uint64_t factor) {
    if (value > std::numeric_limits<std::uint64_t>::max() / factor) return std::nullopt;
    return value * factor;
}

std::size_t leading_digits(std::string_view text) {
    return std::min(text.find_first_not_of("0123456789"), text.size());
}

std::optional<std::uint64_t> seconds_of(char unit) {
    switch (unit) {
        case 's':
            return 1;
        case 'm':
            return 60;
        case 'h':
            return 3600;
        case 'd':
            return 86400;
        default:
            return std::nullopt;
    }
}

/// One character of UTF-8: how many bytes it takes (0: the first byte belongs to none) and which.
struct Character {
    std::size_t length = 0;
    char32_t code = 0;
};

Character decode(std::string_view text) {
    constexpr std::array<char32_t, 5> smallest{0, 0, 0x80, 0x800, 0x10000};
    const auto first = static_cast<unsigned char>(text.front());
    if (first < 0x80) return {1, first};
    const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 0;
    if (length == 0 || first >= 0xf8 || text.size() < length) return {};
    char32_t code = first & (0x7fU >> length);
    for (const char c : text.substr(1, length - 1)) {
        const auto byte = static_cast<unsigned char>(c);
        if ((byte & 0xc0) != 0x80) return {};
        code = (code << 6) | (byte & 0x3f);
    }
    const bool surrogate = code >= 0xd800 && code <= 0xdfff;
    if (code < smallest[length] || code > 0x10ffff || surrogate) return {};
    return {length, code};
}

bool harmless(char32_t code) {
    if (code < 0x20 || code == '\\' || (code >= 0x7f && code < 0xa0)) return false;
    const bool separator_or_override = code >= 0x2028 && code <= 0x202e;
    const bool isolate = code >= 0x2066 && code <= 0x2069;
    return !separator_or_override && !isolate;
}

void append_escaped(std::string& out, std::string_view bytes) {
    constexpr std::string_view digits = "0123456789abcdef";
    for (const char c : bytes) {
        const auto byte = static_cast<unsigned char>(c);
        out += "\\x";
        out += digits[byte >> 4];
        out += digits[byte & 0xf];
    }
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
std::size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
    for (std::size_t j = 0; j <= b.size(); ++j) last[j] = j;
    for (std::size_t i = 1; i <= a.size(); ++i) {
        row[0] = i;
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
            row[j] = std::min({replaced, last[j] + 1, row[j - 1] + 1});
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = std::min(row[j], before[j - 2] + 1);
        }
        before.swap(last);
        last.swap(row);
    }
    return last[b.size()];
}

}  // namespace

std::optional<std::uint64_t> parse_decimal(std::string_view text) {
    return parse_digits(text, 10);
}

std::optional<unsigned char> hex_digit(char c) {
    if (c >= '0' && c <= '9') return static_cast<unsigned char>(c - '0');
    if (c >= 'a' && c <= 'f') return static_cast<unsigned char>(c - 'a' + 10);
    if (c >= 'A' && c <= 'F') return static_cast<unsigned char>(c - 'A' + 10);
    return std::nullopt;
}

std::optional<std::uint64_t> parse_number(std::string_view text) {
    if (text.starts_with("0x") || text.starts_with("0X")) return parse_digits(text.substr(2), 16);
    if (text.size() > 1 && text.front() == '0') return parse_digits(text.substr(1), 8);
    return parse_digits(text, 10);
}

std::optional<std::uint64_t> parse_size(std::string_view text) {
    const std::size_t digits = leading_digits(text);
    std::optional<std::uint64_t> value = parse_decimal(text.substr(0, digits));
    std::string_view suffix = text.substr(digits);
    if (!value || suffix.empty()) return value;

    const int letter = std::toupper(static_cast<unsigned char>(suffix.front()));
    const std::size_t power = size_letters.find(static_cast<char>(letter));
    suffix.remove_prefix(1);
    if (power == std::string_view::npos) return std::nullopt;
    if (!suffix.empty() && suffix != "B" && suffix != "iB") return std::nullopt;
    const std::uint64_t unit = suffix == "B" ? 1000 : 1024;
    for (std::size_t i = 0; i <= power && value; ++i) value = scaled(*value, unit);
    return value;
}

std::optional<std::chrono::seconds> parse_duration(std::string_view text) {
    if (text == "forever" || text == "infinity") return forever;
    const auto limit = static_cast<std::uint64_t>(longest.count());
    if (const auto plain = parse_decimal(text); plain && *plain <= limit)
        return std::chrono::seconds(*plain);
    std::uint64_t sum = 0;
    do {
        const std::size_t digits = leading_digits(text);
        const auto count = parse_decimal(text.substr(0, digits));
        if (!count || digits == text.size()) return std::nullopt;
        const auto unit = seconds_of(text[digits]);
        const auto part = unit ? scaled(*count, *unit) : std::nullopt;
        if (!part || *part > limit - sum) return std::nullopt;
        sum += *part;
        text.remove_prefix(digits + 1);
    } while (!text.empty());
    return std::chrono::seconds(sum);
}

std::string format_size(std::uint64_t bytes) {
    if (bytes < 1024) return std::to_string(bytes);
    std::size_t power = 0;
    while (power + 1 < size_letters.size() && (bytes >> (10 * (power + 2))) != 0) ++power;
    const auto tenths_of = [bytes](std::size_t p) {
        const std::size_t shift = 10 * (p + 1);
        const std::uint64_t rest = bytes & ((std::uint64_t{1} << shift) - 1);
        const std::uint64_t half = std::uint64_t{1} << (shift - 1);
        // The rest is scaled down first: ten times an exabyte's rest does not fit.
        const std::uint64_t scaled_rest = shift > 50
                                              ? ((rest >> 10) * 10 + (half >> 10)) >> (shift - 10)
                                              : (rest * 10 + half) >> shift;
        return (bytes >> shift) * 10 + scaled_rest;
    };
    std::uint64_t tenths = tenths_of(power);
    if (tenths >= 10240 && power + 1 < size_letters.size()) tenths = tenths_of(++power);
    std::string text = std::to_string(tenths / 10);
    if (tenths % 10 != 0) text += '.' + std::to_string(tenths % 10);
    return text + size_letters[power];
}

std::string format_duration(std::chrono::seconds duration) {
    if (duration == forever) return "forever";
    if (duration.count() <= 0) return "0";
    auto rest = duration.count();
    std::string text;
    for (const char unit : {'d', 'h', 'm', 's'}) {
        const auto length = static_cast<std::int64_t>(*seconds_of(unit));
        if (rest >= length) text += std::to_string(rest / length) + unit;
        rest %= length;
    }
    return text;
}

std::string format_time(std::chrono::system_clock::time_point time) {
    const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
    std::tm parts{};
    gmtime_r(&seconds, &parts);
    std::array<char, 64> text{};
    return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const std::size_t length = decode(text).length;
        if (length == 0) return false;
        text.remove_prefix(length);
    }
    return true;
}

std::string printable(std::string_view text, std::size_t limit) {
    std::string out;
    std::size_t room = limit;
    while (!text.empty()) {
        const Character character = decode(text);
        const bool plain = character.length != 0 && harmless(character.code);
        const auto bytes = text.substr(0, std::max<std::size_t>(character.length, 1));
        const std::size_t width = plain ? 1 : 4 * bytes.size();
        if (width > room) return out + "…";
        if (plain)
            out += bytes;
        else
            append_escaped(out, bytes);
        room -= width;
        text.remove_prefix(bytes.size());
    }
    return out;
}

std::string quoted(std::string_view text) {
    return '"' + printable(text) + '"';
}

std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> parts;
    for (;;) {
        const std::size_t end = text.find(separator);
        parts.push_back(text.substr(0, end));
        if (end == std::string_view::npos) return parts;
        text.remove_prefix(end + 1);
    }
}

std::vector<std::string_view> split_words(std::string_view text) {
    std::vector<std::string_view> words;
    for (text = trim(text); !text.empty(); text = trim(text)) {
        const std::size_t end = std::min(text.find_first_of(blanks), text.size());
        words.push_back(text.substr(0, end));
        text.remove_prefix(end);
    }
    return words;
}

std::string_view trim(std::string_view text) {
    const std::size_t start = text.find_first_not_of(blanks);
    if (start == std::string_view::npos) return {};
    return text.substr(start, text.find_last_not_of(blanks) - start + 1);
}

std::string join(std::span<const std::string> parts, std::string_view separator) {
    std::string text;
    for (const std::string& part : parts) {
        if (&part != parts.data()) text += separator;
        text += part;
    }
    return text;
}

std::optional<std::string_view> nearest(std::string_view word,
                                        std::span<const std::string_view> candidates) {
    constexpr std::size_t longest_word = 64;
    if (word.size() > longest_word) return std::nullopt;
    std::optional<std::string_view> best;
    std::size_t best_distance = std::numeric_limits<std::size_t>::max();
    for (const std::string_view candidate : candidates) {
        const std::size_t longer = std::max(word.size(), candidate.size());
        const std::size_t near_enough = std::max<std::size_t>(longer / 3, 1);
        const std::size_t distance = edit_distance(word, candidate);
        if (distance > near_enough || distance == longer || distance >= best_distance) continue;
        best = candidate;
        best_distance = distance;
    }
    return best;
}

}  // namespace nbd
