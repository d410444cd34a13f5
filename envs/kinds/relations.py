"""Relational reasoning: who is older than whom is told in any order, and the order is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from stillknows.envs.kinds.writing import Page, Problems, Ranges, pick_questions
from stillknows.envs.world import words

PEOPLE = words("amy bob cid dan eva fay gus ida joe kim leo max")
COUNTS = ("first", "second", "third", "fourth")
_OLDER = "({first} (is (older (than {second}))) .)"
_YOUNGER = "({second} (is (younger (than {first}))) .)"
_PLACES = "(who (is (the (({count} person) ({word} (than {person}))))) ?)"
_END = "(who (is (the {word})) ?)"


@dataclass(frozen=True, kw_only=True)
class Relations(Problems):
    """Who is the first, second, … older or younger than somebody, or the oldest or youngest of all.

    Attributes:
        people: in a row by age; each is compared with the next.
        apart: places between those who are asked about, at most.
        questions: asked at the end.
    """

    ranges: ClassVar[Ranges] = {
        "people": (3, len(PEOPLE)),
        "apart": (1, len(COUNTS)),
        "questions": (1, 10),
    }
    said: ClassVar[Sequence[str]] = (
        *(_OLDER, _YOUNGER, _PLACES, _END, *PEOPLE, *COUNTS, "oldest youngest"),
    )

    people: int = 4
    apart: int = 2
    questions: int = 2

    def write(self, draw: Random, page: Page) -> None:
        """Compare neighbours in any order, then ask."""
        row = draw.sample(PEOPLE, self.people)  # the oldest first
        steps = [0] * (self.people - 1)
        for place in draw.sample(range(len(steps)), len(steps)):
            told = draw.choice((_OLDER, _YOUNGER))
            steps[place] = page.tell(told.format(first=row[place], second=row[place + 1]))
        asked = [(_END.format(word="oldest"), row[0], steps[::-1])]
        asked += [(_END.format(word="youngest"), row[-1], steps)]
        for count in range(1, min(self.apart, len(steps)) + 1):
            for place in range(self.people - count):
                between, (older, younger) = steps[place : place + count], row[place::count][:2]
                gaps = {"count": COUNTS[count - 1]}
                asked += [
                    (_PLACES.format(**gaps, word="older", person=younger), older, between[::-1]),
                    (_PLACES.format(**gaps, word="younger", person=older), younger, between),
                ]
        for question in pick_questions(draw, asked, self.questions, lambda each: each[1]):
            page.ask(*question)
