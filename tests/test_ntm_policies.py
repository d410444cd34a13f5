"""A policy beside an NTM's own addressing: what it sees, forbids, wipes, and learns."""

import pytest
import torch
from ntms import (
    HIDDEN,
    INPUT,
    B,
    N,
    R,
    Says,
    W,
    fresh,
    ntm,  # noqa: F401
    random_items,
)

from stillknows.memory.interface import (
    SKIP,
)
from stillknows.memory.ntm import NTM
from stillknows.memory.policies.learned import RetentionPolicy

# --- Policies ----------------------------------------------------------------------------------


def test_a_skip_writes_nothing_and_half_a_skip_half(ntm: NTM) -> None:
    state, item = fresh(ntm), random_items(1)[:, 0]
    skipped, _ = ntm.step(state, item, Says(skip=1))
    assert torch.equal(skipped.memory_BNW, state.memory_BNW)
    assert (skipped.birth_BN == -1).all()
    assert skipped.strength_BN.abs().max() == 0
    ntm = NTM(INPUT, N, W, R, hidden_size=HIDDEN).double()  # one head: the write is linear in w
    state = fresh(ntm)
    whole, _ = ntm.step(state, item)
    half, _ = ntm.step(state, item, Says(skip=0.5, add=0.5))
    change = whole.memory_BNW - state.memory_BNW
    torch.testing.assert_close(half.memory_BNW - state.memory_BNW, change / 2)
    torch.testing.assert_close(half.write_weights_BVN, whole.write_weights_BVN)


@pytest.mark.parametrize("action", ["update", "merge"])
def test_an_update_writes_at_its_slot(ntm: NTM, action: str) -> None:
    state, item = fresh(ntm), random_items(1)[:, 0]
    updated, _ = ntm.step(state, item, Says(**{action: 1}))
    change = (updated.memory_BNW - state.memory_BNW).abs().amax(dim=2)
    assert (change[:, [0, 1, 3, 4]] == 0).all()
    assert (change[:, 2] > 0).all()
    assert updated.birth_BN.tolist() == [[-1, -1, 0, -1, -1]] * B
    added, _ = ntm.step(state, item)
    torch.testing.assert_close(updated.write_weights_BVN, added.write_weights_BVN)


def test_a_victim_without_an_add_is_wiped(ntm: NTM) -> None:
    item = random_items(1)[:, 0]
    state, _ = ntm.step(fresh(ntm), item, Says(update=1))
    kept, _ = ntm.step(state, item, Says(add=1))
    same, _ = ntm.step(state, item, Says(add=1, victim=1))
    torch.testing.assert_close(kept.memory_BNW, same.memory_BNW)
    wiped, _ = ntm.step(state, item, Says(skip=1, victim=1))
    assert wiped.memory_BNW[:, 2].abs().max() == 0
    assert torch.equal(wiped.memory_BNW[:, 3], state.memory_BNW[:, 3])
    assert (wiped.birth_BN == -1).all()
    assert wiped.strength_BN.abs().max() == 0
    read = wiped.read_weights_BRN.sum(dim=1)
    torch.testing.assert_close(wiped.usage_BN[:, 2], read[:, 2])
    torch.testing.assert_close(wiped.usage_BN[:, 3], state.usage_BN[:, 3] + read[:, 3])
    half, _ = ntm.step(state, item, Says(skip=1, victim=0.5))
    torch.testing.assert_close(half.memory_BNW[:, 2], state.memory_BNW[:, 2] / 2)
    assert (half.birth_BN[:, 2] == 0).all()


def test_what_a_policy_sees(ntm: NTM) -> None:
    """Age, idleness, usage and strength against accounts kept by hand over several steps."""
    state = fresh(ntm)
    usage, strength = torch.zeros(B, N).double(), torch.zeros(B, N).double()
    birth, touched = torch.full((B, N), -1), torch.full((B, N), -1)
    for step, item in enumerate(random_items(8).unbind(dim=1)):
        share, before = 0.75 if step < 4 else 0.0, state
        policy = Says(skip=1 - share, add=share)
        state, _ = ntm.step(state, item, policy)
        seen = policy.seen[0]
        similarity = torch.cosine_similarity(seen.candidate_BW[:, None], before.memory_BNW, dim=2)
        assert torch.equal(seen.filled_BN, birth >= 0)
        torch.testing.assert_close(seen.similarity_BN, similarity * (birth >= 0))
        assert torch.equal(seen.age_BN, torch.where(birth >= 0, step - birth, 0).float())
        assert torch.equal(seen.idle_BN, torch.where(birth >= 0, step - touched, 0).float())
        torch.testing.assert_close(seen.usage_BN, usage)
        torch.testing.assert_close(seen.strength_BN, strength)
        assert seen.seen_B.tolist() == [step] * B
        assert not any(z.requires_grad for z in seen if z is not None)
        for weights in (share * state.write_weights_BVN.detach()).unbind(dim=1):
            usage, strength = usage * (1 - weights), strength + weights - strength * weights
        written = 1 - (1 - share * state.write_weights_BVN).prod(dim=1) > 0.05
        read = state.read_weights_BRN.amax(dim=1) > 0.05
        usage = usage + state.read_weights_BRN.detach().sum(dim=1)
        birth = torch.where(written, step, birth)
        touched = torch.where(written | read, step, touched)
    assert (touched > birth)[birth >= 0].any()


def test_a_policy_that_learns_gets_its_gradient(ntm: NTM) -> None:
    policy, state = Says(skip=0.5, add=0.5), fresh(ntm)
    policy.action.requires_grad_()
    for item in random_items(3).unbind(dim=1):
        state, read = ntm.step(state, item, policy)
    read.values_BRW.square().sum().backward()
    assert policy.action.grad is not None
    assert policy.action.grad[SKIP].abs() > 1e-6
    here, items = torch.ones(B, 8, dtype=torch.bool), random_items(8).float()
    ntm = ntm.float()
    _, read = ntm.sequence(ntm.initial_state(B), items, here, RetentionPolicy(W))
    assert read.values_BRW.isfinite().all()
