// SPDX-License-Identifier: MIT
// Dials the servers of an export until a connection is past its handshake and fit for the kernel.
#include "client/session.h"

#include "client/base/text.h"
#include "client/protocol/dialogue.h"

#include <algorithm>
#include <array>
#include <thread>
#include <utility>

namespace nbd {

namespace {

/// The flags whose loss the driver would not notice: it goes on sending what was agreed on first.
constexpr std::array driver_flags = {
    TransmissionFlag::send_flush,
    TransmissionFlag::send_fua,
    TransmissionFlag::send_trim,
    TransmissionFlag::send_write_zeroes,
};

/// Largest request a device may send that was agreed on without block sizes (protocol document,
/// "Block size constraints").
constexpr std::uint32_t default_maximum = 32 * 1024 * 1024;

Error different(const std::string& server, const std::string& how) {
    return {Kind::mismatch, "cannot use the export of " + server + ": " + how};
}

}  // namespace

Result<void> check_same_export(const ExportInfo& agreed, const ExportInfo& now,
                               const DeviceShape& device, const std::string& server) {
    if (now.size < device.size)
        return different(server, "it has shrunk from " + std::to_string(device.size) + " to " +
                                     std::to_string(now.size) + " bytes");
    if (now.has(TransmissionFlag::read_only) && !agreed.has(TransmissionFlag::read_only))
        return different(server, "it has become read-only");
    for (const TransmissionFlag flag : driver_flags)
        if (agreed.has(flag) && !now.has(flag))
            return different(server, "it has lost " + std::string(flag_name(flag)));
    if (device.connections > 1 && !now.has(TransmissionFlag::can_multi_conn))
        return different(server, "it has lost can_multi_conn");
    if (!now.block_sizes) return {};
    if (now.block_sizes->minimum > device.block_size)
        return different(server, "its minimum block size is " +
                                     std::to_string(now.block_sizes->minimum) + " now");
    const std::uint32_t maximum =
        agreed.block_sizes ? agreed.block_sizes->maximum : default_maximum;
    if (now.block_sizes->maximum < maximum)
        return different(server, "its maximum block size is " +
                                     std::to_string(now.block_sizes->maximum) + " now");
    return {};
}

Dialer::Dialer(const AttachRequest& request)
    : request_(request),
      security_(request, !request.dry_run),
      addresses_(1 + request.alternates.size()) {}

const Target& Dialer::target(std::size_t number) const {
    return number == 0 ? request_.target : request_.alternates[number - 1];
}

Result<Dialer::Addresses> Dialer::look_up(const AttachRequest& request, const Deadline& deadline) {
    Addresses addresses;
    std::optional<Error> first_error;
    std::size_t left = 1 + request.alternates.size();
    const auto add = [&](const Target& target) {
        // A name server that does not answer for one must not use up the time of the others.
        const auto share = (deadline.time() - Clock::now()) / static_cast<int>(left--);
        auto found = nbd::resolve(target.endpoint, deadline.at_most(share));
        addresses.push_back(found ? *std::move(found) : std::vector<Address>{});
        if (!found && !first_error) first_error = std::move(found).error();
    };
    add(request.target);
    for (const Target& alternate : request.alternates) add(alternate);
    const bool none = std::all_of(addresses.begin(), addresses.end(),
                                  [](const auto& list) { return list.empty(); });
    if (none) return *std::move(first_error);
    return addresses;
}

bool Dialer::use(Addresses addresses) {
    std::vector<Address> candidates;
    std::vector<std::size_t> candidate_target;
    for (std::size_t number = 0; number < addresses_.size(); ++number) {
        if (!addresses[number].empty()) addresses_[number] = std::move(addresses[number]);
        for (Address address : addresses_[number]) {
            address.tag = candidates.size();
            candidates.push_back(std::move(address));
            candidate_target.push_back(number);
        }
    }
    if (std::ranges::equal(candidates, candidates_, {}, &Address::text, &Address::text))
        return false;
    candidates_ = std::move(candidates);
    candidate_target_ = std::move(candidate_target);
    // Attempts under way carry the tags of the old list.
    race_.clear();
    return true;
}

std::optional<std::size_t> Dialer::target_of(std::string_view address) const {
    const auto found = std::ranges::find(candidates_, address, &Address::text);
    if (found == candidates_.end()) return std::nullopt;
    return candidate_target_[found->tag];
}

Result<void> Dialer::prepare(const Deadline& deadline) {
    if (!security_.loaded()) return security_.load();
    // The files of an essential device may be on it: only if there is nothing to win without.
    if (!request_.essential || rejected_) security_.refresh(deadline);
    return {};
}

Result<void> Dialer::resolve(const Deadline& deadline) {
    TRY(prepare(deadline));
    use(TRY(look_up(request_, deadline)));
    return {};
}

Result<void> Dialer::negotiate(Connection& connection, const Deadline& deadline) const {
    const int fd = connection.socket.get();
    Dialogue dialogue =
        TRY(Dialogue::open(fd, connection.server, security_.context(connection.target), deadline));
    Handshake& handshake = dialogue.handshake();
    auto info = handshake.go(target(connection.target).export_name, !request_.no_optgo);
    if (!info) {
        handshake.abort();
        return std::move(info).error();
    }
    connection.info = *std::move(info);
    if (dialogue.tls() == nullptr || request_.dry_run) return {};
    if (security_.needs_relay(connection.target)) {
        connection.offload = offload_relay;
        connection.for_relay = dialogue.take_tls();
        return {};
    }
    connection.offload = offload_kernel;
    return hand_to_kernel(*dialogue.tls(), fd, connection.server, deadline);
}

Result<Connection> Dialer::shake(ConnectRace::Winner winner, const Deadline& deadline) const {
    const std::size_t number = candidate_target_[winner.address.tag];
    Connection connection{.socket = std::move(winner.socket),
                          .server = winner.address.text,
                          .target = number,
                          .address = winner.address.tag,
                          .info = {}};
    if (request_.preinit) {
        connection.info.size = request_.size.value_or(0);
        connection.info.flags = static_cast<std::uint16_t>(TransmissionFlag::has_flags);
    } else {
        TRY(negotiate(connection, deadline));
    }
    TRY(prepare_for_kernel(connection.socket.get(), request_.keepalive));
    return connection;
}

/// What cannot be done by several threads at once: a new process has the locks that others hold.
Result<Connection> Dialer::finish(Result<Connection> connection, const Deadline& deadline) const {
    if (!connection || !connection->for_relay) return connection;
    Fd plain = TRY(hand_to_relay(std::move(connection->for_relay), connection->socket.get(),
                                 connection->server, request_.essential, deadline));
    connection->beyond_relay = std::exchange(connection->socket, std::move(plain));
    return connection;
}

Result<Connection> Dialer::dial(const Deadline& deadline) {
    std::vector<Address> left = candidates_;
    std::optional<Error> first_error;
    while (!left.empty()) {
        auto winner = connect_any(left, deadline);
        if (!winner) return first_error ? *std::move(first_error) : std::move(winner).error();
        const std::size_t tag = winner->address.tag;
        // A mute server must not use up the time of those after it.
        const auto share = (deadline.time() - Clock::now()) / static_cast<int>(left.size());
        auto connection = finish(shake(*std::move(winner), deadline.at_most(share)), deadline);
        if (connection || connection.error().kind == Kind::cancelled) return connection;
        if (security_.relay_instead(candidate_target_[tag], connection.error())) continue;
        if (!first_error) first_error = std::move(connection).error();
        std::erase_if(left, [tag](const Address& address) { return address.tag == tag; });
    }
    return *std::move(first_error);
}

std::vector<Result<Connection>> Dialer::dial_more(const Connection& first, unsigned count,
                                                  const Deadline& deadline) const {
    const auto dial_one = [&]() -> Result<Connection> {
        const std::array one = {candidates_[first.address]};
        auto winner = TRY(connect_any(one, deadline));
        Connection connection = TRY(shake(std::move(winner), deadline));
        if (connection.info.size != first.info.size || connection.info.flags != first.info.flags)
            return different(connection.server, "two connections disagree on its size or flags");
        return connection;
    };
    std::vector<Result<Connection>> results;
    for (unsigned i = 0; i < count; ++i) results.emplace_back(Error{});
    std::vector<std::jthread> threads;
    for (Result<Connection>& result : results)
        threads.emplace_back([&dial_one, &result] { result = dial_one(); });
    threads.clear();
    for (Result<Connection>& result : results) result = finish(std::move(result), deadline);
    return results;
}

std::size_t Dialer::candidates() const {
    if (!only_) return candidates_.size();
    return static_cast<std::size_t>(
        std::count(candidate_target_.begin(), candidate_target_.end(), *only_));
}

std::optional<Error> Dialer::start_attempt() {
    for (std::size_t tried = 0; tried < candidates_.size(); ++tried) {
        const std::size_t candidate = turn_++ % candidates_.size();
        if (only_ && candidate_target_[candidate] != *only_) continue;
        return race_.start(candidates_[candidate]);
    }
    return std::nullopt;
}

std::optional<Result<Connection>> Dialer::advance(const Deadline& deadline) {
    if (auto winner = race_.take_winner()) {
        if (auto prepared = prepare(deadline); !prepared)
            return Result<Connection>(std::move(prepared).error());
        const std::size_t number = candidate_target_[winner->address.tag];
        auto connection = finish(shake(*std::move(winner), deadline), deadline);
        // The next attempt finds it decided.
        if (!connection) security_.relay_instead(number, connection.error());
        rejected_ = !connection && connection.error().kind == Kind::insecure;
        return connection;
    }
    if (race_.empty() && race_.last_error()) return Result<Connection>(*race_.last_error());
    return std::nullopt;
}

}  // namespace nbd
