"""What memories share: one-hots, and states that are detached and reset by row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from stillknows.memory.checks.check import check_memory
from stillknows.memory.dnc import DNC
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
from stillknows.memory.links import FactoredLink, SparseLink
from stillknows.memory.memory_network import MemoryNetwork
from stillknows.memory.ntm import NTM
from stillknows.memory.policies.actor import ActorPolicy
from stillknows.memory.policies.critic import CriticPolicy
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.slots import Slots
from stillknows.memory.sparse_slots import SparseSlots

OF_ITEMS = ("slots", "sparse_slots", "memory_network")
MEMORIES: dict[str, Callable[[], Any]] = {
    "slots": lambda: Slots(4, 8),
    "sparse_slots": lambda: SparseSlots(6, 8, nearest=3),
    "memory_network": lambda: MemoryNetwork(4, 8),
    "ntm": lambda: NTM(8, slots=4, word_size=5),
    "dnc": lambda: DNC(8, slots=4, word_size=5, read_heads=2),
    "dnc_sparse": lambda: DNC(8, slots=4, word_size=5, read_heads=2, link=SparseLink(2)),
    "dnc_factored": lambda: DNC(8, slots=4, word_size=5, read_heads=2, link=FactoredLink(3)),
}


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


@pytest.mark.parametrize("name", OF_ITEMS)
@pytest.mark.parametrize("policy", [EvictOldest, lambda: ActorPolicy(8)])
def test_items_of_half_precision_are_taken(name: str, policy: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    memory, layer, told = MEMORIES[name](), nn.Linear(8, 8), torch.randn(2, 9, 8)
    here_BT = torch.ones(2, 9, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        items_BTI = layer(told)
        _, read = memory.sequence(memory.initial_state(2), items_BTI, here_BT, policy())
    assert items_BTI.dtype == torch.bfloat16
    read.values_BRW.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        *((name, EvictOldest) for name in MEMORIES),
        *((name, lambda: ActorPolicy(8)) for name in OF_ITEMS),
        *((name, lambda: CriticPolicy(8)) for name in OF_ITEMS),
    ],
)
def test_a_memory_of_doubles_computes_in_doubles(name: str, policy: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    memory = MEMORIES[name]()
    items_BTI, here_BT = torch.randn(2, 7, 8), torch.ones(2, 7, dtype=torch.bool)
    rule: Any = policy()
    _, single = memory.sequence(memory.initial_state(2), items_BTI, here_BT, rule)
    memory.double()
    if isinstance(rule, nn.Module):
        rule.double()
    state = memory.initial_state(2)
    state, double = memory.sequence(state, items_BTI.double(), here_BT, rule)
    assert double.values_BRW.dtype == double.weights_BRK.dtype == torch.float64
    kinds: set[torch.dtype] = set()
    map_state(lambda each: kinds.add(each.dtype), state)
    assert torch.float32 not in kinds
    torch.testing.assert_close(double.values_BRW.float(), single.values_BRW, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["slots", "memory_network", "ntm", "dnc"])
def test_no_items_are_one_sentence(name: str) -> None:
    memory = MEMORIES[name]()
    nothing = torch.zeros(2, 0, 8), torch.ones(2, 0, dtype=torch.bool)
    with pytest.raises(ValueError, match="no items has no read"):
        memory.sequence(memory.initial_state(2), *nothing, EvictOldest())


@pytest.mark.parametrize("name", ["ntm", "dnc"])
def test_the_width_of_an_item_need_not_be_that_of_a_word(name: str) -> None:
    memory = MEMORIES[name]()
    assert {"sequence", "gradient"} <= set(check_memory(memory, steps=20))
    with pytest.raises(ValueError, match=r"An item of 5 numbers .* input_size=8"):
        memory.step(memory.initial_state(2), torch.zeros(2, 5), None)


class Stumbles:
    """Looks at what a working memory has not."""

    def decide(self, features):
        return features.outcome_BF[:, 0]


class Silent:
    """Forgets to return its decision."""

    def decide(self, features):
        pass


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (Stumbles(), r"Stumbles raised .*None are: outcome_BF, .*\."),
        (Silent(), "Silent decides None, which is no Decision"),
    ],
)
def test_what_a_policy_stumbles_over_is_one_sentence(policy, says):
    memory = Slots(3, 4, hops=1, heads=1, recency=(0.0,))
    items, here = torch.randn(2, 5, 4), torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=says):
        memory.write(memory.initial_state(2), items, here, policy)


@pytest.mark.parametrize("name", ["ntm", "dnc"])
def test_items_of_other_shapes_are_refused_at_the_door(name: str) -> None:
    memory = MEMORIES[name]()
    state = memory.initial_state(2)
    for items, words in (
        (torch.ones(3, 8), r"the shape \[3, 8\]: give them as \[batch, steps, input_size\]"),
        (torch.ones(2, 0, 8), "A sequence of no items has no read"),
        (torch.ones(3, 4, 8), "3 items for a state of 2 rows"),
    ):
        with pytest.raises(ValueError, match=words):
            memory.outputs(state, items)
        with pytest.raises(ValueError, match=words):
            memory.sequence(state, items, torch.ones(items.shape[:2], dtype=torch.bool))
