// Who may be among the nearest of many queries, by rounded products: far fewer are then measured.

#pragma once

#include "rounding.h"

namespace {

#if defined(__AVX512F__)
constexpr int TILE = 8;  // keys: their scores for 32 queries fill 16 registers
#else
constexpr int TILE = 2;
#endif
constexpr int BLOCK = 32;  // keys that are looked at before those near enough are taken
struct Places {            // of a key and a query in a block
    int32_t of[BLOCK * LANES];
    Places() {
        for (int place = 0; place < BLOCK * LANES; ++place) of[place] = place;
    }
} const PLACES;
constexpr int PANEL = 2;   // vectors of queries
constexpr int FEW = 2;     // queries that are measured against every key

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

typedef int32_t Wholes __attribute__((vector_size(4 * LANES)));

// Counts in each lane the numbers up to an edge.
inline Wholes count_up_to(const Floats *numbers, int64_t size, int64_t stride, Floats edge) {
    Wholes found{};
    for (int64_t at = 0; at < size; at += stride) found -= numbers[at] <= edge;  // true is -1
    return found;
}

// Returns in each lane a number with `least` of some up to it, not far above the lowest; FLT_MAX
// where as many are not below their mean.
inline Floats with_below(const Floats *numbers, int64_t size, int64_t stride, int least) {
    Floats below = spread(INFINITY), sum{};
    Wholes some{};
    for (int64_t at = 0; at < size; at += stride) {
        Floats x = numbers[at];
        Wholes finite = x < spread(INFINITY);
        below = x < below ? x : below;
        sum += finite ? x : Floats{};
        some -= finite;
    }
    Floats enough = sum / __builtin_convertvector(some, Floats);
    Wholes held = count_up_to(numbers, size, stride, enough) >= least;
    for (int step = 0; step < 6; ++step) {
        Floats middle = below + (enough - below) / 2;
        Wholes many = count_up_to(numbers, size, stride, middle) >= least;
        enough = many ? middle : enough;
        below = many ? below : middle;
    }
    return held ? enough : spread(FLT_MAX);
}

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
        if (kept) return kept_keys(first, next, begin, width, step);
        for (int key = 0; key < TILE; ++key) {
            int64_t slot = first + key;
            begin[key] = INFINITY, width[key] = 0, step[key] = 1;
            if (slot >= space.count || !space.filled[slot]) continue;
            space.prefetch(slot + next);
            Put own = put<Kind>(space.keys + slot * space.size, centre, space.size, row,
                                &tile[key * words]);
            float about = margin<Kind>(own, space.size);
            begin[key] = own.length - about, width[key] = 2 * about, step[key] = own.step;
        }
        return tile.data();
    }

    // The same where keys are kept, with rows to spare beyond the last.
    const float *kept_keys(int64_t first, int64_t next, float *begin, float *width, float *step) const {
        const uint8_t *bytes = kept->bytes + first * padded, *filled = space.filled + first;
        for (int64_t at = 0; at < TILE * padded; at += 64)
            __builtin_prefetch(bytes + 4 * next * padded + at);
        auto begins = [&](int64_t keys) {
            for (int64_t key = 0; key < keys; ++key)
                begin[key] = filled[key] ? kept->low[first + key] : INFINITY;
        };
        std::copy_n(kept->width + first, TILE, width), std::copy_n(kept->step + first, TILE, step);
        std::fill_n(begin, TILE, INFINITY);
        if (first + TILE <= space.count) begins(TILE);  // a number of keys that is known: at once
        else begins(space.count - first);
        return reinterpret_cast<const float *>(bytes);
    }

    // Scores a tile of keys for all queries.
    void scores_of(int64_t first, int64_t next, float *width, Floats (*score)[V]) {
        float begin[TILE], step[TILE];
        const float *keys = keys_of(first, next, begin, width, step);
        multiply(keys, begin, step, score);
    }

    // Guesses first edges: of one tile of keys out of `stride` so many are below.
    void guess(int64_t stride, int among, float *edge) {
        std::vector<Floats> seen;
        seen.reserve((space.count / (TILE * stride) + 1) * TILE * V);
        for (int64_t first = 0; first < space.count; first += TILE * stride) {
            float width[TILE];
            Floats score[TILE][V];
            scores_of(first, TILE * stride, width, score);
            for (int key = 0; key < TILE; ++key)
                for (int v = 0; v < V; ++v) seen.push_back(score[key][v] + spread(width[key]));
        }
        for (int v = 0; v < V; ++v) {
            Floats enough = with_below(seen.data() + v, int64_t(seen.size()), V, among);
            for (int lane = 0; lane < LANES; ++lane, ++edge)
                *edge = std::min(FLT_MAX, enough[lane] + 2 * margins[v * LANES + lane]);
        }
    }

    // Looks at all keys: first a block of scores, and then, without a branch, who is near enough.
    void run(Candidates *of, int rows) {
        std::fill(edges, edges + LANES * V, -INFINITY);
        Floats score[BLOCK][V];
        float width[BLOCK];
        int32_t hits[BLOCK * LANES + LANES];
        for (int64_t first = 0; first < space.count; first += BLOCK) {
            for (int query = 0; query < rows; ++query) edges[query] = of[query].edge;
            int keys = int(std::min<int64_t>(BLOCK, space.count - first));
            for (int key = 0; key < keys; key += TILE) scores_of(first + key, TILE, width + key, score + key);
            for (int v = 0; v < V; ++v) {
                int found = 0;
                Floats edge = load(edges + v * LANES);
                for (int key = 0; key < keys; ++key) {
                    unsigned bits = up_to(score[key][v], edge);
                    if (!PACKS && !bits) continue;
                    pack(PLACES.of + key * LANES, bits, hits + found);
                    found += __builtin_popcount(bits);
                }
                for (int hit = 0; hit < found; ++hit) {
                    int key = hits[hit] / LANES, lane = hits[hit] % LANES;
                    of[v * LANES + lane].add(score[key][v][lane], width[key], first + key);
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

    void guess(int64_t stride, int among, float *edge) {
        Candidates few;
        few.begin(among, margins[0], FLT_MAX);
        look(stride, few);
        few.prune();
        *edge = few.edge;
    }

    void run(Candidates *of, int) { look(1, *of); }

    // Looks at one sixteen of keys out of `stride`.
    void look(int64_t stride, Candidates &of) {
        const Rounded &kept = space.rounded;
        for (int64_t first = 0; first < space.count; first += LANES * stride) {
            Bytes::Sum sums;
            for (int key = 0; key < LANES; ++key) sums[key] = product(kept.bytes + (first + key) * padded);
            Floats moved = Bytes::in_steps(sums) * load(kept.step + first);
            Floats score = multiply_add(moved, spread(step), load(kept.low + first));
            for (unsigned bits = up_to(score, spread(of.edge)); bits; bits &= bits - 1) {
                int key = __builtin_ctz(bits);
                int64_t slot = first + key;
                if (slot < space.count && space.filled[slot])
                    of.add(score[key], kept.width[slot], slot);
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
    int among = int(share + 4 * std::sqrt(share) + 3);  // seldom too few
    float edges[LANES * PANEL];
    std::fill(edges, edges + LANES * PANEL, FLT_MAX);
    if (stride > 1) screen.guess(stride, among, edges);
    for (int at = 0; at < count; ++at) of[at].begin(wanted, screen.margins[at], edges[at]);
    screen.run(of, count);
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
