// SPDX-License-Identifier: MIT
// The datagrams a service manager gets, over both sorts of socket names, and none it does not want.
#include "client/base/notify.h"

#include "tests/unit/temporary_directory.h"

#include <array>
#include <cstddef>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace nbd {
namespace {

/// The service manager's end.
class Manager {
public:
    explicit Manager(std::string name) : socket_(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
        setenv("NOTIFY_SOCKET", name.c_str(), 1);
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        if (name.front() == '@') name.front() = '\0';
        name.copy(static_cast<char*>(address.sun_path), sizeof(address.sun_path));
        const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
        if (bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0)
            ADD_FAILURE() << "cannot bind " << name;
    }
    std::string take() const {
        std::array<char, 4096> text{};
        const ssize_t size = recv(socket_.get(), text.data(), text.size(), MSG_DONTWAIT);
        return size < 0 ? "nothing" : std::string(text.data(), static_cast<std::size_t>(size));
    }

private:
    Fd socket_;
};

void expect_conversation(const Manager& manager) {
    Notifier notifier = Notifier::from_environment();
    EXPECT_TRUE(notifier.active());
    EXPECT_EQ(getenv("NOTIFY_SOCKET"), nullptr);
    notifier.ready("attached to /dev/nbd0");
    EXPECT_EQ(manager.take(), "READY=1\nSTATUS=attached to /dev/nbd0");
    notifier.status("reconnecting\nREADY=1");
    EXPECT_EQ(manager.take(), "STATUS=reconnecting READY=1");
    notifier.stopping();
    EXPECT_EQ(manager.take(), "STOPPING=1");
    EXPECT_EQ(manager.take(), "nothing");
}

TEST(Notify, ThroughAPath) {
    const TemporaryDirectory directory;
    expect_conversation(Manager(directory.path() + "/notify"));
}

TEST(Notify, ThroughAnAbstractName) {
    expect_conversation(Manager("@nbd-notify-test-" + std::to_string(getpid())));
}

TEST(Notify, InactiveWithoutAUsableName) {
    unsetenv("NOTIFY_SOCKET");
    EXPECT_FALSE(Notifier::from_environment().active());
    for (const std::string& name :
         {std::string(), std::string("@"), std::string("relative"),
          std::string("/nonexistent/notify"), "/" + std::string(200, 'a')}) {
        setenv("NOTIFY_SOCKET", name.c_str(), 1);
        Notifier notifier = Notifier::from_environment();
        EXPECT_FALSE(notifier.active()) << name;
        notifier.ready("nobody hears");
    }
}

TEST(Notify, NeitherBlocksOnAFullManagerNorDiesOfALostOne) {
    const TemporaryDirectory directory;
    auto manager = std::make_unique<Manager>(directory.path() + "/notify");
    Notifier notifier = Notifier::from_environment();
    for (int i = 0; i < 10000; ++i) notifier.status("busy");
    EXPECT_EQ(manager->take(), "STATUS=busy");
    manager.reset();
    notifier.stopping();
}

}  // namespace
}  // namespace nbd
