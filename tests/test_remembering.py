"""Remembering without learning: what is kept, and what neighbours are credited with."""

import copy
from typing import Any

import hydra.utils
import numpy as np
import pytest
import torch
from torch import Tensor

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.agents.remembering import Marked, Remembering, candidates
from stillknows.agents.thought import Thought, identity
from stillknows.envs.tasks import make
from stillknows.memory.policies.rules import EvictOldest


class Booking(EvictOldest):
    """Keeps what it is credited with."""

    def __init__(self) -> None:
        super().__init__()
        self.booked: list[tuple[Tensor, Tensor, Tensor]] = []
        self.learned = 0

    def observe_credit(self, slots: Tensor, credit: Tensor, weight: Tensor) -> None:
        self.booked.append((slots, credit, weight))

    def learn(self) -> None:
        self.learned += 1


class Recomputed(Remembering):
    """Remembers, and computes again what neighbours should be credited with."""

    def __init__(self, agent: MemoryAgent) -> None:
        super().__init__(agent)
        self.expected: list[tuple[Any, ...]] = []
        self.asked: list[tuple[int, str]] = []

    def mark(self, thought: Thought, marked: Marked) -> None:
        targets = self.agent.answer_tokens(marked.targets)
        losses = [part.detach().numpy() for part in self.agent.surprise(thought, targets)]
        gain_B = np.exp(-losses[0]) - np.exp(-losses[1])
        if thought.recall is not None:
            there = thought.recall.present_BK.numpy()
            weights = thought.recall.weights_BK.detach().numpy()
            slots = thought.recall.slots_BK.numpy()[there]
            self.expected.append((slots, (weights * gain_B[:, None])[there], weights[there]))
        names = [identity(story[-1]) for story in thought.stories]
        self.asked += list(zip(names, marked.targets, strict=True))
        super().mark(thought, marked)


def test_an_agent_whose_weights_stay_as_they_are_remembers() -> None:
    config = compose_config(["debug=tiny", "arm=both", "stream.tasks.carry=0.5"])
    torch.manual_seed(0)
    tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    agent = build_agent(config, tasks)
    store = agent.episodic_memory
    assert store is not None
    assert agent.trust is not None
    torch.nn.init.constant_(agent.trust.bias, 1.0)
    store.policy = Booking()
    before = copy.deepcopy(agent.state_dict())
    listener = Recomputed(agent)
    for first in range(0, 24, 8):
        live(agent, make(tasks[0], 8, tasks[0].train), listener, task=0, seed=first)
        listener.learn()
    assert all(torch.equal(part, before[name]) for name, part in agent.state_dict().items())
    assert store.policy.learned == 3
    assert len(listener.expected) == len(store.policy.booked) > 3
    for expected, booked in zip(listener.expected, store.policy.booked, strict=True):
        for mine, its in zip(expected, booked, strict=True):
            np.testing.assert_allclose(its.numpy(), mine, atol=1e-5)
    held = set(store.columns["provenance_NC"][: len(store), -1].tolist())
    assert held == {name for name, _ in listener.asked}
    assert len(listener.written()) == len(listener.asked)
    assert listener.written() == ()


def test_without_a_store_nothing_is_remembered() -> None:
    config = compose_config(["debug=tiny", "arm=none"])
    tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    agent = build_agent(config, tasks)
    listener = Remembering(agent)
    live(agent, make(tasks[0], 4, tasks[0].train), listener, task=0, seed=0)
    listener.learn()
    assert listener.written() == ()


class Compared(Remembering):
    """Thinks at once again of what is offered to the store, from its tokens alone."""

    lost: tuple[tuple[Tensor, Tensor], ...] = ()

    def mark(self, thought: Thought, marked: Marked) -> None:
        target_BA = self.agent.answer_tokens(marked.targets)
        lived_B = self.agent.surprise(thought, target_BA)[1]
        offered = candidates(self.agent, thought, target_BA, lived_B, marked)
        again_B = self.agent.surprise(self.agent(offered.story_BTL), target_BA)[1]
        self.lost += ((lived_B, again_B),)
        super().mark(thought, marked)


@pytest.mark.parametrize("memory", ["slots", "sparse_slots", "dnc", "none"])
def test_a_stored_question_is_asked_as_it_was_when_it_was_lived(memory: str) -> None:
    chosen = ["debug=tiny", "arm=both", f"working_memory={memory}", "story_shape=[24,12]"]
    config = compose_config([*chosen, "working_policy=evict_oldest"])
    torch.manual_seed(0)
    tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    agent = build_agent(config, tasks)
    listener = Compared(agent)
    with torch.no_grad():
        for weight in agent.fuse.parameters():  # what is read must matter
            weight.mul_(20)
        live(agent, make(tasks[0], 8, tasks[0].train), listener, task=0, seed=0)
    assert len(listener.lost) == 3  # questions of one story
    for lived_B, again_B in listener.lost:
        torch.testing.assert_close(again_B, lived_B, rtol=1e-4, atol=1e-4)
