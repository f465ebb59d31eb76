// SPDX-License-Identifier: MIT
// One thread for calls into the kernel that may hang, so that whoever waits for them does not.
#include "client/worker.h"

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utility>

namespace nbd {

struct Worker::Shared {
    std::mutex mutex;
    std::condition_variable wake;
    Job job;
    bool stop = false;
    std::optional<Result<void>> outcome;
    Fd done{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};

    void run() {
        for (;;) {
            std::unique_lock lock(mutex);
            wake.wait(lock, [this] { return stop || job; });
            if (stop) return;
            Job current = std::exchange(job, nullptr);
            lock.unlock();
            Result<void> result = current();
            lock.lock();
            outcome = std::move(result);
            const std::uint64_t one = 1;
            // The counter cannot be full: take() empties it before the next job starts.
            [[maybe_unused]] const ssize_t written = ::write(done.get(), &one, sizeof one);
        }
    }
};

Worker::Worker() : shared_(std::make_unique<Shared>()) {
    thread_ = std::jthread([shared = shared_.get()] { shared->run(); });
}

Worker::~Worker() {
    if (busy_ && !take()) {
        thread_.detach();
        // The thread still refers to it when the kernel lets it go.
        [[maybe_unused]] const Shared* left_behind = shared_.release();
        return;
    }
    const std::lock_guard lock(shared_->mutex);
    shared_->stop = true;
    shared_->wake.notify_one();
}

int Worker::fd() const {
    return shared_->done.get();
}

void Worker::start(Job job) {
    busy_ = true;
    const std::lock_guard lock(shared_->mutex);
    shared_->job = std::move(job);
    shared_->wake.notify_one();
}

std::optional<Result<void>> Worker::take() {
    const std::lock_guard lock(shared_->mutex);
    if (!shared_->outcome) return std::nullopt;
    std::uint64_t count = 0;
    [[maybe_unused]] const ssize_t taken = ::read(shared_->done.get(), &count, sizeof count);
    busy_ = false;
    return std::exchange(shared_->outcome, std::nullopt);
}

}  // namespace nbd
