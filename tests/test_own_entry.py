"""Recall without the own entry is recall from a store that never held it, and leaves no trace."""

from typing import Any

import hydra.utils
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.agents.own_entry import without_own
from stillknows.envs.tasks import make
from stillknows.memory.episodic import Candidates
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest


def filled(entries: int, neighbours: int, seed: int) -> NEC:
    """Return a store of some entries, a few of them at the same place, of four questions."""
    draw = np.random.default_rng(seed)
    keys = draw.integers(0, 4, (entries, 2)).astype(np.float32)
    names = torch.arange(entries)
    store = NEC(
        entries + 2, 2, 1, EvictOldest(), answer_length=1, story_shape=(1, 1), neighbours=neighbours
    )
    zeros = torch.zeros(entries, dtype=torch.int64)
    store.remember(
        Candidates(
            key_BD=torch.from_numpy(keys),
            vector_BV=names[:, None].float(),
            answers_BA=1 + names[:, None],
            story_BTL=names[:, None, None],
            hash_B=names % 4,
            outcome_BF=torch.zeros(entries, 3),
            task_B=zeros,
            episode_B=names,
            step_B=zeros,
        )
    )
    return store


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
def test_the_others_answer_as_if_the_own_entry_had_never_been(
    entries: int, neighbours: int, seed: int
) -> None:
    store = filled(entries, neighbours, seed)
    keys = store.columns["keys_ND"][:entries]
    slots = torch.arange(entries)
    with without_own(store, slots):
        found = store.recall(keys)
    for row in range(entries):
        others = np.delete(np.arange(entries), row)
        distance = ((keys.numpy()[others] - keys.numpy()[row]) ** 2).sum(1)
        nearest = np.sort(distance)[:neighbours]
        present = found.present_BK[row].numpy()
        assert present.sum() == len(nearest)
        assert row not in found.slots_BK[row].tolist()
        np.testing.assert_allclose(np.sort(found.distance_BK[row].numpy()[present]), nearest)
        kernel = 1 / (nearest + store.delta)
        weights = np.sort(found.weights_BK[row].numpy()[present])[::-1]
        np.testing.assert_allclose(weights, kernel / max(kernel.sum(), 1e-9), rtol=1e-5)
        seen = found.slots_BK[row].numpy()[present]
        namesakes = [(others % 4 == slot % 4).sum() for slot in seen]
        assert found.namesakes_BK[row].numpy()[present].tolist() == namesakes
        named = found.answers_BKA[row, :, 0].numpy()[present] - 1
        assert sorted(named) == sorted(found.slots_BK[row].numpy()[present])


def test_who_has_no_entry_is_answered_as_ever_and_no_use_is_counted() -> None:
    store = filled(8, 3, seed=1)
    asked = torch.tensor([[0.5, 1.5], [3.0, 0.0]])
    with store.frozen():
        plain = store.recall(asked)
    before = store.columns["uses_N"].clone(), store.provenance("last_use").clone()
    with without_own(store, torch.tensor([-1, -1])):
        found = store.recall(asked)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(before[0], store.columns["uses_N"])
    assert torch.equal(before[1], store.provenance("last_use"))


def test_the_store_is_as_it_was_whatever_happens() -> None:
    store = filled(4, 2, seed=0)
    with (
        pytest.raises(ValueError, match="where this store keeps 2"),
        without_own(store, torch.tensor([0])),
    ):
        store.recall(torch.zeros(1, 5))
    assert store.neighbours == 2
    assert "recall" not in vars(store)
    store.recall(torch.zeros(1, 2))
    assert float(store.columns["uses_N"].sum()) == pytest.approx(1)


def rehearsed(*overrides: str) -> tuple[Any, Any, Any]:
    """Return an agent with a store, its learner, and the loss of what it rehearses next."""
    config = compose_config(["debug=tiny", "stream.episodes=16", "arm=both", *overrides])
    torch.manual_seed(0)
    tasks: Any = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    agent = build_agent(config, tasks)
    learner: Any = hydra.utils.instantiate(config.learner, agent, seed=0)
    learner.begin(2)
    live(agent, make(tasks[0], 8, tasks[0].train), learner, task=0, seed=0)
    learner.update()
    learner.optimizer.zero_grad()
    return agent, learner, learner._rehearse()


def test_trust_learns_from_what_is_rehearsed_only_if_it_is_asked_to() -> None:
    agent, _, loss = rehearsed()
    loss.backward()
    assert agent.trust.bias.grad is None
    agent, learner, loss = rehearsed("learner.recall_rehearsed=true")
    loss.backward()
    assert agent.trust.bias.grad.abs() > 0
    assert "recall" not in vars(agent.episodic_memory)
    # the trust that a fresh agent has, and which the loss mixes by
    memory, (ids, asked) = agent.episodic_memory, learner.rehearsed
    slots = [int((memory.provenance("id") == each).nonzero()) for each in ids]
    with torch.no_grad(), without_own(memory, torch.tensor(slots)):
        entries = memory.entries(torch.tensor(slots))
        thought = agent(entries.story_BTL, memory.provenance("episode")[slots], recall=True)
        again = agent.surprise(thought, entries.answers_BA.long())[0]
    torch.testing.assert_close(again, asked.loss_B.detach())
    own = thought.recall.slots_BK == torch.tensor(slots)[:, None]
    assert not own.any()
