// SPDX-License-Identifier: MIT
// Reads nbdtab: one device per line, tolerant, every bad line on its own.
#pragma once

#include "client/request.h"

#include <string>
#include <string_view>
#include <vector>

namespace nbd {

struct NbdtabRecord {
    std::string device;  ///< "nbd0", as device_name() writes it
    Target target;
    Settings settings;
    unsigned line = 0;
    /// Sentences for the log about what the record says without effect: an unknown option, an
    /// earlier record of the same device.
    std::vector<std::string> warnings = {};
};

struct Nbdtab {
    std::vector<NbdtabRecord> records;  ///< the last record of a device wins, as a whole
    /// Lines that could not be used, as sentences with their line number. An earlier record of the
    /// same device is not used either: what was meant is not known.
    struct Complaint {
        unsigned line = 0;
        std::string device;  ///< empty when not even that could be read
        Error error;
    };
    std::vector<Complaint> complaints;

    const NbdtabRecord* find(std::string_view device) const;
};

/// Never fails: what cannot be read is in `complaints`. `file_name` is for their sentences.
Nbdtab parse_nbdtab(std::string_view text, std::string_view file_name);

/// The file's records; fails when it cannot be read at all.
Result<Nbdtab> read_nbdtab(const std::string& file);

/// The one record of `device` (any spelling parse_device takes); Kind::absent when there is none,
/// and the complaint about it when that is why.
Result<NbdtabRecord> nbdtab_record(const std::string& file, std::string_view device);

}  // namespace nbd
