// SPDX-License-Identifier: MIT
// Turns an endpoint into addresses and addresses into a connected socket fit for the kernel.
#include "client/protocol/connect.h"

#include "client/base/bytes.h"
#include "client/base/process.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

namespace nbd {

namespace {

constexpr std::size_t max_addresses = 32;
constexpr std::size_t max_answer = 8 + max_addresses * (2 + sizeof(sockaddr_in6));
constexpr std::chrono::milliseconds head_start{250};

using AddressList = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;
using SocketBytes = std::span<const std::byte>;

struct Lookup {
    int status = 0;        ///< an EAI_ number
    int system_error = 0;  ///< errno, where status is EAI_SYSTEM
    std::vector<Address> addresses = {};
};

const sockaddr* generic(const Address& address) {
    return reinterpret_cast<const sockaddr*>(&address.storage);
}

/// "127.0.0.1:10809", "[fe80::1%eth0]:10809".
std::string numeric_text(const Address& address) {
    std::array<char, NI_MAXHOST> host{};
    std::array<char, NI_MAXSERV> port{};
    if (::getnameinfo(generic(address), address.length, host.data(), host.size(), port.data(),
                      port.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return "an address of an unknown family";
    return to_string(TcpEndpoint{host.data(), port.data()});
}

Address inet_address(SocketBytes bytes) {
    Address address;
    std::memcpy(&address.storage, bytes.data(), bytes.size());
    address.length = static_cast<socklen_t>(bytes.size());
    address.text = numeric_text(address);
    return address;
}

Lookup look_up(const TcpEndpoint& endpoint, int flags) {
    addrinfo wanted{};
    wanted.ai_family = AF_UNSPEC;
    wanted.ai_socktype = SOCK_STREAM;
    wanted.ai_flags = flags;
    addrinfo* first = nullptr;
    const int status = ::getaddrinfo(endpoint.host.c_str(), endpoint.port.c_str(), &wanted, &first);
    Lookup lookup{status, errno};
    const AddressList list(first, &::freeaddrinfo);
    for (const addrinfo* entry = first; entry != nullptr; entry = entry->ai_next) {
        if (lookup.addresses.size() == max_addresses) break;
        if (entry->ai_addrlen <= sizeof(sockaddr_in6))
            lookup.addresses.push_back(inet_address(SocketBytes(
                reinterpret_cast<const std::byte*>(entry->ai_addr), entry->ai_addrlen)));
    }
    return lookup;
}

/// Both status words, then length and bytes of each address.
std::string encode(const Lookup& lookup) {
    Writer writer;
    writer.integer(static_cast<std::uint32_t>(lookup.status))
        .integer(static_cast<std::uint32_t>(lookup.system_error));
    for (const Address& address : lookup.addresses) {
        const std::string_view bytes(reinterpret_cast<const char*>(&address.storage),
                                     address.length);
        writer.integer(static_cast<std::uint16_t>(bytes.size())).text(bytes);
    }
    return Reader(writer.bytes()).rest_as_text();
}

Result<Lookup> decode(SocketBytes bytes) {
    Reader reader(bytes);
    Lookup lookup;
    lookup.status = static_cast<int>(reader.integer<std::uint32_t>());
    lookup.system_error = static_cast<int>(reader.integer<std::uint32_t>());
    while (reader.left() > 0 && !reader.was_short()) {
        const auto length = reader.integer<std::uint16_t>();
        const std::string address = reader.text(length);
        if (address.size() <= sizeof(sockaddr_in6))
            lookup.addresses.push_back(inet_address(std::as_bytes(std::span(address))));
    }
    if (reader.was_short()) return Error{Kind::unreachable, "the resolver ended early"};
    return lookup;
}

Result<Lookup> look_up_in_child(const TcpEndpoint& endpoint, const Deadline& deadline) {
    const std::string answer = TRY(
        run_in_child([&endpoint] { return encode(look_up(endpoint, 0)); }, max_answer, deadline));
    return decode(std::as_bytes(std::span(answer)));
}

Error lookup_error(const Lookup& lookup, const TcpEndpoint& endpoint) {
    const std::string act = "cannot resolve " + to_string(endpoint) + ": ";
    if (lookup.status == EAI_SERVICE)
        return {Kind::absent, act + "no such port or service",
                "ports are 1 to 65535; /etc/services lists names"};
    if (lookup.status == EAI_NONAME || lookup.status == EAI_NODATA)
        return {Kind::absent, act + "no such host", "check the name's spelling"};
    const std::string cause = lookup.status == EAI_SYSTEM ? errno_text(lookup.system_error)
                                                          : ::gai_strerror(lookup.status);
    return {Kind::unreachable, act + "no answer from the name server (" + cause + ")",
            "the network may not be up yet; trying again may help"};
}

Result<std::vector<Address>> resolve_tcp(const TcpEndpoint& endpoint, const Deadline& deadline) {
    Lookup lookup = look_up(endpoint, AI_NUMERICHOST | AI_NUMERICSERV);
    if (lookup.status != 0) {
        auto answer = look_up_in_child(endpoint, deadline);
        if (!answer) {
            Error error = std::move(answer).error();
            error.what = "cannot resolve " + to_string(endpoint) + ": " + error.what;
            return error;
        }
        lookup = *std::move(answer);
    }
    if (lookup.status != 0 || lookup.addresses.empty()) return lookup_error(lookup, endpoint);
    return std::move(lookup.addresses);
}

Result<std::vector<Address>> unix_address(const UnixEndpoint& endpoint) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (endpoint.path.empty() || endpoint.path.size() >= sizeof(address.sun_path))
        return Error{Kind::usage,
                     "cannot use " + to_string(endpoint) + ": a socket path has 1 to 107 bytes"};
    std::memcpy(address.sun_path, endpoint.path.data(), endpoint.path.size());
    // The length ends an abstract name, a NUL byte ends a path.
    const bool abstract = endpoint.path.front() == '\0';
    const std::size_t length =
        offsetof(sockaddr_un, sun_path) + endpoint.path.size() + (abstract ? 0 : 1);
    Address result;
    std::memcpy(&result.storage, &address, length);
    result.length = static_cast<socklen_t>(length);
    result.text = to_string(endpoint);
    return std::vector{result};
}

Error connect_error(const Address& address, int error) {
    const bool denied = error == EACCES || error == EPERM;
    const char* hint = denied ? "check the permissions of the socket, or a firewall"
                              : "is the server running, is the port or path right (default port "
                                "10809)?";
    Error failure =
        errno_error(denied ? Kind::denied : Kind::unreachable, "connect to " + address.text, error);
    failure.hint = hint;
    return failure;
}

Error timed_out(std::span<const Address> addresses) {
    std::string what = "cannot connect to " + addresses[0].text;
    if (addresses.size() > 1)
        what += " or " + std::to_string(addresses.size() - 1) + " more addresses";
    return {Kind::unreachable, what + ": timed out",
            "is the server's machine up, and does a firewall let us through?"};
}

/// A dial to a free port of this machine's ephemeral range can meet itself; the socket would then
/// even keep the returning server from its port.
bool met_itself(int fd) {
    sockaddr_storage local{};
    sockaddr_storage remote{};
    socklen_t local_length = sizeof(local);
    socklen_t remote_length = sizeof(remote);
    if (::getsockname(fd, reinterpret_cast<sockaddr*>(&local), &local_length) != 0 ||
        ::getpeername(fd, reinterpret_cast<sockaddr*>(&remote), &remote_length) != 0)
        return false;
    return local.ss_family != AF_UNIX && local_length == remote_length &&
           std::memcmp(&local, &remote, local_length) == 0;
}

/// How a pending connect ended: 0 for success, an errno, or EINPROGRESS.
int connect_outcome(int fd, short revents) {
    if (revents == 0) return EINPROGRESS;
    int error = 0;
    socklen_t length = sizeof(error);
    if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0) return errno;
    return error == 0 && met_itself(fd) ? ECONNREFUSED : error;
}

template <typename Value>
Result<void> set_option(int fd, int level, int name, const Value& value, std::string_view what) {
    if (::setsockopt(fd, level, name, &value, sizeof(value)) == 0) return {};
    return errno_error(Kind::internal, "set " + std::string(what) + " on the socket", errno);
}

Result<void> set_keepalive(int fd, std::chrono::seconds keepalive) {
    // The kernel takes at most 32767 seconds for each of these.
    const int total =
        static_cast<int>(std::min<std::chrono::seconds::rep>(keepalive.count(), 32767));
    constexpr int probes = 3;
    const int interval = std::max(1, total / (2 * probes));
    const int idle = std::max(1, total - probes * interval);
    TRY(set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE"));
    TRY(set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle, "TCP_KEEPIDLE"));
    TRY(set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval, "TCP_KEEPINTVL"));
    TRY(set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, probes, "TCP_KEEPCNT"));
    // Keepalive is silent while data is unacknowledged; this takes over then.
    return set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, total * 1000, "TCP_USER_TIMEOUT");
}

}  // namespace

Result<std::vector<Address>> resolve(const Endpoint& endpoint, const Deadline& deadline) {
    if (const auto* path = std::get_if<UnixEndpoint>(&endpoint)) return unix_address(*path);
    return resolve_tcp(*std::get_if<TcpEndpoint>(&endpoint), deadline);
}

std::optional<Error> ConnectRace::start(const Address& address) {
    Fd socket(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket ||
        (::connect(socket.get(), generic(address), address.length) != 0 && errno != EINPROGRESS)) {
        last_error_ = connect_error(address, errno);
        return last_error_;
    }
    attempts_.push_back({std::move(socket), address});
    if (attempts_.size() <= limit) return std::nullopt;
    last_error_ = connect_error(attempts_.front().address, ETIMEDOUT);
    attempts_.pop_front();
    return last_error_;
}

std::vector<pollfd> ConnectRace::poll_list() const {
    std::vector<pollfd> list;
    for (const Attempt& attempt : attempts_) list.push_back({attempt.socket.get(), POLLOUT, 0});
    return list;
}

std::optional<ConnectRace::Winner> ConnectRace::take_winner() {
    std::vector<pollfd> list = poll_list();
    if (::poll(list.data(), list.size(), 0) <= 0) return std::nullopt;
    auto attempt = attempts_.begin();
    for (const pollfd& entry : list) {
        const int outcome = connect_outcome(entry.fd, entry.revents);
        if (outcome == 0) {
            Winner winner{std::move(attempt->socket), std::move(attempt->address)};
            clear();
            return winner;
        }
        if (outcome == EINPROGRESS) {
            ++attempt;
            continue;
        }
        last_error_ = connect_error(attempt->address, outcome);
        attempt = attempts_.erase(attempt);
    }
    return std::nullopt;
}

Result<ConnectRace::Winner> connect_any(std::span<const Address> addresses,
                                        const Deadline& deadline) {
    ConnectRace race;
    for (std::size_t next = 0;;) {
        if (next < addresses.size()) race.start(addresses[next++]);
        if (auto winner = race.take_winner()) return *std::move(winner);
        const bool more = next < addresses.size();
        if (race.empty() && more) continue;
        if (race.empty())
            return race.last_error().value_or(
                Error{Kind::unreachable, "cannot connect: the server has no address"});
        std::vector<pollfd> list = race.poll_list();
        list.push_back({deadline.cancel_fd(), POLLIN, 0});
        const Deadline turn = more ? deadline.at_most(head_start) : deadline;
        const int ready = ::poll(list.data(), list.size(), turn.poll_timeout());
        if (ready > 0 && list.back().revents != 0)
            return Error{Kind::cancelled,
                         "cannot connect to " + addresses[0].text + ": interrupted"};
        if (ready <= 0 && deadline.expired()) return timed_out(addresses);
    }
}

Result<void> prepare_for_kernel(int fd, std::chrono::seconds keepalive) {
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0 || ::fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) != 0)
        return errno_error(Kind::internal, "make the socket blocking", errno);
    TRY(set_option(fd, SOL_SOCKET, SO_RCVTIMEO, timeval{}, "SO_RCVTIMEO"));
    TRY(set_option(fd, SOL_SOCKET, SO_SNDTIMEO, timeval{}, "SO_SNDTIMEO"));
    int protocol = 0;
    socklen_t length = sizeof(protocol);
    if (::getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) != 0)
        return errno_error(Kind::internal, "read the socket's protocol", errno);
    if (protocol != IPPROTO_TCP) return {};
    TRY(set_option(fd, IPPROTO_TCP, TCP_CORK, 0, "TCP_CORK"));
    TRY(set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY"));
    return keepalive.count() > 0 ? set_keepalive(fd, keepalive) : Result<void>();
}

void reset_on_close(int fd, bool yes) {
    const linger how{.l_onoff = yes ? 1 : 0, .l_linger = 0};
    ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &how, sizeof how);
}

void let_reader_finish(int fd) {
    int unread = 0;
    for (int i = 0; i < 50 && ::ioctl(fd, FIONREAD, &unread) == 0 && unread > 0; ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

void abort_connection(int fd) {
    reset_on_close(fd, true);
    // Connecting a TCP socket to nobody resets it at once. Some kernels refuse while a reader waits
    // (6.1 stable series) or with TLS: then it ends when it would repeat what it has sent.
    const sockaddr nobody{.sa_family = AF_UNSPEC, .sa_data = {}};
    if (::connect(fd, &nobody, sizeof nobody) == 0) return;
    ::shutdown(fd, SHUT_RDWR);
    // The reader needs a moment to go.
    for (int i = 0; i < 5 && errno == EBUSY && ::connect(fd, &nobody, sizeof nobody) != 0; ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    constexpr unsigned soonest = 1;  // millisecond
    ::setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &soonest, sizeof soonest);
}

}  // namespace nbd
