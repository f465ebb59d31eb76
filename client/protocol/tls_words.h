// SPDX-License-Identifier: MIT
// TLS failures in words: what is wrong with a certificate, what an alert means, and the cure.
#pragma once

#include "client/protocol/tls_credentials.h"

#include <string>
#include <vector>

struct x509_st;

namespace nbd {

/// The certificate that did not pass, in words.
struct RefusedCertificate {
    int reason = 0;  ///< an X509_V_ERR_ number, 0: none was refused
    int depth = 0;   ///< 0: the server's own
    std::string subject;
    std::string issuer;
    std::vector<std::string> names;  ///< what it is for
    std::string not_before;
    std::string not_after;
};

/// What is known of a handshake that failed.
struct TlsTrouble {
    RefusedCertificate refused = {};
    int alert = -1;                   ///< number of the server's last fatal alert
    bool certificate_wanted = false;  ///< and there was none
};

/// Names and dates; nothing of it for a null pointer.
RefusedCertificate describe_certificate(x509_st* certificate);

/// Why the handshake failed: "the server's certificate has expired on …" with its cure, as far as
/// the trouble tells it; else what OpenSSL says. Only the cause. Empties OpenSSL's error queue.
Error explain_tls_failure(const TlsTrouble& trouble, const TlsPolicy& policy);

/// Everything in OpenSSL's error queue as one text.
std::string drain_tls_errors();

}  // namespace nbd
