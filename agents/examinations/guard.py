"""The guard on examinations: what must not change while an agent is examined, or must not be read.

Weights, running statistics, what policies keep, the lifelong store, the optimiser and the random
states are noted before and compared after; the first that differ are named. The usual note is
cheap enough for every examination: the version counters of tensors, numbers as they are, and hashes
of the random states. It misses what is written past the counters (`tensor.data`); `whole=True`
hashes all content. The identity of the task is sealed meanwhile: whoever reads it is stopped.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from stillknows.agents.agent import MemoryAgent

Note = dict[str, Any]
_READ = (
    "The task's identity was read during an examination: no agent and no policy may know which "
    "task it is in."
)
_SHOWN = 3  # names in an error
_PLAIN = int | float | str


class TrespassError(ValueError):
    """An examination left a trace, or somebody asked which task it was."""


class Sealed:
    """Stands for the number of a task during an examination: to use it is an error."""

    def _refuse(self, *_: Any) -> NoReturn:
        raise TrespassError(_READ)

    __int__ = __index__ = __float__ = __bool__ = __eq__ = __hash__ = __lt__ = __gt__ = _refuse
    __add__ = __radd__ = __sub__ = __str__ = __format__ = _refuse


@contextmanager
def untouched(agent: MemoryAgent, optimizer: Any = None, whole: bool = False) -> Iterator[None]:
    """See that nothing of an agent changes for as long as this lasts, and that no task is read.

    Args:
        agent: who is examined.
        optimizer: of its learner, if there is one.
        whole: compare all content, which takes time with the size of agent and store.

    Raises:
        TrespassError: if something changed, by its name, or the task of an entry was asked for.
    """
    exact = whole or agent.adaptation is not None  # it moves the weights, and puts them back
    before = note(agent, optimizer, exact)
    with _sealed(agent.episodic_memory):
        try:
            yield
        except TypeError as error:  # who takes numbers only says what it was given instead
            if Sealed.__name__ in str(error):
                raise TrespassError(_READ) from error
            raise
    after = note(agent, optimizer, exact)
    noted = {name: (before.get(name), after.get(name)) for name in {**before, **after}}
    changed = [name for name, (one, two) in noted.items() if one is not two and one != two]
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise TrespassError(
            f"An examination changed {', '.join(changed[:_SHOWN])}{more}: it should leave no trace."
        )


def note(agent: MemoryAgent, optimizer: Any = None, whole: bool = False) -> Note:
    """Return what stands for the state of everything that an examination leaves alone, by name."""
    noted: Note = {}
    for name, value in agent.state_dict(keep_vars=True).items():
        made_anew = name.endswith("_extra_state")
        noted[f"the weights or statistics {name}"] = _mark(value, whole or made_anew)
    store: Any = agent.episodic_memory
    for name, owner in (
        ("the working policy", getattr(agent.working_policy, "policy", agent.working_policy)),
        ("the store", store),
        ("the store's policy", getattr(store, "policy", None)),
    ):
        _note_parts(noted, name, owner, whole)
    for number, part in enumerate(getattr(optimizer, "parts", [optimizer])):
        if part is not None:
            _note_optimizer(noted, f"the optimiser ({number})", part, whole)
    return noted | _random_states(agent.device)


def _note_parts(noted: Note, name: str, owner: Any, whole: bool) -> None:
    """Note what an object keeps: tensors and numbers, also in dictionaries and sequences."""
    if isinstance(owner, nn.Module):
        for inner, value in owner.state_dict(keep_vars=True).items():
            noted[f"{name}: {inner}"] = _mark(value, whole)
    for inner, value in getattr(owner, "__dict__", {}).items():
        if not inner.startswith("__") and inner not in ("training", "_modules", "policy"):
            _note_value(noted, f"{name}: {inner}", value, whole)


def _note_value(noted: Note, name: str, value: Any, whole: bool) -> None:
    if isinstance(value, Tensor | _PLAIN | np.ndarray | torch.Generator):
        noted[name] = _mark(value, whole)
    elif isinstance(value, Mapping):
        noted[f"{name} (how many)"] = len(value)
        for key, part in value.items():
            if isinstance(part, Tensor | _PLAIN):
                noted[f"{name} {key}"] = _mark(part, whole)
    elif isinstance(value, list | tuple | set):
        noted[f"{name} (how many)"] = len(value)
        parts = [part for part in value if isinstance(part, _PLAIN)]
        noted[name] = frozenset(parts) if isinstance(value, set) else parts


def _note_optimizer(noted: Note, name: str, optimizer: Any, whole: bool) -> None:
    for number, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if key != "params":
                _note_value(noted, f"{name}: group {number} {key}", value, whole)
    for number, state in enumerate(optimizer.state.values()):
        _note_value(noted, f"{name}: state {number}", state, whole)


def _mark(value: Any, whole: bool) -> Any:
    """Return what changes with a value: of a tensor its place and version, or all of it."""
    if isinstance(value, Tensor):
        if not whole:
            return value.data_ptr(), value._version, tuple(value.shape)
        return _hash(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    if isinstance(value, np.ndarray):
        return _hash(np.ascontiguousarray(value).view(np.uint8))
    if isinstance(value, torch.Generator):
        return _hash(value.get_state().numpy())
    return value


def _random_states(device: torch.device) -> Note:
    states = {
        "Python's random state": hash(random.getstate()),
        "NumPy's random state": _numpy_state(),
        "PyTorch's random state": _hash(torch.get_rng_state().numpy()),
    }
    if device.type == "cuda":
        states["CUDA's random state"] = _hash(torch.cuda.get_rng_state(device).numpy())
    return states


def _numpy_state() -> Any:
    _, keys, *rest = np.random.get_state(legacy=True)
    return _hash(np.asarray(keys)), *rest


def _hash(array: np.ndarray) -> bytes:
    return hashlib.blake2b(array.tobytes(), digest_size=16).digest()


@contextmanager
def _sealed(store: Any) -> Iterator[None]:
    """Let nobody read from which task the entries of a store came."""
    if store is None or not hasattr(store, "provenance"):
        yield
        return
    plain = store.provenance

    def provenance(name: str) -> Any:
        return Sealed()._refuse() if name == "task" else plain(name)

    store.provenance = provenance
    try:
        yield
    finally:
        del store.provenance
