// SPDX-License-Identifier: MIT
// Numbers, sizes, durations, times, and what becomes of text nobody can be trusted to have written.
#include "client/base/text.h"

#include <array>
#include <gtest/gtest.h>
#include <limits>

namespace nbd {
namespace {

using std::chrono::seconds;
using namespace std::string_literals;

constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();

TEST(Text, DecimalTakesDigitsOnly) {
    EXPECT_EQ(parse_decimal("0"), 0U);
    EXPECT_EQ(parse_decimal("007"), 7U);
    EXPECT_EQ(parse_decimal("18446744073709551615"), most);
    for (const char* bad : {"", " 1", "1 ", "+1", "-1", "0x1", "1.0", "18446744073709551616"})
        EXPECT_EQ(parse_decimal(bad), std::nullopt) << bad;
}

TEST(Text, NumberKnowsTheBasesOfC) {
    EXPECT_EQ(parse_number("0"), 0U);
    EXPECT_EQ(parse_number("10"), 10U);
    EXPECT_EQ(parse_number("010"), 8U);
    EXPECT_EQ(parse_number("0x1F"), 31U);
    EXPECT_EQ(parse_number("0XffffffffffffffFF"), most);
    for (const char* bad : {"", "0x", "08", "0x-1", "0x10000000000000000", "1k"})
        EXPECT_EQ(parse_number(bad), std::nullopt) << bad;
}

TEST(Text, SizeSuffixesAreThoseOfLosetup) {
    EXPECT_EQ(parse_size("512"), 512U);
    EXPECT_EQ(parse_size("4K"), 4096U);
    EXPECT_EQ(parse_size("4k"), 4096U);
    EXPECT_EQ(parse_size("4KiB"), 4096U);
    EXPECT_EQ(parse_size("4KB"), 4000U);
    EXPECT_EQ(parse_size("1M"), 1048576U);
    EXPECT_EQ(parse_size("1MB"), 1000000U);
    EXPECT_EQ(parse_size("10G"), 10737418240U);
    EXPECT_EQ(parse_size("1T"), std::uint64_t{1} << 40);
    EXPECT_EQ(parse_size("15E"), std::uint64_t{15} << 60);
    for (const char* bad : {"", "K", "4Kb", "4KiBs", "4X", "4 K", "-4K", "1.5G", "16E", "1KK"})
        EXPECT_EQ(parse_size(bad), std::nullopt) << bad;
}

TEST(Text, Durations) {
    EXPECT_EQ(parse_duration("0"), seconds(0));
    EXPECT_EQ(parse_duration("30"), seconds(30));
    EXPECT_EQ(parse_duration("30s"), seconds(30));
    EXPECT_EQ(parse_duration("5m"), seconds(300));
    EXPECT_EQ(parse_duration("2h"), seconds(7200));
    EXPECT_EQ(parse_duration("1d"), seconds(86400));
    EXPECT_EQ(parse_duration("1m30s"), seconds(90));
    EXPECT_EQ(parse_duration("forever"), forever);
    EXPECT_EQ(parse_duration("infinity"), forever);
    for (const char* bad :
         {"", "s", "1x", "1m30", "-1", "1.5m", "1 m", "36526d", "3155760001", "9223372036854775807",
          "18446744073709551615d", "36525d36525d", "99999999999999999999s"})
        EXPECT_EQ(parse_duration(bad), std::nullopt) << bad;
}

TEST(Text, PrintedDurationsReadBack) {
    for (const auto& [duration, text] : std::initializer_list<std::pair<seconds, const char*>>{
             {seconds(0), "0"},
             {seconds(59), "59s"},
             {seconds(90), "1m30s"},
             {seconds(86400 + 1), "1d1s"},
             {std::chrono::hours(24) * 36525, "36525d"},
             {forever, "forever"}}) {
        EXPECT_EQ(format_duration(duration), text);
        EXPECT_EQ(parse_duration(text), duration);
    }
}

TEST(Text, SizesArePrintedShort) {
    EXPECT_EQ(format_size(0), "0");
    EXPECT_EQ(format_size(1023), "1023");
    EXPECT_EQ(format_size(1024), "1K");
    EXPECT_EQ(format_size(1536), "1.5K");
    EXPECT_EQ(format_size(10737418240), "10G");
    EXPECT_EQ(format_size(10737418240 + 512), "10G");
    EXPECT_EQ(format_size((std::uint64_t{1} << 20) - 1), "1M");
    EXPECT_EQ(format_size(std::uint64_t{1} << 63), "8E");
    EXPECT_EQ(format_size((std::uint64_t{1} << 62) + (std::uint64_t{1} << 59)), "4.5E");
    EXPECT_EQ(format_size(most), "16E");
}

TEST(Text, TimesAreRfc3339InUtc) {
    using Time = std::chrono::system_clock::time_point;
    EXPECT_EQ(format_time(Time(seconds(0))), "1970-01-01T00:00:00Z");
    EXPECT_EQ(format_time(Time(seconds(1769847300))), "2026-01-31T08:15:00Z");
}

TEST(Text, PrintableKeepsWhatIsHarmless) {
    for (const char* text :
         {"", "plain text", "Grüße", "日本語", "🙂", "a\"b'c", "\u00a0", "\u2027", "\u202f"})
        EXPECT_EQ(printable(text), text);
}

TEST(Text, PrintableDefusesTheRest) {
    for (const auto& [text, defused] : std::initializer_list<std::pair<std::string, const char*>>{
             {"\x1b[2J", "\\x1b[2J"},
             {"a\nb\tc", "a\\x0ab\\x09c"},
             {"\0"s, "\\x00"},
             {"\x7f", "\\x7f"},
             {"\\x1b", "\\x5cx1b"},
             {"\u009b", "\\xc2\\x9b"},
             {"\u202e", "\\xe2\\x80\\xae"},
             {"\u2028\u2029", "\\xe2\\x80\\xa8\\xe2\\x80\\xa9"},
             {"\u2066\u2069", "\\xe2\\x81\\xa6\\xe2\\x81\\xa9"},
             {"\x9b", "\\x9b"},
             {"\xff\xfe", "\\xff\\xfe"},
             {"\xc0\xaf", "\\xc0\\xaf"},                    // overlong '/'
             {"\xed\xa0\x80", "\\xed\\xa0\\x80"},           // surrogate
             {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"},  // beyond Unicode
             {"\xe2\x82", "\\xe2\\x82"},                    // cut short
             {"\xe2"
              "A",
              "\\xe2"
              "A"}})
        EXPECT_EQ(printable(text), defused);
}

TEST(Text, PrintableIsBoundedInCharacters) {
    EXPECT_EQ(printable("abcd", 4), "abcd");
    EXPECT_EQ(printable("abcde", 4), "abcd…");
    EXPECT_EQ(printable("ääää", 4), "ääää");
    EXPECT_EQ(printable("\x1b\x1b", 7), "\\x1b…");
    EXPECT_EQ(printable(std::string(10000, '\x01')).size(), 512 + std::string_view("…").size());
    EXPECT_EQ(quoted("a\x07"), "\"a\\x07\"");
}

TEST(Text, Utf8IsToldFromOtherBytes) {
    EXPECT_TRUE(is_utf8(""));
    EXPECT_TRUE(is_utf8("Grüße \x01"));
    EXPECT_FALSE(is_utf8("\xfc"));
    EXPECT_FALSE(is_utf8("a\xc3"));
}

TEST(Text, SplitTrimJoin) {
    using Parts = std::vector<std::string_view>;
    EXPECT_EQ(split("", ','), (Parts{""}));
    EXPECT_EQ(split("a,,b,", ','), (Parts{"a", "", "b", ""}));
    EXPECT_EQ(split_words(" \ta  b\t"), (Parts{"a", "b"}));
    EXPECT_EQ(split_words(" \t"), Parts{});
    EXPECT_EQ(trim(" \ta b\n"), "a b");
    EXPECT_EQ(trim(" \t"), "");
    EXPECT_EQ(join(std::array<std::string, 3>{"a", "", "b"}, ", "), "a, , b");
    EXPECT_EQ(join({}, ", "), "");
}

TEST(Text, NearestWordIsOneThatWasMeant) {
    constexpr std::array<std::string_view, 5> verbs{"attach", "detach", "list", "check", "exports"};
    EXPECT_EQ(nearest("atach", verbs), "attach");
    EXPECT_EQ(nearest("deatch", verbs), "detach");
    EXPECT_EQ(nearest("lsit", verbs), "list");
    EXPECT_EQ(nearest("exprots", verbs), "exports");
    EXPECT_EQ(nearest("list", verbs), "list");
    for (const char* far : {"", "x", "mount", "attachment-of-devices"})
        EXPECT_EQ(nearest(far, verbs), std::nullopt) << far;
    EXPECT_EQ(nearest(std::string(100000, 'a'), verbs), std::nullopt);
    constexpr std::array<std::string_view, 1> letter{"C"};
    EXPECT_EQ(nearest("R", letter), std::nullopt);
}

}  // namespace
}  // namespace nbd
