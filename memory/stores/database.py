"""A lifelong memory in a relational database: what SQLite and PostgreSQL have in common.

Every change of a memory is a row of `operations`, which is only appended to. `entries` and `keys`
hold what slots held, a row for each time that it changed, so that the memory can be read as it was
after any operation; `uses` holds how much entries are used now, and each operation what it was
before (`undo`). `present` is a view of the entries as they are. Searches run on the device copy;
the database is read when a memory is opened, and for what others have changed.

So that a database does not grow for ever, its past may be bounded (`compaction.py`).

An operation has the next number, and two writers cannot have the same one (optimistic
concurrency): who comes second learns what the first has done, and decides again. So nobody has to
ask before a write; who was not alone lately does, since to decide twice costs more.

SQL is written here and in `schema.py`, with bound parameters; how it is run is the subclasses'
affair.

Letters: S slots, N entries, U numbers of use (`usage.py`).
"""

import json
import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stillknows.memory.stores.compaction import Compacted
from stillknows.memory.stores.rows import (
    Sizes,
    Version,
    entry_rows,
    key_rows,
    pack_use,
    use_rows,
)
from stillknows.memory.stores.schema import (
    COLUMNS,
    ERASE_KEYS,
    INDEXES,
    LOCK,
    RECOUNT,
    TABLES,
    VIEW,
    append,
    erase,
)
from stillknows.memory.stores.seals import count, no_seals, seal, seal_blob, sealed
from stillknows.memory.stores.store import COUNTERS, Rows, clear, describe, put
from stillknows.memory.stores.usage import Usage

if TYPE_CHECKING:
    from stillknows.memory.nec import NEC

_FEW = 500  # slots that a query names one by one


class Conflict(Exception):  # noqa: N818 (nothing is wrong: somebody was first)
    """Another writer has taken the next number."""


class Change(NamedTuple):
    """An operation as it is written: its row, ids that it erases, and rows of the other tables."""

    operation: dict[str, Any]
    erased: Sequence[int]
    entries: list[tuple[Any, ...]]
    keys: list[tuple[Any, ...]]
    uses: list[tuple[Any, ...]]


class Database(Compacted):
    """A store in a database; see `Store` for its doors.

    Args:
        name: what sentences about it call it.
    """

    keeps_past, shared = True, False

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._doubtful: set[int] | None = None  # slots of the device copy that may be ahead
        self._company = False  # whether others were found at work when they were last asked for
        self._usage = Usage()
        self._seals_3N = no_seals(0)  # of what the database has

    def begin(self, memory: "NEC") -> None:
        """Load what is kept, or write what the memory holds."""
        wanted = describe(memory)
        self._create(wanted)
        self._expect(wanted)
        self._sizes = Sizes.of(wanted)
        device = memory.columns["uses_N"].device
        self._usage = Usage(memory.capacity, len(wanted["accounts"]), device)
        self._seals_3N = no_seals(memory.capacity)
        with self._reading(), self._sound():
            head = newest, self._generation, self._base = self._head()
            self._expect_complete(head)
        held = memory.seen or memory.size  # what was merged into it was not seen
        if newest and held:
            raise ValueError(
                f"{self.name} holds a memory already, and so does this agent: choose a place of "
                "its own, or merge them."
            )
        if newest:
            self._load(memory)
        elif held:
            self.write(memory, "begin", range(memory.size))

    def follow(self, memory: "NEC") -> None:
        """Put right on the device copy what others have changed, or what was not kept."""
        self.through(lambda: self._follow(memory))
        self._usage.note(memory)

    def prepare(self, memory: "NEC") -> None:
        """Follow where others were at work lately, or the device copy may be ahead."""
        if self._company or self._doubtful is not None:
            self.follow(memory)
        else:
            self._usage.note(memory)

    def _follow(self, memory: "NEC") -> None:
        newest, generation, _ = self._head()
        self._company = (newest, generation) != (self.operation, self._generation)
        if not self._company and self._doubtful is None:
            return
        with self._reading(), self._sound():
            newest, generation, self._base = self._head()
            if generation == self._generation:
                slots = self._slots_since(self.operation)
                rows, seals_3N = self._rows(
                    newest, slots, None if slots is None else self._seals_3N
                )
        if generation != self._generation:
            self._load(memory)
            return
        self._take(memory, rows)
        self._seals_3N, self.operation, self._doubtful = seals_3N, newest, None

    def _slots_since(self, operation: int) -> list[int] | None:
        """Return the slots that may differ since an operation; None: so many, or any."""
        if operation < self._base:  # what was used since is no longer told
            return None
        changed = sorted(self._changed_since(operation) | (self._doubtful or set()))
        return changed if len(changed) <= _FEW else None

    def write(
        self, memory: "NEC", kind: str, slots: Sequence[int], keyed: Sequence[int] = ()
    ) -> bool:
        """Keep a change in one transaction."""
        return self._keep(memory, kind, slots, keyed)

    def flush(self, memory: "NEC") -> int:
        """Keep the use that is not kept yet, as an operation of its own."""
        while len(self._usage.since(memory)[0]):
            self.prepare(memory)
            if self._keep(memory, "use", ()):
                break
        return self.operation

    def rewind(self, memory: "NEC", operation: int) -> None:
        """Drop what came after an operation and load what is left."""
        with self._writing(), self._sound():
            self._execute(LOCK)
            generation = self._head().generation
            self._counters(operation)
            if operation:
                use, touched = self._use_at(operation), self._touched_since(operation)
                self._put_use(use[np.isin(use["slot"], list(touched))])
            else:
                self._execute("DELETE FROM uses")
                self._describe(base=0)
            for table in ("entries", "keys"):
                self._execute(f"DELETE FROM {table} WHERE operation > :number", number=operation)
            self._execute("DELETE FROM operations WHERE number > :number", number=operation)
            self._describe(generation=generation + 1)
        self._load(memory)

    def erase(self, memory: "NEC", ids: Sequence[int], slots: Sequence[int]) -> bool:
        """Take content out of all tables, then out of the files."""
        if not self._keep(memory, "delete", slots, erased=ids):
            return False
        self.scrub()
        return True

    @abstractmethod
    def exists(self) -> bool:
        """Return whether there is a memory already."""

    @abstractmethod
    def scrub(self) -> None:
        """See that nothing of what was deleted is left in the files of the database."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection."""

    def _keep(
        self,
        memory: "NEC",
        kind: str,
        slots: Sequence[int],
        keyed: Sequence[int] = (),
        erased: Sequence[int] = (),
    ) -> bool:
        """Write one operation, in one transaction; return whether nobody else was first."""
        used_S, use_SU = self._usage.since(memory)
        self._doubtful = (self._doubtful or set()) | {*slots, *keyed}
        number, sizes = self.operation + 1, self._sizes
        operation = {
            "number": number,
            "kind": kind,
            "time": time.time(),
            "deleted": json.dumps(list(erased)) if erased else None,
            "undo": pack_use(used_S, self._usage.kept(used_S), sizes).tobytes(),
            "generation": str(self._generation),
            **{name: getattr(memory, name) for name in COUNTERS},
        }
        keys = key_rows(memory, [*slots, *keyed], number) if sizes.bytes("key") else []
        uses = use_rows(pack_use(used_S, use_SU, sizes))
        entries = entry_rows(memory, slots, number, sizes)
        change, seals_3N = self._seal(Change(operation, erased, entries, keys, uses))
        if not self._taken(change):
            return False
        self._seals_3N, self.operation, self._doubtful = seals_3N, number, None
        self._usage.keep(used_S, use_SU)
        self._fold()
        return True

    def _seal(self, change: Change) -> tuple[Change, NDArray[np.int64]]:
        """Return a change with its seals, and those of all slots after it."""
        if not self._sealed:
            return change, self._seals_3N
        entries, keys, uses = map(sealed, (change.entries, change.keys, change.uses))
        seals_3N = count(self._seals_3N, entries, keys, uses)
        operation = change.operation
        operation |= {
            "undo": seal_blob(operation["undo"], operation["number"]),
            "whole": int(seals_3N.sum()),
            "seal": seal([operation[name] for name in COLUMNS["operations"][:-1]]),
        }
        return Change(operation, change.erased, entries, keys, uses), seals_3N

    def _taken(self, change: Change) -> bool:
        """Commit a change; return whether nobody else was first."""
        unsure = False

        def commit() -> bool:
            nonlocal unsure
            try:
                self._commit(change)
            except Conflict:  # if its answer was lost, the one that was first may be itself
                return unsure and self._has(change)
            except OSError:
                unsure = True
                raise
            return True

        return self.through(commit)

    def _has(self, change: Change) -> bool:
        """Return whether the database holds this very operation."""
        found = self._query(
            "SELECT time, undo FROM operations WHERE number = :number",
            number=change.operation["number"],
        )
        mine = change.operation["time"], change.operation["undo"]
        return [(when, bytes(undo)) for when, undo in found] == [mine]

    def _commit(self, change: Change) -> None:
        """Write a change in one transaction.

        Raises:
            Conflict: if the operation before it is not the newest.
        """
        number = change.operation["number"]
        with self._writing():
            if not self._execute(append(self._sealed), **change.operation):
                raise Conflict
            self._erase_versions(change.erased, number)
            self._insert("entries", change.entries)
            self._insert("keys", change.keys)
            self._insert("uses", change.uses, key="slot")

    def _erase_versions(self, ids: Sequence[int], number: int) -> None:
        """Empty all that entries ever held; their ids stay."""
        for entry in ids:
            for slot, first in self._query(
                "SELECT slot, operation FROM entries WHERE id = :entry AND erased IS NULL",
                entry=entry,
            ):
                version = {"slot": slot, "first": first, "number": number}
                emptied = {}
                if self._sealed:
                    row = Version(first, slot, entry, erased=number)
                    emptied = {"emptied": seal(row[:-1])}
                    self._execute(RECOUNT, **version, **emptied)
                self._execute(ERASE_KEYS, **version)
                self._execute(erase(self._sealed), **version, **emptied)

    def _put_use(self, use: NDArray[Any]) -> None:
        """Set how much slots are used."""
        rows = use_rows(use)
        self._insert("uses", sealed(rows) if self._sealed else rows, key="slot")

    def _take(self, memory: "NEC", rows: Rows) -> None:
        """Put rows of others on the device copy, and again the use that came since, on top."""
        unkept = self._usage.unkept(memory, self._doubtful or ())
        clear(memory, sorted(self._doubtful or ()))  # where nothing was kept, nothing is
        put(memory, rows)
        self._usage.take(memory, rows.slots_S, unkept)

    def _load(self, memory: "NEC") -> None:
        """Make the device copy what the database holds."""
        with self._reading(), self._sound():
            head = self._head()
            rows, self._seals_3N = self._rows(head.operation)
        clear(memory, range(memory.capacity))
        put(memory, rows)
        self._usage.load(memory)
        clear(memory, sorted(memory.holes))  # of their use, too: so the next operation keeps it
        self.operation, self._generation, self._base = head
        self._doubtful = None

    def _make_tables(self, wanted: dict[str, Any], kind: str) -> None:
        """Create the tables of an empty memory; `kind` is the type of bytes."""
        for name, columns in TABLES.items():
            self._execute(f"CREATE TABLE {name} ({columns.format(bytes=kind)})")
        for statement in (*INDEXES, VIEW):
            self._execute(statement)
        self._describe(schema=self._schema, generation=0, base=0, past=self.past, **wanted)

    def _expect(self, wanted: dict[str, Any]) -> None:
        """Raise a ValueError if what is kept is not like this memory."""
        found = self.description()
        self.past, self._schema = found.get("past"), found["schema"]
        for name, value in wanted.items():
            if found.get(name) != value:
                raise ValueError(
                    f"{self.name} holds a memory with {name}={found.get(name)}, where this one has "
                    f"{value}: build one like it, or choose another place."
                )

    @abstractmethod
    def _create(self, wanted: dict[str, Any]) -> None:
        """Create the tables if they are not there."""
