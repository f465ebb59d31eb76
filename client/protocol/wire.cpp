// SPDX-License-Identifier: MIT
// Constants and messages of the NBD handshake, with encode and decode; no I/O.
#include "client/protocol/wire.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>

namespace nbd {

namespace {

constexpr std::uint32_t request_magic = 0x25609513;
constexpr std::uint16_t cmd_disc = 2;

Error malformed(std::string cause) {
    return {Kind::protocol, std::move(cause)};
}

/// In the order of their bits.
constexpr std::array<std::string_view, 13> flag_names = {
    "has_flags",          "read_only",   "send_flush",        "send_fua",
    "rotational",         "send_trim",   "send_write_zeroes", "send_df",
    "can_multi_conn",     "send_resize", "send_cache",        "send_fast_zero",
    "block_stat_payload",
};

template <typename Number>
struct Named {
    Number number;
    std::string_view name;
};

constexpr std::array<Named<Option>, 6> option_names = {{
    {Option::export_name, "NBD_OPT_EXPORT_NAME"},
    {Option::abort, "NBD_OPT_ABORT"},
    {Option::list, "NBD_OPT_LIST"},
    {Option::starttls, "NBD_OPT_STARTTLS"},
    {Option::info, "NBD_OPT_INFO"},
    {Option::go, "NBD_OPT_GO"},
}};

constexpr std::array<Named<Reply>, 13> reply_names = {{
    {Reply::ack, "NBD_REP_ACK"},
    {Reply::server, "NBD_REP_SERVER"},
    {Reply::info, "NBD_REP_INFO"},
    {Reply::err_unsup, "NBD_REP_ERR_UNSUP"},
    {Reply::err_policy, "NBD_REP_ERR_POLICY"},
    {Reply::err_invalid, "NBD_REP_ERR_INVALID"},
    {Reply::err_platform, "NBD_REP_ERR_PLATFORM"},
    {Reply::err_tls_reqd, "NBD_REP_ERR_TLS_REQD"},
    {Reply::err_unknown, "NBD_REP_ERR_UNKNOWN"},
    {Reply::err_shutdown, "NBD_REP_ERR_SHUTDOWN"},
    {Reply::err_block_size_reqd, "NBD_REP_ERR_BLOCK_SIZE_REQD"},
    {Reply::err_too_big, "NBD_REP_ERR_TOO_BIG"},
    {Reply::err_ext_header_reqd, "NBD_REP_ERR_EXT_HEADER_REQD"},
}};

constexpr std::array<Named<Info>, 4> info_names = {{
    {Info::export_size, "NBD_INFO_EXPORT"},
    {Info::name, "NBD_INFO_NAME"},
    {Info::description, "NBD_INFO_DESCRIPTION"},
    {Info::block_size, "NBD_INFO_BLOCK_SIZE"},
}};

template <typename Number, std::size_t size>
std::string name_of(const std::array<Named<Number>, size>& names, Number number,
                    std::string_view noun) {
    for (const auto& entry : names)
        if (entry.number == number) return std::string(entry.name);
    std::array<char, 16> hex;
    std::snprintf(hex.data(), hex.size(), " 0x%x", static_cast<unsigned>(number));
    return std::string(noun) + hex.data();
}

Result<SizeAndFlags> checked(SizeAndFlags value) {
    if (value.size > max_export_size)
        return malformed("an export of " + std::to_string(value.size) +
                         " bytes is larger than the kernel can address");
    return value;
}

}  // namespace

std::string_view flag_name(TransmissionFlag flag) {
    const auto bits = static_cast<std::uint16_t>(flag);
    const auto bit = static_cast<std::size_t>(std::countr_zero(bits));
    return std::has_single_bit(bits) && bit < flag_names.size() ? flag_names[bit] : "";
}

std::string option_name(Option option) {
    return name_of(option_names, option, "option");
}

std::string reply_name(Reply type) {
    return name_of(reply_names, type, "reply type");
}

std::string info_name(Info type) {
    return name_of(info_names, type, "information type");
}

Writer encode_option(Option option, std::span<const std::byte> data) {
    Writer writer;
    writer.integer(opts_magic)
        .integer(static_cast<std::uint32_t>(option))
        .integer(static_cast<std::uint32_t>(data.size()));
    for (const std::byte b : data) writer.integer(std::to_integer<std::uint8_t>(b));
    return writer;
}

Writer encode_info_request(std::string_view export_name, std::initializer_list<Info> wanted) {
    Writer writer;
    writer.integer(static_cast<std::uint32_t>(export_name.size()))
        .text(export_name)
        .integer(static_cast<std::uint16_t>(wanted.size()));
    for (const Info info : wanted) writer.integer(static_cast<std::uint16_t>(info));
    return writer;
}

Writer encode_disconnect() {
    Writer writer;
    writer.integer(request_magic)
        .integer(std::uint16_t{0})
        .integer(cmd_disc)
        .integer(std::uint64_t{0})
        .integer(std::uint64_t{0})
        .integer(std::uint32_t{0});
    return writer;
}

Result<ReplyHeader> decode_reply_header(std::span<const std::byte> bytes, Option expected) {
    Reader reader(bytes);
    const auto magic = reader.integer<std::uint64_t>();
    ReplyHeader header;
    header.option = static_cast<Option>(reader.integer<std::uint32_t>());
    header.type = static_cast<Reply>(reader.integer<std::uint32_t>());
    header.length = reader.integer<std::uint32_t>();
    if (!reader.complete()) return malformed("option reply header of a wrong length");
    if (magic != rep_magic) return malformed("option reply without its magic number");
    if (header.option != expected)
        return malformed("reply to " + option_name(header.option) + " instead of " +
                         option_name(expected));
    if (header.length > max_reply_data)
        return malformed(reply_name(header.type) + " announces " + std::to_string(header.length) +
                         " bytes of data, more than " + std::to_string(max_reply_data));
    return header;
}

Result<SizeAndFlags> decode_size_and_flags(std::span<const std::byte> bytes) {
    Reader reader(bytes);
    SizeAndFlags value;
    value.size = reader.integer<std::uint64_t>();
    value.flags = reader.integer<std::uint16_t>();
    if (!reader.complete()) return malformed("export size of a wrong length");
    return checked(value);
}

Result<SizeAndFlags> decode_oldstyle(std::span<const std::byte> bytes) {
    Reader reader(bytes);
    SizeAndFlags value;
    value.size = reader.integer<std::uint64_t>();
    // The upper half is where newstyle servers put the handshake flags.
    value.flags = static_cast<std::uint16_t>(reader.integer<std::uint32_t>() & 0xffff);
    if (!reader.complete()) return malformed("export size of a wrong length");
    return checked(value);
}

Result<BlockSizes> decode_block_sizes(std::span<const std::byte> bytes) {
    Reader reader(bytes);
    BlockSizes sizes;
    sizes.minimum = reader.integer<std::uint32_t>();
    sizes.preferred = reader.integer<std::uint32_t>();
    sizes.maximum = reader.integer<std::uint32_t>();
    if (!reader.complete()) return malformed("block sizes of a wrong length");
    if (!std::has_single_bit(sizes.minimum) || sizes.minimum > largest_minimum_block_size)
        return malformed("minimum block size " + std::to_string(sizes.minimum) +
                         " is not a power of two up to 65536");
    if (!std::has_single_bit(sizes.preferred) || sizes.preferred < std::max(sizes.minimum, 512u))
        return malformed("preferred block size " + std::to_string(sizes.preferred) +
                         " is not a power of two from " +
                         std::to_string(std::max(sizes.minimum, 512u)));
    if (sizes.maximum != 0xffffffff && sizes.maximum % sizes.minimum != 0)
        return malformed("maximum block size " + std::to_string(sizes.maximum) +
                         " is not a multiple of the minimum " + std::to_string(sizes.minimum));
    return sizes;
}

Result<void> check_maximum(const BlockSizes& sizes, std::uint64_t export_size) {
    if (sizes.maximum < std::min<std::uint64_t>(sizes.preferred, export_size))
        return malformed("maximum block size " + std::to_string(sizes.maximum) +
                         " is smaller than the preferred " + std::to_string(sizes.preferred));
    return {};
}

Result<ListedExport> decode_listed_export(std::span<const std::byte> bytes) {
    Reader reader(bytes);
    const auto length = reader.integer<std::uint32_t>();
    if (reader.was_short() || length > reader.left())
        return malformed("NBD_REP_SERVER shorter than the name it announces");
    ListedExport entry;
    entry.name = TRY(decode_string(bytes.subspan(sizeof(length), length)));
    entry.description = TRY(decode_string(bytes.subspan(sizeof(length) + length)));
    return entry;
}

Result<std::string> decode_string(std::span<const std::byte> bytes) {
    if (bytes.size() > max_string)
        return malformed("a string of " + std::to_string(bytes.size()) + " bytes, more than " +
                         std::to_string(max_string));
    std::string text = Reader(bytes).rest_as_text();
    if (text.find('\0') != std::string::npos) return malformed("a string with a NUL byte");
    return text;
}

}  // namespace nbd
