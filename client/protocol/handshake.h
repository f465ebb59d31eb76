// SPDX-License-Identifier: MIT
// The NBD handshake of a client: greeting, list, info, go, and the older ways in.
#pragma once

#include "client/base/deadline.h"
#include "client/protocol/stream.h"
#include "client/protocol/wire.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nbd {

/// What client and server agreed on for one export.
struct ExportInfo {
    std::string name;         ///< as asked for, or the server's canonical name
    std::string description;  ///< empty when the server gave none
    std::uint64_t size = 0;   ///< bytes
    std::uint16_t flags = 0;  ///< transmission flags as received
    std::optional<BlockSizes> block_sizes = std::nullopt;

    bool has(TransmissionFlag flag) const {
        return (flags & static_cast<std::uint16_t>(flag)) != 0;
    }
    bool operator==(const ExportInfo&) const = default;
};

inline constexpr std::size_t max_listed_exports = 10000;
/// Bytes of names and descriptions one list may add up to.
inline constexpr std::size_t max_list_bytes = 4 * 1024 * 1024;
/// Information items one answer to NBD_OPT_GO or NBD_OPT_INFO may have.
inline constexpr std::size_t max_info_replies = 64;

enum class Style { oldstyle, newstyle, fixed_newstyle };

/// One handshake over a borrowed stream; every step is bounded by the deadline given at the start.
/// Errors name the server as `peer`. Follows "Newstyle negotiation" and "Oldstyle negotiation" of
/// the protocol document. Never negotiates structured replies, extended headers or metadata: the
/// kernel driver knows simple replies only.
class Handshake {
public:
    /// Reads the greeting and answers the handshake flags. `peer` is used in messages.
    static Result<Handshake> start(Stream& stream, std::string peer, const Deadline& deadline);

    /// NBD_OPT_STARTTLS, to be sent before any other option: after it the server waits for a TLS
    /// handshake. Everything but an agreement is a failure (insecure), never a way around.
    Result<void> start_tls();
    /// Goes on over this stream, to the same peer.
    void continue_over(Stream& stream) { stream_ = &stream; }

    Style style() const { return style_; }
    /// The option haggling is over: the socket carries one export now.
    bool in_transmission() const { return in_transmission_; }

    /// NBD_OPT_LIST; needs fixed newstyle. At most `max_listed_exports` names, bounded in bytes
    /// too.
    Result<std::vector<ListedExport>> list();

    /// NBD_OPT_INFO; where the server does not know it or gives no size: go(), which uses the
    /// connection up.
    Result<ExportInfo> info(std::string_view export_name);

    /// Enters the transmission phase: NBD_OPT_GO, or NBD_OPT_EXPORT_NAME where the server does not
    /// know GO (or `use_go` is false), or nothing at all for an oldstyle server.
    Result<ExportInfo> go(std::string_view export_name, bool use_go = true);

    /// Leaves politely (NBD_OPT_ABORT, or NBD_CMD_DISC once in transmission) without waiting long
    /// for the answer; errors do not matter. After a violation of the protocol it says nothing.
    void abort();

private:
    struct OptionReply {
        Reply type;
        std::vector<std::byte> data;
    };

    Handshake(Stream& stream, std::string peer, const Deadline& deadline)
        : stream_(&stream), peer_(std::move(peer)), deadline_(deadline) {}

    Error failed(std::string_view act, Error&& error);
    void trace(std::string_view verb, std::string_view what) const;
    Result<void> greet();
    Result<void> agree_on_tls();
    Result<void> read_oldstyle();
    Result<void> send_option(Option option, std::span<const std::byte> data);
    Result<OptionReply> read_reply(Option option);
    Result<std::vector<ListedExport>> read_list();
    Result<ExportInfo> query(std::string_view export_name);
    Result<std::optional<ExportInfo>> ask(Option option, std::string_view export_name);
    Result<ExportInfo> enter_by_name(std::string_view export_name);
    Result<ExportInfo> enter(std::string_view export_name, bool use_go);

    Stream* stream_;
    std::string peer_;
    Deadline deadline_;
    Style style_ = Style::fixed_newstyle;
    bool no_zeroes_ = false;
    bool in_transmission_ = false;
    bool broken_ = false;    ///< the server has violated the protocol: nothing is said any more
    SizeAndFlags oldstyle_;  ///< an oldstyle server sends its one export with the greeting
};

}  // namespace nbd
