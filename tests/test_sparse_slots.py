"""Sparse slots: the choice and its relevance in numpy, gradients, and where they equal slots."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.memory import noise
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.slots import Slots
from stillknows.memory.sparse_slots import SparseSlots

SETTINGS = {"hops": 2, "heads": 2, "recency": (1.0, 0.0)}


def built(slots: int, nearest: int, width: int = 8) -> SparseSlots:
    torch.manual_seed(0)
    memory = SparseSlots(slots, width, nearest, **SETTINGS)
    for linear in (memory.asked, memory.told):
        torch.nn.init.normal_(linear.weight, std=0.5)
    return memory.double().eval()


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def filled(memory: Slots, items_BTW: torch.Tensor) -> tuple:
    state = memory.initial_state(len(items_BTW))
    state = state._replace(
        values_BNW=state.values_BNW.double(),
        strength_BN=state.strength_BN.double(),
        usage_BN=state.usage_BN.double(),
    )
    here = torch.ones(items_BTW.shape[:2], dtype=torch.bool)
    return memory.write(state, items_BTW, here, EvictOldest())


def normal(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


@settings(max_examples=40, deadline=None)
@given(items=st.integers(0, 12), nearest=st.integers(1, 6), seed=st.integers(0, 10))
def test_the_choice_and_its_relevance_are_those_of_numpy(
    items: int, nearest: int, seed: int
) -> None:
    memory = built(8, nearest)
    state = filled(memory, vectors(3, items, 8, seed=seed))
    query = vectors(3, 8, seed=seed + 100)
    slots_BK, strength_BK = memory._taking_part(state, query)
    asked, told = (m.weight.detach().numpy() for m in (memory.asked, memory.told))
    for row in range(3):
        births = state.birth_BN[row].numpy()
        cosine = normal(state.values_BNW[row].numpy() @ told.T) @ normal(
            query[row].numpy() @ asked.T
        )
        held = np.flatnonzero(births >= 0)
        best = held[np.argsort(-cosine[held], kind="stable")[:nearest]]
        best = best[np.argsort(births[best])]
        assert slots_BK[row].tolist() == best.tolist()
        expected = 1 / (1 + np.exp(-(4.0 * cosine[best] + 0.0)))
        np.testing.assert_allclose(strength_BK[row].detach().numpy(), expected, atol=1e-12)


def test_of_as_many_as_are_held_and_all_relevant_it_reads_as_slots_do() -> None:
    sparse = built(6, 9)
    torch.nn.init.constant_(sparse.offset, 60.0)
    dense = Slots(9, 8, **SETTINGS).double().eval()
    dense.load_state_dict(sparse.state_dict(), strict=False)
    items, query = vectors(2, 5, 8), vectors(2, 8, seed=1)
    wide, narrow = (memory.read(filled(memory, items), query)[1] for memory in (dense, sparse))
    torch.testing.assert_close(wide.values_BRW, narrow.values_BRW)
    torch.testing.assert_close(wide.weights_BRK, narrow.weights_BRK)
    assert torch.equal(wide.slots_BRK, narrow.slots_BRK)


def test_what_is_not_chosen_changes_nothing() -> None:
    memory = built(64, 4)
    items, query = vectors(1, 40, 8), vectors(1, 8, seed=1)
    state, read = memory.read(filled(memory, items), query)
    assert read.weights_BRK.shape == (1, 2, 4)
    chosen = state.values_BNW[:, read.slots_BRK[0, 0]]
    kept = filled(memory, chosen)  # the chosen alone, in the same order
    torch.testing.assert_close(memory.read(kept, query)[1].values_BRW, read.values_BRW)


def test_the_gradient_reaches_the_choice_the_items_and_the_query() -> None:
    memory = built(8, 3)
    items, query = (x.requires_grad_() for x in (vectors(2, 5, 8), vectors(2, 8, seed=1)))

    def read(items: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        return memory.read(filled(memory, items), query)[1].values_BRW

    assert torch.autograd.gradcheck(read, (items, query))
    read(items, query).sum().backward()
    for parameter in (memory.asked.weight, memory.told.weight, memory.sharpness, memory.offset):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_more_slots_later_need_no_other_parameters() -> None:
    memory = built(4, 2)
    read = memory.read(filled(memory, vectors(1, 4, 8)), vectors(1, 8, seed=1))[1]
    memory.slots = 1000
    again = memory.read(filled(memory, vectors(1, 4, 8)), vectors(1, 8, seed=1))[1]
    torch.testing.assert_close(read.values_BRW, again.values_BRW)


def test_a_choice_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nearest=0 should be a whole number, at least 1\."):
        SparseSlots(4, 8, 0)


def test_in_training_everything_is_read_at_times_the_same_for_the_same_episode() -> None:
    memory = built(32, 4).train()
    items, query = vectors(1, 32, 8).expand(2000, -1, -1), vectors(1, 8, seed=1).expand(2000, -1)
    state = filled(memory, items)._replace(key_B=torch.arange(2000))
    chosen = memory._taking_part(state, query)[0]
    assert len(set(chosen.flatten().tolist())) == 32
    again = memory._taking_part(state, query)[0]
    assert torch.equal(chosen, again)
    assert torch.equal(memory._taking_part(state, query.flip(0))[0], chosen)
    calm = memory.eval()._taking_part(state, query)[0]
    assert len(set(calm.flatten().tolist())) == 4
    kept = (chosen[:, :, None] == calm[:, None]).any(2).double().mean()
    assert 0.2 < kept < 0.99


def test_what_is_tried_in_training_is_not_what_a_random_policy_leaves() -> None:
    memory = built(32, 4).train()
    memory.exploration = 1e6  # the choice is the noise alone
    state = filled(memory, vectors(1, 32, 8).expand(500, -1, -1))
    state = state._replace(key_B=torch.arange(500))
    tried = memory._taking_part(state, vectors(1, 8, seed=1).expand(500, -1))[0]
    left = noise.uniform(state.key_B, state.step_B, 32).topk(4).indices
    shared = (tried[:, :, None] == left[:, None]).any(2).double().mean()
    assert 0.08 < shared < 0.18  # four of 32 are an eighth
