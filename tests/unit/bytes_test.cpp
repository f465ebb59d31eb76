// SPDX-License-Identifier: MIT
// Big-endian writing and reading, and the flag that a short message leaves behind.
#include "client/base/bytes.h"

#include <gtest/gtest.h>

namespace nbd {
namespace {

std::string text_of(const Writer& writer) {
    return Reader(writer.bytes()).rest_as_text();
}

TEST(Writer, is_big_endian) {
    Writer writer;
    writer.integer(std::uint8_t{0xab})
        .integer(std::uint16_t{0x0102})
        .integer(std::uint32_t{0x03040506})
        .integer(std::uint64_t{0xf708090a0b0c0d0e})
        .text("xy")
        .zeros(2);
    EXPECT_EQ(text_of(writer), std::string("\xab\1\2\3\4\5\6\xf7\x8\x9\xa\xb\xc\xd\xexy\0\0", 19));
}

TEST(Reader, reads_back_what_was_written) {
    Writer writer;
    writer.integer(~std::uint64_t{0}).integer(std::uint16_t{0x8001}).text("name").integer(7u);
    Reader reader(writer.bytes());
    EXPECT_EQ(reader.integer<std::uint64_t>(), ~std::uint64_t{0});
    EXPECT_EQ(reader.integer<std::uint16_t>(), 0x8001);
    EXPECT_EQ(reader.text(4), "name");
    EXPECT_EQ(reader.left(), 4u);
    EXPECT_FALSE(reader.complete());
    EXPECT_EQ(reader.integer<std::uint32_t>(), 7u);
    EXPECT_TRUE(reader.complete());
}

TEST(Reader, yields_zeros_past_the_end_and_remembers_it) {
    Writer writer;
    writer.integer(std::uint16_t{0xffff}).integer(std::uint8_t{0xff});
    Reader reader(writer.bytes());
    EXPECT_EQ(reader.integer<std::uint16_t>(), 0xffff);
    EXPECT_FALSE(reader.was_short());
    EXPECT_EQ(reader.integer<std::uint32_t>(), 0u);
    EXPECT_TRUE(reader.was_short());
    // Nothing that is left over may be taken for a later field.
    EXPECT_EQ(reader.integer<std::uint8_t>(), 0u);
    EXPECT_EQ(reader.text(1), "");
    EXPECT_TRUE(reader.was_short());
    EXPECT_FALSE(reader.complete());
}

TEST(Reader, of_nothing_is_complete) {
    Reader reader({});
    EXPECT_TRUE(reader.complete());
    EXPECT_EQ(reader.rest_as_text(), "");
    EXPECT_TRUE(reader.complete());
    EXPECT_EQ(reader.text(static_cast<std::size_t>(-1)), "");
    EXPECT_TRUE(reader.was_short());
}

}  // namespace
}  // namespace nbd
