// SPDX-License-Identifier: MIT
// The TLS versions and ciphers we use: names, order of preference, what this processor likes.
#pragma once

#include "client/base/result.h"

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nbd {

enum class TlsVersion { tls12, tls13 };
/// Those that the kernel can carry; all are authenticated encryption.
enum class TlsCipher { aes_128_gcm, aes_256_gcm, chacha20_poly1305 };

struct TlsSuite {
    TlsVersion version = TlsVersion::tls13;
    TlsCipher cipher = TlsCipher::aes_128_gcm;
    bool operator==(const TlsSuite&) const = default;
};

/// "aes-128-gcm", as --tls-ciphers takes it.
std::string_view to_string(TlsCipher cipher);
/// "TLS 1.3 with aes-128-gcm"
std::string to_string(const TlsSuite& suite);

/// "aes-128-gcm,chacha20-poly1305", best first, colons do as well; Kind::usage with only the cause
/// otherwise.
Result<std::vector<TlsCipher>> parse_ciphers(std::string_view text);

/// Whether /proc/cpuinfo tells of AES instructions.
bool has_aes_instructions(std::string_view cpuinfo);
/// AES first where the processor helps with it, else the cipher made for software.
std::vector<TlsCipher> default_ciphers(bool aes_instructions);

/// Every version and cipher there is.
std::span<const TlsSuite> all_suites();
/// What to offer: TLS 1.3 before 1.2, ciphers in their order, cut to what can be carried.
std::vector<TlsSuite> suites_to_offer(std::span<const TlsCipher> ciphers,
                                      std::span<const TlsSuite> carried);

}  // namespace nbd
