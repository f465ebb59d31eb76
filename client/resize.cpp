// SPDX-License-Identifier: MIT
// Tells the kernel the export's new size.
#include "client/resize.h"

#include "client/attach_options.h"
#include "client/inquire.h"
#include "client/runtime.h"
#include "client/worker.h"

#include <chrono>
#include <poll.h>

namespace nbd {

namespace {

using namespace std::chrono_literals;

Error cannot(std::uint32_t index, Kind kind, const std::string& cause,
             const std::string& hint = "") {
    return {kind, "cannot resize " + device_path(index) + ": " + cause, hint};
}

/// Since 6.12 the kernel waits for all requests in flight before it changes the size.
Result<void> send_size(std::uint32_t index, const std::string& backend, std::uint64_t size,
                       Kernel& kernel) {
    Worker worker;
    worker.start([&kernel, index, backend, size] {
        return kernel.reconfigure({.index = index, .backend = backend, .size = size});
    });
    if (!wait_for(worker.fd(), POLLIN, Deadline::in(30s)))
        return cannot(index, Kind::unreachable,
                      "the kernel waits for requests the server does not answer");
    return *worker.take();
}

}  // namespace

Result<std::uint64_t> resize(std::uint32_t index, bool force, Kernel& kernel, const Sysfs& sysfs,
                             const std::string& runtime_directory) {
    const auto disk = sysfs.read(index);
    if (!disk || !disk->configured) return cannot(index, Kind::absent, "it is not attached");
    const auto stored = read_status(runtime_directory, index);
    if (!stored || !is_attachment(disk, stored->status))
        return cannot(index, Kind::absent, "it is not known where it is attached to",
                      "it was not attached by this program, or /run has been emptied");
    const RuntimeStatus& status = stored->status;
    // Since 6.12 a size change across a dead connection hangs until the kernel gives the connection
    // up.
    const bool waits = status.dead_conn_timeout != 0s;
    if (waits && !stored->watched)
        return cannot(
            index, Kind::unreachable, "nobody watches it",
            "nbd-client reattach " + device_name(index) + " makes sure that it is connected");
    if (stored->watched && status.live_connections < status.connections)
        return cannot(index, Kind::unreachable, "not every connection is alive", "try again later");

    AttachRequest request{.target = TRY(parse_uri(status.uri))};
    TRY(apply_settings(request, status.settings));
    const ExportInfo info = TRY(ask_info(request, Deadline::in(request.connect_timeout)));
    const std::uint64_t size = info.size - info.size % status.block_size;
    if (size == disk->size) return size;
    if (size < disk->size && !force)
        return cannot(index, Kind::mismatch,
                      "the export has shrunk from " + std::to_string(disk->size) + " to " +
                          std::to_string(size) + " bytes",
                      "--force shrinks the device; what lies behind its new end is lost");
    TRY(send_size(index, status.backend, size, kernel));
    return size;
}

}  // namespace nbd
