// Vectors in bytes, and how far that may move their products.
//
// Letters: D numbers of a key, N keys.

#pragma once

#include <cfloat>

#include "measuring.h"

namespace {

// How screening multiplies: numbers as they are, or rounded to whole steps, four in a word. How far
// that may move -2 q.k is at most SHARE of |q|^2 + |k|^2 and LOST of what rounding took of each:
// 2 |q' e_k + e_q k| <= R |q'|^2 + |e_k|^2 / R + |e_q|^2 / R + R |k|^2, where q' = q - e_q, so that
// |q'|^2 <= 1.01 |q|^2 + 101 |e_q|^2, and R = 1/128.
struct Whole {
    typedef Floats Sum;
    static constexpr int PER_WORD = 1;
    static constexpr float SHARE = 0, LOST = 0;
    static void put(float *word, Floats x) { store(word, x); }
    static float of_query(float word, int32_t &) { return word; }
    static Sum begin(const int32_t *) { return Sum{}; }
    static Sum add_product(Sum sum, Floats a, float b) { return multiply_add(a, spread(b), sum); }
    static Floats in_steps(Sum sum) { return sum; }
};
#if defined(__AVX512VNNI__)
struct Bytes {  // of keys 128 more than there are steps: the processor multiplies what has no sign
    typedef int32_t Sum __attribute__((vector_size(4 * LANES)));
    static constexpr int PER_WORD = 4;
    static constexpr float SHARE = 1.01f / 128, LOST = 1.02f * 128;
    static Floats larger(Floats most, Floats x) {
        return (Floats)_mm512_max_ps((__m512)most, _mm512_abs_ps((__m512)x));
    }
    static float step(Floats most) { return std::max(_mm512_reduce_max_ps((__m512)most), 1e-30f) / 127; }
    // Writes a vector in whole steps, -127 to 127; returns the rest.
    static Floats put(float *word, Floats x, float step, float inverse) {
        __m128i bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32((__m512)(x * inverse)));
        __m128i moved = _mm_xor_si128(bytes, _mm_set1_epi8(-128));
        std::memcpy(word, &moved, sizeof moved);
        return multiply_add(in_steps((Sum)_mm512_cvtepi8_epi32(bytes)), spread(-step), x);
    }
    // Returns a word as it is for a query, and adds its steps to a sum.
    static float of_query(float word, int32_t &sum) {
        int8_t steps[4];
        std::memcpy(steps, &word, sizeof steps);
        for (int8_t &step : steps) sum += step = int8_t(step ^ -128);
        std::memcpy(&word, steps, sizeof word);
        return word;
    }
    // Takes off what the 128 that are too much add to the products of sixteen queries.
    static Sum begin(const int32_t *sums) { return (Sum)_mm512_loadu_si512(sums) * -128; }
    static Sum add_product(Sum sum, Floats a, float b) {
        int32_t word;
        std::memcpy(&word, &b, sizeof word);
        return (Sum)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(word), (__m512i)a);
    }
    static Floats in_steps(Sum sum) { return (Floats)_mm512_cvtepi32_ps((__m512i)sum); }
};
constexpr int64_t MOST = 1 << 15;  // numbers of a key whose sum of products fits into 32 bits
#else
using Bytes = Whole;
constexpr int64_t MOST = INT64_MAX;
#endif

// What was put of a vector: its squared length, that of what was lost, and how large a step is.
struct Put {
    float length, lost, step;
};

inline int64_t padded_size(int64_t size) { return (size + 31) / 32 * 32; }

// Writes the words of a vector, about a centre; `row` has zeros where it has fewer numbers.
template <class Kind>
Put put(const float *from, const float *centre, int64_t size, std::vector<float> &row, float *to) {
    int64_t padded = padded_size(size);
    if (size != padded) {
        std::memcpy(row.data(), from, size * sizeof(float));
        from = row.data();
    }
    Floats squares{}, lost{}, most{};
    for (int64_t at = 0; at < padded; at += LANES) {
        Floats x = load(from + at) - load(centre + at);
        squares = multiply_add(x, x, squares);
        if constexpr (Kind::LOST == 0) Kind::put(to + at / Kind::PER_WORD, x);
        else most = Kind::larger(most, x);
    }
    if constexpr (Kind::LOST == 0) {
        return {by_halves(squares), 0, 1};
    } else {
        float step = Kind::step(most), inverse = 1 / step;
        for (int64_t at = 0; at < padded; at += LANES) {
            Floats x = load(from + at) - load(centre + at);
            Floats rest = Kind::put(to + at / Kind::PER_WORD, x, step, inverse);
            lost = multiply_add(rest, rest, lost);
        }
        return {by_halves(squares), by_halves(lost), step};
    }
}

// Returns how far a product with such a vector may be off, beside what the other one's adds.
template <class Kind>
float margin(Put put, int64_t size) {
    float rounding = Kind::SHARE + (size + 16) * 0x1p-22f;
    return rounding * put.length + Kind::LOST * put.lost + padded_size(size) * FLT_MIN;
}

// The mean of some of the keys.
std::vector<float> centre_of(const Space &space) {
    std::vector<float> centre(padded_size(space.size), 0.0f);
    int64_t stride = std::max<int64_t>(1, space.count / 32);
    float taken = 0;
    for (int64_t slot = 0; slot < space.count; slot += stride) {
        if (!space.filled[slot]) continue;
        ++taken;
        for (int64_t at = 0; at < space.size; ++at)
            centre[at] += (space.keys[slot * space.size + at] - centre[at]) / taken;
    }
    for (float &number : centre)
        if (!std::isfinite(number)) number = 0;
    return centre;
}

#if defined(__AVX512VNNI__)
// Puts some of the keys, or all, where they are kept.
void round_keys(const Space &space, const int64_t *slots, int64_t some) {
    const Rounded &kept = space.rounded;
    int64_t padded = padded_size(space.size);
    std::vector<float> row(padded), word(padded / Bytes::PER_WORD);
    for (int64_t at = 0; at < some; ++at) {
        int64_t slot = slots ? slots[at] : at;
        Put own = put<Bytes>(space.keys + slot * space.size, kept.centre, space.size, row, word.data());
        std::memcpy(kept.bytes + slot * padded, word.data(), padded);
        float about = margin<Bytes>(own, space.size);
        kept.low[slot] = own.length - about, kept.width[slot] = 2 * about, kept.step[slot] = own.step;
    }
}
#endif

}  // namespace
