// What a store does most often, for a CPU: exact nearest neighbours of many queries, action values
// by them, and writes in order. Optional: `native.py` compiles it where there is a compiler, and
// where there is none PyTorch does the same, to the last bit of every number.
//
// Letters: S stores, B queries, N keys, D numbers of a key, K neighbours.

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
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

// Where keys are, and how far from a query: the squared distance by direct differences.
struct Space {
    const float *keys;
    const uint8_t *filled;
    int64_t count, size, padded;  // padded: the power of 2 that D is filled up to with zeros
    std::vector<float> row, squares;

    Space(const float *keys, const uint8_t *filled, int64_t count, int64_t size)
        : keys(keys), filled(filled), count(count), size(size), padded(LANES) {
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
            if (V <= 8 && !slots) prefetch(slot + 4);  // longer keys the processor foresees itself
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

struct Workspace {
    Candidates candidates[LANES * PANEL];
    Nearest nearest[LANES * PANEL];
};

// Finds the nearest for up to 32 queries.
__attribute__((noinline)) void search(Space &space, const float *queries, int rows,
                                      int64_t neighbours, Workspace &workspace,
                                      float *distance_BK, int64_t *slot_BK) {
    auto &[candidates, nearest] = workspace;
    int64_t size = space.size, count = space.count;
    std::vector<float> whole(rows * space.padded, 0.0f);
    const float *asked[LANES * PANEL];
    std::vector<int> left;
    for (int row = 0; row < rows; ++row) {
        asked[row] = std::copy_n(queries + row * size, size, &whole[row * space.padded]) - size;
        nearest[row].begin(neighbours);
        left.push_back(row);
    }
    if (rows > FEW) {
        std::vector<float> centre = centre_of(space);
        int64_t stride = count >= 64 * neighbours ? 16 : 1;
        auto first = rows > LANES ? screened<Rounded, 2> : screened<Rounded, 1>;
        left = first(space, centre.data(), asked, left, stride, candidates, nearest);
        if (left.size() > 2 * FEW)
            left = screened<Whole, 2>(space, centre.data(), asked, left, 1, candidates, nearest);
    }
    for (int row : left) space.measure(asked[row], nullptr, count, nearest[row]);
    for (int row = 0; row < rows; ++row)
        nearest[row].write(distance_BK + row * neighbours, slot_BK + row * neighbours);
}

}  // namespace

// Who holds which name: chains of slots, and of each slot its name and the id of its entry. The
// arrays belong to the caller.
struct Names {
    int64_t buckets;  // a power of 2
    int32_t *heads, *next;  // -1: the end of a chain, -2: a slot that holds nothing
    int64_t *names, *entries;

    int32_t &head(int64_t name) const {
        return heads[(uint64_t(name) * 0x9E3779B97F4A7C15 >> 20) & (buckets - 1)];
    }

    void add(int64_t name, int64_t slot, int64_t entry) const {
        int32_t &first = head(name);
        names[slot] = name, entries[slot] = entry, next[slot] = first;
        first = int32_t(slot);
    }

    int64_t drop(int64_t slot) const {
        int32_t *at = &head(names[slot]);
        while (*at != slot) at = &next[*at];
        *at = next[slot];
        next[slot] = -2;
        return entries[slot];
    }

    // Calls with each slot that holds a name.
    template <class Call>
    void each(int64_t name, Call call) const {
        for (int32_t slot = head(name); slot >= 0; slot = next[slot])
            if (names[slot] == name) call(slot);
    }

    int64_t newest(int64_t name) const {
        int64_t newest = -1;
        each(name, [&](int64_t slot) {
            if (newest < 0 || entries[slot] > entries[newest]) newest = slot;
        });
        return newest;
    }

    // The newest slot of a name whose slots all hold one answer, or -1.
    template <class Token>
    int64_t known(int64_t name, const int32_t *answer_NA, int64_t length, const Token *answer,
                  int64_t given) const {
        bool same = true;
        each(name, [&](int64_t slot) {
            for (int64_t at = 0; at < length; ++at)
                same &= answer_NA[slot * length + at] == (at < given ? int32_t(answer[at]) : 0);
        });
        return same ? newest(name) : -1;
    }
};

bool finite(const float *numbers, int64_t count) {
    bool all = true;
    for (int64_t at = 0; at < count; ++at) all &= std::fabs(numbers[at]) <= FLT_MAX;
    return all;
}

template <class Token>
void copy_tokens(const int64_t *from, int64_t count, void *to, int64_t slot) {
    std::copy_n(from, count, static_cast<Token *>(to) + slot * count);
}

extern "C" {

// What a look-up needs of a store: keys `[N, D]`, which are there, and, to read values, these and
// where use is counted: weights of reads, and the clock of the last (0 strides: of no use).
struct Store {
    const float *keys;
    const uint8_t *filled;
    int64_t count;
    const float *values;
    float *uses;
    int64_t *last_use;
    int64_t stride, clock, counts;
};

// Finds the nearest keys of B queries in each of S stores: distances and slots `[S, B, K]`.
void find_nearest(const Store *stores, int64_t S, const float *query_BD, int64_t B, int64_t D,
                  int64_t K, int64_t threads, float *distance_SBK, int64_t *slot_SBK) {
    int64_t panels = (B + LANES * PANEL - 1) / (LANES * PANEL), jobs = S * panels, keys = 0;
    for (int64_t one = 0; one < S; ++one) keys += stores[one].count;
    if (keys * B * D < 1 << 24) threads = 1;  // sooner done than begun
    std::atomic<int64_t> next{0};
    auto work = [&] {
        static thread_local Workspace workspace;
        for (int64_t job; (job = next++) < jobs;) {
            const Store &of = stores[job / panels];
            int64_t first = job % panels * LANES * PANEL, at = (job / panels * B + first) * K;
            int rows = int(std::min<int64_t>(LANES * PANEL, B - first));
            Space space(of.keys, of.filled, of.count, D);
            search(space, query_BD + first * D, rows, K, workspace, distance_SBK + at, slot_SBK + at);
        }
    };
    std::vector<std::thread> others;
    for (int64_t one = 1; one < std::min(threads, jobs); ++one) others.emplace_back(work);
    work();
    for (std::thread &other : others) other.join();
}

// Reads the values of what was found, weighed by 1 / (distance + delta) or, where delta is below 0,
// alike: `[B, S]`, `empty` where nothing was found. A read counts as use.
void read_values(const Store *stores, int64_t S, int64_t B, int64_t K, float delta, float empty,
                 const float *distance_SBK, const int64_t *slot_SBK, float *value_BS) {
    int64_t padded = LANES;
    while (padded < K) padded *= 2;
    std::vector<float> weight(padded), sum(padded);
    for (int64_t row = 0; row < S * B; ++row) {
        const Store &of = stores[row / B];
        const float *distance = distance_SBK + row * K;
        const int64_t *slot = slot_SBK + row * K;
        for (int64_t k = 0; k < K; ++k)
            weight[k] = delta < 0 ? float(slot[k] >= 0) : 1 / (distance[k] + delta);
        sum = weight;
        float total = std::max(by_halves(sum.data(), padded), delta < 0 ? 1 : FLT_MIN);
        for (int64_t k = 0; k < K; ++k) {
            weight[k] /= total;
            sum[k] = weight[k] * of.values[std::max<int64_t>(0, slot[k])];
        }
        std::fill(sum.begin() + K, sum.end(), 0.0f);
        float value = by_halves(sum.data(), padded);
        value_BS[row % B * S + row / B] = slot[0] < 0 ? empty : value;
        for (int64_t k = 0; of.counts && k < K && slot[k] >= 0; ++k) {
            of.uses[slot[k]] += weight[k];
            int64_t &last = of.last_use[slot[k] * of.stride];
            last = std::max(last, of.clock);
        }
    }
}

void names_add(const Names *names, int64_t count, const int64_t *name, const int64_t *slot,
               const int64_t *entry) {
    for (int64_t at = 0; at < count; ++at) names->add(name[at], slot[at], entry[at]);
}

int64_t names_drop(const Names *names, int64_t slot) { return names->drop(slot); }

// Tells the newest slot of each name, -1 where it is not held, and how many slots hold it.
void names_find(const Names *names, int64_t count, const int64_t *name, int64_t *newest,
                int64_t *held) {
    for (int64_t at = 0; at < count; ++at) {
        newest[at] = names->newest(name[at]);
        held[at] = 0;
        names->each(name[at], [&](int64_t) { ++held[at]; });
    }
}

// All columns of a store of N entries, which is changed in place.
struct Table {
    float *keys, *vectors;
    int32_t *answers;
    void *stories;
    float *uses;
    uint8_t *filled;
    int64_t *provenance;  // [N, 7]: id, task, episode, step, birth, last use, name
    int64_t key_size, vector_size, answer_length, story_size, token_bytes, capacity;
    Names names;
    int32_t *last_row;  // [N], of any content
};

// Rows that ask to be remembered, and where is told what became of them.
struct Rows {
    int64_t count;
    const float *keys, *vectors, *outcomes;
    const int64_t *answers, *stories, *names, *tasks, *episodes, *steps;
    int64_t answer_length, outcome_size;
    int64_t *told;  // [4, B]: slot, action, entry, evicted entry
};

// How they are written: who leaves next (`line`, by the rank that each had then), and when it is.
struct Order {
    const int64_t *line, *ranks;
    int64_t length, rank_column, refresh, size, seen, clock, next_id;
    float rate;
};

enum { DONE, NOT_FINITE, LINE_ENDS };
enum { ADD = 1, UPDATE = 2, COLUMNS = 7 };

// Tells the rows' slots, actions, entries and who left for them, and gives names to the slots.
void place(const Table &to, const Rows &from, Order &order, const std::vector<int64_t> &known,
           const std::vector<int64_t> &leaving) {
    int64_t first_id = order.next_id, left = 0;
    int64_t *slots = from.told, *actions = slots + from.count, *entries = actions + from.count;
    int64_t *gone = entries + from.count;
    for (int64_t row = 0; row < from.count; ++row) {
        int64_t slot = known[row], action = UPDATE, evicted = -1;
        if (slot < 0 || to.names.entries[slot] >= first_id) {  // unknown, or gone by now
            bool room = order.size < to.capacity;
            slot = room ? order.size++ : leaving[left++];
            action = ADD, evicted = room ? -1 : to.names.drop(slot);
            to.names.add(from.names[row], slot, order.next_id++);
        }
        slots[row] = slot, actions[row] = action, entries[row] = to.names.entries[slot];
        gone[row] = evicted;
        to.last_row[slot] = int32_t(row);
    }
}

// Puts a row into its slot, as an entry of its own or over the one that is there.
void fill(const Table &to, const Rows &from, const Order &order, int64_t row) {
    int64_t slot = from.told[row], *whole = to.provenance + slot * COLUMNS;
    bool added = from.told[from.count + row] == ADD;
    std::copy_n(from.keys + row * to.key_size, to.key_size, to.keys + slot * to.key_size);
    for (int64_t at = 0; at < to.vector_size; ++at) {
        float &held = to.vectors[slot * to.vector_size + at];
        float given = from.vectors[row * to.vector_size + at];
        held = added || order.rate >= 1 ? given : held + order.rate * (given - held);
    }
    for (int64_t at = 0; at < to.answer_length; ++at)
        to.answers[slot * to.answer_length + at] =
            at < from.answer_length ? int32_t(from.answers[row * from.answer_length + at]) : 0;
    auto copy = to.token_bytes == 2 ? copy_tokens<int16_t> : copy_tokens<int32_t>;
    copy(from.stories + row * to.story_size, to.story_size, to.stories, slot);
    if (added) {
        whole[0] = from.told[2 * from.count + row], whole[4] = order.seen, whole[6] = from.names[row];
        to.uses[slot] = 0, to.filled[slot] = 1;
    }
    whole[1] = from.tasks[row], whole[2] = from.episodes[row], whole[3] = from.steps[row];
    whole[5] = order.clock;
}

// Writes rows as NEC does by a rule that refreshes what is known and lets the lowest rank leave:
// `place_in_order` and `fill` of episodic.py. Changes nothing unless all is done. The size and the
// next id are told back, and how many of the line have been passed over.
int64_t write_rows(const Table *table, const Rows *rows, Order *order, int64_t *passed) {
    const Table &to = *table;
    const Rows &from = *rows;
    if (!finite(from.keys, from.count * to.key_size) ||
        !finite(from.vectors, from.count * to.vector_size) ||
        !finite(from.outcomes, from.count * from.outcome_size))
        return NOT_FINITE;
    std::vector<int64_t> known(from.count, -1), leaving;
    for (int64_t row = 0; order->refresh && row < from.count; ++row)
        known[row] = to.names.known(from.names[row], to.answers, to.answer_length,
                                    from.answers + row * from.answer_length, from.answer_length);
    size_t wanted = size_t(std::max<int64_t>(0, from.count - (to.capacity - order->size)));
    for (int64_t at = *passed = 0; leaving.size() < wanted; ++at) {
        if (at >= order->length) return LINE_ENDS;
        if (to.provenance[order->line[at] * COLUMNS + order->rank_column] == order->ranks[at])
            leaving.push_back(order->line[at]);
        else if (leaving.empty()) ++*passed;
    }
    place(to, from, *order, known, leaving);
    for (int64_t row = 0; row < from.count; ++row)
        if (to.last_row[from.told[row]] == row) fill(to, from, *order, row);
    return DONE;
}

// Tells the slot of one name and answer, as `Names::known` does.
int64_t names_known(const Table *table, int64_t name, const int64_t *answer, int64_t given) {
    return table->names.known(name, table->answers, table->answer_length, answer, given);
}
}
