"""Slots, nearest neighbours and the episodic store, by independent re-computation."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.memory import noise
from stillknows.memory.episodic import Candidates, Recall, p_store
from stillknows.memory.interface import (
    ADD,
    MERGE,
    SKIP,
    UPDATE,
    Decision,
    Features,
    Policy,
    fills_room,
    map_state,
    one_hot,
)
from stillknows.memory.knn import inverse_distance_weights, nearest
from stillknows.memory.nec import NEC
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
    KeepFacts,
    Reservoir,
    WriteNothing,
)
from stillknows.memory.slots import Slots


def items(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


# --- Nearest neighbours ------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
def test_nearest_equals_brute_force(stored: int, k: int, seed: int) -> None:
    keys, queries = items(stored, 3, seed=seed), items(4, 3, seed=seed + 100)
    filled = torch.rand(stored, generator=torch.Generator().manual_seed(seed)) < 0.7
    distance, slot = nearest(queries, keys, filled, k)
    for b in range(4):
        there = [n for n in range(stored) if filled[n]]
        true = sorted((float(((queries[b] - keys[n]) ** 2).sum()), n) for n in there)[:k]
        assert slot[b].tolist() == [n for _, n in true] + [-1] * (k - len(true))
        np.testing.assert_allclose(distance[b][: len(true)], [d for d, _ in true], rtol=1e-5)


def test_equal_keys_have_distance_zero_and_the_kernel_its_highest_weight() -> None:
    keys = items(100, 16) * 100
    distance, slot = nearest(keys[7:8], keys, torch.ones(100, dtype=torch.bool), 3)
    assert slot[0, 0] == 7
    assert distance[0, 0] == 0
    weights = inverse_distance_weights(distance, 1e-3)
    kernel = 1 / (distance + 1e-3)
    torch.testing.assert_close(weights, kernel / kernel.sum())
    assert inverse_distance_weights(torch.full((1, 3), torch.inf)).sum() == 0


def test_kernel_gradient() -> None:
    keys, filled = items(6, 3).double(), torch.ones(6, dtype=torch.bool)
    query = items(2, 3, seed=9).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q: inverse_distance_weights(nearest(q, keys, filled, 3)[0]), (query,)
    )


# --- The store ---------------------------------------------------------------------------------


def offer(names: list[int], answers: list[int], seed: int = 0) -> Candidates:
    rows = len(names)
    return Candidates(
        key_BD=items(rows, 4, seed=seed),
        vector_BV=items(rows, 3, seed=seed + 1),
        answers_BA=torch.tensor([[answer, 1] for answer in answers]),
        story_BTL=torch.tensor(
            [[[name, answer]] for name, answer in zip(names, answers, strict=True)]
        ),
        hash_B=torch.tensor(names),
        outcome_BF=torch.zeros(rows, 3),
        task_B=torch.full((rows,), 2),
        episode_B=torch.arange(rows),
        step_B=torch.full((rows,), 5),
    )


def store(policy, capacity: int = 4, **kwargs) -> NEC:
    return NEC(capacity, 4, 3, policy, answer_length=2, story_shape=(1, 2), neighbours=2, **kwargs)


def test_first_in_first_out_with_provenance() -> None:
    memory = store(EvictOldest())
    for number in range(6):
        (written,) = memory.remember(offer([number], [number + 10], seed=number))
        assert written.action == ADD
        assert written.evicted == (number - 4 if number >= 4 else -1)
    assert len(memory) == 4
    assert sorted(memory.provenance("id").tolist()) == [2, 3, 4, 5]
    assert memory.provenance("task").tolist() == [2] * 4
    assert sorted(memory.columns["answers_NA"][:, 0].tolist()) == [12, 13, 14, 15]


def test_several_rows_of_one_step_share_the_room_fairly() -> None:
    memory = store(EvictOldest())
    memory.remember(offer([0, 1, 2], [10, 11, 12]))
    written = memory.remember(offer([3, 4, 5], [13, 14, 15], seed=3))
    assert [w.evicted for w in written] == [-1, 0, 1]
    assert sorted(memory.columns["answers_NA"][:, 0].tolist()) == [12, 13, 14, 15]


def test_what_holds_is_refreshed_and_what_depends_is_appended() -> None:
    memory = store(EvictOldest(), capacity=8)
    memory.remember(offer([1, 2], [10, 20]))
    same, other = memory.remember(offer([1, 2], [10, 21], seed=5))
    assert (same.action, other.action) == (UPDATE, ADD)
    assert len(memory) == 3
    (again,) = memory.remember(offer([2], [21], seed=6))  # the answers disagree: never known
    assert again.action == ADD
    slot = int((memory.provenance("hash") == 1).nonzero()[0, 0])
    torch.testing.assert_close(memory.columns["keys_ND"][slot], items(2, 4, seed=5)[0])


def test_recall_equals_the_kernel_in_loops() -> None:
    memory = store(EvictOldest(), capacity=8)
    memory.remember(offer([1, 2, 3], [10, 20, 30]))
    query = items(1, 4, seed=4)
    recall = memory.recall(query)
    distance = ((memory.columns["keys_ND"][:3] - query) ** 2).sum(1)
    best = distance.argsort()[:2]
    kernel = 1 / (distance[best] + 1e-3)
    torch.testing.assert_close(recall.weights_BK[0], kernel / kernel.sum())
    assert recall.slots_BK[0].tolist() == best.tolist()
    torch.testing.assert_close(memory.columns["uses_N"][best], recall.weights_BK[0])


def test_frozen_leaves_no_trace_and_refuses_to_write() -> None:
    memory = store(EvictOldest())
    memory.remember(offer([1, 2], [10, 20]))
    before = memory.snapshot()
    with memory.frozen():
        memory.recall(items(3, 4))
        with pytest.raises(RuntimeError, match="frozen"):
            memory.remember(offer([3], [30]))
    for name, column in before["columns"].items():
        assert torch.equal(column, memory.columns[name]), name


def test_a_restored_store_goes_on_as_the_first() -> None:
    one, two = store(Reservoir()), store(Reservoir())
    for step in range(5):
        one.remember(offer([step, 99], [10, 20], seed=step))
    two.restore(one.snapshot())
    for step in range(5, 15):
        candidates = offer([step, 99], [10, 20], seed=step)
        assert one.remember(candidates) == two.remember(candidates)
    for name in one.columns:
        assert torch.equal(one.columns[name], two.columns[name])


def test_sampling_is_uniform_repeatable_and_without_repeats() -> None:
    memory = store(EvictOldest(), capacity=10)
    memory.remember(offer(list(range(6)), list(range(10, 16))))
    counts = torch.zeros(10)
    for key in range(600):
        drawn = memory.sample(3, key)
        assert len(set(drawn.tolist())) == 3
        counts[drawn] += 1
    assert counts[6:].sum() == 0
    assert ((counts[:6] - 300).abs() < 60).all()
    assert torch.equal(memory.sample(3, 5), memory.sample(3, 5))


def test_sampling_of_what_is_old() -> None:
    memory = store(EvictOldest(), capacity=10)
    memory.remember(offer([0, 1], [10, 11]))
    lived = memory.seen
    memory.remember(offer([2, 3, 4], [12, 13, 14]))
    for key in range(20):
        assert set(memory.sample(4, key, before=lived).tolist()) == {0, 1}
        assert set(memory.sample(5, key, before=0).tolist()) == set(range(5))  # nothing is older


def test_facts_are_known_by_their_namesakes() -> None:
    memory = store(EvictOldest(), capacity=8)
    memory.remember(offer([1, 2, 9], [10, 20, 30]))
    memory.remember(offer([1, 9, 9], [10, 31, 32], seed=1))  # 1 still holds, 9 depends
    held = zip(memory.provenance("hash").tolist(), memory.namesakes().tolist(), strict=True)
    assert dict(held) == {1: 1, 2: 1, 9: 3, -1: 0}
    recall = memory.recall(memory.columns["keys_ND"][:3])
    names_BK = memory.provenance("hash")[recall.slots_BK]
    assert torch.equal(recall.namesakes_BK, memory.namesakes()[recall.slots_BK])
    assert names_BK[:, 0].tolist() == [1, 2, 9]
    for key in range(20):
        drawn = memory.sample(2, key, facts=False)
        assert memory.provenance("hash")[drawn].tolist() == [9, 9]


def test_facts_stay_and_the_rest_is_a_reservoir() -> None:
    counts = torch.zeros(30)
    for life in range(80):
        memory = store(KeepFacts(), capacity=8, key=life)
        memory.remember(offer([1, 2], [10, 20]))
        for step in range(10):
            memory.remember(offer([99] * 3, [3 * step, 3 * step + 1, 3 * step + 2]))
        memory.remember(offer([3, 2], [30, 20]))  # a late fact finds room, an old one stays
        hashes = memory.provenance("hash").tolist()
        assert sorted(hashes) == [1, 2, 3, *[99] * 5]
        answers = memory.columns["answers_NA"][:, 0]
        counts[answers[memory.provenance("hash") == 99].long()] += 1
    expected = 80 * 5 / 30
    assert ((counts - expected) ** 2 / expected).sum() < 58.3  # 29 degrees of freedom, p = 0.001


def test_where_all_are_facts_the_longest_idle_leaves() -> None:
    memory = store(KeepFacts(), capacity=3)
    for name in (1, 2, 3, 1, 4):
        memory.remember(offer([name], [10 * name]))
    assert sorted(memory.provenance("hash").tolist()) == [1, 3, 4]
    working = Slots(4, 8)
    with pytest.raises(ValueError, match="give this policy to the episodic memory"):
        working.step(working.initial_state(2), torch.zeros(2, 8), KeepFacts())


def test_rekey_computes_keys_from_the_raw_text() -> None:
    memory = store(EvictOldest(), capacity=8)
    memory.remember(offer([1, 2, 3], [10, 20, 30]))
    overlap = memory.rekey(lambda story: story[:, 0, :1].float().expand(-1, 4))
    assert memory.columns["keys_ND"][:3, 0].tolist() == [1.0, 2.0, 3.0]
    assert 0 <= overlap <= 1
    assert memory.rekey(lambda story: story[:, 0, :1].float().expand(-1, 4)) == 1.0


def test_bytes_are_what_the_columns_take() -> None:
    arguments = {"key_size": 4, "vector_size": 3, "policy": WriteNothing(), "answer_length": 2}
    memory = NEC.within(10_000, story_shape=(1, 2), **arguments)
    per_entry = 4 * 4 + 3 * 4 + 2 * 4 + 2 * 2 + 4 + 1 + 7 * 8
    assert memory.nbytes == memory.capacity * per_entry
    assert memory.capacity == 10_000 // per_entry
    with pytest.raises(ValueError, match="one entry takes"):
        NEC.within(10, **arguments)
    (written,) = memory.remember(offer([1], [10]))
    assert written.action == SKIP


def test_p_store_in_loops() -> None:
    recall = Recall(
        slots_BK=torch.tensor([[0, 1, 2]]),
        weights_BK=torch.tensor([[0.5, 0.3, 0.2]]),
        distance_BK=torch.zeros(1, 3),
        answers_BKA=torch.tensor([[[7, 8, 1], [7, 9, 1], [6, 1, 0]]]),
        vectors_BKV=torch.zeros(1, 3, 1),
        present_BK=torch.ones(1, 3, dtype=torch.bool),
        namesakes_BK=torch.ones(1, 3, dtype=torch.int64),
    )
    first, supported = p_store(recall, torch.zeros(1, 0, dtype=torch.long), 0, 10)
    assert supported.all()
    torch.testing.assert_close(first[0, [6, 7]], torch.tensor([0.2, 0.8]))
    second, _ = p_store(recall, torch.tensor([[7]]), 1, 10)
    torch.testing.assert_close(second[0, [8, 9]], torch.tensor([0.625, 0.375]))
    none, supported = p_store(recall, torch.tensor([[3]]), 1, 10)
    assert not supported.any()
    assert none.sum() == 0


def test_noise_is_uniform_and_a_function_of_its_keys() -> None:
    keys = torch.arange(4000)
    drawn = noise.uniform(keys, torch.zeros_like(keys), 5)
    assert ((drawn >= 0) & (drawn < 1)).all()
    histogram = torch.histc(drawn, 20, 0, 1)
    assert ((histogram - 1000) ** 2 / 1000).sum() < 50  # chi-square, 19 degrees of freedom
    correlation = np.corrcoef(drawn.T.numpy()) - np.eye(5)
    assert np.abs(correlation).max() < 0.06
    assert torch.equal(drawn[7:9], noise.uniform(keys[7:9], torch.zeros(2, dtype=torch.long), 5))
