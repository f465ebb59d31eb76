// SPDX-License-Identifier: MIT
// Gathers what is attached: the kernel's word first, the status files for what it cannot tell.
#include "client/devices.h"

#include "client/base/text.h"
#include "client/protocol/uri.h"
#include "netlink/kernel.h"

namespace nbd {
namespace {

/// The status file, unless it is of an earlier life of the device.
std::optional<StoredStatus> believed_status(const std::string& directory, const DiskState& disk) {
    std::optional<StoredStatus> stored = read_status(directory, disk.index);
    if (!stored) return std::nullopt;
    const bool ours = disk.backend ? stored->status.backend == *disk.backend : stored->watched;
    if (!ours) return std::nullopt;
    return stored;
}

std::optional<std::string> uri_in(std::string_view id) {
    const Result<Target> target = parse_uri(without_fresh_id(id));
    if (!target) return std::nullopt;
    return to_uri(*target);
}

std::optional<std::string> if_any(const std::string& text) {
    if (text.empty()) return std::nullopt;
    return text;
}

std::vector<std::string> mountpoints_of(const Sysfs& sysfs, std::uint32_t index) {
    std::vector<std::string> places;
    for (const DiskUser& user : sysfs.users(index)) {
        if (user.how == DiskUser::How::mounted) places.push_back(user.where);
        if (user.how == DiskUser::How::swap) places.emplace_back("[SWAP]");
    }
    return places;
}

/// Held true by the watchdog: of now only while it lives.
void add_watched(DeviceRow& row, const RuntimeStatus& status) {
    row.state = status.state;
    row.since = status.state_since;
    row.live_connections = status.live_connections;
    row.pid = status.pid;
    row.reconnects = status.reconnects;
    row.last_error = if_any(status.last_error);
    // The longest the driver takes stands for `forever`.
    const bool finite = status.dead_conn_timeout < max_dead_conn_timeout;
    if (status.state == LinkState::reconnecting && finite)
        row.fails_at = status.state_since + status.dead_conn_timeout;
}

void add_stored(DeviceRow& row, const StoredStatus& stored) {
    const RuntimeStatus& status = stored.status;
    row.block_size = status.block_size;
    row.since = status.attached_since;
    row.connections = status.connections;
    row.tls = status.tls;
    row.offload = if_any(status.offload);
    row.uri = if_any(status.uri);
    row.server = if_any(status.server);
    if (row.id.empty()) row.id = status.backend;
    if (stored.watched) add_watched(row, status);
}

/// All that can be told without asking for the users or reading queue/.
DeviceRow row_of(const DiskState& disk, const std::string& directory) {
    DeviceRow row;
    row.index = disk.index;
    row.size = disk.size;
    row.read_only = disk.read_only;
    row.id = disk.backend.value_or("");
    row.partitions = disk.partitions;
    if (const auto stored = believed_status(directory, disk)) add_stored(row, *stored);
    if (!row.uri) row.uri = uri_in(row.id);
    return row;
}

std::vector<DeviceRow> rows_of(const Sysfs& sysfs, const std::string& directory) {
    std::vector<DeviceRow> rows;
    for (const std::uint32_t index : sysfs.indexes()) {
        const std::optional<DiskState> disk = sysfs.read(index);
        if (disk && disk->configured) rows.push_back(row_of(*disk, directory));
    }
    return rows;
}

}  // namespace

std::vector<DeviceRow> attached_devices(const Sysfs& sysfs, const std::string& runtime_directory) {
    std::vector<DeviceRow> rows = rows_of(sysfs, runtime_directory);
    for (DeviceRow& row : rows) {
        row.mountpoints = mountpoints_of(sysfs, row.index);
        // Reads queue/: only for want of a status file, with one a link may be known to be dead.
        if (!row.block_size) row.block_size = sysfs.block_size(row.index);
    }
    return rows;
}

Result<std::vector<std::uint32_t>> find_devices(const Sysfs& sysfs,
                                                const std::string& runtime_directory,
                                                std::string_view word) {
    Result<std::uint32_t> index = parse_device(word);
    if (index) return std::vector{*index};
    if (word.starts_with("/dev/")) return std::move(index).error();

    const Result<Target> target = parse_uri(word);
    const std::string uri = target ? to_uri(*target) : std::string();
    std::vector<std::uint32_t> found;
    for (const DeviceRow& row : rows_of(sysfs, runtime_directory)) {
        const bool same_uri = target && row.uri == uri;
        const bool same_id = !word.empty() && (row.id == word || without_fresh_id(row.id) == word);
        if (same_uri || same_id) found.push_back(row.index);
    }
    if (found.empty())
        return Error{Kind::absent,
                     "cannot find a device for " + quoted(word) +
                         ": it is neither a device nor the URI or identifier of an attached one",
                     "`nbd-client list -o +ID` shows what is attached"};
    return found;
}

}  // namespace nbd
