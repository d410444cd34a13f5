"""Reading comprehension: short passages, in which he, she, it and there stand for what was named.

Each passage says who went where, when, what they did with which thing there, and for whom. A
pronoun means who (where, what) was named last. Questions ask for one of these by another, so that
two sentences have to be joined.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, NamedTuple

from stillknows.envs.kinds.writing import Page, Problems, Ranges, pick_questions
from stillknows.envs.world import words

PEOPLE = {
    "she": words("anna berta carla dina ella frida"),
    "he": words("adam boris carl david erik franz"),
}
PLACES = words("airport beach circus fair market port station zoo")
DAYS = words("monday tuesday wednesday thursday friday saturday sunday")
THINGS = words("camera carpet guitar kite lantern puzzle scarf violin")
DONE = {"bought": "buy", "found": "find", "lost": "lose"}
_WENT = "((on {day}) ({who} (went (to (the {place})))) .)"
_DID = "({pronoun} (({done} (a {thing})) there) .)"
_FOR = "(it (was (for {other})) .)"
_ASIDES = ("(the day (was long) .)", "(it (rained (a little)) .)", "(the (bus (was late)) .)")
_QUESTIONS = {
    "who": "(who ({done} (the {thing})) ?)",
    "place": "((where did) ({who} ({do} (the {thing}))) ?)",
    "day": "((on (which day)) ((was (the {thing})) {done}) ?)",
    "thing": "((what did) ({who} {do}) ?)",
    "other": "((for whom) (was (the {thing})) ?)",
}


class Passage(NamedTuple):
    """What happened; the names are the gaps of the sentences."""

    day: str
    who: str
    place: str
    pronoun: str
    done: str
    thing: str
    other: str


class Question(NamedTuple):
    """Which passage is asked for what."""

    passage: int
    gap: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Reading(Problems):
    """Questions about passages.

    Attributes:
        passages: told one after another, each about somebody else and another thing.
        asides: sentences between them that nothing rests on.
        questions: asked at the end.
    """

    ranges: ClassVar[Ranges] = {"passages": (1, 6), "asides": (0, 20), "questions": (1, 10)}
    said: ClassVar[Sequence[str]] = (
        *(_WENT, _DID, _FOR, *_ASIDES, *_QUESTIONS.values(), *DONE, *DONE.values()),
        *(*PEOPLE, *PEOPLE["he"], *PEOPLE["she"], *PLACES, *DAYS, *THINGS),
    )

    passages: int = 2
    asides: int = 1
    questions: int = 3

    def write(self, draw: Random, page: Page) -> None:
        """Tell passages, then ask."""
        passages = self._draw(draw)
        before = [draw.randrange(self.passages) for _ in range(self.asides)]
        steps = []
        for number, passage in enumerate(passages):
            for _ in range(before.count(number)):
                page.tell(draw.choice(_ASIDES))
            told = [each.format(**passage._asdict()) for each in (_WENT, _DID, _FOR)]
            steps.append([page.tell(tree) for tree in told])
        candidates = [
            Question(number, gap, getattr(passage, gap))
            for number, passage in enumerate(passages)
            for gap in _QUESTIONS
        ]
        for question in pick_questions(draw, candidates, self.questions, lambda each: each.gap):
            went, did, gave = steps[question.passage]
            passage = passages[question.passage]
            gaps = {**passage._asdict(), "do": DONE[passage.done]}
            supports = (did, gave) if question.gap == "other" else (did, went)
            page.ask(_QUESTIONS[question.gap].format(**gaps), question.answer, supports)

    def _draw(self, draw: Random) -> list[Passage]:
        days, places, things = (
            draw.sample(names, self.passages) for names in (DAYS, PLACES, THINGS)
        )
        people = [(who, pronoun) for pronoun, names in PEOPLE.items() for who in names]
        chosen = draw.sample(people, 2 * self.passages)
        return [
            Passage(day, who, place, pronoun, draw.choice(list(DONE)), thing, other)
            for day, (who, pronoun), place, thing, (other, _) in zip(
                days, chosen, places, things, chosen[self.passages :], strict=False
            )
        ]
