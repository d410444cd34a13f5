// Python's generator of random numbers, for several rows at once.
//
// MT19937 (Matsumoto and Nishimura 1998), seeded by an array of 32-bit words as theirs is and as
// Python seeds it with a whole number: the same draws as those of Python's `random.Random`.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

constexpr int ROWS = 64;  // whose numbers are worked out side by side
constexpr int WORDS = 624, NEXT = 397, BLOCK = 104;  // of the state; drawn at once

using Lanes = uint32_t __attribute__((vector_size(64)));
constexpr int WIDTH = sizeof(Lanes) / sizeof(uint32_t), PARTS = ROWS / WIDTH;

// One word of every row.
struct Word {
    Lanes part[PARTS];
};

class Twister {
  public:
    // Begin anew with a key a row; keys below 2^32 are one word, others two.
    void seed(const uint64_t *keys_R) {
        Word even, odd;
        for (int row = 0; row < ROWS; ++row) {
            uint32_t low = uint32_t(keys_R[row]), high = uint32_t(keys_R[row] >> 32);
            even.part[row / WIDTH][row % WIDTH] = low;
            odd.part[row / WIDTH][row % WIDTH] = high ? high + 1 : low;
        }
        uint32_t first = FIRST;
        Word last = spread(first);
        words_[0] = last;
        for (uint32_t at = 1; at < WORDS; ++at) {
            first = 1812433253u * (first ^ (first >> 30)) + at;
            last = words_[at] = follow(spread(first), last, 1664525u, at % 2 ? even : odd);
        }
        last = words_[1] = follow(words_[1], last, 1664525u, odd);  // it comes round to the second
        for (uint32_t at = 2; at < WORDS; ++at)
            last = words_[at] = follow(words_[at], last, 1566083941u, spread(-at));
        words_[1] = follow(words_[1], last, 1566083941u, spread(-1u));
        words_[0] = spread(0x80000000u);
        drawn_.clear(), at_ = 0;
    }

    // What rows drew so far, a number a row, one draw after the other; `more` adds to them.
    const uint32_t *drawn() const { return reinterpret_cast<const uint32_t *>(drawn_.data()); }
    size_t draws() const { return drawn_.size(); }

    __attribute__((noinline)) void more() {
        for (int end = at_ + BLOCK; at_ < end; ++at_) {
            Word &word = words_[at_];
            const Word &after = words_[(at_ + 1) % WORDS], &far = words_[(at_ + NEXT) % WORDS];
            Word told;
            for (int at = 0; at < PARTS; ++at) {
                Lanes mixed = (word.part[at] & 0x80000000u) | (after.part[at] & 0x7fffffffu);
                Lanes y = far.part[at] ^ (mixed >> 1) ^ (-(mixed & 1u) & 0x9908b0dfu);
                word.part[at] = y;
                y ^= y >> 11;
                y ^= (y << 7) & 0x9d2c5680u;
                y ^= (y << 15) & 0xefc60000u;
                told.part[at] = y ^ (y >> 18);
            }
            drawn_.push_back(told);
        }
        at_ %= WORDS;
    }

  private:
    static constexpr uint32_t FIRST = 19650218u;

    static Word spread(uint32_t number) {
        Word all;
        for (Lanes &part : all.part) part = Lanes{} + number;
        return all;
    }

    static Word follow(const Word &word, const Word &last, uint32_t factor, const Word &added) {
        Word next;
        for (int at = 0; at < PARTS; ++at) {
            Lanes before = last.part[at];
            next.part[at] = (word.part[at] ^ ((before ^ (before >> 30)) * factor)) + added.part[at];
        }
        return next;
    }

    Word words_[WORDS];
    std::vector<Word> drawn_;
    int at_ = 0;
};

// The draws of one row, from the first.
class Random {
  public:
    Random(Twister &twister, int row) : twister_(twister), row_(row) {}

    // From 0 to below 1, 53 bits.
    double uniform() {
        uint32_t high = next() >> 5, low = next() >> 6;
        return (high * 67108864.0 + low) * (1.0 / 9007199254740992.0);
    }

    // From 0 to below `count`, as `World.pick` draws it.
    int pick(int64_t count) { return int(uniform() * double(count)); }

    // From 0 to below `count`, as `randrange`, `choice`, `sample` and `shuffle` draw it.
    int64_t below(int64_t count) {
        int bits = 64 - __builtin_clzll(uint64_t(count));
        uint32_t drawn;
        do drawn = next() >> (32 - bits);
        while (drawn >= count);
        return drawn;
    }

  private:
    uint32_t next() {
        if (place_ == draws_) find();
        return drawn_[place_++ * ROWS];
    }

    void find() {
        if (place_ == twister_.draws()) twister_.more();
        drawn_ = twister_.drawn() + row_, draws_ = twister_.draws();
    }

    Twister &twister_;
    int row_;
    size_t place_ = 0, draws_ = 0;
    const uint32_t *drawn_ = nullptr;
};

}  // namespace
