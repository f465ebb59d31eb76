// SPDX-License-Identifier: MIT
// The NBD handshake over a connected socket, inside TLS where that is asked for.
#include "client/protocol/dialogue.h"

#include <utility>

namespace nbd {

Result<Dialogue> Dialogue::open(int fd, const std::string& peer, const TlsContext* context,
                                const Deadline& deadline) {
    auto socket = std::make_unique<SocketStream>(fd);
    Handshake handshake = TRY(Handshake::start(*socket, peer, deadline));
    std::unique_ptr<TlsStream> tls;
    if (context != nullptr) {
        TRY(handshake.start_tls());
        tls = TRY(TlsStream::connect(*context, fd, peer, deadline));
        handshake.continue_over(*tls);
    }
    return Dialogue(std::move(socket), std::move(tls), std::move(handshake));
}

}  // namespace nbd
