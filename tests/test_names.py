"""Names: who holds which question, against a plain list of all that is held."""

import pytest
import torch
from candidates import rows as offered
from hypothesis import given, settings
from hypothesis import strategies as st
from natively import compiled

from stillknows.memory.episodic import blank_columns
from stillknows.memory.names import Holding, Names
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.table import Table

NAMES, ANSWERS, SLOTS = (0, 1, 2, 7, 31, 38), 2, 12  # four share a bucket of a table of 12 slots
Row = tuple[int, int, int, int]  # name, slot, entry, answer


class Native:
    """A table of the native file, whose columns say what is held."""

    def __init__(self) -> None:
        self.columns = blank_columns(SLOTS, 1, 1, 1, (1, 1), "cpu", 1)
        self.names = Table(self.columns)

    def add(self, name: int, slot: int, holding: Holding) -> None:
        self.columns["answers_NA"][slot, 0] = holding.answer[0]
        self.columns["filled_N"][slot] = True
        self.columns["provenance_NC"][slot, [0, 6]] = torch.tensor([holding.entry, name])
        self.names.add(name, slot, holding)

    def drop(self, name: int, slot: int) -> int:
        self.columns["filled_N"][slot] = False
        return self.names.drop(name, slot)

    def again(self, held: list[Row]) -> Table:
        """Return a table of the same columns, made anew."""
        return Table(self.columns)


class Plain:
    """The same in Python."""

    def __init__(self) -> None:
        self.names = Names()
        self.add, self.drop = self.names.add, self.names.drop

    def again(self, held: list[Row]) -> Names:
        """Return the same names, made anew."""
        return Names((name, slot, Holding(entry, (answer,))) for name, slot, entry, answer in held)


def change(kept: Native | Plain, held: list[Row], what: str, name: int, answer: int) -> None:
    """Add a name, let one leave, or give one that is held another name and answer."""
    if what != "add" and held:
        old, slot, entry, _ = held.pop(name % len(held))
        assert kept.drop(old, slot) == entry
        if what == "rename":
            kept.add(name, slot, Holding(entry, (answer,)))
            held.append((name, slot, entry, answer))
    elif len(held) < SLOTS:
        slot = min(set(range(SLOTS)) - {row[1] for row in held})
        entry = 1 + max((row[2] for row in held), default=0)
        kept.add(name, slot, Holding(entry, (answer,)))
        held.append((name, slot, entry, answer))


@pytest.mark.parametrize("kind", [Plain, pytest.param(Native, marks=compiled)])
@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "leave", "rename"]),
            st.sampled_from(NAMES),
            st.integers(0, ANSWERS - 1),
        ),
        max_size=30,
    )
)
def test_equals_a_list_of_what_is_held(
    kind: type[Native | Plain], changes: list[tuple[str, int, int]]
) -> None:
    kept, held = kind(), list[Row]()
    names = kept.names
    for what, name, answer in changes:
        change(kept, held, what, name, answer)
        by_name = [sorted((row[2], row) for row in held if row[0] == n) for n in NAMES]
        newest = [rows[-1][1][1] if rows else -1 for rows in by_name]
        every = torch.tensor(NAMES)
        assert names.count(every).tolist() == list(map(len, by_name))
        assert names.newest(every).tolist() == newest
        for of_name, one, rows in zip(NAMES, newest, by_name, strict=True):
            for right in range(ANSWERS):
                known = bool(rows) and {row[3] for _, row in rows} == {right}
                assert names.known(of_name, (right,)) == (one if known else -1)
    assert kept.again(held) == names
    assert (kind().names == names) == (not held)


@pytest.mark.usefixtures("either")
def test_names_of_any_whole_numbers_are_found() -> None:
    memory = NEC(4, 4, 3, EvictOldest(), answer_length=1, story_shape=(2, 3))
    memory.remember(offered((1, 5), (2, 6), (3, 7)))
    for kind in (torch.int64, torch.int32, torch.int16):
        assert memory.find(torch.tensor([1, 2, 3, 9], dtype=kind)).tolist() == [0, 1, 2, -1]
