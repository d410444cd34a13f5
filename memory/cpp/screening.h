// Who may be among the nearest of many queries, by rounded products: far fewer are then measured.

#pragma once

#include "rounding.h"

namespace {

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
        size_t room = std::max<size_t>(64, (4 * wanted + LANES - 1) / LANES * LANES);
        if (low.size() != room) low.resize(room), high.resize(room), slots.resize(room);
    }

    void add(float score, float width, int64_t slot) {
        if (count == low.size()) return;  // crowded, and so in vain
        low[count] = score, high[count] = score + width, slots[count] = int32_t(slot);
        if (++count == low.size()) prune();
    }

    size_t up_to_edge(const std::vector<float> &numbers, float edge) const {
        size_t found = 0;
        for (size_t at = 0; at < count; at += LANES)
            found += __builtin_popcount(up_to(load(&numbers[at]), spread(edge)));
        return found;
    }

    // Drops who surely is not among the K nearest, and lowers the edge for who is to come.
    __attribute__((noinline)) void prune() {
        if (count < wanted) return;
        for (size_t at = count; at % LANES; ++at) low[at] = high[at] = INFINITY;
        Floats least = load(&high[0]), most = spread(-INFINITY);
        for (size_t at = 0; at < count; at += LANES) {
            Floats x = load(&high[at]);
            least = x < least ? x : least;
            most = x > most && x < spread(INFINITY) ? x : most;
        }
        float below = least[0], enough = most[0];
        for (int lane = 1; lane < LANES; ++lane)
            below = std::min(below, least[lane]), enough = std::max(enough, most[lane]);
        for (int step = 0; step < 8; ++step) {  // any number with K below it will do
            float middle = below + (enough - below) / 2;
            (up_to_edge(high, middle) >= wanted ? enough : below) = middle;
        }
        edge = enough + 2 * margin;
        size_t kept = 0;
        for (size_t at = 0; at < count; at += LANES) {
            unsigned stay = up_to(load(&low[at]), spread(edge));
            pack(&low[at], stay, &low[kept]), pack(&high[at], stay, &high[kept]);
            pack(&slots[at], stay, &slots[kept]);
            kept += __builtin_popcount(stay);
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
// its margin and adds -2 q.k. The margins (what rounding moves, see `rounding.h`, and roundings of
// sums of D terms, that of the measured distance among them) are such that no winner is missed.
template <class Kind, int V>  // V: vectors of queries
struct Screen {
    Space &space;
    const float *centre;
    const Rounded *kept;    // keys as they are kept, null where they are put here
    int64_t padded, words;  // D up to whole vectors, and words of it
    std::vector<float> panel, tile, row;
    typename Kind::Sum begins[V];
    float margins[LANES * V], edges[LANES * V], steps[LANES * V];  // of products: of -2 q.k

    Screen(Space &space, const float *centre, const float *const *queries, int rows)
        : space(space), centre(centre),
          kept(Kind::PER_WORD > 1 && space.rounded.bytes ? &space.rounded : nullptr),
          padded(padded_size(space.size)), words(padded / Kind::PER_WORD), panel(words * LANES * V),
          tile(words * TILE), row(padded), steps{} {
        int32_t sums[LANES * V]{};
        for (int query = 0; query < rows; ++query) {
            Put own = put<Kind>(queries[query], centre, space.size, row, tile.data());
            margins[query] = margin<Kind>(own, space.size), steps[query] = -2 * own.step;
            for (int64_t word = 0; word < words; ++word)
                panel[word * LANES * V + query] = Kind::of_query(tile[word], sums[query]);
        }
        for (int v = 0; v < V; ++v) begins[v] = Kind::begin(sums + v * LANES);
    }

    void multiply(const float *keys, const float *begin, const float *step, Floats (*score)[V]) const {
        typename Kind::Sum sum[TILE][V];  // stays in registers
        for (int key = 0; key < TILE; ++key)
            for (int v = 0; v < V; ++v) sum[key][v] = begins[v];
        const float *query = panel.data();
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

    // Tells where the words of a tile of keys are, and what goes with each; who is not held begins
    // at infinity: its scores are no numbers, or meet no edge.
    const float *keys_of(int64_t first, int64_t next, float *begin, float *width, float *step) {
        for (int key = 0; key < TILE; ++key) {
            int64_t slot = first + key;
            begin[key] = INFINITY, width[key] = 0, step[key] = 1;
            if (slot >= space.count || !space.filled[slot]) continue;
            if (kept) {
                begin[key] = kept->low[slot], width[key] = kept->width[slot];
                step[key] = kept->step[slot];
                continue;
            }
            space.prefetch(slot + next);
            Put own = put<Kind>(space.keys + slot * space.size, centre, space.size, row,
                                &tile[key * words]);
            float about = margin<Kind>(own, space.size);
            begin[key] = own.length - about, width[key] = 2 * about, step[key] = own.step;
        }
        return kept ? reinterpret_cast<const float *>(kept->bytes + first * padded) : tile.data();
    }

    // Looks at one tile of keys out of `stride`.
    void run(int64_t stride, Candidates *of, int rows) {
        std::fill(edges, edges + LANES * V, -INFINITY);
        for (int query = 0; query < rows; ++query) edges[query] = of[query].edge;
        for (int64_t first = 0; first < space.count; first += TILE * stride) {
            float begin[TILE], width[TILE], step[TILE];
            const float *keys = keys_of(first, TILE * stride, begin, width, step);
            Floats score[TILE][V];
            multiply(keys, begin, step, score);
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

#if defined(__AVX512VNNI__)
// The same for one query, of keys that are kept in bytes: sixteen of them at a time.
struct ScreenForOne {
    Space &space;
    int64_t padded;
    std::vector<float> words, row;
    float margins[1], step;
    int32_t begin;

    ScreenForOne(Space &space, const float *centre, const float *const *queries, int)
        : space(space), padded(padded_size(space.size)), words(padded / Bytes::PER_WORD), row(padded) {
        int32_t sum = 0;
        Put own = put<Bytes>(queries[0], centre, space.size, row, words.data());
        for (float &word : words) word = Bytes::of_query(word, sum);
        margins[0] = margin<Bytes>(own, space.size), step = -2 * own.step, begin = -128 * sum;
    }

    int32_t product(const uint8_t *key) const {
        __m512i sum = _mm512_setzero_si512();
        int64_t at = 0;
        auto query = reinterpret_cast<const uint8_t *>(words.data());
        for (; at + 64 <= padded; at += 64)
            sum = _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(key + at), _mm512_loadu_si512(query + at));
        if (at < padded)
            sum = _mm512_dpbusd_epi32(
                sum, _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(key + at))),
                _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)(query + at))));
        return begin + _mm512_reduce_add_epi32(sum);
    }

    void run(int64_t stride, Candidates *of, int) {
        const Rounded &kept = space.rounded;
        for (int64_t first = 0; first < space.count; first += LANES * stride) {
            Bytes::Sum sums;
            for (int key = 0; key < LANES; ++key) sums[key] = product(kept.bytes + (first + key) * padded);
            Floats moved = Bytes::in_steps(sums) * load(kept.step + first);
            Floats score = multiply_add(moved, spread(step), load(kept.low + first));
            for (unsigned bits = up_to(score, spread(of->edge)); bits; bits &= bits - 1) {
                int key = __builtin_ctz(bits);
                int64_t slot = first + key;
                if (slot < space.count && space.filled[slot])
                    of->add(score[key], kept.width[slot], slot);
            }
        }
    }
};
#endif

// Finds the nearest for some of the queries by screening; returns those for whom it was in vain.
// With a stride the edge is first guessed from a part of the keys, so that few are let in.
template <class Screen>
std::vector<int> screened(Space &space, const float *centre, const float *const *queries,
                          const std::vector<int> &rows, int64_t stride, Candidates *of, Nearest *nearest) {
    const float *asked[LANES * PANEL];
    int count = int(rows.size());
    for (int at = 0; at < count; ++at) asked[at] = queries[rows[at]];
    Screen screen(space, centre, asked, count);
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
