// SPDX-License-Identifier: MIT
// Memory, capabilities and the mark of a process that must not die.
#include "client/survive.h"

#include "client/base/fd.h"
#include "client/base/process.h"
#include "client/base/text.h"

#include <array>
#include <gtest/gtest.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

namespace nbd {
namespace {

using namespace std::chrono_literals;

/// The value of a line of /proc/self/status.
std::string proc_status(std::string_view key) {
    const auto content = read_file("/proc/self/status");
    if (!content) return content.error().what;
    for (const auto line : split(*content, '\n'))
        if (line.starts_with(std::string(key) + ":"))
            return std::string(trim(line.substr(key.size() + 1)));
    return "";
}

/// In a child: none of this can be taken back.
std::string in_child(const std::function<std::string()>& work) {
    const auto answer = run_in_child(work, 256, Deadline::in(5s));
    return answer ? *answer : answer.error().what;
}

/// False where the build's own machinery ignores the request (the address sanitizer does).
bool can_lock() {
    return in_child([]() -> std::string {
               std::array<char, 4096> page{};
               ::mlock(page.data(), page.size());
               return proc_status("VmLck") == "0 kB" ? "no" : "yes";
           }) == "yes";
}

TEST(Survive, LocksMemoryAndEscapesTheOomKiller) {
    if (!can_lock()) GTEST_SKIP() << "this build cannot lock memory";
    const std::string seen = in_child([] {
        const auto done = survive();
        if (!done) return "denied: " + done.error().what;
        const auto score = read_file("/proc/self/oom_score_adj");
        return (proc_status("VmLck") == "0 kB" ? "unlocked " : "locked ") + (score ? *score : "");
    });
    if (seen.starts_with("denied: ")) GTEST_SKIP() << seen;
    EXPECT_EQ(seen, "locked -1000\n");
}

TEST(Survive, OneRefusalDoesNotStopTheOtherSteps) {
    if (::getuid() != 0) GTEST_SKIP() << "needs root to have something to refuse";
    if (!can_lock()) GTEST_SKIP() << "this build cannot lock memory";
    const std::string seen = in_child([]() -> std::string {
        // Without CAP_SYS_RESOURCE the flusher and the score are refused, locking is not.
        if (!drop_privileges(false)) return "cannot drop";
        const auto done = survive();
        if (done) return "nothing was refused";
        return proc_status("VmLck") == "0 kB" ? "unlocked" : "locked";
    });
    EXPECT_EQ(seen, "locked");
}

TEST(DropPrivileges, KeepsOnlyWhatAWatchdogNeeds) {
    if (::getuid() != 0) GTEST_SKIP() << "needs root to have something to drop";
    const auto left = [](bool foreign_files) {
        return in_child([foreign_files]() -> std::string {
            if (auto done = drop_privileges(foreign_files); !done) return done.error().what;
            return proc_status("CapEff") + " " + proc_status("CapPrm") + " " +
                   proc_status("CapBnd") + " " + proc_status("NoNewPrivs");
        });
    };
    // CAP_SYS_ADMIN is 21, CAP_IPC_LOCK 14, CAP_DAC_OVERRIDE 1.
    const std::string few = "0000000000204000";
    const std::string more = "0000000000204002";
    EXPECT_EQ(left(false), few + " " + few + " " + few + " 1");
    EXPECT_EQ(left(true), more + " " + more + " " + more + " 1");
}

TEST(DropPrivileges, WhatMovesBytesNeedsNone) {
    if (::getuid() != 0) GTEST_SKIP() << "needs root to have something to drop";
    const auto left = [](bool locked) {
        return in_child([locked]() -> std::string {
            if (auto done = drop_all_privileges(locked); !done) return done.error().what;
            return proc_status("CapEff") + " " + proc_status("CapBnd") + " " +
                   proc_status("NoNewPrivs");
        });
    };
    EXPECT_EQ(left(false), "0000000000000000 0000000000000000 1");
    EXPECT_EQ(left(true), "0000000000004000 0000000000004000 1");
}

TEST(Mark, ReplacesTheFirstCharacterOnly) {
    std::string name = "/sbin/nbd-client";
    std::array<char*, 2> argv = {name.data(), nullptr};
    mark_process(argv.data());
    EXPECT_EQ(name, "@sbin/nbd-client");
    std::string empty;
    argv[0] = empty.data();
    mark_process(argv.data());
    EXPECT_EQ(empty.c_str()[0], '\0') << "nothing to overwrite";
    argv[0] = nullptr;
    mark_process(argv.data());
}

TEST(Initramfs, IsRecognisedByItsReleaseFile) {
    EXPECT_EQ(in_initramfs(), ::access("/etc/initrd-release", F_OK) == 0);
}

}  // namespace
}  // namespace nbd
