"""Who holds what: the entries of a store by the name of their question.

Several entries may hold one question with different answers, as where the answer depends on the
story. It knows numbers only: a name is a hash, an answer its tokens.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from stillknows.memory.interface import placed

Name = tuple[int, tuple[int, ...]]  # a number and the tokens of an answer


class Holding(NamedTuple):
    """One entry under a name: its id, which grows with time, and its answer."""

    entry: int
    answer: tuple[int, ...]


class Held(Protocol):
    """Who holds what, as it may be changed: `Names`, or the same by the native file."""

    def add(self, name: int, slot: int, holding: Holding) -> None:
        """Note that a slot holds a name."""
        ...

    def drop(self, name: int, slot: int) -> int:
        """Note that a slot no longer holds a name; return the id of its entry."""
        ...


class Census:
    """How many entries hold the name that a slot holds, told by a GPU that nobody waits for.

    What changes is noted on the host, and goes along with the next question.

    Args:
        capacity: slots.
        device: of the store.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self._number_N = torch.zeros(capacity, dtype=torch.int64, device=device)
        self._count_M = torch.zeros(2 * capacity + 1, dtype=torch.int64, device=device)
        self._numbers: dict[int, int] = {}
        self._unused, self._next = list[int](), 0
        self._new_numbers, self._new_counts = dict[int, int](), dict[int, int]()

    def note(self, name: int, entries: int, slot: int | None = None) -> None:
        """Note how many entries hold a name now, and a slot that holds it since."""
        number = self._numbers.get(name)
        if number is None:
            if not self._unused:
                self._unused, self._next = [self._next], self._next + 1
            number = self._numbers[name] = self._unused.pop()
        self._new_counts[number] = entries
        if slot is not None:
            self._new_numbers[slot] = number
        if not entries:
            self._unused.append(self._numbers.pop(name))

    def of(self, slots: Tensor) -> Tensor:
        """Return the count for each slot, of any shape; each holds something."""
        pairs = (self._number_N, self._new_numbers), (self._count_M, self._new_counts)
        for column, new in pairs:
            if new:
                at, value = placed([list(new), list(new.values())], column.device)
                column[at] = value
                new.clear()
        return self._count_M[self._number_N[slots]]


class Names:
    """For every name the slots that hold it, and for every slot its name.

    Args:
        holdings: name, slot and holding of entries that are there already.
        census: is told of every change.
    """

    def __init__(
        self,
        holdings: Iterable[tuple[int, int, Holding]] = (),
        census: Census | None = None,
    ) -> None:
        self._slots: dict[int, dict[int, Holding]] = {}
        self._names: dict[int, int] = {}
        self._census = census
        for name, slot, holding in holdings:
            self.add(name, slot, holding)

    def __eq__(self, other: object) -> bool:
        """Compare what is held."""
        return isinstance(other, Names) and self._slots == other._slots

    def add(self, name: int, slot: int, holding: Holding) -> None:
        """Note that a slot holds a name."""
        held = self._slots.setdefault(name, {})
        held[slot] = holding
        self._names[slot] = name
        if self._census:
            self._census.note(name, len(held), slot)

    def drop(self, name: int, slot: int) -> int:
        """Note that a slot no longer holds a name; return the id of its entry."""
        held = self._slots[name]
        entry = held.pop(slot).entry
        if not held:
            del self._slots[name]
        if self._names.get(slot) == name:
            del self._names[slot]
        if self._census:
            self._census.note(name, len(held))
        return entry

    def at(self, slot: int) -> int | None:
        """Return the name that a slot holds, None where it holds nothing."""
        return self._names.get(slot)

    def known(self, name: int, answer: tuple[int, ...]) -> int:
        """Return the newest slot of this name, if all of its slots hold this answer, or -1."""
        held = self._slots.get(name)
        if not held or any(holding.answer != answer for holding in held.values()):
            return -1
        return max(held, key=held.__getitem__)

    def newest(self, names: Tensor) -> Tensor:
        """Return the newest slot of each name, -1 where it is not held, int64."""
        nowhere = {-1: Holding(-1, ())}
        held = [self._slots.get(name, nowhere) for name in names.tolist()]
        slots = [max(slots, key=slots.__getitem__) for slots in held]
        return placed(slots, names.device)

    def count_at(self, slots: Tensor, names: Tensor) -> Tensor:
        """Return how many entries hold the names at slots, both of one shape."""
        return self._census.of(slots) if self._census else self.count(names)

    def count(self, names: Tensor) -> Tensor:
        """Return how many entries hold each name, of any shape."""
        counts = [len(self._slots.get(name, ())) for name in names.flatten().tolist()]
        return placed(counts, names.device).view(names.shape)

    def count_all(self, names_N: Tensor) -> Tensor:
        """Return how many entries hold the name of each slot, where `names_N` are those of all."""
        _, which_N, count = torch.unique(names_N, return_inverse=True, return_counts=True)
        return count[which_N]  # type: ignore[no-any-return]
