"""What stands for the state of an object: two notes of it differ where something has changed.

The usual note is cheap: version counters of tensors, and numbers as they are. It misses what is
written past the counters (`tensor.data`); with `whole` all content is hashed. This file knows
nothing of what is noted, nor of why.
"""

import hashlib
import random
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Note = dict[str, Any]
_PLAIN = int | float | str | bytes | np.generic | None
_LEAVES = Tensor | _PLAIN | np.ndarray | torch.Generator
_BESIDE = ("training", "_modules", "policy")  # attributes that are no state, or noted elsewhere


class _Held:
    """Holds a tensor, so that no other can take its place in memory; all are equal."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held)

    __hash__ = None  # type: ignore[assignment]


def note_parts(noted: Note, name: str, owner: Any, whole: bool) -> None:
    """Note what an object keeps: tensors and numbers, in containers of any depth as well.

    Args:
        noted: takes the marks, by the names of what they stand for.
        name: of the object.
        owner: the object.
        whole: whether all content counts.
    """
    if isinstance(owner, nn.Module):
        note_module(noted, f"{name}: ", owner, whole)
    for inner, value in getattr(owner, "__dict__", {}).items():
        if not inner.startswith("__") and inner not in _BESIDE:
            note_value(noted, f"{name}: {inner}", value, whole)


def note_module(noted: Note, name: str, module: nn.Module, whole: bool) -> None:
    """Note what the state of a module holds; arguments as in `note_parts`."""
    for inner, value in module.state_dict(keep_vars=True).items():
        made_anew = inner.endswith("_extra_state")  # each time that it is asked for
        note_value(noted, f"{name}{inner}", value, whole or made_anew)


def note_value(
    noted: Note, name: str, value: Any, whole: bool, above: tuple[int, ...] = ()
) -> None:
    """Note a tensor or a number, or a container of them, of containers as well.

    Args:
        noted: takes the marks.
        name: of the value.
        value: left out if it is something else.
        whole: whether all content counts.
        above: identities of the containers around it: one that holds itself has an end.
    """
    if isinstance(value, _LEAVES):
        noted[name] = _mark(value, whole)
    elif isinstance(value, set | frozenset):
        noted[name] = frozenset(value)
    elif isinstance(value, Mapping | list | tuple | deque) and id(value) not in above:
        noted[f"{name} (how many)"] = len(value)
        parts: Any = value
        if not isinstance(value, Mapping):  # plain ones together: there may be many
            noted[name] = [part for part in value if isinstance(part, _PLAIN)]
            parts = {n: part for n, part in enumerate(value) if not isinstance(part, _PLAIN)}
        for key, part in parts.items():
            note_value(noted, f"{name} {key}", part, whole, (*above, id(value)))


def random_states(device: torch.device) -> Note:
    """Return a note of the random states that all share, on the CPU and perhaps on a GPU."""
    states = {
        "Python's random state": hash(random.getstate()),
        "NumPy's random state": _numpy_state(),
        "PyTorch's random state": _digest(torch.get_rng_state().numpy()),
    }
    if device.type == "cuda":
        states["CUDA's random state"] = _digest(torch.cuda.get_rng_state(device).numpy())
    return states


def changed(before: Note, after: Note) -> list[str]:
    """Return the names of what two notes differ in."""
    noted = {name: (before.get(name), after.get(name)) for name in {**before, **after}}
    return [name for name, (one, two) in noted.items() if one is not two and one != two]


def _mark(value: Any, whole: bool) -> Any:
    """Return what changes with a value: of a tensor its place and version, or all of it."""
    if isinstance(value, Tensor):
        if not whole:
            return value.data_ptr(), value._version, tuple(value.shape), _Held(value)
        return _digest(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    if isinstance(value, np.ndarray):
        return _digest(value)
    if isinstance(value, torch.Generator):
        return _digest(value.get_state().numpy())
    return value


def _numpy_state() -> Any:
    _, keys, *rest = np.random.get_state(legacy=True)
    return _digest(np.asarray(keys)), *rest


def _digest(array: np.ndarray) -> bytes:
    """Return a hash of 16 bytes of an array's content."""
    return hashlib.blake2b(array.tobytes(), digest_size=16).digest()
