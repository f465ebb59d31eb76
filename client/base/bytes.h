// SPDX-License-Identifier: MIT
// Big-endian reading and writing of byte sequences.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nbd {

/// Appends unsigned integers (big-endian) and text to a byte vector.
class Writer {
public:
    template <std::unsigned_integral T>
    Writer& integer(T value) {
        for (std::size_t i = sizeof(T); i-- > 0;)
            bytes_.push_back(static_cast<std::byte>((value >> (8 * i)) & 0xff));
        return *this;
    }
    Writer& text(std::string_view text) {
        for (const char c : text) bytes_.push_back(static_cast<std::byte>(c));
        return *this;
    }
    Writer& zeros(std::size_t count) {
        bytes_.insert(bytes_.end(), count, std::byte{0});
        return *this;
    }
    std::span<const std::byte> bytes() const { return bytes_; }

private:
    std::vector<std::byte> bytes_;
};

/// Walks a borrowed byte span. Reading past the end yields zeros and sets a flag that stays, so a
/// decoder reads all fields first and asks once whether the message was long enough.
class Reader {
public:
    explicit Reader(std::span<const std::byte> bytes) : rest_(bytes) {}

    template <std::unsigned_integral T>
    T integer() {
        T value = 0;
        for (const std::byte b : take(sizeof(T)))
            value = static_cast<T>((static_cast<std::uint64_t>(value) << 8) |
                                   std::to_integer<std::uint64_t>(b));
        return value;
    }
    std::string text(std::size_t length) {
        std::string text;
        for (const std::byte b : take(length)) text.push_back(static_cast<char>(b));
        return text;
    }
    std::string rest_as_text() { return text(rest_.size()); }
    std::size_t left() const { return rest_.size(); }
    bool was_short() const { return short_; }
    /// True when every byte was consumed and none was missing.
    bool complete() const { return !short_ && rest_.empty(); }

private:
    std::span<const std::byte> take(std::size_t count) {
        if (count > rest_.size()) {
            short_ = true;
            rest_ = {};
            return {};
        }
        const auto head = rest_.first(count);
        rest_ = rest_.subspan(count);
        return head;
    }
    std::span<const std::byte> rest_;
    bool short_ = false;
};

}  // namespace nbd
