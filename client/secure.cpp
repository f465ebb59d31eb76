// SPDX-License-Identifier: MIT
// The TLS side of a request: policies from options and URIs, loaded contexts, the way to the
// kernel.
#include "client/secure.h"

#include "client/base/process.h"
#include "client/base/text.h"
#include "client/protocol/ktls.h"
#include "client/protocol/relay.h"
#include "client/survive.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

namespace nbd {

namespace {

using namespace std::chrono_literals;

/// Reading a few files; more means that they lie where nobody answers.
constexpr auto refresh_limit = 500ms;
constexpr auto pause_after_hang = 60s;
/// Between the kernel and a relay: a few of the largest requests there usually are.
constexpr int pair_buffer = 1024 * 1024;

std::string first_of(const std::string& first, const std::string& second) {
    return first.empty() ? second : first;
}

bool exists(const std::string& path) {
    return ::access(path.c_str(), F_OK) == 0;
}

std::string host_of(const Endpoint& endpoint) {
    const auto* const tcp = std::get_if<TcpEndpoint>(&endpoint);
    return tcp == nullptr ? "" : tcp->host.substr(0, tcp->host.find('%'));
}

Error insecure(const Target& target, const std::string& cause, std::string hint) {
    return {Kind::insecure, "cannot protect " + to_uri(target) + ": " + cause, std::move(hint)};
}

/// The files of libnbd's tls-certificates=DIRECTORY.
void add_directory(TlsPolicy& policy, const std::string& directory) {
    policy.ca = first_of(policy.ca, directory + "/ca-cert.pem");
    const std::string certificate = directory + "/client-cert.pem";
    if (!policy.certificate.empty() || !exists(certificate)) return;
    policy.certificate = certificate;
    policy.key = first_of(policy.key, directory + "/client-key.pem");
}

Result<void> check_policy(const TlsPolicy& policy, const Target& target, bool insecure_allowed) {
    if (policy.type == TlsType::anonymous)
        return insecure(target, "anonymous TLS does not tell who the server is",
                        "use certificates (tls-type=x509) or shared keys (tls-type=psk)");
    if (!target.tls->verify_peer && !insecure_allowed)
        return insecure(target, "tls-verify-peer=0 would trust anybody",
                        "leave it out; --tls-insecure insists on it");
    if (policy.type == TlsType::psk && policy.psk.empty())
        return insecure(target, "there is no file of shared keys",
                        "name one with --tls-psk or tls-psk-file=");
    if (policy.type == TlsType::x509 && policy.verify && policy.hostname.empty())
        return insecure(target, "a unix socket has no host name to check",
                        "--tls-hostname says which name the certificate has");
    if (!policy.certificate.empty() && policy.key.empty())
        return insecure(target, "our certificate is of no use without its key",
                        "--tls-key names the file of the key");
    return {};
}

void enlarge_buffers(int socket) {
    for (const auto& [within_limits, beyond] :
         {std::pair{SO_SNDBUF, SO_SNDBUFFORCE}, std::pair{SO_RCVBUF, SO_RCVBUFFORCE}})
        if (::setsockopt(socket, SOL_SOCKET, beyond, &pair_buffer, sizeof pair_buffer) != 0)
            ::setsockopt(socket, SOL_SOCKET, within_limits, &pair_buffer, sizeof pair_buffer);
}

/// What a process with keys in it and nothing else to do is like. Who could be told of a failure?
void become_relay(bool locked) {
    ::prctl(PR_SET_NAME, "nbd-tls-relay");
    ::prctl(PR_SET_DUMPABLE, 0);
    // Who ends the watchdog, or all processes at shutdown, does not mean the device's connections:
    // we end with ours.
    for (const int number : {SIGHUP, SIGINT, SIGPIPE, SIGTERM}) ::signal(number, SIG_IGN);
    if (locked) static_cast<void>(survive());
    static_cast<void>(drop_all_privileges(locked));
}

}  // namespace

Result<TlsPolicy> tls_policy(const AttachRequest& request, const Target& target,
                             std::vector<TlsSuite> suites) {
    const TlsWish& wish = *target.tls;
    TlsPolicy policy{.type = wish.type,
                     .hostname = first_of(first_of(request.tls_hostname, wish.hostname),
                                          host_of(target.endpoint)),
                     .verify = !request.tls_insecure,
                     .ca = request.tls_ca,
                     .certificate = request.tls_cert,
                     .key = request.tls_key,
                     .psk = first_of(request.tls_psk, wish.psk_file),
                     .username = first_of(request.tls_username, wish.username),
                     .suites = std::move(suites)};
    if (!request.tls_psk.empty()) policy.type = TlsType::psk;
    if (policy.hostname.ends_with('.')) policy.hostname.pop_back();
    if (!wish.certificates.empty() && policy.type == TlsType::x509)
        add_directory(policy, wish.certificates);
    TRY(check_policy(policy, target, request.tls_insecure));
    return policy;
}

Security::Security(const AttachRequest& request, bool for_kernel)
    : request_(request), for_kernel_(for_kernel) {
    for (std::size_t i = 0; i <= request.alternates.size(); ++i)
        entries_.push_back(target(i).tls ? std::make_unique<Entry>() : nullptr);
}

const Target& Security::target(std::size_t number) const {
    return number == 0 ? request_.target : request_.alternates[number - 1];
}

const TlsContext* Security::context(std::size_t number) const {
    return entries_[number] ? entries_[number]->context.get() : nullptr;
}

Result<void> Security::load() {
    if (std::ranges::none_of(entries_, [](const auto& entry) { return entry != nullptr; }))
        return {};
    const std::vector<TlsSuite> carried =
        for_kernel_ ? probe_kernel_tls() : std::vector<TlsSuite>();
    const auto cpuinfo = read_file("/proc/cpuinfo");
    const std::vector<TlsCipher> ciphers =
        request_.tls_ciphers.empty() ? default_ciphers(cpuinfo && has_aes_instructions(*cpuinfo))
                                     : request_.tls_ciphers;
    for (std::size_t i = 0; i < entries_.size(); ++i)
        if (entries_[i]) TRY(load_entry(i, ciphers, carried));
    if (request_.tls_insecure)
        log(Level::warning, "TLS without checking who the server is: anybody between here and " +
                                to_string(request_.target.endpoint) + " can read and change all");
    loaded_ = true;
    return {};
}

/// Also says what the user should know of it, and returns what is to be offered.
Result<std::vector<TlsSuite>> Security::choose_offload(std::size_t number,
                                                       const std::vector<TlsCipher>& ciphers,
                                                       const std::vector<TlsSuite>& carried) {
    if (!for_kernel_) return suites_to_offer(ciphers, all_suites());
    const auto by_kernel = suites_to_offer(ciphers, carried);
    const Offload offload = TRY(nbd::choose_offload(request_, target(number), by_kernel));
    entries_[number]->relay = offload.relay;
    if (!offload.sentence.empty()) log(offload.level, offload.sentence);
    return offload.relay ? suites_to_offer(ciphers, all_suites()) : by_kernel;
}

Result<void> Security::load_entry(std::size_t number, const std::vector<TlsCipher>& ciphers,
                                  const std::vector<TlsSuite>& carried) {
    Entry& entry = *entries_[number];
    auto suites = TRY(choose_offload(number, ciphers, carried));
    entry.policy = TRY(tls_policy(request_, target(number), std::move(suites)));
    const TlsTexts texts = TRY(read_tls_files(entry.policy));
    entry.context = TRY(TlsContext::make(entry.policy, texts));
    entry.fingerprint = fingerprint(texts);
    return {};
}

bool Security::relay_instead(std::size_t number, const Error& why) {
    if (!entries_[number] || entries_[number]->relay || why.kind != Kind::unsupported) return false;
    if (request_.tls_offload != TlsOffload::automatic || request_.essential) return false;
    log(Level::warning, "TLS with " + to_uri(target(number)) +
                            " goes through a process of ours from now on: " + why.what);
    return entries_[number]->relay = true;
}

void Security::refresh(const Deadline& deadline) {
    if (!loaded_ || Clock::now() < no_refresh_before_) return;
    for (const auto& entry : entries_) {
        if (!entry) continue;
        // No secret goes through the pipe, only whether there is news.
        const auto look = [&entry]() -> std::string {
            const auto texts = read_tls_files(entry->policy);
            return texts && fingerprint(*texts) != entry->fingerprint ? "news" : "";
        };
        const auto news = run_in_child(look, 16, deadline.at_most(refresh_limit));
        if (news && !news->empty()) reload(*entry);
        if (!news && news.error().kind == Kind::unreachable)
            no_refresh_before_ = Clock::now() + pause_after_hang;
    }
}

/// Half of a pair may have been written yet: then what was loaded goes on being used.
void Security::reload(Entry& entry) {
    const auto texts = read_tls_files(entry.policy);
    if (!texts) return;
    auto context = TlsContext::make(entry.policy, *texts);
    if (!context) return;
    entry.context = *std::move(context);
    entry.fingerprint = fingerprint(*texts);
}

Result<Offload> choose_offload(const AttachRequest& request, const Target& target,
                               const std::vector<TlsSuite>& carried) {
    const std::string uri = to_uri(target);
    const std::string swap =
        "a process in between can wait for memory that has to go through itself first";
    if (request.tls_offload == TlsOffload::never) {
        if (!request.essential) return Offload{.relay = true};
        return Offload{true, Level::warning,
                       "TLS with " + uri + " goes through a process of ours, as asked for: " +
                           swap + ", and with swap on the device that stops the machine"};
    }
    const bool local = std::holds_alternative<UnixEndpoint>(target.endpoint);
    if (!local && !carried.empty()) return Offload{};
    const std::string cause = local ? "it knows TLS only over TCP, not over unix sockets"
                                    : "it has no TLS for any of the ciphers";
    const std::string cure =
        local ? "connect by TCP (nbds://HOST/)"
              : "modprobe tls, or the kernel lacks it; --tls-ciphers may be too narrow";
    const std::string cannot = "cannot let the kernel protect " + uri + ": " + cause;
    if (request.tls_offload == TlsOffload::require) return Error{Kind::unsupported, cannot, cure};
    if (request.essential)
        return Error{Kind::unsupported, cannot + ", and " + swap,
                     cure + "; --tls-offload=never insists, for a device without swap"};
    return Offload{true, local ? Level::info : Level::warning,
                   "TLS with " + uri +
                       " goes through a process of ours, the kernel cannot do it: " + cause +
                       (local ? "" : " (" + cure + ")")};
}

Result<void> hand_to_kernel(TlsStream& tls, int fd, const std::string& server,
                            const Deadline& deadline) {
    auto keys = tls.take_keys(deadline);
    if (keys) return install_kernel_tls(fd, *keys);
    Error error = std::move(keys).error();
    error.what = "cannot give the TLS connection to " + server + " to the kernel: " + error.what;
    return error;
}

Result<Fd> hand_to_relay(std::unique_ptr<TlsStream> tls, int socket, const std::string& server,
                         bool locked, const Deadline& deadline) {
    const auto failed = [&server](Error error) {
        error.what = "cannot relay TLS with " + server + ": " + error.what;
        return error;
    };
    auto session = tls->continue_over_socket(deadline);
    if (!session) return failed(std::move(session).error());
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0)
        return failed(errno_error(Kind::internal, "create a pair of sockets", errno));
    Fd for_kernel(ends[0]);
    Fd for_relay(ends[1]);
    for (const int end : ends) enlarge_buffers(end);
    const auto work = [&] {
        become_relay(locked);
        run_relay(*session, socket, for_relay.get());
        tls.reset();  // wipes its keys
    };
    auto left = leave_behind(work, std::array{socket, for_relay.get()});
    if (!left) return failed(std::move(left).error());
    return for_kernel;
}

}  // namespace nbd
