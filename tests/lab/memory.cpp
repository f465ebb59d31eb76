// SPDX-License-Identifier: MIT
// Fills memory with a pattern, then checks all of it: what was swapped out has to come back as it
// was. Prints one line and exits 0 only when nothing was wrong:
//
//   memory MEBIBYTES
//   pages=N wrong=N

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>

namespace {

constexpr std::size_t page_words = 4096 / sizeof(std::uint64_t);
using Page = std::span<std::uint64_t, page_words>;

// No two pages have a word in the same place in common.
std::uint64_t first_word(std::size_t page) {
    return (page + 1) * 0x9e3779b97f4a7c15;
}

void fill(Page words, std::uint64_t first) {
    for (std::size_t i = 0; i < words.size(); ++i) words[i] = first ^ i;
}

bool holds(Page words, std::uint64_t first) {
    std::uint64_t difference = 0;
    for (std::size_t i = 0; i < words.size(); ++i) difference |= words[i] ^ first ^ i;
    return difference == 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fputs("usage: memory MEBIBYTES\n", stderr);
        return 2;
    }
    const std::size_t pages = std::stoul(argv[1]) * 256;
    const std::unique_ptr<std::uint64_t[]> memory(new std::uint64_t[pages * page_words]);
    const auto page = [&](std::size_t number) {
        return Page(memory.get() + number * page_words, page_words);
    };
    for (std::size_t i = 0; i < pages; ++i) fill(page(i), first_word(i));
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < pages; ++i) wrong += holds(page(i), first_word(i)) ? 0 : 1;
    std::printf("pages=%zu wrong=%zu\n", pages, wrong);
    return wrong == 0 ? 0 : 1;
}
