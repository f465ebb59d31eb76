// SPDX-License-Identifier: MIT
// NBD as a lab server speaks it: one export in a file, inside TLS only, whatever carries the bytes.
#pragma once

#include "client/base/bytes.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <span>
#include <string_view>
#include <thread>
#include <unistd.h>
#include <vector>

namespace lab {

/// What carries the bytes. Each function is false when the connection is of no more use.
class Carrier {
public:
    virtual ~Carrier() = default;
    virtual bool read(std::span<std::byte> buffer) = 0;
    virtual bool write(std::span<const std::byte> bytes) = 0;
    /// Everything after it goes through TLS.
    virtual bool start_tls() = 0;
    /// Before an option is answered inside TLS.
    virtual bool before_answer() = 0;
};

struct Disk {
    int fd;
    std::uint64_t size;
    std::chrono::milliseconds flush_time{};  // at least
};

/// One connection. The numbers are those of the NBD protocol document, not the program's constants.
class NbdService {
public:
    NbdService(Carrier& carrier, const Disk& disk) : carrier_(carrier), disk_(disk) {}

    /// The handshake; true when the export is open, whatever name it was asked for by.
    bool negotiate() {
        std::array<std::byte, 4> client_flags{};
        nbd::Writer greeting;
        greeting.text("NBDMAGIC").text(option_magic).integer(fixed_newstyle_no_zeroes);
        if (!carrier_.write(greeting.bytes()) || !carrier_.read(client_flags)) return false;
        for (bool secure = false;;) {
            std::uint32_t option = 0;
            if (!read_option(option)) return false;
            if (!secure && option == opt_starttls) {
                if (!reply(option, rep_ack) || !carrier_.start_tls()) return false;
                secure = true;
            } else if (option == opt_abort) {
                return reply(option, rep_ack) && false;
            } else if (!secure) {
                if (!reply(option, err_tls_reqd)) return false;
            } else if (!carrier_.before_answer() || !answer(option)) {
                return false;
            } else if (option == opt_go) {
                return true;
            }
        }
    }

    /// Reads a request, does what it says, replies.
    bool serve_request() {
        std::array<std::byte, 28> header{};
        if (!carrier_.read(header)) return false;
        nbd::Reader reader(header);
        const auto magic = reader.integer<std::uint32_t>();
        reader.integer<std::uint16_t>();
        const auto type = reader.integer<std::uint16_t>();
        const auto cookie = reader.integer<std::uint64_t>();
        const auto offset = reader.integer<std::uint64_t>();
        const auto length = reader.integer<std::uint32_t>();
        const bool has_data = type == cmd_read || type == cmd_write;
        if (magic != request_magic || type == cmd_disc || (has_data && length > longest_request))
            return false;
        data_.resize(has_data ? length : 0);
        if (type == cmd_write && !carrier_.read(data_)) return false;
        const std::uint32_t error = perform(type, offset, length);
        nbd::Writer reply;
        reply.integer(simple_magic).integer(error).integer(cookie);
        std::vector<std::byte> message(reply.bytes().begin(), reply.bytes().end());
        if (type == cmd_read && error == no_error)
            message.insert(message.end(), data_.begin(), data_.end());
        return carrier_.write(message);
    }

private:
    static constexpr std::string_view option_magic = "IHAVEOPT";
    static constexpr std::uint64_t reply_magic = 0x3e889045565a9;
    static constexpr std::uint32_t request_magic = 0x25609513, simple_magic = 0x67446698;
    static constexpr std::uint16_t fixed_newstyle_no_zeroes = 3, info_export = 0;
    static constexpr std::uint32_t opt_abort = 2, opt_list = 3, opt_starttls = 5, opt_info = 6,
                                   opt_go = 7;
    static constexpr std::uint32_t rep_ack = 1, rep_server = 2, rep_info = 3,
                                   err_unsup = 0x80000001, err_tls_reqd = 0x80000005;
    static constexpr std::uint16_t cmd_read = 0, cmd_write = 1, cmd_disc = 2, cmd_flush = 3,
                                   cmd_trim = 4, cmd_write_zeroes = 6;
    static constexpr std::uint32_t no_error = 0, error_io = 5, error_invalid = 22;
    /// Flush, trim, write zeroes, several connections.
    static constexpr std::uint16_t flags = 1 << 0 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 8;
    static constexpr std::uint32_t longest_option = 8192, longest_request = 32 << 20;
    static constexpr std::size_t zeroes_at_once = 1 << 16;

    bool read_option(std::uint32_t& option) {
        std::array<std::byte, 16> header{};
        if (!carrier_.read(header)) return false;
        nbd::Reader reader(header);
        const bool right = reader.text(option_magic.size()) == option_magic;
        option = reader.integer<std::uint32_t>();
        const auto length = reader.integer<std::uint32_t>();
        if (!right || length > longest_option) return false;
        data_.resize(length);
        return carrier_.read(data_);
    }

    bool reply(std::uint32_t option, std::uint32_t type, std::string_view data = {}) {
        nbd::Writer message;
        message.integer(reply_magic).integer(option).integer(type);
        message.integer(static_cast<std::uint32_t>(data.size())).text(data);
        return carrier_.write(message.bytes());
    }

    bool answer(std::uint32_t option) {
        nbd::Writer data;
        if (option == opt_list)
            data.integer(std::uint32_t{4}).text("disk");
        else if (option == opt_go || option == opt_info)
            data.integer(info_export).integer(disk_.size).integer(flags);
        else
            return reply(option, err_unsup);
        return reply(option, option == opt_list ? rep_server : rep_info,
                     nbd::Reader(data.bytes()).rest_as_text()) &&
               reply(option, rep_ack);
    }

    /// Returns the error for the reply.
    std::uint32_t perform(std::uint16_t type, std::uint64_t from, std::uint32_t length) {
        if (from > disk_.size || length > disk_.size - from) return error_invalid;
        const auto offset = static_cast<off_t>(from);
        const auto done = static_cast<ssize_t>(data_.size());
        switch (type) {
            case cmd_read:
                return pread(disk_.fd, data_.data(), length, offset) == done ? no_error : error_io;
            case cmd_write:
                return pwrite(disk_.fd, data_.data(), length, offset) == done ? no_error : error_io;
            case cmd_flush:
                std::this_thread::sleep_for(disk_.flush_time);
                return fdatasync(disk_.fd) == 0 ? no_error : error_io;
            case cmd_trim:
                return no_error;
            case cmd_write_zeroes:
                return write_zeroes(offset, length);
            default:
                return error_invalid;
        }
    }

    std::uint32_t write_zeroes(off_t offset, std::size_t left) const {
        const std::vector<std::byte> zeroes(zeroes_at_once);
        for (ssize_t done = 0; left > 0; left -= static_cast<std::size_t>(done), offset += done) {
            done = pwrite(disk_.fd, zeroes.data(), std::min(left, zeroes.size()), offset);
            if (done <= 0) return error_io;
        }
        return no_error;
    }

    Carrier& carrier_;
    Disk disk_;
    std::vector<std::byte> data_;
};

}  // namespace lab
