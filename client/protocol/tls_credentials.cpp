// SPDX-License-Identifier: MIT
// What protects a TLS connection, in files: authorities, our certificate and key, shared keys.
#include "client/protocol/tls_credentials.h"

#include "client/base/fd.h"
#include "client/base/text.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <functional>
#include <optional>
#include <unistd.h>

namespace nbd {

namespace {

/// A bundle of all the world's authorities has 200 KiB.
constexpr std::size_t max_file = 8 * 1024 * 1024;
constexpr std::size_t max_username = 128;  // what OpenSSL's callback has room for
constexpr std::size_t max_key = 256;

/// Where systems keep all their authorities in one file: what a directory of them holds could not
/// be read once the file system is gone.
constexpr std::array system_bundles = {
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
};

Error unreadable(std::string_view what, const std::string& path, const std::string& cause) {
    return {Kind::insecure, "cannot load " + std::string(what) + " from " + path + ": " + cause};
}

/// Unlike read_file(), leaves no copy behind. An errno, or 0.
int read_whole(const std::string& path, Secret& text) {
    const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) return errno;
    Secret buffer(64 * 1024);
    std::size_t size = 0;
    for (;;) {
        const ssize_t count = ::read(file.get(), buffer.data() + size, buffer.size() - size);
        if (count < 0 && errno != EINTR) return errno;
        if (count == 0) break;
        if (count > 0) size += static_cast<std::size_t>(count);
        if (size < buffer.size()) continue;
        if (size >= max_file) return EFBIG;
        Secret larger(2 * size);
        std::ranges::copy(buffer.bytes(), larger.data());
        buffer = std::move(larger);
    }
    text = Secret(buffer.bytes().first(size));
    return 0;
}

Result<Secret> read_secret(std::string_view what, const std::string& path) {
    Secret text;
    if (path.empty()) return text;
    if (const int error = read_whole(path, text); error != 0)
        return unreadable(what, path, errno_text(error));
    if (trim(text.text()).empty()) return unreadable(what, path, "it is empty");
    return text;
}

Result<Secret> read_system_authorities() {
    Secret text;
    for (const char* path : system_bundles)
        if (read_whole(path, text) == 0 && !text.empty()) return text;
    return Error{Kind::insecure, "cannot load the system's certificate authorities: there are none",
                 "install the package ca-certificates, or name a file with --tls-ca"};
}

std::optional<Secret> decode_hex(std::string_view text) {
    if (text.empty() || text.size() % 2 != 0 || text.size() / 2 > max_key) return std::nullopt;
    Secret bytes(text.size() / 2);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        const auto high = hex_digit(text[2 * i]);
        const auto low = hex_digit(text[2 * i + 1]);
        if (!high || !low) return std::nullopt;
        bytes.data()[i] = static_cast<unsigned char>(*high << 4 | *low);
    }
    return bytes;
}

Error bad_keys(std::string cause, std::string hint = {}) {
    return {Kind::insecure, std::move(cause), std::move(hint)};
}

/// One line, blanks and comments left out before.
Result<SharedKey> parse_line(std::string_view line, std::size_t number) {
    const std::string where = "line " + std::to_string(number);
    const auto colon = line.rfind(':');
    if (colon == std::string_view::npos || colon == 0)
        return bad_keys(where + " is not of the form username:hexkey",
                        "psktool -u NAME -p FILE makes such a file");
    if (colon > max_username) return bad_keys(where + ": the user name is too long");
    auto key = decode_hex(line.substr(colon + 1));
    if (!key)
        return bad_keys(where + ": the key is not a hexadecimal number of at most " +
                        std::to_string(max_key) + " bytes");
    return SharedKey{std::string(line.substr(0, colon)), *std::move(key)};
}

}  // namespace

Result<TlsTexts> read_tls_files(const TlsPolicy& policy) {
    TlsTexts texts;
    const bool authorities = policy.verify && policy.type == TlsType::x509;
    if (!policy.ca.empty())
        texts.ca = TRY(read_secret("the authorities", policy.ca));
    else if (authorities)
        texts.ca = TRY(read_system_authorities());
    texts.certificate = TRY(read_secret("our certificate", policy.certificate));
    texts.key = TRY(read_secret("our private key", policy.key));
    texts.psk = TRY(read_secret("the shared keys", policy.psk));
    return texts;
}

std::size_t fingerprint(const TlsTexts& texts) {
    std::size_t number = 0;
    for (const Secret* text : {&texts.ca, &texts.certificate, &texts.key, &texts.psk})
        number = number * 31 + std::hash<std::string_view>{}(text->text());
    return number;
}

Result<SharedKey> find_shared_key(std::string_view text, std::string_view username) {
    std::optional<SharedKey> only;
    std::size_t number = 0;
    std::size_t keys = 0;
    for (std::string_view line : split(text, '\n')) {
        ++number;
        line = trim(line);
        if (line.empty() || line.front() == '#') continue;
        SharedKey key = TRY(parse_line(line, number));
        if (key.username == username) return key;
        if (++keys == 1) only = std::move(key);
    }
    if (keys == 0) return bad_keys("it has no keys", "psktool -u NAME -p FILE makes one");
    if (!username.empty()) return bad_keys("it has no key of user " + quoted(username));
    if (keys > 1)
        return bad_keys("it has the keys of " + std::to_string(keys) + " users",
                        "name one in the URI (nbds://NAME@HOST/) or with --tls-username");
    return *std::move(only);
}

}  // namespace nbd
