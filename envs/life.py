"""Facts that hold for a whole life: who lives where, who owns what.

Each kind has up to 576 facts over composite names ("the brave baker"). What holds, and in which
episode and step it is told, is a pure function of the life's seed: nothing is shared or stored,
and the supports of a question about an earlier episode are known without living it again.
"""

import random
from typing import NamedTuple

from stillknows.envs.world import DIRECTIONS, NUMBERS, OPPOSITE, words

ADJECTIVES = words(
    "amber brave calm clever dusty early fair gentle happy idle jolly kind "
    "late merry noble old proud quick rusty shy tall upright vain young"
)
NOUNS = words(
    "archer baker clerk dancer doctor farmer guard hunter judge king lawyer miller "
    "nurse officer painter queen rider sailor singer tailor teacher tinker weaver writer"
)
MOST_FACTS = len(ADJECTIVES) * len(NOUNS)


class FactKind(NamedTuple):
    """How one kind of fact is told and asked; trees, in which `{s}` is its subject."""

    told: str
    asked: str
    answers: str  # "place", "person", "number" or "route"


KINDS = {
    "where_person": FactKind(
        "((the {s}) (lives (in (the {v}))) .)", "(where (does (the {s}) live) ?)", "place"
    ),
    "where_object": FactKind(
        "((the (cup (of (the {s})))) (belongs (to {v})) .)",
        "(who (owns (the (cup (of (the {s}))))) ?)",
        "person",
    ),
    "where_object_before": FactKind(
        "((the {s}) ((lived (in (the {v}))) before) .)",
        "(where (did (the {s}) (live before)) ?)",
        "place",
    ),
    "count_objects": FactKind(
        "((the {s}) (keeps ({v} goats)) .)",
        "((how (many goats)) (does (the {s}) keep) ?)",
        "number",
    ),
    "route": FactKind(
        "(({v}) ((of (the gate)) (lives (the {s}))) .)",
        "(how (do you (go (from (the gate)) (to (the {s})))) ?)",
        "route",
    ),
}
AMOUNTS = NUMBERS[2:6]


class Life(NamedTuple):
    """One kind of fact in one life.

    Attributes:
        seed: names the life.
        kind: a key of `KINDS`.
        facts: how many there are.
        task_start: the number of the first episode that tells of them.
        tellable: they are told at one of the first `tellable` steps of an episode.
        places: where people may live.
        people: who may own things.
    """

    seed: int
    kind: str
    facts: int
    task_start: int
    tellable: int
    places: tuple[str, ...]
    people: tuple[str, ...]

    def told_in(self, episode: int) -> tuple[int, int]:
        """Return which fact an episode tells, and at which step."""
        step = random.Random(f"{self.seed} tells {self.kind} {episode}").randrange(self.tellable)
        return (episode - self.task_start) % self.facts, step

    def known_before(
        self, episode: int, draw: random.Random, now: int | None = None
    ) -> tuple[int, int] | None:
        """Return a fact told before an episode and the last episode that told it, or None.

        Args:
            episode: only facts told in earlier episodes count.
            draw: decides which of them.
            now: facts that were told again since, until and with episode `now`, do not count; none
                is left out without it.
        """
        start = self.task_start
        oldest = max(start, (episode - 1 if now is None else now) - self.facts + 1)
        if oldest >= episode:
            return None
        last = draw.randrange(oldest, episode)
        return (last - start) % self.facts, last

    def sentence(self, fact: int) -> str:
        """Return the tree of the statement of a fact."""
        return KINDS[self.kind].told.format(s=f"({subject(fact)})", v=self.answer(fact))

    def question(self, fact: int) -> str:
        """Return the tree of the question for a fact."""
        return KINDS[self.kind].asked.format(s=f"({subject(fact)})")

    def answer(self, fact: int) -> str:
        """Return what is right."""
        draw = random.Random(f"{self.seed} holds {self.kind} {fact}")
        choices = {"place": self.places, "person": self.people, "number": AMOUNTS}
        answers = KINDS[self.kind].answers
        if answers != "route":
            return draw.choice(choices[answers])
        first = draw.choice(list(DIRECTIONS))
        return f"{first} {draw.choice([d for d in DIRECTIONS if d != OPPOSITE[first]])}"


def subject(fact: int) -> str:
    """Return whom a fact is about, "brave baker".

    Nouns and adjectives are paired along diagonals: all nouns occur in a life of few facts.
    """
    size = len(NOUNS)
    return f"{ADJECTIVES[(fact + fact // size) % size]} {NOUNS[fact % size]}"
