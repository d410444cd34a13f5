"""`stillknows check`: whether the memories of a configuration keep their contract."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from stillknows.agents.configuration import cause, compose_config
from stillknows.memory.check import MemoryFault, check_memory

GROUPS = ("working_memory", "episodic_memory")


def check(overrides: Sequence[str], steps: int) -> int:
    """Check the memories that overrides are about, or all there are; print a line a check.

    Args:
        overrides: Hydra overrides, as for `stillknows train`.
        steps: items of the long run.

    Returns:
        0, or 1 if a memory does not keep its contract, which is said in one sentence.

    Raises:
        ValueError: with one sentence, for what cannot be composed, built or checked.
    """
    config = compose_config(overrides)
    named = [g for g in GROUPS if any(o.lstrip("+~").startswith(g) for o in overrides)]
    groups = named or [group for group in GROUPS if config[group]]
    for group in groups:
        if not config[group]:
            raise ValueError(f"{group}=none is no memory to check: name another.")
    for group in groups:
        memory = _build(config, group)
        try:
            check_memory(memory, config.controller.width, steps, _line(group))
        except MemoryFault as fault:
            print(f"stillknows: {group}, {fault}", file=sys.stderr)
            return 1
    return 0


def _build(config: DictConfig, group: str) -> Any:
    torch.manual_seed(config.seed)
    try:
        if group == "working_memory":
            return instantiate(config.working_memory)
        policy = instantiate(config.episodic_policy)
        return instantiate(config.episodic_memory, policy=policy, key=config.seed)
    except (InstantiationException, OmegaConfBaseException) as error:
        raise ValueError(cause(error)) from error


def _line(group: str) -> Any:
    return lambda name: print(f"{group}: {name} passed", flush=True)
