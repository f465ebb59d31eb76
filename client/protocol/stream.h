// SPDX-License-Identifier: MIT
// The byte stream the handshake runs over, and its plain socket form.
#pragma once

#include "client/base/deadline.h"
#include "client/base/fd.h"

#include <cstddef>
#include <span>

namespace nbd {

/// Reads and writes exactly what is asked for, or fails; never reads ahead, because every byte
/// after the handshake belongs to the kernel. Errors: unreachable (deadline), protocol (the peer
/// closed), cancelled; their sentences name no object.
class Stream {
public:
    virtual ~Stream() = default;
    virtual Result<void> read_exactly(std::span<std::byte> buffer, const Deadline& deadline) = 0;
    virtual Result<void> write_all(std::span<const std::byte> bytes, const Deadline& deadline) = 0;
};

/// Borrows a connected stream socket; works on blocking and non-blocking ones alike.
class SocketStream final : public Stream {
public:
    explicit SocketStream(int fd) : fd_(fd) {}
    Result<void> read_exactly(std::span<std::byte> buffer, const Deadline& deadline) override;
    Result<void> write_all(std::span<const std::byte> bytes, const Deadline& deadline) override;

private:
    int fd_;
};

}  // namespace nbd
