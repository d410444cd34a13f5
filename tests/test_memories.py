"""Slots, nearest neighbours and the episodic store, by independent re-computation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from items_of import items

from stillknows.memory import noise
from stillknows.memory.episodic import Candidates, Recall, p_store
from stillknows.memory.interface import (
    ADD,
    SKIP,
    UPDATE,
)
from stillknows.memory.knn import inverse_distance_weights, nearest
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import (
    EvictOldest,
    KeepFacts,
    Reservoir,
    WriteNothing,
)
from stillknows.memory.slots import Slots

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
