"""Keeping an agent: one file that holds its words, weights and lifelong memory.

What a file names is built only from this project and from modules that its reader allows, so an
agent of a stranger's runs no code of theirs.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import assemble
from stillknows.agents.configuration import cause
from stillknows.agents.controllers.tokenizer import Tokenizer, WordTokenizer
from stillknows.agents.persistence.container import read_version, write_tree
from stillknows.agents.persistence.moved import as_now
from stillknows.agents.persistence.state import restore_to, state_of
from stillknows.agents.persistence.trust import bounded, refuse_foreign

SCHEMA = "stillknows agent 2"
CHECKPOINT = "stillknows checkpoint 1"
_FIRST = "stillknows agent 1"  # knew the state of an episodic policy only, if it was a module
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


def tokenizer_of(path: Path) -> Tokenizer:
    """Return the tokenizer of the agent in a file, without building the agent.

    Raises:
        ValueError: with one sentence, if the file is not there, broken or foreign.
    """
    try:
        schema, tree = read_version(path, SCHEMA, CHECKPOINT, _FIRST)
        return _tokenizer(tree["agent"] if schema == CHECKPOINT else tree)
    except (LookupError, TypeError, AttributeError, RuntimeError, ImportError) as error:
        raise ValueError(f"{path} holds no tokenizer that can be read: {cause(error)}") from error


def write_agent(agent: MemoryAgent, path: Path, told: Any) -> None:
    """Write an agent, and a tree of what else is to be kept with it."""
    write_tree(path, {**agent_state(agent), "told": told}, SCHEMA)


def agent_state(agent: MemoryAgent) -> dict[str, Any]:
    """Return all that an agent is: settings, words, weights, lifelong memory, policies' states."""
    store, policy = agent.episodic_memory, agent.working_policy
    return {
        "config": agent.settings,
        "tokenizer": agent.tokenizer.kept(),
        "weights": weights_of(agent),
        "store": None if store is None else _store_state(store),
        "policy": None if store is None else state_of(store.policy),
        "working_policy": None if isinstance(policy, nn.Module) else state_of(policy),
    }


class KeptMemory:
    """A lifelong memory as a part of a life that can go on.

    Args:
        memory: whose state it is; None: there is none.
    """

    def __init__(self, memory: Any) -> None:
        self.memory = memory
        self._operations: list[int] = []  # that the last checkpoints stand on

    def state(self) -> Any:
        """Return the memory whole, and the number of its operation, if its past is kept."""
        return _store_state(self.memory)

    def restore(self, state: Any) -> None:
        """Go back to the operation, or become what the state holds."""
        _restore_store(self.memory, dict(state))

    def hold(self, state: Any, last: int) -> None:
        """Let the past of the memory reach back to the last checkpoints.

        Args:
            state: that the newest holds; None: those that are there are not known.
            last: how many are kept.
        """
        if not hasattr(self.memory, "hold"):
            return
        if state is None:
            self._operations = []
        elif "operation" in state:
            self._operations = [*self._operations, state["operation"]][-last:]
        self.memory.hold(self._operations[0] if len(self._operations) == last else 0)


class KeptAgent:
    """An agent as a part of a life that can go on (`Resumable` of `state.py`).

    Args:
        agent: whose state it is.
    """

    def __init__(self, agent: MemoryAgent) -> None:
        self.agent = agent
        self._memory = KeptMemory(agent.episodic_memory)

    def state(self) -> dict[str, Any]:
        """Return `agent_state`."""
        return agent_state(self.agent)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Do as `restore_agent` does."""
        restore_agent(self.agent, state)

    def hold(self, state: Any, last: int) -> None:
        """Do as `KeptMemory.hold` does."""
        self._memory.hold(None if state is None else state["store"], last)


def restore_agent(agent: MemoryAgent, tree: Mapping[str, Any]) -> None:
    """Let an agent become what `agent_state` was asked of: one built from the same settings.

    Raises:
        ValueError: if its weights or its memory are of other sizes.
    """
    learned = weights_of(agent)
    if tree["weights"].keys() != learned.keys() or any(
        isinstance(part, Tensor) and part.shape != tree["weights"][name].shape
        for name, part in learned.items()
    ):
        raise ValueError("its weights are not those of its parts.")
    agent.load_state_dict(tree["weights"], strict=False)
    store = agent.episodic_memory
    if store is not None and tree["store"] is not None:
        _restore_store(store, tree["store"])
        if tree["policy"] is not None:
            restore_to(store.policy, tree["policy"])
    if tree.get("working_policy") is not None:
        restore_to(agent.working_policy, tree["working_policy"])


def _store_state(store: Any) -> Any:
    """Return a store whole, and the number of its operation, if its past is kept."""
    past = hasattr(store, "resume") and store.store.keeps_past
    return {**({"operation": store.flush()} if past else {}), **store.snapshot()}


def _restore_store(store: Any, kept: dict[str, Any]) -> None:
    columns = getattr(store, "columns", {})
    there = {name: part.to(columns[name].device) for name, part in kept["columns"].items()}
    state = {**kept, "columns": there}
    if hasattr(store, "resume"):
        store.resume(state, state.pop("operation", None))
    else:
        store.restore(state)


def read_agent(
    path: Path, device: torch.device | str = "cpu", allow: Sequence[str] = ()
) -> tuple[MemoryAgent, Any]:
    """Return the agent of a file and what was kept with it; see `load_agent`.

    The file may be a checkpoint: its agent is that of the moment.
    """
    schema, tree = read_version(path, SCHEMA, CHECKPOINT, _FIRST)
    try:
        tree = {**tree["agent"], "told": None} if schema == CHECKPOINT else tree
        return _rebuild(tree, device, allow, path.stat().st_size), tree["told"]
    except (LookupError, TypeError, AttributeError, RuntimeError, *_FOREIGN) as error:
        raise ValueError(f"{path} holds no agent that can be built: {cause(error)}") from error


def _rebuild(
    tree: dict[str, Any], device: torch.device | str, allow: Sequence[str], size: int
) -> MemoryAgent:
    kept = as_now(tree["config"])
    refuse_foreign(kept, allow)
    config = OmegaConf.create({**kept, "device": str(device)})
    if config.episodic_memory:
        config.episodic_memory.device = str(device)
    tokenizer = _tokenizer(tree)
    with bounded(size) if isinstance(tokenizer, WordTokenizer) else nullcontext():
        agent = assemble(config, tokenizer)
    restore_agent(agent, tree)
    return agent.eval()


def weights_of(agent: MemoryAgent) -> dict[str, Tensor]:
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
    from stillknows.agents.controllers.model_tokenizer import ModelTokenizer

    return ModelTokenizer.restored(kept)
