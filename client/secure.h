// SPDX-License-Identifier: MIT
// The TLS side of a request: policies from options and URIs, loaded contexts, the way to the
// kernel.
#pragma once

#include "client/base/deadline.h"
#include "client/base/fd.h"
#include "client/base/log.h"
#include "client/protocol/dialogue.h"
#include "client/protocol/tls_context.h"
#include "client/request.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace nbd {

/// Who encrypts a connection that was handed over; what `list` shows.
inline constexpr std::string_view offload_kernel = "ktls";
inline constexpr std::string_view offload_relay = "relay";

/// What options and URI together ask for, options first. Kind::insecure where nothing would be
/// checked without the user having said so.
Result<TlsPolicy> tls_policy(const AttachRequest& request, const Target& target,
                             std::vector<TlsSuite> suites);

/// The contexts for a request's target and its alternates.
class Security {
public:
    /// `for_kernel`: only what the kernel can go on with is offered.
    Security(const AttachRequest& request, bool for_kernel);

    /// Tries out what the kernel can carry, reads the files; nothing to do without TLS.
    Result<void> load();
    bool loaded() const { return loaded_; }
    /// Loads the files again if they can be read and have changed; else what was loaded stays. They
    /// may lie on the very device we serve: a child reads them first, and not for long.
    void refresh(const Deadline& deadline);
    /// Null: this target is plain. The pointer holds until the next refresh().
    const TlsContext* context(std::size_t target) const;
    /// Whether a process has to stand in for the kernel.
    bool needs_relay(std::size_t target) const { return entries_[target]->relay; }
    /// The kernel has not taken a connection as was thought it would: whether a relay may stand in.
    /// From then on it does.
    bool relay_instead(std::size_t target, const Error& why);

private:
    struct Entry {
        TlsPolicy policy;
        bool relay = false;
        std::unique_ptr<TlsContext> context;
        std::size_t fingerprint = 0;  ///< of the texts in use
    };
    const Target& target(std::size_t number) const;
    Result<void> load_entry(std::size_t number, const std::vector<TlsCipher>& ciphers,
                            const std::vector<TlsSuite>& carried);
    Result<std::vector<TlsSuite>> choose_offload(std::size_t number,
                                                 const std::vector<TlsCipher>& ciphers,
                                                 const std::vector<TlsSuite>& carried);
    void reload(Entry& entry);

    AttachRequest request_;
    bool for_kernel_;
    bool loaded_ = false;
    std::vector<std::unique_ptr<Entry>> entries_;
    Clock::time_point no_refresh_before_{};
};

/// Who is to encrypt a target's connections, and why it is not the kernel if it is not.
struct Offload {
    bool relay = false;
    Level level = Level::debug;  ///< how loud the sentence is
    std::string sentence = {};   ///< empty: nothing to be said
};

/// What the request wants of what there is; `carried` is what the kernel can go on with, of what is
/// wanted. Kind::unsupported where that is not to be had.
Result<Offload> choose_offload(const AttachRequest& request, const Target& target,
                               const std::vector<TlsSuite>& carried);

/// Makes the kernel go on with a connection past its handshake: from then on the socket is plain to
/// whoever holds it.
Result<void> hand_to_kernel(TlsStream& tls, int fd, const std::string& server,
                            const Deadline& deadline);

/// Leaves a connection past its handshake to a process that outlives us and ends with it; returns
/// its plain end for the kernel. `socket` stays the caller's as well, to abort it: a relay that is
/// stopped could send when it goes on. Not while other threads use TLS. `locked`: its memory.
Result<Fd> hand_to_relay(std::unique_ptr<TlsStream> tls, int socket, const std::string& server,
                         bool locked, const Deadline& deadline);

}  // namespace nbd
