// SPDX-License-Identifier: MIT
// The error value every fallible function returns, Result<T> around it, and TRY.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace nbd {

/// The class of a failure: what code may branch on. It decides the exit code, the pace of retries
/// and whether the ioctl interface may stand in for netlink (`unsupported` only).
enum class Kind {
    usage,        ///< the caller's words are wrong
    absent,       ///< no such device, export or file
    denied,       ///< a privilege or permission is missing
    busy,         ///< in use, attached already
    unreachable,  ///< nobody answers, or not in time
    refused,      ///< the peer answers no
    insecure,     ///< what was asked to be protected would not be
    protocol,     ///< the peer does not speak NBD as documented
    mismatch,     ///< another export than the one agreed on
    unsupported,  ///< kernel or build lacks what is asked for
    cancelled,    ///< a signal ended the wait
    internal,     ///< should not happen
};

/// A failure as a sentence: `what` reads "cannot <act> <object>: <cause>", `hint` what to do next
/// (may be empty). The wording of errno, resolver or server is folded into `what` where it is
/// caught.
struct Error {
    Kind kind = Kind::internal;
    std::string what;
    std::string hint = {};

    /// Prefixes the sentence with the larger act it interrupted: "while <act>: ...".
    [[nodiscard]] Error during(std::string_view act) && {
        what = "while " + std::string(act) + ": " + what;
        return std::move(*this);
    }
};

/// A value or an Error; the members carry std::expected's names so that it can become an alias
/// once both compilers have that type.
template <typename T>
class [[nodiscard]] Result {
public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

    bool has_value() const { return state_.index() == 0; }
    explicit operator bool() const { return has_value(); }
    T& operator*() & { return *std::get_if<0>(&state_); }
    const T& operator*() const& { return *std::get_if<0>(&state_); }
    T&& operator*() && { return std::move(*std::get_if<0>(&state_)); }
    T* operator->() { return std::get_if<0>(&state_); }
    const T* operator->() const { return std::get_if<0>(&state_); }
    Error& error() & { return *std::get_if<1>(&state_); }
    const Error& error() const& { return *std::get_if<1>(&state_); }
    Error&& error() && { return std::move(*std::get_if<1>(&state_)); }

private:
    std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
public:
    Result() = default;
    Result(Error error) : error_(std::move(error)) {}

    bool has_value() const { return !error_; }
    explicit operator bool() const { return has_value(); }
    void operator*() const {}
    Error& error() & { return *error_; }
    const Error& error() const& { return *error_; }
    Error&& error() && { return std::move(*error_); }

private:
    std::optional<Error> error_;
};

}  // namespace nbd

/// Yields the value of a Result, or returns its error from the enclosing function. Not behind other
/// members in braces: both compilers leak those when it returns.
#define TRY(expression)                                                      \
    __extension__({                                                          \
        auto&& try_result_ = (expression);                                   \
        if (!try_result_.has_value()) return std::move(try_result_).error(); \
        *std::move(try_result_);                                             \
    })
