// SPDX-License-Identifier: MIT
// What this machine's kernel says of TLS; that it works is for the tests under kernels of our own.
#include "client/protocol/ktls.h"

#include "client/base/fd.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <sys/socket.h>

namespace nbd {
namespace {

TEST(KernelTls, IsProbed) {
    const std::vector<TlsSuite> carried = probe_kernel_tls();
    EXPECT_EQ(probe_kernel_tls(), carried);
    for (const TlsSuite& suite : carried)
        EXPECT_NE(std::ranges::find(all_suites(), suite), all_suites().end());
}

TEST(KernelTls, CannotBeHadOverUnixSockets) {
    int ends[2] = {};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    const Fd one(ends[0]);
    const Fd other(ends[1]);
    ConnectionKeys keys;
    const auto installed = install_kernel_tls(one.get(), keys);
    ASSERT_FALSE(installed);
    EXPECT_EQ(installed.error().kind, Kind::unsupported);
    EXPECT_NE(installed.error().what.find("cannot give the kernel a connection for TLS"),
              std::string::npos);
}

TEST(KernelTls, TheReleaseTellsWhetherSignalsHurt) {
    const struct {
        const char* release;
        const char* version;
        bool breaks;
    } cases[] = {
        {"6.1.182", "#1", true},
        {"6.1.183", "#1", false},
        {"6.1.0-44-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-01)", true},
        {"6.1.0-51-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-10-01)", false},
        {"6.12.103-arch1", "#1", true},
        {"6.12.104", "#1", false},
        {"6.6.90", "#1", true},
        {"5.10.0-40-amd64", "#1 SMP Debian 5.10.250-1", true},
        {"7.1.9", "#1", true},
        {"7.2.13", "#1", false},
        {"8.0.0-rc1", "#1", false},
        {"", "", true},
    };
    for (const auto& c : cases)
        EXPECT_EQ(breaks_on_signals(c.release, c.version), c.breaks) << c.release;
}

}  // namespace
}  // namespace nbd
