"""Building an agent from a configuration: words, controller, memories, policies, and their fuse."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import hydra.utils
import torch
from omegaconf import DictConfig, OmegaConf

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.controllers.controller import Controller
from stillknows.agents.controllers.tokenizer import Tokenizer
from stillknows.agents.persistence.memory_places import OPTIONS
from stillknows.envs.examples import QUESTION, Palette, palette_of
from stillknows.envs.tasks import Task, vocabulary
from stillknows.memory.checks.stateless import expect_stateless
from stillknows.memory.slots import Slots

PARTS = (
    "controller",
    "working_memory",
    "working_policy",
    "episodic_memory",
    "episodic_policy",
    "fuse",
    "agent",
    "adaptation",
    "seed",
)
DOORS = ("word_size", "reads", "initial_state", "step", "sequence")  # of every working memory


def build_agent(config: DictConfig, tasks: Sequence[Task]) -> MemoryAgent:
    """Return the agent of a configuration: its controller's tokenizer knows the stream's words.

    Raises:
        ValueError: if the stream shows arrays that the controller or the store cannot take.
    """
    config = _with_arrays(config, palette_of(tasks))
    partial = hydra.utils.instantiate(config.controller, _partial_=True)
    tokenizer = getattr(partial.func, "tokenizer", Controller.tokenizer)
    return assemble(config, tokenizer(vocabulary(tasks), **partial.keywords))


def _with_arrays(config: DictConfig, palette: Palette | None) -> DictConfig:
    """Return a configuration whose controller knows the arrays that a stream shows."""
    if palette is None:
        return config
    if "shape" not in config.controller:
        raise ValueError(
            f"stream={config.stream.name} shows arrays, which only controller=seeing reads."
        )
    tokens = math.prod(palette.shape) + len(QUESTION.split()) - 1
    if _chosen(config, "episodic_memory") and config.story_shape[1] < tokens:
        raise ValueError(
            f"An example of this stream has {tokens} tokens, and the store keeps "
            f"{config.story_shape[1]}: give story_shape=[1,{tokens}]."
        )
    config = config.copy()
    config.controller.update(shape=list(palette.shape), levels=palette.levels)
    return config


def assemble(config: DictConfig, tokenizer: Tokenizer) -> MemoryAgent:
    """Return the agent of a configuration that reads with a tokenizer.

    Raises:
        ValueError: if the episodic memory has no room for the number of a token, or vectors of
            another width than the controller's.
    """
    new = hydra.utils.instantiate
    controller = new(config.controller, vocabulary=len(tokenizer))
    working = _working_of(config) if _chosen(config, "working_memory") else None
    episodic = None
    if _chosen(config, "episodic_memory"):
        episodic = episodic_of(config)
        if len(tokenizer) > torch.iinfo(episodic.columns["story_NTL"].dtype).max:
            wanted = 2 if len(tokenizer) <= torch.iinfo(torch.int16).max else 4
            raise ValueError(
                f"The tokenizer has {len(tokenizer)} tokens, too many for the store: "
                f"token_bytes={wanted}."
            )
    recall = bool(config.agent.recall) and episodic is not None
    _expect_widths(config, working, episodic if recall else None)
    fuse = new(
        config.fuse,
        reads=working.reads if working is not None else 0,
        word_size=working.word_size if working is not None else 0,
        recalled=_recalled(episodic, config.controller.width) if recall else 0,
    )
    agent = MemoryAgent(
        tokenizer,
        controller,
        working,
        new(config.working_policy),  # last: whatever it draws, all else begins the same
        episodic,
        fuse,
        adaptation=new(config.adaptation) if config.get("adaptation") else None,
        **config.agent,
    )
    settings: Any = OmegaConf.to_container(config, resolve=True)
    agent.settings = {part: settings[part] for part in PARTS}
    return agent.to(config.device)


def expect_stateless_policy(config: DictConfig) -> None:
    """Raise a ValueError if the working policy of a configuration keeps something when it decides.

    Lives of questions would stop at an examination; those of acting would go on as if they had
    lived their examinations.
    """
    if _chosen(config, "working_memory"):
        policy = hydra.utils.instantiate(config.working_policy)
        expect_stateless(_working_of(config), policy, config.controller.width)


def _working_of(config: DictConfig) -> Any:
    """Return the working memory of a configuration.

    Raises:
        ValueError: if it lacks something that every working memory offers, or cannot be told which
            episodes it begins.
    """
    working = hydra.utils.instantiate(config.working_memory)
    lacking = [door for door in DOORS if not hasattr(working, door)]
    if lacking:
        raise ValueError(
            f"working_memory: {type(working).__name__} has no {' and no '.join(lacking)}: what a "
            "working memory offers is in docs/memories.md, and `stillknows check` looks at it."
        )
    try:
        inspect.signature(working.initial_state).bind(1, "cpu", None)
    except TypeError as error:
        raise ValueError(
            f"working_memory: {type(working).__name__}.initial_state should take batch, device and "
            "key_B, the number of each episode, which need not be used."
        ) from error
    return working


def _recalled(memory: Any, width: int) -> int:
    """Return the size of the vectors that are recalled; 0 where none are kept."""
    size: int = memory.columns["vectors_NV"].shape[1]
    if size not in (0, width):
        raise ValueError(
            f"episodic_memory.vector_size={size}: what is kept is the controller's vector of "
            f"{width} numbers, or none: give {width} or 0."
        )
    return size


def _expect_widths(config: DictConfig, working: Any, episodic: Any) -> None:
    """Raise a ValueError if a part takes vectors of another size than it is given."""
    width = config.controller.width
    sizes = {"fuse.width": (config.fuse.get("width", width), width)}
    if isinstance(working, Slots):
        sizes["working_memory.word_size"] = working.word_size, width
    elif working is not None:
        sizes["working_memory.input_size"] = config.working_memory.get("input_size", width), width
    if working is not None:
        read = working.word_size
        sizes["working_policy.word_size"] = config.working_policy.get("word_size", read), read
    if episodic is not None:
        sizes["episodic_memory.key_size"] = episodic.columns["keys_ND"].shape[1], width
    for name, (given, right) in sizes.items():
        if given != right:
            raise ValueError(f"{name}={given}: the vectors that come there have {right} numbers.")


def episodic_of(config: DictConfig) -> Any:
    """Return the episodic memory of a configuration, empty, with its policy, in tensors."""
    policy = hydra.utils.instantiate(config.episodic_policy)
    own = OmegaConf.masked_copy(
        config.episodic_memory,
        [str(name) for name in config.episodic_memory if name not in OPTIONS],
    )
    own._set_parent(config)  # what it says of other parts is looked up there
    return hydra.utils.instantiate(own, policy=policy, key=config.seed)


def _chosen(config: DictConfig, name: str) -> bool:
    """Return whether there is such a memory; refuse options of one that is none."""
    options = config[name]
    if options and "_target_" not in options:
        raise ValueError(
            f"{name}=none has no option '{next(iter(options))}': leave it away, or choose a memory."
        )
    return bool(options)
