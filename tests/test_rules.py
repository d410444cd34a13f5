"""Rules: each against a plain loop, and by the statistics of what it keeps."""

import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillknows.memory.interface import ADD, SKIP, UPDATE, Decision, Features, Policy
from stillknows.memory.noise import uniform
from stillknows.memory.policies import rules

N = 5
EVERY: list[Callable[[], rules.WriteEverything]] = [
    rules.EvictOldest,
    rules.EvictIdle,
    rules.EvictRare,
    rules.EvictRead,
    rules.EvictUniformly,
    rules.Reservoir,
    rules.Surprise,
    rules.Novelty,
    rules.WriteNothing,
]


def draw(seed: int, rows: int = 6) -> Features:
    """Return features with few different numbers, so that slots are often equal."""
    source = torch.Generator().manual_seed(seed)

    def whole(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, shape, generator=source)

    filled_BN = torch.arange(N) < whole(N + 1, rows, 1).clamp(min=1)
    filled_BN[::2] = True
    known_B = torch.where(whole(3, rows) == 0, whole(N, rows) % filled_BN.sum(1), -1)
    return Features(
        candidate_BW=torch.zeros(rows, 3),
        similarity_BN=whole(101, rows, N) / 100 * filled_BN,
        usage_BN=whole(4, rows, N).float() * filled_BN,
        age_BN=whole(4, rows, N).float() * filled_BN,
        idle_BN=whole(4, rows, N).float() * filled_BN,
        filled_BN=filled_BN,
        seen_B=whole(12, rows),
        noise_BM=uniform(torch.arange(rows) + 1000 * seed, torch.zeros(rows).long(), N + 1),
        known_B=known_B,
        outcome_BF=torch.rand(rows, 3, generator=source) * 0.2,
    )


def expected_accept(rule: rules.WriteEverything, features: Features, row: int) -> bool:
    if isinstance(rule, rules.Reservoir):
        full = all(features.filled_BN[row].tolist())
        chance = N / (int(features.seen_B[row]) + 1)
        return not full or float(features.noise_BM[row, N]) < chance
    if isinstance(rule, rules.Surprise):
        assert features.outcome_BF is not None
        return float(features.outcome_BF[row, 0]) > rule.threshold
    if isinstance(rule, rules.Novelty):
        return max(features.similarity_BN[row].tolist()) <= rule.threshold
    return not isinstance(rule, rules.WriteNothing)


def expected_victim(rule: rules.WriteEverything, features: Features, row: int) -> int:
    if isinstance(rule, rules.EvictUniformly):
        order = features.noise_BM[row, :N].tolist()
    elif isinstance(rule, rules.EvictIdle):
        order = features.idle_BN[row].tolist()
    elif isinstance(rule, rules.EvictRare):
        order = [-use for use in features.usage_BN[row].tolist()]
    elif isinstance(rule, rules.EvictRead):
        order = list(
            zip(features.usage_BN[row].tolist(), features.age_BN[row].tolist(), strict=True)
        )
    else:
        order = features.age_BN[row].tolist()
    return order.index(max(order))  # the lowest of equals


def expected(rule: rules.WriteEverything, features: Features, row: int) -> tuple[int, int, int]:
    """Return the action, the slot and the victim (-1 for none)."""
    known, filled = int(features.known_B[row]), features.filled_BN[row].tolist()
    if rule.refresh and known >= 0:
        return UPDATE, known, -1
    if not expected_accept(rule, features, row):
        return SKIP, -1, -1
    if not all(filled):
        return ADD, filled.index(False), -1
    return ADD, -1, expected_victim(rule, features, row)


def hot(index: int, size: int) -> list[float]:
    return [float(place == index) for place in range(size)]


@pytest.mark.parametrize("make", EVERY)
@given(seed=st.integers(0, 10**6))
def test_a_rule_agrees_with_a_plain_loop(
    make: Callable[[], rules.WriteEverything], seed: int
) -> None:
    rule, features = make(), draw(seed)
    decision = rule.decide(features)
    for row in range(len(features.known_B)):
        action, slot, victim = expected(rule, features, row)
        assert decision.action_B4[row].tolist() == hot(action, 4)
        assert decision.slot_BN[row].tolist() == hot(slot, N)
        assert decision.victim_BN[row].tolist() == hot(victim, N)
        assert decision.log_prob_B[row] == 0


@pytest.mark.parametrize("make", EVERY)
def test_a_row_is_decided_alone(make: Callable[[], rules.WriteEverything]) -> None:
    features, rule = draw(3), make()
    whole = rule.decide(features)
    for row in range(len(features.known_B)):
        alone = rule.decide(Features(*(x if x is None else x[row : row + 1] for x in features)))
        assert all(torch.equal(x, y[row : row + 1]) for x, y in zip(alone, whole, strict=True))


def test_what_is_known_is_added_again_if_nothing_is_refreshed() -> None:
    features = draw(0)._replace(known_B=torch.full((6,), 0))
    assert rules.EvictOldest().decide(features).action_B4.argmax(1).tolist() == [UPDATE] * 6
    again = rules.EvictOldest(refresh=False).decide(features)
    assert again.action_B4.argmax(1).tolist() == [ADD] * 6


def test_only_novelty_asks_for_similarities() -> None:
    assert [make().needs_similarity for make in EVERY] == [make is rules.Novelty for make in EVERY]


def test_nothing_surprises_a_working_memory() -> None:
    with pytest.raises(ValueError, match="give this policy to the episodic memory"):
        rules.Surprise().decide(draw(0)._replace(outcome_BF=None))


class Shelf:
    """N places for whole numbers in each of B rows: the smallest memory a policy can fill."""

    def __init__(self, rows: int) -> None:
        self.held = torch.full((rows, N), -1)
        self.birth = torch.zeros(rows, N)
        self.used = torch.zeros(rows, N)
        self.uses = torch.zeros(rows, N)

    def offer(self, policy: Policy, item: int) -> Decision:
        rows, filled = len(self.held), self.held >= 0
        seen = torch.full((rows,), item)
        decision = policy.decide(
            Features(
                candidate_BW=torch.zeros(rows, 1),
                similarity_BN=torch.zeros(rows, N),
                usage_BN=self.uses,
                age_BN=(item - self.birth) * filled,
                idle_BN=(item - self.used) * filled,
                filled_BN=filled,
                seen_B=seen,
                noise_BM=uniform(torch.arange(rows), seen, N + 1),
                known_B=torch.full((rows,), -1),
            )
        )
        place = (decision.slot_BN + decision.victim_BN).bool()
        self.held = torch.where(place, item, self.held)
        self.birth = torch.where(place, float(item), self.birth)
        self.used = torch.where(place, float(item), self.used)
        self.uses = torch.where(place, 0.0, self.uses)
        return decision

    def read(self, item: int, now: float) -> None:
        here = self.held == item
        self.used = torch.where(here, now, self.used)
        self.uses = self.uses + here.float()


def filled_shelf(policy: Policy, rows: int, items: int) -> Shelf:
    shelf = Shelf(rows)
    for item in range(items):
        shelf.offer(policy, item)
    return shelf


def chi_square(counts: torch.Tensor) -> float:
    expected_count = counts.sum() / len(counts)
    return float(((counts - expected_count) ** 2 / expected_count).sum())


def test_the_oldest_leaves_so_the_last_ones_stay() -> None:
    shelf = filled_shelf(rules.EvictOldest(), rows=2, items=13)
    assert shelf.held.sort(1).values.tolist() == [[8, 9, 10, 11, 12]] * 2


def test_the_idle_leaves_as_in_a_list_kept_by_last_use() -> None:
    shelf, order = Shelf(1), list[int]()
    reads = random.Random(0)
    for item in range(40):
        order = [*order[-(N - 1) :], item]
        shelf.offer(rules.EvictIdle(), item)
        again = reads.choice(order)
        order = [*(x for x in order if x != again), again]
        shelf.read(again, item + 0.5)
        assert sorted(order) == shelf.held[shelf.held >= 0].sort().values.tolist()


def test_the_rarely_used_leaves_and_the_used_stays() -> None:
    shelf = filled_shelf(rules.EvictRare(), rows=1, items=N)
    for used in (0, 1, 3, 4):
        shelf.read(used, N)
    for item in range(N, 20):
        shelf.offer(rules.EvictRare(), item)
    assert shelf.held.tolist() == [[0, 1, 19, 3, 4]]


def test_a_uniform_victim_is_uniform_and_changes_with_time() -> None:
    shelf = filled_shelf(rules.EvictUniformly(), rows=4000, items=N)
    first = shelf.offer(rules.EvictUniformly(), N).victim_BN
    second = shelf.offer(rules.EvictUniformly(), N + 1).victim_BN
    assert chi_square(first.sum(0)) < 18.5  # 4 degrees of freedom, p = 0.001
    assert chi_square((first.T @ second).flatten()) < 51.2  # 24 degrees, p = 0.001


def test_uniform_eviction_forgets_by_halves_of_its_own_length() -> None:
    """After n more adds an item is still there with probability (1 - 1/N)^n."""
    shelf = filled_shelf(rules.EvictUniformly(), rows=4000, items=N + 6)
    stays = (shelf.held == 0).any(1).float().mean().item()
    assert stays == pytest.approx((1 - 1 / N) ** 6, abs=0.03)  # four standard deviations


def test_a_reservoir_keeps_every_item_as_likely_at_every_time() -> None:
    shelf = Shelf(4000)
    for item in range(20):
        shelf.offer(rules.Reservoir(), item)
        if item in (7, 19):
            counts = torch.bincount(shelf.held.flatten(), minlength=item + 1).float()
            # drawn without replacement: the variance is smaller than a multinomial's
            shrink = (item + 1 - N) / item
            assert chi_square(counts) / shrink < {7: 24.3, 19: 43.8}[item]  # p = 0.001
            assert chi_square(counts) / shrink > {7: 0.6, 19: 5.4}[item]  # p = 0.999


def test_who_writes_nothing_holds_nothing() -> None:
    assert (filled_shelf(rules.WriteNothing(), rows=3, items=9).held == -1).all()
