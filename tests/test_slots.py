"""Slots, by independent re-computation."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from items_of import items

from stillknows.memory.interface import (
    ADD,
    MERGE,
    Decision,
    Features,
    Policy,
    fills_room,
    map_state,
    one_hot,
)
from stillknows.memory.policies import diversity
from stillknows.memory.policies.actor import ActorPolicy
from stillknows.memory.policies.critic import CriticPolicy
from stillknows.memory.policies.diversity import EvictAlike
from stillknows.memory.policies.offline import OfflinePolicy
from stillknows.memory.policies.rules import (
    EvictIdle,
    EvictOldest,
    EvictRare,
    EvictRead,
    EvictUniformly,
    Reservoir,
    WriteNothing,
)
from stillknows.memory.slots import Slots

# --- Slots -------------------------------------------------------------------------------------


def slots(n: int = 4, width: int = 8, tied: bool = False) -> Slots:
    torch.manual_seed(0)
    return Slots(n, width, hops=2, heads=2, recency=(1.0, 0.0), tied=tied)


def test_oldest_leave_first_and_contents_are_the_items() -> None:
    memory, x = slots(), items(2, 7, 8)
    state = memory.write(
        memory.initial_state(2), x, torch.ones(2, 7, dtype=torch.bool), EvictOldest()
    )
    order = state.birth_BN.argsort(1)
    for row in range(2):
        assert torch.equal(state.values_BNW[row][order[row]], x[row, 3:])
    assert state.birth_BN.sort(1).values.tolist() == [[3, 4, 5, 6]] * 2


def test_writing_in_two_parts_is_writing_at_once_and_absent_items_count_for_nothing() -> None:
    memory, x = slots(), items(3, 6, 8)
    here = torch.ones(3, 6, dtype=torch.bool)
    here[1, 2] = False
    policy = Reservoir()
    once = memory.write(memory.initial_state(3), x, here, policy)
    parts = memory.write(memory.initial_state(3), x[:, :2], here[:, :2], policy)
    parts = memory.write(parts, x[:, 2:], here[:, 2:], policy)
    for a, b in zip(once, parts, strict=True):
        torch.testing.assert_close(a, b)
    without = x[1:2, [0, 1, 3, 4, 5]]
    alone = memory.write(
        memory.initial_state(1), without, torch.ones(1, 5, dtype=torch.bool), policy
    )
    torch.testing.assert_close(alone.values_BNW[0], once.values_BNW[1])


class MergeAlike:
    """Merges an item into the slot most like it where they are alike, adds it elsewhere."""

    needs_noise = False

    def decide(self, features: Features) -> Decision:
        alike_B, slot_B = features.similarity_BN.max(dim=1)
        free_B = (~features.filled_BN).float().argmax(dim=1)
        merges_B = alike_B > 0.3
        return Decision(
            one_hot(torch.where(merges_B, MERGE, ADD), 4),
            one_hot(torch.where(merges_B, slot_B, free_B), features.filled_BN.shape[1]),
            one_hot(torch.where(merges_B, -1, 0), features.filled_BN.shape[1]),
            torch.zeros_like(alike_B),
        )


class AskedOldest(EvictOldest):
    """The same rule, which does not say that it only decides who leaves: every item is asked."""


@settings(max_examples=30)
@given(st.integers(0, 2**30), st.integers(2, 9), st.integers(0, 8))
def test_writing_where_there_is_room_is_writing_one_by_one(
    seed: int, slots: int, steps: int
) -> None:
    torch.manual_seed(seed)
    memory = Slots(slots, 4, hops=1, heads=2, recency=(1.0, 0.0))
    states = [memory.initial_state(3), memory.initial_state(3)]
    items = torch.randn(2, 3, steps, 4, requires_grad=True)
    present = torch.rand(2, 3, steps) < 0.6
    for part in range(2):
        for number, policy in enumerate((EvictOldest(), AskedOldest())):
            states[number] = memory.write(states[number], items[part], present[part], policy)
    for one, other in zip(*states, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
    if states[0].values_BNW.requires_grad:
        weights = torch.randn(3, slots, 4)
        grads = [
            torch.autograd.grad((state.values_BNW * weights).sum(), items, retain_graph=True)[0]
            for state in states
        ]
        assert torch.equal(*grads)


class Asked:
    """A policy that does not say what it does while there is room: every item is asked."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def decide(self, features: Features) -> Decision:
        return self.policy.decide(features)


FILLING = (
    *(EvictOldest(), EvictIdle(), EvictRare(), EvictRead(), EvictUniformly(), Reservoir()),
    *(EvictAlike(), diversity.MergeAlike(), ActorPolicy(4), CriticPolicy(4)),
    OfflinePolicy(),
)


@pytest.mark.parametrize("policy", FILLING, ids=lambda policy: type(policy).__name__)
def test_who_writes_while_there_is_room_need_not_be_asked_then(policy: Policy) -> None:
    assert fills_room(policy)
    for seed in range(8):
        torch.manual_seed(seed)
        memory = Slots(3 + seed % 3, 4, hops=1, heads=2, recency=(1.0, 0.0))
        states = [memory.initial_state(3), memory.initial_state(3)]
        items, present = torch.randn(2, 3, 5, 4), torch.rand(2, 3, 5) < 0.8
        for part in range(2):
            for number, each in enumerate((policy, Asked(policy))):
                states[number] = memory.write(states[number], items[part], present[part], each)
                states[number], _ = memory.read(states[number], items[part, :, 0])
        for one, other in zip(*states, strict=True):
            torch.testing.assert_close(one, other)


def test_what_may_skip_is_asked_though_there_is_room() -> None:
    asked = ActorPolicy(4, saves=True), ActorPolicy(4, actions=("update",)), CriticPolicy(4, 8, 0.5)
    assert not any(map(fills_room, (*asked, AskedOldest(), WriteNothing())))


def test_merges_equal_a_loop_and_carry_a_gradient() -> None:
    memory, rows, steps = slots(3), 4, 9
    x = items(rows, steps, 8, seed=1).requires_grad_()
    here = torch.ones(rows, steps, dtype=torch.bool)
    values = memory.write(memory.initial_state(rows), x, here, MergeAlike()).values_BNW
    merges, expected = 0, []
    for row in range(rows):
        held: list[torch.Tensor] = []
        for item in x[row]:
            alike = [float(torch.cosine_similarity(item.detach(), s.detach(), 0)) for s in held]
            if alike and max(alike) > 0.3:
                slot = alike.index(max(alike))
                held[slot] = (held[slot] + item) / 2
                merges += 1
            elif len(held) < 3:
                held.append(item)
            else:
                held[0] = item
        expected.append(torch.stack(held))
    assert merges >= 4
    torch.testing.assert_close(values, torch.stack(expected))
    weights = items(rows, 3, 8, seed=2)
    gradients = [
        torch.autograd.grad((v * weights).sum(), x)[0] for v in (values, torch.stack(expected))
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("tied", [False, True])
def test_a_read_equals_attention_in_loops(tied: bool) -> None:
    memory, x = slots(3, tied=tied), items(1, 3, 8)
    state = memory.write(
        memory.initial_state(1), x[:, :2], torch.ones(1, 2, dtype=torch.bool), EvictOldest()
    )
    state = state._replace(strength_BN=torch.tensor([[0.5, 1.0, 0.0]]))
    _, read = memory.read(state, x[:, 2])
    rows = [
        x[0, 0] + memory.ages.weight[2],
        x[0, 1] + memory.ages.weight[1],
        x[0, 2] + memory.query_mark,
    ]
    assert len(memory.hops) == (1 if tied else memory.reads)
    for number in range(memory.reads):
        hop = memory.hops[0 if tied else number]
        normed = [hop.norm_attention(row) for row in rows]
        key, value = hop.key_value.weight.chunk(2)
        after = []
        for i, row in enumerate(rows):
            mixed = []
            for head in range(2):
                part = slice(4 * head, 4 * head + 4)
                q = (hop.query.weight @ normed[i])[part]
                scores = []
                for j in range(i + 1):
                    score = q @ (key @ normed[j])[part] / 2.0
                    score = score - memory.recency[head] * (i - j)
                    if i != j:
                        score = score + torch.log(torch.tensor([0.5, 1.0, 1.0])[j])
                    scores.append(score)
                weights = torch.softmax(torch.stack(scores), 0)
                mixed.append(sum(w * (value @ normed[j])[part] for j, w in enumerate(weights)))
            row = row + hop.out(torch.cat(mixed))
            after.append(row + hop.network(hop.norm_network(row)))
        rows = after
        torch.testing.assert_close(read.values_BRW[0, number], rows[-1], rtol=1e-4, atol=1e-5)


def test_rows_and_their_order_do_not_matter() -> None:
    memory, x = slots(), items(4, 6, 8)
    here = torch.ones(4, 6, dtype=torch.bool)
    keys = torch.tensor([5, 6, 7, 8])
    turned = torch.tensor([2, 0, 3, 1])
    _, read = memory.sequence(memory.initial_state(4, key_B=keys), x, here, EvictUniformly())
    _, mixed = memory.sequence(
        memory.initial_state(4, key_B=keys[turned]), x[turned], here, EvictUniformly()
    )
    torch.testing.assert_close(read.values_BRW[turned], mixed.values_BRW, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_items_and_strengths_and_no_input_changes() -> None:
    memory = slots().double()
    x = items(1, 4, 8).double().requires_grad_()
    here = torch.ones(1, 4, dtype=torch.bool)
    start = map_state(lambda z: z.double() if z.is_floating_point() else z, memory.initial_state(1))
    before = [z.clone() for z in start]

    def run(x):
        return memory.sequence(start, x, here, EvictOldest())[1].values_BRW

    assert torch.autograd.gradcheck(run, (x,), atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, start, strict=True))


def test_an_empty_memory_answers_with_the_query_alone() -> None:
    memory = slots()
    _, read = memory.read(memory.initial_state(2), items(2, 8))
    assert read.values_BRW.isfinite().all()
    assert read.weights_BRK.numel() == 0


def test_vectors_of_another_width_are_one_sentence() -> None:
    memory = slots(width=8)
    state, here = memory.initial_state(2), torch.ones(2, 1, dtype=torch.bool)
    for take in (
        lambda: memory.write(state, torch.zeros(2, 1, 6), here, EvictOldest()),
        lambda: memory.read(state, torch.zeros(2, 6)),
    ):
        with pytest.raises(ValueError, match=r"6 numbers for a memory \(Slots\) with word_size=8"):
            take()
