"""`stillknows check`: whether memories and policies of a configuration keep their contract."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from stillknows.agents.assembly import episodic_of
from stillknows.agents.configuration import cause, compose_config
from stillknows.memory.checks.check import MemoryFault, check_memory
from stillknows.memory.checks.check_policy import check_policy
from stillknows.memory.stores.sqlite import SQLite

MEMORIES = ("working_memory", "episodic_memory")
POLICIES = ("working_policy", "episodic_policy")


def check(overrides: Sequence[str], steps: int) -> int:
    """Check what overrides are about, or all memories there are; print a line a check.

    Args:
        overrides: Hydra overrides, as for `stillknows train`.
        steps: items of the long run.

    Returns:
        0, or 1 if something does not keep its contract, which is said in one sentence.

    Raises:
        ValueError: with one sentence, for what cannot be composed, built or checked.
    """
    config = compose_config(overrides)
    every = MEMORIES + POLICIES
    named = [g for g in every if any(o.lstrip("+~").startswith(g) for o in overrides)]
    groups = named or [group for group in MEMORIES if config[group]]
    for group in groups:
        if not config[group]:
            raise ValueError(f"{group}=none is no memory to check: name another.")
    for group in groups:
        part, width = _build(config, group), config.controller.width
        try:
            if group in POLICIES:
                check_policy(part, width, group == "episodic_policy", steps, _line(group))
            else:
                check_memory(part, width, steps, _line(group))
        except MemoryFault as fault:
            print(f"stillknows: {group}, {fault}", file=sys.stderr)
            return 1
    return 0


def _build(config: DictConfig, group: str) -> Any:
    torch.manual_seed(config.seed)
    try:
        if group != "episodic_memory":
            return instantiate(config[group])
        memory = episodic_of(config)
        store = config.episodic_memory.get("store", "tensor")
        if store == "sqlite":
            memory.keep_in(SQLite(None))  # every check has a copy to itself
        elif store != "tensor":
            raise ValueError(f"episodic_memory.store={store} is checked as tensor or sqlite.")
        return memory
    except (InstantiationException, OmegaConfBaseException) as error:
        raise ValueError(cause(error)) from error


def _line(group: str) -> Any:
    return lambda name: print(f"{group}: {name} passed", flush=True)
