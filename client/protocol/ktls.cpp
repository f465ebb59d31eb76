// SPDX-License-Identifier: MIT
// The kernel's TLS: what it can carry, and how a socket is handed its keys.
#include "client/protocol/ktls.h"

#include "client/base/fd.h"
#include "client/base/process.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string>
#include <sys/socket.h>

namespace nbd {

namespace {

constexpr int sol_tls = 282;  // <linux/socket.h>; not in every libc's headers
constexpr std::chrono::seconds patience_for_module{30};

std::uint16_t cipher_number(TlsCipher cipher) {
    switch (cipher) {
        case TlsCipher::aes_128_gcm:
            return TLS_CIPHER_AES_GCM_128;
        case TlsCipher::aes_256_gcm:
            return TLS_CIPHER_AES_GCM_256;
        case TlsCipher::chacha20_poly1305:
            break;
    }
    return TLS_CIPHER_CHACHA20_POLY1305;
}

void append_number(Secret& bytes, std::size_t& at, std::uint64_t number) {
    for (unsigned shift = 64; shift > 0; shift -= 8)
        bytes.data()[at++] = static_cast<unsigned char>(number >> (shift - 8) & 0xff);
}

void append(Secret& bytes, std::size_t& at, std::span<const unsigned char> more) {
    std::copy(more.begin(), more.end(), bytes.data() + at);
    at += more.size();
}

/// One of the tls12_crypto_info structures of <linux/tls.h>: head, nonce, key, salt, number of the
/// next record. All fields but the head are bytes, so there is no padding.
Secret crypto_info(const TlsSuite& suite, const RecordKeys& keys) {
    const bool aes = suite.cipher != TlsCipher::chacha20_poly1305;
    static_assert(sizeof(tls12_crypto_info_aes_gcm_128) ==
                  sizeof(tls_crypto_info) + 8 + 16 + 4 + 8);
    static_assert(sizeof(tls12_crypto_info_aes_gcm_256) ==
                  sizeof(tls_crypto_info) + 8 + 32 + 4 + 8);
    const std::uint16_t version =
        suite.version == TlsVersion::tls13 ? TLS_1_3_VERSION : TLS_1_2_VERSION;
    const tls_crypto_info head{.version = version, .cipher_type = cipher_number(suite.cipher)};
    Secret bytes(sizeof head + 12 + keys.key.size() + 8);
    std::memcpy(bytes.data(), &head, sizeof head);
    std::size_t at = sizeof head;
    const std::span<const unsigned char> iv = keys.iv.bytes();
    const std::size_t salt = aes ? 4 : 0;
    if (iv.size() == salt)
        append_number(bytes, at, keys.explicit_nonce);
    else
        append(bytes, at, iv.subspan(salt));
    append(bytes, at, keys.key.bytes());
    append(bytes, at, iv.first(salt));
    append_number(bytes, at, keys.sequence);
    return bytes;
}

/// 0 or an errno.
int set_keys(int fd, int direction, const TlsSuite& suite, const RecordKeys& keys) {
    const Secret info = crypto_info(suite, keys);
    const auto size = static_cast<socklen_t>(info.size());
    return ::setsockopt(fd, sol_tls, direction, info.data(), size) == 0 ? 0 : errno;
}

int set_layer(int fd) {
    constexpr char name[] = "tls";
    return ::setsockopt(fd, IPPROTO_TCP, TCP_ULP, name, sizeof name) == 0 ? 0 : errno;
}

/// A listening socket of the loopback device and what it takes to connect to it.
struct Loopback {
    Fd listener;
    sockaddr_in address{};

    /// Both ends of a new connection; without a first one when that did not work.
    std::pair<Fd, Fd> connect() const {
        Fd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) !=
            0)
            return {};
        return {std::move(client), Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC))};
    }
};

std::optional<Loopback> open_loopback() {
    Loopback loopback{Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))};
    loopback.address.sin_family = AF_INET;
    loopback.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* const address = reinterpret_cast<sockaddr*>(&loopback.address);
    socklen_t length = sizeof loopback.address;
    const int fd = loopback.listener.get();
    if (::bind(fd, address, length) != 0 || ::listen(fd, 1) != 0 ||
        ::getsockname(fd, address, &length) != 0)
        return std::nullopt;
    return loopback;
}

ConnectionKeys dummy_keys(const TlsSuite& suite) {
    const bool short_iv =
        suite.version == TlsVersion::tls12 && suite.cipher != TlsCipher::chacha20_poly1305;
    ConnectionKeys keys;
    keys.suite = suite;
    for (RecordKeys* direction : {&keys.send, &keys.receive}) {
        direction->key = Secret(key_length(suite.cipher));
        direction->iv = Secret(short_iv ? 4 : 12);
    }
    return keys;
}

/// Records one direction has had; its number is the last field of what set_keys() has set.
std::optional<std::uint64_t> records_of(int fd, int direction) {
    tls_crypto_info head{};
    socklen_t length = sizeof head;
    if (::getsockopt(fd, sol_tls, direction, &head, &length) != 0) return std::nullopt;
    const bool aes_128 = head.cipher_type == TLS_CIPHER_AES_GCM_128;
    if (!aes_128 && head.cipher_type != TLS_CIPHER_AES_GCM_256) return std::nullopt;
    // The keys come along.
    Secret whole(aes_128 ? sizeof(tls12_crypto_info_aes_gcm_128)
                         : sizeof(tls12_crypto_info_aes_gcm_256));
    length = static_cast<socklen_t>(whole.size());
    if (::getsockopt(fd, sol_tls, direction, whole.data(), &length) != 0) return std::nullopt;
    std::uint64_t number = 0;
    for (const unsigned char byte : whole.bytes().last(8)) number = number << 8 | byte;
    return number;
}

bool load_layer(int fd) {
    if (set_layer(fd) == 0) return true;
    // The kernel loads it by itself only for whoever may administer the network.
    (void)run_program({"modprobe", "-q", "tls"}, Deadline::in(patience_for_module));
    return set_layer(fd) == 0;
}

/// "6.1.192-1" -> 6, 1, 192; what is not there is 0.
std::array<unsigned, 3> version_numbers(std::string_view text) {
    std::array<unsigned, 3> numbers{};
    std::size_t at = 0;
    for (const char c : text) {
        if (c >= '0' && c <= '9')
            numbers[at] = std::min(numbers[at] * 10 + static_cast<unsigned>(c - '0'), 100'000U);
        else if (c != '.' || ++at == numbers.size())
            break;
    }
    return numbers;
}

Error no_kernel_tls(int error, const std::string& what) {
    const bool gone = error == ENOTCONN || error == EPIPE || error == ECONNRESET;
    return errno_error(gone ? Kind::unreachable : Kind::unsupported, "give the kernel " + what,
                       error);
}

}  // namespace

std::vector<TlsSuite> probe_kernel_tls() {
    const std::span<const TlsSuite> all = all_suites();
    const auto loopback = open_loopback();
    const auto first = loopback ? loopback->connect() : std::pair<Fd, Fd>();
    if (!first.first) return {all.begin(), all.end()};
    if (!load_layer(first.first.get())) return {};
    std::vector<TlsSuite> carried;
    for (const TlsSuite& suite : all) {
        const auto [client, server] = loopback->connect();
        const ConnectionKeys keys = dummy_keys(suite);
        if (set_layer(client.get()) == 0 &&
            set_keys(client.get(), TLS_TX, keys.suite, keys.send) == 0 &&
            set_keys(client.get(), TLS_RX, keys.suite, keys.receive) == 0)
            carried.push_back(suite);
    }
    return carried;
}

Result<void> install_kernel_tls(int fd, const ConnectionKeys& keys) {
    if (const int error = set_layer(fd); error != 0 && error != EEXIST)
        return no_kernel_tls(error, "a connection for TLS");
    const std::string what = "the keys of " + to_string(keys.suite);
    if (const int error = set_keys(fd, TLS_TX, keys.suite, keys.send); error != 0)
        return no_kernel_tls(error, what);
    if (const int error = set_keys(fd, TLS_RX, keys.suite, keys.receive); error != 0)
        return no_kernel_tls(error, what);
    return {};
}

std::optional<std::uint64_t> kernel_tls_records(int fd) {
    const auto sent = records_of(fd, TLS_TX);
    const auto received = records_of(fd, TLS_RX);
    if (!sent || !received) return std::nullopt;
    return std::max(*sent, *received);
}

bool breaks_on_signals(std::string_view release, std::string_view version) {
    // Debian's release is the name of an ABI; what it was built from stands in the version.
    constexpr std::string_view debian = " Debian ";
    const auto built_from = version.find(debian);
    const auto [major, minor, patch] = version_numbers(
        built_from == std::string_view::npos ? release
                                             : version.substr(built_from + debian.size()));
    if (major == 6 && minor == 1) return patch < 183;
    if (major == 6 && minor == 12) return patch < 104;
    return major < 7 || (major == 7 && minor < 2);
}

}  // namespace nbd
