"""Keeping an agent: one file that holds its words, weights and lifelong memory.

What a file names is built only from this project and from modules that its reader allows, so an
agent of a stranger's runs no code of theirs.
"""

import pydoc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import assemble
from stillknows.agents.configuration import cause
from stillknows.agents.container import read_tree, write_tree
from stillknows.agents.controller import Controller
from stillknows.agents.tokenizer import Tokenizer, WordTokenizer

SCHEMA = "stillknows agent 1"
_FOREIGN = (HydraException, ImportError, OmegaConfBaseException)


def save_agent(agent: MemoryAgent, path: Path) -> None:
    """Write an agent that `assemble` built in the place of what may be there.

    Args:
        agent: whom to keep.
        path: of the file, `.safetensors`.
    """
    write_agent(agent, path, None)


def load_agent(
    path: Path, device: torch.device | str = "cpu", allow: Sequence[str] = ()
) -> MemoryAgent:
    """Return the agent of a file, ready to answer.

    Args:
        path: of a file that `save_agent` wrote.
        device: where it shall live.
        allow: modules besides this project's whose classes the file may name.

    Raises:
        ValueError: with one sentence, if the file is not there, broken or foreign, or names a
            class of a module that is not allowed.
    """
    return read_agent(path, device, allow)[0]


def write_agent(agent: MemoryAgent, path: Path, told: Any) -> None:
    """Write an agent, and a tree of what else is to be kept with it."""
    store = agent.episodic_memory
    policy: Any = None if store is None else store.policy
    tree = {
        "config": agent.settings,
        "tokenizer": agent.tokenizer.kept(),
        "weights": _learned(agent),
        "store": None if store is None else store.snapshot(),
        "policy": dict(policy.state_dict()) if hasattr(policy, "state_dict") else None,
        "told": told,
    }
    write_tree(path, tree, SCHEMA)


def read_agent(
    path: Path, device: torch.device | str = "cpu", allow: Sequence[str] = ()
) -> tuple[MemoryAgent, Any]:
    """Return the agent of a file and what was kept with it; see `load_agent`."""
    tree = read_tree(path, SCHEMA)
    try:
        return _rebuild(tree, device, allow), tree["told"]
    except (LookupError, TypeError, AttributeError, RuntimeError, *_FOREIGN) as error:
        raise ValueError(f"{path} holds no agent that can be built: {cause(error)}") from error


def _rebuild(tree: dict[str, Any], device: torch.device | str, allow: Sequence[str]) -> MemoryAgent:
    _refuse(tree["config"], allow)
    config = OmegaConf.create({**tree["config"], "device": str(device)})
    if config.episodic_memory:
        config.episodic_memory.device = str(device)
    agent = assemble(config, _tokenizer(tree))
    if tree["weights"].keys() != _learned(agent).keys():
        raise ValueError("its weights are not those of its parts.")
    agent.load_state_dict(tree["weights"], strict=False)
    store = agent.episodic_memory
    if store is not None and tree["store"] is not None:
        columns = tree["store"]["columns"]
        tree["store"]["columns"] = {name: part.to(device) for name, part in columns.items()}
        store.restore(tree["store"])
        if tree["policy"] is not None:
            policy: Any = store.policy
            policy.load_state_dict(tree["policy"])
    return agent.eval()


def _learned(agent: MemoryAgent) -> dict[str, Tensor]:
    """Return weights by name: each once, and none that came with a model and does not learn."""
    given = {id(p) for p in agent.controller.parameters() if not p.requires_grad}
    learned = {name for name, p in agent.named_parameters() if id(p) not in given}
    others = {name for name, _ in agent.named_parameters(remove_duplicate=False)} - learned
    return {name: value for name, value in agent.state_dict().items() if name not in others}


def _tokenizer(tree: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer of a file; at first they had words only, and said so otherwise."""
    kept = tree.get("tokenizer") or {"vocabulary": tree["words"], "brackets": tree["brackets"]}
    if "vocabulary" in kept:
        return WordTokenizer(**kept)
    from stillknows.agents.model_tokenizer import ModelTokenizer

    return ModelTokenizer.restored(kept)


def _refuse(config: Any, allow: Sequence[str]) -> None:
    """Raise a ValueError if a configuration names what is not allowed."""
    parts = config.values() if isinstance(config, dict) else config
    if isinstance(config, dict) and "_target_" in config:
        target = str(config["_target_"])
        if not _is_part(target, allow):
            raise ValueError(
                f"The file names {target}, which is no part of an agent in this project: if you "
                f"trust it, allow its module ({target.rpartition('.')[0]!r})."
            )
    if isinstance(parts, Iterable) and not isinstance(parts, str):
        for part in parts:
            _refuse(part, allow)


def _is_part(target: str, allow: Sequence[str]) -> bool:
    """Return whether a name is a class (or a constructor of one) that an agent is built from.

    Only the modules allowed are imported, and what a name leads to counts, not the name: other
    modules can be reached through those that import them.
    """
    if not any(target.startswith(f"{module}.") for module in ("stillknows", *allow)):
        return False
    found = pydoc.locate(target)
    kind = found if isinstance(found, type) else getattr(found, "__self__", None)
    if not isinstance(kind, type):
        return False
    homes = ("stillknows.memory", "stillknows.agents.fuse", "stillknows.agents.adaptation", *allow)
    at_home = any(f"{kind.__module__}.".startswith(f"{home}.") for home in homes)
    return at_home or issubclass(kind, Controller)
