"""Summarising: many events are told, and the few that matter by a stated criterion are asked for.

The criterion is told first: a kind of event, or a cost above which it matters. A report may be
taken back later. The answer is the places of the events that matter; their order is free.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, NamedTuple

from stillknows.envs.kinds.writing import DIGITS, Page, Problems, Ranges
from stillknows.envs.world import words

KINDS = words("fire flood storm theft")
PLACES = words("abbey barn canal dairy farm gallery hotel inn jetty lodge palace quarry")
_EVENT = "((a {kind}) ((at (the {place})) (cost {cost})) .)"
_KIND = "((only (a {kind})) matters .)"
_COST = "((only (a cost)) ((above {cost}) matters) .)"
_FALSE = "((the (report (from (the {place})))) (was false) .)"
_ASKED = "(what (happened (that matters)) ?)"


class Event(NamedTuple):
    """What happened where, and what it cost, a digit."""

    kind: str
    place: str
    cost: int


@dataclass(frozen=True)
class AnyOrder:
    """Tells whether an answer has these words, each once, in any order."""

    words: tuple[str, ...]

    def __call__(self, answer: str) -> bool:
        """Return whether it has."""
        return sorted(answer.split()) == sorted(self.words)


@dataclass(frozen=True, kw_only=True)
class Summary(Problems):
    """The places of the events that matter.

    Attributes:
        events: told, each at another place.
        matter: how many of them matter in the end, at most; at least one does.
        withdrawn: how many reports are taken back.
    """

    ranges: ClassVar[Ranges] = {
        "events": (2, len(PLACES)),
        "matter": (1, 4),
        "withdrawn": (0, len(PLACES) - 1),
    }
    said: ClassVar[Sequence[str]] = (
        *(_EVENT, _KIND, _COST, _FALSE, _ASKED, *KINDS, *PLACES, *DIGITS),
    )

    events: int = 5
    matter: int = 2
    withdrawn: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("matter", "withdrawn"):
            if getattr(self, name) >= self.events:
                raise ValueError(
                    f"{name}={getattr(self, name)}: of events={self.events}, some have to stay "
                    "that do not; give less."
                )

    def write(self, draw: Random, page: Page) -> None:
        """Tell a criterion and events, then ask for those that matter."""
        told, back = [], []
        matter: list[int] = []
        while not 1 <= len(matter) <= self.matter:
            kind, bound = draw.choice(KINDS), draw.randint(4, 7)
            by_kind = draw.random() < 0.5
            told = [self._event(draw, place) for place in draw.sample(PLACES, self.events)]
            back = draw.sample(range(self.events), self.withdrawn)
            matter = [
                number
                for number, event in enumerate(told)
                if (event.kind == kind if by_kind else event.cost > bound) and number not in back
            ]
        criterion = page.tell(_KIND.format(kind=kind) if by_kind else _COST.format(cost=bound))
        steps = [page.tell(_EVENT.format(**event._asdict())) for event in told]
        for number in back:
            page.tell(_FALSE.format(place=told[number].place))
        places = tuple(told[number].place for number in matter)
        supports = [criterion, *(steps[number] for number in matter)]
        page.ask(_ASKED, " ".join(places), supports, AnyOrder(places))

    def _event(self, draw: Random, place: str) -> Event:
        return Event(draw.choice(KINDS), place, draw.randrange(10))
