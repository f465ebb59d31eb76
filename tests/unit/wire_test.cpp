// SPDX-License-Identifier: MIT
// Handshake messages, byte for byte, and the limits their decoders keep.
#include "client/protocol/wire.h"

#include <array>
#include <gtest/gtest.h>

namespace nbd {
namespace {

std::string text_of(const Writer& writer) {
    return Reader(writer.bytes()).rest_as_text();
}

std::string operator""_b(const char* text, std::size_t length) {
    return {text, length};
}

std::span<const std::byte> bytes_of(const std::string& text) {
    return std::as_bytes(std::span(text));
}

TEST(Names, are_those_of_the_protocol_document) {
    EXPECT_EQ(flag_name(TransmissionFlag::has_flags), "has_flags");
    EXPECT_EQ(flag_name(TransmissionFlag::read_only), "read_only");
    EXPECT_EQ(flag_name(TransmissionFlag::can_multi_conn), "can_multi_conn");
    EXPECT_EQ(flag_name(TransmissionFlag::block_stat_payload), "block_stat_payload");
    for (const std::uint16_t unknown : std::initializer_list<std::uint16_t>{0, 3, 1 << 13, 1 << 15})
        EXPECT_EQ(flag_name(static_cast<TransmissionFlag>(unknown)), "") << unknown;
    EXPECT_EQ(option_name(Option::go), "NBD_OPT_GO");
    EXPECT_EQ(option_name(static_cast<Option>(0xdeadbeef)), "option 0xdeadbeef");
    EXPECT_EQ(reply_name(Reply::err_tls_reqd), "NBD_REP_ERR_TLS_REQD");
    EXPECT_EQ(reply_name(static_cast<Reply>(0x99)), "reply type 0x99");
    EXPECT_EQ(info_name(Info::block_size), "NBD_INFO_BLOCK_SIZE");
    EXPECT_EQ(info_name(static_cast<Info>(9)), "information type 0x9");
}

TEST(Encode, options_and_requests) {
    EXPECT_EQ(text_of(encode_option(Option::list, {})), "IHAVEOPT\0\0\0\3\0\0\0\0"_b);
    EXPECT_EQ(text_of(encode_option(Option::export_name, bytes_of("abc"))),
              "IHAVEOPT\0\0\0\1\0\0\0\3abc"_b);
    EXPECT_EQ(text_of(encode_info_request("x", {Info::export_size, Info::block_size})),
              "\0\0\0\1x\0\2\0\0\0\3"_b);
    EXPECT_EQ(text_of(encode_disconnect()), "\x25\x60\x95\x13\0\0\0\2"_b + std::string(20, '\0'));
}

TEST(ReplyHeader, is_checked_in_every_field) {
    const std::string magic = "\0\3\xe8\x89\4\x55\x65\xa9"_b;
    const auto good =
        decode_reply_header(bytes_of(magic + "\0\0\0\7\x80\0\0\6\0\1\0\0"_b), Option::go);
    ASSERT_TRUE(good) << good.error().what;
    EXPECT_EQ(*good, (ReplyHeader{Option::go, Reply::err_unknown, max_reply_data}));
    const std::array bad = {
        magic + "\0\0\0\7\x80\0\0\6\0\1\0\1"_b,  // one byte too many announced
        magic + "\0\0\0\7\x80\0\0\6\xff\xff\xff\xff"_b,
        magic + "\0\0\0\6\0\0\0\1\0\0\0\0"_b,  // another option
        "\0\3\xe8\x89\4\x55\x65\xaa\0\0\0\7\0\0\0\1\0\0\0\0"_b,
        magic + "\0\0\0\7\0\0\0\1\0\0\0"_b,
        magic + "\0\0\0\7\0\0\0\1\0\0\0\0\0"_b,
        ""_b,
    };
    for (const std::string& bytes : bad) {
        const auto header = decode_reply_header(bytes_of(bytes), Option::go);
        ASSERT_FALSE(header);
        EXPECT_EQ(header.error().kind, Kind::protocol);
    }
}

TEST(SizeAndFlags, ends_at_what_the_kernel_addresses) {
    const auto good = decode_size_and_flags(bytes_of("\x7f\xff\xff\xff\xff\xff\xff\xff\1\2"_b));
    ASSERT_TRUE(good);
    EXPECT_EQ(*good, (SizeAndFlags{max_export_size, 0x102}));
    for (const std::string& bytes :
         {"\x80\0\0\0\0\0\0\0\0\0"_b, "\0\0\0\0\0\0\0\1\0"_b, "\0\0\0\0\0\0\0\1\0\0\0"_b})
        EXPECT_FALSE(decode_size_and_flags(bytes_of(bytes)));
    const auto old = decode_oldstyle(bytes_of("\0\0\0\0\0\0\2\0\xab\xcd\0\3"_b));
    ASSERT_TRUE(old);
    EXPECT_EQ(*old, (SizeAndFlags{512, 3}));
    EXPECT_FALSE(decode_oldstyle(bytes_of("\0\0\0\0\0\0\2\0\xab\xcd\0"_b)));
}

TEST(BlockSizes, obey_the_protocol_document) {
    struct Case {
        std::uint32_t minimum, preferred, maximum;
        std::uint64_t size;
        bool good;
    };
    constexpr std::uint64_t large = std::uint64_t{1} << 40;
    constexpr std::array cases = {
        Case{1, 4096, 33554432, large, true},
        Case{1, 512, 512, large, true},
        Case{512, 512, 512, large, true},
        Case{4096, 4096, 0xffffffff, large, true},
        Case{65536, 65536, 65536, large, true},
        Case{1, 4096, 1000, 1000, true},  // reaches the end of a small export
        Case{1, 4096, 999, 1000, false},
        Case{1, 4096, 4095, large, false},  // below the preferred size
        Case{1, 0x80000000, 0xffffffff, large, true},
        Case{0, 4096, 65536, large, false},
        Case{3, 4096, 65535, large, false},
        Case{131072, 131072, 131072, large, false},
        Case{0xffffffff, 4096, 65536, large, false},
        Case{1, 0, 65536, large, false},
        Case{1, 256, 65536, large, false},  // the preferred size is at least 512
        Case{1, 5000, 65536, large, false},
        Case{8192, 4096, 65536, large, false},  // below the minimum
        Case{4096, 4096, 65535, large, false},  // no multiple of the minimum
        Case{1, 4096, 0, large, false},
    };
    for (const Case& c : cases) {
        Writer writer;
        writer.integer(c.minimum).integer(c.preferred).integer(c.maximum);
        const auto sizes = decode_block_sizes(writer.bytes());
        EXPECT_EQ(sizes && check_maximum(*sizes, c.size), c.good)
            << c.minimum << " " << c.preferred << " " << c.maximum;
        if (sizes) {
            EXPECT_EQ(*sizes, (BlockSizes{c.minimum, c.preferred, c.maximum}));
        }
        EXPECT_FALSE(decode_block_sizes(writer.bytes().first(11)));
    }
}

TEST(ListedExport, splits_name_and_description) {
    const auto both = decode_listed_export(bytes_of("\0\0\0\3onetext"_b));
    ASSERT_TRUE(both);
    EXPECT_EQ(*both, (ListedExport{"one", "text"}));
    const auto empty = decode_listed_export(bytes_of("\0\0\0\0"_b));
    ASSERT_TRUE(empty);
    EXPECT_EQ(*empty, ListedExport{});
    const std::string longest(max_string, 'x');
    EXPECT_TRUE(decode_listed_export(bytes_of("\0\0\x10\0"_b + longest + longest)));
    for (const std::string& bytes :
         {""_b, "\0\0\0"_b, "\0\0\0\4one"_b, "\xff\xff\xff\xffone"_b, "\0\0\0\3o\0e"_b,
          "\0\0\0\1ot\0"_b, "\0\0\x10\1"_b + longest + "x", "\0\0\0\0"_b + longest + "x"})
        EXPECT_FALSE(decode_listed_export(bytes_of(bytes)));
}

}  // namespace
}  // namespace nbd
