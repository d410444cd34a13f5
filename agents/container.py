"""Files that hold a tree of tensors and plain values: safetensors, the tree as JSON in its header.

No pickle, no code: reading a file from a stranger gives tensors, numbers and text, or one sentence.
A tree is made of dictionaries (keys: text or whole numbers), lists, tuples (read as lists),
tensors, text, numbers, truth values and None.
"""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def write_tree(path: Path, tree: Any, schema: str) -> None:
    """Write a tree in the place of what may be there: beside it, flushed, then renamed.

    Args:
        path: of the file.
        tree: what it shall hold.
        schema: the kind and version of the tree; `read_tree` asks for it.

    Raises:
        TypeError: if the tree holds anything else.
    """
    tensors: dict[str, Tensor] = {}
    header = {"schema": schema, "tree": json.dumps(_take_out(tree, tensors))}
    beside = path.with_name(path.name + ".part")
    save_file(tensors, beside, metadata=header)
    with beside.open("rb+") as file:
        os.fsync(file.fileno())
    beside.replace(path)


def read_tree(path: Path, schema: str) -> Any:
    """Return the tree of a file, its tensors on the CPU.

    Raises:
        ValueError: with one sentence, if it is not there, broken, or of another schema.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is broken or no safetensors file ({error}).") from None
    if header.get("schema") != schema:
        raise ValueError(
            f"{path} holds {header.get('schema', 'something foreign')!r}; this reads {schema!r}."
        )
    try:
        return _put_in(json.loads(header["tree"]), tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"The header of {path} does not fit its tensors: it is broken.") from error


def _take_out(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the tree as JSON takes it; tensors go into the dictionary."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"pairs": [[_key(key), _take_out(part, tensors)] for key, part in value.items()]}
    if isinstance(value, list | tuple):
        return [_take_out(part, tensors) for part in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"A file cannot hold a {type(value).__name__}.")


def _key(key: Any) -> str | int:
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise TypeError(f"A file cannot hold the key {key!r}.")
    return key


def _put_in(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_in(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {_key(key): _put_in(part, tensors) for key, part in value["pairs"]}


def as_tree(value: Any) -> Any:
    """Return a state (named tuples of tensors and values) as a tree."""
    return [as_tree(part) for part in value] if isinstance(value, tuple) else value


def as_state(like: Any, tree: Any) -> Any:
    """Return a tree as a state of the same form as another.

    Raises:
        ValueError: if it is of another form.
    """
    if isinstance(like, Tensor):
        if not isinstance(tree, Tensor) or (tree.shape, tree.dtype) != (like.shape, like.dtype):
            raise ValueError("The state that was kept is not of this memory.")
        return tree.to(like.device)
    if not hasattr(like, "_fields"):
        return tree
    if not isinstance(tree, list) or len(tree) != len(like):
        raise ValueError("The state that was kept is not of this memory.")
    return type(like)(*(as_state(a, b) for a, b in zip(like, tree, strict=True)))
