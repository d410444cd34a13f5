"""Dialogue state tracking: a caller says what they want, changes it, and what holds is asked.

The caller names a value and its slot, or answers what the system asked with a value alone or with
yes or no: what is said rests on the turn before it. The last word about a slot counts; a slot that
does not matter any more has "any".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from stillknows.envs.kinds.writing import Page, Problems, Ranges, pick_questions
from stillknows.envs.world import words

SLOTS = {
    "food": words("greek indian thai french"),
    "area": words("north south centre harbour"),
    "price": words("cheap moderate expensive"),
    "hour": words("six seven eight nine"),
}
_WANTS = "((caller (i want)) ({value} (for (the {slot}))) .)"
_CHANGES = "((caller no) ((make (the {slot})) {value}) .)"
_OPEN = "((caller (the {slot})) (does not matter) .)"
_WHICH = "((system which) {slot} .)"
_VALUE = "(caller {value} .)"
_SHALL = "((system (shall (the {slot}))) (be {value}) .)"
_YES, _NO = "(caller yes .)", "(caller no .)"
_THANKS = "(caller thanks .)"
_ASKED = "((what (does (the caller) want)) (for (the {slot})) ?)"


@dataclass(frozen=True, kw_only=True)
class DialogueState(Problems):
    """What a caller wants.

    Attributes:
        exchanges: of one or two turns each, in which something may change.
        questions: asked at the end, about different slots.
    """

    ranges: ClassVar[Ranges] = {"exchanges": (1, 100), "questions": (1, len(SLOTS))}
    said: ClassVar[Sequence[str]] = (
        *(_WANTS, _CHANGES, _OPEN, _WHICH, _VALUE, _SHALL, _YES, _NO, _THANKS, _ASKED, "any"),
        *(word for slot, values in SLOTS.items() for word in (slot, *values)),
    )

    exchanges: int = 5
    questions: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.questions > self.exchanges:
            raise ValueError(
                f"questions={self.questions}: exchanges={self.exchanges} speak of fewer slots; "
                "ask less."
            )

    def write(self, draw: Random, page: Page) -> None:
        """Hold a dialogue, then ask what the caller wants."""
        state: dict[str, tuple[str, list[int]]] = {}
        slots = draw.sample(list(SLOTS), self.questions)
        told = [*slots, *(draw.choice(list(SLOTS)) for _ in range(self.exchanges - len(slots)))]
        for slot in told:
            self._exchange(draw, page, slot, state)
        for slot in pick_questions(draw, list(state), self.questions, lambda slot: state[slot][0]):
            page.ask(_ASKED.format(slot=slot), *state[slot])

    def _exchange(
        self, draw: Random, page: Page, slot: str, state: dict[str, tuple[str, list[int]]]
    ) -> None:
        """Let caller and system speak of a slot; what is said of it first gives it a value."""
        held, _ = state.get(slot, ("", []))
        value = draw.choice([each for each in SLOTS[slot] if each != held])
        gaps = {"slot": slot, "value": value}
        ways = ["names", "answers", "agrees"] + ["refuses", "opens", "thanks"] * bool(held)
        way = draw.choice(ways)
        if way == "names":
            told = [(_CHANGES if held else _WANTS).format(**gaps)]
        elif way == "answers":
            told = [_WHICH.format(**gaps), _VALUE.format(**gaps)]
        elif way in ("agrees", "refuses"):
            told = [_SHALL.format(**gaps), _YES if way == "agrees" else _NO]
        else:
            told = [_OPEN.format(**gaps) if way == "opens" else _THANKS]
        steps = [page.tell(tree) for tree in told]
        if way not in ("refuses", "thanks"):
            state[slot] = ("any" if way == "opens" else value, steps)
