// Small products and functions in vectors, for `scoring.cpp` and `choosing.cpp`: as wide as the
// processor has them, and with as many sums at once as its registers hold.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX2__) && defined(__FMA__)
constexpr int LANES = 8;  // 16, where there are as many, waste more on few slots than they save
#else
constexpr int LANES = 4;
#endif
constexpr int ROWS = 6, VECTORS = 2;  // of a product: their sums fill 12 registers of 16
constexpr int PADDED = 8;  // numbers are filled up with zeros to a multiple of it: see fused.py

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef float Quarter __attribute__((vector_size(16)));
typedef int32_t Wholes __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));

// Zeros at first, whose first one is where a vector is loaded fastest.
class Numbers {
    std::vector<Floats> vectors;

  public:
    explicit Numbers(int64_t size) : vectors((size + LANES - 1) / LANES) {}
    float *data() { return reinterpret_cast<float *>(vectors.data()); }
    float &operator[](int64_t at) { return data()[at]; }
};

inline int64_t padded(int64_t size) { return (size + PADDED - 1) / PADDED * PADDED; }

inline Floats load(const float *from) {
    Floats x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline void store(float *to, Floats x) { std::memcpy(to, &x, sizeof x); }

// Returns all bits where a column, `first` that of the first lane, is at least a number.
inline Wholes from_on(int64_t first, int64_t number) {
    Wholes columns;
    for (int lane = 0; lane < LANES; ++lane) columns[lane] = lane;
    return columns >= int32_t(number - first) + Wholes{};
}

inline Floats spread(float x) {
#if defined(__AVX2__) && defined(__FMA__)
    return (Floats)_mm256_set1_ps(x);
#else
    return Floats{x, x, x, x};
#endif
}

// Keeps it in a register: compilers would fetch it again for each product.
inline Floats spread_once(float x) {
    Floats all = spread(x);
#if defined(__AVX2__) && defined(__FMA__)
    asm("" : "+x"(all));
#endif
    return all;
}

inline Floats multiply_add(Floats a, Floats b, Floats sum) {
#if defined(__AVX2__) && defined(__FMA__)
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#else
    return a * b + sum;
#endif
}

inline float total(Floats x) {
    Quarter parts[LANES / 4];
    std::memcpy(parts, &x, sizeof x);
    for (int at = 1; at < LANES / 4; ++at) parts[0] += parts[at];
    return (parts[0][0] + parts[0][2]) + (parts[0][1] + parts[0][3]);
}

inline float highest(Floats x) {  // where one is NaN, any
    Quarter parts[LANES / 4];
    std::memcpy(parts, &x, sizeof x);
    for (int at = 1; at < LANES / 4; ++at) parts[0] = parts[at] > parts[0] ? parts[at] : parts[0];
    return std::max(std::max(parts[0][0], parts[0][2]), std::max(parts[0][1], parts[0][3]));
}

// Returns exp(x) for x up to 88, with an error of at most 2 units in the last place; below -80 it is
// exp(-80), with which no product is denormal.
inline Floats exponential(Floats x) {
    constexpr float MAGIC = 0x1.8p23f;  // added to it, a number is rounded to a whole one
    constexpr float LN2_HIGH = 0x1.62e4p-1f, LN2_LOW = 1.42860677e-6f;
    constexpr float TERMS[] = {1.3814600e-3f, 8.3687156e-3f, 4.1668389e-2f, 1.6666521e-1f, 0.5f, 1, 1};
    Floats clipped = x < spread(-80) ? spread(-80) : x;
    Floats rounded = multiply_add(clipped, spread(1.44269504f), spread(MAGIC));
    Floats power = rounded - spread(MAGIC);
    Floats rest = multiply_add(power, spread(-LN2_HIGH), clipped);
    rest = multiply_add(power, spread(-LN2_LOW), rest);
    Floats sum = spread(TERMS[0]);
    for (int term = 1; term < 7; ++term) sum = multiply_add(sum, rest, spread(TERMS[term]));
    return x == x ? (Floats)((Bits)sum + ((Bits)rounded << 23)) : x;
}

// Returns erf(x) with an error of at most 8 units in the last place: x P(x^2) / Q(x^2).
inline Floats error_function(Floats x) {
    constexpr float ABOVE[] = {2.0500990e-6f, 2.8487697e-4f, 3.7654345e-3f,
                               5.2748170e-2f, 1.9040246e-1f, 1.1283791f};
    constexpr float BELOW[] = {3.8091530e-5f, 1.1624879e-3f, 1.4968858e-2f,
                               1.1410743e-1f, 5.0207250e-1f, 1};
    constexpr float END = 3.92f;  // from here on it is 1
    x = x > spread(END) ? spread(END) : x < spread(-END) ? spread(-END) : x;
    Floats square = x * x, above = spread(ABOVE[0]), below = spread(BELOW[0]);
    for (int term = 1; term < 6; ++term) {
        above = multiply_add(above, square, spread(ABOVE[term]));
        below = multiply_add(below, square, spread(BELOW[term]));
    }
    return x * above / below;
}

// Returns log(1 + x), where x is most often a small whole number.
inline float log_of_one_more(float x) {
    static const std::vector<float> known = [] {
        std::vector<float> told(256);
        for (int at = 0; at < 256; ++at) told[at] = std::log1p(float(at));
        return told;
    }();
    bool is_known = x >= 0 && x < 256 && float(int(x)) == x;
    return is_known ? known[int(x)] : std::log1p(x);
}

// x w + begin, where x is [rows, inner], w `[inner, vectors * LANES]`; each has its step from row to
// row, and `begin`, of one row or null, is added to each.
struct Product {
    const float *x;
    int64_t x_step, inner;
    const float *w;
    int64_t w_step;
    const float *begin;
    float *out;
    int64_t out_step;

    template <int R, int V>
    void block(int64_t row, int64_t column) const {
        Floats sum[R][V];  // stays in registers
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) sum[r][v] = begin ? load(begin + column + LANES * v) : Floats{};
        const float *from = x + row * x_step, *by = w + column;
        for (int64_t at = 0; at < inner; ++at, by += w_step)
            for (int r = 0; r < R; ++r) {
                Floats own = spread_once(from[r * x_step + at]);
                for (int v = 0; v < V; ++v) sum[r][v] = multiply_add(own, load(by + LANES * v), sum[r][v]);
            }
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) store(out + (row + r) * out_step + column + LANES * v, sum[r][v]);
    }

    template <int R, int V>
    void rest(int64_t row, int64_t rows, int64_t column) const {
        if (rows == R) block<R, V>(row, column);
        if constexpr (R > 1)
            if (rows < R) rest<R - 1, V>(row, rows, column);
    }

    template <int V>
    void columns(int64_t rows, int64_t column) const {
        int64_t row = 0;
        for (; row + ROWS <= rows; row += ROWS) block<ROWS, V>(row, column);
        if (row < rows) rest<ROWS, V>(row, rows - row, column);
    }

    template <int V>
    void last(int64_t rows, int64_t column, int64_t vectors) const {
        if (vectors == V) columns<V>(rows, column);
        if constexpr (V > 1)
            if (vectors < V) last<V - 1>(rows, column, vectors);
    }

    void run(int64_t rows, int64_t vectors) const {
        int64_t vector = 0;
        for (; vector + VECTORS <= vectors; vector += VECTORS) columns<VECTORS>(rows, vector * LANES);
        if (vector < vectors) last<VECTORS>(rows, vector * LANES, vectors - vector);
    }
};

// Lays a matrix on its side; what stands beyond `size` columns is left as it is.
void turn(const float *from, int64_t rows, int64_t size, int64_t from_step, float *to, int64_t to_step) {
    int64_t row = 0;
    for (; row + LANES <= rows; row += LANES)
        for (int64_t column = 0; column < size; ++column) {
            const float *at = from + row * from_step + column;
            Floats own;
            for (int lane = 0; lane < LANES; ++lane) own[lane] = at[lane * from_step];
            store(to + column * to_step + row, own);
        }
    for (; row < rows; ++row)
        for (int64_t column = 0; column < size; ++column)
            to[column * to_step + row] = from[row * from_step + column];
}

float dot(const float *a, const float *b, int64_t size) {
    Floats sum{};
    int64_t at = 0;
    for (; at + LANES <= size; at += LANES) sum = multiply_add(load(a + at), load(b + at), sum);
    float rest = 0;
    for (; at < size; ++at) rest += a[at] * b[at];
    return total(sum) + rest;
}

}  // namespace
