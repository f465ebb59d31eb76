// SPDX-License-Identifier: MIT
// Which word counts where the kernel and a status file both speak of a device.
#include "client/devices.h"

#include "tests/unit/temporary_directory.h"

namespace nbd {
namespace {

using std::chrono::seconds;
using Time = std::chrono::system_clock::time_point;

class Devices : public testing::Test {
protected:
    /// A configured disk of 1 MiB; without a backend attribute if none is given.
    void disk(std::uint32_t index, const std::optional<std::string>& backend) const {
        const std::string directory = "sys/block/" + device_name(index) + "/";
        root.write(directory + "pid", "4711\n");
        root.write(directory + "size", "2048\n");
        root.write(directory + "ro", "0\n");
        root.write(directory + "dev", "43:" + std::to_string(index) + "\n");
        root.write(directory + "queue/logical_block_size", "512\n");
        if (backend) root.write(directory + "backend", *backend + "\n");
    }
    RuntimeStatus publish(std::uint32_t index, const std::string& backend) const {
        RuntimeStatus status;
        status.index = index;
        status.backend = backend;
        status.uri = "nbd://store/root";
        status.block_size = 4096;
        status.connections = 4;
        status.tls = true;
        status.offload = "ktls";
        status.attached_since = Time(seconds(1000));
        status.pid = 412;
        status.state = LinkState::reconnecting;
        status.state_since = Time(seconds(2000));
        status.dead_conn_timeout = seconds(600);
        status.live_connections = 0;
        status.reconnects = 3;
        status.server = "[::1]:10809";
        status.last_error = "cannot connect";
        EXPECT_TRUE(publish_status(runtime(), status));
        return status;
    }
    std::string runtime() const { return root.path() + "/run"; }
    std::vector<DeviceRow> rows() const { return attached_devices(Sysfs(root.path()), runtime()); }
    Result<std::vector<std::uint32_t>> find(std::string_view word) const {
        return find_devices(Sysfs(root.path()), runtime(), word);
    }
    TemporaryDirectory root;
};

TEST_F(Devices, OnlyConfiguredOnesInOrder) {
    disk(10, "a");
    disk(2, "b");
    root.write("sys/block/nbd3/size", "0\n");
    const auto found = rows();
    ASSERT_EQ(found.size(), 2U);
    EXPECT_EQ(found[0].index, 2U);
    EXPECT_EQ(found[1].index, 10U);
}

TEST_F(Devices, TheKernelAloneTellsWhatItKnows) {
    disk(0, "nbd://store/root#3f2a");
    root.write("sys/block/nbd0/ro", "1\n");
    root.write("sys/block/nbd0/nbd0p1/dev", "43:1\n");
    root.write("proc/self/mountinfo", "36 35 43:1 / /mnt rw - ext4 /dev/nbd0p1 rw\n");
    root.write("proc/swaps", "Filename Type Size Used Priority\n/dev/nbd0 partition 1 0 -2\n");
    const auto found = rows();
    ASSERT_EQ(found.size(), 1U);
    const DeviceRow& row = found[0];
    EXPECT_EQ(row.size, 1048576U);
    EXPECT_EQ(row.block_size, 512U);
    EXPECT_TRUE(row.read_only);
    EXPECT_EQ(row.state, LinkState::attached);
    EXPECT_EQ(row.id, "nbd://store/root#3f2a");
    EXPECT_EQ(row.uri, "nbd://store/root");
    EXPECT_EQ(row.partitions, std::vector<std::string>{"nbd0p1"});
    EXPECT_EQ(row.mountpoints, (std::vector<std::string>{"/mnt", "[SWAP]"}));
    EXPECT_FALSE(row.pid) << "the kernel's number says nothing of a process of ours";
    EXPECT_FALSE(row.since || row.connections || row.live_connections || row.tls || row.server ||
                 row.reconnects || row.fails_at || row.last_error);
}

TEST_F(Devices, AnIdentifierNeedNotBeAUri) {
    disk(0, "backups");
    EXPECT_EQ(rows()[0].uri, std::nullopt);
}

TEST_F(Devices, WhileWatchedTheFileIsOfNow) {
    disk(0, "id");
    publish(0, "id");
    const auto lock = RuntimeLock::take(runtime(), 0);
    ASSERT_TRUE(lock);
    const DeviceRow row = rows().at(0);
    EXPECT_EQ(row.uri, "nbd://store/root");
    EXPECT_EQ(row.block_size, 4096U);
    EXPECT_EQ(row.connections, 4U);
    EXPECT_EQ(row.tls, true);
    EXPECT_EQ(row.offload, "ktls");
    EXPECT_EQ(row.state, LinkState::reconnecting);
    EXPECT_EQ(row.since, Time(seconds(2000)));
    EXPECT_EQ(row.live_connections, 0U);
    EXPECT_EQ(row.pid, 412);
    EXPECT_EQ(row.reconnects, 3U);
    EXPECT_EQ(row.server, "[::1]:10809");
    EXPECT_EQ(row.last_error, "cannot connect");
    EXPECT_EQ(row.fails_at, Time(seconds(2600)));
}

TEST_F(Devices, NoClockRunsForeverOrWhileAttached) {
    disk(0, "id");
    RuntimeStatus status = publish(0, "id");
    const auto lock = RuntimeLock::take(runtime(), 0);
    ASSERT_TRUE(lock);
    status.dead_conn_timeout = seconds(2'000'000);
    ASSERT_TRUE(publish_status(runtime(), status));
    EXPECT_FALSE(rows().at(0).fails_at);
    status.dead_conn_timeout = seconds(600);
    status.state = LinkState::attached;
    ASSERT_TRUE(publish_status(runtime(), status));
    EXPECT_FALSE(rows().at(0).fails_at);
}

TEST_F(Devices, UnwatchedOnlyWhatDoesNotChangeIsBelieved) {
    disk(0, "id");
    publish(0, "id");
    const DeviceRow row = rows().at(0);
    EXPECT_EQ(row.uri, "nbd://store/root");
    EXPECT_EQ(row.block_size, 4096U);
    EXPECT_EQ(row.connections, 4U);
    EXPECT_EQ(row.tls, true);
    EXPECT_EQ(row.offload, "ktls");
    EXPECT_EQ(row.state, LinkState::attached);
    EXPECT_EQ(row.since, Time(seconds(1000)));
    EXPECT_FALSE(row.pid || row.live_connections || row.reconnects || row.fails_at ||
                 row.last_error);
}

TEST_F(Devices, AFileOfAnEarlierLifeIsIgnoredEvenIfWatched) {
    disk(0, "id");
    publish(0, "older id");
    const auto lock = RuntimeLock::take(runtime(), 0);
    ASSERT_TRUE(lock);
    const DeviceRow row = rows().at(0);
    EXPECT_EQ(row.id, "id");
    EXPECT_FALSE(row.uri || row.pid || row.connections);
    EXPECT_EQ(row.block_size, 512U);
}

TEST_F(Devices, WithoutABackendAttributeTheLockDecides) {
    disk(0, std::nullopt);
    publish(0, "id");
    EXPECT_EQ(rows().at(0).uri, std::nullopt);
    EXPECT_EQ(rows().at(0).id, "");
    const auto lock = RuntimeLock::take(runtime(), 0);
    ASSERT_TRUE(lock);
    EXPECT_EQ(rows().at(0).uri, "nbd://store/root");
    EXPECT_EQ(rows().at(0).id, "id");
}

TEST_F(Devices, AreFoundByEveryName) {
    disk(0, "nbd://store/root#3f2a");
    disk(1, "backups");
    disk(2, "nbd://store/root#77");
    using Indexes = std::vector<std::uint32_t>;
    for (const char* word : {"nbd1", "/dev/nbd1", "1", "backups"}) {
        const auto found = find(word);
        ASSERT_TRUE(found) << word;
        EXPECT_EQ(*found, Indexes{1}) << word;
    }
    EXPECT_EQ(*find("nbd5"), Indexes{5}) << "a device need not be attached";
    EXPECT_EQ(*find("nbd://store/root"), (Indexes{0, 2}));
    EXPECT_EQ(*find("nbd://store:10809/root"), (Indexes{0, 2})) << "not written canonically";
    EXPECT_EQ(*find("nbd://store/root#77"), Indexes{2});
}

TEST_F(Devices, WordsOfNobodyAreRefused) {
    disk(0, std::nullopt);
    for (const auto& [word, kind] :
         std::initializer_list<std::pair<const char*, Kind>>{{"nbd://store/other", Kind::absent},
                                                             {"nothing", Kind::absent},
                                                             {"", Kind::absent},
                                                             {"#", Kind::absent},
                                                             {"/dev/null", Kind::usage}}) {
        const auto found = find(word);
        ASSERT_FALSE(found) << word;
        EXPECT_EQ(found.error().kind, kind) << word;
    }
    EXPECT_EQ(find("a\x1b").error().what,
              "cannot find a device for \"a\\x1b\": it is neither a device nor the URI or "
              "identifier of an attached one");
}

}  // namespace
}  // namespace nbd
