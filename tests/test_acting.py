"""Decisions in native code and in arrays are those in tensors: numbers, and who stays."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stillknows.memory.interface import Decision, Features, decided
from stillknows.memory.policies import learned, offline, scorer
from stillknows.memory.policies.acting import ArrayDesk, Desk
from stillknows.memory.policies.actor import ActorPolicy
from stillknows.memory.policies.critic import CriticPolicy
from stillknows.memory.policies.learned import RetentionPolicy
from stillknows.memory.policies.offline import OfflinePolicy
from stillknows.memory.policies.scorer import Noted
from stillknows.memory.slots import Slots, SlotsState

pytestmark = pytest.mark.usefixtures("either")

WIDTH = 6
SCORING = {
    "actor": lambda: ActorPolicy(WIDTH, hidden=8),
    "saving": lambda: ActorPolicy(WIDTH, hidden=8, saves=True),
    "merging": lambda: ActorPolicy(WIDTH, hidden=8, actions=("update", "merge")),
    "critic": lambda: CriticPolicy(WIDTH, hidden=8),
    "choosy": lambda: CriticPolicy(WIDTH, hidden=8, threshold=0.0),
}
POLICIES = {**SCORING, "retention": lambda: RetentionPolicy(WIDTH), "offline": OfflinePolicy}


@contextmanager
def in_tensors() -> Iterator[None]:
    """Work everything out in tensors for as long as this lasts."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((scorer, "acts"), (learned, "acts"), (offline, "on_cpu")):
            patch.setattr(module, name, lambda _: False)
        yield


class Twin:
    """Decides in arrays and in tensors, and keeps both."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.both: list[tuple[Features, Decision, Features, Decision]] = []
        if hasattr(policy, "note"):
            self.note = self._note

    def __getattr__(self, name: str) -> Any:
        if name in ("policy", "note"):
            raise AttributeError(name)
        return getattr(self.policy, name)

    def _note(self, content_BPW: Tensor) -> tuple[Any, Any]:
        with in_tensors():
            noted = self.policy.note(content_BPW)
        return self.policy.note(content_BPW), noted

    def decide(self, features: Features) -> Decision:
        desk, noted = features.noted or (None, None)
        here, there = features._replace(noted=desk), features._replace(noted=noted)
        decision = self.policy.decide(here)
        with in_tensors():
            self.both.append((here, decision, there, self.policy.decide(there)))
        return decision


def random(make: Callable[[], Any], seed: int, scale: float = 0.3) -> Any:
    """Return a policy all of whose weights are somewhere else than at first, in examination."""
    torch.manual_seed(seed)
    module = make()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module.eval()


@torch.no_grad()
def lived(policy: Any, seed: int, slots: int, rows: int = 4) -> SlotsState:
    """Return a memory after stretches of items, some missing and some alike, with reads between."""
    draw = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    memory = Slots(slots, WIDTH, hops=1, heads=2, recency=(1.0, 0.0))
    state = memory.initial_state(rows, key_B=torch.arange(rows))
    for steps in (3, slots, 7):
        items = torch.randn(rows, steps, WIDTH, generator=draw)
        items[:, -1] = items[:, 0]  # said again
        state = memory.write(state, items, torch.rand(rows, steps, generator=draw) < 0.8, policy)
        state, _ = memory.read(state, items[:, 0])
    return state


def same(one: Decision, other: Decision) -> None:
    for mine, its in zip(one, other, strict=True):
        assert mine.dtype == its.dtype
        torch.testing.assert_close(mine, its, rtol=5e-6, atol=5e-6, equal_nan=True)


@settings(max_examples=24)
@given(st.sampled_from(sorted(POLICIES)), st.integers(0, 2**30), st.integers(1, 18))
def test_decisions_in_arrays_are_those_in_tensors(name: str, seed: int, slots: int) -> None:
    twin = Twin(random(POLICIES[name], seed))
    lived(twin, seed, slots)
    assert twin.both
    for here, mine, there, its in twin.both:
        same(mine, its)
        if name in SCORING:
            assert isinstance(here.noted, Desk)
            assert isinstance(there.noted, Noted)
            numbers, wanted = twin.policy.scorer(here), twin.policy.scorer(there)
            told_BM = torch.nn.functional.pad(here.filled_BN, (0, 1), value=True)
            torch.testing.assert_close(numbers[told_BM], wanted[told_BM], rtol=5e-6, atol=5e-6)


def test_one_policy_serves_memories_of_any_size_in_turn() -> None:
    twin = Twin(random(SCORING["actor"], 3))
    for slots, rows in ((14, 4), (14, 2), (5, 4), (14, 4)):
        lived(twin, slots + rows, slots, rows)
    for _, mine, _, its in twin.both:
        same(mine, its)
    assert len({mine.slot_BN.shape for _, mine, _, _ in twin.both}) == 3


@pytest.mark.parametrize("name", SCORING)
def test_large_logits_are_weighed_as_in_tensors(name: str) -> None:
    twin = Twin(random(SCORING[name], seed=3, scale=4.0))
    lived(twin, seed=3, slots=14)
    for here, mine, there, its in twin.both:
        assert not isinstance(here.noted, ArrayDesk) or here.noted._products.steep
        same(mine, its)
        numbers, wanted = twin.policy.scorer(here), twin.policy.scorer(there)
        full_B = here.filled_BN.all(1)
        torch.testing.assert_close(numbers[full_B], wanted[full_B], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("slots", [3, 16])
def test_what_was_laid_out_before_leaves_no_trace(slots: int) -> None:
    policy = random(SCORING["critic"], seed=1)
    twins = [Twin(policy) for _ in range(2)]
    for number, twin in enumerate(twins):
        lived(twin, seed=number, slots=slots)
    asked = [here for twin in twins for here, *_ in twin.both]
    alone = []
    for features in asked:
        if isinstance(features.noted, ArrayDesk):
            features.noted._products.rooms.clear()
        alone.append(features.noted.scores(features))
    for number in np.random.default_rng(0).permutation(2 * len(asked)) % len(asked):
        found = asked[number].noted.scores(asked[number])  # by turns, and back in time
        np.testing.assert_array_equal(found, alone[number])


def test_weights_are_looked_at_anew_however_they_changed() -> None:
    policy = random(SCORING["actor"], seed=0)

    def data() -> None:
        policy.scorer.attend.weight.data.mul_(2)  # past the counter of versions

    def learns() -> None:
        with torch.no_grad():
            policy.scorer.alike.add_(1)

    def loads() -> None:
        policy.load_state_dict(random(SCORING["actor"], seed=9).state_dict())

    def replaced() -> None:
        policy.scorer.content.bias = torch.nn.Parameter(torch.randn(8))

    def others() -> None:
        policy.scorer.when.weight.data = torch.randn(8, 4)

    for change in (data, learns, loads, replaced, others):
        lived(before := Twin(copy.deepcopy(policy)), seed=4, slots=5)
        change()
        lived(after := Twin(policy), seed=4, slots=5)
        here, _, there, _ = after.both[-1]
        torch.testing.assert_close(policy.scorer(here), policy.scorer(there))
        with torch.no_grad():
            assert not torch.equal(policy.scorer(here), policy.scorer(before.both[-1][0]))
        kept = here.noted._products
        lived(again := Twin(policy), seed=5, slots=5)
        assert again.both[-1][0].noted._products is kept  # not made again for nothing


def test_a_copy_of_a_policy_looks_at_weights_of_its_own() -> None:
    policy = random(SCORING["critic"], seed=0)
    lived(Twin(policy), seed=1, slots=4)
    twin = Twin(copy.deepcopy(policy))
    with torch.no_grad():
        twin.policy.scorer.content.weight.add_(1)
    lived(twin, seed=1, slots=4)
    here, _, there, _ = twin.both[-1]
    torch.testing.assert_close(twin.policy.scorer(here), twin.policy.scorer(there))


@torch.no_grad()
@pytest.mark.parametrize("name", POLICIES)
def test_what_is_no_number_is_met_as_in_tensors(name: str) -> None:
    policy = random(POLICIES[name], seed=2)
    memory = Slots(3, WIDTH, hops=1, heads=2, recency=(1.0, 0.0))
    items = torch.randn(2, 6, WIDTH)
    state = memory.write(memory.initial_state(2), items[:, :4], torch.ones(2, 4) > 0, policy)
    items[1, 5] = torch.nan
    found = []
    for way in (in_tensors, lambda: torch.no_grad()):
        with way():
            try:
                found.append(memory.write(state, items[:, 5:], torch.ones(2, 1) > 0, policy))
            except ValueError as error:
                found.append(str(error))
    refused = name in ("retention", "merging")  # what is told as it is, a strength, a probability
    assert refused == isinstance(found[1], str)
    if refused:
        assert "holds a number that is NaN, infinite or below 0, at candidate 4" in found[1]
        assert found[0] == found[1]
        return
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


STRENGTHS = st.sampled_from([0.0, 1e-9, 0.25, 0.5, 0.5, 0.75, 1.0 - 1e-8, 1.0])


@torch.no_grad()
@given(st.lists(STRENGTHS, min_size=2, max_size=6), st.integers(0, 6), st.sampled_from([0.0, 0.5]))
def test_among_equal_strengths_the_candidate_stays(
    strengths: list[float], filled: int, threshold: float
) -> None:
    policy = RetentionPolicy(WIDTH, threshold=threshold).eval()
    slots = len(strengths) - 1
    zeros_BN, filled_BN = torch.zeros(1, slots), torch.arange(slots)[None] < filled
    features = Features(
        *(torch.zeros(1, WIDTH), *[zeros_BN] * 4, filled_BN, torch.zeros(1, dtype=torch.int64)),
        *(torch.zeros(1, slots + 1), torch.full((1,), -1)),
        strength_BN=torch.tensor([strengths[:-1]]) * filled_BN,
        noted=torch.tensor([strengths[-1:]]),
        place_BM=torch.zeros(1, slots + 1, dtype=torch.int64),
    )
    mine = decided(policy, features)
    with in_tensors():
        same(mine, decided(policy, features))
    lowest = min(strengths[: min(filled, slots)], default=0.0)
    if filled >= slots and lowest == strengths[-1] > threshold:
        assert mine.victim_BN[0].argmax() == strengths.index(lowest)


def test_with_a_gradient_and_while_it_samples_it_stays_in_tensors() -> None:
    policy = random(SCORING["merging"], seed=0)
    contents = torch.randn(2, 5, WIDTH)
    assert isinstance(policy.note(contents), Desk)
    policy.explores = True
    noted = policy.note(contents)
    assert isinstance(noted, Noted)
    assert noted.embedded_XH.requires_grad
