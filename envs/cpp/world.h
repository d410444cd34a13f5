// What happens in the microworld, as in `world.py`.
//
// Names of people, places and objects are their places in the cast, lines numbers of a table that
// `native_stories.py` makes, directions 0 to 3 in the order of `DIRECTIONS`. An event that cannot
// happen tells NOBODY.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "twister.h"

namespace {

enum Task { WHERE_PERSON, WHERE_OBJECT, WHERE_OBJECT_BEFORE, COUNT_OBJECTS, ROUTE };
enum Kind { MOVES, TAKES, DROPS, GIVES, WAYS, ASIDES, FACTS, ASKS, ASKED_FACTS, NOTHING, KINDS };

constexpr int MOST = 12;                          // people, places or objects
constexpr int SENTENCES[] = {3, 2, 2, 2, 4, 10};  // verbs, directions and asides of the first kinds
constexpr int NOBODY = -1;

struct Dials {  // as `_Dials` of native_stories.py
    int64_t task, people, places, objects, longest, two_way, beginning, exam;
    int64_t tells, lag, facts, start;
    double distractors, carry;
    int64_t first_line[KINDS];
    const char *trees;
    const int64_t *ends;  // of the trees
};

// Numbers below MOST in the order they came in.
struct Order {
    int count = 0, item[MOST];

    void add(int number) { item[count++] = number; }
    void drop(int number) {
        int *found = std::find(item, item + count, number);
        std::copy(found + 1, item + count--, found);
    }
    const int *begin() const { return item; }
    const int *end() const { return item + count; }
};

struct Way {  // where a place lies seen from another, and when that was told
    int direction, place, step;
};

struct World {
    const Dials &dials;
    Random &random;
    int hero, aim;
    int place[MOST], moved[MOST], lost[MOST];                        // of people
    int holder[MOST], gained[MOST];                                  // of objects that are held
    int lies[MOST], dropped[MOST], dropper_moved[MOST];              // of those that lie somewhere
    Order placed, losers, held, lying;
    struct Before {
        int thing, place, answer, step[3];
    };
    std::vector<Before> &before;
    int before_at[MOST][MOST];
    int untold[2 * MOST][3], untold_count = 0;
    Way way[MOST][2 * MOST];
    int ways[MOST];
    Order ways_from;

    World(const Dials &dials, Random &random, std::vector<Before> &before)
        : dials(dials), random(random), before(before) {
        std::fill_n(place, MOST, NOBODY), std::fill_n(holder, MOST, NOBODY);
        std::fill_n(lies, MOST, NOBODY), std::fill_n(lost, MOST, NOBODY);
        before.clear();
        if (dials.task == WHERE_OBJECT_BEFORE) std::fill_n(before_at[0], MOST * MOST, NOBODY);
        if (dials.task == ROUTE) {
            std::fill_n(ways, MOST, 0);
            grow_map();
            if (!dials.two_way) {
                for (int at = 0, count = untold_count; at < count; ++at) {
                    int *way = untold[at];
                    add_untold(way[2], (way[1] + 2) % 4, way[0]);
                }
                shuffle_untold();
            }
        }
        turn();
    }

    int64_t line(Kind kind, int first, int second, int third) const {
        return dials.first_line[kind] + (int64_t(first) * SENTENCES[kind] + second) * width(kind) + third;
    }

    int width(Kind kind) const {
        switch (kind) {
            case MOVES: case WAYS: return dials.places;
            case TAKES: case DROPS: return dials.objects;
            case GIVES: return dials.objects * dials.people;
            default: return 1;
        }
    }

    void turn() {
        hero = random.pick(dials.people);
        aim = random.pick(dials.objects + 1);
    }

    int pick(const Order &order) { return order.item[random.pick(order.count)]; }

    int64_t move(int step, int person = NOBODY, int to = NOBODY) {
        if (person == NOBODY) person = random.pick(dials.people);
        int start = place[person];
        while (to == NOBODY || to == start) to = random.pick(dials.places);
        if (start == NOBODY) placed.add(person);
        else if (dials.task == WHERE_OBJECT_BEFORE)
            for (int thing : held)
                if (holder[thing] == person) remember(thing, start, to, step);
        place[person] = to, moved[person] = step;
        return line(MOVES, person, random.pick(3), to);
    }

    void remember(int thing, int start, int to, int step) {
        int &at = before_at[thing][to];
        if (at == NOBODY) at = int(before.size()), before.emplace_back();
        int person = holder[thing];
        auto [least, most] = std::minmax(moved[person], gained[thing]);
        before[at] = {thing, to, start, {least, most, step}};
    }

    int64_t take(int step, const int *people, int count) {
        int reach[MOST * MOST][2], size = 0;
        for (int thing = 0; thing < dials.objects; ++thing) {
            if (holder[thing] != NOBODY) continue;
            for (int at = 0; at < count; ++at)
                if (lies[thing] == NOBODY || lies[thing] == place[people[at]])
                    reach[size][0] = people[at], reach[size++][1] = thing;
        }
        if (!size) return NOBODY;
        auto [person, thing] = reach[random.pick(size)];
        if (lies[thing] != NOBODY) lying.drop(thing), lies[thing] = NOBODY;
        held.add(thing), holder[thing] = person, gained[thing] = step;
        return line(TAKES, person, random.pick(2), thing);
    }

    int64_t take(int step) {
        static constexpr int ALL[MOST] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
        return take(step, ALL, dials.people);
    }

    int64_t drop(int step, int only = NOBODY) {
        Order can;
        for (int thing : held)
            if (place[holder[thing]] != NOBODY && (only == NOBODY || holder[thing] == only)) can.add(thing);
        if (!can.count) return NOBODY;
        int thing = pick(can), person = holder[thing];
        held.drop(thing), holder[thing] = NOBODY;
        lying.add(thing), lies[thing] = place[person];
        dropped[thing] = step, dropper_moved[thing] = moved[person];
        loses(person, step);
        return line(DROPS, person, random.pick(2), thing);
    }

    void loses(int person, int step) {
        if (lost[person] == NOBODY) losers.add(person);
        lost[person] = step;
    }

    int64_t give(int step) {
        int meeting[MOST * MOST][2], size = 0;
        for (int thing : held) {
            int person = holder[thing];
            if (place[person] == NOBODY) continue;
            for (int other = 0; other < dials.people; ++other)
                if (other != person && place[other] == place[person])
                    meeting[size][0] = thing, meeting[size++][1] = other;
        }
        if (!size) return NOBODY;
        auto [thing, other] = meeting[random.pick(size)];
        int person = holder[thing];
        holder[thing] = other, gained[thing] = step, loses(person, step);
        return line(GIVES, person, random.pick(2), thing * int(dials.people) + other);
    }

    int64_t tell_way(int step) {
        if (!untold_count) return NOBODY;
        auto [other, direction, here] = untold[--untold_count];
        add_way(other, {direction, here, step});
        int opposite = (direction + 2) % 4;
        if (!dials.two_way) return line(WAYS, here, direction, other);
        add_way(here, {opposite, other, step});
        bool turned = random.uniform() < 0.5;
        return turned ? line(WAYS, other, opposite, here) : line(WAYS, here, direction, other);
    }

    void add_way(int from, Way told) {
        if (!ways[from]) ways_from.add(from);
        way[from][ways[from]++] = told;
    }

    int64_t aside() {
        int which = random.pick(SENTENCES[ASIDES]);
        int person = random.pick(dials.people), at = random.pick(dials.places);
        return dials.first_line[ASIDES] + (which * dials.people + person) * dials.places + at;
    }

    void add_untold(int place, int direction, int neighbour) {
        int *way = untold[untold_count++];
        way[0] = place, way[1] = direction, way[2] = neighbour;
    }

    void shuffle_untold() {
        for (int at = untold_count - 1; at > 0; --at) std::swap(untold[at], untold[random.below(at + 1)]);
    }

    void grow_map() {
        constexpr int WIDE = 2 * MOST;  // no place lies farther from the first
        static constexpr int STEP[] = {WIDE, 1, -WIDE, -1};
        int count = int(dials.places), pool[MOST], order[MOST], cell[MOST] = {WIDE * MOST + MOST};
        bool taken[WIDE * WIDE] = {};
        for (int at = 0; at < count; ++at) pool[at] = at;
        for (int at = 0; at < count; ++at) {
            int64_t drawn = random.below(count - at);
            order[at] = pool[drawn], pool[drawn] = pool[count - at - 1];
        }
        taken[cell[0]] = true;
        for (int laid = 1; laid < count;) {
            int64_t from = random.below(laid), direction = random.below(4);
            cell[laid] = cell[from] + STEP[direction];
            if (taken[cell[laid]]) continue;
            taken[cell[laid]] = true;
            add_untold(order[from], int(direction), order[laid++]);
        }
        shuffle_untold();
    }
};

}  // namespace
