// SPDX-License-Identifier: MIT
// The NBD handshake of a client: greeting, list, info, go, and the older ways in.
#include "client/protocol/handshake.h"

#include "client/base/log.h"
#include "client/base/text.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <span>

namespace nbd {

namespace {

constexpr std::string_view not_nbd_hint =
    "use a newstyle NBD server and check the port (default 10809)";
constexpr std::string_view no_tls_hint =
    "set TLS up on the server; nbd:// connects without protection";
constexpr std::string_view unknown_hint = "`nbd-client exports URI` lists them";
constexpr std::chrono::seconds patience_for_goodbye{1};

struct Refusal {
    Reply type;
    Kind kind;
    std::string_view cause;
    std::string_view hint;
};

/// What each refusal of the protocol document means here, and its cure.
constexpr std::array<Refusal, 10> refusals = {{
    {Reply::err_unsup, Kind::refused, "the server does not know this request",
     "a newer server may"},
    {Reply::err_policy, Kind::refused, "the server's policy forbids it",
     "let the server's configuration allow this client (nbd-server lists exports only with "
     "`allowlist = true`)"},
    {Reply::err_invalid, Kind::refused, "the server finds the request invalid",
     "check the export name; the server's log may say more"},
    {Reply::err_platform, Kind::refused, "the server's platform cannot do it",
     "the server's log may say more"},
    {Reply::err_tls_reqd, Kind::refused, "the server requires TLS",
     "use nbds:// (or nbds+unix://) instead of nbd://, or --tls (classic: -x)"},
    {Reply::err_unknown, Kind::absent, "the server has no such export", unknown_hint},
    {Reply::err_shutdown, Kind::unreachable, "the server is shutting down",
     "try again when it is back"},
    {Reply::err_block_size_reqd, Kind::refused,
     "the server insists on block sizes it did not announce", "the server's log may say more"},
    {Reply::err_too_big, Kind::refused, "the server finds the request too large",
     "use a shorter export name"},
    {Reply::err_ext_header_reqd, Kind::refused,
     "the server requires extended headers, which the kernel driver does not know",
     "let the server's configuration allow simple replies"},
}};

Error refusal(Reply type, std::span<const std::byte> text) {
    const auto* known =
        std::find_if(refusals.begin(), refusals.end(),
                     [type](const Refusal& candidate) { return candidate.type == type; });
    Error error = known != refusals.end()
                      ? Error{known->kind, std::string(known->cause), std::string(known->hint)}
                      : Error{Kind::refused, "the server refuses with " + reply_name(type),
                              "the server's log may say more"};
    if (!text.empty()) error.what += " (it says " + quoted(Reader(text).rest_as_text()) + ")";
    return error;
}

std::string export_text(std::string_view name) {
    return name.empty() ? "the default export" : "export " + quoted(name);
}

Result<void> check_name(std::string_view name) {
    if (name.size() > max_string)
        return Error{Kind::usage,
                     "the name is longer than " + std::to_string(max_string) + " bytes"};
    if (name.find('\0') != std::string_view::npos)
        return Error{Kind::usage, "the name contains a NUL byte"};
    return {};
}

std::span<const std::byte> as_data(std::string_view text) {
    return std::as_bytes(std::span(text.data(), text.size()));
}

/// Takes one NBD_REP_INFO into `info`; unknown items are skipped. Sets `complete` by the one item
/// that is mandatory.
Result<void> take_info(std::span<const std::byte> data, ExportInfo& info, bool& complete) {
    Reader reader(data);
    const auto type = static_cast<Info>(reader.integer<std::uint16_t>());
    if (reader.was_short()) return Error{Kind::protocol, "NBD_REP_INFO without a type"};
    const auto rest = data.subspan(sizeof(std::uint16_t));
    if (type == Info::export_size) {
        const SizeAndFlags value = TRY(decode_size_and_flags(rest));
        info.size = value.size;
        info.flags = value.flags;
        complete = true;
    } else if (type == Info::name) {
        info.name = TRY(decode_string(rest));
    } else if (type == Info::description) {
        info.description = TRY(decode_string(rest));
    } else if (type == Info::block_size) {
        info.block_sizes = TRY(decode_block_sizes(rest));
    }
    return {};
}

}  // namespace

Result<Handshake> Handshake::start(Stream& stream, std::string peer, const Deadline& deadline) {
    Handshake handshake(stream, std::move(peer), deadline);
    auto greeted = handshake.greet();
    if (!greeted)
        return handshake.failed("negotiate with " + handshake.peer_, std::move(greeted).error());
    return handshake;
}

/// Completes a cause to a sentence: "cannot <act>: <cause>".
Error Handshake::failed(std::string_view act, Error&& error) {
    broken_ = error.kind == Kind::protocol;
    error.what = "cannot " + std::string(act) + ": " + error.what;
    return std::move(error);
}

Result<void> Handshake::greet() {
    std::array<std::byte, 8> word{};
    if (auto read = stream_->read_exactly(word, deadline_); !read) {
        Error error = std::move(read).error();
        if (error.kind == Kind::cancelled) return error;
        // A proxy accepts and closes while its server is away: worth another try.
        return Error{Kind::unreachable, error.what + " before any greeting",
                     "is this an NBD server, and does it allow this client?"};
    }
    if (Reader(word).integer<std::uint64_t>() != init_passwd)
        return Error{Kind::protocol,
                     "not an NBD server, it sent " + quoted(Reader(word).rest_as_text()),
                     std::string(not_nbd_hint)};
    TRY(stream_->read_exactly(word, deadline_));
    const auto magic = Reader(word).integer<std::uint64_t>();
    if (magic == cliserv_magic) return read_oldstyle();
    if (magic != opts_magic)
        return Error{Kind::protocol, "unknown NBD dialect " + quoted(Reader(word).rest_as_text()),
                     std::string(not_nbd_hint)};

    std::array<std::byte, 2> flag_bytes{};
    TRY(stream_->read_exactly(flag_bytes, deadline_));
    const auto flags = Reader(flag_bytes).integer<std::uint16_t>();
    const auto fixed = static_cast<std::uint16_t>(HandshakeFlag::fixed_newstyle);
    const auto no_zeroes = static_cast<std::uint16_t>(HandshakeFlag::no_zeroes);
    style_ = (flags & fixed) != 0 ? Style::fixed_newstyle : Style::newstyle;
    no_zeroes_ = (flags & no_zeroes) != 0;
    trace("received",
          style_ == Style::newstyle ? "a newstyle greeting" : "a fixed newstyle greeting");
    // The client flags have the numbers of the handshake flags they answer.
    const auto answer = static_cast<std::uint32_t>(flags & (fixed | no_zeroes));
    return stream_->write_all(Writer().integer(answer).bytes(), deadline_);
}

Result<void> Handshake::read_oldstyle() {
    std::array<std::byte, 12 + reserved_zeroes> rest{};
    TRY(stream_->read_exactly(rest, deadline_));
    oldstyle_ = TRY(decode_oldstyle(std::span(rest).first(12)));
    style_ = Style::oldstyle;
    in_transmission_ = true;
    trace("received", "an oldstyle greeting");
    return {};
}

Result<void> Handshake::start_tls() {
    auto agreed = agree_on_tls();
    if (agreed) return agreed;
    Error error = std::move(agreed).error();
    const bool waited = error.kind == Kind::cancelled || error.kind == Kind::unreachable;
    Error failure = failed("protect the connection to " + peer_, std::move(error));
    if (!waited) failure.kind = Kind::insecure;
    return failure;
}

Result<void> Handshake::agree_on_tls() {
    if (style_ != Style::fixed_newstyle)
        return Error{Kind::insecure, "the server is too old for TLS", std::string(no_tls_hint)};
    if (auto sent = send_option(Option::starttls, {}); !sent) return sent;
    auto reply = read_reply(Option::starttls);
    if (!reply) {
        Error error = std::move(reply).error();
        if (error.kind == Kind::protocol) {
            error.what = "asked for TLS, the server does not answer as it should: " + error.what;
            error.hint = "something between here and the server may suppress TLS";
        }
        return error;
    }
    if (reply->type == Reply::ack) return {};
    if (!is_error(reply->type))
        return Error{Kind::protocol, "asked for TLS, the server answers " + reply_name(reply->type),
                     "something between here and the server may suppress TLS"};
    const std::string text =
        reply->data.empty() ? "" : ", it says " + quoted(Reader(reply->data).rest_as_text());
    return Error{Kind::insecure, "the server has no TLS (" + reply_name(reply->type) + text + ")",
                 std::string(no_tls_hint)};
}

void Handshake::trace(std::string_view verb, std::string_view what) const {
    if (log_enabled(Level::debug))
        log(Level::debug, peer_ + ": " + std::string(verb) + " " + std::string(what));
}

Result<void> Handshake::send_option(Option option, std::span<const std::byte> data) {
    trace("sending", option_name(option));
    return stream_->write_all(encode_option(option, data).bytes(), deadline_);
}

Result<Handshake::OptionReply> Handshake::read_reply(Option option) {
    std::array<std::byte, reply_header_size> bytes{};
    TRY(stream_->read_exactly(bytes, deadline_));
    const ReplyHeader header = TRY(decode_reply_header(bytes, option));
    OptionReply reply{header.type, std::vector<std::byte>(header.length)};
    TRY(stream_->read_exactly(reply.data, deadline_));
    trace("received", reply_name(reply.type));
    if (reply.type == Reply::ack && !reply.data.empty())
        return Error{Kind::protocol, "NBD_REP_ACK with data"};
    return reply;
}

Result<std::vector<ListedExport>> Handshake::list() {
    auto entries = read_list();
    if (!entries) return failed("list the exports of " + peer_, std::move(entries).error());
    return entries;
}

Result<std::vector<ListedExport>> Handshake::read_list() {
    if (style_ != Style::fixed_newstyle)
        return Error{Kind::refused, "the server is too old to list its exports",
                     "`nbd-client info URI` shows one"};
    TRY(send_option(Option::list, {}));
    std::vector<ListedExport> entries;
    for (std::size_t bytes = 0;;) {
        const OptionReply reply = TRY(read_reply(Option::list));
        if (is_error(reply.type)) return refusal(reply.type, reply.data);
        if (reply.type == Reply::ack) return entries;
        if (reply.type != Reply::server)
            return Error{Kind::protocol, "unexpected " + reply_name(reply.type)};
        bytes += reply.data.size();
        if (entries.size() == max_listed_exports || bytes > max_list_bytes)
            return Error{Kind::protocol, "the list does not end (" +
                                             std::to_string(entries.size()) + " names so far)"};
        entries.push_back(TRY(decode_listed_export(reply.data)));
    }
}

Result<ExportInfo> Handshake::info(std::string_view export_name) {
    auto answer = query(export_name);
    if (!answer)
        return failed("query " + export_text(export_name) + " of " + peer_,
                      std::move(answer).error());
    return answer;
}

Result<ExportInfo> Handshake::query(std::string_view export_name) {
    if (style_ != Style::fixed_newstyle) return enter(export_name, true);
    auto answer = TRY(ask(Option::info, export_name));
    // nbd-server (seen with 3.24) answers NBD_OPT_INFO with size 0 and only NBD_OPT_GO with the
    // truth; deletable once a fixed version has replaced it.
    if (answer && answer->size > 0) return *std::move(answer);
    return enter(export_name, true);
}

Result<ExportInfo> Handshake::go(std::string_view export_name, bool use_go) {
    auto answer = enter(export_name, use_go);
    if (!answer)
        return failed("open " + export_text(export_name) + " of " + peer_,
                      std::move(answer).error());
    return answer;
}

Result<ExportInfo> Handshake::enter(std::string_view export_name, bool use_go) {
    if (style_ == Style::oldstyle) {
        if (!export_name.empty())
            return Error{Kind::absent, "the server is oldstyle and serves one nameless export",
                         "leave the export name out"};
        return ExportInfo{{}, {}, oldstyle_.size, oldstyle_.flags};
    }
    if (style_ == Style::newstyle || !use_go) return enter_by_name(export_name);
    auto answer = TRY(ask(Option::go, export_name));
    if (!answer) return enter_by_name(export_name);
    in_transmission_ = true;
    return *std::move(answer);
}

/// NBD_OPT_INFO or NBD_OPT_GO; nothing when the server does not know the option.
Result<std::optional<ExportInfo>> Handshake::ask(Option option, std::string_view export_name) {
    TRY(check_name(export_name));
    const Writer request = encode_info_request(
        export_name, {Info::export_size, Info::name, Info::description, Info::block_size});
    TRY(send_option(option, request.bytes()));
    ExportInfo info;
    info.name = export_name;
    bool complete = false;
    for (std::size_t replies = 0;; ++replies) {
        const OptionReply reply = TRY(read_reply(option));
        if (reply.type == Reply::err_unsup) return std::optional<ExportInfo>();
        if (is_error(reply.type)) return refusal(reply.type, reply.data);
        if (reply.type == Reply::ack) break;
        if (reply.type != Reply::info)
            return Error{Kind::protocol, "unexpected " + reply_name(reply.type)};
        if (replies == max_info_replies)
            return Error{Kind::protocol, "the answer to " + option_name(option) + " does not end"};
        TRY(take_info(reply.data, info, complete));
    }
    if (!complete) return Error{Kind::protocol, "NBD_REP_ACK without NBD_INFO_EXPORT before it"};
    if (info.block_sizes) TRY(check_maximum(*info.block_sizes, info.size));
    return std::optional(std::move(info));
}

/// NBD_OPT_EXPORT_NAME, which the server can refuse only by closing the connection.
Result<ExportInfo> Handshake::enter_by_name(std::string_view export_name) {
    TRY(check_name(export_name));
    TRY(send_option(Option::export_name, as_data(export_name)));
    std::array<std::byte, 10> answer{};
    if (auto read = stream_->read_exactly(answer, deadline_); !read) {
        if (read.error().kind != Kind::protocol) return std::move(read).error();
        return Error{Kind::absent,
                     "the server closed the connection: it has no such export or does not allow "
                     "this client",
                     std::string(unknown_hint)};
    }
    const SizeAndFlags value = TRY(decode_size_and_flags(answer));
    std::array<std::byte, reserved_zeroes> reserved{};
    if (!no_zeroes_) TRY(stream_->read_exactly(reserved, deadline_));
    trace("received", "size and flags");
    in_transmission_ = true;
    return ExportInfo{std::string(export_name), {}, value.size, value.flags};
}

void Handshake::abort() {
    if (broken_) return;
    deadline_ = deadline_.at_most(patience_for_goodbye);
    if (in_transmission_) {
        static_cast<void>(stream_->write_all(encode_disconnect().bytes(), deadline_));
    } else if (style_ == Style::fixed_newstyle) {
        if (send_option(Option::abort, {})) static_cast<void>(read_reply(Option::abort));
    }
}

}  // namespace nbd
