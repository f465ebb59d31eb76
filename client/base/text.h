// SPDX-License-Identifier: MIT
// Parses and prints numbers, sizes and durations; splits, joins and defuses text.
#pragma once

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nbd {

/// The duration that options spell `forever`.
inline constexpr std::chrono::seconds forever = std::chrono::seconds::max();

/// Decimal digits only, the whole text; nothing on overflow or anything else.
std::optional<std::uint64_t> parse_decimal(std::string_view text);

/// The value of one hexadecimal digit of either case.
std::optional<unsigned char> hex_digit(char c);

/// As the classic command line writes numbers: decimal, 0x hexadecimal or 0 octal.
std::optional<std::uint64_t> parse_number(std::string_view text);

/// Bytes: a number with an optional suffix; K, M, G, T, KiB … are powers of 1024, KB, MB … of 1000.
std::optional<std::uint64_t> parse_size(std::string_view text);

/// Seconds: "30", "30s", "5m", "2h", "1d", sums like "1m30s", or "forever" ("infinity"). At most a
/// century, so that adding it to a clock's time cannot overflow.
std::optional<std::chrono::seconds> parse_duration(std::string_view text);

/// "512", "4K", "10G", "1.5G": rounded to one decimal of the largest power of 1024 below the value.
std::string format_size(std::uint64_t bytes);
/// "90s" as "1m30s", 0 as "0", forever as "forever"; what parse_duration reads back.
std::string format_duration(std::chrono::seconds duration);
/// UTC as RFC 3339, "2026-01-31T08:15:00Z".
std::string format_time(std::chrono::system_clock::time_point time);

bool is_utf8(std::string_view text);

/// The text with control characters (also those of bidirectional writing), backslashes and bytes
/// that are not UTF-8 as \xNN, cut after at most `limit` characters with "…": what a peer or a file
/// sent may reach a terminal only through here.
std::string printable(std::string_view text, std::size_t limit = 512);
/// printable() in double quotes.
std::string quoted(std::string_view text);

std::vector<std::string_view> split(std::string_view text, char separator);
/// Split at runs of blanks and tabs, no empty words.
std::vector<std::string_view> split_words(std::string_view text);
std::string_view trim(std::string_view text);
std::string join(std::span<const std::string> parts, std::string_view separator);

/// The candidate nearest to `word` by edit distance, or nothing when none is near enough to be
/// meant.
std::optional<std::string_view> nearest(std::string_view word,
                                        std::span<const std::string_view> candidates);

}  // namespace nbd
