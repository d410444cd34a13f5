// What the policy of `offline.py` expects, and who leaves, as `choosing.py` has it: the same as in
// arrays, to rounding. Optional, as `nearest.cpp` is.
//
// Letters: B rows, N slots, M = N + 1 (the candidate is last), H hidden size.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "products.h"

namespace {

// The layers of a network with GELU between, `[inner, outer]` each and filled up to whole vectors.
struct Layer {
    int64_t inner, outer;
    Numbers weight, bias;

    Layer(const float *weight_OI, const float *bias_O, int64_t inner, int64_t outer)
        : inner(inner), outer(padded(outer)), weight(inner * this->outer), bias(this->outer) {
        turn(weight_OI, outer, inner, inner, weight.data(), this->outer);
        std::copy_n(bias_O, outer, bias.data());
    }

    void run(const float *x, int64_t step, int64_t rows, float *out) {
        Product{x, step, inner, weight.data(), outer, bias.data(), out, outer}.run(rows, outer / LANES);
        for (int64_t at = 0; at < rows * outer; at += LANES) {
            Floats y = load(out + at), half = y * spread(0.5f);
            store(out + at, multiply_add(half, error_function(y * spread(0.707106781f)), half));
        }
    }
};

constexpr int SEEN = 7;  // numbers that the policy of offline.py sees

// What it sees of a row `[M, 7]`: see `_see` there.
void see(int64_t count, const uint8_t *filled_N, const float *alike_N, const float *const *past_3N,
         float *seen_M7) {
    float nearest = -INFINITY, filled = 0;
    for (int64_t slot = 0; slot + 1 < count; ++slot) {
        float alike = filled_N[slot] ? alike_N[slot] : -1, *seen = seen_M7 + slot * SEEN;
        nearest = nearest >= alike || nearest != nearest ? nearest : alike;  // NaN stays
        filled += filled_N[slot];
        for (int past = 0; past < 3; ++past) seen[past] = log_of_one_more(past_3N[past][slot]);
        seen[3] = alike_N[slot], seen[5] = 0;
    }
    float *last = seen_M7 + (count - 1) * SEEN;
    last[0] = last[1] = last[2] = 0, last[3] = nearest, last[5] = 1;
    for (float *seen = seen_M7; seen <= last; seen += SEEN)
        seen[4] = nearest, seen[6] = filled / float(count - 1);
}

enum { BOUNDED = 1, COMPETES = 2, TAKES_ROOM = 4, TELLS = 8 };  // of choosing.py

// Which slot is used next, and what it is worth: the first of the least, NaN before all.
struct Leaver {
    int64_t slot = 0;
    float worth = INFINITY;
    bool full = true;

    Leaver(const uint8_t *filled_N, const float *worth_N, int64_t slots, float low, float high) {
        for (int64_t at = 0; at < slots; ++at) {
            float own = worth_N[at] < low ? low : worth_N[at] > high ? high : worth_N[at];
            if (!filled_N[at]) own = -INFINITY, full = false;
            if (at == 0 || (worth == worth && !(own >= worth))) slot = at, worth = own;
        }
    }
};

}  // namespace

extern "C" {

// Tells the use that the policy of offline.py expects of each slot and, last, of the candidate,
// `[B, M]`; here H is what it is. `weights` are its parameters in order, `past` age, idleness, use.
void expect_use(const float *const *weights, int64_t H, int64_t B, int64_t N, const uint8_t *filled_BN,
                const float *alike_BN, const float *const *past_3BN, float *use_BM) {
    int64_t M = N + 1;
    Layer first(weights[0], weights[1], SEEN, H), second(weights[2], weights[3], H, H);
    Numbers seen(M * SEEN), one(M * first.outer), two(M * first.outer), last(first.outer);
    std::copy_n(weights[4], H, last.data());
    for (int64_t row = 0; row < B; ++row) {
        const float *past[] = {past_3BN[0] + row * N, past_3BN[1] + row * N, past_3BN[2] + row * N};
        see(M, filled_BN + row * N, alike_BN + row * N, past, seen.data());
        first.run(seen.data(), SEEN, M, one.data());
        second.run(one.data(), first.outer, M, two.data());
        for (int64_t at = 0; at < M; ++at)
            use_BM[row * M + at] = dot(&two[at * second.outer], last.data(), second.outer) + weights[5][0];
    }
}

// Decides who stays: see `choose` of choosing.py. Worths and numbers stand `step` apart for each row.
void choose(int64_t B, int64_t N, const uint8_t *filled_BN, const float *worth, int64_t worth_step,
            const float *number, int64_t number_step, double threshold, double margin, int64_t how,
            float *action_B4, float *slot_BN, float *victim_BN, float *log_prob_B) {
    bool tells = how & TELLS;
    float low = tells ? float(margin) : -INFINITY, high = tells ? float(1 - margin) : INFINITY;
    std::fill_n(slot_BN, B * N, 0.0f);
    std::fill_n(victim_BN, B * N, 0.0f);
    for (int64_t row = 0; row < B; ++row) {
        Leaver leaver(filled_BN + row * N, worth + row * worth_step, N, low, high);
        float own = number[row * number_step], rank = own < low ? low : own > high ? high : own;
        bool kept = !(how & COMPETES) || !leaver.full || rank >= leaver.worth;
        kept = kept && (!(how & BOUNDED) || own > float(threshold));
        kept = kept || (how & TAKES_ROOM && !leaver.full);
        float *action = action_B4 + 4 * row;
        action[0] = tells ? (1 - own) * float(!kept) : float(!kept), action[1] = tells ? own : float(kept);
        action[2] = action[3] = 0, log_prob_B[row] = 0;
        (leaver.full ? victim_BN : slot_BN)[row * N + leaver.slot] = float(kept);
    }
}
}
