"""Files that hold a tree of tensors and plain values: safetensors, the tree as JSON in its header.

No pickle, no code: reading a file from a stranger gives tensors, numbers and text, or one sentence.
A tree is made of dictionaries (keys: text or whole numbers), lists, tuples (read as lists),
tensors, text, numbers, truth values and None. A tensor that occurs twice is written once, and is
one tensor again when it is read.

The header says the schema, and a checksum of all there is. Sizes come from the file's length, so
what a header claims allocates nothing.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_BROKEN = (KeyError, TypeError, ValueError, RecursionError)


def write_tree(path: Path, tree: Any, schema: str) -> None:
    """Write a tree in the place of what may be there: beside it, flushed, then renamed.

    Args:
        path: of the file.
        tree: what it shall hold.
        schema: the kind and version of the tree; `read_tree` asks for it.

    Raises:
        TypeError: if the tree holds anything else.
        OSError: with one sentence, if it cannot be written; what was there stays.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_take_out(tree, tensors, {}))
    header = {"schema": schema, "tree": text, "checksum": _checksum(schema, text, tensors)}
    beside = path.with_name(path.name + ".part")
    try:
        save_file(tensors, beside, metadata=header)
        put_in_place(beside, path)
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error) from error
    finally:
        beside.unlink(missing_ok=True)


def expect_tree(tree: Any) -> None:
    """Raise a TypeError if a tree holds what `write_tree` cannot write."""
    if isinstance(tree, dict):
        for key, part in tree.items():
            _key(key)
            expect_tree(part)
    elif isinstance(tree, list | tuple):
        for part in tree:
            expect_tree(part)
    elif not (tree is None or isinstance(tree, Tensor | str | int | float)):
        raise TypeError(f"A file cannot hold a {type(tree).__name__}.")


def put_in_place(beside: Path, path: Path) -> None:
    """Flush a file and give it its name, so that after a power cut there is the old or the new."""
    with beside.open("rb+") as file:
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text in the place of what may be there, as safely as `write_tree` does."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    put_in_place(beside, path)


def read_tree(path: Path, schema: str) -> Any:
    """Return the tree of a file, its tensors on the CPU.

    Raises:
        ValueError: with one sentence, if it is not there, broken, or of another schema.
    """
    return read_version(path, schema)[1]


def read_version(path: Path, *schemas: str) -> tuple[str, Any]:
    """Return the schema and the tree of a file that may be of several.

    Raises:
        ValueError: with one sentence, if it is not there, broken, or of another schema.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # memory that is aligned as PyTorch's own: kernels may round by it
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is broken or no safetensors file ({error}).") from None
    schema = header.get("schema", "something foreign")
    if schema not in schemas:
        known = " or ".join(map(repr, schemas))
        raise ValueError(f"{path} holds {schema!r}; this reads {known}.")
    text = header.get("tree", "")
    if header.get("checksum", "") not in ("", _checksum(schema, text, tensors)):
        raise ValueError(f"{path} is broken: its checksum is not that of what it holds.")
    try:
        return schema, _put_in(json.loads(text), tensors)
    except _BROKEN as error:
        raise ValueError(f"The header of {path} does not fit its tensors: it is broken.") from error


def _checksum(schema: str, text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return BLAKE2b over the schema, the tree, and every tensor with its name, kind and shape."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([schema, text]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cannot_write(path: Path, error: Exception) -> OSError:
    """Return an error whose text is a sentence: which file could not be written, and why."""
    return OSError(f"{path} could not be written ({getattr(error, 'strerror', None) or error}).")


def _take_out(value: Any, tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    """Return the tree as JSON takes it; tensors go into the dictionary."""
    if isinstance(value, Tensor):
        same = (value.data_ptr(), value.dtype, value.shape, value.stride())
        if value.numel() and same in seen:
            return {"tensor": seen[same]}
        name = seen[same] = str(len(tensors))
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        parts = ((_key(key), _take_out(part, tensors, seen)) for key, part in value.items())
        return {"pairs": [list(pair) for pair in parts]}
    if isinstance(value, list | tuple):
        return [_take_out(part, tensors, seen) for part in value]
    expect_tree(value)
    return value


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
