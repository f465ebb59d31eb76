// SPDX-License-Identifier: MIT
// A server that plays a script, as a Stream: no socket, no thread, no time.
#pragma once

#include "client/base/bytes.h"
#include "client/protocol/stream.h"

#include <algorithm>
#include <cstring>
#include <gtest/gtest.h>
#include <string>
#include <utility>
#include <vector>

namespace nbd::script {

struct Step {
    enum class Who { client, server } who;
    std::string bytes;
};

inline Step expects(std::string bytes) {
    return {Step::Who::client, std::move(bytes)};
}
inline Step sends(std::string bytes) {
    return {Step::Who::server, std::move(bytes)};
}

/// Fails the test when the client says something else than the script expects, or waits for an
/// answer before having asked. Past the end of the script the connection is closed.
class ScriptedStream final : public Stream {
public:
    explicit ScriptedStream(std::vector<Step> steps) : steps_(std::move(steps)) {}

    Result<void> read_exactly(std::span<std::byte> buffer, const Deadline&) override {
        largest_read_ = std::max(largest_read_, buffer.size());
        while (!buffer.empty()) {
            if (!current(Step::Who::server)) {
                EXPECT_EQ(at_, steps_.size()) << "the client waits before it has asked";
                return closed();
            }
            const std::size_t count = std::min(buffer.size(), left());
            std::memcpy(buffer.data(), steps_[at_].bytes.data() + offset_, count);
            offset_ += count;
            buffer = buffer.subspan(count);
        }
        return {};
    }

    Result<void> write_all(std::span<const std::byte> bytes, const Deadline&) override {
        while (!bytes.empty()) {
            if (!current(Step::Who::client)) {
                EXPECT_EQ(at_, steps_.size()) << "the client speaks out of turn";
                return closed();
            }
            const std::size_t count = std::min(bytes.size(), left());
            const std::string said = Reader(bytes).text(count);
            EXPECT_EQ(said, steps_[at_].bytes.substr(offset_, count)) << "in step " << at_;
            offset_ += count;
            bytes = bytes.subspan(count);
        }
        return {};
    }

    /// True when every expected byte was received and every byte sent was read.
    bool finished() {
        current(Step::Who::client);
        return at_ == steps_.size();
    }
    std::size_t largest_read() const { return largest_read_; }

private:
    static Error closed() { return {Kind::protocol, "closed"}; }
    std::size_t left() const { return steps_[at_].bytes.size() - offset_; }
    /// Moves past finished steps; true when it is `who`'s turn.
    bool current(Step::Who who) {
        while (at_ < steps_.size() && left() == 0) {
            ++at_;
            offset_ = 0;
        }
        return at_ < steps_.size() && steps_[at_].who == who;
    }

    std::vector<Step> steps_;
    std::size_t at_ = 0;
    std::size_t offset_ = 0;
    std::size_t largest_read_ = 0;
};

// The bytes of the messages, with the numbers of the protocol document, not the program's
// constants.

template <std::unsigned_integral... T>
std::string numbers(T... values) {
    Writer writer;
    (writer.integer(values), ...);
    return Reader(writer.bytes()).rest_as_text();
}

inline std::string zeroes(std::size_t count) {
    return std::string(count, '\0');
}

inline std::string greeting(std::uint16_t flags) {
    return "NBDMAGICIHAVEOPT" + numbers(flags);
}
inline std::string client_flags(std::uint32_t flags) {
    return numbers(flags);
}
inline std::string oldstyle_greeting(std::uint64_t size, std::uint32_t flags) {
    return "NBDMAGIC" + numbers(std::uint64_t{0x420281861253}, size, flags) + zeroes(124);
}

inline constexpr std::uint32_t opt_export_name = 1;
inline constexpr std::uint32_t opt_abort = 2;
inline constexpr std::uint32_t opt_list = 3;
inline constexpr std::uint32_t opt_info = 6;
inline constexpr std::uint32_t opt_go = 7;
inline constexpr std::uint32_t rep_ack = 1;
inline constexpr std::uint32_t rep_server = 2;
inline constexpr std::uint32_t rep_info = 3;
inline constexpr std::uint32_t err = 0x80000000;

inline std::string option(std::uint32_t number, const std::string& data = "") {
    return "IHAVEOPT" + numbers(number, static_cast<std::uint32_t>(data.size())) + data;
}
/// NBD_OPT_GO or NBD_OPT_INFO asking for all four items.
inline std::string info_option(std::uint32_t number, const std::string& name) {
    return option(number, numbers(static_cast<std::uint32_t>(name.size())) + name +
                              numbers(std::uint16_t{4}, std::uint16_t{0}, std::uint16_t{1},
                                      std::uint16_t{2}, std::uint16_t{3}));
}
inline std::string reply_header(std::uint32_t number, std::uint32_t type, std::uint32_t length) {
    return numbers(std::uint64_t{0x3e889045565a9}, number, type, length);
}
inline std::string reply(std::uint32_t number, std::uint32_t type, const std::string& data = "") {
    return reply_header(number, type, static_cast<std::uint32_t>(data.size())) + data;
}
inline std::string info_item(std::uint16_t type, const std::string& data) {
    return numbers(type) + data;
}
inline std::string info_export(std::uint64_t size, std::uint16_t flags) {
    return info_item(0, numbers(size, flags));
}
inline std::string listed(const std::string& name, const std::string& description = "") {
    return numbers(static_cast<std::uint32_t>(name.size())) + name + description;
}

}  // namespace nbd::script
