// Stories of the microworld, as `stories.py`, `world.py` and `questions.py` write them, many at a
// time: the same draws, the same words. Those files say what is told and why; this one only follows.
//
// Names of people, places and objects are their places in the cast, lines numbers of a table that
// `native_stories.py` makes, directions 0 to 3 in the order of `DIRECTIONS`.
// Letters: B rows, S lines of the longest story, Q questions, K supports.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "digest.h"
#include "twister.h"

namespace {

enum Task { WHERE_PERSON, WHERE_OBJECT, WHERE_OBJECT_BEFORE, COUNT_OBJECTS, ROUTE };
enum Event { MOVE, TAKE, DROP, GIVE, TAKE_ALONG, TOWARD_AIM, TELL_WAY };
enum Kind { MOVES, TAKES, DROPS, GIVES, WAYS, ASIDES, FACTS, ASKS, ASKED_FACTS, NOTHING, KINDS };

constexpr int MOST = 12;  // people, places or objects
constexpr int SENTENCES[] = {3, 2, 2, 2, 4, 10};  // verbs, directions and asides of the first kinds
constexpr int NOBODY = -1;
constexpr int EXAM_SHARE = 10, MOST_DRAFTS = 1000;

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

struct Way {
    int direction, place, step;
};

struct World {
    const Dials &dials;
    Random &random;
    int hero, aim;
    int place[MOST], moved[MOST];                     // of people
    int holder[MOST], gained[MOST];                   // of objects
    int lies[MOST], dropped[MOST], dropper_moved[MOST];
    int lost[MOST];
    Order placed, held, lying, losers;
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

const std::vector<Event> EVENTS[] = {
    {MOVE, MOVE, MOVE, MOVE, MOVE, MOVE, TAKE, DROP, GIVE},
    {MOVE, MOVE, MOVE, MOVE, TAKE, TAKE, TAKE, DROP, GIVE},
    {TAKE_ALONG, TAKE_ALONG, TAKE_ALONG, TAKE_ALONG, TAKE_ALONG, MOVE, TAKE, TAKE, DROP, GIVE},
    {TOWARD_AIM, TOWARD_AIM, TOWARD_AIM, TOWARD_AIM, TOWARD_AIM, TOWARD_AIM, TOWARD_AIM, MOVE, DROP, GIVE},
    {TELL_WAY, TELL_WAY, TELL_WAY, MOVE},
};

struct Written {  // as `_Written` of native_stories.py: of one row here, of all there
    int64_t *lines_S, *answers_Q, *tellers_Q;
    int32_t *supports_Q, *steps_QK;
};

// What a row is told with: see `_draft` of stories.py.
struct Row {
    int64_t episode, sentences, questions, told;  // at which step the life's fact is told, or NOBODY
};

class Writer {
  public:
    Writer(const Dials &dials, int64_t lived, int64_t most_supports)
        : dials_(dials), lived_(lived), most_supports_(most_supports) {}

    bool write(Random &random, const Row &row, const Written &to) {
        for (int draft = 0; draft < MOST_DRAFTS; ++draft)
            if (this->draft(random, row, to) == bool(dials_.exam)) return true;
        return false;
    }

  private:
    // Returns whether the story belongs to the examination.
    bool draft(Random &random, const Row &row, const Written &to) {
        World world(dials_, random, before_);
        int64_t statements = row.sentences - (row.told >= 0);
        double asides = std::nearbyint(dials_.distractors * double(statements));
        int64_t number = 0, step = 0, events = 0;
        asked_.clear(), begin_.clear();
        for (int64_t question = 0; question < row.questions; ++question) {
            int64_t end = row.sentences * (question + 1) / row.questions;
            for (; number < end; ++number, ++step) {
                if (number == row.told) {
                    to.lines_S[step] = dials_.first_line[FACTS] + fact_in(row.episode);
                    continue;
                }
                int64_t left = end - number - (number < row.told);
                to.lines_S[step] = tell(world, int(step), left, statements, asides);
                if (events++ < dials_.beginning) begin(to.lines_S[step], events == 1);
            }
            to.tellers_Q[question] = NOBODY;
            if (!ask_life(random, row, to, question, step)) ask(world, to, question, step);
            ++step;
        }
        return digest(begin_) % EXAM_SHARE == 0;
    }

    int64_t tell(World &world, int step, int64_t left, int64_t &statements, double &asides) {
        int need = world.need();
        int64_t spare = left - need;
        bool aside = spare > 0 && world.random.uniform() * double(statements) < asides;
        --statements;
        if (aside) {
            --asides;
            return world.aside();
        }
        if (need && spare < 2) return said(world.advance(step));
        const auto &events = EVENTS[dials_.task];
        int64_t told = world.happens(events[world.random.pick(int(events.size()))], step);
        return told != NOBODY ? told : world.move(step);
    }

    int64_t said(int64_t line) const { return line != NOBODY ? line : dials_.first_line[NOTHING]; }

    void begin(int64_t line, bool first) {
        if (!first) begin_ += ' ';
        int64_t from = line ? dials_.ends[line - 1] : 0;
        begin_.append(dials_.trees + from, size_t(dials_.ends[line] - from));
    }

    void ask(World &world, const Written &to, int64_t question, int64_t step) {
        world.candidates(candidates_);
        auto was_asked = [&](const Candidate &each) { return this->was_asked(each); };
        if (!asked_.empty() && !std::all_of(candidates_.begin(), candidates_.end(), was_asked))
            candidates_.leave_out(was_asked);
        int answers = 0;
        ++round_;
        for (const Candidate &each : candidates_)
            if (is_new(each.answer, answers)) answers_[answers++] = each.answer;
        int64_t answer = answers_[world.random.pick(answers)];
        candidates_.leave_out([&](const Candidate &each) { return each.answer != answer; });
        const Candidate &chosen = candidates_.item[world.random.pick(candidates_.count)];
        bool two = dials_.task == WHERE_OBJECT_BEFORE || dials_.task == ROUTE;
        int64_t gaps = two ? chosen.gap[0] * dials_.places + chosen.gap[1] : chosen.gap[0];
        to.lines_S[step] = dials_.first_line[ASKS] + gaps;
        to.answers_Q[question] = answer;
        to.supports_Q[question] = world.supports(chosen, to.steps_QK + question * most_supports_);
        asked_.push_back(chosen);
        world.turn();
    }

    bool was_asked(const Candidate &one) const {
        bool was = false;
        for (const Candidate &other : asked_)
            was |= one.answer == other.answer && one.gap[0] == other.gap[0] && one.gap[1] == other.gap[1];
        return was;
    }

    // Whether none of the answers so far is this; those that share a place are looked for one by one.
    bool is_new(int64_t answer, int answers) {
        Seen &seen = seen_[answer % PLACES];
        if (seen.round != round_) return seen = {round_, answer}, true;
        return seen.answer != answer && std::find(answers_, answers_ + answers, answer) == answers_ + answers;
    }

    int64_t fact_in(int64_t episode) const {
        int64_t fact = (episode - dials_.start) % dials_.facts;
        return fact < 0 ? fact + dials_.facts : fact;
    }

    // A question about a fact of the life, whose answer and supports depend on who told it alone.
    bool ask_life(Random &random, const Row &row, const Written &to, int64_t question, int64_t step) {
        if (!dials_.tells) return false;
        double chance = random.uniform();
        int64_t teller = NOBODY;
        if (chance < dials_.carry) {
            int64_t before = dials_.exam ? lived_ : row.episode - dials_.lag;
            int64_t now = dials_.exam ? before - 1 : row.episode;
            int64_t oldest = std::max(dials_.start, now - dials_.facts + 1);
            if (oldest < before) teller = oldest + random.below(before - oldest);
        } else if (chance < 1.5 * dials_.carry && !dials_.exam) {
            teller = row.episode;
        }
        if (teller == NOBODY) return false;
        to.lines_S[step] = dials_.first_line[ASKED_FACTS] + fact_in(teller);
        to.tellers_Q[question] = teller;
        return true;
    }

    const Dials &dials_;
    int64_t lived_, most_supports_;
    std::string begin_;
    std::vector<World::Before> before_;
    Candidates candidates_;
    std::vector<Candidate> asked_;
        int64_t answers_[MOST * MOST];
    static constexpr int PLACES = 509;
    struct Seen {
        int64_t round, answer;
    } seen_[PLACES] = {};
    int64_t round_ = 0;
};

}  // namespace

// Returns how many rows were written: all, or as many as came before one whose drafts ran out.
extern "C" int64_t write_stories(const Dials *dials, int64_t lived, int64_t rows,
                                 const uint64_t *keys_B,
                                 const int64_t *rows_B4, int64_t lines, int64_t questions,
                                 int64_t supports, const Written *to) {
    Writer writer(*dials, lived, supports);
    static thread_local Twister twister;
    for (int64_t row = 0; row < rows; ++row) {
        if (row % ROWS == 0) {
            uint64_t keys_R[ROWS];
            for (int lane = 0; lane < ROWS; ++lane) keys_R[lane] = keys_B[std::min(row + lane, rows - 1)];
            twister.seed(keys_R);
        }
        Random random(twister, int(row % ROWS));
        const int64_t *told = rows_B4 + 4 * row;
        Written own{to->lines_S + row * lines, to->answers_Q + row * questions,
                  to->tellers_Q + row * questions, to->supports_Q + row * questions,
                  to->steps_QK + row * questions * supports};
        if (!writer.write(random, {told[0], told[1], told[2], told[3]}, own)) return row;
    }
    return rows;
}
