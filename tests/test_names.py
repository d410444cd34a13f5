"""Names: who holds which question, against a plain list of all that is held."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.memory.names import Holding, Names

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
