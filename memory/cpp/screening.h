// Who may be among the nearest of many queries, by rounded products: far fewer are then measured.

#pragma once

#include <cfloat>

#include "measuring.h"

namespace {

// How screening multiplies: numbers as they are, or rounded to bfloat16, two in a word. SHARE of
// |q|^2 + |k|^2 is how far that may move -2 q.k: 4 r (1 + r / 2) |q| |k|, r = 2^-8.
struct Whole {
    static constexpr int PER_WORD = 1;
    static constexpr float SHARE = 0;
    static void put(float *words, Floats x) { store(words, x); }
    static Floats add_product(Floats sum, Floats a, Floats b) { return multiply_add(a, b, sum); }
};
#if defined(__AVX512BF16__)
struct Rounded {
    static constexpr int PER_WORD = 2;
    static constexpr float SHARE = 1.003f / 128;
    static void put(float *words, Floats x) {
        __m256bh rounded = _mm512_cvtneps_pbh((__m512)x);
        std::memcpy(words, &rounded, sizeof rounded);
    }
    static Floats add_product(Floats sum, Floats a, Floats b) {
        return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
    }
};
#else
using Rounded = Whole;
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

// Screens all keys for up to 32 queries: one product of rounded numbers, about a centre, so that
// what rounding may hide is as small as the keys' spread. A score begins at the key's |k|^2 less
// its margin and adds -2 q.k. The margins (2 |q.e| <= ratio |q|^2 + |e|^2 / ratio, and roundings of
// sums of D terms, that of the measured distance among them) are such that no winner is missed.
template <class Kind, int V>  // V: vectors of queries
struct Screen {
    Space &space;
    const float *centre;
    int64_t padded, words;  // D up to whole vectors, and words of it
    std::vector<float> panel, tile, row;
    float margins[LANES * V], edges[LANES * V];

    Screen(Space &space, const float *centre, const float *const *queries, int rows)
        : space(space), centre(centre), padded((space.size + 31) / 32 * 32),
          words(padded / Kind::PER_WORD), panel(words * LANES * V), tile(words * TILE), row(padded) {
        for (int query = 0; query < rows; ++query) {
            margins[query] = margin(put(queries[query], -2, tile.data()));
            for (int64_t word = 0; word < words; ++word)
                std::memcpy(&panel[word * LANES * V + query], &tile[word], sizeof(float));
        }
    }

    // Writes the words of a vector times a power of 2; returns its squared length.
    float put(const float *from, float scale, float *to) {
        if (space.size != padded) {
            std::memcpy(row.data(), from, space.size * sizeof(float));
            from = row.data();
        }
        Floats squares{};
        for (int64_t at = 0; at < padded; at += LANES) {
            Floats x = load(from + at) - load(centre + at);
            squares = multiply_add(x, x, squares);
            Kind::put(to + at / Kind::PER_WORD, x * scale);
        }
        return by_halves(squares);
    }

    float margin(float length) const {
        return (Kind::SHARE + (space.size + 16) * 0x1p-22f) * length + padded * FLT_MIN;
    }

    void multiply(const float *begin, Floats (*score)[V]) const {
        Floats sum[TILE][V];  // stays in registers
        for (int key = 0; key < TILE; ++key)
            for (int v = 0; v < V; ++v) sum[key][v] = spread(begin[key]);
        const float *query = panel.data(), *keys = tile.data();
        for (int64_t word = 0; word < words; ++word, query += LANES * V)
            for (int key = 0; key < TILE; ++key)
                for (int v = 0; v < V; ++v)
                    sum[key][v] = Kind::add_product(sum[key][v], load(query + v * LANES),
                                                    spread(keys[key * words + word]));
        std::memcpy(score, sum, sizeof sum);
    }

    // Looks at one tile of keys out of `stride`.
    void run(int64_t stride, Candidates *of, int rows) {
        std::fill(edges, edges + LANES * V, -INFINITY);
        for (int query = 0; query < rows; ++query) edges[query] = of[query].edge;
        for (int64_t first = 0; first < space.count; first += TILE * stride) {
            int keys = int(std::min<int64_t>(TILE, space.count - first));
            float length[TILE], width[TILE], begin[TILE];
            for (int key = 0; key < TILE; ++key) {
                length[key] = INFINITY;  // not held: its scores are no numbers, and meet no edge
                if (key >= keys || !space.filled[first + key]) continue;
                const float *from = space.keys + (first + key) * space.size;
                space.prefetch(first + key + TILE * stride);
                length[key] = put(from, 1, &tile[key * words]);
            }
            for (int key = 0; key < TILE; ++key) {
                float own = margin(length[key]);
                width[key] = 2 * own, begin[key] = length[key] - own;
            }
            Floats score[TILE][V];
            multiply(begin, score);
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
