"""Deletion that holds: entries leave a memory, its past, and every copy that a run keeps.

What is left of an entry is its id: in the operations of the memory, and in the log. Weights that
learned from it do not forget; the report says so.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from stillknows.agents.persistence.memory_files import (
    AGENT,
    SUFFIX,
    Names,
    erase_in,
    memories_in,
    memory_in,
    read_any,
    snapshots,
)
from stillknows.agents.persistence.memory_places import FILE, POSTGRES, memory_at
from stillknows.agents.teaching.operations import FOLDER as OPERATIONS
from stillknows.memory.nec import NEC
from stillknows.memory.stores.database import Database

_HALVES = (".part", ".broken")  # what a write that was cut leaves, and a checkpoint


class Erasure(NamedTuple):
    """What was deleted.

    Attributes:
        ids: of the entries.
        operation: of the deletion in the memory; None where there is no database.
        files: that were written anew, and the ids in each.
        read: with which weight those that were there until now had been read.
        agents: files of agents whose weights lived with them.
        vectors: files of memory operations that hold vectors of statements.
        unread: files that are broken, only half there, or of something else, and were left.
    """

    ids: list[int]
    operation: int | None
    files: dict[str, list[int]]
    read: dict[int, float]
    agents: list[str]
    vectors: list[str]
    unread: list[str]


def erase(
    place: str,
    ids: Sequence[int],
    episode: int | None = None,
    task: int | None = None,
    also: Sequence[Path] = (),
) -> Erasure:
    """Delete entries from a memory and from all copies beside it.

    Args:
        place: of the memory: a database, or a kept agent.
        ids: of the entries.
        episode: deletes all that ever came from it; None: what is named alone.
        task: of the episode; None: any.
        also: more folders with copies; the folder of the memory is always looked through.

    Raises:
        ValueError: if nothing is there to be deleted, or the memory is broken or foreign.
        OSError: if a file cannot be written, or another program holds the memory.
    """
    folders = list(also)
    if not place.startswith(POSTGRES):
        folders.append(Path(place).parent)
    with _opened(place) as memory:
        names, read = _wanted(memory, ids, episode, task)
        for kept in _older(place):  # what the past of the memory does not reach
            for entry, held in _wanted(kept, ids, episode, task)[0].items():
                names.setdefault(entry, set()).update(held)
        if not names and isinstance(memory.store, Database):
            memory.store.scrub()  # if the last deletion could not
        _expect_some(names, place)
        copies = sorted({path for folder in folders for path in _copies(folder, place)})
        files, unread = _erase_copies(copies, names)  # before the memory, which knows the names
        if place.endswith(SUFFIX):
            operation, gone = None, erase_in(Path(place), names)
        else:
            gone = sorted(names)
            memory.delete(gone)
            operation = memory.operation
    files = {place: gone, **files} if gone else files
    agents = [str(path) for path in _files(folders, SUFFIX) if path not in unread]
    agents = [path for path in agents if _has_weights(Path(path))]
    vectors = [str(path) for path in _files(folders, SUFFIX) if path.parent.name == OPERATIONS]
    unread += [path for end in _HALVES for path in _files(folders, end)]
    return Erasure(sorted(names), operation, files, read, agents, vectors, list(map(str, unread)))


def report_of(done: Erasure) -> str:
    """Return what was deleted, and what else learned from it, in words."""
    ids = ", ".join(map(str, done.ids))
    at = "" if done.operation is None else f", at operation {done.operation}"
    lines = [f"Deleted: {len(done.ids)} entries ({ids}){at}.", "Written anew without them:"]
    lines += [f"- {path}: {', '.join(map(str, gone))}" for path, gone in done.files.items()]
    lines.append("What else learned from them, and does not forget:")
    used = [f"{entry} with a weight of {weight:.3f}" for entry, weight in done.read.items()]
    used_by = f" Read until now: {'; '.join(used)}." if used else ""
    lines.append(
        "- weights. The episodes were trained on, and entries were recalled and rehearsed since; "
        f"only a life without them has weights without them.{used_by}"
    )
    lines += [f"  {path}" for path in done.agents]
    if done.vectors:
        lines.append(
            "- logs of memory operations, which hold vectors of statements (but no words): "
            f"{Path(done.vectors[0]).parent}. Remove the folder if these must go too."
        )
    if done.unread:
        lines.append("Broken or foreign files may hold them still; where they are copies, remove:")
        lines += [f"- {path}" for path in done.unread]
    lines.append(
        "Their ids stay, in the operations of the memory and in logs. Copies elsewhere, backups "
        "and free blocks of the disk are out of reach."
    )
    return "\n".join(lines)


def _wanted(
    memory: NEC, ids: Sequence[int], episode: int | None, task: int | None
) -> tuple[dict[int, set[int]], dict[int, float]]:
    """Return the entries to be deleted with their names, and how much they were read."""
    store = memory.store
    wanted = set(ids)
    held = list(
        zip(
            *(memory.provenance(name).tolist() for name in ("id", "episode", "task", "hash")),
            memory.columns["uses_N"].tolist(),
            strict=True,
        )
    )
    if episode is not None:
        wanted |= {
            row[0] for row in held if row[0] >= 0 and row[1] == episode and task in (None, row[2])
        }
        if isinstance(store, Database):
            wanted |= set(store.ids_of(task, episode))
    names: dict[int, set[int]] = {row[0]: {row[3]} for row in held if row[0] in wanted}
    if isinstance(store, Database):
        for entry, name in store.names_of(sorted(wanted)):
            names.setdefault(entry, set()).add(name)
    return names, {row[0]: row[4] for row in held if row[0] in wanted}


@contextmanager
def _opened(place: str) -> Iterator[NEC]:
    """Open a memory, in a database or in a kept agent."""
    if place.endswith(SUFFIX):
        yield memory_in(Path(place))
        return
    with memory_at(place) as memory:
        yield memory


def _older(place: str) -> Iterator[NEC]:
    """Yield what checkpoints and agents hold of a memory that lies in the folder of its life."""
    if not place.startswith(POSTGRES) and Path(place).name in (FILE, AGENT):
        for path in _files([Path(place).parent], SUFFIX):
            with suppress(ValueError):  # it is broken or foreign
                yield from memories_in(path)


def _expect_some(names: Names, place: str) -> None:
    if not names:
        raise ValueError(f"{place} holds nothing of what is to be deleted.")


def _copies(folder: Path, place: str) -> Iterable[Path]:
    """Yield files in or below a folder that may hold copies of a memory."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    for path in (*folder.rglob(f"*{SUFFIX}"), *folder.rglob(f"*{Path(FILE).suffix}")):
        if path.absolute() != Path(place).absolute():
            yield path


def _erase_copies(copies: Sequence[Path], names: Names) -> tuple[dict[str, list[int]], list[Path]]:
    """Erase entries from files; return the ids in each, and the files that cannot be read."""
    files, unread = dict[str, list[int]](), list[Path]()
    for path in copies:
        try:
            gone = erase_in(path, names) if path.suffix == SUFFIX else _erase_from(path, names)
        except ValueError:
            unread.append(path)
            continue
        if gone:
            files[str(path)] = gone
    return files, unread


def _erase_from(path: Path, names: Names) -> list[int]:
    """Erase entries from another database that holds them, such as a fork."""
    with memory_at(str(path)) as memory:
        store = memory.store
        assert isinstance(store, Database)
        there = store.names_of(sorted(names))
        gone = sorted({entry for entry, name in there if name in names[entry]})
        if gone:
            memory.delete(gone)
    return gone


def _files(folders: Sequence[Path], suffix: str) -> list[Path]:
    return sorted({path for folder in folders for path in folder.rglob(f"*{suffix}")})


def _has_weights(path: Path) -> bool:
    """Return whether a file holds a memory and weights that lived with it."""
    _, tree = read_any(path)
    return isinstance(tree, dict) and "weights" in tree and any(True for _ in snapshots(tree))
