// Stories of the microworld, as `stories.py`, `world.py` and `questions.py` write them, many at a
// time: the same draws, the same words. Those files say what is told and why; this one only follows.
//
// Letters: B rows, S lines of the longest story, Q questions, K supports.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "digest.h"
#include "questions.h"
#include "twister.h"

namespace {

constexpr int EXAM_SHARE = 10, MOST_DRAFTS = 1000;

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
        Riddle world(dials_, random, before_);
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

    int64_t tell(Riddle &world, int step, int64_t left, int64_t &statements, double &asides) {
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

    void ask(Riddle &world, const Written &to, int64_t question, int64_t step) {
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
                                 const uint64_t *keys_B, const int64_t *rows_B4, int64_t lines,
                                 int64_t questions, int64_t supports, const Written *to) {
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
