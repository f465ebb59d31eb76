// SPDX-License-Identifier: MIT
// Bytes that must not stay in memory: wiped when they go.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nbd {

/// Owns key material; move-only, so that no forgotten copy outlives it.
class Secret {
public:
    Secret() = default;
    explicit Secret(std::size_t size) : bytes_(size) {}
    explicit Secret(std::span<const unsigned char> bytes) : bytes_(bytes.begin(), bytes.end()) {}
    /// Takes over a text and wipes it there.
    explicit Secret(std::string&& text) : bytes_(text.begin(), text.end()) {
        ::explicit_bzero(text.data(), text.size());
        text.clear();
    }
    Secret(Secret&& other) noexcept : bytes_(std::move(other.bytes_)) {}
    Secret& operator=(Secret&& other) noexcept {
        if (this == &other) return *this;
        wipe();
        bytes_ = std::move(other.bytes_);
        return *this;
    }
    Secret(const Secret&) = delete;
    Secret& operator=(const Secret&) = delete;
    ~Secret() { wipe(); }

    unsigned char* data() { return bytes_.data(); }
    const unsigned char* data() const { return bytes_.data(); }
    std::size_t size() const { return bytes_.size(); }
    bool empty() const { return bytes_.empty(); }
    std::span<const unsigned char> bytes() const { return bytes_; }
    std::string_view text() const {
        return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
    }

private:
    void wipe() {
        if (!bytes_.empty()) ::explicit_bzero(bytes_.data(), bytes_.size());
        bytes_.clear();
    }
    std::vector<unsigned char> bytes_;
};

}  // namespace nbd
