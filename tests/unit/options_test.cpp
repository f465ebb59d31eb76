// SPDX-License-Identifier: MIT
// The verb grammar: every verb and option, help, completion words, mistakes.
#include "client/options.h"

#include "client/attach_options.h"
#include "client/base/text.h"
#include "client/render.h"

#include <algorithm>
#include <functional>
#include <gtest/gtest.h>
#include <stdlib.h>

namespace nbd {
namespace {

using Words = std::vector<std::string>;

Words words(std::string_view line) {
    Words result;
    for (const std::string_view word : split_words(line)) result.emplace_back(word);
    return result;
}

CommandLine parsed(std::string_view line) {
    auto result = parse_command_line(words(line));
    EXPECT_TRUE(result) << line << ": " << (result ? "" : result.error().what);
    return result ? *std::move(result) : CommandLine{};
}

template <typename Verb>
Verb command(std::string_view line) {
    const CommandLine whole = parsed(line);
    EXPECT_FALSE(whole.classic) << line;
    const auto* const found = std::get_if<Verb>(&whole.command);
    EXPECT_NE(found, nullptr) << line;
    return found != nullptr ? *found : Verb{};
}

Error error_of(std::string_view line) {
    const auto result = parse_command_line(words(line));
    EXPECT_FALSE(result) << line;
    return result ? Error{} : result.error();
}

std::string printed(std::string_view line) {
    return command<PrintCommand>(line).text;
}

class Options : public testing::Test {
protected:
    void SetUp() override {
        unsetenv("NBD_CLIENT_LOG");
        unsetenv("NBD_CLIENT_LOG_TARGET");
    }
    void TearDown() override { SetUp(); }
};

TEST_F(Options, AttachTakesAUriAndADevice) {
    const auto one = command<AttachCommand>("attach nbd://store/vm");
    EXPECT_EQ(to_uri(*one.target), "nbd://store/vm");
    EXPECT_EQ(one.device, "");
    EXPECT_FALSE(one.tab || one.all);
    EXPECT_TRUE(one.settings.empty() && one.defaults.empty());
    EXPECT_EQ(command<AttachCommand>("attach nbd://store/vm nbd3").device, "nbd3");
    EXPECT_EQ(command<AttachCommand>("attach nbd://store/vm 3").device, "3");
    EXPECT_EQ(command<AttachCommand>("attach -- nbd://store/vm /dev/nbd3").device, "/dev/nbd3");
}

TEST_F(Options, AttachTakesItsOptionsAnywhereAndInEverySpelling) {
    const Settings expected = {{"read-only", ""},
                               {"connections", "4"},
                               {"io-timeout", "30"},
                               {"alternate", "nbd://b/vm"},
                               {"alternate", "nbd://c/vm"}};
    for (const std::string_view line :
         {"attach -r -C 4 --io-timeout 30 --alternate nbd://b/vm --alternate nbd://c/vm nbd://a/vm",
          "attach nbd://a/vm -C4 --read-only --alternate=nbd://b/vm nbd0 --io-timeout=30 "
          "--alternate=nbd://c/vm",
          "attach -rC4 nbd://a/vm --alternate nbd://b/vm --io-timeout 30 --alternate nbd://c/vm"}) {
        const auto attach = command<AttachCommand>(line);
        EXPECT_EQ(attach.settings, expected) << line;
        EXPECT_EQ(to_uri(*attach.target), "nbd://a/vm") << line;
    }
    EXPECT_EQ(command<AttachCommand>("attach nbd://a/vm --read-only=no").settings,
              Settings({{"read-only", "no"}}));
    EXPECT_EQ(command<AttachCommand>("attach nbd://a/vm -C 2 -C 3").settings,
              Settings({{"connections", "2"}, {"connections", "3"}}));
    EXPECT_EQ(command<AttachCommand>("attach nbd://a/vm --id [x,y]").settings,
              Settings({{"id", "[x,y]"}}));
    EXPECT_TRUE(command<AttachCommand>("attach nbd://a/vm --tls").target->tls);
}

TEST_F(Options, EveryAttachOptionIsOneOfAttach) {
    for (const AttachOption& option : attach_options()) {
        std::string value;
        if (!option.metavar.empty()) value = option.name == "alternate" ? "nbd://b/vm" : "4096";
        if (option.name == "connections" || option.name == "tls-offload") value = "auto";
        if (option.name == "tls-ciphers") value = "aes-128-gcm";
        const std::string size = option.name == "preinit" ? " --size 4096" : "";
        const std::string scheme = option.group == group::tls ? "nbds" : "nbd";
        const auto attach = command<AttachCommand>("attach " + scheme + "://a/vm" + size + " --" +
                                                   std::string(option.name) + " " + value);
        const Setting expected{std::string(option.name), value};
        EXPECT_TRUE(std::ranges::find(attach.settings, expected) != attach.settings.end())
            << option.name;
    }
}

TEST_F(Options, AttachTakesRecordsOfNbdtab) {
    const auto tab = command<AttachCommand>("attach --foreground --tab /dev/nbd0");
    EXPECT_EQ(tab.tab, "nbd0");
    EXPECT_EQ(tab.nbdtab, "/etc/nbdtab");
    EXPECT_FALSE(tab.target);
    EXPECT_EQ(tab.settings, Settings({{"foreground", ""}}));
    const auto all = command<AttachCommand>("attach --all --nbdtab /tmp/tab -r");
    EXPECT_TRUE(all.all);
    EXPECT_EQ(all.nbdtab, "/tmp/tab");
}

TEST_F(Options, DetachTakesDevicesOrAll) {
    const auto detach = command<DetachCommand>("detach nbd0 /dev/nbd1 nbd://store/vm --force");
    EXPECT_EQ(detach.devices, Words({"nbd0", "/dev/nbd1", "nbd://store/vm"}));
    EXPECT_TRUE(detach.force);
    EXPECT_FALSE(detach.all || detach.deferred);
    EXPECT_TRUE(command<DetachCommand>("detach --deferred nbd0").deferred);
    EXPECT_TRUE(command<DetachCommand>("detach --all").all);
}

TEST_F(Options, ReattachTakesBothOrders) {
    for (const std::string_view line : {"reattach nbd0 nbd://b/vm", "reattach nbd://b/vm nbd0"}) {
        const auto reattach = command<ReattachCommand>(line);
        EXPECT_EQ(reattach.device, "nbd0") << line;
        ASSERT_TRUE(reattach.target) << line;
        EXPECT_EQ(to_uri(*reattach.target), "nbd://b/vm") << line;
    }
    const auto same = command<ReattachCommand>("reattach nbd0 --io-timeout 5");
    EXPECT_FALSE(same.target);
    EXPECT_EQ(same.settings, Settings({{"io-timeout", "5"}}));
}

TEST_F(Options, TheOtherVerbs) {
    EXPECT_EQ(command<ResizeCommand>("resize nbd0").device, "nbd0");
    EXPECT_FALSE(command<ResizeCommand>("resize nbd0").force);
    EXPECT_TRUE(command<ResizeCommand>("resize --force nbd0").force);
    EXPECT_EQ(command<CheckCommand>("check /dev/nbd0").device, "/dev/nbd0");
    EXPECT_EQ(to_uri(command<ExportsCommand>("exports nbd://store").target), "nbd://store/");
    EXPECT_TRUE(command<ExportsCommand>("exports nbd://store --json").json);
    const auto info = command<InfoCommand>("info nbds://store/vm --tls-ca ca.pem");
    EXPECT_TRUE(info.target.tls);
    EXPECT_EQ(info.settings, Settings({{"tls-ca", "ca.pem"}}));
    EXPECT_FALSE(info.json);
}

TEST_F(Options, ListTakesColumnsAndForms) {
    const auto plain = command<ListCommand>("list");
    EXPECT_TRUE(plain.devices.empty() && plain.columns.empty());
    EXPECT_FALSE(plain.no_headings || plain.raw || plain.bytes || plain.json || plain.blocks ||
                 plain.watch);
    const auto columns = command<ListCommand>("list nbd0 nbd1 -o NAME,+URI -nb --raw");
    EXPECT_EQ(columns.devices, Words({"nbd0", "nbd1"}));
    EXPECT_EQ(columns.columns, Words({"NAME", "+URI"}));
    EXPECT_TRUE(columns.no_headings && columns.bytes && columns.raw);
    EXPECT_TRUE(command<ListCommand>("list --json").json);
    EXPECT_TRUE(command<ListCommand>("list --watch").watch);
    EXPECT_TRUE(command<ListCommand>("list -v").blocks);
    EXPECT_TRUE(command<ListCommand>("list --noheadings --bytes --output NAME").no_headings);
}

TEST_F(Options, NoVerbMeansList) {
    EXPECT_FALSE(command<ListCommand>("").blocks);
    EXPECT_TRUE(command<ListCommand>("-v").blocks);
}

TEST_F(Options, OtherFirstWordsAreClassic) {
    for (const std::string_view line :
         {"store 10809 /dev/nbd0", "-c /dev/nbd0", "-d nbd0", "-h", "-V", "nbd0", "-l store"})
        EXPECT_TRUE(parsed(line).classic && is_classic(words(line))) << line;
    for (const std::string_view line : {"", "-v", "list", "-q list", "--help", "--version"})
        EXPECT_FALSE(parsed(line).classic || is_classic(words(line))) << line;
    EXPECT_TRUE(parsed("-v store nbd0").verbose);
    EXPECT_EQ(parsed("-v store nbd0").level, Level::info);
}

TEST_F(Options, MistakesAreUsageErrorsWithTheNearestWord) {
    struct Case {
        std::string_view line, what, hint;
    };
    const Case cases[] = {
        {"attach nbd://a/vm --conections 4",
         "cannot understand \"--conections\": no such option of attach",
         "did you mean --connections?"},
        {"attach nbd://a/vm --read-onyl=yes",
         "cannot understand \"--read-onyl=yes\": no such option of attach",
         "did you mean --read-only?"},
        {"check nbd0 -Z", "cannot understand \"-Z\": no such option of check",
         "nbd-client check --help shows its options"},
        {"resize --block-size 512 nbd0",
         "cannot understand \"--block-size\": no such option of resize",
         "nbd-client resize --help shows its options"},
        {"reattach nbd0 --size 4096", "cannot understand \"--size\": no such option of reattach",
         "nbd-client reattach --help shows its options"},
        {"info nbd://a/vm --connections 4",
         "cannot understand \"--connections\": no such option of info",
         "nbd-client info --help shows its options"},
        {"check nbd0 ---", "cannot understand \"---\": no such option of check",
         "nbd-client check --help shows its options"},
        {"attach nbd://a/vm --id", "cannot understand \"--id\": its value is missing", ""},
        {"attach nbd://a/vm -rC", "cannot understand \"-rC\": its value is missing", ""},
        {"attach --id= nbd://a/vm", "cannot understand \"--id=\": its value is missing", ""},
        {"list --json=no", "cannot understand --json=no: it takes no value", ""},
        {"attach nbd://a/vm -b 1000",
         "cannot use option block-size \"1000\": not a power of two of 512 bytes or more",
         "512 and 4096 (4K) are what disks have"},
        {"attach nbd://a/vm --size 1000",
         "cannot use size 1000: not a multiple of the block size 512", ""},
        {"attach --all -b 1000",
         "cannot use option block-size \"1000\": not a power of two of 512 bytes or more",
         "512 and 4096 (4K) are what disks have"},
        {"attach nbd://a/vm --tls-ca f",
         "cannot use TLS options with a server that is not asked for TLS",
         "write nbds:// instead of nbd://, or add --tls"},
        {"attach", "cannot go on: the URI of the export is missing", ""},
        {"attach nbd://a/vm nbd0 nbd1", "cannot understand \"nbd1\": too many words", ""},
        {"attach --all nbd://a/vm", "cannot understand \"nbd://a/vm\": too many words", ""},
        {"attach --all --tab nbd0", "cannot use --all and --tab together: --all is every device",
         ""},
        {"attach nbd0 nbd://a/vm", "cannot understand \"nbd0\": not a URI",
         "the URI comes first, then the device"},
        {"attach nbd://a/vm --nbdtab f", "cannot use --nbdtab with a URI: nothing is read from it",
         ""},
        {"detach", "cannot go on: the device to detach is missing", ""},
        {"detach --all nbd0", "cannot use --all with \"nbd0\": --all is every device", ""},
        {"detach --force --deferred nbd0",
         "cannot use --force and --deferred together: now, or when nobody uses it", ""},
        {"reattach nbd://a/vm", "cannot go on: the device to reattach is missing", ""},
        {"check nbd0 nbd1", "cannot understand \"nbd1\": too many words", ""},
        {"info", "cannot go on: the URI is missing", ""},
        {"list --log-target nowhere",
         "cannot use option log-target \"nowhere\": not auto, stderr, journal or kmsg", ""},
    };
    for (const Case& expected : cases) {
        const Error error = error_of(expected.line);
        EXPECT_EQ(error.kind, Kind::usage) << expected.line;
        EXPECT_EQ(error.what, expected.what) << expected.line;
        EXPECT_EQ(error.hint, expected.hint) << expected.line;
    }
    for (const std::string_view line : {"attach store", "attach nbd://a/vm sda", "attach --tab sda",
                                        "reattach nbd0 nbd1", "exports store"})
        EXPECT_EQ(error_of(line).kind, Kind::usage) << line;
}

TEST_F(Options, AMistypedVerbIsNamed) {
    EXPECT_EQ(error_of("atach nbd://store/vm").hint, "did you mean nbd-client attach?");
    EXPECT_EQ(parsed("lst").warnings, Words({"\"lst\" is taken for a host, did you mean list?"}));
    EXPECT_TRUE(parsed("store").warnings.empty());
}

TEST_F(Options, LoggingComesFromOptions) {
    EXPECT_EQ(parsed("list").level, Level::warning);
    EXPECT_EQ(parsed("list -q").level, Level::error);
    EXPECT_EQ(parsed("list -v").level, Level::info);
    EXPECT_TRUE(parsed("list -v").verbose);
    EXPECT_EQ(parsed("attach -vv nbd://a/vm").level, Level::debug);
    EXPECT_EQ(parsed("attach --verbose --verbose nbd://a/vm").level, Level::debug);
    EXPECT_EQ(parsed("list --log-target kmsg").log_target, LogTarget::kmsg);
    EXPECT_EQ(parsed("list --log-target=journal").log_target, LogTarget::journal);
    for (const std::string_view line :
         {"-vv --log-target stderr check nbd0", "-v --log-target=stderr -v check nbd0"}) {
        const CommandLine before = parsed(line);
        EXPECT_EQ(before.level, Level::debug) << line;
        EXPECT_EQ(before.log_target, LogTarget::stderr_stream) << line;
        EXPECT_EQ(std::get<CheckCommand>(before.command).device, "nbd0") << line;
    }
}

TEST_F(Options, LoggingComesFromTheEnvironment) {
    setenv("NBD_CLIENT_LOG", "debug", 1);
    setenv("NBD_CLIENT_LOG_TARGET", "kmsg", 1);
    for (const std::string_view line : {"list", "store nbd0"}) {
        EXPECT_EQ(parsed(line).level, Level::debug) << line;
        EXPECT_EQ(parsed(line).log_target, LogTarget::kmsg) << line;
        EXPECT_FALSE(parsed(line).verbose) << line;
    }
    EXPECT_EQ(parsed("list -v --log-target auto").level, Level::info);
    EXPECT_EQ(parsed("list -v --log-target auto").log_target, LogTarget::automatic);
    setenv("NBD_CLIENT_LOG", "loud", 1);
    EXPECT_EQ(parsed("list").level, Level::warning);
    EXPECT_EQ(parsed("list").warnings, Words({"NBD_CLIENT_LOG=loud is not understood"}));
}

TEST_F(Options, HelpFitsATerminal) {
    Words pages = {printed("--help")};
    for (const std::string_view verb : verbs()) pages.push_back(printed(std::string(verb) + " -h"));
    for (const std::string& page : pages) {
        EXPECT_TRUE(page.starts_with("Usage: nbd-client ")) << page;
        EXPECT_TRUE(page.ends_with('\n')) << page;
        for (const std::string_view line : split(page, '\n')) EXPECT_LE(line.size(), 80U) << line;
    }
    for (const std::string_view verb : verbs())
        EXPECT_NE(pages[0].find("\n  " + std::string(verb) + ' '), std::string::npos) << verb;
    for (const AttachOption& option : attach_options())
        EXPECT_NE(pages[1].find(" --" + std::string(option.name)), std::string::npos)
            << option.name;
    EXPECT_EQ(printed("attach --help"), pages[1]);
    EXPECT_EQ(printed("attach --help nbd://a/b c d e"), pages[1]);
}

TEST_F(Options, TheVersionIsOneLine) {
    EXPECT_TRUE(printed("--version").starts_with("nbd-client "));
    EXPECT_EQ(std::ranges::count(printed("--version"), '\n'), 1);
}

TEST_F(Options, WordsForCompletion) {
    EXPECT_EQ(printed("--words verbs"),
              "attach\ndetach\nreattach\nresize\nlist\ncheck\nexports\ninfo\n");
    std::string columns;
    for (const std::string_view column : column_names()) columns += std::string(column) + '\n';
    EXPECT_EQ(printed("--words columns"), columns);
    EXPECT_EQ(printed("--words options"),
              "--verbose\n-v\n--quiet\n-q\n--log-target\n--help\n-h\n--version\n");
    EXPECT_EQ(printed("--words options check"),
              "--verbose\n-v\n--quiet\n-q\n--log-target\n--help\n-h\n");
    for (const AttachOption& option : attach_options())
        EXPECT_NE(printed("--words options attach").find("--" + std::string(option.name) + '\n'),
                  std::string::npos);
    EXPECT_EQ(printed("--words value attach --tls-ca"), "FILE\n");
    EXPECT_EQ(printed("--words value attach -C"), "N\n");
    EXPECT_EQ(printed("--words value attach --read-only"), "");
    EXPECT_EQ(printed("--words value check --tls-ca"), "");
    for (const std::string_view line :
         {"--words", "--words what", "--words value", "--words options what"})
        EXPECT_EQ(error_of(line).kind, Kind::usage) << line;
}

}  // namespace
}  // namespace nbd
