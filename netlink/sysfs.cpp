// SPDX-License-Identifier: MIT
// What the kernel says of nbd devices in /sys and /proc, and who uses them.
#include "netlink/sysfs.h"

#include "client/base/fd.h"
#include "client/base/text.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <utility>

namespace nbd {

namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t sector = 512;
/// The driver's minor numbers have 20 bits and at least one of them goes to each device.
constexpr std::uint64_t max_index = 1'048'575;
/// Hosts with thousands of mounts exist; their table has some 150 bytes per line.
constexpr std::size_t max_table = 16 << 20;

std::vector<std::string> entries(const fs::path& directory) {
    std::vector<std::string> names;
    std::error_code error;
    for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
         entry.increment(error))
        names.push_back(entry->path().filename().string());
    return names;
}

bool exists(const fs::path& path) {
    std::error_code error;
    return fs::exists(path, error);
}

/// A sysfs attribute without its newline, or nothing.
std::optional<std::string> attribute(const std::string& path) {
    auto content = read_file(path, 4096);
    if (!content) return std::nullopt;
    if (!content->empty() && content->back() == '\n') content->pop_back();
    return std::move(*content);
}

std::optional<std::uint64_t> number_attribute(const std::string& path) {
    const auto text = attribute(path);
    return text ? parse_decimal(trim(*text)) : std::nullopt;
}

/// A decimal number as the kernel prints it: no leading zero.
std::optional<std::uint64_t> canonical_number(std::string_view text) {
    if (text.size() > 1 && text.front() == '0') return std::nullopt;
    return parse_decimal(text);
}

/// "nbd3" -> 3, "nbd3p1" -> 3 if partitions are allowed.
std::optional<std::uint32_t> index_of(std::string_view name, bool or_partition) {
    if (!name.starts_with("nbd")) return std::nullopt;
    name.remove_prefix(3);
    const std::size_t p = name.find('p');
    if (p != name.npos && (!or_partition || !canonical_number(name.substr(p + 1))))
        return std::nullopt;
    const auto number = canonical_number(name.substr(0, p));
    if (!number || *number > max_index) return std::nullopt;
    return static_cast<std::uint32_t>(*number);
}

/// Procfs tables write blanks and backslashes in paths as octal: "\040".
std::string decode_octal(std::string_view text) {
    const auto octal = [](char c) { return c >= '0' && c <= '7'; };
    std::string decoded;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && i + 3 < text.size() && octal(text[i + 1]) && octal(text[i + 2]) &&
            octal(text[i + 3])) {
            decoded.push_back(static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
                                                (text[i + 3] - '0')));
            i += 3;
        } else {
            decoded.push_back(text[i]);
        }
    }
    return decoded;
}

/// A disk or partition: its name, its directory in sysfs and its "major:minor".
struct Node {
    std::string name;
    std::string directory;
    std::string number;
};

std::vector<Node> nodes_of(const std::string& block, const DiskState& disk) {
    const std::string name = device_name(disk.index);
    std::vector<Node> nodes = {{name, block + name, {}}};
    for (const auto& partition : disk.partitions)
        nodes.push_back({partition, block + name + "/" + partition, {}});
    for (auto& node : nodes) node.number = attribute(node.directory + "/dev").value_or("");
    return nodes;
}

/// True if `path`, an entry of a procfs table, is the node's: by its device number where it is
/// there to be asked (it may be a symlink), else by its name. Only below /dev: anything else may be
/// on a file system that hangs.
bool is_node(const std::string& root, const std::string& path, const Node& node) {
    constexpr std::string_view dev = "/dev/";
    if (!path.starts_with(dev)) return false;
    struct stat status = {};
    if (::stat((root + path.substr(1)).c_str(), &status) == 0 && S_ISBLK(status.st_mode))
        return std::to_string(major(status.st_rdev)) + ":" +
                   std::to_string(minor(status.st_rdev)) ==
               node.number;
    return path.substr(dev.size()) == node.name;
}

/// Adds the mounts of the nodes in one mountinfo table: "36 35 43:0 / /mnt rw shared:1 - ext4
/// /dev/nbd0 rw" (proc(5)).
void add_mounts(const std::string& root, const std::string& table, const std::vector<Node>& nodes,
                std::vector<DiskUser>& users) {
    for (const auto line : split(table, '\n')) {
        const auto words = split_words(line);
        if (words.size() < 5) continue;
        const auto dash = std::find(words.begin() + 5, words.end(), "-");
        const std::string source = words.end() - dash > 2 ? decode_octal(dash[2]) : "";
        // btrfs and others have a number of their own (0:N) and name the node only as source.
        const bool anonymous = words[2].starts_with("0:");
        for (const auto& node : nodes) {
            if (words[2] != node.number && !(anonymous && is_node(root, source, node))) continue;
            const std::string where = decode_octal(words[4]);
            const bool known = std::any_of(users.begin(), users.end(), [&](const DiskUser& user) {
                return user.how == DiskUser::How::mounted && user.device == node.name &&
                       user.where == where;
            });
            if (!known) users.push_back({DiskUser::How::mounted, node.name, where});
        }
    }
}

void add_swaps(const std::string& root, const std::string& table, const std::vector<Node>& nodes,
               std::vector<DiskUser>& users) {
    for (const auto line : split(table, '\n')) {
        const auto words = split_words(line);
        if (words.empty()) continue;
        for (const auto& node : nodes)
            if (is_node(root, decode_octal(words[0]), node))
                users.push_back({DiskUser::How::swap, node.name, {}});
    }
}

}  // namespace

Sysfs::Sysfs(std::string root) : root_(std::move(root)) {
    if (!root_.ends_with('/')) root_ += '/';
}

std::vector<std::uint32_t> Sysfs::indexes() const {
    std::vector<std::uint32_t> indexes;
    for (const auto& name : entries(root_ + "sys/block"))
        if (const auto index = index_of(name, false)) indexes.push_back(*index);
    std::sort(indexes.begin(), indexes.end());
    return indexes;
}

std::optional<DiskState> Sysfs::read(std::uint32_t index) const {
    const std::string name = device_name(index);
    const std::string directory = root_ + "sys/block/" + name;
    if (!exists(directory)) return std::nullopt;
    DiskState disk;
    disk.index = index;
    const auto pid = attribute(directory + "/pid");
    disk.configured = pid.has_value();
    if (pid) disk.pid = static_cast<pid_t>(parse_decimal(trim(*pid)).value_or(0));
    disk.backend = attribute(directory + "/backend");
    disk.size = number_attribute(directory + "/size").value_or(0) * sector;
    disk.read_only = number_attribute(directory + "/ro").value_or(0) != 0;
    std::vector<std::pair<std::uint64_t, std::string>> partitions;
    for (const auto& entry : entries(directory))
        if (entry.starts_with(name + "p"))
            if (const auto number = canonical_number(entry.substr(name.size() + 1)))
                partitions.emplace_back(*number, entry);
    std::sort(partitions.begin(), partitions.end());
    for (auto& partition : partitions) disk.partitions.push_back(std::move(partition.second));
    return disk;
}

std::string Sysfs::node(std::uint32_t index) const {
    return root_ + device_path(index).substr(1);
}

std::optional<std::uint64_t> Sysfs::block_size(std::uint32_t index) const {
    return queue_value(index, "logical_block_size");
}

std::optional<std::uint64_t> Sysfs::queue_value(std::uint32_t index,
                                                std::string_view attribute) const {
    return number_attribute(root_ + "sys/block/" + device_name(index) + "/queue/" +
                            std::string(attribute));
}

std::vector<DiskUser> Sysfs::users(std::uint32_t index) const {
    const auto disk = read(index);
    if (!disk) return {};
    const auto nodes = nodes_of(root_ + "sys/block/", *disk);
    std::vector<DiskUser> users;
    for (const char* table : {"proc/self/mountinfo", "proc/1/mountinfo"})
        if (const auto content = read_file(root_ + table, max_table))
            add_mounts(root_, *content, nodes, users);
    if (const auto content = read_file(root_ + "proc/swaps", max_table))
        add_swaps(root_, *content, nodes, users);
    for (const auto& node : nodes) {
        auto holders = entries(node.directory + "/holders");
        std::sort(holders.begin(), holders.end());
        for (auto& holder : holders)
            users.push_back({DiskUser::How::held, node.name, std::move(holder)});
    }
    return users;
}

std::optional<std::uint64_t> Sysfs::inflight(std::uint32_t index) const {
    const auto text = attribute(root_ + "sys/block/" + device_name(index) + "/inflight");
    if (!text) return std::nullopt;
    const auto words = split_words(*text);
    if (words.size() != 2) return std::nullopt;
    const auto reads = parse_decimal(words[0]);
    const auto writes = parse_decimal(words[1]);
    if (!reads || !writes) return std::nullopt;
    return *reads + *writes;
}

Result<void> Sysfs::write_queue(std::uint32_t index, std::string_view attribute,
                                std::uint64_t value) const {
    return write_attribute(index, attribute, std::to_string(value));
}

Result<Fd> Sysfs::open_queue(std::uint32_t index, std::string_view attribute) const {
    const std::string path =
        root_ + "sys/block/" + device_name(index) + "/queue/" + std::string(attribute);
    Fd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (file) return file;
    const Kind kind = errno == ENOENT                     ? Kind::unsupported
                      : errno == EACCES || errno == EPERM ? Kind::denied
                                                          : Kind::internal;
    return errno_error(kind, "set " + path, errno);
}

Result<void> Sysfs::write_attribute(std::uint32_t index, std::string_view attribute,
                                    std::string_view text) const {
    const Fd file = TRY(open_queue(index, attribute));
    if (::write(file.get(), text.data(), text.size()) >= 0) return {};
    return errno_error(
        Kind::refused,
        "set " + std::string(attribute) + " of " + device_name(index) + " to " + std::string(text),
        errno);
}

std::optional<std::string> Sysfs::scheduler(std::uint32_t index) const {
    // "[none] mq-deadline"; a device that has no choice says only "none".
    const auto text = read_file(root_ + "sys/block/" + device_name(index) + "/queue/scheduler");
    if (!text) return std::nullopt;
    const auto open = text->find('[');
    const auto close = text->find(']');
    if (open == std::string::npos || close == std::string::npos || close < open)
        return std::string(trim(*text));
    return text->substr(open + 1, close - open - 1);
}

Result<void> Sysfs::set_scheduler(std::uint32_t index, std::string_view name) const {
    return write_attribute(index, "scheduler", name);
}

std::optional<std::uint64_t> Sysfs::max_part() const {
    return number_attribute(root_ + "sys/module/nbd/parameters/max_part");
}

bool Sysfs::has_driver() const {
    return exists(root_ + "sys/module/nbd");
}

Result<std::uint32_t> parse_device(std::string_view text) {
    constexpr std::string_view dev = "/dev/";
    if (const auto number = canonical_number(text); number && *number <= max_index)
        return static_cast<std::uint32_t>(*number);
    std::string name(text);
    if (name.starts_with('/') && !index_of(name.substr(std::min(dev.size(), name.size())), true)) {
        std::array<char, PATH_MAX> target;
        if (::realpath(name.c_str(), target.data()) != nullptr) name = target.data();
    }
    if (name.starts_with(dev)) name.erase(0, dev.size());
    if (const auto index = index_of(name, true)) return *index;
    return Error{Kind::usage, "cannot use " + quoted(text) + ": it is not an nbd device",
                 "nbd devices are named /dev/nbd0, nbd0 or 0"};
}

std::string device_name(std::uint32_t index) {
    return "nbd" + std::to_string(index);
}

std::string device_path(std::uint32_t index) {
    return "/dev/" + device_name(index);
}

}  // namespace nbd
