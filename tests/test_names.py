"""Names: who holds which question, against a plain list of all that is held."""

import pytest
import torch
from candidates import rows as offered
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.memory.names import Holding, Names
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest

NAMES, ANSWERS = 4, 2


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, NAMES - 1), st.integers(0, ANSWERS - 1), st.booleans())))
def test_equals_a_list_of_what_is_held(writes: list[tuple[int, int, bool]]) -> None:
    names, held = Names(), []  # (name, slot, entry, answer), oldest first
    for entry, (name, answer, leaves) in enumerate(writes):
        if leaves and held:
            gone_name, slot, gone, _ = held.pop(entry % len(held))
            assert names.drop(gone_name, slot) == gone
        slot = min(set(range(len(writes))) - {taken for _, taken, _, _ in held})
        names.add(name, slot, Holding(entry, (answer,)))
        held.append((name, slot, entry, answer))
    every = torch.arange(NAMES)
    by_name = [[row for row in held if row[0] == name] for name in range(NAMES)]
    assert names.count(every).tolist() == [len(rows) for rows in by_name]
    assert names.newest(every).tolist() == [rows[-1][1] if rows else -1 for rows in by_name]
    for name, rows in enumerate(by_name):
        for answer in range(ANSWERS):
            known = bool(rows) and {row[3] for row in rows} == {answer}
            assert names.known(name, (answer,)) == (rows[-1][1] if known else -1)
    again = Names((name, slot, Holding(entry, (answer,))) for name, slot, entry, answer in held)
    assert again == names
    assert (Names() == names) == (not held)


@pytest.mark.usefixtures("either")
def test_names_of_any_whole_numbers_are_found() -> None:
    memory = NEC(4, 4, 3, EvictOldest(), answer_length=1, story_shape=(2, 3))
    memory.remember(offered((1, 5), (2, 6), (3, 7)))
    for kind in (torch.int64, torch.int32, torch.int16):
        assert memory.find(torch.tensor([1, 2, 3, 9], dtype=kind)).tolist() == [0, 1, 2, -1]
