// Vectors of sixteen numbers and their sums, in an order that does not depend on the processor.

#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16;
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef float Half __attribute__((vector_size(2 * LANES)));
typedef float Quarter __attribute__((vector_size(LANES)));

inline Floats load(const float *from) {
    Floats x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline void store(float *to, Floats x) { std::memcpy(to, &x, sizeof x); }

inline Floats spread(float x) {
    return Floats{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

inline Floats multiply_add(Floats a, Floats b, Floats sum) {
#if defined(__AVX512F__)
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__FP_FAST_FMAF)
    for (int lane = 0; lane < LANES; ++lane) sum[lane] = __builtin_fmaf(a[lane], b[lane], sum[lane]);
    return sum;
#else
    return a * b + sum;
#endif
}

// Returns a bit for each lane that is no higher than an edge.
inline unsigned up_to(Floats x, Floats edge) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)x, (__m512)edge, _CMP_LE_OQ);
#else
    unsigned bits = 0;
    for (int lane = 0; lane < LANES; ++lane) bits |= unsigned(x[lane] <= edge[lane]) << lane;
    return bits;
#endif
}

#if defined(__AVX512F__)
constexpr bool PACKS = true;  // at once, and so sooner than it is seen whether there are any
#else
constexpr bool PACKS = false;
#endif

// Writes those of sixteen numbers that have a bit, one after the other, and what follows at random.
template <class Number>
inline void pack(const Number *from, unsigned bits, Number *to) {
#if defined(__AVX512F__)
    __m512i x = _mm512_maskz_compress_epi32(bits, _mm512_loadu_si512(from));
    _mm512_storeu_si512(to, x);
#else
    for (int lane = 0; lane < LANES; ++lane) *to = from[lane], to += bits >> lane & 1;
#endif
}

// Sums, the upper half added to the lower until one number is left, as `by_halves` of knn.py does:
// an order of additions that vectors of any width keep, so that the sum is the same everywhere.
inline float by_halves(Floats x) {
    Half halves[2];
    std::memcpy(halves, &x, sizeof x);
    Half half = halves[0] + halves[1];
    Quarter quarters[2];
    std::memcpy(quarters, &half, sizeof half);
    Quarter last = quarters[0] + quarters[1];
    return (last[0] + last[2]) + (last[1] + last[3]);
}

float by_halves(float *x, int64_t size) {  // size: a power of 2, at least 16
    for (int64_t half = size / 2; half >= LANES; half /= 2)
        for (int64_t at = 0; at < half; at += LANES) store(x + at, load(x + at) + load(x + at + half));
    return by_halves(load(x));
}

inline Floats squared(const float *a, const float *b) {
    Floats difference = load(a) - load(b);
    return difference * difference;
}

// Returns one vector of the squared differences of V vectors, folded by halves.
template <int V>
inline Floats folded(const float *a, const float *b) {
    if constexpr (V == 1) return squared(a, b);
    constexpr int HALF = (V + 1) / 2;
    Floats sum[HALF];
    for (int at = 0; at < HALF; ++at) sum[at] = squared(a + LANES * at, b + LANES * at);
    for (int at = 0; at < HALF; ++at)
        sum[at] += squared(a + LANES * (HALF + at), b + LANES * (HALF + at));
    for (int half = HALF / 2; half > 0; half /= 2)
        for (int at = 0; at < half; ++at) sum[at] += sum[at + half];
    return sum[0];
}

}  // namespace
