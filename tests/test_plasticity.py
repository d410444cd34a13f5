"""Probes of plasticity, examinations during training, and fresh agents: what they see and leave."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live as live_episode
from stillknows.agents.examinations.plasticity import probe, reference_sentences
from stillknows.agents.lifetime import born, live_lifetime, tasks_of
from stillknows.agents.reports import log as logs
from stillknows.agents.reports.board import scalars
from stillknows.envs.tasks import make

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]
SHORT = ("debug=tiny", "stream.tasks.tasks=[where_person,route]", "stream.exam_episodes=2")


def agent_of(*overrides: str) -> tuple[MemoryAgent, list[str]]:
    config = compose_config([*SHORT, "arm=none", *overrides])
    tasks = tasks_of(config)
    return born(config, tasks)[0], reference_sentences(tasks, seed=0)


def live(folder: Path, *overrides: str) -> list[logs.Event]:
    config = compose_config([*SHORT, *overrides])
    live_lifetime(config, folder, lambda *_: None)
    return [
        {key: value for key, value in event.items() if key != "time"}
        for event in logs.read(folder)
        if event["event"] not in ("clock", "lifetime")
    ]


def without(events: Sequence[logs.Event], kind: str) -> list[logs.Event]:
    return [event for event in events if event["event"] != kind]


def test_a_probe_against_one_sentence_at_a_time() -> None:
    agent, sentences = agent_of("controller.layers=2")
    hidden: list[list[np.ndarray]] = [[], []]
    for number, block in enumerate(agent.controller.blocks):
        block.network[1].register_forward_hook(
            lambda _, __, out, number=number: hidden[number].append(out[0].detach().numpy())
        )
    vectors = [agent.controller.encode(agent.tokenizer.batch([s]))[0] for s in sentences]
    layers = [np.concatenate(parts) for parts in hidden]
    found = probe(agent, sentences)
    sizes = [np.abs(layer).mean(axis=0) for layer in layers]
    for tau, share in found["dormant"].items():
        dormant = [size <= float(tau) * size.mean() for size in sizes]
        assert share == pytest.approx(np.mean(dormant))
    sigma = np.linalg.svd(torch.cat(vectors).detach().numpy(), compute_uv=False)
    p = sigma / sigma.sum()
    assert found["effective_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)
    assert (found["units"], found["width"]) == (64, 16)
    assert found["sentences"] == len(sentences) == len(set(sentences))


def test_units_that_fall_silent_are_counted() -> None:
    agent, sentences = agent_of()
    assert probe(agent, sentences)["dormant"]["0.0"] == 0
    linear = agent.controller.blocks[0].network[0]
    with torch.no_grad():
        linear.weight[:8] = 0
        linear.bias[:8] = 0
        linear.weight[8:12] *= 1e-4
        linear.bias[8:12] = 0
    shares = probe(agent, sentences)["dormant"]
    assert shares["0.0"] == 8 / 32
    assert shares["0.025"] >= 12 / 32


@pytest.mark.parametrize("name", ["transformer", "lstm", "tree_lstm"])
def test_a_probe_leaves_no_trace(name: str) -> None:
    agent, sentences = agent_of(f"controller={name}")
    agent.controller.norm_answer.eval()
    modes = [module.training for module in agent.modules()]
    before = {key: value.clone() for key, value in agent.state_dict().items()}
    random = torch.get_rng_state()
    found = probe(agent, sentences)
    assert found == probe(agent, sentences)
    assert 1 < found["effective_rank"] <= found["width"]
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in agent.state_dict().items())
    assert [module.training for module in agent.modules()] == modes
    assert not any(module._forward_hooks for module in agent.modules())
    assert all(parameter.grad is None for parameter in agent.parameters())


def test_examinations_during_training_change_nothing_else(tmp_path: Path) -> None:
    budget = "stream.episodes=24"
    plain = live(tmp_path / "plain", budget)
    options = ("stream.exam_every=2", "stream.interim_episodes=1")
    watched = live(tmp_path / "watched", budget, *options)
    assert without(watched, "interim") == plain
    interim = [event for event in watched if event["event"] == "interim"]
    assert [(e["experience"], e["update"], e["task"]) for e in interim] == [(0, 2, 0), (1, 2, 1)]
    first = [e for e in plain if e["event"] == "examination" and e["after"] == 1]
    assert all(len(e["correct"]) * 2 == len(first[0]["correct"]) for e in interim)
    after = [event["after"] for event in plain if event["event"] == "plasticity"]
    assert after == [0, 1, 2]
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    tags = {tag for event in (*interim, *plain) for tag in scalars(event) if "exam" not in tag}
    assert {"interim/where_person", "plasticity/effective_rank"} < tags
    for name in ("where_person", "route"):
        tags = {tag.replace(name, "TASK") for tag in tags}
    assert [tag for tag in tags if f"`{tag}`" not in page] == []


def first_batch(config: DictConfig, experience: int, budget: int) -> float:
    """Return the loss of the first batch of an experience, lived by an agent that knows nothing."""
    tasks = tasks_of(config)
    agent, learner = born(config, tasks)
    learner.begin(1)
    start = experience * budget
    live_episode(
        agent,
        make(tasks[experience], config.rows, tasks[experience].train),
        learner,
        task=experience,
        seed=start,
        options={"episode": start, "task_start": start},
    )
    return learner.update().loss


def test_fresh_agents_learn_each_task_alone_on_the_same_stories(tmp_path: Path) -> None:
    options = ("stream.episodes=16", "arm=scratch")
    fresh = live(tmp_path / "fresh", *options)
    naive = live(tmp_path / "naive", "stream.episodes=16", "arm=none")
    config = compose_config([*SHORT, *options])
    updates, lifelong = (
        [event for event in events if event["event"] == "update"] for events in (fresh, naive)
    )
    assert updates[:2] == lifelong[:2]  # the first task is learned as the naive agent learns it
    assert updates[2]["loss"] == pytest.approx(first_batch(config, 1, 16), rel=1e-5)
    assert updates[2]["loss"] != pytest.approx(lifelong[2]["loss"], rel=1e-3)
    assert [event["task"] for event in updates] == [0, 0, 1, 1]
    (end,) = (event for event in fresh if event["event"] == "end")
    assert end["updates"] == 4
    assert not (tmp_path / "fresh" / "agent.safetensors").exists()
