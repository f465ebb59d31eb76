// SPDX-License-Identifier: MIT
// Keeps the process able to work while the root file system or swap waits for it.
#include "client/survive.h"

#include "client/base/fd.h"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <linux/capability.h>
#include <optional>
#include <string_view>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace nbd {

namespace {

/// PR_SET_IO_FLUSHER of <linux/prctl.h>, since Linux 5.6; older headers lack the name.
constexpr int set_io_flusher = 57;

bool forbid_oom_kill() {
    const Fd file(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
    constexpr std::string_view never = "-1000";
    return file &&
           ::write(file.get(), never.data(), never.size()) == static_cast<ssize_t>(never.size());
}

Result<void> keep_capabilities(std::uint32_t kept) {
    for (int capability = 0; capability <= CAP_LAST_CAP; ++capability)
        if (capability >= 32 || (kept & 1U << capability) == 0)
            ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<__user_cap_data_struct, 2> data{};
    data[0] = {kept, kept, 0};
    if (::syscall(SYS_capset, &header, data.data()) != 0)
        return errno_error(Kind::denied, "drop capabilities", errno);
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return errno_error(Kind::denied, "set no_new_privs", errno);
    return {};
}

}  // namespace

Result<void> survive() {
    std::optional<Error> first;
    const auto must = [&first](bool done, std::string_view act) {
        if (!done && !first) first = errno_error(Kind::denied, act, errno);
    };
    // Two steps: all that is mapped now comes into memory, later mappings are locked page by page
    // as they are touched, so that thread stacks do not count with their whole size.
    must(::mlockall(MCL_CURRENT) == 0, "lock memory");
    must(::mlockall(MCL_FUTURE | MCL_ONFAULT) == 0, "lock future memory");
    // EINVAL: kernel before 5.6.
    must(::prctl(set_io_flusher, 1, 0, 0, 0) == 0 || errno == EINVAL, "become an I/O flusher");
    must(forbid_oom_kill(), "write /proc/self/oom_score_adj");
    if (first) return *std::move(first);
    return {};
}

Result<void> drop_privileges(bool foreign_files) {
    // CAP_SYS_ADMIN is what the driver asks of whoever reconfigures a device; without CAP_IPC_LOCK
    // a process with locked memory cannot get more of it.
    return keep_capabilities(1U << CAP_SYS_ADMIN | 1U << CAP_IPC_LOCK |
                             (foreign_files ? 1U << CAP_DAC_OVERRIDE : 0));
}

Result<void> drop_all_privileges(bool locked) {
    return keep_capabilities(locked ? 1U << CAP_IPC_LOCK : 0);
}

void mark_process(char** argv) {
    if (argv[0] != nullptr && argv[0][0] != '\0') argv[0][0] = '@';
}

bool in_initramfs() {
    return ::access("/etc/initrd-release", F_OK) == 0;
}

}  // namespace nbd
