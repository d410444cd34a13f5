"""What a database tells of the memory in it: how it is, and how it was after any operation.

What is damaged is refused: a row that does not fit its seal, and rows that do not add up to what
their operation left (`seals.py`).

Letters: S slots, N entries.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stillknows.memory.stores.rows import Sizes, Version, rows_from, unpack_use, use_from, use_rows
from stillknows.memory.stores.schema import (
    BASE,
    COLUMNS,
    HEAD,
    LOST,
    READABLE,
    SCHEMA,
    SEALED,
    as_of,
)
from stillknows.memory.stores.seals import (
    count,
    expect_sealed,
    no_seals,
    open_blob,
    seal,
    sealed,
)
from stillknows.memory.stores.store import COUNTERS, Rows

_PAGE = 1000  # operations whose rows are read at once, where all are


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
        self._sizes, self._schema = Sizes({}, {}, ()), SCHEMA

    @property
    def _sealed(self) -> bool:
        """Whether rows have seals: those of older versions have none."""
        return self._schema >= SEALED

    def description(self) -> dict[str, Any]:
        """Return what the memory is like.

        Raises:
            ValueError: if it is broken, foreign, or of a newer version.
        """
        with self._sound():
            lines = dict(self._description())
            found = {name: json.loads(value) for name, value in lines.items()}
        if found.get("schema") not in READABLE:
            raise ValueError(
                f"{self.name} holds a memory of version {found.get('schema')}; this reads version "
                f"{SCHEMA}: use the stillknows that wrote it, or a newer one."
            )
        told = found.pop("seal", None)
        with self._sound():
            if told != (seal_of_lines(lines) if found["schema"] >= SEALED else None):
                raise ValueError("its description does not fit its seal")
        return found

    @property
    def first(self) -> int:
        """The oldest operation that `at` reaches, beside 0, which is the beginning."""
        return self._head().base

    def at(self, operation: int) -> Rows:
        """Return the memory as it was after an operation."""
        with self._reading(), self._sound():
            return self._rows(operation)[0]

    def gaps(self, operation: int) -> list[int]:
        """Return what was there after an operation and was deleted since."""
        with self._sound():
            found = self._versions(as_of("entries", self._columns("entries")), number=operation)
        return sorted(row.id for row in found if row.erased is not None)

    def ids_of(self, task: int | None, episode: int) -> list[int]:
        """Return the ids of all entries, past ones too, that were ever of an episode.

        Args:
            task: of it; None: any.
            episode: its number.
        """
        with self._reading(), self._sound():
            there = [row for row in self._all_versions() if row.episode == episode]
        return sorted({row.id for row in there if row.id >= 0 and task in (None, row.task)})

    def names_of(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return the ids of entries that there were, each with every name of its question."""
        wanted = set(ids)
        with self._reading(), self._sound():
            there = [row for row in self._all_versions() if row.id in wanted]
        return sorted({(row.id, row.hash) for row in there if row.hash is not None})

    def births(self) -> dict[int, Born]:
        """Return when each entry was first written, of the past that is kept."""
        columns = ", ".join(self._columns("operations"))
        first: dict[int, int] = {}
        with self._reading(), self._sound():
            for row in self._all_versions():
                if row.id >= 0:
                    first.setdefault(row.id, row.operation)
            found = self._found("operations", f"SELECT {columns} FROM operations")
            times = {row[0]: row[2] for row in found}
            return {entry: Born(number, times[number]) for entry, number in first.items()}

    def _columns(self, table: str) -> tuple[str, ...]:
        """Return the columns of a table, in their order."""
        return COLUMNS[table] if self._sealed else COLUMNS[table][:-1]

    def _found(self, table: str, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Return whole rows of a table that a statement finds, seals at the end if there are any.

        Raises:
            ValueError: if one does not fit its seal.
        """
        rows = self._query(statement, **values)
        if self._sealed:
            expect_sealed(table, rows)
        return rows

    def _versions(self, statement: str, **values: Any) -> list[Version]:
        """Return rows of entries that a statement finds."""
        return [Version(*row) for row in self._found("entries", statement, **values)]

    def _all_versions(self) -> Iterator[Version]:
        """Yield the rows of all entries, past ones too, the older first."""
        statement = (
            f"SELECT {', '.join(self._columns('entries'))} FROM entries "
            "WHERE operation >= :first AND operation < :last ORDER BY operation"
        )
        for first in range(0, self._head().operation + 1, _PAGE):
            yield from self._versions(statement, first=first, last=first + _PAGE)

    def _rows(
        self,
        operation: int,
        slots: Sequence[int] | None = None,
        seals_3N: NDArray[np.int64] | None = None,
    ) -> tuple[Rows, NDArray[np.int64]]:
        """Return slots as they were after an operation, and the seals of all.

        Args:
            operation: its number.
            slots: which; None: all that were ever used.
            seals_3N: of all slots, right where `slots` are not; None: `slots` are all.

        Raises:
            ValueError: if a row is damaged or lost, or the operation out of reach.
        """
        counters, whole = self._counters(operation)
        parts = {f"slot{place}": slot for place, slot in enumerate(slots or ())}
        entries = self._versions(
            as_of("entries", self._columns("entries"), slots) + " ORDER BY t.slot",
            number=operation,
            **parts,
        )
        keys = self._found(
            "keys", as_of("keys", self._columns("keys"), slots), number=operation, **parts
        )
        use = self._use_at(operation)
        rows = rows_from(entries, {row[1]: row[2] for row in keys}, use, counters, self._sizes)
        if seals_3N is None:
            seals_3N = no_seals(self._sizes.capacity)
        if self._sealed:
            held = {row.slot for row in entries if row.held}
            keys = [row for row in keys if row[1] in held]
            seals_3N = count(seals_3N, entries, keys, sealed(use_rows(use)))
            if whole is not None and seals_3N.sum() != whole:
                raise ValueError(
                    f"rows that operation {operation} left are lost, or are of another moment"
                )
        return rows, seals_3N

    def _expect_complete(self, head: "Head") -> None:
        """Raise a ValueError if operations are lost that there were."""
        ((since, beyond),) = self._query(LOST, base=head.base, number=head.operation)
        if since != head.operation - head.base or beyond:
            raise ValueError("operations of it are lost")

    def _counters(self, operation: int) -> tuple[dict[str, int], int | None]:
        """Return the counters of the memory after an operation, and the sum of its seals.

        Raises:
            ValueError: if there was no such operation, or the past does not reach back to it.
        """
        if operation == 0:
            return dict.fromkeys(COUNTERS, 0), 0
        columns = self._columns("operations")
        found = self._query(
            f"SELECT {', '.join(columns)}, {'whole' if self._sealed else 'NULL'}, {BASE} "
            "FROM operations WHERE number = :number",
            number=operation,
        )
        if not found or operation < int(found[0][-1]):
            raise ValueError(self._out_of_reach(operation))
        *row, whole, _ = found[0]
        if self._sealed:
            expect_sealed("operations", [tuple(row)])
        counters = {name: row[columns.index(name)] for name in COUNTERS}
        if not all(type(number) is int and number >= 0 for number in counters.values()):
            raise ValueError(f"what operation {operation} counted is broken")
        if counters["size"] > self._sizes.capacity:
            raise ValueError(f"what operation {operation} counted is broken")
        return counters, whole

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
        columns = ", ".join(self._columns("uses"))
        rows = self._found("uses", f"SELECT {columns} FROM uses ORDER BY slot")
        use = use_from(rows, self._sizes)
        for undone in self._undone(operation):
            if len(undone) and not 0 <= undone["slot"].min() <= undone["slot"].max() < len(use):
                raise ValueError("what it says of use is broken")
            use[undone["slot"]] = undone
        return use

    def _undone(self, operation: int) -> Iterator[NDArray[Any]]:
        """Yield the use before each later operation, the newest first."""
        later = self._query(
            "SELECT number, undo FROM operations WHERE number > :number ORDER BY number DESC",
            number=operation,
        )
        if [number for number, _ in later] != list(range(operation + len(later), operation, -1)):
            raise ValueError("operations of it are lost")
        for number, blob in later:
            whole = open_blob(blob, number) if self._sealed else blob
            yield unpack_use(whole, self._sizes)

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
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            if str(error).startswith(self.name):
                raise
            raise ValueError(
                f"{self.name} is broken: {error}: take a copy of it, or move it away, and a life "
                "that goes on takes its memory from the checkpoint."
            ) from error

    @abstractmethod
    def _description(self) -> list[tuple[str, str]]:
        """Return the rows of `description`."""

    @abstractmethod
    def _query(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Return the rows that a statement finds."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[None]:
        """A transaction in which everything is seen as of one moment."""


def seal_of_lines(lines: Mapping[str, str]) -> int:
    """Return the seal of a description: of all its other lines, in the order of their names."""
    told = sorted((name, value) for name, value in lines.items() if name != "seal")
    return seal([part for line in told for part in line])
