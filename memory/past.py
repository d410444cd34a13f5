"""What a database tells of the memory in it: how it is, and how it was after any operation.

Letters: S slots.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stillknows.memory.rows import Sizes, rows_from, unpack_use
from stillknows.memory.schema import BASE, BIRTHS, CONTENT, HEAD, IDS, READABLE, SCHEMA, as_of
from stillknows.memory.store import COUNTERS, Rows


class Born(NamedTuple):
    """When an entry was first written: the operation, and seconds since the epoch."""

    operation: int
    time: float


class Head(NamedTuple):
    """Where a memory stands.

    Attributes:
        operation: the newest.
        generation: how often it was rewound.
        base: the oldest operation that the past reaches back to; 0: it is whole.
    """

    operation: int
    generation: int
    base: int


class Past(ABC):
    """A memory in a database, to be read.

    Args:
        name: what sentences about it call it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._sizes = Sizes({}, {}, ())

    def description(self) -> dict[str, Any]:
        """Return what the memory is like.

        Raises:
            ValueError: if it is broken, foreign, or of a newer version.
        """
        with self._sound():
            found = {name: json.loads(value) for name, value in self._description()}
        if found.get("schema") not in READABLE:
            raise ValueError(
                f"{self.name} holds a memory of version {found.get('schema')}; this reads version "
                f"{SCHEMA}: use the stillknows that wrote it, or a newer one."
            )
        return found

    @property
    def first(self) -> int:
        """The oldest operation that `at` reaches, beside 0, which is the beginning."""
        return self._head().base

    def at(self, operation: int) -> Rows:
        """Return the memory as it was after an operation."""
        with self._reading(), self._sound():
            return self._rows(operation)

    def gaps(self, operation: int) -> list[int]:
        """Return what was there after an operation and was deleted since."""
        found = self._query(
            as_of("entries", ["id"]) + " WHERE t.erased IS NOT NULL ORDER BY t.id",
            number=operation,
        )
        return [entry for (entry,) in found]

    def ids_of(self, task: int | None, episode: int) -> list[int]:
        """Return the ids of all entries, past ones too, that were ever of an episode.

        Args:
            task: of it; None: any.
            episode: its number.
        """
        found = self._query(
            IDS,
            episode=episode,
            task=-1 if task is None else task,
            any=int(task is None),
        )
        return [entry for (entry,) in found]

    def names_of(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return the ids of entries that there were, each with every name of its question."""
        return [
            row[:2]
            for entry in ids
            for row in self._query(
                "SELECT DISTINCT id, hash FROM entries WHERE id = :entry AND hash IS NOT NULL",
                entry=entry,
            )
        ]

    def births(self) -> dict[int, Born]:
        """Return when each entry was first written."""
        return {entry: Born(operation, when) for entry, operation, when in self._query(BIRTHS)}

    def _rows(self, operation: int, slots: Sequence[int] | None = None) -> Rows:
        """Return slots (None: all that were ever used) as they were after an operation."""
        counters = self._counters(operation)
        parts = {f"slot{place}": slot for place, slot in enumerate(slots or ())}
        entries = self._query(
            as_of("entries", ["slot", "id", *CONTENT], slots) + " ORDER BY t.slot",
            number=operation,
            **parts,
        )
        keys = self._query(as_of("keys", ["slot", "key"], slots), number=operation, **parts)
        return rows_from(entries, dict(keys), self._use_at(operation), counters, self._sizes)

    def _counters(self, operation: int) -> dict[str, int]:
        """Return the counters of the memory after an operation.

        Raises:
            ValueError: if there was no such operation, or the past does not reach back to it.
        """
        if operation == 0:
            return dict.fromkeys(COUNTERS, 0)
        found = self._query(
            f"SELECT {', '.join(COUNTERS)}, {BASE} FROM operations WHERE number = :number",
            number=operation,
        )
        if not found or operation < int(found[0][-1]):
            raise ValueError(self._out_of_reach(operation))
        return dict(zip(COUNTERS, found[0][:-1], strict=True))

    def _out_of_reach(self, operation: int) -> str:
        """Return why there is no looking at an operation."""
        head = self._head()
        if 0 < operation < head.base:
            return (
                f"{self.name} has its past back to operation {head.base} only, and {operation} is "
                "before it: episodic_memory.past says how much of it is kept."
            )
        return (
            f"{self.name} has no operation {operation}: the last is {head.operation}, the first 1."
        )

    def _use_at(self, operation: int) -> NDArray[Any]:
        """Return records of the use of all slots after an operation, by undoing what came later."""
        if operation == 0:
            return np.zeros(0, self._sizes.use)
        rows = self._query("SELECT slot, uses, last_use, accounts FROM uses ORDER BY slot")
        width = 4 * len(self._sizes.accounts)
        use = np.zeros(max((row[0] for row in rows), default=-1) + 1, self._sizes.use)
        use["slot"], use["last"] = np.arange(len(use)), -1
        for slot, uses, last_use, accounts in rows:
            if len(accounts) != width:
                raise ValueError("what it says of use is broken")
            use[slot] = slot, uses, last_use, np.frombuffer(accounts, "<f4")
        for undone in self._undone(operation):
            if len(undone) and int(undone["slot"].max()) >= len(use):
                raise ValueError("what it says of use is broken")
            use[undone["slot"]] = undone
        return use

    def _undone(self, operation: int) -> Iterator[NDArray[Any]]:
        """Yield the use before each later operation, the newest first."""
        later = self._query(
            "SELECT undo FROM operations WHERE number > :number ORDER BY number DESC",
            number=operation,
        )
        return (unpack_use(blob, self._sizes) for (blob,) in later)

    def _touched_since(self, operation: int) -> set[int]:
        return {int(slot) for undone in self._undone(operation) for slot in undone["slot"]}

    def _changed_since(self, operation: int) -> set[int]:
        """Return the slots of which anything has changed since an operation."""
        found = self._query(
            "SELECT slot FROM entries WHERE operation > :number UNION "
            "SELECT slot FROM keys WHERE operation > :number",
            number=operation,
        )
        return {slot for (slot,) in found} | self._touched_since(operation)

    def _head(self) -> Head:
        with self._sound():
            return Head(*map(int, self._query(HEAD)[0]))

    @contextmanager
    def _sound(self) -> Iterator[None]:
        """Say whose content is broken, if it is."""
        try:
            yield
        except (TypeError, KeyError, IndexError, OverflowError) as error:
            raise ValueError(f"{self.name} is broken: {error}") from error
        except ValueError as error:
            if str(error).startswith(self.name):
                raise
            raise ValueError(f"{self.name} is broken: {error}.") from error

    @abstractmethod
    def _description(self) -> list[tuple[str, str]]:
        """Return the rows of `description`."""

    @abstractmethod
    def _query(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Return the rows that a statement finds."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[None]:
        """A transaction in which everything is seen as of one moment."""
