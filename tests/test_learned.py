"""Learned policies: their decisions against plain loops, and what they come to keep."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from seen import N, W, features, full
from torch import Tensor

from stillknows.memory.interface import ADD, Policy
from stillknows.memory.noise import uniform
from stillknows.memory.policies.learned import RetentionPolicy
from stillknows.memory.policies.rules import EvictOldest


def retention(**options: float) -> RetentionPolicy:
    torch.manual_seed(0)
    return RetentionPolicy(W, hidden=8, **options)


# Retention: for a working memory


@given(seed=st.integers(0, 10**6), training=st.booleans(), threshold=st.sampled_from([0.0, 0.88]))
def test_retention_decides_as_a_plain_loop(seed: int, training: bool, threshold: float) -> None:
    source = torch.Generator().manual_seed(seed)
    policy = retention(threshold=threshold, exploration=0.7).train(training)
    filled_BN = torch.arange(N) < torch.randint(1, N + 2, (5, 1), generator=source)
    asked = features(
        filled_BN,
        candidate_BW=torch.randn(5, W, generator=source),
        strength_BN=(torch.rand(5, N, generator=source) * 0.4 + 0.6) * filled_BN,
        noise_BM=torch.rand(5, N + 1, generator=source),
    )
    decision = policy.decide(asked)
    for row in range(5):
        p = torch.sigmoid(policy.network(asked.candidate_BW[row])).item()
        ranks = [*asked.strength_BN[row].tolist(), p]
        ranks = [math.log(max(r, 1e-6) / (1 - min(r, 1 - 1e-6))) for r in ranks]
        if training:
            noise = [float(u) for u in asked.noise_BM[row]]
            ranks = [r + 0.7 * math.log(u / (1 - u)) for r, u in zip(ranks, noise, strict=True)]
        lowest = min(range(N), key=ranks.__getitem__)
        room = not bool(filled_BN[row].all())
        kept = p > threshold and (room or ranks[N] >= ranks[lowest])
        slot = filled_BN[row].tolist().index(False) if kept and room else -1
        victim = lowest if kept and not room else -1
        expected = [0.0, p, 0.0, 0.0] if kept else [1 - p, p, 0.0, 0.0]
        assert decision.action_B4[row].tolist() == pytest.approx(expected, abs=1e-5)
        assert decision.slot_BN[row].tolist() == [float(i == slot) for i in range(N)]
        assert decision.victim_BN[row].tolist() == [float(i == victim) for i in range(N)]


@pytest.mark.parametrize("filled", [2, N])
def test_the_wish_to_keep_an_item_raises_its_strength(filled: int) -> None:
    policy = retention()
    asked = features(
        (torch.arange(N) < filled)[None],
        candidate_BW=torch.ones(1, W),
        strength_BN=torch.full((1, N), 0.9) * (torch.arange(N) < filled),
    )
    before = policy.decide(asked).action_B4[0, ADD]
    before.backward()
    with torch.no_grad():
        for weight in policy.parameters():
            assert weight.grad is not None
            weight += 0.1 * weight.grad
    assert policy.decide(asked).action_B4[0, ADD] > before


def test_at_first_nearly_everything_is_kept() -> None:
    many = torch.randn(500, W, generator=torch.Generator().manual_seed(0))
    asked = features(full(500) & False, candidate_BW=many, strength_BN=torch.zeros(500, N))
    assert retention().decide(asked).action_B4[:, ADD].min() > 0.7


def test_among_equals_the_new_one_stays() -> None:
    policy = retention().eval()
    same = torch.sigmoid(policy.network(torch.ones(1, W)))[0].item()
    strength_BN = torch.tensor([[0.99, same, same, 0.99]])
    asked = features(full(), candidate_BW=torch.ones(1, W), strength_BN=strength_BN)
    assert policy.decide(asked).victim_BN.tolist() == [[0, 1, 0, 0]]


def test_retention_needs_strengths() -> None:
    with pytest.raises(ValueError, match="needs a memory that keeps strengths"):
        retention().decide(features(full()))


def hold(policy: Policy, items_BTW: Tensor, key: int) -> tuple[Tensor, Tensor, Tensor]:
    """Offer items to N slots; return what is held, its strengths, and the writes expected."""
    batch, steps, _ = items_BTW.shape
    held_BN = torch.full((batch, N), -1)
    strength_BN = torch.zeros(batch, N)
    writes = torch.zeros(())
    for t in range(steps):
        asked = features(
            held_BN >= 0,
            candidate_BW=items_BTW[:, t],
            age_BN=(t - held_BN).float(),
            strength_BN=strength_BN.detach(),
            noise_BM=uniform(torch.arange(batch) + key, torch.full((batch,), t), N + 1),
        )
        decision = policy.decide(asked)
        place_BN = (decision.slot_BN + decision.victim_BN).bool()
        held_BN = torch.where(place_BN, t, held_BN)
        strength_BN = torch.where(place_BN, decision.action_B4[:, ADD, None], strength_BN)
        writes = writes + decision.action_B4[:, ADD].mean() / steps
    return held_BN, strength_BN, writes


def marked_items(seed: int, batch: int = 48, steps: int = 16) -> tuple[Tensor, Tensor]:
    """Return items whose second number matters where the first is 1, and which matter (N)."""
    source = torch.Generator().manual_seed(seed)
    marked_BT = torch.rand(batch, steps, generator=source).argsort(dim=1) < N
    items_BTW = torch.randn(batch, steps, W, generator=source)
    items_BTW[..., 0] = torch.where(marked_BT, 1.0, -1.0)
    return items_BTW, marked_BT


def test_retention_learns_what_an_answer_needs() -> None:
    """16 items, room for 4, and 4 are marked: the answer is their mean.

    The read is a mean weighted by strength: what is not needed disturbs it.
    """
    policy = retention()
    optimizer = torch.optim.Adam(policy.parameters(), lr=2e-2)
    for step in range(100):
        items_BTW, marked_BT = marked_items(step)
        held_BN, strength_BN, writes = hold(policy, items_BTW, key=100 * step)
        weights_BN = torch.softmax(strength_BN.log(), dim=1)
        answer_B = (weights_BN * items_BTW[..., 1].gather(1, held_BN)).sum(1)
        target_B = (items_BTW[..., 1] * marked_BT).sum(1) / N
        loss = (answer_B - target_B).square().mean() + 0.02 * writes
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def kept(policy: Policy) -> float:
        items_BTW, marked_BT = marked_items(1000)
        held_BN, _, _ = hold(policy, items_BTW, key=0)
        return marked_BT.gather(1, held_BN).float().mean().item()

    assert kept(policy.eval()) > 0.9
    assert kept(EvictOldest()) < 0.4
