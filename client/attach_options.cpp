// SPDX-License-Identifier: MIT
// The one table of attach options: command line, nbdtab, classic dialect, completion and help read
// it.
#include "client/attach_options.h"

#include "client/base/text.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <string>
#include <vector>

namespace nbd {
namespace {

using std::chrono::seconds;

constexpr std::uint64_t smallest_block = 512;      // the block layer's sector
constexpr std::size_t longest_id = 1024;           // a sysfs attribute shows one page
constexpr unsigned most_connections = 1024;        // far below what one netlink message can carry
constexpr std::int64_t longest_keepalive = 32767;  // TCP_KEEPIDLE's limit

Error cause(std::string text, std::string hint = {}) {
    return {Kind::usage, std::move(text), std::move(hint)};
}

Result<bool> yes_or_no(std::string_view value) {
    if (value.empty() || value == "yes" || value == "true") return true;
    if (value == "no" || value == "false") return false;
    return cause("it is yes or no", "leave the value out");
}

template <bool AttachRequest::*Member, bool Given = true>
Result<void> set_flag(AttachRequest& request, std::string_view value) {
    request.*Member = TRY(yes_or_no(value)) == Given;
    return {};
}

template <std::string AttachRequest::*Member>
Result<void> set_text(AttachRequest& request, std::string_view value) {
    if (value.empty()) return cause("its value is missing");
    request.*Member = value;
    return {};
}

enum class Forever { allowed, refused };

template <auto Member, std::int64_t Least, std::int64_t Most, Forever Endless = Forever::refused>
Result<void> set_duration(AttachRequest& request, std::string_view value) {
    const auto duration = parse_duration(value);
    constexpr bool endless = Endless == Forever::allowed;
    if (!duration)
        return cause("not a duration", endless ? "write 30, 90s, 5m, 2h, 1d or forever"
                                               : "write 30, 90s, 5m, 2h or 1d");
    if (*duration == forever && !endless)
        return cause("it has to end", Least == 0 ? "0 turns it off" : "");
    if (*duration < seconds(Least)) return cause("shorter than " + std::to_string(Least) + "s");
    if (*duration > seconds(Most) && *duration != forever)
        return cause("longer than " + format_duration(seconds(Most)));
    request.*Member = *duration;
    return {};
}

constexpr std::int64_t any_length = std::numeric_limits<std::int64_t>::max();

Result<void> set_connections(AttachRequest& request, std::string_view value) {
    if (value == "auto") {
        request.connections = std::nullopt;
        return {};
    }
    const auto count = parse_decimal(value);
    if (!count || *count == 0 || *count > most_connections)
        return cause("not a number from 1 to " + std::to_string(most_connections) + " nor auto");
    request.connections = static_cast<unsigned>(*count);
    return {};
}

Result<void> set_block_size(AttachRequest& request, std::string_view value) {
    const auto size = parse_size(value);
    if (!size || *size < smallest_block || !std::has_single_bit(*size))
        return cause("not a power of two of 512 bytes or more",
                     "512 and 4096 (4K) are what disks have");
    request.block_size = *size;
    return {};
}

Result<void> set_size(AttachRequest& request, std::string_view value) {
    const auto size = parse_size(value);
    if (!size || *size == 0) return cause("not a size in bytes", "write 10737418240, 10G or 10GiB");
    request.size = *size;
    return {};
}

Result<void> set_id(AttachRequest& request, std::string_view value) {
    const auto is_control = [](char c) {
        return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    };
    if (value.empty()) return cause("its value is missing");
    if (std::ranges::any_of(value, is_control)) return cause("it has control characters");
    if (value.size() > longest_id)
        return cause("longer than " + std::to_string(longest_id) + " bytes");
    request.id = value;
    return {};
}

Result<void> add_alternate(AttachRequest& request, std::string_view value) {
    request.alternates.push_back(TRY(parse_uri(value)));
    return {};
}

Result<void> set_tls(AttachRequest& request, std::string_view value) {
    const bool wanted = TRY(yes_or_no(value));
    if (!wanted && request.target.tls) return cause("the URI asks for TLS", "write nbd:// instead");
    if (wanted && !request.target.tls) request.target.tls.emplace();
    return {};
}

Result<void> set_ciphers(AttachRequest& request, std::string_view value) {
    request.tls_ciphers = TRY(parse_ciphers(value));
    return {};
}

Result<void> set_offload(AttachRequest& request, std::string_view value) {
    if (value == "auto")
        request.tls_offload = TlsOffload::automatic;
    else if (value == "require")
        request.tls_offload = TlsOffload::require;
    else if (value == "never")
        request.tls_offload = TlsOffload::never;
    else
        return cause("it is auto, require or never");
    return {};
}

Result<void> set_rekey_after(AttachRequest& request, std::string_view value) {
    const auto records = parse_decimal(value);
    if (!records) return cause("it is a number of records, 0: never");
    request.tls_rekey_after = *records;
    return {};
}

using R = AttachRequest;

constexpr AttachOption table[] = {
    {"read-only", 'r', "", "refuse writes even if the server allows them", group::device,
     set_flag<&R::read_only>},
    {"connections", 'C', "N", "parallel connections, or auto (the default)", group::device,
     set_connections},
    {"block-size", 'b', "SIZE", "logical block size: a power of two from 512", group::device,
     set_block_size},
    {"size", '\0', "SIZE", "size of the device instead of the server's", group::device, set_size},
    {"id", '\0', "TEXT", "identifier of the attachment", group::device, set_id},
    {"idempotent", '\0', "", "succeed if it is attached already", group::device,
     set_flag<&R::idempotent>},
    {"auto-resize", '\0', "", "follow an export that grows", group::device,
     set_flag<&R::auto_resize>},
    {"no-settle", '\0', "", "do not wait for node and partitions", group::device,
     set_flag<&R::settle, false>},
    {"no-netlink", '\0', "", "use the old ioctl interface", group::device,
     set_flag<&R::no_netlink>},
    {"preinit", '\0', "", "no handshake with the server, needs --size", group::device,
     set_flag<&R::preinit>},

    {"reconnect-for", '\0', "DURATION", "I/O waits that long for a server, or forever",
     group::outages, set_duration<&R::reconnect_for, 0, any_length, Forever::allowed>},
    {"reconnect-delay", '\0', "DURATION", "longest pause between two attempts", group::outages,
     set_duration<&R::reconnect_delay, 1, any_length>},
    {"io-timeout", '\0', "DURATION", "how long one request may take, 0: any time", group::outages,
     set_duration<&R::io_timeout, 0, any_length>},
    {"keepalive", '\0', "DURATION", "a silent peer is dead after this, 0: never", group::outages,
     set_duration<&R::keepalive, 0, longest_keepalive>},
    {"connect-for", '\0', "DURATION", "keep trying the first connection, or forever",
     group::outages, set_duration<&R::connect_for, 0, any_length, Forever::allowed>},
    {"alternate", '\0', "URI", "another server of the export (repeatable)", group::outages,
     add_alternate},

    {"connect-timeout", '\0', "DURATION", "one round of connecting and handshaking",
     group::connection, set_duration<&R::connect_timeout, 1, any_length>},
    {"no-optgo", '\0', "", "use only what old servers know", group::connection,
     set_flag<&R::no_optgo>},

    {"tls", '\0', "", "require TLS, as nbds:// does", group::tls, set_tls},
    {"tls-ca", '\0', "FILE", "authorities that may vouch for the server", group::tls,
     set_text<&R::tls_ca>},
    {"tls-cert", '\0', "FILE", "our certificate", group::tls, set_text<&R::tls_cert>},
    {"tls-key", '\0', "FILE", "its private key", group::tls, set_text<&R::tls_key>},
    {"tls-psk", '\0', "FILE", "pre-shared keys, a name:key on each line", group::tls,
     set_text<&R::tls_psk>},
    {"tls-hostname", '\0', "NAME", "name the certificate must have", group::tls,
     set_text<&R::tls_hostname>},
    {"tls-username", '\0', "NAME", "whose pre-shared key to use", group::tls,
     set_text<&R::tls_username>},
    {"tls-ciphers", '\0', "LIST", "ciphers to offer, best first", group::tls, set_ciphers},
    {"tls-offload", '\0', "WHEN", "TLS in the kernel: auto, require, never", group::tls,
     set_offload},
    {"tls-rekey-after", '\0', "RECORDS", "new keys after so many records (AES), 0: never",
     group::tls, set_rekey_after},
    {"tls-insecure", '\0', "", "do not check who the server is", group::tls,
     set_flag<&R::tls_insecure>},

    {"essential", '\0', "", "root, swap: lock memory, no OOM kill", group::process,
     set_flag<&R::essential>},
    {"mark", '\0', "", "survive the switch to the real root ('@')", group::process,
     set_flag<&R::mark>},
    {"foreground", '\0', "", "stay in the foreground", group::process, set_flag<&R::foreground>},
    {"dry-run", '\0', "", "negotiate, print what the kernel would be told", group::process,
     set_flag<&R::dry_run>},
};

/// What the options mean together.
Result<void> check(const AttachRequest& request) {
    const std::uint64_t block_size = request.block_size.value_or(smallest_block);
    if (request.size && *request.size % block_size != 0)
        return Error{Kind::usage, "cannot use size " + std::to_string(*request.size) +
                                      ": not a multiple of the block size " +
                                      std::to_string(block_size)};
    const bool tls_options = !request.tls_ciphers.empty() ||
                             !(request.tls_ca + request.tls_cert + request.tls_key +
                               request.tls_psk + request.tls_hostname + request.tls_username)
                                  .empty();
    if (tls_options && !request.target.tls)
        return Error{Kind::usage, "cannot use TLS options with a server that is not asked for TLS",
                     "write nbds:// instead of nbd://, or add --tls"};
    for (const Target& alternate : request.alternates)
        if (alternate.tls.has_value() != request.target.tls.has_value())
            return Error{Kind::usage,
                         "cannot use " + to_uri(alternate) + " instead of " +
                             to_uri(request.target) + ": only one of them is protected by TLS",
                         "write nbds:// for both, or for neither"};
    if (request.preinit && !request.size)
        return Error{Kind::usage, "cannot use preinit: the size is not known without a handshake",
                     "give the size of the device as well"};
    if (request.preinit && request.target.tls)
        return Error{Kind::usage, "cannot use preinit with TLS: TLS begins in the handshake"};
    if (!request.id.empty() && request.no_netlink)
        return Error{Kind::usage,
                     "cannot use an identifier without netlink: ioctl has no room for it"};
    return {};
}

}  // namespace

std::span<const AttachOption> attach_options() {
    return table;
}

const AttachOption* find_attach_option(std::string_view name) {
    const auto* const found = std::ranges::find(table, name, &AttachOption::name);
    return found == std::end(table) ? nullptr : found;
}

Result<void> apply_setting(AttachRequest& request, const Setting& setting) {
    const AttachOption* const option = find_attach_option(setting.name);
    if (option == nullptr) {
        std::vector<std::string_view> names;
        for (const AttachOption& known : table) names.push_back(known.name);
        const auto near = nearest(setting.name, names);
        return Error{Kind::usage,
                     "cannot understand option " + quoted(setting.name) + ": no such option",
                     near ? "did you mean " + std::string(*near) + '?' : ""};
    }
    auto applied = option->apply(request, setting.value);
    if (applied) return {};
    Error error = std::move(applied).error();
    error.what = "cannot use option " + setting.name +
                 (setting.value.empty() ? "" : ' ' + quoted(setting.value)) + ": " + error.what;
    return error;
}

Result<void> apply_settings(AttachRequest& request, const Settings& settings) {
    for (const Setting& setting : settings) TRY(apply_setting(request, setting));
    return check(request);
}

void complete_reference_settings(Settings& settings, bool persist, std::string_view dead_timeout) {
    const auto find = [&](std::string_view name) {
        return std::ranges::find(settings, name, &Setting::name);
    };
    const auto is_tls = [](const Setting& setting) { return setting.name.starts_with("tls-"); };
    if (find("tls-key") != settings.end() && find("tls-cert") == settings.end())
        settings.push_back({"tls-cert", std::string(find("tls-key")->value)});
    if (find("tls") == settings.end() && std::ranges::any_of(settings, is_tls))
        settings.push_back({"tls", ""});
    if (!dead_timeout.empty() && dead_timeout != "0")
        settings.push_back({"reconnect-for", std::string(dead_timeout)});
    else if (persist && find("reconnect-for") == settings.end())
        settings.push_back({"reconnect-for", "forever"});
}

}  // namespace nbd
