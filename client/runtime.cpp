// SPDX-License-Identifier: MIT
// The status file of a device under /run/nbd: what the kernel cannot tell, believed with a lock.
#include "client/runtime.h"

#include "client/base/text.h"

#include <array>
#include <cerrno>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <fcntl.h>
#include <limits>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace nbd {
namespace {

using nlohmann::json;
using std::chrono::seconds;
using Time = std::chrono::system_clock::time_point;

constexpr unsigned format_version = 1;
constexpr std::size_t max_file = 256 * 1024;
/// Later times do not fit the nanoseconds of system_clock.
constexpr std::uint64_t latest_time = 9'000'000'000;

constexpr std::array states{LinkState::attached, LinkState::degraded, LinkState::reconnecting,
                            LinkState::failing};

std::string path_of(const std::string& directory, std::uint32_t index, std::string_view suffix) {
    return directory + "/nbd" + std::to_string(index) + std::string(suffix);
}

/// Kind of an errno that the file system gave us.
Kind kind_of(int error) {
    if (error == EACCES || error == EPERM || error == EROFS) return Kind::denied;
    return error == ENOENT ? Kind::absent : Kind::internal;
}

Result<void> make_directory(const std::string& directory) {
    if (mkdir(directory.c_str(), 0755) == 0 || errno == EEXIST) return {};
    return errno_error(kind_of(errno), "make " + directory, errno);
}

Result<void> write_whole(int fd, std::string_view text, const std::string& path) {
    while (!text.empty()) {
        const ssize_t count = write(fd, text.data(), text.size());
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return errno_error(Kind::internal, "write " + path, errno);
        text.remove_prefix(static_cast<std::size_t>(count));
    }
    return {};
}

/// JSON knows only UTF-8, names on the wire and file names may be anything: those become arrays of
/// byte values.
json text_to_json(const std::string& text) {
    if (is_utf8(text)) return text;
    json bytes = json::array();
    for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
    return bytes;
}

std::int64_t time_to_json(Time time) {
    return std::chrono::duration_cast<seconds>(time.time_since_epoch()).count();
}

json export_to_json(const ExportInfo& info) {
    json object{{"name", text_to_json(info.name)},
                {"description", text_to_json(info.description)},
                {"size", info.size},
                {"flags", info.flags}};
    if (info.block_sizes) {
        object["minimum_block_size"] = info.block_sizes->minimum;
        object["preferred_block_size"] = info.block_sizes->preferred;
        object["maximum_block_size"] = info.block_sizes->maximum;
    }
    return object;
}

json to_json(const RuntimeStatus& status) {
    json settings = json::array();
    for (const Setting& setting : status.settings)
        settings.push_back(
            {{"name", text_to_json(setting.name)}, {"value", text_to_json(setting.value)}});
    return {{"version", format_version},
            {"index", status.index},
            {"backend", text_to_json(status.backend)},
            {"uri", text_to_json(status.uri)},
            {"settings", std::move(settings)},
            {"export", export_to_json(status.agreed)},
            {"block_size", status.block_size},
            {"connections", status.connections},
            {"timeout", status.timeout.count()},
            {"dead_conn_timeout", status.dead_conn_timeout.count()},
            {"attached_since", time_to_json(status.attached_since)},
            {"tls", status.tls},
            {"tls_offload", text_to_json(status.offload)},
            {"pid", status.pid},
            {"state", to_string(status.state)},
            {"state_since", time_to_json(status.state_since)},
            {"live_connections", status.live_connections},
            {"reconnects", status.reconnects},
            {"server", text_to_json(status.server)},
            {"last_error", text_to_json(status.last_error)}};
}

/// Walks an object of unknown origin: a missing key leaves the default, a key of another type or
/// out of range sets a flag that stays.
class Fields {
public:
    explicit Fields(const json& object) : object_(object), wrong_(!object.is_object()) {}

    bool wrong() const { return wrong_; }

    const json* find(const char* key) {
        if (wrong_) return nullptr;
        const auto found = object_.find(key);
        return found == object_.end() ? nullptr : &*found;
    }
    const json* find_array(const char* key) {
        const json* const field = find(key);
        if (field == nullptr || field->is_array()) return field;
        wrong_ = true;
        return nullptr;
    }
    template <std::integral T>
    void read(const char* key, T& value) {
        constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<T>::max());
        if (const json* const field = find(key)) value = static_cast<T>(number(*field, most));
    }
    void read(const char* key, bool& value) {
        const json* const field = find(key);
        if (field == nullptr) return;
        const auto* const boolean = field->get_ptr<const json::boolean_t*>();
        if (boolean == nullptr)
            wrong_ = true;
        else
            value = *boolean;
    }
    void read(const char* key, seconds& value) {
        constexpr auto most = static_cast<std::uint64_t>(seconds::max().count());
        if (const json* const field = find(key)) value = seconds(number(*field, most));
    }
    void read(const char* key, Time& value) {
        if (const json* const field = find(key)) value = Time(seconds(number(*field, latest_time)));
    }
    void read(const char* key, std::string& value) {
        const json* const field = find(key);
        if (field == nullptr) return;
        value.clear();
        if (const auto* const text = field->get_ptr<const json::string_t*>())
            value = *text;
        else if (field->is_array())
            for (const json& byte : *field) value += static_cast<char>(number(byte, 0xff));
        else
            wrong_ = true;
    }
    void read(const char* key, LinkState& value) {
        if (find(key) == nullptr) return;
        std::string text;
        read(key, text);
        for (const LinkState state : states) {
            if (to_string(state) != text) continue;
            value = state;
            return;
        }
        wrong_ = true;
    }
    /// Takes over the verdict on a part of the object.
    void include(const Fields& part) { wrong_ = wrong_ || part.wrong(); }

private:
    std::uint64_t number(const json& field, std::uint64_t most) {
        const auto* const value = field.get_ptr<const json::number_unsigned_t*>();
        if (value != nullptr && *value <= most) return *value;
        wrong_ = true;
        return 0;
    }

    const json& object_;
    bool wrong_;
};

void read_export(Fields& parent, ExportInfo& info) {
    const json* const object = parent.find("export");
    if (object == nullptr) return;
    Fields fields(*object);
    fields.read("name", info.name);
    fields.read("description", info.description);
    fields.read("size", info.size);
    fields.read("flags", info.flags);
    if (fields.find("minimum_block_size") != nullptr) {
        BlockSizes& sizes = info.block_sizes.emplace();
        fields.read("minimum_block_size", sizes.minimum);
        fields.read("preferred_block_size", sizes.preferred);
        fields.read("maximum_block_size", sizes.maximum);
    }
    parent.include(fields);
}

void read_settings(Fields& parent, Settings& settings) {
    const json* const array = parent.find_array("settings");
    if (array == nullptr) return;
    for (const json& object : *array) {
        Fields fields(object);
        Setting& setting = settings.emplace_back();
        fields.read("name", setting.name);
        fields.read("value", setting.value);
        parent.include(fields);
    }
}

std::optional<RuntimeStatus> from_json(const json& document) {
    Fields fields(document);
    RuntimeStatus status;
    unsigned version = 0;
    fields.read("version", version);
    fields.read("index", status.index);
    fields.read("backend", status.backend);
    fields.read("uri", status.uri);
    read_settings(fields, status.settings);
    read_export(fields, status.agreed);
    fields.read("block_size", status.block_size);
    fields.read("connections", status.connections);
    fields.read("timeout", status.timeout);
    fields.read("dead_conn_timeout", status.dead_conn_timeout);
    fields.read("attached_since", status.attached_since);
    fields.read("tls", status.tls);
    fields.read("tls_offload", status.offload);
    fields.read("pid", status.pid);
    fields.read("state", status.state);
    fields.read("state_since", status.state_since);
    fields.read("live_connections", status.live_connections);
    fields.read("reconnects", status.reconnects);
    fields.read("server", status.server);
    fields.read("last_error", status.last_error);
    if (fields.wrong() || version != format_version) return std::nullopt;
    return status;
}

/// A write lock on the whole file, of the open file description: closing another descriptor of the
/// same file, as every reader does, must not drop it.
struct flock whole_file() {
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    return lock;
}

/// For those who may not open the file: the kernel's table of locks names it by device and inode
/// (locks_show_lock() in fs/locks.c).
bool is_listed_as_locked(const std::string& path) {
    struct stat file {};
    if (stat(path.c_str(), &file) != 0) return false;
    std::array<char, 64> name{};
    (void)snprintf(name.data(), name.size(), " WRITE -1 %02x:%02x:%ju ", major(file.st_dev),
                   minor(file.st_dev), static_cast<std::uintmax_t>(file.st_ino));
    const Result<std::string> table = read_file("/proc/locks");
    return table && table->find(name.data()) != std::string::npos;
}

bool is_locked(const std::string& path) {
    const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file && errno == EACCES) return is_listed_as_locked(path);
    struct flock lock = whole_file();
    return file && fcntl(file.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type == F_WRLCK;
}

/// The lock of an open file description has no pid for others to see: the file tells it.
Error held_by_another(const std::string& path, std::uint32_t index) {
    const Result<std::string> content = read_file(path, 64);
    const auto pid = content ? parse_decimal(trim(*content)) : std::nullopt;
    return {Kind::busy, "cannot watch /dev/nbd" + std::to_string(index) + ": " +
                            (pid ? "process " + std::to_string(*pid) : "another process") +
                            " watches it"};
}

}  // namespace

std::string_view to_string(LinkState state) {
    switch (state) {
        case LinkState::attached:
            return "attached";
        case LinkState::degraded:
            return "degraded";
        case LinkState::reconnecting:
            return "reconnecting";
        case LinkState::failing:
            break;
    }
    return "failing";
}

Result<RuntimeLock> RuntimeLock::take(const std::string& directory, std::uint32_t index) {
    TRY(make_directory(directory));
    const std::string path = path_of(directory, index, ".lock");
    // Others must not open it: a lock of theirs would keep the device's watchdog away.
    Fd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file) return errno_error(kind_of(errno), "open " + path, errno);
    struct flock lock = whole_file();
    if (fcntl(file.get(), F_OFD_SETLK, &lock) != 0) {
        if (errno == EAGAIN || errno == EACCES) return held_by_another(path, index);
        return errno_error(Kind::internal, "lock " + path, errno);
    }
    if (ftruncate(file.get(), 0) != 0) return errno_error(Kind::internal, "empty " + path, errno);
    TRY(write_whole(file.get(), std::to_string(getpid()) + '\n', path));
    return RuntimeLock(std::move(file));
}

Result<void> publish_status(const std::string& directory, const RuntimeStatus& status) {
    TRY(make_directory(directory));
    const std::string path = path_of(directory, status.index, ".json");
    const std::string temporary = path + '.' + std::to_string(getpid());
    unlink(temporary.c_str());  // what an earlier life with the same pid may have left
    const Fd file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!file) return errno_error(kind_of(errno), "write " + path, errno);
    (void)fchmod(file.get(), 0644);  // whatever the umask: list needs no privilege
    Result<void> written = write_whole(file.get(), to_json(status).dump() + '\n', path);
    if (written && rename(temporary.c_str(), path.c_str()) != 0)
        written = errno_error(kind_of(errno), "write " + path, errno);
    if (!written) unlink(temporary.c_str());
    return written;
}

std::optional<StoredStatus> read_status(const std::string& directory, std::uint32_t index) {
    const Result<std::string> text = read_file(path_of(directory, index, ".json"), max_file + 1);
    if (!text || text->size() > max_file) return std::nullopt;
    std::optional<RuntimeStatus> status = from_json(json::parse(*text, nullptr, false));
    if (!status || status->index != index) return std::nullopt;
    return StoredStatus{std::move(*status), is_locked(path_of(directory, index, ".lock"))};
}

void remove_status(const std::string& directory, std::uint32_t index) {
    unlink(path_of(directory, index, ".json").c_str());
}

bool is_attachment(const std::optional<DiskState>& disk, const RuntimeStatus& status) {
    return disk && disk->configured && (!disk->backend || *disk->backend == status.backend);
}

std::string_view without_fresh_id(std::string_view backend) {
    return backend.substr(0, backend.rfind('#'));
}

}  // namespace nbd
