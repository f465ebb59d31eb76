// SPDX-License-Identifier: MIT
// What the command line asks for: one plain struct per verb.
#pragma once

#include "client/base/log.h"
#include "client/request.h"

#include <chrono>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace nbd {

inline constexpr const char* default_nbdtab = "/etc/nbdtab";

struct AttachCommand {
    std::optional<Target> target =
        {};                   ///< from the URI or the classic words; nothing with `tab`/`all`
    std::string device = {};  ///< empty: the kernel chooses
    std::optional<std::string> tab = {};  ///< nbdtab record to start from
    bool all = false;                     ///< every nbdtab record
    std::string nbdtab = default_nbdtab;
    Settings defaults = {};  ///< what the dialect assumes where an nbdtab record says nothing
    Settings settings = {};  ///< options given on the command line; they win over nbdtab
};

struct DetachCommand {
    std::vector<std::string> devices = {};  ///< nodes, names, numbers, or URIs/ids
    bool all = false;
    bool force = false;     ///< also while in use
    bool deferred = false;  ///< when the last user closes
};

struct ReattachCommand {
    std::string device = {};
    std::optional<Target> target = {};  ///< another server of the same export
    Settings settings = {};
};

struct ResizeCommand {
    std::string device = {};
    bool force = false;  ///< also shrink
};

struct ListCommand {
    std::vector<std::string> devices = {};  ///< empty: all
    std::vector<std::string> columns = {};  ///< empty: default; "+COL" extends
    bool no_headings = false;
    bool raw = false;
    bool bytes = false;
    bool json = false;
    bool blocks = false;  ///< -v: key: value blocks
    bool watch = false;   ///< refresh in place
};

struct CheckCommand {
    std::string device = {};
};

struct ExportsCommand {
    Target target = {};
    Settings settings = {};  ///< connection options only
    bool json = false;
};

struct InfoCommand {
    Target target = {};
    Settings settings = {};
    bool json = false;
};

/// Text for stdout: help, version, completion words.
struct PrintCommand {
    std::string text = {};
};

using Command = std::variant<AttachCommand, DetachCommand, ReattachCommand, ResizeCommand,
                             ListCommand, CheckCommand, ExportsCommand, InfoCommand, PrintCommand>;

/// A whole command line. `classic` is looked at only where results are printed.
struct CommandLine {
    Command command;
    bool classic = false;
    Level level = Level::warning;
    bool verbose = false;
    LogTarget log_target = LogTarget::automatic;
    std::vector<std::string> warnings =
        {};  ///< for stderr: options accepted without effect and the like
};

}  // namespace nbd
