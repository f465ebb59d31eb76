// SPDX-License-Identifier: MIT
// Loads the nbd module if needed and picks the interface to the driver.
#include "netlink/open.h"

#include "client/base/process.h"
#include "netlink/ioctl_kernel.h"
#include "netlink/netlink_kernel.h"
#include "netlink/sysfs.h"

#include <unistd.h>

namespace nbd {

namespace {

/// Whether it helped shows in what is there afterwards.
void load_module() {
    constexpr std::chrono::seconds patience{30};
    (void)run_program({"modprobe", "-q", "nbd"}, Deadline::in(patience));
}

Error no_driver() {
    if (::geteuid() != 0)
        return {Kind::denied,
                "cannot use the nbd driver: it is not loaded, and loading it needs root",
                "run as root; `info` and `--dry-run` work without privileges"};
    return {Kind::unsupported, "cannot use the nbd driver: it is not there",
            "modprobe nbd, or the kernel lacks it"};
}

bool has_driver() {
    const Sysfs sysfs;
    return sysfs.has_driver() || !sysfs.indexes().empty();
}

Result<std::unique_ptr<Kernel>> open_ioctl() {
    if (!has_driver()) load_module();
    if (!has_driver()) return no_driver();
    return open_ioctl_kernel();
}

}  // namespace

Result<std::unique_ptr<Kernel>> open_kernel(Interface wanted) {
    if (wanted == Interface::ioctl) return open_ioctl();
    auto kernel = open_netlink_kernel();
    if (kernel || kernel.error().kind != Kind::unsupported) return kernel;
    load_module();
    kernel = open_netlink_kernel();
    if (kernel || kernel.error().kind != Kind::unsupported) return kernel;
    if (!has_driver()) return no_driver();
    if (wanted == Interface::netlink) return kernel;
    return open_ioctl_kernel();
}

}  // namespace nbd
