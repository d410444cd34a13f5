// The nearest so far, and how far a key is from a query.
//
// Letters: D numbers of a key, K neighbours.

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "vectors.h"

namespace {

// The K nearest so far, each as its distance's bits above its slot: in that order, since distances
// are not negative, and of equal ones the lower slot comes first.
struct Nearest {
    size_t wanted;
    std::vector<uint64_t> held;
    float edge;

    void begin(int64_t neighbours) {
        wanted = neighbours;
        held.clear();
        edge = INFINITY;
    }

    void offer(float distance, int64_t slot) {
        if (distance < edge) take(distance, slot);
    }

    __attribute__((noinline)) void take(float distance, int64_t slot) {
        uint32_t bits;
        std::memcpy(&bits, &distance, sizeof bits);
        held.push_back(uint64_t(bits) << 32 | uint64_t(slot));
        if (held.size() >= 4 * wanted + 64) {
            std::nth_element(held.begin(), held.begin() + wanted - 1, held.end());
            held.resize(wanted);
            bits = uint32_t(held.back() >> 32);
            std::memcpy(&edge, &bits, sizeof edge);  // slots come in order, so an equal one loses
        }
    }

    void write(float *distance_K, int64_t *slot_K) {
        size_t found = held.size();
        if (found <= 256) {  // each goes where as many are lower: no branch to guess
            uint64_t sorted[256];
            for (size_t one = 0; one < found; ++one) {
                size_t before = 0;
                for (size_t other = 0; other < found; ++other) before += held[other] < held[one];
                sorted[before] = held[one];
            }
            std::copy(sorted, sorted + found, held.begin());
        } else {
            std::sort(held.begin(), held.end());
        }
        for (size_t at = 0; at < wanted; ++at) {
            uint32_t bits = at < found ? uint32_t(held[at] >> 32) : 0x7f800000;  // infinity
            std::memcpy(distance_K + at, &bits, sizeof bits);
            slot_K[at] = at < found ? int64_t(uint32_t(held[at])) : -1;
        }
    }
};

// Keys in bytes about a centre, as they are kept between searches, with some rows to spare; null
// where none are. Of each a bound of |k|^2 less what rounding may hide, twice that, and its step.
struct Rounded {
    uint8_t *bytes;
    float *low, *width, *step, *centre;
};

// Where keys are, and how far from a query: the squared distance by direct differences.
struct Space {
    const float *keys;
    const uint8_t *filled;
    int64_t count, size, padded;  // padded: the power of 2 that D is filled up to with zeros
    Rounded rounded;
    std::vector<float> row, squares;

    Space(const float *keys, const uint8_t *filled, int64_t count, int64_t size, Rounded rounded)
        : keys(keys), filled(filled), count(count), size(size), padded(LANES), rounded(rounded) {
        while (padded < size) padded *= 2;
        row.resize(padded);
        squares.resize(padded);
    }

    // Returns a key with zeros behind it.
    const float *key(int64_t slot) {
        const float *from = keys + slot * size;
        if (size == padded) return from;
        std::memcpy(row.data(), from, size * sizeof(float));
        return row.data();
    }

    void prefetch(int64_t slot) const {
        for (int64_t at = 0; at < size; at += LANES) __builtin_prefetch(keys + slot * size + at);
    }

    template <int V>  // vectors of a key; 0: any number
    float measure(const float *query, int64_t slot) {
        const float *held = key(slot);
        if constexpr (V > 0) return by_halves(folded<V>(query, held));
        for (int64_t at = 0; at < padded; at += LANES)
            store(&squares[at], folded<1>(query + at, held + at));
        return by_halves(squares.data(), padded);
    }

    // Offers keys, some slots or all, to the nearest of a query.
    template <int V>
    void measure_each(const float *query, const int32_t *slots, int64_t some, Nearest &nearest) {
        for (int64_t at = 0; at < some; ++at) {
            int64_t slot = slots ? slots[at] : at;
            if (slots) prefetch(slots[std::min(at + 8, some - 1)]);
            else if (V <= 8) prefetch(slot + 4);  // longer keys the processor foresees itself
            if (filled[slot]) nearest.offer(measure<V>(query, slot), slot);
        }
    }

    void measure(const float *query, const int32_t *slots, int64_t some, Nearest &nearest) {
        switch (padded / LANES) {
            case 1: return measure_each<1>(query, slots, some, nearest);
            case 2: return measure_each<2>(query, slots, some, nearest);
            case 4: return measure_each<4>(query, slots, some, nearest);
            case 8: return measure_each<8>(query, slots, some, nearest);
            case 16: return measure_each<16>(query, slots, some, nearest);
            default: return measure_each<0>(query, slots, some, nearest);
        }
    }
};

}  // namespace
