"""Policies that learn before a frozen reader: credits, gradients, and that each way teaches."""

import itertools
from typing import Any, ClassVar

import hydra.utils
import numpy as np
import pytest
import torch
from known import Known

from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.agents.teaching.lived import Lived
from stillknows.agents.teaching.policy_learning import (
    Pool,
    Teacher,
    beyond_others,
    credit,
    earned,
    heard,
    pools,
    teach,
)
from stillknows.agents.teaching.trial import Trial, Watcher, stories_of
from stillknows.envs.tasks import make
from stillknows.envs.text import Story
from stillknows.memory.interface import Decision, Features
from stillknows.memory.policies.actor import ActorPolicy
from stillknows.memory.policies.critic import CriticPolicy
from stillknows.memory.policies.diversity import EvictAlike
from stillknows.memory.policies.learned import RetentionPolicy
from stillknows.memory.policies.rules import EvictOldest

WHERE = "stillknows/WherePerson-v0"


def pool_of(items: list[int], time: int, steps: int) -> Pool:
    in_BT = torch.zeros(1, steps, dtype=torch.bool)
    in_BT[0, [*items, time]] = True
    filled = torch.ones(1, len(items), dtype=torch.bool)
    return Pool(torch.tensor([time]), torch.tensor([[*items, time]]), filled, in_BT)


def test_credit_is_the_mean_gain_over_random_sets_and_duplicates_share_it() -> None:
    trial = Known(1, 6, seed=1)
    kinds = (0, 2, 1, 0, 3, 2)
    trial.items_BTD = torch.eye(4)[torch.tensor([kinds])]
    pool = pool_of([0, 2, 3], 4, 6)
    draw = torch.Generator().manual_seed(0)
    found = credit(trial, trial.questions[0], pool, 3, 20_000, draw)[0]
    chance = {0: 0.75, 2: 0.75, 3: 0.75, 4: 0.75, 5: 0.5}  # 5 is told later

    def mean_gain(item: int, kept: bool) -> float:
        total = 0.0
        others = [each for each in chance if each != item]
        for ins in itertools.product((False, True), repeat=len(others)):
            held = {kinds[each] for each, stays in zip(others, ins, strict=True) if stays}
            held |= {kinds[item]} if kept else set()
            p = np.prod(
                [chance[e] if i else 1 - chance[e] for e, i in zip(others, ins, strict=True)]
            )
            total += float(p) * np.exp(-(1.0 * (0 not in held) + 2.0 * (1 not in held)))
        return total

    expected = [0.0] * 6
    for item in (0, 2, 3, 4):
        expected[item] = mean_gain(item, True) - mean_gain(item, False)
    share = 0.25 * (1 - np.exp(-1)) * (0.75 + 0.25 * np.exp(-2))  # leaving one out gives 0
    np.testing.assert_allclose([expected[0], expected[3]], share)
    np.testing.assert_allclose(found.numpy(), expected, atol=0.02)


def test_pools_are_half_the_policys_own_and_half_of_anything_before() -> None:
    trial = Known(400, 8, seed=0)
    pool = pools(EvictOldest(), trial, 3, torch.Generator().manual_seed(0))
    own = others = 0
    for row in range(400):
        time = int(pool.time_B[row])
        held = {int(n) for n, f in zip(pool.item_BM[row], pool.filled_BN[row], strict=False) if f}
        assert len(held) == min(3, time)
        assert all(item < time for item in held)
        assert {int(n) for n in pool.in_BT[row].nonzero()[:, 0]} == held | {time}
        newest = set(range(max(0, time - 3), time))
        own += time > 4 and held == newest
        others += time > 4 and held != newest
    assert abs(own - others) < 60
    features = pool.features(trial)
    assert features.content_BNW is not None
    rows = torch.arange(400)[:, None]
    filled = pool.filled_BN[..., None]
    expected = trial.items_BTD[rows, pool.item_BM[:, :-1]] * filled
    torch.testing.assert_close(features.content_BNW, expected)
    assert ((features.age_BN > 0) == pool.filled_BN).all()


def test_what_was_asked_before_a_decision_earns_it_nothing() -> None:
    trial = Known(300, 8, seed=0)
    (last,) = trial.questions
    early = last._replace(after_B=torch.full((300,), 3))
    trial.questions = [early, last]
    draw = torch.Generator().manual_seed(0)
    pool = pools(EvictOldest(), trial, 3, draw)
    late_B = pool.time_B >= 3
    alone = Known(300, 8, seed=0)
    alone.questions = [early]
    found = earned(alone, pool, 3, 200, draw)
    assert (found[late_B] == 0).all()
    assert (found[~late_B].abs().amax(dim=1) > 0.1).any()
    both = earned(trial, pool, 3, 200, draw)
    assert (both[late_B].abs().amax(dim=1) > 0.1).any()


def test_the_shadow_holds_every_statement_in_its_own_slot() -> None:
    trial = Known(3, 5, seed=0)
    memory, state = heard(trial, trial.questions[0])
    assert memory.slots == 5
    assert torch.equal(state.values_BNW, trial.items_BTD)
    assert state.birth_BN.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_reward_teaches_the_actor_what_to_keep() -> None:
    torch.manual_seed(1)  # about one seed in fourteen stays at 0.52
    policy, exam = ActorPolicy(4), Known(64, 12, seed=999)
    by_rule = exam.run(EvictOldest(), 2).accuracy
    teach(policy, lambda n: Known(32, 12, n), [2], updates=120, learning_rate=1e-2)
    assert not policy.training
    assert not policy.explores
    assert by_rule < 0.6
    assert exam.run(policy, 2).accuracy > 0.9


def test_a_story_told_again_is_measured_against_its_other_tellings() -> None:
    trial = Known(6, 3, seed=0)
    trial.stories = [Story(episode, (), (), ()) for episode in (4, 9, 4, 7, 4, 9)]
    gain_BQ = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 8.0], [0.0, 1.0, 1.0, 0.0, 0.0, 0.0]]).T
    expected = [[1 - 4, 0 - 0.5], [2 - 8, 1], [3 - 3, 1], [4, 0], [5 - 2, -0.5], [8 - 2, -1]]
    np.testing.assert_allclose(beyond_others(trial, gain_BQ), expected)


def test_credit_teaches_the_critic_what_to_keep_and_to_drop_duplicates() -> None:
    torch.manual_seed(0)
    policy, exam = CriticPolicy(4), Known(64, 12, seed=999)
    by_rule = float(exam.run(EvictOldest(), 2).loss_BQ.mean())
    teach(policy, lambda n: Known(64, 12, n), [2], updates=150, learning_rate=1e-2)
    reached = float(exam.run(policy, 2).loss_BQ.mean())
    assert by_rule > 1.2
    assert reached < 0.4


def test_reading_teaches_retention_which_items_are_worth_their_price() -> None:
    torch.manual_seed(0)
    policy = RetentionPolicy(4)
    trials = lambda n: Known(32, 12, n)  # noqa: E731
    teach(policy, trials, [6], updates=100, learning_rate=1e-2, write_cost=1.0)
    worth = policy.network(torch.eye(4))[:, 0]
    assert worth[:2].min() > worth[2:].max() + 1.0


def test_what_does_not_learn_is_not_taught() -> None:
    with pytest.raises(ValueError, match="EvictOldest learns by None"):
        teach(EvictOldest(), lambda n: Known(2, 3, n), [1], updates=1)


def test_contents_are_shown_to_those_who_ask() -> None:
    trial = Known(2, 6, seed=0)
    torch.manual_seed(0)
    watcher = Watcher(EvictAlike())
    watcher.note = None  # it is shown contents, and not what was made of them
    watcher.needs_content = True
    trial.run(watcher, 3)
    last = watcher.features[-1]
    assert last.content_BNW is not None
    born_BN = 5 - last.age_BN.long()
    for row in range(2):
        torch.testing.assert_close(last.content_BNW[row], trial.items_BTD[row, born_BN[row]])


def lived_with(policy: str, *options: str) -> tuple[Any, Any]:
    """Return an agent and its learner after three updates."""
    config = compose_config(["debug=tiny", "arm=none", f"working_policy={policy}", *options])
    torch.manual_seed(0)
    tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    agent = build_agent(config, tasks)
    learner = hydra.utils.instantiate(config.learner, agent, seed=0)
    learner.begin(3)
    envs = make(tasks[0], 8, tasks[0].train)
    for update in range(3):
        live(agent, envs, learner, task=0, seed=update, options={"episode": 8 * update})
        learner.update()
    return agent, learner


@pytest.mark.parametrize("policy", ["actor", "critic"])
def test_a_policy_learns_beside_its_agent_and_moves_nothing_else(policy: str) -> None:
    agent, learner = lived_with(policy, "working_memory.slots=4", "learner.write_cost=0.01")
    other, _ = lived_with(policy, "working_memory.slots=4", "learner.write_cost=0.01")
    for one, two in zip(agent.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    before = {name: p.detach().clone() for name, p in agent.named_parameters()}
    trial = Trial(agent, stories_of(WHERE, {"sentences": 9, "questions": 3}, range(4)))
    agent.train()
    learner.teacher.update(trial, 4)
    moved = {n for n, p in agent.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all(name.startswith("working_policy.") for name in moved)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("policy", ["actor", "critic"])
def test_a_policy_is_taught_where_its_agent_is(policy: str) -> None:
    _, here = lived_with(policy, "working_memory.slots=2")
    agent, there = lived_with(policy, "working_memory.slots=2", "device=cuda")
    assert {p.device.type for p in there.teacher.parameters} == {"cuda"}
    trial = Trial(agent, here.stories)
    assert {question.after_B.device.type for question in trial.questions} == {"cuda"}
    assert there.teacher.optimizer.state


@pytest.mark.parametrize("memory", ["slots", "sparse_slots", "memory_network"])
@pytest.mark.parametrize("arm", ["both", "none"])
def test_a_critic_learns_beside_any_agent_whose_memory_is_of_slots(memory: str, arm: str) -> None:
    options = (f"working_memory={memory}", "working_memory.slots=2", f"arm={arm}")
    _, learner = lived_with("critic", *options)  # the shadow holds more than it has slots
    assert learner.stories
    assert max(len(story.sentences) for story in learner.stories) > 5


@pytest.mark.parametrize(("slots", "learns"), [(4, True), (12, False)])
def test_an_actor_is_not_taught_where_there_is_room_for_all(slots: int, learns: bool) -> None:
    _, learner = lived_with("actor", f"working_memory.slots={slots}")
    assert bool(learner.teacher.optimizer.state) == learns


def test_what_was_lived_becomes_stories() -> None:
    lived = Lived()
    lived.hear([("a .", "b ?"), ("c ?",)], ["x", "y"], [False, True], [4, 5])
    lived.hear([("a .", "b ?", "d .", "e ?")], ["z"], [False], [4])
    first, second = lived.take()
    assert first.sentences == ("a .", "b ?", "d .", "e ?")
    assert [answer and answer.target for answer in first.answers] == [None, "x", None, "z"]
    assert [answer and answer.carried for answer in second.answers] == [True]
    assert lived.take() == []


def test_what_learns_before_slots_wants_slots() -> None:
    with pytest.raises(Exception, match="ActorPolicy learns before a working memory of slots"):
        lived_with("actor", "working_memory=dnc")


@pytest.mark.parametrize("kind", [ActorPolicy, CriticPolicy])
def test_a_policy_explores_only_while_it_is_taught(kind: Any) -> None:
    class Heard(kind):  # type: ignore[misc]
        heard: ClassVar[list[bool]] = []

        def decide(self, features: Features) -> Decision:
            self.heard.append(self.explores)
            return super().decide(features)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    policy = Heard(4)
    Teacher(policy, 4).update(Known(2, 6, seed=0), 2)
    assert Heard.heard
    assert all(Heard.heard)
    assert not policy.explores
    before = len(Heard.heard)
    Known(2, 6, seed=0).run(policy, 2)
    assert not any(Heard.heard[before:])


def test_strengths_are_taught_by_the_probability_of_right_answers() -> None:
    torch.manual_seed(0)
    policy, trial = RetentionPolicy(4).train(), Known(16, 9, seed=2)
    outcome = trial.run(policy, 3)
    right = np.exp(-outcome.loss_BQ.detach().numpy()).mean()
    expected = 0.3 * outcome.writes_B.detach().numpy().mean() - right
    assert Teacher(policy, 4, write_cost=0.3).update(trial, 3) == pytest.approx(expected, abs=1e-6)


def test_a_policy_gradient_hears_a_quarter_of_the_stories_four_times() -> None:
    stories = [Story(number, (), (), ()) for number in range(9)]
    actor, critic = Teacher(ActorPolicy(4), 4), Teacher(CriticPolicy(4), 4)
    assert [story.episode for story in actor.told(stories)] == 4 * [0, 1]
    assert [story.episode for story in actor.told(stories[:2])] == 4 * [0]
    assert critic.told(stories) == stories
