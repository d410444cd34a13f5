"""Scores of policies that learn before a frozen reader, and how they decide by them."""

from typing import Any

import pytest
import torch

from stillknows.memory.interface import ADD, MERGE, SKIP, UPDATE, Features
from stillknows.memory.policies.actor import ActorPolicy
from stillknows.memory.policies.critic import CriticPolicy
from stillknows.memory.policies.diversity import EvictAlike
from stillknows.memory.policies.scorer import Scorer


def test_an_actor_begins_as_the_rule_by_which_of_two_alike_the_older_leaves() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        actor = ActorPolicy(5, alike=1e4).eval()
        features = features_of([True] * 6, seed)
        features = features._replace(
            content_BNW=features.content_BNW.abs(),  # type: ignore[union-attr]
            candidate_BW=features.candidate_BW.abs(),
        )
        expected = EvictAlike().decide(features)
        for mine, its in zip(actor.decide(features)[:3], expected[:3], strict=True):
            assert torch.equal(mine.detach(), its)


def features_of(filled: list[bool], seed: int = 0, width: int = 5) -> Features:
    draw, slots = torch.Generator().manual_seed(seed), len(filled)
    filled_BN = torch.tensor([filled])
    age_BN = torch.arange(slots, 0, -1)[None].float() * filled_BN
    zeros = torch.zeros(1, slots)
    return Features(
        candidate_BW=torch.randn(1, width, generator=draw),
        similarity_BN=zeros,
        usage_BN=zeros,
        age_BN=age_BN,
        idle_BN=age_BN,
        filled_BN=filled_BN,
        seen_B=torch.tensor([slots]),
        noise_BM=torch.rand(1, slots + 1, generator=draw),
        known_B=torch.tensor([-1]),
        content_BNW=torch.randn(1, slots, width, generator=draw) * filled_BN[..., None],
    )


def test_scores_do_not_mind_where_things_stand_nor_what_is_not_there() -> None:
    torch.manual_seed(0)
    scorer = Scorer(5)
    features = features_of([True, True, False, True])
    scores = scorer(features)
    order = torch.tensor([3, 0, 2, 1])
    moved = features._replace(
        content_BNW=features.content_BNW[:, order],  # type: ignore[index]
        age_BN=features.age_BN[:, order],
        filled_BN=features.filled_BN[:, order],
    )
    again = scorer(moved)
    torch.testing.assert_close(again[:, :-1], scores[:, order])
    torch.testing.assert_close(again[:, -1], scores[:, -1])
    other = features._replace(content_BNW=features.content_BNW.clone())  # type: ignore[union-attr]
    other.content_BNW[:, 2] = 9.0  # type: ignore[index]
    torch.testing.assert_close(scorer(other)[:, [0, 1, 3, 4]], scores[:, [0, 1, 3, 4]])


def test_what_came_before_does_not_change_the_score_of_what_came_after() -> None:
    torch.manual_seed(0)
    scorer, features = Scorer(5), features_of([True] * 3)
    other = features._replace(content_BNW=features.content_BNW.clone())  # type: ignore[union-attr]
    other.content_BNW[:, 0] += 1.0  # type: ignore[index]
    before, after = scorer(features), scorer(other)
    torch.testing.assert_close(after[:, 1:], before[:, 1:])
    later = features._replace(candidate_BW=features.candidate_BW + 1.0)
    assert not torch.allclose(scorer(later)[:, 0], before[:, 0])


@pytest.mark.parametrize("full", [True, False])
def test_the_actor_samples_what_it_says_and_says_how_likely_that_is(full: bool) -> None:
    torch.manual_seed(0)
    actor = ActorPolicy(5, actions=("update", "merge"))
    torch.nn.init.normal_(actor.scorer.network[-1].weight, std=1.0)  # type: ignore[arg-type]
    actor.explores = True
    features = features_of([True, True, full])
    count, draws = 40_000, torch.Generator().manual_seed(3)
    wide = Features(*(None if x is None else x.expand(count, *x.shape[1:]) for x in features))
    wide = wide._replace(noise_BM=torch.rand(count, 4, generator=draws))
    with torch.no_grad():
        decision = actor.decide(wide)
    names = list(
        zip(
            decision.action_B4.argmax(1).tolist(),
            decision.slot_BN.argmax(1).tolist(),
            decision.victim_BN.argmax(1).tolist(),
            strict=True,
        )
    )
    total = 0.0
    for name in set(names):
        rows = [row for row, each in enumerate(names) if each == name]
        said = decision.log_prob_B[rows].exp()
        assert said.max() - said.min() < 1e-5
        assert abs(len(rows) / count - float(said[0])) < 0.01
        total += float(said[0])
    assert total == pytest.approx(1.0, abs=1e-3)
    adds = decision.action_B4[:, ADD] == 1
    assert (decision.victim_BN[adds].sum(1) == (1.0 if full else 0.0)).all()
    assert (decision.slot_BN[adds].sum(1) == (0.0 if full else 1.0)).all()
    named = decision.action_B4[:, [UPDATE, MERGE]].sum(1) == 1
    assert (decision.slot_BN[named][:, : 3 if full else 2].sum(1) == 1).all()
    assert (decision.slot_BN[decision.action_B4[:, SKIP] == 1] == 0).all()


def test_an_actor_in_an_empty_memory_names_nothing() -> None:
    torch.manual_seed(0)
    actor = ActorPolicy(5, actions=("update", "merge"))
    actor.explores = True
    for seed in range(50):
        decision = actor.decide(features_of([False, False], seed))
        assert decision.action_B4[0, [UPDATE, MERGE]].sum() == 0
        assert decision.victim_BN.sum() == 0
        assert decision.log_prob_B.isfinite().all()


def test_an_actor_does_what_it_may_at_the_highest_noise() -> None:
    torch.manual_seed(0)
    actor = ActorPolicy(5)
    torch.nn.init.normal_(actor.scorer.network[-1].weight)  # type: ignore[arg-type]
    actor.explores = True
    rows = [features_of([False, False], seed) for seed in range(2000)]
    parts: Any = (None if x[0] is None else torch.cat(x) for x in zip(*rows, strict=True))
    features = Features(*parts)
    highest_BM = torch.full_like(features.noise_BM, 1 - 2**-24)  # sums of chances may be below it
    decision = actor.decide(features._replace(noise_BM=highest_BM))
    assert decision.action_B4[:, [UPDATE, MERGE]].sum() == 0
    assert decision.log_prob_B.min() > -100


def test_a_critic_lets_the_least_leave() -> None:
    torch.manual_seed(0)
    critic = CriticPolicy(5).eval()
    for seed in range(30):
        features = features_of([True] * 3, seed)
        worth = critic.worth(features)[0]
        decision = critic.decide(features)
        least = int(worth[:-1].argmin())
        if worth[-1] >= worth[least]:
            assert decision.action_B4[0, ADD] == 1
            assert int(decision.victim_BN[0].argmax()) == least
        else:
            assert decision.action_B4[0, SKIP] == 1
            assert decision.victim_BN.sum() == 0


@pytest.mark.parametrize("saves", [False, True])
def test_an_actor_writes_while_there_is_room_unless_it_saves(saves: bool) -> None:
    torch.manual_seed(0)
    actor = ActorPolicy(5, saves=saves)
    with torch.no_grad():
        actor.scorer.network[-1].bias[SKIP] = 20.0  # type: ignore[index]
    roomy, crowded = features_of([True, False]), features_of([True, True])
    assert actor.decide(roomy).action_B4.argmax() == (SKIP if saves else ADD)
    assert actor.decide(crowded).action_B4.argmax() == SKIP
    actor.explores = True
    assert actor.decide(roomy).action_B4.argmax() == SKIP


@pytest.mark.parametrize("filled", [[True, True, True], [True, False, False]])
@pytest.mark.parametrize("saves", [False, True])
def test_the_likeliest_is_the_same_by_either_way(filled: list[bool], saves: bool) -> None:
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        short = ActorPolicy(5, saves=saves)
        torch.nn.init.normal_(short.scorer.network[-1].bias, std=2.0)  # type: ignore[arg-type]
        long = ActorPolicy(5, actions=("merge",), saves=saves)
        long.load_state_dict(short.state_dict())
        with torch.no_grad():
            for actor in (short, long):
                actor.scorer.network[-1].bias[MERGE] = -50.0  # type: ignore[index]
        features = features_of(filled, seed)
        mine, its = short.decide(features), long.decide(features)
        for one, other in zip(mine[:3], its[:3], strict=True):
            assert torch.equal(one, other)
        seen.add(int(mine.action_B4.argmax()))
    assert seen == ({ADD} if not all(filled) and not saves else {ADD, SKIP})
