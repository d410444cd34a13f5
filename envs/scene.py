"""What the player of a text game sees, told in words from the facts of the game's world.

A fact is a predicate and its arguments, such as `at(P, kitchen)`, `in(key, box)` or `open(box)`; P
is the player and I what the player carries. Told are the room, what stands in it with its states,
what lies in open things and on others, the ways out and their doors: what is shut stays unseen.

This file knows nothing of the package that the facts come from.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

PLAYER, CARRIED = ("P", "P"), ("I", "I")
_HELD = ("at", "in", "on")
_SHUT = {"closed", "locked"}
_WORD = re.compile(r"[a-z0-9]+(?:[-'][a-z0-9]+)*|[^\sa-z0-9]")

Thing = tuple[str, str]  # a name and a type


class Fact(Protocol):
    """A predicate with its arguments, each of which has a `name` and a `type`."""

    name: str
    arguments: Sequence[Any]


class Scene:
    """The facts of a world, ordered by who asks.

    Args:
        facts: all that is true.
    """

    def __init__(self, facts: Iterable[Fact]) -> None:
        self._held: dict[Thing, list[Thing]] = defaultdict(list)
        self._states: dict[Thing, list[str]] = defaultdict(list)
        self._ways: dict[Thing, list[tuple[str, Thing]]] = defaultdict(list)
        self._doors: dict[tuple[Thing, Thing], Thing] = {}
        self.room: Thing = ("", "")
        for fact in facts:
            self._add(str(fact.name), [(str(a.name), str(a.type)) for a in fact.arguments])

    def place(self) -> str:
        """Return the room, what is seen in it and the ways out, as one text of plain words."""
        seen = self._listed(thing for thing in self._held[self.room] if thing != PLAYER)
        ways = " , ".join(sorted(self._way(*way) for way in self._ways[self.room]))
        return plain(f"you are in {self.room[0]} . here : {seen} . exits : {ways or 'none'} .")

    def carried(self) -> str:
        """Return what the player carries, as one text of plain words."""
        return plain(f"you carry : {self._listed(self._held[CARRIED])} .")

    def _add(self, name: str, things: list[Thing]) -> None:
        """Keep a fact; one that tells nothing of what is seen is passed over."""
        if len(things) == 1:
            self._states[things[0]].append(name)
        elif len(things) == 2 and name in _HELD:
            self._held[things[1]].append(things[0])
            if things[0] == PLAYER:
                self.room = things[1]
        elif len(things) == 2 and name.endswith("_of"):
            self._ways[things[1]].append((name.removesuffix("_of"), things[0]))
        elif len(things) == 3 and name == "link":
            self._doors[things[0], things[2]] = things[1]

    def _listed(self, things: Iterable[Thing]) -> str:
        return " , ".join(sorted(map(self._told, things))) or "nothing"

    def _told(self, thing: Thing) -> str:
        """Return the states and the name of a thing, and what is seen in or on it."""
        states = sorted(self._states[thing])
        told = " ".join([*states, thing[0]])
        held = self._held[thing]
        return f"{told} ( {self._listed(held)} )" if held and not _SHUT & set(states) else told

    def _way(self, direction: str, end: Thing) -> str:
        door = self._doors.get((self.room, end))
        return direction if door is None else f"{direction} ( {self._told(door)} )"


def plain(text: str) -> str:
    """Return a text in lower-case words and signs of ASCII, set apart by single spaces."""
    ascii_ = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return " ".join(_WORD.findall(ascii_.lower()))
