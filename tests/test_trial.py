"""A trial equals living the same stories; nothing of the reader moves."""

import copy
from typing import Any

import hydra.utils
import pytest
import torch

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.teaching.clairvoyant import Clairvoyant, best_keeping, trace_of
from stillknows.agents.teaching.trial import Trial, Watcher, stories_of
from stillknows.envs.recall import ID
from stillknows.memory.policies.learned import RetentionPolicy
from stillknows.memory.policies.rules import (
    EvictIdle,
    EvictOldest,
    EvictUniformly,
    Reservoir,
    WriteNothing,
)

WHERE = "stillknows/WherePerson-v0"
DIALS = {"sentences": 9, "questions": 3, "people": 2, "places": 3, "distractors": 0.3}


def reader_of(*options: str) -> MemoryAgent:
    config = compose_config(
        [
            "arm=none",
            "controller.width=16",
            "stream.tasks.tasks=[where_person]",
            *[f"stream.tasks.{name}={value}" for name, value in DIALS.items()],
            *options,
        ]
    )
    torch.manual_seed(0)
    return build_agent(config, hydra.utils.instantiate(config.stream.tasks, _convert_="all"))


def lived(reader: MemoryAgent, policy: Any, slots: int, trial: Trial) -> list[list[float]]:
    """Return -log p of the answers, by living each story sentence by sentence."""
    agent = copy.deepcopy(reader).eval()
    agent.working_policy, agent.working_memory.slots = policy, slots
    losses: list[list[float]] = []
    with torch.no_grad():
        for story in trial.stories:
            state = agent.initial_state(1, torch.tensor([story.episode]))
            losses.append([])
            for sentence, answer in zip(story.sentences, story.answers, strict=True):
                _, state, thought = agent.step((sentence,), (answer is not None,), state)
                if answer is not None and thought is not None:
                    target = agent.answer_tokens((answer.target,))
                    losses[-1].append(float(agent.surprise(thought, target)[0]))
    return losses


def test_a_reader_that_is_learning_reads_as_in_an_examination() -> None:
    reader = reader_of("working_memory=sparse_slots", "working_memory.nearest=2")
    stories = stories_of(WHERE, DIALS, range(8))
    losses = [
        Trial(reader.train(learns), stories).run(EvictOldest(), 8).loss_BQ
        for learns in (True, False)
    ]
    torch.testing.assert_close(*losses, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("policy", [EvictOldest(), EvictIdle(), Reservoir(), WriteNothing()])
@pytest.mark.parametrize("slots", [2, 12])
def test_a_trial_equals_a_life_of_the_same_stories(policy: Any, slots: int) -> None:
    reader = reader_of()
    trial = Trial(reader, stories_of(WHERE, DIALS, range(6), first=3))
    outcome = trial.run(policy, slots)
    expected = torch.tensor(lived(reader, policy, slots, trial))
    torch.testing.assert_close(outcome.loss_BQ.detach(), expected, rtol=1e-4, atol=1e-5)


def test_a_policy_learns_and_the_reader_does_not() -> None:
    reader = reader_of()
    before = copy.deepcopy(reader.state_dict())
    torch.manual_seed(0)
    policy = RetentionPolicy(16)
    trial = Trial(reader, stories_of(WHERE, DIALS, range(4)))
    outcome = trial.run(policy, 3)
    outcome.loss_BQ.mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())
    assert all(p.grad is None and p.requires_grad for p in reader.controller.parameters())
    assert reader.training
    for name, value in reader.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_story_told_again_meets_other_chances() -> None:
    stories = stories_of(WHERE, DIALS, range(2), first=3)
    trial = Trial(reader_of(), 30 * stories)
    assert len(set(trial.keys().tolist())) == 60
    assert trial.keys()[:2].tolist() == [3, 4]
    watcher = Watcher(EvictUniformly())
    trial.run(watcher, 2)
    left_B = torch.stack([decision.victim_BN for decision in watcher.decisions[2:]]).argmax(dim=2)
    assert len(left_B[:, ::2].unique(dim=1).T) > 1
    again = Trial(reader_of(), stories).run(EvictUniformly(), 2)
    torch.testing.assert_close(again.loss_BQ, trial.run(EvictUniformly(), 2).loss_BQ[:2])


def test_stories_of_different_lengths_are_told_side_by_side() -> None:
    reader = reader_of("controller.longest=64")
    short = stories_of(WHERE, {**DIALS, "sentences": 3, "questions": 1}, range(2))
    long = stories_of(WHERE, DIALS, range(2), first=2)
    both = Trial(reader, [*short, *long]).run(EvictOldest(), 4).loss_BQ
    alone = Trial(reader, short).run(EvictOldest(), 4).loss_BQ
    torch.testing.assert_close(both[:2, :1], alone)
    assert both[:2, 1:].isnan().all()
    torch.testing.assert_close(both[2:], Trial(reader, long).run(EvictOldest(), 4).loss_BQ)


def test_what_is_planned_is_what_is_kept() -> None:
    stories = stories_of(WHERE, DIALS, range(8))
    trial = Trial(reader_of(), stories)
    plans = [best_keeping(trace_of(story), 1) for story in stories]
    held = []
    memory, policy = trial.memory(1), Clairvoyant(plans)
    state = memory.initial_state(8)
    before = torch.zeros(8, dtype=torch.int64)
    for question in trial.questions:
        state = memory.write(state, *trial.between(before, question.after_B), policy)
        held.append(state.birth_BN[:, 0])
        before = question.after_B
    for row, story in enumerate(stories):
        needs = trace_of(story).needs
        met = sum(set(need.items) <= {int(held[n][row])} for n, need in enumerate(needs))
        assert met == plans[row].met


def test_what_tells_no_stories_has_no_trial() -> None:
    with pytest.raises(ValueError, match="tells no stories"):
        stories_of("CartPole-v1", {}, range(2))
    with pytest.raises(ValueError, match="working_memory=slots"):
        Trial(reader_of("working_memory=dnc"), stories_of(ID, {"distance": 2}, range(2)))
