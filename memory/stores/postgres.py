"""A lifelong memory in PostgreSQL, to be shared: `episodic_memory.store=postgres`.

Several processes and machines may live with one memory. Each has a device copy and follows the
others by the numbers of operations; a write that comes second is decided again. Reads ask the
device copy alone: they see what was there at the last write, or `follow`. A write is one statement,
so that who writes alone sends one message to the server; where others were at work lately, another
one before it asks what they have done.

Where the server is, who asks and with which password is told to libpq, by its own environment
variables and files (PGHOST, PGDATABASE, PGUSER, PGSERVICE, PGPASSFILE ...): nothing of it passes
through this project. A memory has a schema of its own, `stillknows_NAME`.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema
from sqlalchemy.sql.elements import TextClause

from stillknows.memory.stores.database import Change, Conflict, Database
from stillknows.memory.stores.schema import COLUMNS, append
from stillknows.memory.stores.store import TensorStore

_LONGEST = 63  # bytes of an identifier
_KEYS = {"entries": "", "keys": "", "uses": "slot"}  # of which rows are replaced
_TYPES = {"uses": "float8", "name": "text", "value": "text"} | dict.fromkeys(
    ("vector", "answer", "story", "key", "accounts"), "bytea"
)  # all others are bigint


def _insertion(table: str, columns: Sequence[str], key: str = "", where: str = "true") -> str:
    """Return a statement that inserts rows, bound as `_bound` has them.

    Args:
        table: of the rows.
        columns: of a row.
        key: a column; a row that has the same is replaced.
        where: a condition.
    """
    arrays = (f"CAST(:{table}_{name} AS {_TYPES.get(name, 'bigint')}[])" for name in columns)
    statement = (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT * "
        f"FROM unnest({', '.join(arrays)}) r WHERE {where}"
    )
    if not key:
        return statement
    new = ", ".join(f"{name} = EXCLUDED.{name}" for name in columns if name != key)
    return f"{statement} ON CONFLICT ({key}) DO UPDATE SET {new}"


def _bound(table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, str]:
    """Return the text of an array for each column.

    The server takes JSON apart anew for every value of a row, and lists are adapted by the driver
    value by value: either takes several times as long.
    """
    parts = zip(*rows, strict=True) if rows else [()] * len(columns)
    return {
        f"{table}_{name}": f"{{{','.join(map(_element, part))}}}"
        for name, part in zip(columns, parts, strict=True)
    }


def _element(value: Any) -> str:
    """Return a value as it stands in the text of an array."""
    if type(value) is bytes:
        return f'"\\\\x{value.hex()}"'
    if type(value) is str:
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}"'
    return "NULL" if value is None else repr(value)


@lru_cache(maxsize=256)
def _text(statement: str) -> TextClause:
    """Return a statement, taken apart once."""
    return text(statement)


@cache
def _change(sealed: bool) -> str:
    """Return what writes an operation with all its rows; nothing, where the memory was rewound."""
    where = "EXISTS (SELECT 1 FROM appended)"
    tables = {name: COLUMNS[name] if sealed else COLUMNS[name][:-1] for name in _KEYS}
    inserts = ", ".join(
        f"{name[0]} AS ({_insertion(name, columns, _KEYS[name], where)})"
        for name, columns in tables.items()
    )
    return (
        f"WITH appended AS ({append(sealed)} RETURNING number), {inserts} "
        "SELECT count(*) FROM appended"
    )


class PostgreSQL(Database):
    """A store in a database of a server.

    Args:
        memory: its name; one that is not there yet is made with the first memory.
        read_only: whether it is only looked at.

    Raises:
        ValueError: if the name is too long, or there is no such memory to look at.
        OSError: if the server cannot be reached.
    """

    def __init__(self, memory: str, read_only: bool = False) -> None:
        super().__init__(f"postgres:{memory}")
        self.schema, self.read_only = f"stillknows_{memory}", read_only
        if not memory or "\0" in memory or len(self.schema.encode()) > _LONGEST:
            raise ValueError(
                f"{self.name}: the name of a memory has 1 to {_LONGEST - len('stillknows_')} bytes."
            )
        self._engine = create_engine(
            "postgresql+psycopg://",
            poolclass=NullPool,
            hide_parameters=True,
            isolation_level="AUTOCOMMIT",
        )
        self._open: Connection | None = None
        there = self.exists()
        if read_only and not there:
            raise ValueError(f"There is no memory {self.name}.")

    def __deepcopy__(self, memo: dict[int, Any]) -> TensorStore:
        """Return a store in tensors: a copy of a shared memory is shared with nobody."""
        return TensorStore(self.operation)

    def exists(self) -> bool:
        """Return whether the server holds a memory of this name."""
        found = self._query("SELECT 1 FROM pg_namespace WHERE nspname = :name", name=self.schema)
        return bool(found)

    def scrub(self) -> None:
        """Write the tables anew. Logs and backups of the server are the server's."""
        for table in ("operations", *_KEYS):
            self._execute(f"VACUUM FULL {table}")

    def close(self) -> None:
        """Let go of the connection."""
        if self._open is not None:
            with suppress(DBAPIError):
                self._open.close()
        self._open = None

    def _connection(self) -> Connection:
        """Return a connection that is open, with the memory's schema before it."""
        if self._open is not None and (self._open.closed or self._open.invalidated):
            self.close()
        if self._open is None:
            self._open = self._engine.connect()
            quoted = self.schema.replace('"', '""')
            path = text("SELECT set_config('search_path', :path, false)")
            self._open.execute(path, {"path": f'"{quoted}"'})
        return self._open

    def _create(self, wanted: dict[str, Any]) -> None:
        if self.exists():
            return
        with self._writing():
            self._query("SELECT pg_advisory_xact_lock(hashtext(:name))", name=self.schema)
            if not self.exists():  # nobody was faster
                with self._said():
                    self._connection().execute(CreateSchema(self.schema))
                self._make_tables(wanted, "BYTEA")

    def _description(self) -> list[tuple[str, str]]:
        return [(name, value) for name, value in self._query("SELECT * FROM description")]

    def _query(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        with self._said():
            return [tuple(row) for row in self._connection().execute(_text(statement), values)]

    def _execute(self, statement: str, **values: Any) -> int:
        with self._said():
            return self._connection().execute(_text(statement), values).rowcount

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]], key: str = "") -> None:
        if not rows:
            return
        columns = COLUMNS[table][: len(rows[0])]  # the last is the seal
        self._execute(_insertion(table, columns, key), **_bound(table, columns, rows))

    def _commit(self, change: Change) -> None:
        """Write a change in one statement; one that erases, in a transaction of several."""
        if change.erased:
            super()._commit(change)
            return
        values = dict(change.operation)
        for table in _KEYS:
            values |= _bound(table, self._columns(table), getattr(change, table))
        if not self._query(_change(self._sealed), **values)[0][0]:
            raise Conflict

    def _writing(self) -> AbstractContextManager[None]:
        return self._transaction("BEGIN")

    def _reading(self) -> AbstractContextManager[None]:
        return self._transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self._execute(begin)
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        """Undo what a transaction has done, where there still is one."""
        try:
            self._execute("ROLLBACK")
        except OSError:
            self.close()

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Say in one sentence what the server or the way to it has wrong."""
        try:
            yield
        except IntegrityError as error:
            if "operations_pkey" in str(error.orig):
                raise Conflict from None
            raise ValueError(f"{self.name} is broken: {_first(error)}.") from None
        except DBAPIError as error:
            raise OSError(self._sentence(error)) from None

    def _sentence(self, error: DBAPIError) -> str:
        """Return what went wrong, and the way out."""
        if error.connection_invalidated:
            return (
                f"The connection to {self.name} is lost: what was acknowledged is kept; go on when "
                "the server is back."
            )
        if type(error.orig).__name__ in ("UndefinedTable", "UndefinedColumn"):
            return f"{self.name} holds something else than a memory: choose another name."
        return (
            f"{self.name} cannot be used ({_first(error)}): see that libpq's variables, such as "
            "PGHOST and PGDATABASE, say where the server is."
        )


def _first(error: DBAPIError) -> str:
    """Return the first line of what the driver says, which names no password."""
    lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
    return lines[0].rstrip(".")
