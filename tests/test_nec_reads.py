"""What a store of episodic control reads, learns from reads, keeps and refuses."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from offers import Leave, Say, offer, store

from stillknows.memory.episodic import Recall, p_store
from stillknows.memory.interface import ADD, SKIP, UPDATE
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import (
    EvictOldest,
    Novelty,
)

pytestmark = pytest.mark.usefixtures("either")


def test_least_recently_read_leaves_first():
    memory = store(Leave("idle_BN"), capacity=3, neighbours=1)
    for number in range(3):
        memory.remember(offer((number, number + 5), seed=number))
    memory.recall(memory.columns["keys_ND"][:1])  # the oldest is read
    (written,) = memory.remember(offer((9, 9)))
    assert written.evicted == 1
    (written,) = memory.remember(offer((10, 10)))
    assert written.evicted in (0, 2)  # both idle since the same step


def test_a_policy_sees_time_use_and_likeness_and_no_provenance():
    policy = Say(ADD)
    memory = store(policy, capacity=3, neighbours=1, key=7)
    first = offer((1, 5), seed=1)
    memory.remember(first)
    memory.remember(offer((2, 6), seed=2))
    memory.recall(first.key_BD)
    candidates = offer((3, 7), (4, 8), seed=3)
    memory.remember(candidates)
    features = policy.features
    assert features is not None
    assert features.age_BN.tolist() == [[2, 1, 0]] * 2
    assert features.idle_BN.tolist() == [[1, 1, 0]] * 2
    assert features.usage_BN.tolist() == [[1, 0, 0]] * 2
    assert features.seen_B.tolist() == [2, 3]
    assert features.filled_BN.tolist() == [[True, True, False]] * 2
    for row, key in enumerate(candidates.key_BD.numpy()):
        stored = first.key_BD[0].numpy()
        cosine = key @ stored / np.linalg.norm(key) / np.linalg.norm(stored)
        assert features.similarity_BN[row, 0].item() == pytest.approx(cosine, rel=1e-5)
    assert (features.similarity_BN[:, 2] == 0).all()
    other = Say(ADD)
    memory = store(other, capacity=3, key=7)
    moved = candidates._replace(task_B=candidates.task_B + 5, episode_B=candidates.episode_B * 2)
    memory.seen = 2
    memory.remember(moved)
    assert other.features is not None
    assert torch.equal(other.features.noise_BM, features.noise_BM)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_keys_of_any_float_are_compared_with_those_that_are_held(kind):
    memory, plain = store(Novelty()), store(Novelty())
    for seed in range(3):
        candidates = offer((seed, 5), seed=seed // 2)
        candidates = candidates._replace(key_BD=candidates.key_BD.to(kind))
        written = memory.remember(candidates)
        assert written == plain.remember(candidates._replace(key_BD=candidates.key_BD.float()))
        assert written[0].action == (SKIP if seed == 1 else ADD)
    assert torch.equal(memory.columns["keys_ND"], plain.columns["keys_ND"])


def test_text_names_story_and_answer_together():
    memory = store(Leave(), capacity=8, identity="text")
    first, second = offer((1, 5)), offer((1, 6))
    actions = [memory.remember(one)[0].action for one in (first, second, first, second)]
    assert actions == [ADD, ADD, UPDATE, UPDATE]
    assert len(memory) == 2


def test_the_gradient_of_the_weights_reaches_the_query():
    memory = store(Leave(), capacity=6, neighbours=3, delta=0.1)
    memory.remember(offer(*((n, n + 5) for n in range(5))))
    query = torch.randn(2, 4, generator=torch.Generator().manual_seed(5)).double()
    with memory.frozen():
        assert torch.autograd.gradcheck(
            lambda q: memory.recall(q).weights_BK, query.requires_grad_()
        )


def test_a_recall_brings_what_was_stored_and_blanks_for_the_rest():
    memory = store(Leave(), capacity=6, neighbours=4)
    candidates = offer((1, 5), (2, 6))
    memory.remember(candidates)
    recall = memory.recall(candidates.key_BD[1:])
    assert recall.slots_BK.tolist() == [[1, 0, -1, -1]]
    assert recall.answers_BKA.tolist() == [[[6, 1], [5, 1], [0, 0], [0, 0]]]
    assert torch.equal(recall.vectors_BKV[0, 0], candidates.vector_BV[1])
    assert (recall.vectors_BKV[0, 2:] == 0).all()
    assert recall.present_BK.tolist() == [[True, True, False, False]]
    assert recall.weights_BK.sum().item() == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 3))
def test_p_store_is_a_count_in_loops(seed, position):
    random = np.random.default_rng(seed)
    answers = random.integers(0, 4, (3, 6, 3))
    weights = random.random((3, 6))
    present = random.random((3, 6)) < 0.8
    prefix = random.integers(1, 4, (3, position))
    recall = Recall(
        torch.zeros(3, 6, dtype=torch.int64),
        torch.from_numpy(weights * present),
        torch.zeros(3, 6),
        torch.from_numpy(answers),
        torch.zeros(3, 6, 1),
        torch.from_numpy(present),
        torch.from_numpy(present).long(),
    )
    probabilities, supported = p_store(recall, torch.from_numpy(prefix), position, 5)
    for row in range(3):
        share: Counter[int] = Counter()
        for k in range(6 if position < 3 else 0):
            begins = list(answers[row, k, :position]) == list(prefix[row])
            if present[row, k] and begins and answers[row, k, position]:
                share[int(answers[row, k, position])] += weights[row, k]
        assert bool(supported[row]) == bool(share)
        total = sum(share.values()) or 1
        expected = [share[token] / total for token in range(5)]
        np.testing.assert_allclose(probabilities[row].numpy(), expected, rtol=1e-6, atol=1e-12)


def test_the_gradient_of_p_store_reaches_the_weights():
    memory = store(Leave(), capacity=6, neighbours=4, delta=0.1)
    memory.remember(offer((1, 5), (2, 6), (3, 5), (4, 7)))
    query = torch.randn(2, 4, generator=torch.Generator().manual_seed(6)).double()

    def probabilities(query_BD):
        return p_store(memory.recall(query_BD), torch.zeros(2, 0, dtype=torch.int64), 0, 9)[0]

    with memory.frozen():
        assert torch.autograd.gradcheck(probabilities, query.requires_grad_())


def test_a_snapshot_is_a_copy_and_fits_only_a_store_like_its_own():
    memory = store(Leave())
    memory.remember(offer((1, 5), (2, 6)))
    snapshot = memory.snapshot()
    before = {name: column.clone() for name, column in snapshot["columns"].items()}
    memory.remember(offer((3, 7), seed=4))
    memory.recall(torch.zeros(1, 4))
    assert all(torch.equal(before[name], snapshot["columns"][name]) for name in before)
    memory.restore(snapshot)
    memory.remember(offer((4, 8), seed=5))
    assert all(torch.equal(before[name], snapshot["columns"][name]) for name in before)
    with pytest.raises(ValueError, match="other sizes"):
        store(Leave(), capacity=5).restore(snapshot)


def test_a_snapshot_of_longer_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="other sizes"):
        NEC(4, 4, 3, EvictOldest()).restore(NEC(4, 4, 3, EvictOldest(), token_bytes=4).snapshot())


def test_a_store_without_keys_is_not_read() -> None:
    with pytest.raises(ValueError, match="no keys"):
        NEC(4, 0, 3, EvictOldest()).recall(torch.zeros(1, 4))


def test_rekey_measures_the_neighbours_that_stay():
    memory = store(Leave(), capacity=8, neighbours=2)
    candidates = offer(*((n, n + 1) for n in range(4)))
    memory.remember(
        candidates._replace(key_BD=torch.tensor([0.0, 1, 10, 11])[:, None].expand(-1, 4))
    )
    # From the pairs {0, 1} and {2, 3} to the pairs {0, 2} and {1, 3}: of two neighbours, oneself
    # stays and the other does not.
    places = torch.tensor([0.0, 10, 1, 11])
    overlap = memory.rekey(lambda story_BTL: places[story_BTL[:, 0, 0]][:, None].expand(-1, 4))
    assert overlap == pytest.approx(0.5)
    assert memory.columns["keys_ND"][:4, 0].tolist() == places.tolist()


def test_rekey_keeps_no_gradient_and_refuses_what_is_no_key():
    memory, encode = store(Leave()), torch.nn.Linear(2, 4)
    memory.remember(offer((1, 5), (2, 6)))
    memory.rekey(lambda story_BTL: encode(story_BTL[:, 0].float()).double())
    assert not memory.columns["keys_ND"].requires_grad
    before = memory.snapshot()["columns"]["keys_ND"]
    for fault, words in (
        (torch.full((2, 4), torch.nan), "The key is NaN or infinite, and the store is left as it"),
        (torch.zeros(2, 1), "The key has 1 numbers where this store keeps 4"),
    ):
        with pytest.raises(ValueError, match=words):
            memory.rekey(lambda story_BTL, fault=fault: fault)
    with memory.frozen(), pytest.raises(RuntimeError, match="an examination changes no key"):
        memory.rekey(lambda story_BTL: torch.zeros(2, 4))
    assert torch.equal(memory.columns["keys_ND"], before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"capacity": 0}, "capacity=0 should be a whole number, at least 1"),
        ({"identity": "name"}, "choose one"),
    ],
)
def test_wrong_options_say_the_way_out(options, words):
    with pytest.raises(ValueError, match=words):
        store(Leave(), **options)


def test_what_is_recalled_is_the_mean_by_the_kernel_of_the_nearest():
    memory = store(Leave(), capacity=8, neighbours=3)
    memory.remember(offer(*((number, number) for number in range(6)), seed=1))
    query = torch.randn(2, 4, generator=torch.Generator().manual_seed(2))
    keys, vectors = (memory.columns[n][:6].double().numpy() for n in ("keys_ND", "vectors_NV"))
    for row, found in zip(query.double().numpy(), memory.recall(query).mean(), strict=True):
        distance = ((row - keys) ** 2).sum(axis=1)
        nearest = distance.argsort()[:3]
        weights = 1 / (distance[nearest] + memory.delta)
        expected = weights @ vectors[nearest] / weights.sum()
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_store_is_the_same_on_a_gpu():
    here, there = store(Leave(), neighbours=3), store(Leave(), neighbours=3, device="cuda")
    for number in range(6):
        candidates = offer((number, 5), (1, 6), seed=number)
        on_gpu = {"key_BD": candidates.key_BD.cuda(), "vector_BV": candidates.vector_BV.cuda()}
        assert here.remember(candidates) == there.remember(candidates._replace(**on_gpu))
    query = torch.randn(2, 4)
    mine, theirs = here.recall(query), there.recall(query.cuda())
    assert mine.slots_BK.tolist() == theirs.slots_BK.tolist()
    torch.testing.assert_close(mine.weights_BK, theirs.weights_BK.cpu())
