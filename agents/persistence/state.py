"""The state of a part of a life: all that it knows beyond its configuration, as a plain tree.

A tree is what `container.py` writes: dictionaries, lists, tensors, text, numbers,
truth values and None. Every part knows its own state and nothing of files; a life that goes on
builds its parts from the configuration and lets each restore its own.

A part offers `state` and `restore`, or `state_dict` and `load_state_dict` as PyTorch has them. Of
any other (an Avalanche plugin, a rule) the attributes are kept, if they are plain data, tensors or
Avalanche's `ParamData`. No class is named in a tree and nothing is called that it names.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn


class Resumable(Protocol):
    """A part of a life that can go on elsewhere."""

    def state(self) -> Any:
        """Return all that it knows, as a tree; asking changes nothing."""
        ...

    def restore(self, state: Any) -> None:
        """Become what `state` was asked of: a part built from the same configuration.

        Raises:
            ValueError: if the tree is of another part.
        """
        ...


def state_of(part: Any, weights: Mapping[str, Tensor] | None = None) -> Any:
    """Return the state of any part.

    Args:
        part: anything.
        weights: of the agent by name; a tensor that is a view of one is kept as such.

    Raises:
        ValueError: with one sentence, if it holds what a tree cannot.
    """
    if _offers(part, "state", "restore"):
        return part.state()
    if _offers(part, "state_dict", "load_state_dict"):
        return dict(part.state_dict())
    owners = {w.untyped_storage().data_ptr(): (n, w) for n, w in (weights or {}).items()}
    name = type(part).__name__
    return {key: _taken(each, owners, f"{name}.{key}", top=True) for key, each in _vars(part)}


def restore_to(part: Any, state: Any, weights: Mapping[str, Tensor] | None = None) -> None:
    """Let any part become what `state_of` was asked of.

    Raises:
        ValueError: if the tree is of another part.
    """
    if _offers(part, "state", "restore"):
        part.restore(state)
        return
    if _offers(part, "state_dict", "load_state_dict"):
        part.load_state_dict(state)
        return
    for name, tree in state.items():
        own = isinstance(name, str) and name.isidentifier() and not name.startswith("__")
        if not own or callable(getattr(type(part), name, None)):
            raise ValueError(f"The state names {name!r}, which {type(part).__name__} cannot hold.")
        value, held = _given(tree, weights or {}), getattr(part, name, None)
        if isinstance(held, dict) and isinstance(value, dict):
            held.clear()  # a defaultdict stays one
            held.update(value)
        else:
            setattr(part, name, value)


def seed_all(seed: int) -> None:
    """Seed the random numbers of Python, numpy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_states() -> dict[str, Any]:
    """Return where the random numbers of Python, numpy and PyTorch stand."""
    version, numbers, following = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {
        "python": [version, torch.tensor(numbers), following],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if cuda else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Let random numbers go on where they stood."""
    version, numbers, following = states["python"]
    random.setstate((version, tuple(numbers.tolist()), following))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


def _offers(part: Any, *names: str) -> bool:
    return all(callable(getattr(part, name, None)) for name in names)


def _vars(part: Any) -> list[tuple[str, Any]]:
    return list(vars(part).items()) if hasattr(part, "__dict__") else []


def _taken(
    value: Any, owners: Mapping[int, tuple[str, Tensor]], path: str, top: bool = False
) -> Any:
    """Return an attribute as a tree in which every value but plain ones says its kind."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        return _taken_tensor(value, owners, path)
    if type(value) is dict or (top and isinstance(value, dict)):
        pairs = ((_taken(k, owners, path), _taken(v, owners, path)) for k, v in value.items())
        return {"dict": [list(pair) for pair in pairs]}
    if type(value) in _COLLECTIONS.values():
        return {type(value).__name__: [_taken(part, owners, path) for part in value]}
    if _is_parameter_data(value):
        return {"data": [value.name, _taken(value.data, owners, path)]}
    raise ValueError(
        f"{path} holds a {type(value).__name__}, which no checkpoint can keep: let the class "
        "offer state() and restore(state), or switch checkpoints off with checkpoint.every=0."
    )


_COLLECTIONS: dict[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set}


def _taken_tensor(value: Tensor, owners: Mapping[int, tuple[str, Tensor]], path: str) -> Any:
    if value.requires_grad:
        raise ValueError(
            f"{path} holds a tensor with a gradient, which no checkpoint can keep: detach it, or "
            "switch checkpoints off with checkpoint.every=0."
        )
    owner = owners.get(value.untyped_storage().data_ptr()) if value.numel() else None
    if owner is None:
        return {"tensor": value}
    place = [list(value.shape), list(value.stride()), value.storage_offset()]
    return {"weight": [owner[0], *place]}


def _given(tree: Any, weights: Mapping[str, Tensor]) -> Any:
    """Return an attribute from its tree."""
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return value
    if kind == "weight":
        name, *place = value
        return torch.as_strided(weights[name].detach(), *place)
    if kind == "dict":
        return {_given(key, weights): _given(part, weights) for key, part in value}
    if kind == "data":
        return _parameter_data(value[0], _given(value[1], weights))
    return _COLLECTIONS[kind](_given(part, weights) for part in value)


def _is_parameter_data(value: Any) -> bool:
    """Return whether a value is a ParamData with nothing of its own; Avalanche is not imported."""
    kind = type(value)
    known = f"{kind.__module__}.{kind.__qualname__}" == "avalanche.training.utils.ParamData"
    return known and value.init_function is torch.zeros


def _parameter_data(name: str, data: Tensor) -> Any:
    from avalanche.training.utils import ParamData

    return ParamData(str(name), data.shape, init_tensor=data, device=data.device)
