// SPDX-License-Identifier: MIT
// The NBD handshake over a connected socket, inside TLS where that is asked for.
#pragma once

#include "client/protocol/handshake.h"
#include "client/protocol/tls.h"

#include <memory>
#include <string>
#include <utility>

namespace nbd {

class Dialogue {
public:
    /// Greets the server and, with a context, protects the connection before anything else is said.
    /// `fd` and `context` must outlive it.
    static Result<Dialogue> open(int fd, const std::string& peer, const TlsContext* context,
                                 const Deadline& deadline);

    Handshake& handshake() { return handshake_; }
    /// Null without TLS.
    TlsStream* tls() { return tls_.get(); }
    /// The TLS alone, when there is nothing more to be said here.
    std::unique_ptr<TlsStream> take_tls() { return std::move(tls_); }

private:
    Dialogue(std::unique_ptr<SocketStream> socket, std::unique_ptr<TlsStream> tls,
             Handshake handshake)
        : socket_(std::move(socket)), tls_(std::move(tls)), handshake_(std::move(handshake)) {}

    std::unique_ptr<SocketStream> socket_;
    std::unique_ptr<TlsStream> tls_;
    Handshake handshake_;
};

}  // namespace nbd
