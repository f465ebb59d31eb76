// SPDX-License-Identifier: MIT
// TLS over a connected socket: a client's handshake, a stream, and the keys to go on without us.
#pragma once

#include "client/protocol/stream.h"
#include "client/protocol/tls_context.h"
#include "client/protocol/tls_keys.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

struct bio_st;

namespace nbd {

/// The client's side of one TLS connection. OpenSSL is fed exactly one record at a time, so it
/// never holds a byte that belongs to whoever goes on, and the records can be counted.
class TlsStream final : public Stream {
public:
    /// Shakes hands; `context` must outlive the stream. Whatever the server has sent before we
    /// began was not protected by anything and is a failure. Errors: insecure, unreachable
    /// (deadline), cancelled; they name `peer`.
    static Result<std::unique_ptr<TlsStream>> connect(const TlsContext& context, int fd,
                                                      const std::string& peer,
                                                      const Deadline& deadline);
    ~TlsStream() override;
    TlsStream(const TlsStream&) = delete;
    TlsStream& operator=(const TlsStream&) = delete;

    Result<void> read_exactly(std::span<std::byte> buffer, const Deadline& deadline) override;
    Result<void> write_all(std::span<const std::byte> bytes, const Deadline& deadline) override;

    /// Nothing when they agreed on something that is not in our list.
    std::optional<TlsSuite> suite() const;

    /// Ends our part without a word to the server: with these keys the kernel goes on. Fails when
    /// the server has already sent what the kernel should have received.
    Result<ConnectionKeys> take_keys(const Deadline& deadline);

    /// For a relay: the session itself, which from here on reads and writes the socket without us
    /// and is ours only to free.
    Result<ssl_st*> continue_over_socket(const Deadline& deadline);

private:
    struct Free {
        void operator()(ssl_st* ssl) const;
    };
    TlsStream(const TlsContext& context, int fd) : socket_(fd), fd_(fd) {
        observed_.context = &context;
    }
    Result<void> set_up();
    Result<void> check_silence() const;
    Result<void> shake(const Deadline& deadline);
    void begin_counting();
    Result<void> feed_record(const Deadline& deadline);
    Result<void> flush(const Deadline& deadline);
    void count_sent(std::span<const std::byte> bytes);
    Error failure();
    Error closed();
    Error rejected(const Deadline& deadline);
    int peek();
    Result<ConnectionKeys> derive_keys() const;

    SocketStream socket_;
    int fd_;
    TlsObserved observed_;
    std::unique_ptr<ssl_st, Free> ssl_;
    bio_st* incoming_ = nullptr;  ///< owned by ssl_
    bio_st* outgoing_ = nullptr;
    std::uint64_t received_records_ = 0;  ///< under the keys in use
    std::uint64_t sent_records_ = 0;
    std::uint64_t last_nonce_ = 0;  ///< explicit nonce of the last record sent (AES under TLS 1.2)
    bool any_record_ = false;       ///< the server has answered in TLS
    bool shaken_ = false;           ///< the handshake was completed
    bool open_ = false;             ///< shaken hands, and not yet failed or left
};

}  // namespace nbd
