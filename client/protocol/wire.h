// SPDX-License-Identifier: MIT
// Constants and messages of the NBD handshake, with encode and decode; no I/O.
#pragma once

#include "client/base/bytes.h"
#include "client/base/result.h"

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace nbd {

// Names and numbers of the protocol document's chapter "Values", in snake case.

inline constexpr std::uint64_t init_passwd = 0x4e42444d41474943;    ///< "NBDMAGIC"
inline constexpr std::uint64_t opts_magic = 0x49484156454f5054;     ///< "IHAVEOPT"
inline constexpr std::uint64_t cliserv_magic = 0x0000420281861253;  ///< oldstyle
inline constexpr std::uint64_t rep_magic = 0x0003e889045565a9;

enum class HandshakeFlag : std::uint16_t { fixed_newstyle = 1 << 0, no_zeroes = 1 << 1 };

enum class Option : std::uint32_t {
    export_name = 1,
    abort = 2,
    list = 3,
    starttls = 5,
    info = 6,
    go = 7,
};

/// Types of option replies; the top bit marks refusals.
enum class Reply : std::uint32_t {
    ack = 1,
    server = 2,
    info = 3,
    err_unsup = 0x80000001,
    err_policy = 0x80000002,
    err_invalid = 0x80000003,
    err_platform = 0x80000004,
    err_tls_reqd = 0x80000005,
    err_unknown = 0x80000006,
    err_shutdown = 0x80000007,
    err_block_size_reqd = 0x80000008,
    err_too_big = 0x80000009,
    err_ext_header_reqd = 0x8000000a,
};

constexpr bool is_error(Reply type) {
    return (static_cast<std::uint32_t>(type) >> 31) != 0;
}

enum class Info : std::uint16_t { export_size = 0, name = 1, description = 2, block_size = 3 };

enum class TransmissionFlag : std::uint16_t {
    has_flags = 1 << 0,
    read_only = 1 << 1,
    send_flush = 1 << 2,
    send_fua = 1 << 3,
    rotational = 1 << 4,
    send_trim = 1 << 5,
    send_write_zeroes = 1 << 6,
    send_df = 1 << 7,
    can_multi_conn = 1 << 8,
    send_resize = 1 << 9,
    send_cache = 1 << 10,
    send_fast_zero = 1 << 11,
    block_stat_payload = 1 << 12,
};

/// The protocol document's name of a flag in lower case ("can_multi_conn"); empty for unknown bits.
std::string_view flag_name(TransmissionFlag flag);

/// Names for messages, as the protocol document spells them: "NBD_OPT_GO", "NBD_REP_ERR_POLICY",
/// "NBD_INFO_EXPORT"; unknown numbers read "reply type 0x…".
std::string option_name(Option option);
std::string reply_name(Reply type);
std::string info_name(Info type);

/// Longest string of the protocol ("Values and limits"): names, descriptions, error texts.
inline constexpr std::size_t max_string = 4096;
/// Longest data of an option reply we take in: the largest documented one is NBD_REP_SERVER with
/// two strings, and no server has reason to send more.
inline constexpr std::uint32_t max_reply_data = 64 * 1024;
/// Largest export the kernel can address.
inline constexpr std::uint64_t max_export_size = 0x7fffffffffffffff;
inline constexpr std::uint32_t largest_minimum_block_size = 64 * 1024;
/// Reserved bytes that end the older negotiations.
inline constexpr std::size_t reserved_zeroes = 124;

/// NBD_INFO_BLOCK_SIZE: powers of two (the maximum a multiple of the minimum, or all ones).
struct BlockSizes {
    std::uint32_t minimum = 1;
    std::uint32_t preferred = 4096;
    std::uint32_t maximum = 32 * 1024 * 1024;
    bool operator==(const BlockSizes&) const = default;
};

/// Size in bytes and transmission flags, as NBD_INFO_EXPORT and the older negotiations carry them.
struct SizeAndFlags {
    std::uint64_t size = 0;
    std::uint16_t flags = 0;
    bool operator==(const SizeAndFlags&) const = default;
};

/// Header of every option reply.
struct ReplyHeader {
    Option option{};
    Reply type{};
    std::uint32_t length = 0;
    bool operator==(const ReplyHeader&) const = default;
};
inline constexpr std::size_t reply_header_size = 20;

/// NBD_REP_SERVER: one entry of the list of exports.
struct ListedExport {
    std::string name;
    std::string description;
    std::optional<std::uint64_t> size = std::nullopt;  ///< bytes; a list alone does not tell
    bool operator==(const ListedExport&) const = default;
};

/// An option with its data; the data is at most a name and a few numbers long.
Writer encode_option(Option option, std::span<const std::byte> data);
/// Data of NBD_OPT_INFO and NBD_OPT_GO.
Writer encode_info_request(std::string_view export_name, std::initializer_list<Info> wanted);
/// NBD_CMD_DISC, the one request of the transmission phase that is ours.
Writer encode_disconnect();

// Decoders fail with Kind::protocol and a cause without an object ("option reply without its magic
// number"); the caller names the peer. Texts come back as sent: print them through printable().

/// Fails on a wrong magic number, another option than `expected`, or an oversized length.
Result<ReplyHeader> decode_reply_header(std::span<const std::byte> bytes, Option expected);
/// Size then flags, without type: data of NBD_INFO_EXPORT, and what follows NBD_OPT_EXPORT_NAME.
Result<SizeAndFlags> decode_size_and_flags(std::span<const std::byte> bytes);
/// What an oldstyle server sends after its magic numbers, without the reserved zeroes.
Result<SizeAndFlags> decode_oldstyle(std::span<const std::byte> bytes);
/// Checks each value and their order; `maximum` against the export size is check_maximum().
Result<BlockSizes> decode_block_sizes(std::span<const std::byte> bytes);
/// The maximum must reach the preferred block size or the end of the export.
Result<void> check_maximum(const BlockSizes& sizes, std::uint64_t export_size);
Result<ListedExport> decode_listed_export(std::span<const std::byte> bytes);
/// A string of at most `max_string` bytes without NUL.
Result<std::string> decode_string(std::span<const std::byte> bytes);

}  // namespace nbd
