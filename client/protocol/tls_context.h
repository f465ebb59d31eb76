// SPDX-License-Identifier: MIT
// A policy made ready for handshakes, and what OpenSSL's callbacks see of one of them.
#pragma once

#include "client/protocol/tls_credentials.h"
#include "client/protocol/tls_words.h"

#include <memory>
#include <string>
#include <vector>

struct ssl_ctx_st;
struct ssl_st;

namespace nbd {

/// Shared by all handshakes with a server; stays where it is while one runs.
class TlsContext {
public:
    /// Kind::insecure, naming the file, for what cannot be understood.
    static Result<std::unique_ptr<TlsContext>> make(TlsPolicy policy, const TlsTexts& texts);

    const TlsPolicy& policy() const { return policy_; }
    const SharedKey& shared_key() const { return shared_key_; }
    ssl_ctx_st* get() const { return context_.get(); }

private:
    struct Free {
        void operator()(ssl_ctx_st* context) const;
    };
    explicit TlsContext(TlsPolicy policy) : policy_(std::move(policy)) {}
    Result<void> set_up(const TlsTexts& texts);
    Result<void> offer_suites();

    TlsPolicy policy_;
    SharedKey shared_key_;
    std::unique_ptr<ssl_ctx_st, Free> context_;
};

/// What the callbacks saw of one connection; belongs to its SSL object.
struct TlsObserved {
    const TlsContext* context = nullptr;
    TlsTrouble trouble;
    bool rekeyed = false;  ///< the secrets below are not in use any more
    Secret client_secret;
    Secret server_secret;
};

}  // namespace nbd
