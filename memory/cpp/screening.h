// Who may be among the nearest of many queries, by rounded products: far fewer are then measured.

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

#if defined(__AVX512F__)
constexpr int TILE = 8, TOGETHER = 4;  // keys: their scores for 32 queries fill 16 registers
#else
constexpr int TILE = 2, TOGETHER = 2;
#endif
constexpr int PANEL = 2;  // vectors of queries
constexpr int FEW = 2;    // queries that are measured against every key

// What one query may still be near to. Where its true score (the squared distance less |q|^2) lies
// is known up to margins: from `low` less the query's own to `high` and the query's own.
struct Candidates {
    std::vector<float> low, high;
    std::vector<int32_t> slots;
    size_t count, wanted;
    float margin, limit, edge;  // nobody above the limit was looked at, nobody above the edge is let in
    bool crowded;

    void begin(size_t neighbours, float own_margin, float first_edge) {
        wanted = neighbours, margin = own_margin, limit = edge = first_edge;
        count = 0, crowded = false;
        size_t room = std::max<size_t>(128, 4 * wanted);
        if (low.size() != room) low.resize(room), high.resize(room), slots.resize(room);
    }

    void add(float score, float width, int64_t slot) {
        if (count == low.size()) return;  // crowded, and so in vain
        low[count] = score, high[count] = score + width, slots[count] = int32_t(slot);
        if (++count == low.size()) prune();
    }

    // Drops who surely is not among the K nearest, and lowers the edge for who is to come.
    __attribute__((noinline)) void prune() {
        if (count < wanted) return;
        float least = *std::min_element(high.begin(), high.begin() + count);
        float most = *std::max_element(high.begin(), high.begin() + count);
        for (int step = 0; step < 12; ++step) {  // any number with K below it will do
            float middle = least + (most - least) / 2;
            int below = 0;
            for (size_t at = 0; at < count; ++at) below += high[at] <= middle;
            (below >= int(wanted) ? most : least) = middle;
        }
        edge = most + 2 * margin;
        size_t kept = 0;
        for (size_t at = 0; at < count; ++at) {
            low[kept] = low[at], high[kept] = high[at], slots[kept] = slots[at];
            kept += low[at] <= edge;
        }
        count = kept;
        crowded = crowded || count > low.size() - low.size() / 8;
        edge = crowded ? -INFINITY : edge;
    }

    // Returns whether all that may be among the K nearest are here.
    bool complete() const { return !crowded && (count >= wanted ? edge <= limit : limit == FLT_MAX); }
};

// What was put of a vector: its squared length, that of what was lost, and how large a step is.
struct Put {
    float length, lost, step;
};

// Screens all keys for up to 32 queries: one product of rounded numbers, about a centre, so that
// what rounding may hide is as small as the keys' spread. A score begins at the key's |k|^2 less
// its margin and adds -2 q.k. The margins (what rounding moves, see above, and roundings of sums of
// D terms, that of the measured distance among them) are such that no winner is missed.
template <class Kind, int V>  // V: vectors of queries
struct Screen {
    Space &space;
    const float *centre;
    int64_t padded, words;  // D up to whole vectors, and words of it
    std::vector<float> panel, tile, row;
    typename Kind::Sum begins[V];
    float margins[LANES * V], edges[LANES * V], steps[LANES * V];  // of products: of -2 q.k

    Screen(Space &space, const float *centre, const float *const *queries, int rows)
        : space(space), centre(centre), padded((space.size + 31) / 32 * 32),
          words(padded / Kind::PER_WORD), panel(words * LANES * V), tile(words * TILE), row(padded),
          steps{} {
        int32_t sums[LANES * V]{};
        for (int query = 0; query < rows; ++query) {
            Put own = put(queries[query], tile.data());
            margins[query] = margin(own), steps[query] = -2 * own.step;
            for (int64_t word = 0; word < words; ++word)
                panel[word * LANES * V + query] = Kind::of_query(tile[word], sums[query]);
        }
        for (int v = 0; v < V; ++v) begins[v] = Kind::begin(sums + v * LANES);
    }

    // Writes the words of a vector.
    Put put(const float *from, float *to) {
        if (space.size != padded) {
            std::memcpy(row.data(), from, space.size * sizeof(float));
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

    float margin(Put put) const {
        float rounding = Kind::SHARE + (space.size + 16) * 0x1p-22f;
        return rounding * put.length + Kind::LOST * put.lost + padded * FLT_MIN;
    }

    void multiply(const float *begin, const float *step, Floats (*score)[V]) const {
        typename Kind::Sum sum[TILE][V];  // stays in registers
        for (int key = 0; key < TILE; ++key)
            for (int v = 0; v < V; ++v) sum[key][v] = begins[v];
        const float *query = panel.data(), *keys = tile.data();
        for (int64_t word = 0; word < words; ++word, query += LANES * V)
            for (int key = 0; key < TILE; ++key)
                for (int v = 0; v < V; ++v)
                    sum[key][v] = Kind::add_product(sum[key][v], load(query + v * LANES),
                                                    keys[key * words + word]);
        for (int key = 0; key < TILE; ++key)
            for (int v = 0; v < V; ++v)
                score[key][v] = multiply_add(Kind::in_steps(sum[key][v]) * spread(step[key]),
                                             load(steps + v * LANES), spread(begin[key]));
    }

    // Looks at one tile of keys out of `stride`.
    void run(int64_t stride, Candidates *of, int rows) {
        std::fill(edges, edges + LANES * V, -INFINITY);
        for (int query = 0; query < rows; ++query) edges[query] = of[query].edge;
        for (int64_t first = 0; first < space.count; first += TILE * stride) {
            int keys = int(std::min<int64_t>(TILE, space.count - first));
            float width[TILE], begin[TILE], each[TILE];
            for (int key = 0; key < TILE; ++key) {
                Put own{INFINITY, 0, 1};  // not held: its scores are no numbers, and meet no edge
                if (key < keys && space.filled[first + key]) {
                    space.prefetch(first + key + TILE * stride);
                    own = put(space.keys + (first + key) * space.size, &tile[key * words]);
                }
                float about = margin(own);
                width[key] = 2 * about, begin[key] = own.length - about, each[key] = own.step;
            }
            Floats score[TILE][V];
            multiply(begin, each, score);
            for (int v = 0; v < V; ++v)
                for (int part = 0; part < TILE; part += TOGETHER) {
                    uint64_t bits = 0;
                    Floats edge = load(edges + v * LANES);
                    for (int key = 0; key < TOGETHER; ++key)
                        bits |= uint64_t(up_to(score[part + key][v], edge)) << (LANES * key);
                    for (; bits; bits &= bits - 1) {
                        int at = __builtin_ctzll(bits), key = part + at / LANES, lane = at % LANES;
                        Candidates &own = of[v * LANES + lane];
                        own.add(score[key][v][lane], width[key], first + key);
                        edges[v * LANES + lane] = own.edge;
                    }
                }
        }
    }
};

// The mean of some of the keys.
std::vector<float> centre_of(const Space &space) {
    std::vector<float> centre((space.size + 31) / 32 * 32, 0.0f);
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

// Finds the nearest for some of the queries by screening; returns those for whom it was in vain.
// With a stride the edge is first guessed from a part of the keys, so that few are let in.
template <class Kind, int V>
std::vector<int> screened(Space &space, const float *centre, const float *const *queries,
                          const std::vector<int> &rows, int64_t stride, Candidates *of, Nearest *nearest) {
    const float *asked[LANES * V];
    int count = int(rows.size());
    for (int at = 0; at < count; ++at) asked[at] = queries[rows[at]];
    Screen<Kind, V> screen(space, centre, asked, count);
    size_t wanted = nearest[0].wanted;
    float share = float(wanted) / stride;
    size_t among = stride > 1 ? size_t(share + 4 * std::sqrt(share) + 3) : wanted;  // seldom too few
    for (int at = 0; at < count; ++at) of[at].begin(among, screen.margins[at], FLT_MAX);
    screen.run(stride, of, count);
    if (stride > 1) {
        for (int at = 0; at < count; ++at) {
            of[at].prune();
            of[at].begin(wanted, screen.margins[at], of[at].edge);
        }
        screen.run(1, of, count);
    }
    std::vector<int> left;
    for (int at = 0; at < count; ++at) {
        of[at].prune();
        if (!of[at].complete()) {
            left.push_back(rows[at]);
            continue;
        }
        space.measure(asked[at], of[at].slots.data(), int64_t(of[at].count), nearest[rows[at]]);
    }
    return left;
}

}  // namespace
