// SPDX-License-Identifier: MIT
// From the secrets of a TLS handshake to the keys that protect records.
#pragma once

#include "client/base/secret.h"
#include "client/protocol/tls_suite.h"

#include <cstdint>
#include <span>
#include <string_view>

namespace nbd {

/// One direction: everything needed to protect its next record.
struct RecordKeys {
    Secret key;
    /// 12 bytes that are never sent; of AES under TLS 1.2 only the first 4 are used.
    Secret iv;
    /// Of AES under TLS 1.2: the nonce that the next record carries.
    std::uint64_t explicit_nonce = 0;
    std::uint64_t sequence = 0;  ///< number of the next record
};

struct ConnectionKeys {
    TlsSuite suite;
    RecordKeys send;
    RecordKeys receive;
};

enum class Digest { sha256, sha384 };

/// HKDF-Expand-Label of RFC 8446, section 7.1.
Result<Secret> expand_label(Digest digest, std::span<const unsigned char> secret,
                            std::string_view label, std::span<const unsigned char> context,
                            std::size_t length);

/// Key and IV of a TLS 1.3 traffic secret (section 7.3).
Result<RecordKeys> keys_from_traffic_secret(TlsCipher cipher,
                                            std::span<const unsigned char> secret);

/// What client and server write with under TLS 1.2 (RFC 5246, section 6.3): `send` is the client's.
Result<ConnectionKeys> keys_from_master_secret(TlsCipher cipher, Digest digest,
                                               std::span<const unsigned char> master_secret,
                                               std::span<const unsigned char> client_random,
                                               std::span<const unsigned char> server_random);

std::size_t key_length(TlsCipher cipher);

}  // namespace nbd
