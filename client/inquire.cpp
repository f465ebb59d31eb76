// SPDX-License-Identifier: MIT
// Asks a server about its exports without attaching one.
#include "client/inquire.h"

#include "client/protocol/connect.h"
#include "client/protocol/stream.h"

namespace nbd {

namespace {

/// Lists longer than this come without sizes: each costs a round trip.
constexpr std::size_t most_sizes = 256;

Result<ConnectRace::Winner> reach(const AttachRequest& request, const Deadline& deadline) {
    TRY(check_supported(request.target));
    return connect_any(TRY(resolve(request.target.endpoint, deadline)), deadline);
}

}  // namespace

Result<void> check_supported(const Target& target) {
    if (!target.tls) return {};
    return Error{Kind::insecure, "cannot use " + to_uri(target) + ": this version has no TLS yet",
                 "nbd:// connects without protection"};
}

Result<ExportInfo> ask_info(const AttachRequest& request, const Deadline& deadline) {
    const auto server = TRY(reach(request, deadline));
    SocketStream stream(server.socket.get());
    Handshake handshake = TRY(Handshake::start(stream, server.address.text, deadline));
    auto info = handshake.info(request.target.export_name);
    handshake.abort();
    return info;
}

Result<std::vector<ListedExport>> ask_exports(const AttachRequest& request,
                                              const Deadline& deadline) {
    const auto server = TRY(reach(request, deadline));
    SocketStream stream(server.socket.get());
    Handshake handshake = TRY(Handshake::start(stream, server.address.text, deadline));
    auto exports = handshake.list();
    if (exports && exports->size() <= most_sizes)
        for (ListedExport& entry : *exports) {
            auto info = handshake.info(entry.name);
            // A server without NBD_OPT_INFO has entered the transmission phase with the first
            // question.
            if (!info || handshake.in_transmission()) break;
            entry.size = info->size;
            if (entry.description.empty()) entry.description = info->description;
        }
    handshake.abort();
    return exports;
}

}  // namespace nbd
