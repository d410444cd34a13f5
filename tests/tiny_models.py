"""Tiny language models, random, and agents with them."""

import hydra.utils
import pytest
import torch
from omegaconf import DictConfig

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.envs.tasks import Task, make

pytest.importorskip("transformers")
pytest.importorskip("peft")

from stillknows.agents.controllers.huggingface import HuggingFace
from stillknows.agents.controllers.model_tokenizer import ModelTokenizer


def controller_of(model: str, **options: object) -> tuple[HuggingFace, ModelTokenizer]:
    tokenizer = HuggingFace.tokenizer((), model=model)
    torch.manual_seed(1)
    made = HuggingFace(len(tokenizer), model, width=16, **options)  # type: ignore[arg-type]
    return made.eval(), tokenizer


def config_of(model: str, *overrides: str) -> DictConfig:
    return compose_config(
        [
            "debug=tiny",
            "stream.episodes=16",
            "stream.exam_episodes=8",
            "controller=huggingface",
            "learner=pretrained",
            f"controller.model={model}",
            "controller.width=16",
            *overrides,
        ]
    )


def agent_of(config: DictConfig) -> tuple[MemoryAgent, list[Task]]:
    torch.manual_seed(0)
    tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    return build_agent(config, tasks), tasks


# --- Learning ----------------------------------------------------------------------------------


def learned(model: str, *overrides: str, updates: int = 2) -> tuple[MemoryAgent, MemoryAgent]:
    """Return an agent before and after a few updates."""
    config = config_of(model, *overrides)
    before, _ = agent_of(config)
    agent, tasks = agent_of(config)
    learner = hydra.utils.instantiate(config.learner, agent, seed=0)
    learner.begin(updates)
    envs = make(tasks[0], 8, tasks[0].train)
    for batch in range(updates):
        live(agent, envs, learner, task=0, seed=8 * batch, options={"episode": 8 * batch})
        learner.update()
    return before, agent
