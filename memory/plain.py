"""A lifelong memory in plain Python, which every store is held to.

It does what `NEC` does with a policy that evicts the oldest, one row at a time, and shares no code
with it: a list of slots, searched from end to end. It knows ids, questions, first tokens of answers
and use; keys and vectors it does not know.
"""

from typing import TYPE_CHECKING, NamedTuple

from stillknows.memory.interface import ADD, UPDATE

if TYPE_CHECKING:
    from stillknows.memory.nec import NEC


class Held(NamedTuple):
    """An entry of the model: its id, question, answer, episode, when it was new, and its use."""

    entry: int
    name: int
    answer: int
    episode: int
    birth: int
    uses: float


class Model(NamedTuple):
    """A memory as a list of slots, and its counters.

    Attributes:
        slots: what each holds.
        seen: candidates so far.
        next_id: of the next entry.
        size: slots that were ever filled; these are the first.
    """

    slots: tuple[Held | None, ...]
    seen: int = 0
    next_id: int = 0
    size: int = 0

    @classmethod
    def empty(cls, capacity: int) -> "Model":
        """Return a memory that holds nothing."""
        return cls((None,) * capacity)

    def holding(self, name: int) -> list[int]:
        """Return the slots of a question."""
        return [n for n, held in enumerate(self.slots) if held is not None and held.name == name]

    def known(self, name: int, answer: int) -> int:
        """Return the newest slot of a question that always had this answer, -1 for none."""
        there = self.holding(name)
        if not there or any(self.at(slot).answer != answer for slot in there):
            return -1
        return max(there, key=lambda slot: self.at(slot).entry)

    def put(self, slot: int, held: Held | None) -> "Model":
        """Return the model with something else in a slot."""
        size = self.size if held is None else max(self.size, slot + 1)
        return self._replace(slots=(*self.slots[:slot], held, *self.slots[slot + 1 :]), size=size)

    def written(self, name: int, answer: int, episode: int) -> tuple["Model", tuple[int, ...]]:
        """Return what becomes of it, and what the memory should say of that."""
        slot, after = self.known(name, answer), self._replace(seen=self.seen + 1)
        if slot >= 0:
            held = self.at(slot)._replace(episode=episode)
            return after.put(slot, held), (UPDATE, held.entry, -1)
        new = Held(self.next_id, name, answer, episode, self.seen, 0.0)
        empty = [n for n, held in enumerate(self.slots) if held is None]
        oldest = (
            min(range(len(self.slots)), key=lambda n: (self.at(n).birth, n)) if not empty else -1
        )
        gone = -1 if empty else self.at(oldest).entry
        after = after._replace(next_id=self.next_id + 1)
        return after.put(empty[0] if empty else oldest, new), (ADD, new.entry, gone)

    def without(self, entry: int, named: set[int] | None = None) -> "Model":
        """Return the model without an entry (of certain names)."""
        return self._replace(
            slots=tuple(
                None if h and h.entry == entry and (named is None or h.name in named) else h
                for h in self.slots
            )
        )

    def used(self, slot: int) -> "Model":
        """Return the model after an entry was used once more."""
        held = self.at(slot)
        return self.put(slot, held._replace(uses=held.uses + 1))

    def merged(self, other: "Model", keep: str) -> "Model":
        """Return the model after the entries of another were taken in, as `merging.py` says."""
        theirs = [
            held._replace(birth=max(0, held.birth + self.seen - other.seen))
            for held in other.slots
            if held is not None
        ]
        there = self._found(theirs)
        ranks = {("slot", n): _rank(h, keep) for n, h in enumerate(self.slots) if h is not None}
        for row, (slot, held) in enumerate(zip(there, theirs, strict=True)):
            place = ("row", row) if slot < 0 else ("slot", slot)
            ranks[place] = max(_rank(held, keep), ranks.get(place, _rank(held, keep)))
        out = sorted(ranks, key=ranks.__getitem__)[: max(0, len(ranks) - len(self.slots))]
        leaving = sorted(number for kind, number in out if kind == "slot")
        after = self
        for slot in leaving:
            after = after.put(slot, None)
        empty = [n for n, held in enumerate(self.slots) if held is None]
        holes = sum(slot < self.size for slot in empty)
        free = iter([*empty[:holes], *leaving, *empty[holes:]])
        for row, (slot, held) in enumerate(zip(there, theirs, strict=True)):
            if ("row", row) in out or slot in leaving:
                continue
            if slot < 0:
                new = held._replace(entry=after.next_id)
                after = after.put(next(free), new)._replace(next_id=after.next_id + 1)
                continue
            mine = after.at(slot)
            young = mine if mine.birth >= held.birth else held
            uses = max(mine.uses, held.uses)
            after = after.put(slot, young._replace(entry=mine.entry, uses=uses))
        return after

    def _found(self, theirs: list[Held]) -> list[int]:
        """Return the slot where each entry is known, -1 for none; no slot twice."""
        there: list[int] = []
        for held in theirs:
            same = [n for n in self.holding(held.name) if self.at(n).answer == held.answer]
            alike = [*same, self.known(held.name, held.answer)]
            there.append(next((slot for slot in alike if slot not in there), -1))
        return there

    def at(self, slot: int) -> Held:
        """Return what a slot holds, which is something."""
        held = self.slots[slot]
        assert held is not None
        return held


def _rank(held: Held, keep: str) -> tuple[float, int]:
    return (held.uses if keep == "used" else 0.0, held.birth)


def contents(memory: "NEC") -> Model:
    """Return what a memory holds as the model has it."""
    names = ("id", "hash", "episode", "birth")
    ids, hashes, episodes, births = (memory.provenance(name).tolist() for name in names)
    answers, uses = memory.columns["answers_NA"][:, 0].tolist(), memory.columns["uses_N"].tolist()
    slots = [
        Held(ids[n], hashes[n], answers[n], episodes[n], births[n], round(uses[n], 3))
        if filled
        else None
        for n, filled in enumerate(memory.columns["filled_N"].tolist())
    ]
    return Model(tuple(slots), memory.seen, memory.next_id, memory.size)
