"""Who holds what: the entries of a store by the name of their question.

Several entries may hold one question with different answers, as where the answer depends on the
story. It knows numbers only: a name is a hash, an answer its tokens.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

Name = tuple[int, tuple[int, ...]]  # a number and the tokens of an answer


class Holding(NamedTuple):
    """One entry under a name: its id, which grows with time, and its answer."""

    entry: int
    answer: tuple[int, ...]


class Names:
    """For every name the slots that hold it.

    Args:
        holdings: name, slot and holding of entries that are there already.
    """

    def __init__(self, holdings: Iterable[tuple[int, int, Holding]] = ()) -> None:
        self._slots: dict[int, dict[int, Holding]] = {}
        for name, slot, holding in holdings:
            self.add(name, slot, holding)

    def __eq__(self, other: object) -> bool:
        """Compare what is held."""
        return isinstance(other, Names) and self._slots == other._slots

    def add(self, name: int, slot: int, holding: Holding) -> None:
        """Note that a slot holds a name."""
        self._slots.setdefault(name, {})[slot] = holding

    def drop(self, name: int, slot: int) -> int:
        """Note that a slot no longer holds a name; return the id of its entry."""
        held = self._slots[name]
        entry = held.pop(slot).entry
        if not held:
            del self._slots[name]
        return entry

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
        return torch.tensor(slots, device=names.device)

    def count(self, names: Tensor) -> Tensor:
        """Return how many entries hold each name, of any shape."""
        counts = [len(self._slots.get(name, ())) for name in names.flatten().tolist()]
        return torch.tensor(counts, device=names.device).view(names.shape)
