// What a scorer notes of contents, and the numbers that it gives to all that is held, as `acting.py`
// works them out in arrays: the same to rounding. Optional, as `nearest.cpp` is.
//
// Features stand last, and what a row holds stands in the order in which it came: whom it attends to
// is what stands after it.
//
// Letters: B rows, N slots, M = N + 1 (the candidate is last), P places of contents, W word size,
// H hidden size, O outputs, V = 2 H, F = 3 H, L columns; of these H and L are padded.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "products.h"

namespace {

// Products of a scorer's weights, one after the other: see `Network` of fused.py.
struct Network {
    int64_t width, hidden, whole, outputs;  // W, H, F, O
    const float *content_WH, *content_H, *attend_HV, *attend_V;
    const float *age_F, *full_F, *alike_F, *new_F;
    const float *layer_HH, *layer_H, *last_OH, *last_O, *alike_O;
    float floor;

    Network(const float *packed, int64_t W, int64_t H, int64_t O)
        : width(W), hidden(H), whole(3 * H), outputs(O) {
        auto next = [&](int64_t size) { return (packed += size) - size; };
        content_WH = next(W * H), content_H = next(H);
        attend_HV = next(2 * H * H), attend_V = next(2 * H);
        age_F = next(3 * H), full_F = next(3 * H), alike_F = next(3 * H), new_F = next(3 * H);
        layer_HH = next(H * H), layer_H = next(H);
        last_OH = next(O * H), last_O = next(O), alike_O = next(O);
        floor = *next(1);
    }
};

// Works out the numbers of what a row holds. What is linear in a content is noted of it: y, and,
// before z = y / sqrt(|y|^2 + floor) is known, what queries and what is read are made of.
struct Scorer {
    const Network &of;
    int64_t count, places, width;  // M, P, L
    Numbers held_MF, z_MH, read_MH, turned_HL, weight_ML, alike_M, by_M;
    std::vector<int32_t> held_L;  // all bits where something stands
    std::vector<int64_t> at_P, place_M, slot_M;  // by place, and in the order in which it came

    Scorer(const Network &of, int64_t count, int64_t places)
        : of(of), count(count), places(places), width(padded(count)), held_MF(count * of.whole),
          z_MH(count * of.hidden), read_MH(count * of.hidden), turned_HL(of.hidden * width),
          weight_ML(count * width), alike_M(count), by_M(count), held_L(padded(places)),
          at_P(places), place_M(count), slot_M(count) {}

    // Puts what is held into the order in which it came; returns whether it can be.
    bool arrange(const int64_t *place) {
        std::fill(at_P.begin(), at_P.end(), -1);
        for (int64_t slot = 0; slot < count; ++slot) {
            if (place[slot] < 0 || place[slot] >= places || at_P[place[slot]] >= 0) return false;
            at_P[place[slot]] = slot;
        }
        for (int64_t at = 0, rank = 0; at < places; ++at)
            if (at_P[at] >= 0) place_M[rank] = at, slot_M[rank++] = at_P[at];
        return true;
    }

    // Works out how alike the most alike of what came later is; NaN, if one likeness is.
    void compare(const float *alike_PL) {
        for (int64_t at = 0; at < places; ++at) held_L[at] = at_P[at] < 0 ? 0 : -1;
        for (int64_t rank = 0; rank < count; ++rank) {
            int64_t place = place_M[rank], first = place / LANES * LANES;
            const float *alike_L = alike_PL + place * padded(places);
            Floats most{}, sum{};
            for (int64_t at = first; at < places; at += LANES) {
                Wholes held;
                std::memcpy(&held, &held_L[at], sizeof held);
                if (at == first) held &= from_on(first, place + 1);
                Floats alike = held ? load(alike_L + at) : Floats{};
                most = alike > most ? alike : most, sum += alike;
            }
            float all = total(sum);
            alike_M[rank] = all == all ? highest(most) : all;
        }
    }

    // Adds to what is noted what is known now.
    void fetch(const float *noted_PF, const float *age_N, const uint8_t *filled_N) {
        int64_t filled = 0;
        for (int64_t slot = 0; slot + 1 < count; ++slot) filled += filled_N[slot];
        float full = count > 1 ? float(filled) / float(count - 1) : 0;
        for (int64_t rank = 0; rank < count; ++rank) {
            int64_t slot = slot_M[rank], size = of.whole;
            bool is_new = slot + 1 == count;
            float age = is_new ? 1 : log_of_one_more(age_N[slot]), alike = alike_M[rank];
            const float *noted_F = noted_PF + place_M[rank] * size, *full_F = of.full_F, *alike_F = of.alike_F;
            const float *when_F = is_new ? of.new_F : of.age_F;
            float *held_F = &held_MF[rank * size];
            for (int64_t at = 0; at < size; at += LANES) {
                Floats now = multiply_add(spread(full), load(full_F + at), load(noted_F + at));
                now = multiply_add(spread(alike), load(alike_F + at), now);
                store(held_F + at, multiply_add(spread(age), load(when_F + at), now));
            }
        }
    }

    // Puts y / sqrt(|y|^2 + floor) into z; returns whether all are numbers.
    bool scale() {
        Floats all{};
        for (int64_t rank = 0; rank < count; ++rank)
            by_M[rank] = dot(&held_MF[rank * of.whole], &held_MF[rank * of.whole], of.hidden);
        for (int64_t rank = 0; rank < count; ++rank) by_M[rank] = 1 / std::sqrt(by_M[rank] + of.floor);
        for (int64_t rank = 0; rank < count; ++rank) {
            const float *y_H = &held_MF[rank * of.whole];
            float *z_H = &z_MH[rank * of.hidden], by = by_M[rank];
            for (int64_t at = 0, size = of.hidden; at < size; at += LANES) {
                Floats z = load(y_H + at) * spread(by);
                store(z_H + at, z);
                all += z;
            }
        }
        float sum = total(all);
        return sum == sum;
    }

    // Turns the logits of queries, for keys from `first` on, into weights; tells one over their sums.
    void weigh(int64_t query, int64_t rows, int64_t first, float *by) {
        float most[ROWS], *weight_L = &weight_ML[query * width];
        int64_t end = width, held = count;
        for (int64_t row = 0; row < rows; ++row) {
            Floats highest_yet = spread(-INFINITY);
            for (int64_t at = first; at < end; at += LANES) {
                Wholes meets = from_on(at, query + row) & ~from_on(at, held);
                Floats logit = meets ? load(weight_L + row * end + at) : spread(-INFINITY);
                highest_yet = logit > highest_yet ? logit : highest_yet;
                store(weight_L + row * end + at, logit);
            }
            most[row] = highest(highest_yet);
        }
        for (int64_t row = 0; row < rows; ++row) {
            Floats sum{};
            for (int64_t at = first; at < end; at += LANES) {
                Floats weight = exponential(load(weight_L + row * end + at) - spread(most[row]));
                store(weight_L + row * end + at, weight);
                sum += weight;
            }
            by[row] = 1 / total(sum);
        }
    }

    // Adds what each reads from those that came after it, and from itself.
    void attend() {
        int64_t hidden = of.hidden, step = of.whole;
        const float *attend_V = of.attend_V;
        for (int64_t rank = 0; rank < count; ++rank) {
            float *to = &held_MF[rank * step + hidden], by = by_M[rank];
            for (int64_t at = 0; at < 2 * hidden; at += LANES)
                store(to + at, multiply_add(load(to + at), spread(by), load(attend_V + at)));
        }
        turn(z_MH.data(), count, hidden, hidden, turned_HL.data(), width);
        for (int64_t query = 0; query < count; query += ROWS) {
            int64_t rows = std::min<int64_t>(ROWS, count - query), first = query / LANES * LANES;
            float by[ROWS], *held = &held_MF[query * step];
            Product{held + hidden, step, hidden, &turned_HL[first], width, nullptr,
                    &weight_ML[query * width + first], width}
                .run(rows, (width - first) / LANES);
            weigh(query, rows, first, by);
            Product{&weight_ML[query * width + query], width, count - query, held + 2 * hidden, step,
                    nullptr, read_MH.data(), hidden}
                .run(rows, hidden / LANES);
            const float *read = read_MH.data();
            for (int64_t row = 0; row < rows; ++row, read += hidden)
                for (int64_t at = 0; at < hidden; at += LANES) {
                    float *y = held + row * step + at;
                    store(y, multiply_add(load(read + at), spread(by[row]), load(y)));
                }
        }
    }

    // Tells the numbers `[O, M]`, whose outputs are `step` apart.
    void tell(float *score_OM, int64_t step) {
        int64_t hidden = of.hidden;
        Product{z_MH.data(), hidden, hidden, of.layer_HH, hidden, of.layer_H, read_MH.data(), hidden}
            .run(count, hidden / LANES);
        float *layer = read_MH.data();
        for (int64_t at = 0; at < count * hidden; at += LANES) {
            Floats x = load(layer + at);  // over sqrt(2)
            store(layer + at, multiply_add(x, error_function(x), x));
        }
        for (int64_t output = 0; output < of.outputs; ++output)
            for (int64_t rank = 0; rank < count; ++rank)
                score_OM[output * step + slot_M[rank]] =
                    dot(layer + rank * hidden, of.last_OH + output * hidden, hidden) +
                    of.last_O[output] + alike_M[rank] * of.alike_O[output];
    }
};

}  // namespace

extern "C" {

// Notes contents `[B, P, F]`, and how alike each is to what came after it, `[B, P, L]`.
void note(const float *packed, int64_t W, int64_t H, int64_t O, const float *content_BPW, int64_t B,
          int64_t P, float *noted_BPF, float *alike_BPL) {
    Network of(packed, W, H, O);
    int64_t F = of.whole;
    Product{content_BPW, W, W, of.content_WH, H, of.content_H, noted_BPF, F}.run(B * P, H / LANES);
    Product{noted_BPF, F, H, of.attend_HV, 2 * H, nullptr, noted_BPF + H, F}.run(B * P, 2 * H / LANES);
    int64_t width = padded(P);
    Numbers unit_PW(P * W), turned_WL(W * width);
    for (int64_t row = 0; row < B; ++row) {
        const float *content = content_BPW + row * P * W;
        for (int64_t place = 0; place < P; ++place) {
            const float *from = content + place * W;
            float length = std::sqrt(dot(from, from, W)), by = 1 / (length < 1e-12f ? 1e-12f : length);
            for (int64_t at = 0; at < W; ++at) unit_PW[place * W + at] = from[at] * by;
        }
        turn(unit_PW.data(), P, W, W, turned_WL.data(), width);
        for (int64_t place = 0; place < P; place += ROWS) {
            int64_t first = place / LANES * LANES;
            Product{&unit_PW[place * W], W, W, &turned_WL[first], width, nullptr,
                    alike_BPL + (row * P + place) * width + first, width}
                .run(std::min<int64_t>(ROWS, P - place), (width - first) / LANES);
        }
    }
}

// Tells the numbers of all that is held and, last, of the candidate, `[O, B, M]`, from what `note`
// noted. Returns the first row whose places are not M of the pool's, or -1.
int64_t score(const float *packed, int64_t W, int64_t H, int64_t O, const float *noted_BPF,
              const float *alike_BPL, int64_t B, int64_t P, int64_t N, const int64_t *place_BM,
              const float *age_BN, const uint8_t *filled_BN, float *score_OBM) {
    Network of(packed, W, H, O);
    int64_t M = N + 1;
    Scorer scorer(of, M, P);
    for (int64_t row = 0; row < B; ++row) {
        if (!scorer.arrange(place_BM + row * M)) return row;
        scorer.compare(alike_BPL + row * P * padded(P));
        scorer.fetch(noted_BPF + row * P * of.whole, age_BN + row * N, filled_BN + row * N);
        if (scorer.scale()) {
            scorer.attend();
            scorer.scale();
            scorer.tell(score_OBM + row * M, B * M);
        } else {  // what is no number is so for all that attends to it, though it weighs nothing
            for (int64_t output = 0; output < O; ++output)
                std::fill_n(score_OBM + (output * B + row) * M, M, NAN);
        }
    }
    return -1;
}

// For tests: how near the functions of products.h are; `count` is padded.
void exponentials(const float *x, int64_t count, float *out) {
    for (int64_t at = 0; at < count; at += LANES) store(out + at, exponential(load(x + at)));
}

void error_functions(const float *x, int64_t count, float *out) {
    for (int64_t at = 0; at < count; at += LANES) store(out + at, error_function(load(x + at)));
}
}
