// SPDX-License-Identifier: MIT
// Status files survive a round trip and nonsense, and the lock tells the living from the dead.
#include "client/runtime.h"

#include "client/base/text.h"
#include "tests/unit/temporary_directory.h"

#include <csignal>
#include <fcntl.h>
#include <limits>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace nbd {
namespace {

using std::chrono::seconds;
using Time = std::chrono::system_clock::time_point;

RuntimeStatus full_status() {
    RuntimeStatus status;
    status.index = 7;
    status.backend = "nbds://store/root#3f2a";
    status.uri = "nbds://store/root";
    status.settings = {{"reconnect-for", "forever"}, {"tls-ca", "/etc/\xff/ca.pem"}};
    status.agreed = {.name = std::string("r\0\xfe", 3),
                     .description = "Grüße\n\"x\"",
                     .size = 0x7fffffffffffffff,
                     .flags = 0xffff,
                     .block_sizes = BlockSizes{512, 4096, 0xffffffff}};
    status.block_size = 4096;
    status.connections = 4;
    status.timeout = seconds(30);
    status.dead_conn_timeout = forever;
    status.attached_since = Time(seconds(1769847300));
    status.tls = true;
    status.offload = "ktls";
    status.pid = 412;
    status.state = LinkState::degraded;
    status.state_since = Time(seconds(1769847400));
    status.live_connections = 2;
    status.reconnects = std::numeric_limits<std::uint64_t>::max();
    status.server = "[::1]:10809";
    status.last_error = "cannot connect";
    return status;
}

void expect_same(const RuntimeStatus& a, const RuntimeStatus& b) {
    EXPECT_EQ(a.index, b.index);
    EXPECT_EQ(a.backend, b.backend);
    EXPECT_EQ(a.uri, b.uri);
    EXPECT_EQ(a.settings, b.settings);
    EXPECT_EQ(a.agreed, b.agreed);
    EXPECT_EQ(a.block_size, b.block_size);
    EXPECT_EQ(a.connections, b.connections);
    EXPECT_EQ(a.timeout, b.timeout);
    EXPECT_EQ(a.dead_conn_timeout, b.dead_conn_timeout);
    EXPECT_EQ(a.attached_since, b.attached_since);
    EXPECT_EQ(a.tls, b.tls);
    EXPECT_EQ(a.offload, b.offload);
    EXPECT_EQ(a.pid, b.pid);
    EXPECT_EQ(a.state, b.state);
    EXPECT_EQ(a.state_since, b.state_since);
    EXPECT_EQ(a.live_connections, b.live_connections);
    EXPECT_EQ(a.reconnects, b.reconnects);
    EXPECT_EQ(a.server, b.server);
    EXPECT_EQ(a.last_error, b.last_error);
}

TEST(Runtime, EverythingSurvivesTheFile) {
    const TemporaryDirectory directory;
    ASSERT_TRUE(publish_status(directory.path(), full_status()));
    const auto stored = read_status(directory.path(), 7);
    ASSERT_TRUE(stored);
    expect_same(stored->status, full_status());
    EXPECT_FALSE(stored->watched);

    RuntimeStatus bare;
    bare.index = 8;
    ASSERT_TRUE(publish_status(directory.path(), bare));
    expect_same(read_status(directory.path(), 8)->status, bare);
}

TEST(Runtime, PublishMakesTheDirectoryReplacesAndLeavesNoLitter) {
    const TemporaryDirectory parent;
    const std::string directory = parent.path() + "/nbd";
    const mode_t mask = umask(077);
    RuntimeStatus status = full_status();
    ASSERT_TRUE(publish_status(directory, status));
    status.reconnects = 1;
    ASSERT_TRUE(publish_status(directory, status));
    umask(mask);
    EXPECT_EQ(read_status(directory, 7)->status.reconnects, 1U);

    struct stat file {};
    ASSERT_EQ(stat((directory + "/nbd7.json").c_str(), &file), 0);
    EXPECT_EQ(file.st_mode & 0777, 0644U);
    unsigned entries = 0;
    for (const auto& entry : std::filesystem::directory_iterator(directory))
        entries += entry.exists() ? 1U : 0U;
    EXPECT_EQ(entries, 1U);

    remove_status(directory, 7);
    EXPECT_FALSE(read_status(directory, 7));
    remove_status(directory, 7);
}

TEST(Runtime, PublishNamesWhatItCannotWrite) {
    const auto written = publish_status("/nonexistent/nbd", full_status());
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().kind, Kind::absent);
    EXPECT_EQ(written.error().what, "cannot make /nonexistent/nbd: no such file or directory");
}

TEST(Runtime, MissingKeysLeaveDefaultsAndUnknownOnesAreIgnored) {
    const TemporaryDirectory directory;
    directory.write("nbd0.json", R"({"version": 1, "uri": "nbd://a", "news": {"x": [1]}})");
    const auto stored = read_status(directory.path(), 0);
    ASSERT_TRUE(stored);
    RuntimeStatus expected;
    expected.uri = "nbd://a";
    expect_same(stored->status, expected);
}

TEST(Runtime, NonsenseIsNoStatus) {
    const TemporaryDirectory directory;
    EXPECT_FALSE(read_status(directory.path(), 0)) << "no file";
    for (const char* text : {"",
                             "{",
                             "null",
                             "[]",
                             "\"x\"",
                             "1",
                             "{}",
                             R"({"version": 2})",
                             R"({"version": "1"})",
                             R"({"version": 1, "index": 1})",
                             R"({"version": 1, "index": -1})",
                             R"({"version": 1, "index": 4294967296})",
                             R"({"version": 1, "uri": 5})",
                             R"({"version": 1, "uri": [256]})",
                             R"({"version": 1, "uri": ["a"]})",
                             R"({"version": 1, "pid": -1})",
                             R"({"version": 1, "pid": 2147483648})",
                             R"({"version": 1, "pid": 1.5})",
                             R"({"version": 1, "tls": 1})",
                             R"({"version": 1, "state": "dead"})",
                             R"({"version": 1, "state": 3})",
                             R"({"version": 1, "state_since": 9000000001})",
                             R"({"version": 1, "timeout": 9223372036854775808})",
                             R"({"version": 1, "settings": 1})",
                             R"({"version": 1, "settings": {"a": {}}})",
                             R"({"version": 1, "settings": ["a"]})",
                             R"({"version": 1, "settings": [{"name": 1}]})",
                             R"({"version": 1, "export": []})",
                             R"({"version": 1, "export": {"flags": 65536}})",
                             R"({"version": 1, "export": {"minimum_block_size": "1"}})"}) {
        directory.write("nbd0.json", text);
        EXPECT_FALSE(read_status(directory.path(), 0)) << text;
    }
    directory.write("nbd0.json", std::string(100000, '['));
    EXPECT_FALSE(read_status(directory.path(), 0)) << "deep";
    directory.write("nbd0.json", R"({"version": 1, "uri": ")" + std::string(300000, 'a') + "\"}");
    EXPECT_FALSE(read_status(directory.path(), 0)) << "large";
}

TEST(Runtime, ALockIsSeenAndEndsWithItsOwner) {
    const TemporaryDirectory directory;
    ASSERT_TRUE(publish_status(directory.path(), full_status()));
    {
        const auto lock = RuntimeLock::take(directory.path(), 7);
        ASSERT_TRUE(lock);
        EXPECT_TRUE(read_status(directory.path(), 7)->watched);
        EXPECT_TRUE(read_status(directory.path(), 7)->watched) << "reading does not drop it";
        const auto second = RuntimeLock::take(directory.path(), 7);
        ASSERT_FALSE(second);
        EXPECT_EQ(second.error().kind, Kind::busy);
        EXPECT_EQ(second.error().what,
                  "cannot watch /dev/nbd7: process " + std::to_string(getpid()) + " watches it");
        EXPECT_TRUE(RuntimeLock::take(directory.path(), 8)) << "another device";
    }
    EXPECT_FALSE(read_status(directory.path(), 7)->watched);
    EXPECT_TRUE(RuntimeLock::take(directory.path(), 7));
}

TEST(Runtime, ALockIsSeenByThoseWhoMayNotOpenIt) {
    const TemporaryDirectory directory;
    ASSERT_TRUE(publish_status(directory.path(), full_status()));
    const std::string path = directory.path() + "/nbd7.lock";
    const auto seen = [&] {
        // Root may open everything.
        const uid_t me = geteuid();
        EXPECT_EQ(me == 0 ? seteuid(65534) : chmod(path.c_str(), 0), 0);
        EXPECT_LT(open(path.c_str(), O_RDONLY), 0);
        const auto stored = read_status(directory.path(), 7);
        EXPECT_EQ(me == 0 ? seteuid(0) : chmod(path.c_str(), 0600), 0);
        return stored && stored->watched;
    };
    ASSERT_EQ(chmod(directory.path().c_str(), 0755), 0);
    {
        const auto lock = RuntimeLock::take(directory.path(), 7);
        ASSERT_TRUE(lock);
        EXPECT_TRUE(seen());
    }
    EXPECT_FALSE(seen());
}

TEST(Runtime, TheLockOfAKilledProcessIsGone) {
    const TemporaryDirectory directory;
    ASSERT_TRUE(publish_status(directory.path(), full_status()));
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        const auto lock = RuntimeLock::take(directory.path(), 7);
        const char verdict = lock ? 'y' : 'n';
        if (write(ends[1], &verdict, 1) == 1) pause();
        _exit(1);
    }
    char verdict = 0;
    ASSERT_EQ(read(ends[0], &verdict, 1), 1);
    EXPECT_EQ(verdict, 'y');
    EXPECT_TRUE(read_status(directory.path(), 7)->watched);
    const auto refused = RuntimeLock::take(directory.path(), 7);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().what.find("process " + std::to_string(child) + " "),
              std::string::npos);
    kill(child, SIGKILL);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    EXPECT_FALSE(read_status(directory.path(), 7)->watched);
    EXPECT_TRUE(RuntimeLock::take(directory.path(), 7));
    close(ends[0]);
    close(ends[1]);
}

}  // namespace
}  // namespace nbd
