// SPDX-License-Identifier: MIT
// The TLS versions and ciphers we use: names, order of preference, what this processor likes.
#include "client/protocol/tls_suite.h"

#include "client/base/text.h"

#include <algorithm>
#include <array>

namespace nbd {

namespace {

constexpr std::array names = {
    std::pair{TlsCipher::aes_128_gcm, std::string_view("aes-128-gcm")},
    std::pair{TlsCipher::aes_256_gcm, std::string_view("aes-256-gcm")},
    std::pair{TlsCipher::chacha20_poly1305, std::string_view("chacha20-poly1305")},
};

constexpr std::array every_suite = {
    TlsSuite{TlsVersion::tls13, TlsCipher::aes_128_gcm},
    TlsSuite{TlsVersion::tls13, TlsCipher::aes_256_gcm},
    TlsSuite{TlsVersion::tls13, TlsCipher::chacha20_poly1305},
    TlsSuite{TlsVersion::tls12, TlsCipher::aes_128_gcm},
    TlsSuite{TlsVersion::tls12, TlsCipher::aes_256_gcm},
    TlsSuite{TlsVersion::tls12, TlsCipher::chacha20_poly1305},
};

std::optional<TlsCipher> cipher_named(std::string_view name) {
    for (const auto& [cipher, known] : names)
        if (known == name) return cipher;
    return std::nullopt;
}

Error no_such_cipher(std::string_view name) {
    std::vector<std::string_view> known;
    std::vector<std::string> all;
    for (const auto& entry : names) {
        known.push_back(entry.second);
        all.emplace_back(entry.second);
    }
    const auto near = nearest(name, known);
    return {Kind::usage, "there is no cipher " + quoted(name),
            near ? "did you mean " + std::string(*near) + "?" : "ciphers are " + join(all, ", ")};
}

}  // namespace

std::string_view to_string(TlsCipher cipher) {
    return names[static_cast<std::size_t>(cipher)].second;
}

std::string to_string(const TlsSuite& suite) {
    return (suite.version == TlsVersion::tls13 ? "TLS 1.3 with " : "TLS 1.2 with ") +
           std::string(to_string(suite.cipher));
}

Result<std::vector<TlsCipher>> parse_ciphers(std::string_view text) {
    std::vector<TlsCipher> ciphers;
    // Commas cannot stand in a value of nbdtab.
    std::string list(text);
    std::ranges::replace(list, ':', ',');
    for (const std::string_view word : split(list, ',')) {
        const auto cipher = cipher_named(trim(word));
        if (!cipher) return no_such_cipher(trim(word));
        if (std::ranges::find(ciphers, *cipher) != ciphers.end())
            return Error{Kind::usage, std::string(to_string(*cipher)) + " is there twice"};
        ciphers.push_back(*cipher);
    }
    return ciphers;
}

bool has_aes_instructions(std::string_view cpuinfo) {
    for (const std::string_view line : split(cpuinfo, '\n')) {
        // "flags" on x86, "Features" on ARM.
        if (!line.starts_with("flags") && !line.starts_with("Features")) continue;
        const auto words = split_words(line);
        return std::ranges::find(words, "aes") != words.end();
    }
    return false;
}

std::vector<TlsCipher> default_ciphers(bool aes_instructions) {
    if (aes_instructions)
        return {TlsCipher::aes_128_gcm, TlsCipher::aes_256_gcm, TlsCipher::chacha20_poly1305};
    return {TlsCipher::chacha20_poly1305, TlsCipher::aes_128_gcm, TlsCipher::aes_256_gcm};
}

std::span<const TlsSuite> all_suites() {
    return every_suite;
}

std::vector<TlsSuite> suites_to_offer(std::span<const TlsCipher> ciphers,
                                      std::span<const TlsSuite> carried) {
    std::vector<TlsSuite> suites;
    for (const TlsVersion version : {TlsVersion::tls13, TlsVersion::tls12})
        for (const TlsCipher cipher : ciphers)
            if (std::ranges::find(carried, TlsSuite{version, cipher}) != carried.end())
                suites.push_back({version, cipher});
    return suites;
}

}  // namespace nbd
