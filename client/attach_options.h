// SPDX-License-Identifier: MIT
// The one table of attach options: command line, nbdtab, classic dialect, completion and help read
// it.
#pragma once

#include "client/request.h"

#include <span>
#include <string_view>

namespace nbd {

/// The headings of help and manual; they also say which options `reattach`, `exports` and `info`
/// share with `attach`.
namespace group {
inline constexpr std::string_view device = "Device";
inline constexpr std::string_view outages = "Outages";
inline constexpr std::string_view connection = "Connection";
inline constexpr std::string_view tls = "TLS";
inline constexpr std::string_view process = "Process";
}  // namespace group

struct AttachOption {
    std::string_view name;     ///< long name without dashes, also the nbdtab key
    char letter;               ///< short option, '\0': none
    std::string_view metavar;  ///< name of the value in help, empty: a flag
    std::string_view help;     ///< one line
    std::string_view group;    ///< heading in help and manual
    /// Sets the value; a failure's `what` is only the cause, apply_setting() makes the sentence.
    Result<void> (*apply)(AttachRequest& request, std::string_view value);

    /// Has a meaning before there is a device.
    bool for_handshake() const { return group == group::connection || group == group::tls; }
    /// Can change while the device stays.
    bool for_reattach() const { return group != group::device; }
};

std::span<const AttachOption> attach_options();

/// Nothing when there is no such option.
const AttachOption* find_attach_option(std::string_view name);

/// Sets one option by its long name; unknown names and bad values are usage errors that name the
/// option, with the nearest option or the form of the value as the hint.
Result<void> apply_setting(AttachRequest& request, const Setting& setting);

/// Sets them all in order (the last one of a name wins, alternates add up), then checks what they
/// mean together.
Result<void> apply_settings(AttachRequest& request, const Settings& settings);

/// Adds what the reference's options, on its command line and in nbdtab, meant beyond their values:
/// a TLS option implies TLS, a key file alone holds the certificate as well, and -persist
/// reconnects for ever unless -dead-timeout (empty or "0": not given) limits that.
void complete_reference_settings(Settings& settings, bool persist, std::string_view dead_timeout);

}  // namespace nbd
