"""The network of learned policies: by hand, and the same from what is noted of contents."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stillknows.memory.interface import ADD, SKIP, Decision, Features, Policy
from stillknows.memory.policies.acting import Desk
from stillknows.memory.policies.actor import ActorPolicy
from stillknows.memory.policies.critic import CriticPolicy
from stillknows.memory.policies.learned import RetentionPolicy
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.policies.scorer import Scorer
from stillknows.memory.slots import Slots, SlotsState

WIDTH = 6


class Looking:
    """A policy that looks at each content itself, since nothing is noted for it."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def __getattr__(self, name: str) -> Any:
        if name in ("policy", "note"):
            raise AttributeError(name)
        return getattr(self.policy, name)

    def decide(self, features: Features) -> Decision:
        return self.policy.decide(features)  # type: ignore[no-any-return]


class Witness:
    """A policy with notes that keeps what it was asked from, with the contents beside it."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.seen: list[Features] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def note(self, content_BPW: Tensor) -> Any:
        self.content_BPW = content_BPW
        return self.policy.note(content_BPW)

    def decide(self, features: Features) -> Decision:
        assert features.place_BM is not None
        assert features.content_BNW is None
        rows_B1 = torch.arange(len(features.seen_B))[:, None]
        held_BNW = self.content_BPW[rows_B1, features.place_BM[:, :-1]]
        self.seen.append(features._replace(content_BNW=held_BNW * features.filled_BN[..., None]))
        return self.policy.decide(features)  # type: ignore[no-any-return]


def random(make: Callable[[], Any], seed: int) -> Any:
    """Return a policy all of whose weights are somewhere else than at first."""
    torch.manual_seed(seed)
    module = make()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def lived(policy: Policy, seed: int, slots: int, rows: int = 3) -> SlotsState:
    """Return a memory after two stretches of items, some of them missing, with reads between."""
    draw = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    memory = Slots(slots, WIDTH, hops=1, heads=2, recency=(1.0, 0.0))
    state = memory.initial_state(rows, key_B=torch.arange(rows))
    for steps in (5, 7):
        items = torch.randn(rows, steps, WIDTH, generator=draw)
        state = memory.write(state, items, torch.rand(rows, steps, generator=draw) < 0.8, policy)
        state, _ = memory.read(state, items[:, 0])
    return state


def normal(norm: torch.nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    spread = ((x - x.mean()) ** 2).mean()
    scaled = (x - x.mean()) / math.sqrt(spread + norm.eps)
    return scaled * norm.weight.detach().double().numpy() + norm.bias.detach().double().numpy()


def linear(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    return layer.weight.detach().double().numpy() @ x + layer.bias.detach().double().numpy()


def by_hand(scorer: Any, features: Features, row: int) -> dict[int, np.ndarray]:
    """Return the numbers of what one row holds, and of its candidate, one after the other."""
    assert features.content_BNW is not None
    filled = [n for n, there in enumerate(features.filled_BN[row].tolist()) if there]
    new, full = features.filled_BN.shape[1], len(filled) / features.filled_BN.shape[1]
    vector = {n: features.content_BNW[row, n].double().numpy() for n in filled}
    vector[new] = features.candidate_BW[row].double().numpy()
    age = {n: float(features.age_BN[row, n]) for n in filled} | {new: 0.0}
    later = {n: [m for m in vector if age[m] < age[n]] for n in vector}
    unit = {n: v / np.linalg.norm(v) for n, v in vector.items()}
    alike = {n: max([0.0, *(unit[n] @ unit[m] for m in later[n])]) for n in vector}
    x = {
        n: linear(scorer.content, vector[n])
        + linear(scorer.when, np.array([math.log1p(age[n]), n == new, full, alike[n]]))
        for n in vector
    }
    parts = {n: np.split(linear(scorer.attend, normal(scorer.norm, x[n])), 3) for n in vector}
    told = {}
    for n in vector:
        met = [n, *later[n]]
        logits = np.array([parts[n][0] @ parts[m][1] for m in met]) / math.sqrt(len(x[n]))
        weights = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        read = sum(weight * parts[m][2] for weight, m in zip(weights, met, strict=True))
        hidden = linear(
            scorer.network[1], normal(scorer.network[0], x[n] + linear(scorer.out, read))
        )
        hidden = np.array([h * 0.5 * (1 + math.erf(h / math.sqrt(2))) for h in hidden])
        told[n] = linear(scorer.network[3], hidden)
        told[n] = told[n] + alike[n] * scorer.alike.detach().double().numpy()
    return told


@settings(max_examples=12)
@given(st.integers(0, 2**30), st.integers(1, 5), st.booleans())
def test_scores_are_what_they_are_by_hand_with_and_without_notes(
    seed: int, slots: int, merges: bool
) -> None:
    actions = ("update", "merge") if merges else ()
    actor = random(lambda: ActorPolicy(WIDTH, hidden=8, actions=actions, saves=True), seed)
    witness = Witness(actor)
    actor.explores = True  # all six numbers are told
    lived(witness, seed, slots)
    assert len(witness.seen) == 12
    for features in witness.seen[::3]:
        noted_BMO = actor.scorer(features)
        looked_BMO = actor.scorer(features._replace(noted=None))
        for row in range(len(noted_BMO)):
            for place, wanted in by_hand(actor.scorer, features, row).items():
                for found_BMO in (noted_BMO, looked_BMO):
                    found = found_BMO[row, place].detach().numpy()
                    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


POLICIES = {
    "actor": lambda: ActorPolicy(WIDTH),
    "saving": lambda: ActorPolicy(WIDTH, saves=True),
    "merging": lambda: ActorPolicy(WIDTH, actions=("update", "merge")),
    "critic": lambda: CriticPolicy(WIDTH),
    "choosy": lambda: CriticPolicy(WIDTH, threshold=0.0),
    "retention": lambda: RetentionPolicy(WIDTH),
}


@pytest.mark.parametrize("explores", [False, True])
@pytest.mark.parametrize("name", POLICIES)
def test_policies_act_alike_with_and_without_notes(name: str, explores: bool) -> None:
    for seed in range(6):
        policy = random(POLICIES[name], seed)
        policy.explores = explores
        policy.train(explores)
        noted, looked = (lived(each, seed, 4, rows=16) for each in (policy, Looking(policy)))
        for one, other in zip(noted, looked, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["actor", "merging"])
def test_the_gradient_of_log_probabilities_is_the_same_with_and_without_notes(name: str) -> None:
    grads = []
    for noted in (True, False):
        policy = random(POLICIES[name], seed=5)
        policy.explores = True
        kept: list[Decision] = []

        class Keeper(Looking):
            def decide(self, features: Features, kept: list[Decision] = kept) -> Decision:
                kept.append(super().decide(features))
                return kept[-1]

        keeper = Keeper(policy)
        if noted:
            keeper.note = policy.note
        lived(keeper, seed=5, slots=3, rows=8)
        torch.stack([decision.log_prob_B for decision in kept]).sum().backward()
        grads.append({n: p.grad for n, p in policy.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() == dict(policy.named_parameters()).keys()
    for parameter, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][parameter], rtol=1e-4, atol=1e-4)
        assert "attend.bias" in parameter or bool(grad.abs().max() > 0), parameter


def test_the_gradient_of_strengths_is_the_same_with_and_without_notes() -> None:
    grads = []
    for wrap in (lambda policy: policy, Looking):
        policy = random(POLICIES["retention"], seed=2)
        state = lived(wrap(policy), seed=2, slots=3)
        (state.strength_BN.square().sum() + state.writes_B.sum()).backward()
        grads.append([p.grad for p in policy.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)
        assert one is not None
        assert bool(one.abs().max() > 0)


def test_nothing_is_gone_back_through_where_nothing_is_sampled() -> None:
    witness = Witness(ActorPolicy(WIDTH))
    lived(witness, seed=0, slots=3)
    noted = witness.seen[0].noted
    assert isinstance(noted, Desk)
    assert not noted.scores(witness.seen[0]).requires_grad


def test_without_contents_it_says_so() -> None:
    features = Features(*[torch.zeros(1, 2)] * 9)
    with pytest.raises(ValueError, match="looks at contents"):
        Scorer(WIDTH)(features)


class Boundless(EvictOldest):
    """Is sure beyond all measure who leaves, once somebody has to."""

    def decide(self, features: Features) -> Decision:
        decision = super().decide(features)
        if not features.filled_BN.all():
            return decision
        return decision._replace(victim_BN=torch.full_like(decision.victim_BN, math.inf))


def test_an_infinite_decision_is_refused() -> None:
    with pytest.raises(ValueError, match="Boundless holds a number that is NaN, infinite"):
        lived(Boundless(), seed=0, slots=2)


def test_the_likeliest_is_to_add_where_that_has_the_higher_number() -> None:
    for more, less, full in ((ADD, SKIP, 0), (SKIP, ADD, 1)):
        actor = ActorPolicy(WIDTH, saves=True)
        actor.scorer.network[3].weight.data.zero_()
        actor.scorer.network[3].bias.data.zero_()[more] = 1
        state = lived(actor, seed=0, slots=2)
        assert bool((state.birth_BN < 0).all()) == bool(full), (more, less)
