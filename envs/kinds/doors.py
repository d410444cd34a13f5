"""Ways through a house: rooms and coloured doors are told, then where one gets, or how.

Traversal and shortest path (Graves et al. 2016, Nature 538:471) as questions in sentences. Doors
lead one way, and those of a room differ in colour. Every shortest way is a right answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, NamedTuple

from stillknows.envs.kinds.writing import Page, Problems, Ranges, pick_questions
from stillknows.envs.world import words

ROOMS = words("attic bath cellar den garage hall kitchen lobby office pantry study yard")
COLOURS = words("red blue green white black")
_TOLD = "((from (the {start})) ((the ({colour} door)) (leads (to (the {end})))) .)"
_WHERE = "((from (the {start})) (by ({way})) (where (are you)) ?)"
_HOW = "(how (do you (get (from (the {start})) (to (the {end})))) ?)"

Door = tuple[str, str]  # a room and a colour
Doors = Mapping[Door, str]  # where each leads


class Way(NamedTuple):
    """The rooms on a way, the start first, and the colours of the doors between them."""

    rooms: tuple[str, ...]
    colours: tuple[str, ...]

    @property
    def start(self) -> str:
        """Where it begins."""
        return self.rooms[0]

    @property
    def doors(self) -> list[Door]:
        """The doors on the way, each once."""
        return list(dict.fromkeys(zip(self.rooms, self.colours, strict=False)))

    def through(self, doors: Doors, colour: str) -> "Way":
        """Return the way that goes on through a door."""
        return Way((*self.rooms, doors[self.rooms[-1], colour]), (*self.colours, colour))


@dataclass(frozen=True)
class Leads:
    """Tells whether a way leads from a start to an end in so many steps."""

    doors: tuple[tuple[Door, str], ...]
    start: str
    end: str
    steps: int

    def __call__(self, answer: str) -> bool:
        """Return whether following the colours of the answer ends there."""
        doors, place = dict(self.doors), self.start
        colours = answer.split()
        for colour in colours:
            place = doors.get((place, colour), "")
        return place == self.end and len(colours) == self.steps


@dataclass(frozen=True, kw_only=True)
class House(Problems):
    """A house and questions about ways in it.

    Attributes:
        rooms: of the house.
        doors: that leave each room.
        steps: of the longest way that is asked for.
        questions: asked at the end.
    """

    ranges: ClassVar[Ranges] = {
        "rooms": (3, len(ROOMS)),
        "doors": (1, len(COLOURS)),
        "steps": (1, 6),
        "questions": (1, 8),
    }
    said: ClassVar[Sequence[str]] = (_TOLD, _WHERE, _HOW, *ROOMS, *COLOURS)

    rooms: int = 4
    doors: int = 2
    steps: int = 2
    questions: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.doors >= self.rooms:
            raise ValueError(f"doors={self.doors}: there are rooms={self.rooms}, give fewer doors.")

    def _tell_house(self, draw: Random, page: Page) -> tuple[Doors, dict[Door, int]]:
        """Tell all doors in any order; return where each leads, and the step that says so."""
        rooms = draw.sample(ROOMS, self.rooms)
        doors: dict[Door, str] = {}
        for room in rooms:
            ends = draw.sample([other for other in rooms if other != room], self.doors)
            colours = draw.sample(COLOURS, self.doors)
            doors |= {(room, colour): end for colour, end in zip(colours, ends, strict=True)}
        steps = {}
        for start, colour in draw.sample(list(doors), len(doors)):
            told = _TOLD.format(start=start, colour=colour, end=doors[start, colour])
            steps[start, colour] = page.tell(told)
        return doors, steps


class Traversal(House):
    """Where one gets from a room through doors of some colours. Dials: see `House`."""

    def write(self, draw: Random, page: Page) -> None:
        """Tell a house, then ask where ways in it end."""
        doors, steps = self._tell_house(draw, page)
        ways = list(dict.fromkeys(self._walk(draw, doors) for _ in range(8 * self.rooms)))
        for way in pick_questions(draw, ways, self.questions, lambda way: way.rooms[-1]):
            asked = _WHERE.format(start=way.start, way=" ".join(way.colours))
            page.ask(asked, way.rooms[-1], [steps[door] for door in way.doors])

    def _walk(self, draw: Random, doors: Doors) -> Way:
        way = Way((draw.choice(sorted({start for start, _ in doors})),), ())
        for _ in range(draw.randint(1, self.steps)):
            colour = draw.choice([colour for start, colour in doors if start == way.rooms[-1]])
            way = way.through(doors, colour)
        return way


class ShortestWay(House):
    """How one gets from a room to another by fewest doors. Dials: see `House`."""

    def write(self, draw: Random, page: Page) -> None:
        """Tell a house, then ask for shortest ways in it."""
        doors, steps = self._tell_house(draw, page)
        ways = [
            way for room in sorted({start for start, _ in doors}) for way in _nearest(doors, room)
        ]
        ways = [way for way in ways if len(way.colours) <= self.steps]
        for way in pick_questions(draw, ways, self.questions, lambda way: way.colours):
            asked = _HOW.format(start=way.start, end=way.rooms[-1])
            leads = Leads(tuple(doors.items()), way.start, way.rooms[-1], len(way.colours))
            page.ask(asked, " ".join(way.colours), [steps[door] for door in way.doors], leads)


def _nearest(doors: Doors, start: str) -> list[Way]:
    """Return a shortest way to every other room, of equals the first by the alphabet."""
    found, ways = {start}, [Way((start,), ())]
    for way in ways:  # grows while it is walked: nearer rooms come first
        for colour in sorted(colour for room, colour in doors if room == way.rooms[-1]):
            longer = way.through(doors, colour)
            if longer.rooms[-1] not in found:
                found.add(longer.rooms[-1])
                ways.append(longer)
    return ways[1:]
