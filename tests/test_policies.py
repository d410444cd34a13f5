"""Rules by their statistics; learned policies by what they come to keep."""

import pytest
import torch

from stillknows.memory.interface import ADD, SKIP, UPDATE, Features
from stillknows.memory.noise import uniform
from stillknows.memory.policies import rules
from stillknows.memory.policies.learned import RetentionPolicy, UtilityPolicy
from stillknows.memory.slots import Slots

N = 5


def features(rows: int = 1, seen: int = 0, filled: int = N, key: int = 0, **changes) -> Features:
    keys = torch.arange(key, key + rows)
    base = Features(
        candidate_BW=torch.zeros(rows, 3),
        similarity_BN=torch.zeros(rows, N),
        usage_BN=torch.tensor([3.0, 1, 4, 1, 5]).expand(rows, -1),
        age_BN=torch.tensor([2.0, 9, 4, 9, 1]).expand(rows, -1),
        idle_BN=torch.tensor([2.0, 3, 8, 1, 1]).expand(rows, -1),
        filled_BN=(torch.arange(N) < filled).expand(rows, -1),
        seen_B=torch.full((rows,), seen),
        noise_BM=uniform(keys, torch.full((rows,), seen), N + 1),
        known_B=torch.full((rows,), -1),
        outcome_BF=torch.zeros(rows, 3),
    )
    return base._replace(**changes)


@pytest.mark.parametrize(
    ("rule", "victim"), [(rules.EvictOldest, 1), (rules.EvictIdle, 2), (rules.EvictRare, 1)]
)
def test_who_leaves(rule: type, victim: int) -> None:
    decision = rule().decide(features())
    assert decision.action_B4.argmax().item() == ADD
    assert decision.victim_BN.nonzero().tolist() == [[0, victim]]
    assert decision.slot_BN.sum() == 0


def test_free_slots_come_first_and_what_is_known_is_refreshed() -> None:
    roomy = rules.EvictOldest().decide(features(filled=2))
    assert roomy.slot_BN.argmax().item() == 2
    assert roomy.victim_BN.sum() == 0
    known = features(known_B=torch.tensor([3]))
    assert rules.EvictOldest().decide(known).action_B4.argmax().item() == UPDATE
    assert rules.EvictOldest().decide(known).slot_BN.argmax().item() == 3
    assert rules.EvictOldest(refresh=False).decide(known).action_B4.argmax().item() == ADD


def test_uniform_eviction_is_uniform() -> None:
    victims = rules.EvictUniformly().decide(features(rows=5000)).victim_BN.sum(0)
    assert ((victims - 1000) ** 2 / 1000).sum() < 18.5  # chi-square, 4 degrees, p = 0.001


def test_a_reservoir_keeps_every_item_as_likely() -> None:
    rows, offered = 4000, 20
    memory = Slots(N, 4, hops=1, heads=1, recency=(0.0,))
    x = torch.arange(offered).float()[None, :, None].expand(rows, -1, 4)
    here = torch.ones(rows, offered, dtype=torch.bool)
    start = memory.initial_state(rows, key_B=torch.arange(rows))
    kept = memory.write(start, x, here, rules.Reservoir()).values_BNW[..., 0].round().long()
    counts = torch.bincount(kept.flatten(), minlength=offered)
    expected = rows * N / offered
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # 19 degrees, p = 0.001


def test_surprise_novelty_and_nothing() -> None:
    loud = features(outcome_BF=torch.tensor([[2.0, 0, 1]]))
    assert rules.Surprise(0.5).decide(loud).action_B4.argmax().item() == ADD
    assert rules.Surprise(3.0).decide(loud).action_B4.argmax().item() == SKIP
    near = features(similarity_BN=torch.tensor([[0.1, 0.99, 0, 0, 0]]))
    assert rules.Novelty(0.95).decide(near).action_B4.argmax().item() == SKIP
    assert rules.Novelty(0.995).decide(near).action_B4.argmax().item() == ADD
    nothing = near._replace(
        filled_BN=torch.zeros_like(near.filled_BN), similarity_BN=near.similarity_BN * 0
    )
    assert rules.Novelty(-0.5).decide(nothing).action_B4.argmax().item() == ADD
    assert rules.WriteNothing().decide(features(filled=0)).action_B4.argmax().item() == SKIP


def test_retention_learns_through_the_read_what_to_keep() -> None:
    """Room for 4 of 12 items; 2 are marked, and they alone tell the answer."""
    torch.manual_seed(0)
    rows, here = 32, torch.ones(32, 13, dtype=torch.bool)
    memory = Slots(4, 8, hops=1, heads=1, recency=(0.0,))
    policy, out = RetentionPolicy(8, hidden=16), torch.nn.Linear(8, 2)
    weights = [*memory.parameters(), *policy.parameters(), *out.parameters()]
    optimizer = torch.optim.Adam(weights, lr=1e-2)

    def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = torch.Generator().manual_seed(seed)
        x = torch.randn(rows, 13, 8, generator=drawn)
        marked = torch.rand(rows, 12, generator=drawn).argsort(1) < 2
        answer = torch.rand(rows, 1, generator=drawn) < 0.5
        x[:, :12, 0] = torch.where(marked, 2.0, -2.0)
        x[:, :12, 1] = torch.where(marked, torch.where(answer, 2.0, -2.0), x[:, :12, 1])
        return x, answer[:, 0].long()

    def marked_kept(policy) -> float:
        x, _ = batch(1000)
        state, _ = memory.sequence(memory.initial_state(rows), x, here, policy)
        return (state.values_BNW[..., 0] > 0).float().sum(1).mean().item() / 2

    for step in range(150):
        x, answer = batch(step)
        start = memory.initial_state(rows, key_B=torch.arange(rows) + rows * step)
        state, read = memory.sequence(start, x, here, policy)
        loss = torch.nn.functional.cross_entropy(out(read.values_BRW[:, -1]), answer)
        loss = loss + 0.1 * state.writes_B.mean() / 12
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert marked_kept(policy.eval()) > 0.9
    assert marked_kept(rules.EvictOldest()) < 0.5


def test_utility_keeps_what_earns() -> None:
    """Only entries written with a high loss ever earn credit; they should stay."""
    from stillknows.memory.episodic import Candidates
    from stillknows.memory.nec import NEC

    def life(policy) -> float:
        torch.manual_seed(0)
        drawn = torch.Generator().manual_seed(0)
        memory = NEC(64, 2, 0, policy, answer_length=1, story_shape=(1, 1), identity="none")
        for step in range(60):
            useful = (torch.rand(16, generator=drawn) < 0.25).long()
            outcome = torch.stack([2.0 * useful, 1.0 - useful, useful.float()], 1)
            rows = torch.arange(16)
            memory.remember(
                Candidates(
                    torch.randn(16, 2, generator=drawn),
                    torch.zeros(16, 0),
                    useful[:, None] + 1,
                    torch.ones(16, 1, 1),
                    rows + 16 * step,
                    outcome,
                    rows,
                    rows,
                    rows,
                )
            )
            if hasattr(policy, "learn"):
                read = torch.randint(0, len(memory), (32,), generator=drawn)
                right = (memory.columns["answers_NA"][read, 0] == 2).float()
                policy.observe_credit(read, right, torch.ones_like(right))
                policy.learn()
        held = memory.columns["filled_N"]
        return (memory.columns["answers_NA"][held, 0] == 2).float().mean().item()

    torch.manual_seed(0)
    assert life(UtilityPolicy(grace=16)) > 0.7
    assert life(UtilityPolicy(hidden=0, grace=16)) > 0.4
    assert life(rules.EvictOldest()) < 0.4
