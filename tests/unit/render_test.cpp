// SPDX-License-Identifier: MIT
// The answers of list, exports and info, letter by letter, and what hostile names become in them.
#include "client/render.h"

#include "client/base/text.h"

#include <gtest/gtest.h>

namespace nbd {
namespace {

using std::chrono::seconds;
using Time = std::chrono::system_clock::time_point;

std::vector<DeviceRow> two_rows() {
    DeviceRow watched;
    watched.index = 0;
    watched.size = 10737418240;
    watched.block_size = 4096;
    watched.state = LinkState::degraded;
    watched.since = Time(seconds(1769847300));
    watched.connections = 4;
    watched.live_connections = 3;
    watched.tls = true;
    watched.offload = "ktls";
    watched.id = "nbds://store/root#1";
    watched.uri = "nbds://store/root";
    watched.pid = 412;
    watched.mountpoints = {"/", "/my disk"};
    watched.partitions = {"nbd0p1", "nbd0p2"};
    watched.reconnects = 2;
    watched.server = "[::1]:10809";
    watched.fails_at = Time(seconds(1769847900));
    watched.last_error = "cannot connect";
    DeviceRow bare;
    bare.index = 12;
    bare.size = 1536;
    bare.read_only = true;
    return {watched, bare};
}

std::string rendered(const ListCommand& command, std::span<const DeviceRow> rows) {
    const auto text = render_list(command, rows);
    return text ? *text : "error: " + text.error().what + " / " + text.error().hint;
}

TEST(Render, DefaultTable) {
    EXPECT_EQ(rendered({}, two_rows()),
              "NAME       SIZE RO STATE        URI\n"
              "/dev/nbd0   10G  0 degraded 3/4 nbds://store/root\n"
              "/dev/nbd12 1.5K  1 attached     -\n");
}

TEST(Render, ColumnsBytesAndHeadings) {
    const auto rows = two_rows();
    EXPECT_EQ(rendered({.columns = {"size", "PID"}, .no_headings = true, .bytes = true}, rows),
              "10737418240 412\n"
              "       1536   -\n");
    EXPECT_EQ(rendered({.columns = {"+CONNS"}, .no_headings = true}, std::span(rows).first(1)),
              "/dev/nbd0 10G 0 degraded 3/4 nbds://store/root 4\n");
    EXPECT_EQ(
        rendered({.columns = {"NOPE"}}, rows),
        "error: cannot show column \"NOPE\": there is no such column / columns are " + [] {
            const auto names = column_names();
            return join(std::vector<std::string>(names.begin(), names.end()), ", ");
        }());
    EXPECT_EQ(rendered({.columns = {"STAT"}}, rows),
              "error: cannot show column \"STAT\": there is no such column / did you mean STATE?");
    EXPECT_EQ(render_list({.columns = {"+"}}, rows).error().kind, Kind::usage);
}

TEST(Render, RawFieldsHaveOneSpaceBetween) {
    EXPECT_EQ(rendered({.columns = {"NAME", "PID", "STATE", "MOUNTPOINT", "TLS"}, .raw = true},
                       two_rows()),
              "NAME PID STATE MOUNTPOINT TLS\n"
              "/dev/nbd0 412 degraded\\x203/4 /,/my\\x20disk 1\n"
              "/dev/nbd12  attached  \n");
}

TEST(Render, NothingAttached) {
    EXPECT_EQ(rendered({}, {}), "");
    EXPECT_EQ(rendered({.raw = true}, {}), "");
    EXPECT_EQ(rendered({.blocks = true}, {}), "");
    EXPECT_EQ(rendered({.json = true}, {}), "{\n  \"version\": 1,\n  \"devices\": []\n}\n");
    EXPECT_FALSE(render_list({.columns = {"NOPE"}, .json = true}, {})) << "even then";
}

TEST(Render, Blocks) {
    EXPECT_EQ(rendered({.columns = {"NAME", "SIZE", "CLOCK", "PARTS"}, .blocks = true}, two_rows()),
              "device: /dev/nbd0\n"
              "size: 10G\n"
              "fails_at: 2026-01-31T08:25:00Z\n"
              "partitions: nbd0p1,nbd0p2\n"
              "\n"
              "device: /dev/nbd12\n"
              "size: 1.5K\n"
              "fails_at: -\n"
              "partitions: -\n");
}

TEST(Render, JsonOfAllAndOfSome) {
    const auto rows = two_rows();
    EXPECT_EQ(rendered({.json = true}, std::span(rows).first(1)), R"({
  "version": 1,
  "devices": [
    {
      "device": "/dev/nbd0",
      "index": 0,
      "size": 10737418240,
      "block_size": 4096,
      "read_only": false,
      "state": "degraded",
      "since": "2026-01-31T08:15:00Z",
      "connections": 4,
      "live_connections": 3,
      "tls": true,
      "tls_offload": "ktls",
      "id": "nbds://store/root#1",
      "uri": "nbds://store/root",
      "pid": 412,
      "mountpoints": [
        "/",
        "/my disk"
      ],
      "partitions": [
        "nbd0p1",
        "nbd0p2"
      ],
      "reconnects": 2,
      "server": "[::1]:10809",
      "fails_at": "2026-01-31T08:25:00Z",
      "last_error": "cannot connect"
    }
  ]
}
)");
    EXPECT_EQ(rendered({.columns = {"NAME", "PID", "TLS", "MOUNTPOINT"}, .json = true},
                       std::span(rows).last(1)),
              R"({
  "version": 1,
  "devices": [
    {
      "device": "/dev/nbd12",
      "pid": null,
      "tls": null,
      "mountpoints": []
    }
  ]
}
)");
}

TEST(Render, EveryColumnHasHelpAndAWordForTheUnknown) {
    for (const std::string_view name : column_names()) {
        EXPECT_FALSE(column_help(name).empty()) << name;
        EXPECT_TRUE(render_list({.columns = {std::string(name)}}, two_rows())) << name;
    }
    EXPECT_EQ(column_help("NOPE"), "");
}

/// What could move a cursor, forge a line or break a parser.
constexpr const char* hostile = "a\x1b[2J\n\u009b\u202e\xff\"";

TEST(Render, HostileTextReachesNoTerminal) {
    std::vector<DeviceRow> rows(1);
    rows[0].uri = rows[0].id = hostile;
    rows[0].mountpoints = {hostile};
    const ListedExport listed{hostile, hostile};
    const Target target{.endpoint = TcpEndpoint{.host = "store"}, .export_name = hostile};
    const ExportInfo info{.name = hostile, .description = hostile};
    const ListCommand columns{.columns = {"ID", "URI", "MOUNTPOINT"}};
    for (const bool json : {false, true}) {
        ListCommand command = columns;
        command.json = json;
        for (const std::string& text :
             {rendered(command, rows), render_exports(std::span(&listed, 1), json),
              render_info(target, info, json)}) {
            std::string without_lines = text;
            std::erase(without_lines, '\n');
            EXPECT_TRUE(is_utf8(text));
            if (json)
                for (const char c : without_lines) EXPECT_TRUE(c >= ' ' && c < 0x7f) << text;
            else
                EXPECT_EQ(text.find_first_of("\x1b\x9b\xff"), std::string::npos) << text;
        }
    }
    EXPECT_EQ(rendered({.columns = {"ID"}, .no_headings = true}, rows),
              "a\\x1b[2J\\x0a\\xc2\\x9b\\xe2\\x80\\xae\\xff\"\n");
}

TEST(Render, LongValuesAreWhole) {
    std::vector<DeviceRow> rows(1);
    rows[0].uri = "nbd://store/" + std::string(4000, 'x');
    EXPECT_EQ(rendered({.columns = {"URI"}, .no_headings = true}, rows), *rows[0].uri + "\n");
}

TEST(Render, WidthsCountCharacters) {
    std::vector<DeviceRow> rows(2);
    rows[0].id = "äöü";
    rows[1].id = "abcd";
    EXPECT_EQ(rendered({.columns = {"ID", "INDEX"}, .no_headings = true}, rows),
              "äöü  0\nabcd 0\n");
}

TEST(Render, Exports) {
    const std::vector<ListedExport> exports{{"", ""}, {"root", "the root", 1536}};
    EXPECT_EQ(render_exports(exports, false), "\nroot: the root\n");
    EXPECT_EQ(render_exports(exports, true), R"({
  "version": 1,
  "exports": [
    {
      "name": "",
      "description": "",
      "size": null
    },
    {
      "name": "root",
      "description": "the root",
      "size": 1536
    }
  ]
}
)");
    EXPECT_EQ(render_exports({}, false), "");
    EXPECT_EQ(render_exports({}, true), "{\n  \"version\": 1,\n  \"exports\": []\n}\n");
}

TEST(Render, Info) {
    const Target target{.endpoint = TcpEndpoint{.host = "store"}, .export_name = "root"};
    ExportInfo info{.name = "root", .description = "the root", .size = 1536, .flags = 0x8103};
    EXPECT_EQ(render_info(target, info, false),
              "uri: nbd://store/root\n"
              "name: root\n"
              "description: the root\n"
              "size: 1.5K (1536 bytes)\n"
              "read-only: yes\n"
              "flags: has_flags read_only can_multi_conn bit_15\n");
    EXPECT_EQ(render_info(target, info, true), R"({
  "version": 1,
  "uri": "nbd://store/root",
  "name": "root",
  "description": "the root",
  "size": 1536,
  "read_only": true,
  "flags": [
    "has_flags",
    "read_only",
    "can_multi_conn",
    "bit_15"
  ],
  "minimum_block_size": null,
  "preferred_block_size": null,
  "maximum_block_size": null
}
)");
    info = {};
    info.block_sizes = BlockSizes{1, 4096, 33554432};
    EXPECT_EQ(render_info(target, info, false),
              "uri: nbd://store/root\n"
              "size: 0 (0 bytes)\n"
              "read-only: no\n"
              "minimum block size: 1\n"
              "preferred block size: 4096\n"
              "maximum block size: 33554432\n");
    EXPECT_NE(render_info(target, info, true).find("\"maximum_block_size\": 33554432\n"),
              std::string::npos);
}

}  // namespace
}  // namespace nbd
