// SPDX-License-Identifier: MIT
// Asks a server about its exports without attaching one.
#include "client/inquire.h"

#include "client/protocol/connect.h"
#include "client/protocol/dialogue.h"
#include "client/secure.h"

#include <utility>

namespace nbd {

namespace {

/// Lists longer than this come without sizes: each costs a round trip.
constexpr std::size_t most_sizes = 256;

/// A connection to ask over.
struct Inquiry {
    Fd socket;
    Dialogue dialogue;
};

Result<Inquiry> reach(const AttachRequest& request, Security& security, const Deadline& deadline) {
    TRY(security.load());
    const auto addresses = TRY(resolve(request.target.endpoint, deadline));
    auto server = TRY(connect_any(addresses, deadline));
    Dialogue dialogue = TRY(
        Dialogue::open(server.socket.get(), server.address.text, security.context(0), deadline));
    return Inquiry{std::move(server.socket), std::move(dialogue)};
}

}  // namespace

Result<ExportInfo> ask_info(const AttachRequest& request, const Deadline& deadline) {
    Security security(request, false);
    Inquiry inquiry = TRY(reach(request, security, deadline));
    Handshake& handshake = inquiry.dialogue.handshake();
    auto info = handshake.info(request.target.export_name);
    handshake.abort();
    return info;
}

Result<std::vector<ListedExport>> ask_exports(const AttachRequest& request,
                                              const Deadline& deadline) {
    Security security(request, false);
    Inquiry inquiry = TRY(reach(request, security, deadline));
    Handshake& handshake = inquiry.dialogue.handshake();
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
