// SPDX-License-Identifier: MIT
// nbdtab lines, good and bad, old keys and new.
#include "client/nbdtab.h"

#include "client/attach_options.h"

#include <fstream>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

namespace nbd {
namespace {

std::string text_of(const NbdtabRecord& record) {
    std::string text = record.device + ' ' + to_uri(record.target);
    for (const Setting& setting : record.settings)
        text += ' ' + setting.name + (setting.value.empty() ? "" : '=' + setting.value);
    return text;
}

/// The one record of a line, or its complaint.
std::string meaning(std::string_view line) {
    const Nbdtab tab = parse_nbdtab(line, "nbdtab");
    if (tab.records.size() + tab.complaints.size() != 1) return "not one record";
    if (tab.records.empty()) return "error: " + tab.complaints[0].error.what;
    return text_of(tab.records[0]);
}

struct Line {
    std::string_view line;
    std::string_view meaning;
};

void expect_all(std::initializer_list<Line> lines) {
    for (const Line& line : lines) EXPECT_EQ(meaning(line.line), line.meaning) << line.line;
}

TEST(Nbdtab, ReadsDeviceHostAndExport) {
    expect_all({
        {"nbd0 store vm", "nbd0 nbd://store/vm"},
        {"/dev/nbd0 store vm", "nbd0 nbd://store/vm"},
        {"nbd12\tstore  \t vm", "nbd12 nbd://store/vm"},
        {"nbd0 192.0.2.7 vm", "nbd0 nbd://192.0.2.7/vm"},
        {"nbd0 2001:db8::7 vm", "nbd0 nbd://[2001:db8::7]/vm"},
        {"nbd0 [2001:db8::7] vm", "nbd0 nbd://[2001:db8::7]/vm"},
        {"nbd0 fe80::1%eth0 vm port=2000", "nbd0 nbd://[fe80::1%25eth0]:2000/vm"},
        {"nbd0 store vm port=nbd", "nbd0 nbd://store:nbd/vm"},
        {"nbd0 /run/nbd.sock vm unix", "nbd0 nbd+unix:///vm?socket=/run/nbd.sock"},
        {"nbd0 store \"\"", "nbd0 nbd://store/"},
    });
}

TEST(Nbdtab, ReadsAUriInTheHostColumn) {
    expect_all({
        {"nbd0 nbd://store:2000/vm", "nbd0 nbd://store:2000/vm"},
        {"nbd0 nbd://store/vm -", "nbd0 nbd://store/vm"},
        {"nbd0 nbd://store/vm - read-only", "nbd0 nbd://store/vm read-only"},
        {"nbd0 nbd://store/vm read-only,bs=512", "nbd0 nbd://store/vm read-only block-size=512"},
        {"nbd0 nbd://store/vm _netdev", "nbd0 nbd://store/vm"},
        {"nbd0 nbds://store/vm", "nbd0 nbds://store/vm"},
        {"nbd0 nbd+unix:///vm?socket=/run/s persist",
         "nbd0 nbd+unix:///vm?socket=/run/s reconnect-for=forever"},
        {"nbd0 nbd://store/ vm",
         "error: while reading line 1 of nbdtab: cannot understand \"vm\": no option"},
    });
}

TEST(Nbdtab, ToleratesBlanksCommentsAndLineEnds) {
    for (const std::string_view line :
         {"nbd0 store vm swap\n", "nbd0 store vm swap", "  nbd0 store vm swap\n",
          "nbd0 store vm swap  \t\n", "nbd0 store vm swap\r\n", "nbd0 store vm swap # why\n",
          "nbd0 store vm swap # why", "nbd0 store vm swap #", "# a\n\n \t\n\r\nnbd0 store vm swap",
          "nbd0 store vm swap\n#last"})
        EXPECT_EQ(meaning(line), "nbd0 nbd://store/vm essential") << line;
    EXPECT_EQ(meaning("nbd0 store a#b"), "nbd0 nbd://store/a%23b");
    for (const std::string_view empty : {"", "\n", "# only", " # only\n", "\r\n"}) {
        const Nbdtab tab = parse_nbdtab(empty, "nbdtab");
        EXPECT_TRUE(tab.records.empty() && tab.complaints.empty()) << empty;
    }
}

TEST(Nbdtab, ReadsQuotesAndBackslashes) {
    const auto name = [](std::string_view word) {
        const Nbdtab tab = parse_nbdtab("nbd0 store " + std::string(word), "nbdtab");
        return tab.records.empty() ? "" : tab.records[0].target.export_name;
    };
    EXPECT_EQ(name("a,b=c"), "a,b=c");
    EXPECT_EQ(name("\"a, b=c # d\""), "a, b=c # d");
    EXPECT_EQ(name("'a \"b\" \\'"), "a \"b\" \\");
    EXPECT_EQ(name("\"a \\\" \\\\ b\""), "a \" \\ b");
    EXPECT_EQ(name("a\\ b\\#c"), "a b#c");
    EXPECT_EQ(name("pre'fix 'ed"), "prefix ed");
    EXPECT_EQ(name("'#x'"), "#x");
    EXPECT_EQ(meaning("nbd0 '/run/a b,c=d' vm unix"),
              "nbd0 nbd+unix:///vm?socket=/run/a%20b%2Cc%3Dd");
    EXPECT_EQ(meaning("nbd0 store vm cacertfile='/a b,c=d',swap"),
              "nbd0 nbds://store/vm tls-ca=/a b,c=d essential tls");
    EXPECT_EQ(meaning("nbd0 store vm id=a\\,b"), "nbd0 nbd://store/vm id=a,b");
    EXPECT_EQ(meaning("nbd0 store \"vm"),
              "error: while reading line 1 of nbdtab: cannot understand \"\"vm\": the quote is not "
              "closed");
}

TEST(Nbdtab, ReadsTheOldKeys) {
    const std::pair<std::string, std::string> keys[] = {
        {"bs=4096", "nbd://store/vm block-size=4096"},
        {"conns=4", "nbd://store/vm connections=4"},
        {"timeout=30", "nbd://store/vm io-timeout=30"},
        {"swap", "nbd://store/vm essential"},
        {"persist", "nbd://store/vm reconnect-for=forever"},
        {"persist,dead-timeout=60", "nbd://store/vm reconnect-for=60"},
        {"dead-timeout=60,persist", "nbd://store/vm reconnect-for=60"},
        {"dead-timeout=60", "nbd://store/vm reconnect-for=60"},
        {"dead-timeout=0", "nbd://store/vm"},
        {"no_optgo", "nbd://store/vm no-optgo"},
        {"port=2000", "nbd://store:2000/vm"},
        {"tls", "nbds://store/vm tls"},
        {"cacertfile=f", "nbds://store/vm tls-ca=f tls"},
        {"certfile=f,keyfile=k", "nbds://store/vm tls-cert=f tls-key=k tls"},
        {"keyfile=k", "nbds://store/vm tls-key=k tls-cert=k tls"},
        {"tlshostname=n", "nbds://store/vm tls-hostname=n tls"},
        {"preinit,size=1024", "nbd://store/vm preinit size=1024"},
        {"_netdev,_x=1,swap", "nbd://store/vm essential"},
        {"swap,,persist,", "nbd://store/vm essential reconnect-for=forever"},
        {"swap, persist", "nbd://store/vm essential reconnect-for=forever"},
    };
    for (const auto& [options, result] : keys)
        EXPECT_EQ(meaning("nbd0 store vm " + options), "nbd0 " + result) << options;
}

TEST(Nbdtab, ReadsEveryAttachOption) {
    for (const AttachOption& option : attach_options()) {
        std::string value;
        if (!option.metavar.empty()) value = option.name == "alternate" ? "nbd://b/vm" : "4096";
        if (option.name == "connections") value = "4";
        if (option.name == "tls-ciphers") value = "aes-256-gcm:aes-128-gcm";
        if (option.name == "tls-offload") value = "require";
        std::string line = "nbd0 store vm " + std::string(option.name);
        if (!value.empty()) line += "=" + value;
        if (option.name == "preinit") line += ",size=4096";
        const Nbdtab tab = parse_nbdtab(line, "nbdtab");
        ASSERT_EQ(tab.records.size(), 1U) << line << tab.complaints[0].error.what;
        EXPECT_TRUE(tab.records[0].warnings.empty()) << line;
        const Setting expected{std::string(option.name), value};
        EXPECT_EQ(tab.records[0].settings.front(), expected) << line;
    }
}

TEST(Nbdtab, RefusesBadValues) {
    const std::string start = "error: while reading line 1 of nbdtab: ";
    expect_all({
        {"nbd0 store vm bs=junk", start + "cannot use option block-size \"junk\": not a power of "
                                          "two of 512 bytes or more"},
        {"nbd0 store vm bs=", start + "cannot use option block-size: not a power of two of 512 "
                                      "bytes or more"},
        {"nbd0 store vm conns=0",
         start + "cannot use option connections \"0\": not a number from 1 to 1024 nor auto"},
        {"nbd0 store vm timeout=-3", start + "cannot use option io-timeout \"-3\": not a duration"},
        {"nbd0 store vm dead-timeout=x",
         start + "cannot use option reconnect-for \"x\": not a duration"},
        {"nbd0 store vm swap=maybe",
         start + "cannot use option essential \"maybe\": it is yes or no"},
        {"nbd0 store vm preinit",
         start + "cannot use preinit: the size is not known without a handshake"},
        {"nbd0 store vm priority=NORMAL",
         start + "cannot use option priority: its words belong to another TLS library"},
        {"nbd0", start + "cannot find a server: the line has only a device"},
        {"nbd0 store", start + "cannot find an export name: the line has only a device and a host"},
        {"nbd0 \"\" vm", start + "cannot find a server: the host is empty"},
        {"sda store vm", start + "cannot use \"sda\": it is not an nbd device"},
    });
    EXPECT_TRUE(meaning("nbd0 store vm port=0").starts_with(start));
    EXPECT_TRUE(meaning("nbd0 nbd://store:x:y/vm").starts_with(start));
}

TEST(Nbdtab, OneBadLineLeavesTheOthersAlone) {
    const Nbdtab tab = parse_nbdtab(
        "nbd0 a x\n"
        "nbd1 b\n"
        "\n"
        "what is this\n"
        "nbd2 c z bs=junk\n"
        "nbd3 d 'w\n"
        "nbd4 e v\n",
        "/etc/nbdtab");
    ASSERT_EQ(tab.records.size(), 2U);
    EXPECT_EQ(text_of(tab.records[0]), "nbd0 nbd://a/x");
    EXPECT_EQ(tab.records[0].line, 1U);
    EXPECT_EQ(text_of(tab.records[1]), "nbd4 nbd://e/v");
    EXPECT_EQ(tab.records[1].line, 7U);
    ASSERT_EQ(tab.complaints.size(), 4U);
    const std::pair<unsigned, std::string> expected[] = {
        {2, "nbd1"}, {4, ""}, {5, "nbd2"}, {6, "nbd3"}};
    for (std::size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(tab.complaints[i].line, expected[i].first);
        EXPECT_EQ(tab.complaints[i].device, expected[i].second);
        EXPECT_TRUE(tab.complaints[i].error.what.starts_with(
            "while reading line " + std::to_string(expected[i].first) + " of /etc/nbdtab: "));
    }
    EXPECT_EQ(tab.find("nbd4")->line, 7U);
    EXPECT_EQ(tab.find("nbd2"), nullptr);
}

TEST(Nbdtab, UnknownKeysAreWarnedOfAndSkipped) {
    const Nbdtab tab = parse_nbdtab("nbd0 a x\nnbd1 store vm timout=30,swap,zzzzzzzz", "nbdtab");
    ASSERT_EQ(tab.records.size(), 2U);
    EXPECT_TRUE(tab.records[0].warnings.empty());
    EXPECT_EQ(text_of(tab.records[1]), "nbd1 nbd://store/vm essential");
    const std::vector<std::string> expected = {
        "line 2 of nbdtab: option \"timout\" is not known and has no effect, did you mean timeout?",
        "line 2 of nbdtab: option \"zzzzzzzz\" is not known and has no effect"};
    EXPECT_EQ(tab.records[1].warnings, expected);
    EXPECT_EQ(parse_nbdtab("nbd0 a x sdp", "t").records[0].warnings,
              std::vector<std::string>({"line 1 of t: option sdp has no effect: SDP is gone"}));
}

TEST(Nbdtab, TheLastRecordOfADeviceWinsAsAWhole) {
    const Nbdtab tab = parse_nbdtab("nbd0 a x swap,bs=4096\nnbd1 c z\n/dev/nbd0 b y\n", "nbdtab");
    ASSERT_EQ(tab.records.size(), 2U);
    const NbdtabRecord* const record = tab.find("nbd0");
    ASSERT_NE(record, nullptr);
    EXPECT_EQ(text_of(*record), "nbd0 nbd://b/y");
    EXPECT_EQ(record->warnings, std::vector<std::string>({"line 1 of nbdtab has no effect: line 3 "
                                                          "is for nbd0 as well"}));
}

TEST(Nbdtab, ABrokenLaterRecordVoidsTheEarlierOne) {
    const Nbdtab tab = parse_nbdtab("nbd0 a x\nnbd0 b\n", "nbdtab");
    EXPECT_EQ(tab.find("nbd0"), nullptr);
    ASSERT_EQ(tab.complaints.size(), 1U);
    EXPECT_EQ(tab.complaints[0].line, 2U);
    EXPECT_NE(parse_nbdtab("nbd0 b\nnbd0 a x\n", "nbdtab").find("nbd0"), nullptr);
}

TEST(Nbdtab, ManyLinesAreNoTrouble) {
    std::string text;
    for (int i = 0; i < 20000; ++i) text += "nbd" + std::to_string(i) + " store vm swap # x\n";
    EXPECT_EQ(parse_nbdtab(text, "nbdtab").records.size(), 20000U);
}

class NbdtabFile : public testing::Test {
protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "nbdtabXXXXXX";
        const int fd = mkstemp(pattern.data());
        ASSERT_GE(fd, 0);
        close(fd);
        path_ = pattern;
        std::ofstream(path_) << "nbd0 store vm\nnbd1 store\n";
    }
    void TearDown() override { unlink(path_.c_str()); }
    std::string path_;
};

TEST_F(NbdtabFile, GivesTheRecordOfADevice) {
    for (const char* device : {"nbd0", "/dev/nbd0", "0"}) {
        const auto record = nbdtab_record(path_, device);
        ASSERT_TRUE(record) << device;
        EXPECT_EQ(text_of(*record), "nbd0 nbd://store/vm");
    }
    EXPECT_EQ(nbdtab_record(path_, "nbd1").error().what,
              "while reading line 2 of " + path_ +
                  ": cannot find an export name: the line has only a device and a host");
    EXPECT_EQ(nbdtab_record(path_, "nbd2").error().kind, Kind::absent);
    EXPECT_EQ(nbdtab_record(path_, "nbd2").error().what,
              "cannot find nbd2 in " + path_ + ": no such record");
    EXPECT_EQ(nbdtab_record(path_, "what").error().kind, Kind::usage);
    EXPECT_EQ(read_nbdtab(path_)->complaints.size(), 1U);
}

TEST_F(NbdtabFile, NamesAMissingFile) {
    const auto tab = read_nbdtab(path_ + ".missing");
    ASSERT_FALSE(tab);
    EXPECT_NE(tab.error().what.find(path_ + ".missing"), std::string::npos);
}

}  // namespace
}  // namespace nbd
