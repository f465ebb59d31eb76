// SPDX-License-Identifier: MIT
// What the driver is sent, attribute by attribute, and how its refusals read.
#include "netlink/nbd_messages.h"

#include "tests/unit/fake_netlink.h"

#include <array>
#include <gtest/gtest.h>
#include <linux/nbd.h>
#include <map>

namespace nbd {
namespace {

using namespace std::chrono_literals;

constexpr int family = 0x1c;

struct Decoded {
    int type = 0;
    int flags = 0;
    int command = 0;
    std::map<int, std::uint64_t> numbers;
    std::string backend;
    std::vector<int> sockets;
};

std::vector<int> decode_sockets(const nlattr* list) {
    std::vector<int> sockets;
    int left = nla_len(list);
    for (auto* item = static_cast<nlattr*>(nla_data(list)); nla_ok(item, left);
         item = nla_next(item, &left)) {
        EXPECT_EQ(nla_type(item), NBD_SOCK_ITEM);
        const auto* const fd = static_cast<const nlattr*>(nla_data(item));
        EXPECT_EQ(nla_type(fd), NBD_SOCK_FD);
        EXPECT_EQ(nla_len(fd), 4);
        sockets.push_back(static_cast<int>(nla_get_u32(fd)));
    }
    EXPECT_EQ(left, 0);
    return sockets;
}

Decoded decode(nl_msg* message) {
    nlmsghdr* const header = nlmsg_hdr(message);
    const auto* const generic = static_cast<const genlmsghdr*>(nlmsg_data(header));
    EXPECT_EQ(generic->version, NBD_GENL_VERSION);
    Decoded decoded;
    decoded.type = header->nlmsg_type;
    decoded.flags = header->nlmsg_flags;
    decoded.command = generic->cmd;
    int left = genlmsg_attrlen(generic, 0);
    for (nlattr* attribute = genlmsg_attrdata(generic, 0); nla_ok(attribute, left);
         attribute = nla_next(attribute, &left)) {
        const int type = nla_type(attribute);
        if (type == NBD_ATTR_SOCKETS) {
            decoded.sockets = decode_sockets(attribute);
        } else if (type == NBD_ATTR_BACKEND_IDENTIFIER) {
            decoded.backend = nla_get_string(attribute);
        } else {
            const bool is_index = type == NBD_ATTR_INDEX;
            EXPECT_EQ(nla_len(attribute), is_index ? 4 : 8) << "attribute " << type;
            decoded.numbers[type] = is_index ? nla_get_u32(attribute) : nla_get_u64(attribute);
        }
    }
    EXPECT_EQ(left, 0);
    return decoded;
}

ConnectRequest sample_connect() {
    ConnectRequest request;
    request.index = 3;
    request.size = 1ull << 40;
    request.block_size = 4096;
    request.timeout = 30s;
    request.dead_conn_timeout = 600s;
    request.server_flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_CAN_MULTI_CONN;
    request.backend = "nbd://store/root#1";
    request.sockets = {7, 8, 0};
    return request;
}

using Numbers = std::map<int, std::uint64_t>;

TEST(ConnectMessage, HoldsEveryAttribute) {
    const auto message = connect_message(family, sample_connect(), true);
    ASSERT_TRUE(message);
    const Decoded decoded = decode(message->get());
    EXPECT_EQ(decoded.type, family);
    EXPECT_EQ(decoded.flags, NLM_F_REQUEST | NLM_F_ACK);
    EXPECT_EQ(decoded.command, NBD_CMD_CONNECT);
    EXPECT_EQ(decoded.numbers, (Numbers{{NBD_ATTR_INDEX, 3},
                                        {NBD_ATTR_SIZE_BYTES, 1ull << 40},
                                        {NBD_ATTR_BLOCK_SIZE_BYTES, 4096},
                                        {NBD_ATTR_TIMEOUT, 30},
                                        {NBD_ATTR_DEAD_CONN_TIMEOUT, 600},
                                        {NBD_ATTR_SERVER_FLAGS, 0x105},
                                        {NBD_ATTR_CLIENT_FLAGS, 0}}));
    EXPECT_EQ(decoded.backend, "nbd://store/root#1");
    EXPECT_EQ(decoded.sockets, (std::vector<int>{7, 8, 0}));
}

TEST(ConnectMessage, LeavesOutWhatIsNotSaid) {
    ConnectRequest request;
    request.size = 512;
    request.sockets = {4};
    const auto message = connect_message(family, request, true);
    ASSERT_TRUE(message);
    const Decoded decoded = decode(message->get());
    EXPECT_EQ(decoded.numbers, (Numbers{{NBD_ATTR_SIZE_BYTES, 512},
                                        {NBD_ATTR_BLOCK_SIZE_BYTES, 512},
                                        {NBD_ATTR_TIMEOUT, 0},
                                        {NBD_ATTR_DEAD_CONN_TIMEOUT, 0},
                                        {NBD_ATTR_SERVER_FLAGS, 0},
                                        {NBD_ATTR_CLIENT_FLAGS, 0}}));
    EXPECT_EQ(decoded.backend, "");
}

TEST(ConnectMessage, TimeoutsAreCutToWhatTheDriverSurvives) {
    struct Case {
        std::chrono::seconds given;
        bool zero_timeout;
        std::optional<std::uint64_t> timeout;
        std::uint64_t dead;
    };
    const Case cases[] = {
        {0s, true, 0, 0},
        {0s, false, std::nullopt, 0},
        {-5s, true, 0, 0},
        {86400s, true, 86400, 86400},
        {86401s, false, 86400, 86401},
        {2'000'001s, true, 86400, 2'000'000},
        {std::chrono::seconds::max(), true, 86400, 2'000'000},
    };
    for (const auto& c : cases) {
        ConnectRequest request = sample_connect();
        request.timeout = request.dead_conn_timeout = c.given;
        const auto message = connect_message(family, request, c.zero_timeout);
        ASSERT_TRUE(message);
        const Decoded decoded = decode(message->get());
        EXPECT_EQ(decoded.numbers.count(NBD_ATTR_TIMEOUT), c.timeout ? 1u : 0u);
        if (c.timeout) {
            EXPECT_EQ(decoded.numbers.at(NBD_ATTR_TIMEOUT), *c.timeout);
        }
        EXPECT_EQ(decoded.numbers.at(NBD_ATTR_DEAD_CONN_TIMEOUT), c.dead);
    }
}

TEST(ConnectMessage, ManySocketsAndALongIdentifierFit) {
    ConnectRequest request = sample_connect();
    request.sockets.clear();
    for (int fd = 0; fd < 1000; ++fd) request.sockets.push_back(fd);
    request.backend.assign(max_backend, 'x');
    const auto message = connect_message(family, request, true);
    ASSERT_TRUE(message);
    const Decoded decoded = decode(message->get());
    EXPECT_EQ(decoded.sockets, request.sockets);
    EXPECT_EQ(decoded.backend, request.backend);
}

TEST(ConnectMessage, RefusesWhatTheDriverWouldNoticeTooLate) {
    ConnectRequest none = sample_connect();
    none.sockets.clear();
    ConnectRequest twice = sample_connect();
    twice.sockets = {7, 8, 7};
    ConnectRequest alone = sample_connect();
    alone.server_flags = NBD_FLAG_HAS_FLAGS;
    ConnectRequest wordy = sample_connect();
    wordy.backend.assign(max_backend + 1, 'x');
    const std::pair<ConnectRequest, Kind> cases[] = {{none, Kind::internal},
                                                     {twice, Kind::internal},
                                                     {alone, Kind::refused},
                                                     {wordy, Kind::usage}};
    for (const auto& [request, kind] : cases) {
        const auto message = connect_message(family, request, true);
        ASSERT_FALSE(message);
        EXPECT_EQ(message.error().kind, kind);
    }
}

TEST(ReconfigureMessage, HoldsOnlyWhatIsAsked) {
    const std::pair<ReconfigureRequest, Numbers> cases[] = {
        {{.index = 2}, {{NBD_ATTR_INDEX, 2}}},
        {{.index = 2, .size = 1024}, {{NBD_ATTR_INDEX, 2}, {NBD_ATTR_SIZE_BYTES, 1024}}},
        {{.index = 2, .timeout = 0s}, {{NBD_ATTR_INDEX, 2}, {NBD_ATTR_TIMEOUT, 0}}},
        {{.index = 2, .timeout = 90000s}, {{NBD_ATTR_INDEX, 2}, {NBD_ATTR_TIMEOUT, 86400}}},
        {{.index = 2, .dead_conn_timeout = std::chrono::seconds::max()},
         {{NBD_ATTR_INDEX, 2}, {NBD_ATTR_DEAD_CONN_TIMEOUT, 2'000'000}}},
        {{.index = 2, .disconnect_on_close = true},
         {{NBD_ATTR_INDEX, 2}, {NBD_ATTR_CLIENT_FLAGS, 2}}},
        {{.index = 2, .disconnect_on_close = false},
         {{NBD_ATTR_INDEX, 2}, {NBD_ATTR_CLIENT_FLAGS, 0}}},
    };
    for (const auto& [request, numbers] : cases) {
        const auto message = reconfigure_message(family, request, true);
        ASSERT_TRUE(message);
        const Decoded decoded = decode(message->get());
        EXPECT_EQ(decoded.command, NBD_CMD_RECONFIGURE);
        EXPECT_EQ(decoded.numbers, numbers);
        EXPECT_EQ(decoded.backend, "");
        EXPECT_TRUE(decoded.sockets.empty());
    }
}

TEST(ReconfigureMessage, NewSocketsTravelWithIndexAndBackendAlone) {
    const auto message =
        reconfigure_message(family, {.index = 0, .backend = "b", .sockets = {5, 6}}, true);
    ASSERT_TRUE(message);
    const Decoded decoded = decode(message->get());
    EXPECT_EQ(decoded.numbers, (Numbers{{NBD_ATTR_INDEX, 0}}));
    EXPECT_EQ(decoded.backend, "b");
    EXPECT_EQ(decoded.sockets, (std::vector<int>{5, 6}));
}

TEST(ReconfigureMessage, RefusesASizeWithSocketsAndASocketTwice) {
    EXPECT_FALSE(reconfigure_message(family, {.sockets = {5}, .size = 512}, true));
    EXPECT_FALSE(reconfigure_message(family, {.sockets = {5, 5}}, true));
}

TEST(DisconnectMessage, ByteForByte) {
    const auto message = disconnect_message(family, 0x01020304);
    ASSERT_TRUE(message);
    const Datagram bytes = bytes_of(message->get());
    // Behind the header (length, type, flags, sequence, port): command, version, attribute.
    std::array<unsigned char, 12> expected = {NBD_CMD_DISCONNECT, 1, 0, 0, 8, 0, NBD_ATTR_INDEX};
    const std::uint32_t index = 0x01020304;
    std::memcpy(&expected[8], &index, sizeof index);
    if constexpr (std::endian::native == std::endian::big) {
        std::swap(expected[4], expected[5]);
        std::swap(expected[6], expected[7]);
    }
    ASSERT_EQ(bytes.size(), NLMSG_HDRLEN + expected.size());
    EXPECT_EQ(std::memcmp(&bytes[NLMSG_HDRLEN], expected.data(), expected.size()), 0);
}

MessagePtr received(Datagram datagram) {
    const MessagePtr room(nlmsg_alloc());
    std::memcpy(nlmsg_hdr(room.get()), datagram.data(), datagram.size());
    return MessagePtr(nlmsg_convert(nlmsg_hdr(room.get())));
}

TEST(DecodeIndex, TakesOnlyTheCommandAskedFor) {
    const auto event = received(index_message(0, NBD_CMD_LINK_DEAD, 12));
    EXPECT_EQ(decode_index(*event, NBD_CMD_LINK_DEAD), 12u);
    EXPECT_EQ(decode_index(*event, NBD_CMD_CONNECT), std::nullopt);
}

TEST(DecodeIndex, MalformedMessagesHoldNone) {
    const auto empty = data_message(0, NBD_CMD_LINK_DEAD, [](nl_msg*) {});
    const auto narrow = data_message(
        0, NBD_CMD_LINK_DEAD, [](nl_msg* message) { nla_put_u16(message, NBD_ATTR_INDEX, 1); });
    Datagram headless = empty.substr(0, NLMSG_HDRLEN + 2);
    const auto length = static_cast<std::uint32_t>(headless.size());
    std::memcpy(headless.data(), &length, sizeof length);
    for (const auto& datagram : {empty, narrow, headless})
        EXPECT_EQ(decode_index(*received(datagram), NBD_CMD_LINK_DEAD), std::nullopt);
}

TEST(Refusal, EachErrnoHasItsKindAndWords) {
    struct Case {
        Command command;
        std::optional<std::uint32_t> index;
        int error;
        const char* explanation;
        Kind kind;
        const char* what;
        bool hint;
    };
    const Case cases[] = {
        {Command::connect, 2, EBUSY, "", Kind::busy,
         "cannot attach /dev/nbd2: it is attached already, or something holds its node open", true},
        {Command::connect, std::nullopt, EPERM, "", Kind::denied,
         "cannot attach an nbd device: this needs CAP_SYS_ADMIN in the initial user namespace",
         true},
        {Command::connect, 0, EINVAL, "", Kind::refused,
         "cannot attach /dev/nbd0: the nbd driver refuses the request", true},
        {Command::connect, 0, EINVAL, "nbd: no size", Kind::refused,
         "cannot attach /dev/nbd0: the nbd driver refuses the request (nbd: no size)", false},
        {Command::reconfigure, 1, EINVAL, "", Kind::refused,
         "cannot reconfigure /dev/nbd1: the device is not attached, is being detached, or belongs "
         "to another identifier",
         true},
        {Command::disconnect, 9, EINVAL, "", Kind::absent,
         "cannot detach /dev/nbd9: no such device", false},
        {Command::disconnect, 9, EBUSY, "", Kind::internal,
         "cannot detach /dev/nbd9: device or resource busy", false},
        {Command::connect, 0, ENOMEM, "", Kind::internal,
         "cannot attach /dev/nbd0: cannot allocate memory", false},
    };
    for (const auto& c : cases) {
        const Error error = refusal(c.command, c.index, c.error, c.explanation);
        EXPECT_EQ(error.kind, c.kind) << c.what;
        EXPECT_EQ(error.what, c.what);
        EXPECT_EQ(!error.hint.empty(), c.hint) << c.what;
    }
}

}  // namespace
}  // namespace nbd
