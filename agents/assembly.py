"""Building an agent from a configuration: words, controller, memories, policies, and their fuse."""

from collections.abc import Sequence
from typing import Any

import hydra.utils
from omegaconf import DictConfig, OmegaConf

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.tokenizer import WordTokenizer
from stillknows.envs.tasks import Task, vocabulary

PARTS = (
    "controller",
    "working_memory",
    "working_policy",
    "episodic_memory",
    "episodic_policy",
    "fuse",
    "agent",
    "seed",
)


def build_agent(config: DictConfig, tasks: Sequence[Task]) -> MemoryAgent:
    """Return the agent of a configuration, with a vocabulary from the stream's tasks."""
    kind = hydra.utils.instantiate(config.controller, _partial_=True).func
    hears_trees = getattr(kind, "hears_trees", False)
    return assemble(config, WordTokenizer(vocabulary(tasks), brackets=hears_trees))


def assemble(config: DictConfig, tokenizer: WordTokenizer) -> MemoryAgent:
    """Return the agent of a configuration that knows the words of a tokenizer."""
    new = hydra.utils.instantiate
    controller = new(config.controller, vocabulary=len(tokenizer))
    working = new(config.working_memory) if config.working_memory else None
    episodic = None
    if config.episodic_memory:
        policy = new(config.episodic_policy)
        episodic = new(config.episodic_memory, policy=policy, key=config.seed)
    recall = bool(config.agent.recall) and episodic is not None
    agent = MemoryAgent(
        tokenizer,
        controller,
        working,
        new(config.working_policy),
        episodic,
        new(
            config.fuse,
            reads=working.reads if working is not None else 0,
            word_size=working.word_size if working is not None else 0,
            recalled=config.controller.width if recall else 0,
        ),
        **config.agent,
    )
    settings: Any = OmegaConf.to_container(config, resolve=True)
    agent.settings = {part: settings[part] for part in PARTS}
    return agent.to(config.device)
