"""Memories in files of tensors: kept agents and whatever else holds a snapshot of one.

Any tree that `container.write_tree` wrote is looked through; a snapshot is known by its columns.
"""

from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from stillknows.agents.persistence.container import read_tree, write_tree
from stillknows.agents.persistence.memory_places import memory_like
from stillknows.memory.nec import NEC
from stillknows.memory.stores.store import COUNTERS

AGENT, SUFFIX = "agent.safetensors", ".safetensors"
Names = Mapping[int, Set[int]]  # ids of entries, and the names of their questions


def read_any(path: Path) -> tuple[str, Any]:
    """Return the schema and the tree of a file, whatever wrote it.

    Raises:
        ValueError: with one sentence, if it is not there or broken.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            schema = (file.metadata() or {}).get("schema")
    except SafetensorError as error:
        raise ValueError(f"{path} is broken or no safetensors file ({error}).") from None
    if schema is None:
        raise ValueError(f"{path} holds something foreign: it is no file of this project.")
    return schema, read_tree(path, schema)


def snapshots(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every snapshot of a memory in a tree."""
    if isinstance(tree, dict):
        columns = tree.get("columns")
        if isinstance(columns, dict) and "provenance_NC" in columns:
            yield tree
            return
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from snapshots(part)


def memory_in(path: Path) -> NEC:
    """Return the memory of a kept agent, with nobody who decides.

    Raises:
        ValueError: if there is none in the file, or it is broken.
    """
    for memory in memories_in(path):
        return memory
    raise ValueError(f"{path} holds no memory.")


def memories_in(path: Path) -> Iterator[NEC]:
    """Yield every memory in a file of tensors, with nobody who decides.

    Raises:
        ValueError: if the file is broken.
    """
    _, tree = read_any(path)
    config = tree.get("config") if isinstance(tree, dict) else None
    for snapshot in snapshots(tree):
        yield _restored(snapshot, path, dict((config or {}).get("episodic_memory") or {}))


def erase_in(path: Path, names: Names) -> list[int]:
    """Erase entries from all snapshots in a file, which is written anew if it holds any.

    Args:
        path: of the file.
        names: of the entries; an id whose question has another name is of another life, and stays.

    Returns:
        The ids of what was erased.
    """
    schema, tree = read_any(path)
    gone: set[int] = set()
    for snapshot in snapshots(tree):
        memory = _restored(snapshot, path, {})
        held = zip(
            memory.provenance("id").tolist(), memory.provenance("hash").tolist(), strict=True
        )
        ids = [entry for entry, name in held if name in names.get(entry, ())]
        if ids:
            gone.update(memory.delete(ids))
            snapshot.update(memory.snapshot())
    if gone:
        write_tree(path, tree, schema)
    return sorted(gone)


def _restored(snapshot: dict[str, Any], path: Path, options: dict[str, Any]) -> NEC:
    """Return the memory of a snapshot."""
    try:
        columns = snapshot["columns"]
        description = {
            "capacity": len(columns["keys_ND"]),
            "key_size": columns["keys_ND"].shape[1],
            "vector_size": columns["vectors_NV"].shape[1],
            "answer_length": columns["answers_NA"].shape[1],
            "story_shape": list(columns["story_NTL"].shape[1:]),
            "token_bytes": columns["story_NTL"].element_size(),
            "identity": options.get("identity", "question"),
            "accounts": [],
        }
        memory = memory_like(description, str(path))
        memory.restore({"columns": columns, **{name: snapshot[name] for name in COUNTERS}})
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds a memory that is broken.") from error
    return memory
