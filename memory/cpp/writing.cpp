// Writes in order, on a CPU: who holds which name, and rows into the columns of a store. Optional, as
// `nearest.cpp` is, and equal to what PyTorch does.
//
// Letters: B rows, N entries.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

// Who holds which name: of each name its slots from the newest on, and of each slot its name and the
// id of its entry. The arrays belong to the caller. Names of one bucket are a chain of their newest
// slots, which count for all: to add what is newest, to drop, to find and to count take no time that
// grows with how many slots a name has.
struct Names {
    int64_t buckets;  // a power of 2
    int32_t *heads;   // of each bucket the newest slot of its first name, -1: none
    int32_t *older, *newer;  // slots of the same name, -1: none; older -2: a slot that holds nothing
    int32_t *beyond, *count;  // of a newest slot: that of the bucket's next name, and of how many
    int64_t *names, *entries;

    // Where the newest slot of a name stands, or would.
    int32_t &newest(int64_t name) const {
        int32_t *at = &heads[(uint64_t(name) * 0x9E3779B97F4A7C15 >> 20) & (buckets - 1)];
        while (*at >= 0 && names[*at] != name) at = &beyond[*at];
        return *at;
    }

    // Puts a slot between two others of its name, of which there may be none.
    void link(int32_t younger, int32_t slot, int32_t elder) const {
        newer[slot] = younger, older[slot] = elder;
        if (younger >= 0) older[younger] = slot;
        if (elder >= 0) newer[elder] = slot;
    }

    void add(int64_t name, int64_t where, int64_t entry) const {
        int32_t slot = int32_t(where), &first = newest(name), younger = -1, elder = first;
        names[slot] = name, entries[slot] = entry;
        for (; elder >= 0 && entries[elder] > entry; elder = older[elder]) younger = elder;
        link(younger, slot, elder);
        if (younger >= 0) {
            ++count[first];
            return;
        }
        beyond[slot] = elder < 0 ? -1 : beyond[elder];
        count[slot] = elder < 0 ? 1 : count[elder] + 1;
        first = slot;
    }

    int64_t drop(int64_t slot) const {
        int32_t &first = newest(names[slot]), younger = newer[slot], elder = older[slot];
        if (elder >= 0) newer[elder] = younger;
        if (younger >= 0) {
            older[younger] = elder;
            --count[first];
        } else if (elder >= 0) {
            beyond[elder] = beyond[slot], count[elder] = count[slot] - 1;
            first = elder;
        } else {
            first = beyond[slot];
        }
        older[slot] = -2;
        return entries[slot];
    }

    // The newest slot of a name whose slots all hold one answer, or -1.
    template <class Token>
    int64_t known(int64_t name, const int32_t *answer_NA, int64_t length, const Token *answer,
                  int64_t given) const {
        int32_t first = newest(name);
        for (int32_t slot = first; slot >= 0; slot = older[slot])
            for (int64_t at = 0; at < length; ++at)
                if (answer_NA[slot * length + at] != (at < given ? int32_t(answer[at]) : 0))
                    return -1;
        return first;
    }
};

bool finite(const float *numbers, int64_t count) {
    bool all = true;
    for (int64_t at = 0; at < count; ++at) all &= std::fabs(numbers[at]) <= FLT_MAX;
    return all;
}

// Whether all tokens are of so many bytes: of one from 0, of more with a sign.
bool fit(const int64_t *tokens, int64_t count, int64_t bytes) {
    const int64_t most = bytes == 1 ? 255 : (int64_t(1) << (8 * bytes - 1)) - 1;
    const int64_t least = bytes == 1 ? 0 : -most - 1;
    bool all = true;
    for (int64_t at = 0; at < count; ++at) all &= least <= tokens[at] && tokens[at] <= most;
    return all;
}

template <class Token>
void copy_tokens(const int64_t *from, int64_t count, void *to, int64_t slot) {
    std::copy_n(from, count, static_cast<Token *>(to) + slot * count);
}

}  // namespace

extern "C" {

int64_t is_finite(const float *numbers, int64_t count) { return finite(numbers, count); }

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
        held[at] = newest[at] < 0 ? 0 : names->count[newest[at]];
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

enum { DONE, REFUSED, LINE_ENDS };
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
    auto copy = to.token_bytes == 1   ? copy_tokens<uint8_t>
                : to.token_bytes == 2 ? copy_tokens<int16_t>
                                      : copy_tokens<int32_t>;
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
        !finite(from.outcomes, from.count * from.outcome_size) ||
        !fit(from.stories, from.count * to.story_size, to.token_bytes) ||
        !fit(from.answers, from.count * from.answer_length, sizeof *to.answers))
        return REFUSED;
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
