// SPDX-License-Identifier: MIT
// Writes numbered, checksummed blocks with direct I/O and checks that what is read back is what was
// written last: the judge of "no I/O error and no lost data". Prints one line and exits 0 only when
// nothing went wrong:
//
//   ops=N errors=N wrong=N max_latency_ms=N last_error=NAME

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <getopt.h>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <stop_token>
#include <string>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;  // CLOCK_MONOTONIC with libstdc++
using std::chrono::milliseconds;

constexpr unsigned pulses = 4;

struct Options {
    std::string file;
    std::string until_file;
    std::string timeline;
    std::optional<std::chrono::seconds> duration;
    std::optional<milliseconds> pulse;
    unsigned threads = 1;
    bool sync = false;
    std::size_t block = 4096;
    std::uint64_t size = 0;  // bytes to use; 0 is the whole file
};

struct Tally {
    std::uint64_t ops = 0;
    std::uint64_t errors = 0;
    std::uint64_t wrong = 0;
    std::int64_t max_latency_ms = 0;
    int last_error = 0;

    void add(const Tally& other) {
        ops += other.ops;
        errors += other.errors;
        wrong += other.wrong;
        max_latency_ms = std::max(max_latency_ms, other.max_latency_ms);
        last_error = other.last_error != 0 ? other.last_error : last_error;
    }
};

struct Header {
    std::uint64_t magic;
    std::uint64_t block;
    std::uint64_t generation;
    std::uint64_t checksum;  // of the payload, seeded with the three above
};

constexpr std::uint64_t magic = 0x6e62642d6c616221;  // "nbd-lab!"

std::uint64_t mix(std::uint64_t x) {  // splitmix64's finaliser
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

std::uint64_t checksum(const Header& header, std::span<const std::byte> payload) {
    std::uint64_t sum = mix(header.magic ^ mix(header.block ^ mix(header.generation)));
    for (std::size_t at = 0; at + sizeof(sum) <= payload.size(); at += sizeof(sum)) {
        std::uint64_t word;
        std::memcpy(&word, payload.data() + at, sizeof(word));
        sum = mix(sum ^ word);
    }
    return sum;
}

void compose(std::span<std::byte> buffer, std::uint64_t block, std::uint64_t generation) {
    const auto payload = buffer.subspan(sizeof(Header));
    for (std::size_t at = 0; at + sizeof(std::uint64_t) <= payload.size();
         at += sizeof(std::uint64_t)) {
        const std::uint64_t word =
            mix(block * 0x9e3779b97f4a7c15 + generation * payload.size() + at);
        std::memcpy(payload.data() + at, &word, sizeof(word));
    }
    Header header{magic, block, generation, 0};
    header.checksum = checksum(header, payload);
    std::memcpy(buffer.data(), &header, sizeof(header));
}

// The generation found in `buffer`, or nothing when it is not an intact block number `block`.
std::optional<std::uint64_t> inspect(std::span<const std::byte> buffer, std::uint64_t block) {
    Header header;
    std::memcpy(&header, buffer.data(), sizeof(header));
    const bool intact = header.magic == magic && header.block == block &&
                        header.checksum == checksum(header, buffer.subspan(sizeof(Header)));
    return intact ? std::optional(header.generation) : std::nullopt;
}

// Lines `start end` in milliseconds of CLOCK_MONOTONIC, of what took long: the others only cost.
class Timeline {
public:
    explicit Timeline(const std::string& path) {
        if (!path.empty())
            fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    }
    ~Timeline() {
        if (fd_ >= 0) close(fd_);
    }
    Timeline(const Timeline&) = delete;
    Timeline& operator=(const Timeline&) = delete;

    void record(Clock::time_point start, Clock::time_point end) const {
        if (fd_ < 0 || end - start < milliseconds(50)) return;
        const std::string line = in_ms(start) + ' ' + in_ms(end) + '\n';
        if (write(fd_, line.data(), line.size()) < 0) std::perror("verify: timeline");
    }

private:
    static std::string in_ms(Clock::time_point t) {
        return std::to_string(
            std::chrono::duration_cast<milliseconds>(t.time_since_epoch()).count());
    }

    int fd_ = -1;
};

struct FreeDeleter {
    void operator()(std::byte* p) const { std::free(p); }
};

// One thread's part of the device: nobody else writes there, so it knows what must be read.
class Writer {
public:
    Writer(const Options& options, int fd, unsigned thread, std::uint64_t blocks,
           milliseconds pause)
        : fd_(fd),
          block_size_(options.block),
          first_(thread * blocks),
          known_(blocks),
          pause_(pause),
          timeline_(options.timeline),
          random_(thread + 1),
          memory_(static_cast<std::byte*>(
              std::aligned_alloc(4096, (options.block + 4095) / 4096 * 4096))) {}

    Tally run(const std::stop_token& stop) {
        while (!stop.stop_requested()) {
            write_one(random_() % known_.size());
            if (tally_.ops % 4 == 0) check_one(random_() % known_.size());
            if (pause_.count() > 0) std::this_thread::sleep_for(pause_);
        }
        for (std::size_t i = 0; i < known_.size(); ++i) check_one(i);
        return tally_;
    }

private:
    // A failed write leaves the old content, or the new one; nothing else is right.
    struct Known {
        std::uint64_t committed = 0;
        std::uint64_t attempted = 0;
    };

    std::span<std::byte> buffer() { return {memory_.get(), block_size_}; }

    // Counts one operation; a pause after an error keeps a dead device from being hammered.
    template <typename Operation>
    bool timed(Operation operation) {
        const auto start = Clock::now();
        errno = 0;
        const bool done = operation() == static_cast<ssize_t>(block_size_);
        const int error = errno;
        const auto end = Clock::now();
        tally_.max_latency_ms = std::max(
            tally_.max_latency_ms, std::chrono::duration_cast<milliseconds>(end - start).count());
        ++tally_.ops;
        if (done) {
            timeline_.record(start, end);
            return true;
        }
        ++tally_.errors;
        tally_.last_error = error != 0 ? error : ENODATA;  // a short transfer sets no errno
        std::this_thread::sleep_for(milliseconds(5));
        return false;
    }

    off_t offset(std::size_t i) const { return static_cast<off_t>((first_ + i) * block_size_); }

    void write_one(std::size_t i) {
        const std::uint64_t generation = ++known_[i].attempted;
        compose(buffer(), first_ + i, generation);
        if (timed([&] { return pwrite(fd_, memory_.get(), block_size_, offset(i)); }))
            known_[i].committed = generation;
    }

    void check_one(std::size_t i) {
        const Known& known = known_[i];
        if (known.attempted == 0 ||
            !timed([&] { return pread(fd_, memory_.get(), block_size_, offset(i)); }))
            return;
        const auto found = inspect(buffer(), first_ + i);
        const bool never_written =
            known.committed == 0;  // then the old content is not ours to know
        if (!never_written && (!found || *found < known.committed || *found > known.attempted))
            ++tally_.wrong;
    }

    int fd_;
    std::size_t block_size_;
    std::uint64_t first_;
    std::vector<Known> known_;
    milliseconds pause_;
    Tally tally_;
    Timeline timeline_;
    std::minstd_rand random_;
    std::unique_ptr<std::byte, FreeDeleter> memory_;
};

// Waits for the time, the file or SIGTERM (blocked in every thread), whichever comes first.
void wait_for_end(const Options& options) {
    const auto start = Clock::now();
    sigset_t terminate;
    sigemptyset(&terminate);
    sigaddset(&terminate, SIGTERM);
    const timespec tick{0, 50'000'000};
    while (sigtimedwait(&terminate, nullptr, &tick) < 0) {
        if (options.duration && Clock::now() - start >= *options.duration) return;
        if (!options.until_file.empty() && access(options.until_file.c_str(), F_OK) == 0) return;
    }
}

Tally write_and_check(const Options& options, int fd) {
    const unsigned writers = options.threads + (options.pulse ? pulses : 0);
    const std::uint64_t blocks = options.size / options.block / writers;
    std::vector<Tally> tallies(writers);
    std::stop_source stop;
    {
        std::vector<std::jthread> threads;
        for (unsigned t = 0; t < writers; ++t) {
            const auto pause = t < options.threads ? milliseconds(0) : *options.pulse;
            threads.emplace_back([&, t, pause, token = stop.get_token()] {
                tallies[t] = Writer(options, fd, t, blocks, pause).run(token);
            });
        }
        wait_for_end(options);
        stop.request_stop();
    }
    Tally total;
    for (const Tally& tally : tallies) total.add(tally);
    return total;
}

[[noreturn]] void usage() {
    std::fputs(
        "usage: verify FILE [--seconds S] [--until-file FILE] [--threads N] [--block BYTES]\n"
        "              [--size BYTES] [--sync] [--pulse MS] [--timeline FILE]\n"
        "--sync: each write is followed by a flush;\n"
        "--pulse: four more threads, which pause between two operations, so that some begin in an\n"
        "outage; --timeline: when each operation that took 50 ms or more began and ended\n",
        stderr);
    std::exit(2);
}

Options parse(int argc, char** argv) {
    static const option names[] = {{"seconds", required_argument, nullptr, 's'},
                                   {"until-file", required_argument, nullptr, 'u'},
                                   {"threads", required_argument, nullptr, 't'},
                                   {"block", required_argument, nullptr, 'b'},
                                   {"size", required_argument, nullptr, 'z'},
                                   {"sync", no_argument, nullptr, 'y'},
                                   {"pulse", required_argument, nullptr, 'p'},
                                   {"timeline", required_argument, nullptr, 'l'},
                                   {nullptr, 0, nullptr, 0}};
    Options options;
    for (int c; (c = getopt_long(argc, argv, "", names, nullptr)) != -1;) {
        switch (c) {
            case 's':
                options.duration = std::chrono::seconds(std::stoul(optarg));
                break;
            case 'u':
                options.until_file = optarg;
                break;
            case 't':
                options.threads = static_cast<unsigned>(std::stoul(optarg));
                break;
            case 'b':
                options.block = std::stoul(optarg);
                break;
            case 'z':
                options.size = std::stoull(optarg);
                break;
            case 'y':
                options.sync = true;
                break;
            case 'p':
                options.pulse = milliseconds(std::stoul(optarg));
                break;
            case 'l':
                options.timeline = optarg;
                break;
            default:
                usage();
        }
    }
    if (optind + 1 != argc || options.threads == 0 || options.block < 512 ||
        options.block % 512 != 0)
        usage();
    options.file = argv[optind];
    return options;
}

}  // namespace

int main(int argc, char** argv) {
    Options options = parse(argc, argv);
    sigset_t terminate;
    sigemptyset(&terminate);
    sigaddset(&terminate, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &terminate, nullptr);

    const int sync = options.sync ? O_DSYNC : 0;
    const int fd = open(options.file.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC | sync);
    const off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (end < 0) {
        std::fprintf(stderr, "verify: cannot open %s: %s\n", options.file.c_str(),
                     std::strerror(errno));
        return 2;
    }
    const auto available = static_cast<std::uint64_t>(end);
    options.size = options.size == 0 ? available : options.size;
    if (options.size > available || options.size / options.block < options.threads + pulses) {
        std::fprintf(stderr, "verify: %s has %ju bytes\n", options.file.c_str(),
                     std::uintmax_t{available});
        return 2;
    }

    const Tally total = write_and_check(options, fd);
    close(fd);
    std::printf("ops=%ju errors=%ju wrong=%ju max_latency_ms=%jd last_error=%s\n",
                std::uintmax_t{total.ops}, std::uintmax_t{total.errors},
                std::uintmax_t{total.wrong}, std::intmax_t{total.max_latency_ms},
                total.last_error != 0 ? strerrorname_np(total.last_error) : "none");
    return total.errors == 0 && total.wrong == 0 && total.ops > 0 ? 0 : 1;
}
