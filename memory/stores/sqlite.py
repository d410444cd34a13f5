"""A lifelong memory in a file of SQLite: `episodic_memory.store=sqlite`.

The file is in WAL mode: what was acknowledged survives the end of the process at any moment; with
`synchronous=NORMAL` a loss of power may take the last operations, never half of one. It belongs on
a local disk. Deleted content is overwritten with zeros, then the file is written anew.
"""

import copy
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stillknows.memory.stores.database import Conflict, Database
from stillknows.memory.stores.schema import COLUMNS

APPLICATION = 0x534B4E57  # marks our files, in the header
_VERSION = 1
_BUSY, _PAUSE = 5.0, 0.01  # seconds that another writer is waited for, and between two tries
_LOG = 1 << 23  # bytes that the write-ahead log keeps when it is folded in


class SQLite(Database):
    """A store in a file.

    Args:
        path: of the file; it is made with the first memory. None: none, all is in memory.
        read_only: whether it is only looked at.

    Raises:
        ValueError: if the file is broken or foreign, or not there and only to be looked at.
        OSError: if it cannot be opened.
    """

    def __init__(self, path: Path | str | None, read_only: bool = False) -> None:
        super().__init__(":memory:" if path is None else str(path))
        path = None if path is None else Path(path)
        self.path, self.read_only = path, read_only
        if path is not None and read_only and not path.is_file():
            raise ValueError(f"There is no memory {path}.")
        self._connection = self._open()
        try:
            with self._said():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def __deepcopy__(self, memo: dict[int, Any]) -> "SQLite":
        """Return a copy of all that is kept, without a file."""
        twin = SQLite(None)
        self._connection.backup(twin._connection)
        for name in (
            *("operation", "past", "_generation", "_base", "_doubtful", "_usage", "_sizes"),
            *("_schema", "_seals_3N"),
        ):
            setattr(twin, name, copy.deepcopy(getattr(self, name)))
        return twin

    def exists(self) -> bool:
        """Return whether the file holds a memory."""
        return self._tables() > 0

    def scrub(self) -> None:
        """Write the file anew and empty the write-ahead log.

        Raises:
            OSError: if another program reads it, so that its log cannot be emptied.
        """
        if self.path is None:
            return
        with self._said():
            emptied = self._emptied()
            self._connection.execute("VACUUM")
            emptied = self._emptied()
        if not emptied:
            raise OSError(
                f"{self.name} no longer holds what was deleted, but its write-ahead log may, since "
                "another program has the memory open: close it, and delete once more."
            )

    def close(self) -> None:
        """Fold the write-ahead log into the file and close it."""
        with suppress(sqlite3.Error):
            if not self.read_only:
                self._emptied()
        self._connection.close()

    def _open(self) -> sqlite3.Connection:
        where = ":memory:" if self.path is None else self.path.absolute().as_uri()
        if self.read_only:
            where += "?mode=ro"
        with self._said():
            if self.path is not None and not self.read_only:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            return sqlite3.connect(
                where,
                timeout=_BUSY,
                isolation_level=None,
                uri=self.path is not None,
                check_same_thread=False,
            )

    def _prepare(self) -> None:
        """Look whose file it is before anything is written to it."""
        tables = self._tables()  # first: who is making them marks the file at the same time
        (application,), (version,) = (
            self._query(f"PRAGMA {name}")[0] for name in ("application_id", "user_version")
        )
        if tables and application != APPLICATION:
            raise ValueError(f"{self.name} is a database of something else: choose another file.")
        if version > _VERSION:
            raise ValueError(
                f"{self.name} holds a memory of version {version}; this reads version {_VERSION}: "
                "use the stillknows that wrote it, or a newer one."
            )
        for setting in ("trusted_schema = OFF", "secure_delete = ON", "temp_store = MEMORY"):
            self._query(f"PRAGMA {setting}")
        if not self.read_only:
            self._write_ahead()
            self._query(f"PRAGMA journal_size_limit = {_LOG}")
            self._query("PRAGMA synchronous = NORMAL")
        elif not tables:
            raise ValueError(f"{self.name} holds no memory.")

    def _write_ahead(self) -> None:
        """Switch to WAL mode; SQLite itself does not wait there for one who makes the file."""
        until = time.monotonic() + _BUSY
        while True:
            try:
                self._query("PRAGMA journal_mode = WAL")
                return
            except OSError as error:
                code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
                if code != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(_PAUSE)

    def _tables(self) -> int:
        """Return how many tables, indexes and views there are."""
        count: int = self._query("SELECT count(*) FROM sqlite_master")[0][0]
        return count

    def _create(self, wanted: dict[str, Any]) -> None:
        if self._tables():
            return
        with self._writing():
            if not self._tables():  # nobody was faster
                self._query(f"PRAGMA application_id = {APPLICATION}")
                self._query(f"PRAGMA user_version = {_VERSION}")
                self._make_tables(wanted, "BLOB")

    def _description(self) -> list[tuple[str, str]]:
        return [(name, value) for name, value in self._query("SELECT * FROM description")]

    def _query(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        with self._said():
            return self._connection.execute(statement, values).fetchall()

    def _execute(self, statement: str, **values: Any) -> int:
        with self._said():
            return self._connection.execute(statement, values).rowcount

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]], key: str = "") -> None:
        if not rows:
            return
        columns = COLUMNS[table][: len(rows[0])]  # the last is the seal
        marks = ", ".join("?" * len(columns))
        verb = "INSERT OR REPLACE" if key else "INSERT"
        with self._said():
            self._connection.executemany(
                f"{verb} INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._said():
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            with self._said():
                self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._said():
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            with suppress(sqlite3.Error):
                self._connection.execute("COMMIT")

    def _emptied(self) -> bool:
        """Fold the write-ahead log into the file; return whether nothing of it is left."""
        busy, *_ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Say in one sentence what SQLite found wrong."""
        try:
            yield
        except sqlite3.IntegrityError as error:
            if "operations.number" in str(error):
                raise Conflict from None
            raise ValueError(f"{self.name} is broken: {error}.") from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_of_content(error):
                raise OSError(_sentence(self.name, error)) from error
            said = str(error).splitlines()[0][:200]
            raise ValueError(f"{self.name} is broken or no memory ({said}).") from error
        except OSError as error:
            if error.strerror is None:  # it says it already
                raise
            raise OSError(f"{self.name} cannot be opened: {error.strerror}.") from error


def _is_of_content(error: sqlite3.OperationalError) -> bool:
    """Return whether an error is about what is in a file: no table of ours, or no text."""
    code = getattr(error, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_ERROR or str(error).startswith("Could not decode")


def _sentence(name: str, error: sqlite3.OperationalError) -> str:
    """Return what an error says, and the way out."""
    said = str(error)
    if "locked" in said or "busy" in said:
        return f"{name} is held by another program that writes to it: wait until that has ended."
    if "unable to open" in said or "readonly" in said or "read-only" in said:
        return f"{name} cannot be opened or written: see that its folder is there and yours."
    if "full" in said:
        return f"{name} cannot grow, since the disk is full: make room and go on."
    return f"{name} cannot be used: {said}."
