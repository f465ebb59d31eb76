// SPDX-License-Identifier: MIT
// What the watchdog decides: a pure function from state and event to new state and actions.
#include "client/watchdog.h"

#include "client/attach.h"
#include "client/base/text.h"
#include "client/session.h"

#include <algorithm>
#include <utility>

namespace nbd {

namespace {

using namespace std::chrono_literals;
using Phase = WatchState::Phase;
using Actions = std::vector<WatchAction>;

/// A connection that dies so soon after its adoption does not count as a recovery.
constexpr auto stable_after = 500ms;
/// How late the kernel's timer may fire: the block layer rounds up, by up to 1.5 s as seen.
constexpr auto timer_slack = 2500ms;
/// A server that can be dialled again so quickly was not down: its answer was slow.
constexpr auto quick_redial = 1s;

class Stepper {
public:
    Stepper(WatchState& state, const WatchConfig& config, Clock::time_point now,
            std::size_t candidates)
        : state_(state), config_(config), now_(now), candidates_(candidates) {}

    void on(const LinkDied& event) {
        if (state_.live > 0) --state_.live;
        state_.cause = event.cause == DeathCause::unknown ? guess_cause() : event.cause;
        if (state_.live + state_.blind == 0 && !state_.io_waits_since) state_.io_waits_since = now_;
        // Ours to end once its successor is in the kernel's hands.
        if (state_.renewing && state_.phase == Phase::handing_over) return;
        if (state_.phase == Phase::resting || state_.renewing) begin_outage();
        publish();
    }

    void on(const KeysAge&) {
        if (state_.phase != Phase::resting || state_.dead(config_) > 0) return;
        state_.renewing = true;
        state_.down_since = now_;
        dial_at_once();
    }

    void on(const LinkSuspected&) {
        if (state_.blind == 0) return;
        state_.suspect = true;
        state_.cause = guess_cause();
        if (state_.phase == Phase::resting || (state_.renewing && state_.phase == Phase::dialling))
            begin_outage();
    }

    void on(const AttemptFailed& event) { failed(event.error); }

    void on(const Dialled& event) {
        if (state_.phase != Phase::dialling) return act(DropConnection{});
        auto same =
            check_same_export(config_.agreed, event.info,
                              {state_.size, config_.block_size, config_.connections}, event.server);
        if (!same) {
            act(DropConnection{});
            return failed(same.error());
        }
        state_.phase = Phase::handing_over;
        state_.next_attempt.reset();
        // What is suspected from here on is not answered by this hand-over.
        state_.suspect = false;
        state_.server = event.server;
        state_.export_size = event.info.size;
        act(StopDialling{});
        // Adoption is seen by the send timeout the driver sets on a socket it takes: it must not be
        // 0.
        const auto timeout = state_.timeout == 0s ? std::optional(quick_timeout) : std::nullopt;
        state_.renewing ? act(Renew{timeout}) : act(HandOver{timeout});
    }

    void on(const Adopted&) {
        if (state_.phase != Phase::handing_over) return;
        if (state_.renewing && state_.dead(config_) <= 1) return renewed();
        state_.renewing = false;
        if (state_.dead(config_) == 0 && state_.blind > 0) --state_.blind;
        ++state_.live;
        ++state_.reconnects;
        state_.last_adopted = now_;
        state_.io_waits_since.reset();
        state_.failing = false;
        state_.last_error.clear();
        if (state_.dead(config_) > 0 || state_.blind > 0) {
            state_.suspect = state_.blind > 0;
            dial_next();
            return publish();
        }
        recovered();
    }

    void on(const NotAdopted&) {
        if (state_.phase != Phase::handing_over) return;
        act(DropConnection{});
        state_.renewing = false;
        if (state_.suspect) return dial_at_once();
        if (state_.dead(config_) > 0) {
            // The driver has not seen the death yet that we have seen.
            state_.phase = Phase::dialling;
            return schedule();
        }
        // A false alarm. With 0 the hand-over has set another one.
        if (state_.timeout == 0s) act(SetTimeout{0s});
        rest();
    }

    void on(const HandOverFailed& event) {
        if (state_.phase != Phase::handing_over) return;
        act(DropConnection{});
        state_.phase = Phase::dialling;
        if (state_.renewing && state_.dead(config_) == 0) {
            // The driver may have taken the timeout before it refused the socket.
            if (state_.timeout == 0s) act(SetTimeout{0s});
            return failed(event.error);
        }
        state_.renewing = false;
        failed(event.error);
        // The kernel's refusal is not a server that comes back within milliseconds.
        state_.next_attempt = now_ + 1s;
    }

    void on(const Resized& event) {
        state_.size = event.size;
        publish();
    }

    void on(const TimePassed&) {
        if (!state_.failing && horizon() && now_ >= *horizon()) {
            state_.failing = true;
            say(Level::error, "no server for " + format_duration(config_.reconnect_for) +
                                  ": I/O fails from now on until one returns");
            publish();
        }
        if (state_.phase == Phase::dialling && state_.next_attempt && now_ >= *state_.next_attempt)
            attempt();
    }

    void on(const DialNow&) {
        if (state_.phase == Phase::dialling) dial_at_once();
    }

    void on(const DeviceGone&) {
        state_.phase = Phase::ended;
        say(Level::info, "detached");
        act(Leave{});
    }

    void on(const Terminated&) {
        state_.phase = Phase::ended;
        say(Level::info, "no longer watched, the device stays attached");
        act(Leave{});
    }

    void on(const Interrupted&) { act(DetachAndLeave{}); }

    std::optional<Clock::time_point> horizon() const {
        if (!state_.io_waits_since || config_.reconnect_for == forever) return std::nullopt;
        return *state_.io_waits_since + config_.reconnect_for;
    }

    Actions take() { return std::move(actions_); }

private:
    template <typename Action>
    void act(Action action) {
        actions_.emplace_back(std::move(action));
    }
    void publish() { act(Publish{}); }
    void say(Level level, const std::string& text) {
        act(Say{level, config_.device + ": " + text});
    }

    void begin_outage() {
        state_.renewing = false;
        // One that dies at once after every adoption is one long outage, or it would be dialled
        // without any pause.
        if (state_.attempts == 0 || now_ - state_.last_adopted > stable_after) {
            state_.down_since = now_;
            state_.failures = 0;
            state_.adoptions = 0;
            state_.told = false;
            state_.phase = Phase::dialling;
            return dial_at_once();
        }
        state_.phase = Phase::dialling;
        schedule();
    }

    void dial_at_once() {
        state_.phase = Phase::dialling;
        state_.attempts = 0;
        attempt();
    }

    /// The server is there: each connection is dialled without a pause, but only once, or one that
    /// dies after every adoption would keep us and the server busy.
    void dial_next() {
        state_.phase = Phase::dialling;
        ++state_.adoptions < config_.connections ? attempt() : schedule();
    }

    void attempt() {
        act(StartAttempt{});
        schedule();
    }

    void schedule() {
        ++state_.attempts;
        state_.next_attempt = now_ + retry_delay(state_.attempts, now_ - state_.down_since,
                                                 candidates_, config_.slow_delay, state_.jitter);
    }

    /// The first failure is normal and silent, the second is told; later ones only when they
    /// differ.
    void failed(const Error& error) {
        if (state_.renewing) {
            if (state_.phase == Phase::handing_over) return;
            say(Level::info, "the keys are not renewed yet: " + error.what);
            state_.renewing = false;
            return rest();
        }
        ++state_.failures;
        // As far as we can tell nothing is left of the predecessor's connections.
        if (state_.suspect && state_.live == 0 && !state_.io_waits_since)
            state_.io_waits_since = state_.down_since;
        const bool differs = state_.last_error != error.what;
        state_.last_error = error.what;
        if (state_.failures < 2 && error.kind != Kind::mismatch) return;
        if (!state_.told || differs) {
            say(Level::warning, "reconnecting: " + error.what);
            publish();
        }
        state_.told = true;
    }

    /// What dies of the kernel's timer after its adoption has been sent a slow request again.
    DeathCause guess_cause() const {
        const auto lived = now_ - state_.last_adopted;
        const bool timed_out = lived >= config_.timeout && lived < config_.timeout + timer_slack;
        return timed_out ? DeathCause::timer : DeathCause::unknown;
    }

    void renewed() {
        state_.renewing = false;
        state_.failing = false;
        state_.live += state_.dead(config_);
        say(Level::info, "new keys with " + state_.server);
        if (state_.timeout == 0s) act(SetTimeout{0s});
        // Perhaps it was not the one we ended that the kernel has told of.
        if (state_.suspect) return dial_at_once();
        rest();
    }

    void recovered() {
        const auto outage =
            std::chrono::duration_cast<std::chrono::milliseconds>(now_ - state_.down_since);
        say(state_.told ? Level::warning : Level::info, "connected to " + state_.server +
                                                            " again after " +
                                                            std::to_string(outage.count()) + " ms");
        choose_timeout(outage);
        rest();
    }

    void rest() {
        state_.phase = Phase::resting;
        state_.suspect = false;
        state_.next_attempt.reset();
        state_.io_waits_since.reset();
        act(StopDialling{});
        if (state_.export_size > state_.size) grown();
        publish();
    }

    void choose_timeout(std::chrono::milliseconds outage) {
        const bool slow_answer = config_.timeout_is_ours && state_.failures == 0 &&
                                 outage < quick_redial && state_.cause == DeathCause::timer &&
                                 config_.timeout != 0s;
        const auto wanted = slow_answer ? longer_timeout(state_.timeout, config_.connections)
                                        : std::max(config_.timeout, state_.timeout / 2);
        if (slow_answer && state_.timeout != wanted)
            say(Level::warning,
                "the server takes longer than " + format_duration(state_.timeout) +
                    " for a request, waiting longer from now on; --io-timeout sets it for all");
        // With 0 the hand-over has set another one.
        if (wanted != state_.timeout || wanted == 0s) act(SetTimeout{wanted});
        state_.timeout = wanted;
    }

    void grown() {
        if (config_.auto_resize)
            return act(Resize{state_.export_size - state_.export_size % config_.block_size});
        say(Level::warning, "the export has grown to " + std::to_string(state_.export_size) +
                                " bytes: nbd-client resize " + config_.device +
                                " makes them usable");
    }

    WatchState& state_;
    const WatchConfig& config_;
    Clock::time_point now_;
    std::size_t candidates_;
    Actions actions_;
};

}  // namespace

LinkState WatchState::link_state(const WatchConfig& config) const {
    if (failing) return LinkState::failing;
    // What a predecessor left may be dead, if we cannot even ask.
    const bool unsure = suspect && live == 0 && failures > 0;
    if (live + blind == 0 || unsure) return LinkState::reconnecting;
    return dead(config) > 0 ? LinkState::degraded : LinkState::attached;
}

std::optional<Clock::time_point> WatchState::wake_at(const WatchConfig& config) const {
    std::optional<Clock::time_point> at = next_attempt;
    if (!failing && io_waits_since && config.reconnect_for != forever) {
        const auto horizon = *io_waits_since + config.reconnect_for;
        at = at ? std::min(*at, horizon) : horizon;
    }
    return at;
}

std::vector<WatchAction> step(WatchState& state, const WatchConfig& config, const WatchEvent& event,
                              Clock::time_point now, std::size_t candidates) {
    Stepper stepper(state, config, now, candidates);
    if (state.phase != Phase::ended)
        std::visit([&stepper](const auto& concrete) { stepper.on(concrete); }, event);
    return stepper.take();
}

Clock::duration retry_delay(unsigned attempts, Clock::duration outage, std::size_t candidates,
                            std::optional<std::chrono::seconds> slow_delay, std::uint32_t& jitter) {
    using std::chrono::milliseconds;
    constexpr milliseconds first = 25ms;
    milliseconds cap = 250ms;
    if (outage > 1min) cap = std::min<milliseconds>(slow_delay.value_or(2s), 2s);
    if (outage > 10min) cap = slow_delay.value_or(10s);
    const milliseconds grown = first * (1LL << std::clamp(attempts, 1U, 24U)) / 2;
    milliseconds delay = std::min(grown, cap);
    delay = std::max<milliseconds>(delay / static_cast<int>(std::max<std::size_t>(candidates, 1)),
                                   first);
    // A linear congruential step: clients of one server must not come back in step, nothing more.
    jitter = jitter * 1664525U + 1013904223U;
    return delay - delay * static_cast<int>(jitter >> 24) / 1024;
}

std::chrono::seconds longer_timeout(std::chrono::seconds timeout, unsigned connections) {
    return connections == 1 ? 0s
                            : std::max(timeout, std::min<std::chrono::seconds>(timeout * 2, 1min));
}

}  // namespace nbd
