"""Readers of generated problems: each answers by the words of a story, and knows no generator."""

import re
from collections import Counter
from itertools import pairwise, product

from stillknows.envs.generated import make_problems
from stillknows.envs.kinds.topics import TOPICS

HARD = {
    "kinship": {"relations": 6, "distractors": 4, "questions": 5},
    "traversal": {"rooms": 8, "doors": 3, "steps": 4, "questions": 4},
    "shortest_way": {"rooms": 8, "doors": 2, "steps": 4, "questions": 4},
    "succession": {"items": 20, "questions": 5},
    "programs": {"variables": 5, "lines": 10, "loops": 0.3, "conditions": 0.4, "questions": 4},
    "induction": {"words": 2, "examples": 4, "questions": 3},
    "reading": {"passages": 5, "asides": 6, "questions": 8},
    "dialogue_state": {"exchanges": 14, "questions": 4},
    "summary": {"events": 11, "matter": 4, "withdrawn": 3},
    "code": {"words": 3, "examples": 2},
    "relations": {"people": 9, "apart": 4, "questions": 6},
    "topics": {"topics": 5, "sentences": 5, "idle": 0.5, "questions": 3},
    "forecast": {"readings": 8, "noise": 0.3, "questions": 4},
    "planning": {"blocks": 5, "moved": 5, "moves": 3},
}


class Family:
    """Draws all that follows from what is told of relatives, until nothing new follows."""

    def __init__(self, told):
        words = ["mother", "father", "daughter", "son", "sister", "brother", "wife", "husband"]
        self.male, self.parents, self.siblings, self.spouses = {}, set(), set(), set()
        for sentence in told:
            other, _, _, word, _, person, _ = sentence.split()
            place = words.index(word)
            self.male[other] = place % 2
            pair = {0: self.parents, 2: self.siblings, 3: self.spouses}.get(place // 2)
            if pair is None:
                self.parents.add((other, person))
            else:
                pair.add((person, other))
        size = -1
        while size != self.size():
            size = self.size()
            self.follow()

        self.check()

    def check(self):
        """A family that can be: two parents and one spouse at most, of different sex."""
        for pairs, most in ((self.parents, 2), (self.spouses, 1)):
            of = Counter(person for person, _ in pairs)
            assert max(of.values(), default=0) <= most
        couples = self.spouses | {
            (a, b) for x, a in self.parents for y, b in self.parents if x == y and a != b
        }
        assert all(self.male.get(a) != self.male.get(b, -1) for a, b in couples if a in self.male)

    def size(self):
        return len(self.parents) + len(self.siblings) + len(self.spouses)

    def follow(self):
        def turned(pairs):
            return {(b, a) for a, b in pairs}

        def joined(left, right):
            return {(a, d) for a, b in left for c, d in right if b == c and a != d}

        self.siblings |= turned(self.siblings) | joined(self.siblings, self.siblings)
        self.siblings |= joined(self.parents, turned(self.parents))
        self.spouses |= turned(self.spouses) | joined(turned(self.parents), self.parents)
        self.parents |= joined(self.siblings, self.parents) | joined(self.parents, self.spouses)

    def related(self, person, other):
        up, across, wed = self.parents, self.siblings, self.spouses
        down = {(b, a) for a, b in up}
        chains = {
            "mother father": [[up]],
            "daughter son": [[down]],
            "sister brother": [[across]],
            "wife husband": [[wed]],
            "grandmother grandfather": [[up, up]],
            "granddaughter grandson": [[down, down]],
            "great-grandmother great-grandfather": [[up, up, up]],
            "great-granddaughter great-grandson": [[down, down, down]],
            "aunt uncle": [[up, across]],
            "great-aunt great-uncle": [[up, up, across]],
            "niece nephew": [[across, down]],
            "great-niece great-nephew": [[across, down, down]],
            "cousin cousin": [[up, across, down]],
            "mother-in-law father-in-law": [[wed, up]],
            "daughter-in-law son-in-law": [[down, wed]],
            "sister-in-law brother-in-law": [[wed, across], [across, wed]],
        }
        found = set()
        for words, ways in chains.items():
            for way in ways:
                people = {person}
                for pairs in way:
                    people = {b for a, b in pairs if a in people}
                if other in people and other in self.male:
                    found.add(words.split()[self.male[other]])
        assert len(found) <= 1, (person, other, found)
        return found.pop() if found else None


def kinship(told, question):
    _, _, other, _, person, _ = question.split()
    return Family(told).related(person, other)


def doors_of(told):
    pattern = r"from the (\w+) the (\w+) door leads to the (\w+) \."
    return {m.group(1, 2): m[3] for m in (re.fullmatch(pattern, text) for text in told)}


def traversal(told, question):
    doors = doors_of(told)
    found = re.fullmatch(r"from the (\w+) by ([\w ]+) where are you \?", question)
    place = found[1]
    for colour in found[2].split():
        place = doors.get((place, colour))
    return place


def shortest_way(told, question):
    doors = doors_of(told)
    found = re.fullmatch(r"how do you get from the (\w+) to the (\w+) \?", question)
    colours = sorted({colour for _, colour in doors})
    for length in range(1, 7):
        for way in product(colours, repeat=length):
            if (
                traversal(told, f"from the {found[1]} by {' '.join(way)} where are you ?")
                == found[2]
            ):
                return " ".join(way)
    return None


def succession(told, question):
    items = [" ".join(sentence.split()[3:5]) for sentence in told]
    asked = " ".join(question.split()[4:6])
    after = dict(pairwise(items))
    return after.get(asked)


def programs(told, question):
    values = {}

    def value(word):
        return int(word) if word.isdigit() else values[word]

    try:
        for sentence in told:
            words, times = sentence.split()[:-1], 1
            if words[0] == "if":
                left, right = value(words[1]), value(words[3])
                holds = left > right if words[2] == "exceeds" else left == right
                times, words = int(holds), words[5:]
            elif words[0] == "do":
                times, words = int(words[1]), words[3:]
            for _ in range(times):
                sign = {"plus": 1, "minus": -1}[words[3]] if len(words) > 3 else 0
                values[words[0]] = (value(words[2]) + sign * value(words[-1])) % 10
    except KeyError:
        return None
    return str(values.get(question.split()[2]))


def apply(word, items):
    if word in ("behead", "rotate"):
        return items[1:] + ([items[0]] if word == "rotate" and items else [])
    if word in ("sum", "largest"):
        return [sum(items) % 10] if word == "sum" else [max([0, *items])]
    if word in ("sort", "reverse"):
        return sorted(items) if word == "sort" else list(reversed(items))
    return [{"raise": i + 1, "double": i + i, "mirror": 9 - i}[word] % 10 for i in items]


def makes(program, items):
    for word in program:
        items = apply(word, items)
    return items


def fitting(told, most):
    names = ["behead", "rotate", "sum", "largest", "sort", "reverse", "raise", "double", "mirror"]
    examples = [re.fullmatch(r"f of ([\d ]+) is ([\d ]+) \.", text).groups() for text in told]
    lists = [[list(map(int, each.split())) for each in example] for example in examples]
    return [
        program
        for length in range(1, most + 1)
        for program in product(sorted(names), repeat=length)
        if all(makes(program, given) == made for given, made in lists)
    ]


def induction(told, question, words=1):
    items = [int(word) for word in question.split() if word.isdigit()]
    made = {tuple(makes(program, items)) for program in fitting(told, words)}
    return " ".join(map(str, made.pop())) if len(made) == 1 else None


def code(told, question, words=2):
    return " ".join(fitting(told, words)[0])


def reading(told, question):
    who, place, day, thing, facts = "", "", "", "", {}
    for sentence in told:
        if found := re.fullmatch(r"on (\w+) (\w+) went to the (\w+) \.", sentence):
            day, who, place = found.groups()
        elif found := re.fullmatch(r"(he|she) (\w+) a (\w+) there \.", sentence):
            thing = found[3]
            facts[thing] = {"who": who, "place": place, "day": day}
        elif found := re.fullmatch(r"it was for (\w+) \.", sentence):
            facts.setdefault(thing, {})["other"] = found[1]
    words = question.split()
    if words[0] == "what":
        return next((thing for thing, fact in facts.items() if fact["who"] == words[2]), None)
    gap = {"who": "who", "where": "place", "on": "day", "for": "other"}[words[0]]
    asked = words[-2] if gap in ("who", "place", "other") else words[5]
    return facts.get(asked, {}).get(gap) or None


def dialogue_state(told, question):
    state, asked, proposed = {}, None, None
    for sentence in told:
        words = sentence.split()[:-1]
        if words[:2] == ["system", "which"]:
            asked, proposed = words[2], None
        elif words[:2] == ["system", "shall"]:
            asked, proposed = words[3], words[5]
        elif words[1:3] == ["i", "want"]:
            state[words[-1]] = words[3]
        elif words[1:3] == ["no", "make"]:
            state[words[4]] = words[5]
        elif words[1] == "the":
            state[words[2]] = "any"
        elif words[1] == "yes" and proposed:
            state[asked] = proposed
        elif words[1] not in ("yes", "no", "thanks"):
            state[asked] = words[1]
    return state.get(question.split()[-2])


def summary(told, question):
    criterion, events = None, {}
    for sentence in told:
        words = sentence.split()
        if words[:3] == ["only", "a", "cost"]:
            criterion = int(words[4])
        elif words[0] == "only":
            criterion = words[2]
        elif words[-2] == "false":
            events.pop(words[4], None)
        else:
            events[words[4]] = (words[1], int(words[6]))
    return " ".join(
        place
        for place, (kind, cost) in events.items()
        if (cost > criterion if isinstance(criterion, int) else kind == criterion)
    )


def relations(told, question):
    pairs = [(words[0], words[2], words[4]) for words in map(str.split, told)]
    older = {(a, b) if word == "older" else (b, a) for a, word, b in pairs}
    people = {person for pair in older for person in pair}
    above = {p: {a for a, b in older if b == p} for p in people}
    for _ in people:
        above = {p: set(a).union(*(above[q] for q in a)) for p, a in above.items()}
    if sorted(map(len, above.values())) != list(range(len(people))):
        return None
    row = sorted(people, key=lambda person: len(above[person]))
    words = question.split()
    if len(words) == 5:
        return row[0] if words[3] == "oldest" else row[-1]
    if words[7] not in row:
        return None
    count = ["first", "second", "third", "fourth"].index(words[3]) + 1
    place = row.index(words[7]) + (count if words[5] == "younger" else -count)
    return row[place] if 0 <= place < len(row) else None


def topics(told, question):
    topic = {word: topic for topic, words in TOPICS.items() for word in words}
    heard = [topic[word] for text in told for word in text.split() if word in topic]
    run = [topic for n, topic in enumerate(heard) if n == 0 or topic != heard[n - 1]]
    if "before" in question:
        return run[-2] if len(run) > 1 else None
    return run[-1] if run else None


def likeliest(told, question, noise=0.1):
    """Count by trying: how likely is each drift to have made these readings?"""
    readings = [int(text.split()[3]) for text in told]
    chances = Counter()
    for drift in (1, 3, 5, 7, 9):
        likely = 1.0
        for before, after in pairwise(readings):
            slip = (after - before - drift + 5) % 10 - 5
            likely *= {0: 1 - noise, 1: noise / 2, -1: noise / 2}.get(slip, 0)
        for slip, chance in ((0, 1 - noise), (1, noise / 2), (-1, noise / 2)):
            chances[(readings[-1] + drift + slip) % 10] += likely * chance
    best, chance = chances.most_common(1)[0]
    return str(best), chance / sum(chances.values())


def planning(told, question):
    towers = {}
    for sentence in told:
        words = sentence.split()
        towers[words[2] if words[0] == "then" else words[1]] = words[-2]
    block, below = question.split()[5], question.split()[8]
    clear = [b for b in (block, below) if b != "table"]
    plan = []
    for each in clear:  # put all that lies above either on the table, then the block where it goes
        tower = [each]
        while on := [b for b, under in towers.items() if under == tower[-1]]:
            tower += on
        for top in reversed(tower[1:]):
            towers[top] = "table"
            plan += [top, "table"]
    return " ".join([*plan, block, below])


SOLVERS = {
    **{"kinship": kinship, "traversal": traversal, "shortest_way": shortest_way},
    **{"succession": succession, "programs": programs, "induction": induction},
    **{"reading": reading, "dialogue_state": dialogue_state, "summary": summary, "code": code},
    **{"relations": relations, "topics": topics, "planning": planning},
}
NEEDED = {"kinship", "traversal", "shortest_way", "succession", "induction", "reading"}
NEEDED |= {"dialogue_state", "topics"}  # tasks whose answer falls with any support
MANY = {"shortest_way", "code", "planning"}  # tasks with other right answers than the target


def asked(task, count, **dials):
    """Yield what was told before each question, the question, its answer and its supports."""
    problems = make_problems(task, **dials)
    for key in range(count):
        story = problems.story(key, 5, exam=key % 4 == 0)
        told = {}
        for step, (sentence, answer) in enumerate(zip(story.sentences, story.answers, strict=True)):
            if answer is None:
                told[step] = sentence
                continue
            supports = [at for episode, at in answer.supports if episode == 5]
            assert len(set(supports)) == len(answer.supports) > 0
            assert set(supports) <= set(told)
            yield list(told.values()), sentence, answer, [told[at] for at in sorted(supports)]
