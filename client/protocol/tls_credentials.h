// SPDX-License-Identifier: MIT
// What protects a TLS connection, in files: authorities, our certificate and key, shared keys.
#pragma once

#include "client/base/result.h"
#include "client/base/secret.h"
#include "client/protocol/tls_suite.h"
#include "client/protocol/uri.h"

#include <string>
#include <string_view>
#include <vector>

namespace nbd {

/// How connections to one server are to be protected.
struct TlsPolicy {
    TlsType type = TlsType::x509;
    std::string hostname = {};  ///< name or address the certificate must have; without a scope id
    bool verify = true;
    std::string ca = {};                               ///< file; empty: the system's authorities
    std::string certificate = {}, key = {}, psk = {};  ///< files; empty: none
    std::string username = {};                         ///< which of the shared keys
    std::vector<TlsSuite> suites = {};                 ///< to offer, best first
};

/// The content of the files, to be used when they cannot be read any more.
struct TlsTexts {
    Secret ca;
    Secret certificate;
    Secret key;
    Secret psk;
};

/// Reads what the policy names. Kind::insecure, naming the file.
Result<TlsTexts> read_tls_files(const TlsPolicy& policy);

/// Tells whether files have changed without keeping them: another number for other texts.
std::size_t fingerprint(const TlsTexts& texts);

struct SharedKey {
    std::string username;
    Secret key;
};

/// One key of a file of `username:hexkey` lines, as nbdkit, qemu and psktool write it: the named
/// one, or the only one there is. Kind::insecure with only the cause, which tells no key.
Result<SharedKey> find_shared_key(std::string_view text, std::string_view username);

}  // namespace nbd
