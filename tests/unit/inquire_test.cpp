// SPDX-License-Identifier: MIT
// What a server tells about its exports, and that asking attaches nothing.
#include "client/inquire.h"

#include "tests/unit/temporary_directory.h"
#include "tests/unit/test_server.h"

#include <gtest/gtest.h>

namespace nbd {
namespace {

using namespace std::chrono_literals;

Deadline soon() {
    return Deadline::in(5s);
}

AttachRequest request_for(const Target& target) {
    return {.target = target};
}

TEST(Inquire, TellsAboutOneExport) {
    TestServer server;
    const ExportInfo served{.name = "disk",
                            .description = "",
                            .size = 4096,
                            .flags = flag_bits({TransmissionFlag::send_trim}),
                            .block_sizes = BlockSizes{512, 4096, 1 << 20}};
    server.set_export(served);
    const auto info = ask_info(request_for(server.target()), soon());
    ASSERT_TRUE(info) << info.error().what;
    EXPECT_EQ(*info, served);
    const auto missing = ask_info(request_for(server.target("other")), soon());
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().kind, Kind::absent);
}

TEST(Inquire, TellsAboutOneExportOfAnOldServer) {
    TestServer server;
    server.know_only_export_name();
    const auto info = ask_info(request_for(server.target()), soon());
    ASSERT_TRUE(info) << info.error().what;
    EXPECT_EQ(info->size, 1U << 20);
}

TEST(Inquire, ListsExportsWithTheirSizes) {
    const TemporaryDirectory directory;
    TestServer server(directory.path() + "/socket");
    server.set_names({"disk", "", "sn\xc3\xb6w"});
    const auto exports = ask_exports(request_for(server.target()), soon());
    ASSERT_TRUE(exports) << exports.error().what;
    ASSERT_EQ(exports->size(), 3U);
    EXPECT_EQ((*exports)[0].name, "disk");
    EXPECT_EQ((*exports)[1].name, "");
    EXPECT_EQ((*exports)[2].name, "sn\xc3\xb6w");
    for (const ListedExport& entry : *exports) EXPECT_EQ(entry.size, 1U << 20);
    EXPECT_EQ(server.accepted(), 1U) << "over one connection";
}

TEST(Inquire, OldServersAndLongListsComeWithoutSizes) {
    TestServer old;
    old.know_only_export_name();
    old.set_names({"disk", "disc"});
    const auto few = ask_exports(request_for(old.target()), soon());
    ASSERT_TRUE(few);
    EXPECT_EQ(few->size(), 2U);
    EXPECT_FALSE((*few)[1].size);

    TestServer large;
    std::vector<std::string> names;
    for (int i = 0; i < 257; ++i) names.push_back(std::to_string(i));
    large.set_names(names);
    const auto many = ask_exports(request_for(large.target()), soon());
    ASSERT_TRUE(many);
    EXPECT_EQ(many->size(), 257U);
    for (const ListedExport& entry : *many) EXPECT_FALSE(entry.size);
}

TEST(Inquire, FailuresNameTheServer) {
    TestServer server;
    server.go_mute();
    const auto mute = ask_info(request_for(server.target()), Deadline::in(30ms));
    ASSERT_FALSE(mute);
    EXPECT_EQ(mute.error().kind, Kind::unreachable);
    EXPECT_NE(mute.error().what.find(server.address()), std::string::npos) << mute.error().what;
    server.stop();
    const auto down = ask_exports(request_for(server.target()), soon());
    ASSERT_FALSE(down);
    EXPECT_EQ(down.error().kind, Kind::unreachable);
    EXPECT_NE(down.error().what.find(server.address()), std::string::npos) << down.error().what;
}

TEST(Inquire, TlsAskedForIsNeverLeftOut) {
    TestServer server;
    Target target = server.target();
    target.tls = TlsWish{};
    AttachRequest request = request_for(target);
    request.tls_insecure = true;
    EXPECT_EQ(ask_info(request, soon()).error().kind, Kind::insecure);
    EXPECT_EQ(ask_exports(request, soon()).error().kind, Kind::insecure);
    EXPECT_EQ(server.accepted(), 2U);
}

}  // namespace
}  // namespace nbd
