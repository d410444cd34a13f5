"""Small agents with any controller, some of which have lived."""

import hydra.utils
import pytest
import torch
from omegaconf import DictConfig

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.episode import live
from stillknows.envs.tasks import Task, make

TINY = ("debug=tiny", "stream.episodes=16", "stream.exam_episodes=8")


def tasks_of(config: DictConfig) -> list[Task]:
    found: list[Task] = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    return found


def controller(name: str, request: pytest.FixtureRequest) -> list[str]:
    """Return the options that choose a controller; a pretrained one is tiny and random."""
    if name != "huggingface":
        return [f"controller={name}"]
    model = request.getfixturevalue("tiny_model")
    narrow = ["controller.width=16", "controller.trained=full"]
    return ["controller=huggingface", "learner=pretrained", f"controller.model={model}", *narrow]


def warmed(config: DictConfig, batches: int = 3) -> tuple[MemoryAgent, list[Task]]:
    """Return an agent that has learned for some batches, so that its store holds something."""
    torch.manual_seed(0)
    tasks = tasks_of(config)
    agent = build_agent(config, tasks)
    learner = hydra.utils.instantiate(config.learner, agent, seed=0)
    learner.begin(batches)
    envs = make(tasks[0], 8, tasks[0].train)
    for batch in range(batches):
        live(agent, envs, learner, task=0, seed=8 * batch, options={"episode": 8 * batch})
        learner.update()
    return agent, tasks
