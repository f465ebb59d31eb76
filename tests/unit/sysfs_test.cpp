// SPDX-License-Identifier: MIT
// Devices and their users as read from a small copy of /sys and /proc.
#include "netlink/sysfs.h"

#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

namespace nbd {
namespace {

namespace fs = std::filesystem;

class SysfsTest : public testing::Test {
protected:
    SysfsTest() {
        std::string name = testing::TempDir() + "sysfs_test.XXXXXX";
        root_ = ::mkdtemp(name.data());
    }
    ~SysfsTest() override { fs::remove_all(root_); }

    void put(const std::string& path, const std::string& content) {
        fs::create_directories((root_ / path).parent_path());
        std::ofstream(root_ / path) << content;
    }
    std::string get(const std::string& path) {
        std::ifstream file(root_ / path);
        return std::string(std::istreambuf_iterator<char>(file), {});
    }

    /// nbd0, attached, with two partitions; nbd1, free.
    void populate() {
        put("sys/block/nbd0/pid", "4242\n");
        put("sys/block/nbd0/backend", "nbd://store/root#1\n");
        put("sys/block/nbd0/size", "131072\n");
        put("sys/block/nbd0/ro", "1\n");
        put("sys/block/nbd0/dev", "43:0\n");
        put("sys/block/nbd0/inflight", "       3        4\n");
        put("sys/block/nbd0/queue/logical_block_size", "4096\n");
        put("sys/block/nbd0/queue/max_sectors_kb", "128\n");
        put("sys/block/nbd0/nbd0p10/dev", "43:10\n");
        put("sys/block/nbd0/nbd0p2/dev", "43:2\n");
        put("sys/block/nbd1/size", "0\n");
        put("sys/block/nbd1/ro", "0\n");
        put("sys/block/nbd1/dev", "43:32\n");
    }

    std::vector<std::string> users(std::uint32_t index) {
        std::vector<std::string> lines;
        for (const auto& user : Sysfs(root_).users(index)) {
            const char* how = user.how == DiskUser::How::mounted ? "mounted"
                              : user.how == DiskUser::How::swap  ? "swap"
                                                                 : "held";
            lines.push_back(user.device + " " + how + " " + user.where);
        }
        return lines;
    }

    fs::path root_;
};

using Lines = std::vector<std::string>;

TEST_F(SysfsTest, IndexesAreNumericalAndOnlyOfDisks) {
    for (const char* name : {"nbd10", "nbd2", "nbd0", "sda", "nbdx", "nbd3p1", "nbd", "nbd007"})
        fs::create_directories(root_ / "sys/block" / name);
    EXPECT_EQ(Sysfs(root_).indexes(), (std::vector<std::uint32_t>{0, 2, 10}));
}

TEST_F(SysfsTest, NothingIsThere) {
    const Sysfs sysfs(root_);
    EXPECT_TRUE(sysfs.indexes().empty());
    EXPECT_FALSE(sysfs.read(0));
    EXPECT_FALSE(sysfs.block_size(0));
    EXPECT_FALSE(sysfs.inflight(0));
    EXPECT_FALSE(sysfs.max_part());
    EXPECT_FALSE(sysfs.has_driver());
    EXPECT_TRUE(sysfs.users(0).empty());
}

TEST_F(SysfsTest, ReadsAnAttachedDisk) {
    populate();
    const Sysfs sysfs(root_);
    const auto disk = sysfs.read(0);
    ASSERT_TRUE(disk);
    EXPECT_EQ(disk->index, 0u);
    EXPECT_TRUE(disk->configured);
    EXPECT_EQ(disk->pid, 4242);
    EXPECT_EQ(disk->backend, "nbd://store/root#1");
    EXPECT_EQ(disk->size, 64u << 20);
    EXPECT_TRUE(disk->read_only);
    EXPECT_EQ(disk->partitions, (Lines{"nbd0p2", "nbd0p10"}));
    EXPECT_EQ(sysfs.block_size(0), 4096u);
    EXPECT_EQ(sysfs.inflight(0), 7u);
}

TEST_F(SysfsTest, ReadsAFreeDisk) {
    populate();
    const auto disk = Sysfs(root_).read(1);
    ASSERT_TRUE(disk);
    EXPECT_FALSE(disk->configured);
    EXPECT_EQ(disk->backend, std::nullopt);
    EXPECT_EQ(disk->size, 0u);
    EXPECT_FALSE(disk->read_only);
    EXPECT_TRUE(disk->partitions.empty());
}

TEST_F(SysfsTest, MissingIdentifierAndEmptyOneDiffer) {
    populate();
    put("sys/block/nbd0/backend", "\n");
    EXPECT_EQ(Sysfs(root_).read(0)->backend, "");
    fs::remove(root_ / "sys/block/nbd0/backend");
    EXPECT_EQ(Sysfs(root_).read(0)->backend, std::nullopt);
}

TEST_F(SysfsTest, DriverAndItsParameter) {
    put("sys/module/nbd/parameters/max_part", "16\n");
    EXPECT_TRUE(Sysfs(root_).has_driver());
    EXPECT_EQ(Sysfs(root_).max_part(), 16u);
}

TEST_F(SysfsTest, WritesAQueueAttribute) {
    populate();
    EXPECT_TRUE(Sysfs(root_).write_queue(0, "max_sectors_kb", 64));
    EXPECT_EQ(get("sys/block/nbd0/queue/max_sectors_kb").substr(0, 2), "64");
    const auto missing = Sysfs(root_).write_queue(0, "io_timeout", 1);
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().kind, Kind::unsupported);
}

TEST_F(SysfsTest, TheSchedulerIsTheOneInBrackets) {
    populate();
    EXPECT_EQ(Sysfs(root_).scheduler(0), std::nullopt);
    put("sys/block/nbd0/queue/scheduler", "none [mq-deadline] kyber\n");
    EXPECT_EQ(Sysfs(root_).scheduler(0), "mq-deadline");
    put("sys/block/nbd0/queue/scheduler", "none\n");
    EXPECT_EQ(Sysfs(root_).scheduler(0), "none");
    EXPECT_TRUE(Sysfs(root_).set_scheduler(0, "mq-deadline"));
    EXPECT_EQ(Sysfs(root_).scheduler(0), "mq-deadline");
    EXPECT_FALSE(Sysfs(root_).set_scheduler(1, "mq-deadline"));
}

TEST_F(SysfsTest, MountsAreFoundByDeviceNumberOnceEach) {
    populate();
    const std::string table =
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "36 22 43:2 / /srv/a\\040b\\134c rw shared:1 master:2 - ext4 /dev/root rw\n"
        "37 22 43:20 / /other rw - ext4 /dev/nbd0p2 rw\n"
        "38 22 43:0 /sub /mnt rw - xfs /dev/nbd0 rw\n"
        "garbage\n"
        "39 22 43:0\n";
    put("proc/self/mountinfo", table);
    put("proc/1/mountinfo", table + "40 22 43:0 / /only-there rw - xfs /dev/nbd0 rw\n");
    EXPECT_EQ(users(0), (Lines{"nbd0p2 mounted /srv/a b\\c", "nbd0 mounted /mnt",
                               "nbd0 mounted /only-there"}));
    EXPECT_TRUE(users(1).empty());
}

TEST_F(SysfsTest, MountsWithANumberOfTheirOwnAreFoundBySource) {
    populate();
    put("proc/self/mountinfo",
        "36 22 0:41 /@ /data rw shared:1 - btrfs /dev/nbd0p2 rw\n"
        "37 22 0:42 / /tmp rw - tmpfs tmpfs rw\n"
        "38 22 0:43 / /net rw - nfs server:/dev/nbd0 rw\n"
        "39 22 0:44 / /cut rw - btrfs\n");
    EXPECT_EQ(users(0), (Lines{"nbd0p2 mounted /data"}));
}

TEST_F(SysfsTest, SwapIsFoundByName) {
    populate();
    put("proc/swaps",
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        "/dev/nbd0p10                            partition\t65532\t\t0\t\t-2\n"
        "/swap\\040file                          file\t\t65532\t\t0\t\t-3\n");
    EXPECT_EQ(users(0), (Lines{"nbd0p10 swap "}));
}

TEST_F(SysfsTest, SwapIsFoundThroughAnotherNode) {
    populate();
    fs::create_directories(root_ / "dev");
    if (::mknod((root_ / "dev/space here").c_str(), S_IFBLK | 0600, makedev(43, 2)) != 0)
        GTEST_SKIP() << "making a device node needs root";
    put("proc/swaps", "/dev/space\\040here partition 65532 0 -2\n");
    EXPECT_EQ(users(0), (Lines{"nbd0p2 swap "}));
}

TEST_F(SysfsTest, HoldersOfDiskAndPartitions) {
    populate();
    fs::create_directories(root_ / "sys/block/nbd0/holders/md127");
    fs::create_directories(root_ / "sys/block/nbd0/holders/dm-3");
    fs::create_directories(root_ / "sys/block/nbd0/nbd0p2/holders/dm-0");
    EXPECT_EQ(users(0), (Lines{"nbd0 held dm-3", "nbd0 held md127", "nbd0p2 held dm-0"}));
}

TEST(ParseDevice, Names) {
    const std::pair<const char*, std::uint32_t> good[] = {
        {"nbd3", 3},
        {"/dev/nbd3", 3},
        {"3", 3},
        {"/dev/nbd3p1", 3},
        {"nbd12p15", 12},
        {"0", 0},
        {"nbd1048575", 1048575},
        {"/dev/nbd1048575", 1048575},
    };
    for (const auto& [text, index] : good) {
        const auto parsed = parse_device(text);
        ASSERT_TRUE(parsed) << text;
        EXPECT_EQ(*parsed, index) << text;
    }
    for (const char* text : {"",      "/",          "/dev",       "/dev/",
                             "nbd",   "nbd-1",      "-1",         "nbdx",
                             "nbd3p", "nbd3px",     "nbd3q",      "03",
                             "nbd03", "nbd1048576", "1048576",    "99999999999999999999",
                             "sda",   "/dev/null",  "/dev/nbd3/", "/dev/../nbd3x",
                             "nbd3 "}) {
        const auto parsed = parse_device(text);
        ASSERT_FALSE(parsed) << text;
        EXPECT_EQ(parsed.error().kind, Kind::usage);
        EXPECT_FALSE(parsed.error().hint.empty());
    }
}

TEST(ParseDevice, FollowsLinks) {
    std::string name = testing::TempDir() + "parse_device.XXXXXX";
    const fs::path directory = ::mkdtemp(name.data());
    fs::create_symlink("/dev/null", directory / "not-ours");
    EXPECT_FALSE(parse_device((directory / "not-ours").string()));
    // realpath() wants the target to exist.
    if (fs::exists("/dev/nbd0")) {
        fs::create_symlink("/dev/nbd0", directory / "ours");
        const auto parsed = parse_device((directory / "ours").string());
        ASSERT_TRUE(parsed);
        EXPECT_EQ(*parsed, 0u);
    }
    fs::remove_all(directory);
}

TEST(DeviceName, IsWhatParseDeviceReads) {
    EXPECT_EQ(device_name(7), "nbd7");
    EXPECT_EQ(device_path(7), "/dev/nbd7");
    EXPECT_EQ(*parse_device(device_name(7)), 7u);
    EXPECT_EQ(*parse_device(device_path(7)), 7u);
}

}  // namespace
}  // namespace nbd
