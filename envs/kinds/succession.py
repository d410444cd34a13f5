"""Succession: things come by in a row, then one of them is named: what came after it?

Associative recall (Graves, Wayne, Danihelka 2014, arXiv:1410.5401, section 4.3) in sentences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from stillknows.envs.kinds.writing import Page, Problems, Ranges
from stillknows.envs.world import words

KINDS = words("glass golden heavy paper silver tiny wooden woollen")
THINGS = words("bell boat clock crown doll horse ladder shield")
_TOLD = "(then (came (a ({item}))) .)"
_ASKED = "(what (came (after (the ({item})))) ?)"


@dataclass(frozen=True, kw_only=True)
class Succession(Problems):
    """What came after a thing.

    Attributes:
        items: that come by, all different.
        questions: asked at the end, about different things, never the last.
    """

    ranges: ClassVar[Ranges] = {"items": (2, 62), "questions": (1, 61)}  # of 64: rows must differ
    said: ClassVar[Sequence[str]] = (_TOLD, _ASKED, *KINDS, *THINGS)

    items: int = 5
    questions: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.questions >= self.items:
            raise ValueError(
                f"questions={self.questions}: items={self.items} have fewer successors; ask less."
            )

    def write(self, draw: Random, page: Page) -> None:
        """Tell a row of things, then ask."""
        numbers = draw.sample(range(len(KINDS) * len(THINGS)), self.items)
        items = [f"{KINDS[n % len(KINDS)]} {THINGS[n // len(KINDS)]}" for n in numbers]
        steps = [page.tell(_TOLD.format(item=item)) for item in items]
        for place in draw.sample(range(self.items - 1), self.questions):
            asked = _ASKED.format(item=items[place])
            page.ask(asked, items[place + 1], steps[place : place + 2])
