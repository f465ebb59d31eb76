// SPDX-License-Identifier: MIT
// TLS failures in words: what is wrong with a certificate, what an alert means, and the cure.
#include "client/protocol/tls_words.h"

#include "client/base/text.h"

#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <ctime>
#include <memory>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

namespace nbd {

namespace {

constexpr std::size_t most_names = 5;
constexpr std::size_t longest_name = 100;

std::string short_text(std::string_view text) {
    return printable(text, longest_name);
}

std::string name_text(const X509_NAME* name) {
    const std::unique_ptr<BIO, decltype(&BIO_free)> bio(BIO_new(BIO_s_mem()), &BIO_free);
    if (!bio || X509_NAME_print_ex(bio.get(), name, 0, XN_FLAG_RFC2253) < 0) return "?";
    char* text = nullptr;
    const long length = BIO_get_mem_data(bio.get(), &text);
    return short_text({text, static_cast<std::size_t>(std::max(length, 0L))});
}

std::string time_text(const ASN1_TIME* time) {
    std::tm parts{};
    if (ASN1_TIME_to_tm(time, &parts) != 1) return "?";
    return format_time(std::chrono::system_clock::from_time_t(::timegm(&parts)));
}

std::string_view octets(const ASN1_STRING* text) {
    return {reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
            static_cast<std::size_t>(std::max(ASN1_STRING_length(text), 0))};
}

std::string address_text(std::string_view bytes) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    const int family = bytes.size() == 4 ? AF_INET : AF_INET6;
    if (bytes.size() != 4 && bytes.size() != 16) return "?";
    return ::inet_ntop(family, bytes.data(), text.data(), text.size());
}

/// What a certificate is for: its alternative names, or without any the common name.
std::vector<std::string> names_in(X509* certificate) {
    std::vector<std::string> names;
    const std::unique_ptr<GENERAL_NAMES, decltype(&GENERAL_NAMES_free)> list(
        static_cast<GENERAL_NAMES*>(
            X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)),
        &GENERAL_NAMES_free);
    for (int i = 0; list && i < sk_GENERAL_NAME_num(list.get()); ++i) {
        const GENERAL_NAME* const name = sk_GENERAL_NAME_value(list.get(), i);
        if (name->type != GEN_DNS && name->type != GEN_IPADD) continue;
        if (names.size() == most_names) {
            names.emplace_back("…");
            break;
        }
        names.push_back(name->type == GEN_DNS ? short_text(octets(name->d.dNSName))
                                              : address_text(octets(name->d.iPAddress)));
    }
    if (!names.empty()) return names;
    std::array<char, 256> common{};
    const int length = X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName,
                                                 common.data(), static_cast<int>(common.size()));
    if (length > 0) names.push_back(short_text({common.data(), static_cast<std::size_t>(length)}));
    return names;
}

Error insecure(std::string what, std::string hint) {
    return {Kind::insecure, std::move(what), std::move(hint)};
}

Error explain_refusal(const RefusedCertificate& refused, const TlsPolicy& policy) {
    const std::string whose = refused.depth == 0
                                  ? "the server's certificate"
                                  : "the certificate of its authority \"" + refused.subject + "\"";
    const std::string authorities =
        policy.ca.empty() ? "the system's authorities" : "the authorities in " + policy.ca;
    switch (refused.reason) {
        case X509_V_ERR_HOSTNAME_MISMATCH:
        case X509_V_ERR_IP_ADDRESS_MISMATCH:
            return insecure("the server's certificate is not for " + quoted(policy.hostname) +
                                " but for " +
                                (refused.names.empty() ? "no name" : join(refused.names, ", ")),
                            "if it is the right server, --tls-hostname says which name its "
                            "certificate has");
        case X509_V_ERR_CERT_HAS_EXPIRED:
            return insecure(whose + " has expired on " + refused.not_after,
                            "renew it there; is the clock of this machine right?");
        case X509_V_ERR_CERT_NOT_YET_VALID:
            return insecure(whose + " is not valid before " + refused.not_before,
                            "is the clock of this machine right?");
        case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
            return insecure("the server's certificate is self-signed (\"" + refused.subject + "\")",
                            "if it is the right server, name a file with its certificate by "
                            "--tls-ca");
        case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
        case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
        case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        case X509_V_ERR_CERT_SIGNATURE_FAILURE:
            return insecure(whose + " is vouched for by \"" + refused.issuer +
                                "\", which is not among " + authorities,
                            "--tls-ca names the file of the authority that this server uses");
        default:
            return insecure(
                whose + " is not acceptable: " + X509_verify_cert_error_string(refused.reason),
                "the server needs another certificate");
    }
}

constexpr std::string_view ours_hint =
    "--tls-cert and --tls-key name our certificate and its key; the server's log may say more";

std::string alert_text(int alert) {
    // OpenSSL 3.0 has no word for it.
    if (alert == SSL_AD_CERTIFICATE_REQUIRED) return "certificate required";
    return SSL_alert_desc_string_long(alert);
}

Error explain_alert(const TlsTrouble& trouble, const TlsPolicy& policy) {
    const int alert = trouble.alert;
    const std::string said = " (alert \"" + alert_text(alert) + "\")";
    const bool without = trouble.certificate_wanted;
    if (alert == SSL_AD_CERTIFICATE_REQUIRED || (without && alert == SSL_AD_HANDSHAKE_FAILURE) ||
        (without && alert >= SSL_AD_BAD_CERTIFICATE && alert <= SSL_AD_ACCESS_DENIED &&
         alert != SSL_AD_ILLEGAL_PARAMETER))
        return insecure("the server wants a certificate of ours and got none" + said,
                        std::string(ours_hint));
    if (policy.type == TlsType::psk &&
        (alert == SSL_AD_UNKNOWN_PSK_IDENTITY || alert == SSL_AD_DECRYPT_ERROR ||
         alert == SSL_AD_BAD_RECORD_MAC || alert == SSL_AD_ILLEGAL_PARAMETER))
        return insecure("the server does not take our shared key" + said,
                        "name and key must be the same in the server's file");
    if ((alert >= SSL_AD_BAD_CERTIFICATE && alert <= SSL_AD_CERTIFICATE_UNKNOWN) ||
        alert == SSL_AD_UNKNOWN_CA || alert == SSL_AD_ACCESS_DENIED)
        return insecure("the server does not accept our certificate" + said,
                        std::string(ours_hint));
    if (alert == SSL_AD_HANDSHAKE_FAILURE || alert == SSL_AD_INSUFFICIENT_SECURITY)
        return insecure("the server knows none of the ciphers offered" + said,
                        "it may want shared keys (--tls-psk) or certificates, whichever was not "
                        "offered; --tls-ciphers may be too narrow");
    if (alert == SSL_AD_PROTOCOL_VERSION)
        return insecure("the server knows neither TLS 1.2 nor 1.3" + said, "update the server");
    return insecure("the server ends TLS" + said, "the server's log may say more");
}

}  // namespace

RefusedCertificate describe_certificate(x509_st* certificate) {
    RefusedCertificate words;
    if (certificate == nullptr) return words;
    words.subject = name_text(X509_get_subject_name(certificate));
    words.issuer = name_text(X509_get_issuer_name(certificate));
    words.names = names_in(certificate);
    words.not_before = time_text(X509_get0_notBefore(certificate));
    words.not_after = time_text(X509_get0_notAfter(certificate));
    return words;
}

Error explain_tls_failure(const TlsTrouble& trouble, const TlsPolicy& policy) {
    const std::string details = drain_tls_errors();
    if (trouble.refused.reason != 0 && policy.verify)
        return explain_refusal(trouble.refused, policy);
    if (trouble.alert >= 0) return explain_alert(trouble, policy);
    return {Kind::insecure, details.empty() ? "the handshake fails" : details,
            "the server's log may say more"};
}

std::string drain_tls_errors() {
    std::string text;
    while (const unsigned long code = ERR_get_error()) {
        const char* const reason = ERR_reason_error_string(code);
        if (!text.empty()) text += ", ";
        text += reason != nullptr ? reason : "error " + std::to_string(code);
    }
    return text;
}

}  // namespace nbd
