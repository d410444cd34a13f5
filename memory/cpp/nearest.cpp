// What a store is asked most often, on a CPU: exact nearest neighbours of many queries, and action
// values by them. Optional: `native.py` compiles it where there is a compiler, and where there is
// none PyTorch does the same, to the last bit of every number.
//
// Letters: S stores, B queries, D numbers of a key, K neighbours.

#include <atomic>
#include <thread>

#include "screening.h"

namespace {

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
    int64_t stride = count >= 64 * neighbours ? std::max<int64_t>(16, count / 2048) : 1;
    const float *centre = space.rounded.centre;
#if defined(__AVX512VNNI__)
    if (rows <= FEW && space.rounded.bytes) {
        for (int row = 0; row < rows; ++row)
            if (screened<ScreenForOne>(space, centre, asked, {row}, stride, candidates, nearest).empty())
                left.erase(std::find(left.begin(), left.end(), row));
    }
#endif
    if (rows > FEW) {
        std::vector<float> own;
        if (!space.rounded.bytes) own = centre_of(space), centre = own.data();
        auto first = rows > LANES ? screened<Screen<Bytes, 2>> : screened<Screen<Bytes, 1>>;
        if (size <= MOST) left = first(space, centre, asked, left, stride, candidates, nearest);
        if (left.size() > 2 * FEW)
            left = screened<Screen<Whole, 2>>(space, centre, asked, left, 1, candidates, nearest);
    }
    for (int row : left) space.measure(asked[row], nullptr, count, nearest[row]);
    for (int row = 0; row < rows; ++row)
        nearest[row].write(distance_BK + row * neighbours, slot_BK + row * neighbours);
}

}  // namespace

extern "C" {

// What a look-up needs of a store: keys `[N, D]`, which are there, and, to read values, these and
// where use is counted: weights of reads, and the clock of the last (0 strides: of no use). Keys may
// be kept in bytes, too.
struct Store {
    const float *keys;
    const uint8_t *filled;
    int64_t count;
    const float *values;
    float *uses;
    int64_t *last_use;
    int64_t stride, clock, counts;
    Rounded rounded;
};

// Tells whether keys can be kept in bytes here, and how long they may be.
int64_t rounds() { return Bytes::PER_WORD > 1 ? MOST : 0; }

// Puts keys that are new into bytes: some slots; or, where these are null, all, about a centre of
// their own. Not to be called where `rounds` tells 0.
void round_rows(const Store *of, int64_t D, const int64_t *slots, int64_t some) {
#if defined(__AVX512VNNI__)
    Space space(of->keys, of->filled, of->count, D, of->rounded);
    if (!slots) {
        std::vector<float> centre = centre_of(space);
        std::copy(centre.begin(), centre.end(), of->rounded.centre);
    }
    round_keys(space, slots, slots ? some : of->count);
#endif
}

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
            Space space(of.keys, of.filled, of.count, D, of.rounded);
            search(space, query_BD + first * D, rows, K, workspace, distance_SBK + at, slot_SBK + at);
        }
    };
    std::vector<std::thread> others;
    for (int64_t one = 1; one < std::min(threads, jobs); ++one) others.emplace_back(work);
    work();
    for (std::thread &other : others) other.join();
}

// Reads the values of the nearest, weighed by 1 / (distance + delta) or, where delta is below 0,
// alike: `[B, S]`, `empty` where nothing is found. A read counts as use.
void read_values(const Store *stores, int64_t S, const float *query_BD, int64_t B, int64_t D, int64_t K,
                 int64_t threads, float delta, float empty, float *value_BS) {
    static thread_local std::vector<float> distance_SBK;
    static thread_local std::vector<int64_t> slot_SBK;
    distance_SBK.resize(S * B * K), slot_SBK.resize(S * B * K);
    find_nearest(stores, S, query_BD, B, D, K, threads, distance_SBK.data(), slot_SBK.data());
    int64_t padded = LANES;
    while (padded < K) padded *= 2;
    std::vector<float> weight(padded), sum(padded);
    for (int64_t row = 0; row < S * B; ++row) {
        const Store &of = stores[row / B];
        const float *distance = &distance_SBK[row * K];
        const int64_t *slot = &slot_SBK[row * K];
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
}
