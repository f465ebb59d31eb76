// SPDX-License-Identifier: MIT
// The classic command line, form by form, asserted on the command it becomes.
#include "client/classic.h"

#include "client/base/text.h"

#include <gtest/gtest.h>

namespace nbd {
namespace {

/// "-N '' store" as a shell would split it; '' is an empty word.
std::vector<std::string> words(std::string_view line) {
    std::vector<std::string> result;
    for (const std::string_view word : split_words(line))
        result.emplace_back(word == "''" ? "" : word);
    return result;
}

std::string text_of(const Settings& settings) {
    std::string text;
    for (const Setting& setting : settings)
        text += ' ' + setting.name + (setting.value.empty() ? "" : '=' + setting.value);
    return text;
}

struct Describe {
    std::string operator()(const AttachCommand& c) const {
        std::string text = "attach";
        if (c.target) text += ' ' + to_uri(*c.target);
        if (c.tab) text += " tab " + *c.tab + " of " + c.nbdtab;
        if (!c.device.empty()) text += " on " + c.device;
        if (!c.defaults.empty()) text += " default" + text_of(c.defaults) + " given";
        return text + text_of(c.settings);
    }
    std::string operator()(const DetachCommand& c) const {
        return "detach " + join(c.devices, " ") + (c.force ? " force" : "");
    }
    std::string operator()(const CheckCommand& c) const { return "check " + c.device; }
    std::string operator()(const ExportsCommand& c) const {
        return "exports " + to_uri(c.target) + text_of(c.settings) + (c.json ? " json" : "");
    }
    std::string operator()(const PrintCommand& c) const { return "print " + c.text; }
    template <typename Other>
    std::string operator()(const Other&) const {
        return "a verb the classic form does not have";
    }
};

std::string meaning(std::string_view line) {
    const auto parsed = parse_classic(words(line));
    if (!parsed) return "error: " + parsed.error().what;
    EXPECT_TRUE(parsed->classic);
    return std::visit(Describe{}, parsed->command);
}

struct Form {
    std::string_view line;
    std::string_view meaning;
};

void expect_all(std::initializer_list<Form> forms) {
    for (const Form& form : forms) EXPECT_EQ(meaning(form.line), form.meaning) << form.line;
}

TEST(Classic, TakesThePositionalForms) {
    expect_all({
        {"store", "attach nbd://store/ reconnect-for=0"},
        {"store 10809", "attach nbd://store/ reconnect-for=0"},
        {"store 2000", "attach nbd://store:2000/ reconnect-for=0"},
        {"store /dev/nbd3", "attach nbd://store/ on /dev/nbd3 reconnect-for=0"},
        {"store nbd3", "attach nbd://store/ on nbd3 reconnect-for=0"},
        {"store 2000 /dev/nbd3", "attach nbd://store:2000/ on /dev/nbd3 reconnect-for=0"},
        {"store 2000 3", "attach nbd://store:2000/ on 3 reconnect-for=0"},
        {"store 0x7d0 nbd0", "attach nbd://store:2000/ on nbd0 reconnect-for=0"},
        {"store 03720 nbd0", "attach nbd://store:2000/ on nbd0 reconnect-for=0"},
        {"store nbd-alt /dev/nbd0", "attach nbd://store:nbd-alt/ on /dev/nbd0 reconnect-for=0"},
        {"store 0", "attach nbd://store/ on 0 reconnect-for=0"},
        {"store /dev/nbd1p3", "attach nbd://store/ on /dev/nbd1p3 reconnect-for=0"},
        {"192.0.2.7 /dev/nbd0", "attach nbd://192.0.2.7/ on /dev/nbd0 reconnect-for=0"},
        {"2001:db8::7 2000 nbd0", "attach nbd://[2001:db8::7]:2000/ on nbd0 reconnect-for=0"},
        {"[2001:db8::7] nbd0", "attach nbd://[2001:db8::7]/ on nbd0 reconnect-for=0"},
        {"fe80::1%eth0 nbd0", "attach nbd://[fe80::1%25eth0]/ on nbd0 reconnect-for=0"},
        {"-u /run/nbd.sock /dev/nbd0",
         "attach nbd+unix:///?socket=/run/nbd.sock on /dev/nbd0 reconnect-for=0"},
        {"-u /dev/fd/3 /dev/nbd0",
         "attach nbd+unix:///?socket=/dev/fd/3 on /dev/nbd0 reconnect-for=0"},
        {"-unix /run/nbd.sock -N vm", "attach nbd+unix:///vm?socket=/run/nbd.sock reconnect-for=0"},
        {"-u nbd0 /dev/nbd0", "attach nbd+unix:///?socket=nbd0 on /dev/nbd0 reconnect-for=0"},
        {"nbd://store:2000/vm /dev/nbd0",
         "attach nbd://store:2000/vm on /dev/nbd0 reconnect-for=0"},
        {"nbd://store -N vm nbd0", "attach nbd://store/vm on nbd0 reconnect-for=0"},
        {"-- store nbd0", "attach nbd://store/ on nbd0 reconnect-for=0"},
    });
}

TEST(Classic, RefusesWordsThatMakeNoSense) {
    expect_all({
        {"", "error: cannot attach: no host and no device given"},
        {"-u", "error: cannot attach: no host and no device given"},
        {"store 2000 nbd0 nbd1", "error: cannot understand \"nbd1\": too many words"},
        {"store nbd0 2000", "error: cannot understand \"2000\": too many words"},
        {"store 65536 nbd0",
         "error: cannot understand port \"65536\": not a number from 1 to 65535"},
        {"store 10809abc nbd0",
         "error: cannot understand port \"10809abc\": not a number from 1 to 65535"},
        {"store 10809 sda", "error: cannot use \"sda\": it is not an nbd device"},
        {"nbd://store/a -N b nbd0",
         "error: cannot use -name \"b\": the URI names an export already"},
        {"-L store",
         "error: cannot attach without a device: with -nonetlink the kernel chooses "
         "none"},
    });
}

TEST(Classic, ADeviceAloneIsARecordOfNbdtab) {
    const std::string start = "attach tab nbd0 of /etc/nbdtab default reconnect-for=0 given";
    expect_all({
        {"nbd0", start},
        {"/dev/nbd0", start},
        {"/dev/nbd0 -b 4096", start + " block-size=4096"},
        {"-p nbd0 -timeout=30", start + " io-timeout=30 reconnect-for=forever"},
        {"nbd0 -T 60", start + " reconnect-for=60"},
        {"-R -L -n nbd0", start + " read-only no-netlink foreground"},
        {"nbd0 -A ca.pem", start + " tls-ca=ca.pem tls"},
        {"nbd0 nbd1", "attach nbd://nbd0/ on nbd1 reconnect-for=0"},
        {"nbd0 2000", "attach nbd://nbd0:2000/ reconnect-for=0"},
        {"-N x nbd0", "attach nbd://nbd0/x reconnect-for=0"},
        {"-N x /dev/nbd0", "error: cannot use -name with /dev/nbd0: nbdtab names its export"},
        {"nbdserver", "attach nbd://nbdserver/ reconnect-for=0"},
        {"nbdserver.example 10809 /dev/nbd0",
         "attach nbd://nbdserver.example/ on /dev/nbd0 reconnect-for=0"},
        {"nbdserver /dev/nbd0 -N vm", "attach nbd://nbdserver/vm on /dev/nbd0 reconnect-for=0"},
        {"nbd0 -b 1000",
         "error: cannot use option block-size \"1000\": not a power of two of 512 "
         "bytes or more"},
    });
}

TEST(Classic, TranslatesEveryOption) {
    const auto with = [](std::string_view option) {
        return meaning("store nbd0 " + std::string(option));
    };
    const std::string attached = "attach nbd://store/ on nbd0";
    const std::string secured = "attach nbds://store/ on nbd0";
    const std::string plain = " reconnect-for=0";
    const std::initializer_list<Form> forms = {
        {"-b 4096", " block-size=4096"},
        {"-block-size 4096", " block-size=4096"},
        {"-B 1048576", " size=1048576"},
        {"-size 1048576", " size=1048576"},
        {"-t 30", " io-timeout=30"},
        {"-timeout 30", " io-timeout=30"},
        {"-t 0x1e", " io-timeout=30"},
        {"-t 036", " io-timeout=30"},
        {"-C 4", " connections=4"},
        {"-connections 4", " connections=4"},
        {"-s", " essential"},
        {"-swap", " essential"},
        {"-n", " foreground"},
        {"-nofork", " foreground"},
        {"-m", " mark"},
        {"-systemd-mark", " mark"},
        {"-g", " no-optgo"},
        {"-no-optgo", " no-optgo"},
        {"-L", " no-netlink"},
        {"-nonetlink", " no-netlink"},
        {"-i disk1", " id=disk1"},
        {"-identifier disk1", " id=disk1"},
        {"-R", " read-only"},
        {"-readonly", " read-only"},
        {"-P -B 1024", " preinit size=1024"},
        {"-preinit -size=1024", " preinit size=1024"},
        {"-S", ""},
        {"-sdp", ""},
        {"-T 0", ""},
    };
    for (const Form& form : forms)
        EXPECT_EQ(with(form.line), attached + std::string(form.meaning) + plain) << form.line;

    EXPECT_EQ(with("-N vm"), "attach nbd://store/vm on nbd0 reconnect-for=0");
    EXPECT_EQ(with("-name vm"), "attach nbd://store/vm on nbd0 reconnect-for=0");
    EXPECT_EQ(with("-N ''"), attached + plain);

    for (const std::string_view persist : {"-p", "-persist", "-p -T 0", "-p -dead-timeout 0"})
        EXPECT_EQ(with(persist), attached + " reconnect-for=forever") << persist;
    for (const std::string_view limit : {"-p -T 60", "-dead-timeout 60 -persist", "-T 60"})
        EXPECT_EQ(with(limit), attached + " reconnect-for=60") << limit;

    for (const std::string_view x : {"-x", "-enable-tls"})
        EXPECT_EQ(with(x), secured + " tls" + plain) << x;
    for (const std::string_view ca : {"-A f", "-cacertfile f"})
        EXPECT_EQ(with(ca), secured + " tls-ca=f tls" + plain) << ca;
    for (const std::string_view name : {"-H n", "-tlshostname n"})
        EXPECT_EQ(with(name), secured + " tls-hostname=n tls" + plain) << name;
    for (const std::string_view cert : {"-F f", "-certfile f"})
        EXPECT_EQ(with(cert), secured + " tls-cert=f tls" + plain) << cert;
    for (const std::string_view key : {"-K k", "-keyfile k"})
        EXPECT_EQ(with(key), secured + " tls-key=k tls-cert=k tls" + plain) << key;
    EXPECT_EQ(with("-K k -F f -x"), secured + " tls-key=k tls-cert=f tls" + plain);
}

TEST(Classic, ActsOnDevicesAndServers) {
    expect_all({
        {"-d /dev/nbd0", "detach /dev/nbd0"},
        {"-d nbd0", "detach nbd0"},
        {"-d /dev/nbd1p3", "detach /dev/nbd1p3"},
        {"-disconnect /dev/nbd0", "detach /dev/nbd0"},
        {"-L -d /dev/nbd0", "detach /dev/nbd0"},
        {"-c /dev/nbd0", "check /dev/nbd0"},
        {"-check /dev/nbd0", "check /dev/nbd0"},
        {"-c /dev/nbd0 -nonetlink", "check /dev/nbd0"},
        {"-c /dev/whatever", "check /dev/whatever"},
        {"-l store", "exports nbd://store/"},
        {"-l store 2000", "exports nbd://store:2000/"},
        {"store 2000 -l", "exports nbd://store:2000/"},
        {"store -list 2000", "exports nbd://store:2000/"},
        {"-l -u /run/nbd.sock", "exports nbd+unix:///?socket=/run/nbd.sock"},
        {"-l nbd0", "exports nbd://nbd0/"},
        {"-l store -x -b 512", "exports nbds://store/ tls"},
        {"-l store -A ca", "exports nbds://store/ tls-ca=ca tls"},
        {"-l", "error: cannot attach: no host and no device given"},
        {"-l store 2000 nbd0", "error: cannot understand \"nbd0\": -list needs no device"},
        {"-c nbd0 -d nbd0",
         "error: cannot do several things at once: give one of -check, "
         "-disconnect, -list"},
    });
    for (const std::string_view version : {"-V", "-version", "--version", "-V store"}) {
        EXPECT_TRUE(meaning(version).starts_with("print This is nbd-client, from nbd ")) << version;
        EXPECT_TRUE(meaning(version).ends_with('\n')) << version;
    }
    for (const std::string_view help : {"-h", "-help", "--help", "-h store"})
        EXPECT_TRUE(meaning(help).starts_with("print Usage: nbd-client [OPTION...] HOST")) << help;
}

/// getopt_long_only's rules.
TEST(Classic, ReadsOptionsAsGetoptDid) {
    const std::string vm = "attach nbd://store/vm on nbd0 reconnect-for=0";
    for (const std::string_view name :
         {"-N vm", "-Nvm", "-name vm", "--name vm", "-name=vm", "--name=vm", "-nam vm", "--na=vm"})
        EXPECT_EQ(meaning("store nbd0 " + std::string(name)), vm) << name;
    expect_all({
        {"-t30 store -b512 nbd0 -C4",
         "attach nbd://store/ on nbd0 io-timeout=30 block-size=512 connections=4 reconnect-for=0"},
        {"-block-siz 4096 -per store nbd0",
         "attach nbd://store/ on nbd0 block-size=4096 reconnect-for=forever"},
        {"-b=4096 store nbd0", "attach nbd://store/ on nbd0 block-size=4096 reconnect-for=0"},
        {"-sn store nbd0", "attach nbd://store/ on nbd0 essential foreground reconnect-for=0"},
        {"-snNvm store nbd0", "attach nbd://store/vm on nbd0 essential foreground reconnect-for=0"},
        {"-sd store nbd0", "attach nbd://store/ on nbd0 reconnect-for=0"},  // abbreviates -sdp
        {"-N -b store nbd0", "attach nbd://store/-b on nbd0 reconnect-for=0"},
        {"-de 60 store nbd0", "attach nbd://store/ on nbd0 reconnect-for=60"},
        {"- nbd0", "attach nbd://-/ on nbd0 reconnect-for=0"},
        {"-no store nbd0",
         "error: cannot understand \"-no\": it may mean -no-optgo or -nofork or -nonetlink"},
        {"--n vm store nbd0",
         "error: cannot understand \"--n\": it may mean -name or -no-optgo or "
         "-nofork or -nonetlink"},
        {"-t=30 store nbd0",
         "error: cannot understand \"-t=30\": it may mean -timeout or -tlshostname"},
        {"--b store nbd0 4096", "error: cannot understand -block-size \"store\": not a number"},
        {"-netlink store nbd0", "error: cannot understand \"-netlink\": no such option"},
        {"--blocksize=512 store nbd0",
         "error: cannot understand \"--blocksize=512\": no such option"},
        {"--Nvm store nbd0", "error: cannot understand \"--Nvm\": no such option"},
        {"-sZ store nbd0", "error: cannot understand \"-sZ\": no such option"},
        {"--persist=yes store nbd0",
         "error: cannot understand \"--persist=yes\": it takes no value"},
        {"store nbd0 -N", "error: cannot understand \"-N\": its value is missing"},
        {"store nbd0 -timeout", "error: cannot understand \"-timeout\": its value is missing"},
    });
    EXPECT_EQ(parse_classic({"--blocksize=512", "store"}).error().hint,
              "did you mean -block-size?");
}

TEST(Classic, RefusesBadValues) {
    expect_all({
        {"store nbd0 -t junk", "error: cannot understand -timeout \"junk\": not a number"},
        {"store nbd0 -b 512x", "error: cannot understand -block-size \"512x\": not a number"},
        {"store nbd0 -t -1", "error: cannot understand -timeout \"-1\": not a number"},
        {"store nbd0 bs=junk", "error: cannot understand -block-size \"junk\": not a number"},
        {"store nbd0 -b 1536",
         "error: cannot use option block-size \"1536\": not a power of two "
         "of 512 bytes or more"},
        {"store nbd0 -C 0",
         "error: cannot use option connections \"0\": not a number from 1 to 1024 nor auto"},
        {"store nbd0 -b 4096 -B 5000",
         "error: cannot use size 5000: not a multiple of the block size 4096"},
        {"store nbd0 -B 1000", "error: cannot use size 1000: not a multiple of the block size 512"},
        {"store nbd0 -i x -L",
         "error: cannot use an identifier without netlink: ioctl has no room for it"},
        {"store nbd0 -P", "error: cannot use preinit: the size is not known without a handshake"},
        {"store nbd0 -P -B 1024 -x",
         "error: cannot use preinit with TLS: TLS begins in the handshake"},
        {"store nbd0 -y NORMAL",
         "error: cannot use -priority: its words belong to another TLS library"},
    });
    for (const std::string_view line : {"store nbd0 -t junk", "-no", "-c", "store nbd0 -C 0"})
        EXPECT_EQ(parse_classic(words(line)).error().kind, Kind::usage) << line;
}

/// As dracut, initramfs-tools, XenServer, mkinitcpio, backup tools and board controllers call us.
TEST(Classic, TakesTheLinesOfItsCallers) {
    expect_all({
        {"-check /dev/nbd0", "check /dev/nbd0"},
        {"-p -systemd-mark 192.0.2.7 2000 /dev/nbd0",
         "attach nbd://192.0.2.7:2000/ on /dev/nbd0 mark reconnect-for=forever"},
        {"-p -systemd-mark 192.0.2.7 -name root /dev/nbd0",
         "attach nbd://192.0.2.7/root on /dev/nbd0 mark reconnect-for=forever"},
        {"-p -systemd-mark [2001:db8::7] -name root /dev/nbd0 bs=4096 timeout=20",
         "attach nbd://[2001:db8::7]/root on /dev/nbd0 mark block-size=4096 io-timeout=20 "
         "reconnect-for=forever"},
        {"192.0.2.7 -N /opt/ltsp/i386 /dev/nbd0 -swap -persist -systemd-mark -b 512",
         "attach nbd://192.0.2.7//opt/ltsp/i386 on /dev/nbd0 essential mark block-size=512 "
         "reconnect-for=forever"},
        {"192.0.2.7 2000 /dev/nbd0 -systemd-mark -persist -name arch",
         "attach nbd://192.0.2.7:2000/arch on /dev/nbd0 mark reconnect-for=forever"},
        {"-systemd-mark -N root store /dev/nbd0",
         "attach nbd://store/root on /dev/nbd0 mark reconnect-for=0"},
        {"-unix /run/blktap.sock /dev/nbd3 -timeout 60 -name vdi",
         "attach nbd+unix:///vdi?socket=/run/blktap.sock on /dev/nbd3 io-timeout=60 "
         "reconnect-for=0"},
        {"-unix /run/blktap.sock /dev/nbd3 -name ''",
         "attach nbd+unix:///?socket=/run/blktap.sock on /dev/nbd3 reconnect-for=0"},
        {"-u /run/media.sock -n -L -t 30 -b 1024 /dev/nbd0",
         "attach nbd+unix:///?socket=/run/media.sock on /dev/nbd0 foreground no-netlink "
         "io-timeout=30 block-size=1024 reconnect-for=0"},
        {"-N '' -persist store 2000 /dev/nbd0 -timeout=30",
         "attach nbd://store:2000/ on /dev/nbd0 io-timeout=30 reconnect-for=forever"},
        {"-N v 127.0.0.1 -p 10809 /dev/nbd0",
         "attach nbd://127.0.0.1/v on /dev/nbd0 reconnect-for=forever"},
        {"store 10809 -N v -persist", "attach nbd://store/v reconnect-for=forever"},
        {"-d /dev/nbd0", "detach /dev/nbd0"},
        {"-l store 10809", "exports nbd://store/"},
        {"nbd0", "attach tab nbd0 of /etc/nbdtab default reconnect-for=0 given"},
    });
}

TEST(Classic, SaysWhatHasNoEffect) {
    const auto warnings = [](std::string_view line) {
        return parse_classic(words(line))->warnings;
    };
    using Lines = std::vector<std::string>;
    EXPECT_EQ(warnings("store nbd0"), Lines());
    EXPECT_EQ(warnings("store nbd0 -S"), Lines({"-sdp has no effect: SDP is gone"}));
    EXPECT_EQ(warnings("store bs=512 timeout=5 nbd0"),
              Lines({"bs= is an old spelling of -block-size",
                     "timeout= is an old spelling of -timeout"}));
    EXPECT_EQ(warnings("store -d nbd0"), Lines({"\"store\" has no effect here"}));
}

TEST(Classic, VerboseRaisesTheLevel) {
    EXPECT_EQ(parse_classic({"nbd0"})->level, Level::warning);
    EXPECT_FALSE(parse_classic({"nbd0"})->verbose);
    EXPECT_EQ(parse_classic({"-v", "nbd0"})->level, Level::info);
    EXPECT_TRUE(parse_classic({"-v", "nbd0"})->verbose);
}

TEST(Classic, KeepsTheScopeOfAnAddressAndTheHostToVerify) {
    const auto parsed = parse_classic({"[fe80::1%eth0]", "nbd0", "-H", "store"});
    const auto& command = std::get<AttachCommand>(parsed->command);
    EXPECT_EQ(std::get<TcpEndpoint>(command.target->endpoint).host, "fe80::1%eth0");
    EXPECT_TRUE(command.target->tls.has_value());
}

}  // namespace
}  // namespace nbd
