"""The tables of a memory in a database, and the statements that read them; see `database.py`.

`operations` is only appended to. `entries` and `keys` have a row for every time that a slot
changed, `uses` one for each slot, and `present` is a view of the entries as they are.

The past reaches back to an operation, the base. What is older is folded into it: of every slot the
newest row up to the base stays, and of the operations before it those that such rows, or
deletions, are of.

Since the third version every row has a seal, and every operation the sum of what the memory held
after it (`seals.py`).
"""

from collections.abc import Sequence

from stillknows.memory.stores.rows import Version

BOUNDED, SEALED = 2, 3  # versions: before the first the past was whole, before the second unsealed
SCHEMA = SEALED
READABLE = (1, BOUNDED, SEALED)
CONTENT = ("task", "episode", "step", "birth", "hash", "vector", "answer", "story")
TABLES = {
    "description": "name TEXT PRIMARY KEY, value TEXT NOT NULL",
    "operations": "number BIGINT PRIMARY KEY, kind TEXT NOT NULL, time DOUBLE PRECISION NOT NULL, "
    "seen BIGINT NOT NULL, clock BIGINT NOT NULL, next_id BIGINT NOT NULL, size BIGINT NOT NULL, "
    "deleted TEXT, seal BIGINT NOT NULL, undo {bytes}, whole BIGINT",
    "entries": "operation BIGINT NOT NULL, slot BIGINT NOT NULL, id BIGINT NOT NULL, task BIGINT, "
    "episode BIGINT, step BIGINT, birth BIGINT, hash BIGINT, vector {bytes}, answer {bytes}, "
    "story {bytes}, erased BIGINT, seal BIGINT NOT NULL, PRIMARY KEY (operation, slot)",
    "keys": "operation BIGINT NOT NULL, slot BIGINT NOT NULL, key {bytes} NOT NULL, "
    "seal BIGINT NOT NULL, PRIMARY KEY (operation, slot)",
    "uses": "slot BIGINT PRIMARY KEY, uses DOUBLE PRECISION NOT NULL, last_use BIGINT NOT NULL, "
    "accounts {bytes} NOT NULL, seal BIGINT NOT NULL",
}
INDEXES = (
    "CREATE INDEX entries_by_slot ON entries (slot, operation)",
    "CREATE INDEX entries_by_id ON entries (id)",
    "CREATE INDEX keys_by_slot ON keys (slot, operation)",
)
COLUMNS = {  # in the order of their rows; the seal is of those before it
    "description": ("name", "value"),
    "operations": (
        *("number", "kind", "time", "seen", "clock", "next_id", "size", "deleted"),
        "seal",
    ),
    "entries": Version._fields,
    "keys": ("operation", "slot", "key", "seal"),
    "uses": ("slot", "uses", "last_use", "accounts", "seal"),
}
VIEW = (
    "CREATE VIEW present AS SELECT e.slot, e.id, e.task, e.episode, e.step, e.birth, u.uses, "
    "u.last_use, e.operation, o.time FROM entries e JOIN (SELECT slot, max(operation) AS operation "
    "FROM entries GROUP BY slot) v ON e.slot = v.slot AND e.operation = v.operation "
    "JOIN operations o ON o.number = e.operation LEFT JOIN uses u ON u.slot = e.slot "
    "WHERE e.id >= 0"
)
BASE = "coalesce((SELECT value FROM description WHERE name = 'base'), '0')"
HEAD = (
    "SELECT (SELECT coalesce(max(number), 0) FROM operations), "
    f"(SELECT value FROM description WHERE name = 'generation'), {BASE}"
)
LOCK = "UPDATE description SET value = value WHERE name = 'generation'"  # until the end
_UNTIL = (  # the next version of a slot
    "coalesce((SELECT min(operation) FROM entries WHERE slot = :slot AND operation > :first), "
    ":number)"
)
ERASE_KEYS = (  # of one version of a slot
    f"DELETE FROM keys WHERE slot = :slot AND operation >= :first AND operation < {_UNTIL}"
)
RECOUNT = (  # one version of a slot, which is to be empty, in the sums of what held it
    "UPDATE operations SET whole = whole + :emptied - (SELECT seal FROM entries WHERE slot = :slot "
    "AND operation = :first) - coalesce((SELECT k.seal FROM keys k WHERE k.slot = :slot "
    "AND k.operation >= :first AND k.operation <= operations.number "
    f"ORDER BY k.operation DESC LIMIT 1), 0) WHERE number >= :first AND number < {_UNTIL}"
)
FOLD = (  # into the operation `:base`
    *(
        f"DELETE FROM {table} WHERE operation < :base AND EXISTS (SELECT 1 FROM {table} v WHERE "
        f"v.slot = {table}.slot AND v.operation > {table}.operation AND v.operation <= :base)"
        for table in ("entries", "keys")
    ),
    "DELETE FROM operations WHERE number < :base AND deleted IS NULL AND NOT EXISTS "
    "(SELECT 1 FROM entries e WHERE e.operation = operations.number)",
    "UPDATE operations SET undo = NULL WHERE number <= :base AND undo IS NOT NULL",
)
UNSUM = "UPDATE operations SET whole = NULL WHERE number < :base AND whole IS NOT NULL"  # with it
LOST = (  # operations since the base; rows of operations that there are not
    "SELECT (SELECT count(*) FROM operations WHERE number > :base), "
    "(SELECT count(*) FROM entries WHERE operation > :number) "
    "+ (SELECT count(*) FROM keys WHERE operation > :number) "
    "+ (SELECT count(*) FROM uses WHERE :number = 0)"
)


def append(sealed: bool) -> str:
    """Return what appends an operation: nothing, where the one before it is not the newest.

    Nor where the memory was rewound since; where another appends at the same time, it is an error.
    """
    names = (*COLUMNS["operations"][:-1], "undo", *(("whole", "seal") if sealed else ()))
    return (
        f"INSERT INTO operations ({', '.join(names)}) SELECT :{', :'.join(names)} "
        "WHERE (SELECT value FROM description WHERE name = 'generation') = :generation "
        "AND (SELECT coalesce(max(number), 0) FROM operations) = :number - 1"
    )


def erase(sealed: bool) -> str:
    """Return what empties the version of a slot that began with the operation `:first`."""
    emptied = ", ".join(f"{name} = NULL" for name in CONTENT)
    return (
        f"UPDATE entries SET {emptied}, erased = :number{', seal = :emptied' if sealed else ''} "
        "WHERE slot = :slot AND operation = :first"
    )


def as_of(table: str, columns: Sequence[str], slots: Sequence[int] | None = None) -> str:
    """Return a query of slots as they were after the operation `:number`.

    Args:
        table: `entries` or `keys`.
        columns: what is asked.
        slots: which, bound as `:slot0` and so on; None: all.
    """
    some = ""
    if slots is not None:
        names = ", ".join(f":slot{place}" for place in range(len(slots))) or "NULL"
        some = f" AND slot IN ({names})"
    return (
        f"SELECT {', '.join('t.' + name for name in columns)} FROM {table} t JOIN (SELECT slot, "
        f"max(operation) AS operation FROM {table} WHERE operation <= :number{some} GROUP BY slot) "
        "v ON t.slot = v.slot AND t.operation = v.operation"
    )
