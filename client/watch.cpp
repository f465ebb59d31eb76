// SPDX-License-Identifier: MIT
// Runs the watchdog of one device: waits, tells step() what happened, does what it answers.
#include "client/watch.h"

#include "client/base/log.h"
#include "client/base/text.h"
#include "client/detach.h"
#include "client/protocol/ktls.h"
#include "client/ready.h"
#include "client/renewal.h"
#include "client/watchdog.h"
#include "client/worker.h"

#include <algorithm>
#include <memory>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <optional>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

namespace nbd {

namespace {

using namespace std::chrono_literals;

/// A server that accepts but does not speak: the next address gets its turn after this.
constexpr auto handshake_limit = 5s;
/// Names are looked up again once an outage has lasted so long, and then at this pace.
constexpr auto lookup_interval = 10s;
constexpr auto longest_lookup_pause = 10min;
/// Records of a connection are counted before so many a second could wear its keys out, but never
/// so often that it costs anything.
constexpr std::uint64_t most_records_per_second = 100'000;
constexpr auto rarest_count = 2min;
constexpr auto densest_count = 1s;
/// Attempts to renew a connection: a busy device needs some, once a second; what fails more often
/// will fail again.
constexpr unsigned quick_renewals = 30;
constexpr auto longest_renewal_pause = 10min;
/// A renewal waits for a quiet moment and for the driver to see the end.
constexpr auto longest_renewal = 5s;

/// How long connections of a predecessor keep us from dialling another server than theirs.
constexpr auto blind_loyalty = 60s;

/// Who ended a connection: the side that sent its FIN first. Only TCP tells, and only until the
/// server has answered our FIN with its own; then a server that has said nothing since it was
/// asked, for as long as the request timer, is taken for one that was given up. That alone counts
/// over the kernel's TLS: a record without data (new keys, an alert) makes the driver end it too.
DeathCause cause_of_death(int socket, bool kernel_tls, std::chrono::milliseconds timeout) {
    tcp_info info{};
    socklen_t length = sizeof info;
    if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &length) != 0)
        return DeathCause::unknown;
    const bool unanswered = timeout.count() > 0 &&
                            info.tcpi_last_data_sent < info.tcpi_last_data_recv &&
                            info.tcpi_last_data_recv >= timeout.count();
    switch (info.tcpi_state) {
        case TCP_FIN_WAIT1:
        case TCP_FIN_WAIT2:
        case TCP_CLOSING:
            return kernel_tls && !unanswered ? DeathCause::unknown : DeathCause::timer;
        case TCP_CLOSE_WAIT:
        case TCP_LAST_ACK:
            return DeathCause::peer;
        default:
            return unanswered ? DeathCause::timer : DeathCause::unknown;
    }
}

WatchConfig make_config(const AttachRequest& request, const RuntimeStatus& status) {
    return {.device = device_name(status.index),
            .connections = status.connections,
            .reconnect_for = request.reconnect_for.value_or(0s),
            .timeout = status.timeout,
            .timeout_is_ours = !request.io_timeout,
            .slow_delay = request.reconnect_delay,
            .block_size = status.block_size,
            .auto_resize = request.auto_resize,
            .agreed = status.agreed};
}

class Watch {
public:
    Watch(const AttachRequest& request, Attachment attachment, Dialer dialer,
          const WatchWorld& world, std::unique_ptr<LinkEvents> events, std::uint64_t size)
        : request_(request),
          world_(world),
          lock_(std::move(attachment.lock)),
          status_(std::move(attachment.status)),
          links_(std::move(attachment.connections)),
          dialer_(std::move(dialer)),
          events_(std::move(events)),
          config_(make_config(request, status_)) {
        state_.live = static_cast<unsigned>(links_.size());
        state_.blind = config_.connections - state_.live;
        state_.timeout = config_.timeout;
        state_.size = state_.export_size = size;
        state_.server = status_.server;
        state_.reconnects = status_.reconnects;
        state_.jitter = static_cast<std::uint32_t>(::getpid());
        // Whoever closes them last, even the driver when a successor of ours replaces them.
        for (const Connection& link : links_) reset_on_close(link.socket.get(), true);
        if (!links_.empty())
            dialer_.stick_to(links_.front().target);
        else if (config_.connections > 1)
            dialer_.stick_to(dialer_.target_of(status_.server));
    }

    ~Watch() {
        // Once it is detached, the driver's goodbye is all that is left to send.
        if (!still_ours())
            for (const Connection& link : links_) reset_on_close(link.socket.get(), false);
        // Half of a renewal would leave the device without a connection.
        if (job_ == Job::renew)
            static_cast<void>(wait_for(worker_.fd(), POLLIN, Deadline::in(longest_renewal)));
        // A lookup under way works on our members.
        const std::uint64_t one = 1;
        [[maybe_unused]] const ssize_t written = ::write(stop_.get(), &one, sizeof one);
        if (lookup_.busy()) static_cast<void>(wait_for(lookup_.fd(), POLLIN, Deadline::in(2s)));
    }
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;

    void run() {
        publish();
        if (state_.blind > 0 && !predecessor_answers()) tell(LinkSuspected{});
        count_records();
        while (state_.phase != WatchState::Phase::ended) wait_once();
    }

private:
    void tell(const WatchEvent& event) {
        for (const WatchAction& action :
             step(state_, config_, event, Clock::now(), dialer_.candidates()))
            std::visit([this](const auto& concrete) { act(concrete); }, action);
    }

    /// A read that is answered says more of the one connection than dialling: a server of one
    /// client at a time would not answer a second one. What dies later sends us an event.
    bool predecessor_answers() const {
        return events_ && config_.connections == 1 &&
               can_read(status_.index, status_.block_size, world_.sysfs,
                        Deadline::in(2s, world_.signals.fd()));
    }

    void wait_once() {
        std::vector<pollfd> fds = {{world_.signals.fd(), POLLIN, 0},
                                   {events_ ? events_->fd() : -1, POLLIN, 0},
                                   {worker_.fd(), POLLIN, 0},
                                   {lookup_.fd(), POLLIN, 0}};
        // POLLRDHUP alone: unread data must not wake us, the data is the kernel's.
        for (const Connection& link : links_) fds.push_back({link.socket.get(), POLLRDHUP, 0});
        for (const pollfd& attempt : dialer_.poll_list()) fds.push_back(attempt);
        const auto wake = next_wake();
        const int timeout = wake ? Deadline::at(*wake).poll_timeout() : -1;
        if (::poll(fds.data(), fds.size(), timeout) < 0) return;

        if (fds[0].revents != 0) take_signals();
        if (fds[1].revents != 0) take_link_events();
        if (fds[2].revents != 0) take_kernel_answer();
        if (fds[3].revents != 0) take_addresses();
        bury_dead_links();
        if (state_.phase == WatchState::Phase::ended) return;
        if (links_.empty() && Clock::now() - started_ > blind_loyalty)
            dialer_.stick_to(std::nullopt);
        if (dialler_due()) take_dialled();
        if (state_.phase == WatchState::Phase::dialling && !still_ours()) return tell(DeviceGone{});
        look_up_again();
        count_records();
        tell(TimePassed{});
    }

    std::optional<Clock::time_point> next_wake() const {
        const auto at = state_.wake_at(config_);
        return at && next_count_ ? std::min(*at, *next_count_) : at ? at : next_count_;
    }
    bool dialler_due() const {
        return dialer_.dialling() && state_.phase == WatchState::Phase::dialling;
    }

    /// The device is configured, and by the attachment we watch: an index is used again.
    bool still_ours() const { return is_attachment(world_.sysfs.read(status_.index), status_); }

    void take_signals() {
        while (const auto number = world_.signals.take()) {
            if (*number == SIGTERM) tell(Terminated{});
            if (*number == SIGINT) tell(Interrupted{});
            if (*number == SIGHUP) still_ours() ? tell(DialNow{}) : tell(DeviceGone{});
        }
    }

    void take_link_events() {
        const LinkEvents::Batch batch = events_->drain();
        const bool ours = std::find(batch.indexes.begin(), batch.indexes.end(), status_.index) !=
                          batch.indexes.end();
        if (ours || batch.overrun) still_ours() ? tell(LinkSuspected{}) : tell(DeviceGone{});
    }

    void bury_dead_links() {
        std::vector<pollfd> fds;
        for (const Connection& link : links_) fds.push_back({link.socket.get(), POLLRDHUP, 0});
        if (fds.empty() || ::poll(fds.data(), fds.size(), 0) <= 0) return;
        if (!still_ours()) return tell(DeviceGone{});
        for (std::size_t i = fds.size(); i-- > 0;) {
            if (fds[i].revents == 0) continue;
            const int beyond = links_[i].beyond_relay.get();
            const DeathCause cause =
                cause_of_death(beyond < 0 ? fds[i].fd : beyond, links_[i].offload == offload_kernel,
                               state_.timeout);
            if (cause != DeathCause::timer) let_reader_finish(fds[i].fd);
            // Dead for us must be dead for the driver, or it would not take a new socket in its
            // place; and for the server, or it would get the same requests twice.
            abort_connection(fds[i].fd);
            if (beyond >= 0) abort_connection(beyond);
            links_.erase(links_.begin() + static_cast<std::ptrdiff_t>(i));
            if (links_.empty() && state_.blind == 0) dialer_.stick_to(std::nullopt);
            tell(LinkDied{cause});
        }
    }

    struct Wear {
        int socket;
        std::uint64_t records;
    };
    /// The connection whose keys have had most records; nothing when none are ever renewed.
    std::optional<Wear> most_worn() const {
        std::optional<Wear> most;
        if (request_.tls_rekey_after == 0) return most;
        for (const Connection& link : links_) {
            if (link.offload != offload_kernel) continue;
            const auto records = kernel_tls_records(link.socket.get());
            if (records && (!most || *records >= most->records))
                most = Wear{link.socket.get(), *records};
        }
        return most;
    }

    /// Renews the connection whose keys are oldest when it is time; else looks again before what is
    /// left can have been used up.
    void count_records() {
        const auto now = Clock::now();
        if (next_count_ && now < *next_count_) return;
        const auto worn = most_worn();
        if (!worn) return next_count_.reset();
        const std::uint64_t most = worn->records;
        const std::uint64_t limit = request_.tls_rekey_after;
        const std::chrono::seconds spare(limit > most ? (limit - most) / most_records_per_second
                                                      : 0);
        next_count_ = now + std::clamp<Clock::duration>(spare, densest_count, rarest_count);
        if (most < limit) return;
        // What cannot be renewed now is not tried again and again.
        const unsigned late = std::max(++renewals_tried_, quick_renewals) - quick_renewals;
        next_count_ = now + std::min<Clock::duration>(1s * (1U << std::min(late, 10U)),
                                                      longest_renewal_pause);
        tell(KeysAge{});
    }

    void take_dialled() {
        auto dialled = dialer_.advance(
            Deadline::in(std::min<Clock::duration>(request_.connect_timeout, handshake_limit),
                         world_.signals.fd()));
        if (!dialled) return;
        if (!*dialled) {
            // A signal has interrupted the handshake: it is looked at next.
            if (dialled->error().kind != Kind::cancelled) tell(AttemptFailed{dialled->error()});
            return;
        }
        in_hand_ = **std::move(dialled);
        // `nbd-client resize` changes it behind our back.
        if (const auto disk = world_.sysfs.read(status_.index)) state_.size = disk->size;
        tell(Dialled{in_hand_->info, in_hand_->server});
    }

    void take_kernel_answer() {
        auto answer = worker_.take();
        if (!answer) return;
        const auto job = std::exchange(job_, Job::none);
        if (!*answer && !still_ours()) return tell(DeviceGone{});
        if (job == Job::hand_over || job == Job::renew) take_hand_over(*answer);
        if (job == Job::resize) *answer ? tell(Resized{resize_to_}) : complain(answer->error());
        if (job == Job::set_timeout && !*answer) complain(answer->error());
        start_next_job();
    }

    void take_hand_over(const Result<void>& answer) {
        // One that we have ended for its successor is to be counted first.
        bury_dead_links();
        if (!answer) return tell(HandOverFailed{answer.error()});
        if (!in_hand_ || !was_adopted(in_hand_->socket.get())) return tell(NotAdopted{});
        dialer_.stick_to(in_hand_->target);
        status_.offload = in_hand_->offload;
        reset_on_close(in_hand_->socket.get(), true);
        links_.push_back(*std::exchange(in_hand_, std::nullopt));
        tell(Adopted{});
        renewals_tried_ = 0;
        next_count_.reset();
    }

    void complain(const Error& error) { log(Level::warning, config_.device + ": " + error.what); }

    void take_addresses() {
        const auto outcome = lookup_.take();
        if (!outcome) return;
        if (*outcome) {
            lookup_pause_ = lookup_interval;
            if (dialer_.use(std::move(found_))) tell(DialNow{});
            return;
        }
        // A resolver that hangs may be waiting for this very device.
        lookup_pause_ = std::min<Clock::duration>(lookup_pause_ * 2, longest_lookup_pause);
        if (dialer_.candidates() == 0) tell(AttemptFailed{outcome->error()});
    }

    /// In a thread with a child process of its own. Not when the resolver's files may be on the
    /// device, unless there is nothing to dial without.
    void look_up_again() {
        if (lookup_.busy() || state_.phase != WatchState::Phase::dialling) return;
        const auto now = Clock::now();
        const bool needed = dialer_.candidates() == 0;
        const bool due = !request_.essential && now - state_.down_since > lookup_interval;
        if ((!needed && !due) ||
            now - last_lookup_ < (needed ? Clock::duration(1s) : lookup_pause_))
            return;
        last_lookup_ = now;
        lookup_.start([this]() -> Result<void> {
            found_ = TRY(Dialer::look_up(request_, Deadline::in(5s, stop_.get())));
            return {};
        });
    }

    // What step() asks for.

    void act(const StartAttempt&) {
        if (auto failed = dialer_.start_attempt()) tell(AttemptFailed{*std::move(failed)});
    }
    void act(const StopDialling&) { dialer_.stop(); }
    void act(const DropConnection&) { in_hand_.reset(); }
    void act(const Say& say) { log(say.level, say.text); }
    void act(const Leave&) { world_.notifier.stopping(); }

    /// The connection in hand for one that has ended.
    ReconfigureRequest replacement(std::optional<std::chrono::seconds> timeout) const {
        return {.index = status_.index,
                .backend = status_.backend,
                .sockets = {in_hand_->socket.get()},
                .timeout = timeout};
    }

    void act(const HandOver& hand_over) { ask(Job::hand_over, replacement(hand_over.timeout)); }

    void act(const Renew& renewal) {
        const auto worn = most_worn();
        auto old = duplicate(worn ? worn->socket : -1);
        if (!old) return tell(NotAdopted{});
        enqueue(Job::renew, [&kernel = world_.kernel, &sysfs = world_.sysfs,
                             request = replacement(renewal.timeout),
                             old = std::make_shared<Fd>(*std::move(old))] {
            return renew(old->get(), request, kernel, sysfs);
        });
    }

    void act(const SetTimeout& set) {
        ask(Job::set_timeout,
            {.index = status_.index, .backend = status_.backend, .timeout = set.timeout});
    }

    void act(const Resize& resize) {
        resize_to_ = resize.size;
        ask(Job::resize, {.index = status_.index, .backend = status_.backend, .size = resize.size});
    }

    void act(const Publish&) { publish(); }

    void act(const DetachAndLeave&) {
        if (worker_.busy()) return complain({Kind::busy, "cannot detach now: reconnecting"});
        auto freed =
            detach(status_.index, false, world_.kernel, world_.sysfs, world_.runtime_directory);
        freed ? tell(DeviceGone{}) : complain(freed.error());
    }

    enum class Job { none, hand_over, renew, set_timeout, resize };

    void ask(Job job, ReconfigureRequest request) {
        enqueue(job, [&kernel = world_.kernel, request = std::move(request)] {
            return kernel.reconfigure(request);
        });
    }

    /// Kernel calls one after the other: each may take long, none may hold up the rest of us.
    void enqueue(Job job, Worker::Job work) {
        queue_.emplace_back(job, std::move(work));
        start_next_job();
    }

    void start_next_job() {
        if (worker_.busy() || queue_.empty()) return;
        auto [job, work] = std::move(queue_.front());
        queue_.erase(queue_.begin());
        job_ = job;
        worker_.start(std::move(work));
    }

    void publish() {
        const LinkState state = state_.link_state(config_);
        if (state != status_.state) status_.state_since = std::chrono::system_clock::now();
        status_.state = state;
        status_.pid = ::getpid();
        status_.live_connections =
            state_.live + (state == LinkState::reconnecting ? 0 : state_.blind);
        status_.reconnects = state_.reconnects;
        status_.server = state_.server;
        status_.last_error = state_.last_error;
        if (auto written = publish_status(world_.runtime_directory, status_); !written)
            log(Level::warning, written.error().what);
        world_.notifier.status(describe_state());
    }

    std::string describe_state() const {
        switch (status_.state) {
            case LinkState::attached:
                return "attached to " + status_.server;
            case LinkState::degraded:
                return std::to_string(status_.live_connections) + " of " +
                       std::to_string(status_.connections) + " connections";
            case LinkState::reconnecting:
                return "reconnecting: " + printable(status_.last_error);
            case LinkState::failing:
                return "I/O fails: " + printable(status_.last_error);
        }
        return "";
    }

    AttachRequest request_;
    WatchWorld world_;
    std::optional<RuntimeLock> lock_;
    RuntimeStatus status_;
    std::vector<Connection> links_;
    Dialer dialer_;
    std::unique_ptr<LinkEvents> events_;
    WatchConfig config_;
    WatchState state_;

    std::optional<Connection> in_hand_;  ///< dialled, not adopted yet
    std::vector<std::pair<Job, Worker::Job>> queue_;
    Job job_ = Job::none;
    std::uint64_t resize_to_ = 0;
    Worker worker_;

    std::optional<Clock::time_point> next_count_;
    unsigned renewals_tried_ = 0;  ///< without success

    Dialer::Addresses found_;
    Clock::time_point started_ = Clock::now();
    Clock::time_point last_lookup_{};
    Clock::duration lookup_pause_ = lookup_interval;
    Fd stop_{::eventfd(0, EFD_CLOEXEC)};
    Worker lookup_;
};

}  // namespace

Result<void> watch(const AttachRequest& request, Attachment attachment, Dialer dialer,
                   const WatchWorld& world) {
    const auto disk = world.sysfs.read(attachment.status.index);
    if (!disk || !disk->configured)
        return Error{Kind::absent, "cannot watch " + device_path(attachment.status.index) +
                                       ": it is not attached"};
    // Without events the links we hold are still seen; only a predecessor's are not.
    auto events = world.kernel.link_events();
    if (!events) log(Level::debug, events.error().what);
    Watch(request, std::move(attachment), std::move(dialer), world,
          events ? *std::move(events) : nullptr, disk->size)
        .run();
    return {};
}

}  // namespace nbd
