"""Where memories are kept: from an option or a name to a store, and from a store to a memory.

A place is a file of SQLite (any path), or `postgres:NAME`, a memory on a server.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from stillknows.memory.nec import NEC
from stillknows.memory.stores.database import Database
from stillknows.memory.stores.rows import Sizes
from stillknows.memory.stores.sqlite import SQLite
from stillknows.memory.stores.store import Through, Unmanaged, at_once

STORES = ("tensor", "sqlite", "postgres")
FILE = "memory.sqlite"
PAST = 1000  # operations that are kept where no configuration says otherwise
POSTGRES = "postgres:"
OPTIONS = ("store", "place", "past")  # of an episodic memory, that are not its class's


def store_at(place: str, read_only: bool = False) -> Database:
    """Return the store at a place.

    Raises:
        ValueError: if it is broken, foreign, or not there and only to be looked at, or the extra
            `postgres` is not installed.
        OSError: if it cannot be opened.
    """
    if not place.startswith(POSTGRES):
        return SQLite(Path(place), read_only)
    try:
        from stillknows.memory.stores.postgres import PostgreSQL
    except ImportError as error:
        raise ValueError(
            f"A memory in PostgreSQL needs {error.name}: pip install 'stillknows[postgres]'."
        ) from error
    return PostgreSQL(place.removeprefix(POSTGRES), read_only)


def place_of(config: DictConfig, folder: Path) -> str | None:
    """Return the place that a configuration asks for, None for tensors alone.

    Args:
        config: of a life; `episodic_memory.store` and `episodic_memory.place`.
        folder: of the life: without a place, a file is in it, a memory on a server is named by it.

    Raises:
        ValueError: if the options do not fit.
    """
    options = config.episodic_memory
    store = options.get("store", "tensor") if options else "tensor"
    place = options.get("place") if options else None
    past_of(config)
    if store not in STORES:
        raise ValueError(f"episodic_memory.store={store}: choose one of {', '.join(STORES)}.")
    if store == "tensor":
        if place is not None:
            raise ValueError(
                f"episodic_memory.place={place} is where nothing is kept: choose store=sqlite or "
                "store=postgres, or leave it away."
            )
        return None
    if store == "sqlite":
        return str(folder / FILE if place is None else place)
    return POSTGRES + str("-".join(folder.parts[-2:]) if place is None else place)


def past_of(config: DictConfig) -> int | None:
    """Return how many operations of its past a memory shall keep; None: all.

    Raises:
        ValueError: if that is no number.
    """
    past = config.episodic_memory.get("past") if config.episodic_memory else None
    if past is not None and (not isinstance(past, int) or past < 1):
        raise ValueError(
            f"episodic_memory.past={past} should be a whole number of operations from 1; null "
            "keeps all."
        )
    return past


def expect_place(config: DictConfig) -> None:
    """Raise a ValueError or OSError if there is no place of the kind that is asked for."""
    place = place_of(config, Path("life"))
    if place is not None and place.startswith(POSTGRES):
        store_at(place).close()


def expect_apart(lives: Mapping[str, DictConfig]) -> None:
    """Raise a ValueError if two lives, by their folders' names, would be kept in one file."""
    places = Counter(place_of(config, Path(name)) for name, config in lives.items())
    for place, count in places.items():
        if place is not None and count > 1 and not place.startswith(POSTGRES):
            raise ValueError(
                f"episodic_memory.place={place} would hold the memories of {count} lives: leave it "
                "away, and each has a file in its own folder."
            )


def begin_anew(memory: Any, config: DictConfig) -> None:
    """Take a memory back to the beginning of a life that was cut and left no checkpoint.

    One that is shared stays as it is, since others have lived on.

    Raises:
        ValueError: if the place is not the life's own.
    """
    store = getattr(memory, "store", None)
    if not isinstance(store, Database) or not store.operation or store.shared:
        return
    if config.episodic_memory.place is not None:
        raise ValueError(
            f"{store.name} may have held a memory before this life, which left no checkpoint to go "
            "back to: delete the folder of the life, and choose another place."
        )
    memory.rewind(0)


@contextmanager
def kept_memory(
    memory: Any,
    config: DictConfig,
    folder: Path,
    resume: bool = False,
    through: Through = at_once,
) -> Iterator[None]:
    """Keep an episodic memory where a configuration asks for, until the end.

    Without a place of its own, it begins there: what has its name already is left as it is, unless
    a life that was cut resumes. Once it has begun, `through` says how it is read and written.

    Raises:
        ValueError: if the memory cannot be kept, or what is there is another's.
        OSError: if it cannot be written.
    """
    place = place_of(config, folder)
    if place is None:
        yield
        return
    if not hasattr(memory, "keep_in"):
        raise ValueError(
            f"{type(memory).__name__} keeps itself in tensors only: episodic_memory.store=tensor."
        )
    store = store_at(place)
    try:
        memory.keep_in(store)
        chosen = config.episodic_memory.place is not None
        store.shared = chosen and place.startswith(POSTGRES)
        if (memory.seen or len(memory)) and not chosen and not resume:
            raise ValueError(
                f"{place} holds a memory already and is left as it is: name a place of your own to "
                "go on with it, or another run=…; or remove it, if its life shall begin again."
            )
        store.reach(past_of(config))
        store.through = through
        yield
        memory.flush()
    finally:
        store.close()


def live_in(memory: NEC, place: str) -> NEC:
    """Return the memory at a place, with the policy of another; a new one begins as that is.

    Raises:
        ValueError: if it is broken, foreign, or of other sizes.
        OSError: if it cannot be opened.
    """
    store = store_at(place)
    try:
        there = store.exists()
        found = memory.blank() if there else memory
        found.keep_in(store)
        if not there:
            store.reach(PAST)
    except BaseException:
        store.close()
        raise
    return found


@contextmanager
def memory_at(place: str, read_only: bool = False) -> Iterator[NEC]:
    """Open a memory as it is, with nobody who decides.

    Raises:
        ValueError: if there is none, or it is broken or foreign.
        OSError: if it cannot be read.
    """
    store = store_at(place, read_only)
    try:
        if not store.exists():
            raise ValueError(f"{place} holds no memory.")
        memory = memory_like(store.description(), place)
        memory.keep_in(store)
        yield memory
    finally:
        store.close()


def memory_like(description: Mapping[str, Any], place: str) -> NEC:
    """Return an empty memory of the sizes in a description, which are checked first.

    Raises:
        ValueError: if they are broken, or more than this machine could hold.
    """
    given = dict(description)
    try:
        sizes = Sizes.of(given)
    except ValueError as error:
        raise ValueError(f"{place} is broken: {error}.") from error
    row = sum(map(sizes.bytes, sizes.shapes)) + 64
    if given["capacity"] * row > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise ValueError(
            f"{place} asks for {given['capacity']} entries of {row} bytes, more than this machine "
            "has memory: it is broken, or opened on too small a machine."
        )
    return NEC(
        given["capacity"],
        given["key_size"],
        given["vector_size"],
        Unmanaged(sizes.accounts),
        answer_length=given["answer_length"],
        story_shape=tuple(given["story_shape"]),
        token_bytes=given["token_bytes"],
        identity=given["identity"],
    )
