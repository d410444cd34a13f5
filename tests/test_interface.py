"""What memories share: one-hots, and states that are detached and reset by row."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stillknows.memory.interface import (
    ACTIONS,
    ADD,
    MERGE,
    SKIP,
    UPDATE,
    detach,
    map_state,
    one_hot,
    reset_rows,
)


class Inner(NamedTuple):
    count_B: Tensor
    filled_BN: Tensor


class Outer(NamedTuple):
    values_BNW: Tensor
    inner: Inner


def state(rows: int, fill: float) -> Outer:
    count = torch.full((rows,), int(fill))
    return Outer(torch.full((rows, 3, 2), fill), Inner(count, torch.full((rows, 3), fill > 0)))


def test_the_columns_of_an_action_have_these_names() -> None:
    assert [ACTIONS[i] for i in (SKIP, ADD, UPDATE, MERGE)] == ["skip", "add", "update", "merge"]


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=8))
def test_one_hot_by_hand(index: list[int]) -> None:
    expected = [[1.0 if place == i else 0.0 for place in range(6)] for i in index]
    assert one_hot(torch.tensor(index), 6).tolist() == expected


def test_map_state_reaches_every_tensor_and_keeps_the_types() -> None:
    twice = map_state(lambda x: x * 2, state(2, 1.0))
    assert isinstance(twice, Outer)
    assert isinstance(twice.inner, Inner)
    assert twice.values_BNW.unique().tolist() == [2.0]
    assert twice.inner.count_B.tolist() == [2, 2]


def test_detach_keeps_the_numbers_and_drops_the_history() -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    before = state(2, 3.0)._replace(values_BNW=torch.ones(2, 3, 2) * weight)
    after = detach(before)
    assert before.values_BNW.requires_grad
    assert not after.values_BNW.requires_grad
    assert torch.equal(after.values_BNW, before.values_BNW)
    assert torch.equal(after.inner.count_B, before.inner.count_B)


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_reset_rows_takes_fresh_rows_where_an_episode_ended(ended: list[bool]) -> None:
    rows = len(ended)
    old, fresh = state(rows, 5.0), state(rows, 0.0)
    new = reset_rows(old, fresh, torch.tensor(ended))
    assert isinstance(new.inner, Inner)
    for row, end in enumerate(ended):
        source = fresh if end else old
        assert torch.equal(new.values_BNW[row], source.values_BNW[row])
        assert torch.equal(new.inner.count_B[row], source.inner.count_B[row])
        assert torch.equal(new.inner.filled_BN[row], source.inner.filled_BN[row])
    assert torch.equal(old.values_BNW, torch.full((rows, 3, 2), 5.0))


def test_reset_rows_sends_the_gradient_to_the_rows_that_stay() -> None:
    old = torch.ones(3, 2, requires_grad=True)
    reset_rows(old, torch.zeros(3, 2), torch.tensor([True, False, True])).sum().backward()
    assert old.grad is not None
    assert old.grad.tolist() == [[0, 0], [1, 1], [0, 0]]


def test_reset_rows_refuses_states_of_different_make() -> None:
    with pytest.raises(ValueError, match="zip"):
        reset_rows((torch.ones(1),), (torch.ones(1), torch.ones(1)), torch.tensor([True]))
