// SPDX-License-Identifier: MIT
// One thread for calls into the kernel that may hang, so that whoever waits for them does not.
#pragma once

#include "client/base/fd.h"
#include "client/base/result.h"

#include <functional>
#include <memory>
#include <optional>
#include <thread>

namespace nbd {

/// Runs one job at a time. The thread exists from construction on, because starting one needs
/// memory, which may be short while the device that memory is swapped to waits for us.
class Worker {
public:
    using Job = std::function<Result<void>()>;

    Worker();
    /// A job that hangs in the kernel is left behind with its thread.
    ~Worker();
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    /// Not while busy.
    void start(Job job);
    bool busy() const { return busy_; }
    /// Readable when a job is done.
    int fd() const;
    /// The outcome of the job, once, when it is done.
    std::optional<Result<void>> take();

private:
    struct Shared;
    std::unique_ptr<Shared> shared_;
    std::jthread thread_;
    bool busy_ = false;
};

}  // namespace nbd
