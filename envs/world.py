"""A small world of people, places and objects that is told in sentences, one change a sentence.

This file knows what can happen and what follows from it; it knows no task, no question and no
lifetime. Sentences are written as trees: words in nested brackets. Steps are indices of
observations in an episode: every change remembers the step at which it was told, and that is where
the supports of an answer come from.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple, TypeVar

T = TypeVar("T")


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text."""
    return tuple(text.split())


PEOPLE = words("mary john sandra daniel emma lucas clara peter nora henry sofia oliver")
PLACES = words("garden kitchen hall office cellar park school attic bakery harbour museum tower")
OBJECTS = words("ball book lamp apple cup key hat coin rope letter basket drum")
UNSEEN_PEOPLE = words("alice victor ruth martin julia simon greta felix irene hugo tessa paul")
UNSEEN_PLACES = words(
    "library market chapel stable theatre forest bridge pantry meadow castle station mill"
)
UNSEEN_OBJECTS = words("kite spoon mirror pencil candle bottle ring flute map brush vase shoe")
NUMBERS = words("none one two three four five six seven eight nine ten eleven twelve")
DIRECTIONS = {"north": (0, 1), "east": (1, 0), "south": (0, -1), "west": (-1, 0)}
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}

MOVED = ("went", "moved", "walked")
TOOK = ("took", "grabbed")
DROPPED = ("dropped", "left")
GAVE = ("gave", "handed")

MOVE = "({person} ({verb} (to (the {place}))) .)"
HANDLE = "({person} ({verb} (the {thing})) .)"
GIVE = "({person} ({verb} (the {thing}) (to {other})) .)"
LIES = "((the {place}) (is (({direction} of) (the {other}))) .)"
ASIDES = (
    "({person} (hummed (a song)) .)",
    "({person} (looked tired) .)",
    "({person} (counted (the clouds)) .)",
    "({person} (told (a joke)) .)",
    "({person} (dreamed (of (the {place}))) .)",
    "({person} (talked (about (the {place}))) .)",
    "((the {place}) (smelled (of roses)) .)",
    "((the {place}) (was quiet) .)",
    "((the {place}) (looked clean) .)",
    "(it (was (a (sunny day))) .)",
)


def plain(tree: str) -> str:
    """Return the sentence of a tree: "(mary (went home) .)" is "mary went home ."."""
    return tree.replace("(", "").replace(")", "")


class Names(NamedTuple):
    """Who and what the world is made of; each a tuple of words."""

    people: tuple[str, ...]
    places: tuple[str, ...]
    objects: tuple[str, ...]


class Lying(NamedTuple):
    """Where an object lies, the step of its dropping, and the step its dropper came there."""

    place: str
    dropped: int
    moved: int


class World:
    """What has happened so far; the methods named after events let one more happen.

    An event that cannot happen returns "". A person's place is unknown until told, an object's
    until somebody whose place is known has held it. Objects that nobody touched can be taken by
    anyone: they were wherever their taker was.

    Args:
        names: who and what there is.
        random: decides who does what, and where.
        mapped: whether the places get a map that `tell_way` can tell.
        two_way: whether a way that was told may be asked for in both directions. If not, each
            direction is told by a sentence of its own.

    Attributes:
        hero: whom the story follows for now.
        aim: how many objects the hero shall hold.
    """

    def __init__(
        self, names: Names, random: Random, mapped: bool = False, two_way: bool = False
    ) -> None:
        self.names = names
        self.random = random
        self.place: dict[str, str] = {}
        self.moved: dict[str, int] = {}
        self.holder: dict[str, str] = {}
        self.gained: dict[str, int] = {}
        self.lost: dict[str, int] = {}
        self.lying: dict[str, Lying] = {}
        self.before: dict[tuple[str, str], tuple[str, tuple[int, ...]]] = {}
        self.two_way = two_way
        self.untold = _grow_map(names.places, random) if mapped else []
        if not two_way:
            self.untold += [(there, OPPOSITE[way], here) for here, way, there in self.untold]
            random.shuffle(self.untold)
        self.ways: dict[str, list[tuple[str, str, int]]] = {}
        self.turn()

    def turn(self) -> None:
        """Choose anew whom the story follows, and how many objects they shall hold."""
        self.hero = self.pick(self.names.people)
        self.aim = int(self.random.random() * (len(self.names.objects) + 1))

    def pick(self, items: Sequence[T]) -> T:
        """Return one of the items, each as likely."""
        return items[int(self.random.random() * len(items))]

    def move(self, step: int, person: str = "", place: str = "") -> str:
        """Let a person (anyone) go to another place (anywhere), with all that they hold."""
        person = person or self.pick(self.names.people)
        start = self.place.get(person)
        while not place or place == start:
            place = self.pick(self.names.places)
        if start is not None:
            for thing, holder in self.holder.items():
                if holder == person:
                    steps = sorted((self.moved[person], self.gained[thing], step))
                    self.before[thing, place] = start, tuple(steps)
        self.place[person], self.moved[person] = place, step
        return MOVE.format(person=person, verb=self.pick(MOVED), place=place)

    def take(self, step: int, people: Sequence[str] = ()) -> str:
        """Let one of `people` (anyone) take an object that is in reach."""
        reach = [
            (person, thing)
            for thing in self.names.objects
            if thing not in self.holder
            for person in people or self.names.people
            if thing not in self.lying or self.lying[thing].place == self.place.get(person)
        ]
        if not reach:
            return ""
        person, thing = self.pick(reach)
        self.lying.pop(thing, None)
        self.holder[thing], self.gained[thing] = person, step
        return HANDLE.format(person=person, verb=self.pick(TOOK), thing=thing)

    def drop(self, step: int, people: Sequence[str] = ()) -> str:
        """Let one of `people` (anyone), whose place is known, drop an object there."""
        held = [
            (thing, person)
            for thing, person in self.holder.items()
            if person in self.place and person in (people or self.names.people)
        ]
        if not held:
            return ""
        thing, person = self.pick(held)
        del self.holder[thing]
        self.lying[thing] = Lying(self.place[person], step, self.moved[person])
        self.lost[person] = step
        return HANDLE.format(person=person, verb=self.pick(DROPPED), thing=thing)

    def give(self, step: int) -> str:
        """Let somebody give an object to somebody else who is known to be at the same place."""
        meetings = [
            (thing, person, other)
            for thing, person in self.holder.items()
            if person in self.place
            for other in self.names.people
            if other != person and self.place.get(other) == self.place[person]
        ]
        if not meetings:
            return ""
        thing, person, other = self.pick(meetings)
        self.holder[thing], self.gained[thing], self.lost[person] = other, step, step
        return GIVE.format(person=person, verb=self.pick(GAVE), thing=thing, other=other)

    def tell_way(self, step: int) -> str:
        """Tell how one place lies seen from its neighbour."""
        if not self.untold:
            return ""
        other, direction, place = self.untold.pop()
        self.ways.setdefault(other, []).append((direction, place, step))
        if self.two_way:
            self.ways.setdefault(place, []).append((OPPOSITE[direction], other, step))
            if self.random.random() < 0.5:
                other, direction, place = place, OPPOSITE[direction], other
        return LIES.format(place=place, direction=direction, other=other)

    def aside(self) -> str:
        """Tell something that changes nothing."""
        template = self.pick(ASIDES)
        return template.format(
            person=self.pick(self.names.people), place=self.pick(self.names.places)
        )

    def routes(self, longest: int) -> list[tuple[str, tuple[str, str], tuple[int, ...]]]:
        """Return every way of at most `longest` steps: directions, (start, end), steps told at.

        What is told of the map has no cycles, so between two places there is one way or none.
        """
        found: list[tuple[str, tuple[str, str], tuple[int, ...]]] = []
        for start in self.ways:
            paths: list[tuple[str, tuple[str, ...], tuple[int, ...]]] = [("", (start,), ())]
            for _ in range(longest):
                paths = [
                    (f"{path} {direction}".strip(), (*seen, end), (*steps, told))
                    for path, seen, steps in paths
                    for direction, end, told in self.ways.get(seen[-1], ())
                    if end not in seen
                ]
                found += [(path, (start, seen[-1]), steps) for path, seen, steps in paths]
        return found


def _grow_map(places: Sequence[str], random: Random) -> list[tuple[str, str, str]]:
    """Lay the places out on a grid, each next to an earlier one; return the ways in random order.

    A way is (place, direction, neighbour): the neighbour lies in that direction. The ways form a
    tree, so that every two places are joined by exactly one path.
    """
    order = random.sample(places, len(places))
    grid = {(0, 0): order[0]}
    ways = []
    while len(grid) < len(order):
        (x, y), place = random.choice(list(grid.items()))
        direction, (right, up) = random.choice(list(DIRECTIONS.items()))
        if (x + right, y + up) not in grid:
            grid[x + right, y + up] = neighbour = order[len(grid)]
            ways.append((place, direction, neighbour))
    random.shuffle(ways)
    return ways
