// What the five tasks ask of the world, and which events they need, as in `questions.py`.

#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "world.h"

namespace {

enum Event { MOVE, TAKE, DROP, GIVE, TAKE_ALONG, TOWARD_AIM, TELL_WAY };

const std::vector<Event> EVENTS[] = {
    {MOVE, MOVE, MOVE, MOVE, MOVE, MOVE, TAKE, DROP, GIVE},
    {MOVE, MOVE, MOVE, MOVE, TAKE, TAKE, TAKE, DROP, GIVE},
    {TAKE_ALONG, TAKE_ALONG, TAKE_ALONG, TAKE_ALONG, TAKE_ALONG, MOVE, TAKE, TAKE, DROP, GIVE},
    {TOWARD_AIM, TOWARD_AIM, TOWARD_AIM, TOWARD_AIM, TOWARD_AIM, TOWARD_AIM, TOWARD_AIM, MOVE, DROP, GIVE},
    {TELL_WAY, TELL_WAY, TELL_WAY, MOVE},
};

struct Candidate {
    int64_t answer;
    int16_t gap[2];
    int seen;  // a bit for each place of a route, which goes from the first gap to the second
};

// There is one route at most between two places.
struct Candidates {
    int count = 0;
    Candidate item[MOST * MOST];

    void add(const Candidate &one) { item[count++] = one; }
    Candidate *begin() { return item; }
    Candidate *end() { return item + count; }
    template <typename Test> void leave_out(Test test) {
        count = int(std::remove_if(begin(), end(), test) - item);
    }
};

// A world of which a task asks.
struct Riddle : World {
    using World::World;

    int64_t happens(Event event, int step) {
        switch (event) {
            case MOVE: return move(step);
            case TAKE: return take(step);
            case DROP: return drop(step);
            case GIVE: return give(step);
            case TAKE_ALONG: return held.count ? move(step, holder[pick(held)]) : NOBODY;
            case TOWARD_AIM: return toward_aim(step);
            default: return tell_way(step);
        }
    }

    int64_t toward_aim(int step) {
        int holds = 0;
        for (int thing : held) holds += holder[thing] == hero;
        if (holds > aim) {
            int64_t told = drop(step, hero);
            return told != NOBODY ? told : move(step, hero);
        }
        return holds < aim || lost[hero] == NOBODY ? take(step, &hero, 1) : NOBODY;
    }

    bool known(int thing) const { return place[holder[thing]] != NOBODY; }
    bool any_known() const {
        return std::any_of(held.begin(), held.end(), [&](int thing) { return known(thing); });
    }


    int need() const {
        switch (dials.task) {
            case WHERE_PERSON: return !placed.count;
            case WHERE_OBJECT:
                return lying.count || any_known() ? 0 : held.count || placed.count ? 1 : 2;
            case WHERE_OBJECT_BEFORE: return need_for_earlier_place();
            case COUNT_OBJECTS: return !(held.count || losers.count);
            default: return !ways_from.count;
        }
    }

    int need_for_earlier_place() const {
        if (!before.empty()) return 0;
        if (held.count) return any_known() ? 1 : 2;
        auto met = [&](int thing) { return std::find(place, place + MOST, lies[thing]) != place + MOST; };
        bool reach = lying.count < dials.objects || std::any_of(lying.begin(), lying.end(), met);
        return placed.count && reach ? 2 : 3;
    }

    int64_t advance(int step) {
        switch (dials.task) {
            case WHERE_PERSON: return move(step);
            case COUNT_OBJECTS: return take(step);
            case ROUTE: return tell_way(step);
            default: return carry(step);
        }
    }

    int64_t carry(int step) {
        if (held.count) {
            bool some = any_known();
            Order can;
            for (int thing : held)
                if (!some || known(thing)) can.add(holder[thing]);
            return move(step, pick(can));
        }
        if (placed.count) {
            int64_t told = take(step, placed.item, placed.count);
            return told != NOBODY ? told : move(step, NOBODY, lies[pick(lying)]);
        }
        return random.pick(2) ? take(step) : move(step);
    }

    void candidates(Candidates &found) const {
        auto add = [&](int64_t answer, int first, int second = 0) {
            found.add({answer, {int16_t(first), int16_t(second)}, 0});
        };
        found.count = 0;
        switch (dials.task) {
            case WHERE_PERSON:
                for (int who : placed) add(place[who], who);
                return;
            case WHERE_OBJECT:
                for (int thing : held)
                    if (known(thing)) add(place[holder[thing]], thing);
                for (int thing : lying) add(lies[thing], thing);
                return;
            case WHERE_OBJECT_BEFORE:
                for (const Before &at : before) add(at.answer, at.thing, at.place);
                return;
            case COUNT_OBJECTS: {
                int holds[MOST] = {};
                bool told[MOST] = {};
                for (int thing : held) ++holds[holder[thing]];
                for (int thing : held)
                    if (!std::exchange(told[holder[thing]], true)) add(holds[holder[thing]], holder[thing]);
                for (int who : losers)
                    if (!holds[who]) add(0, who);
                return;
            }
            default:
                for (int start : ways_from) routes(int16_t(start), found);
        }
    }

    // Routes are counted in base 5, a direction a digit, the last one lowest.
    void routes(int16_t start, Candidates &found) const {
        int longest = found.count;
        lengthen({0, {start, start}, 1 << start}, found);
        for (int length = 1; length < dials.longest; ++length)
            for (int end = found.count; longest < end; ++longest) lengthen(found.item[longest], found);
    }

    void lengthen(Candidate route, Candidates &found) const {
        const Way *begin = way[route.gap[1]], *end = begin + ways[route.gap[1]];
        for (const Way *next = begin; next < end; ++next)
            if (!(route.seen >> next->place & 1))
                found.add({route.answer * 5 + next->direction + 1,
                           {route.gap[0], int16_t(next->place)},
                           route.seen | 1 << next->place});
    }

    // The steps that an answer rests on; returns how many.
    int supports(const Candidate &chosen, int32_t *step_K) const {
        auto [first, second] = chosen.gap;
        switch (dials.task) {
            case WHERE_PERSON: return step_K[0] = moved[first], 1;
            case WHERE_OBJECT: {
                bool lain = holder[first] == NOBODY;
                step_K[0] = lain ? dropped[first] : gained[first];
                return step_K[1] = lain ? dropper_moved[first] : moved[holder[first]], 2;
            }
            case WHERE_OBJECT_BEFORE:
                return std::copy_n(before[size_t(before_at[first][second])].step, 3, step_K), 3;
            case COUNT_OBJECTS: {
                int count = 0;
                for (int thing : held)
                    if (holder[thing] == first) step_K[count++] = gained[thing];
                std::sort(step_K, step_K + count);
                return count ? count : (step_K[0] = lost[first], 1);
            }
            default: return retrace(first, chosen.answer, step_K);
        }
    }

    int retrace(int start, int64_t route, int32_t *step_K) const {
        int64_t digit = 1;
        while (digit * 5 <= route) digit *= 5;
        int count = 0;
        for (int here = start; digit; digit /= 5) {
            const Way *next = way[here];
            while (next->direction + 1 != route / digit % 5) ++next;
            step_K[count++] = next->step, here = next->place;
        }
        return count;
    }
};

}  // namespace
