"""Damage in a database is told: no bit of a row, no row, and no row of another moment is taken."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sealed import (
    TABLES,
    Opener,
    base_of,
    database,  # noqa: F401
    live,
    lived,
    look,
    opened,
    refused,
    rekeyed,
    same,
)

from stillknows.memory.episodic import PROVENANCE
from stillknows.memory.stores.database import Database
from stillknows.memory.stores.schema import COLUMNS


@contextmanager
def changed(store: Database, table: str, row: dict[str, Any], **values: Any) -> Iterator[None]:
    """Change values of a row, and change them back."""
    told = {name: row[name] for name in KEYS[table]}
    _set(store, table, told, values)
    yield
    told |= {name: value for name, value in values.items() if name in told}
    _set(store, table, told, {name: row[name] for name in values})


KEYS = {
    "operations": ("number",),
    "entries": ("operation", "slot"),
    "keys": ("operation", "slot"),
    "uses": ("slot",),
}


def _set(store: Database, table: str, key: dict[str, Any], values: dict[str, Any]) -> None:
    parts = ", ".join(f"{name} = :new_{name}" for name in values)
    where = " AND ".join(f"{name} = :{name}" for name in key)
    given = {f"new_{name}": value for name, value in values.items()}
    assert store._execute(f"UPDATE {table} SET {parts} WHERE {where}", **key, **given) == 1


def rows_in(store: Database, table: str) -> list[dict[str, Any]]:
    """Return all rows of a table, with the columns that have a seal of their own."""
    more = ("undo", "whole") if table == "operations" else ()
    names = (*COLUMNS[table], *more)
    found = store._query(f"SELECT {', '.join(names)} FROM {table} ORDER BY 1, 2")
    return [dict(zip(names, row, strict=True)) for row in found]


def other(value: Any) -> Any:
    """Return a value beside one, of its type."""
    if isinstance(value, str):
        return value + " "
    if isinstance(value, bytes):
        return bytes([value[0] ^ 1]) + value[1:] if value else b"\x01"
    return value + 1000


@pytest.mark.parametrize("table", TABLES)
def test_another_value_in_any_column_is_told(database: Opener, table: str) -> None:
    memory = lived(database())
    store, told = base_of(memory.store), set()
    for place, row in enumerate(rows_in(store, table)):
        for name in [*row][place % 3 :: 3]:  # of each row a third
            if row[name] is None or (name, row.get("number")) == ("undo", 1):  # nobody reads it
                continue
            with changed(store, table, row, **{name: other(row[name])}):
                said = "says of use does not fit" if name == "undo" else "is broken"
                refused(lambda: look(database), said)
            told.add(name)
    assert told | {"deleted"} == set(row) | {"deleted"}  # that one has a test of its own
    same(look(database)[memory.operation], memory)
    store.close()


def test_nothing_in_the_place_of_something_and_the_other_way_round_are_told(
    database: Opener,
) -> None:
    memory = lived(database())
    store = base_of(memory.store)
    for row in rows_in(store, "entries")[::2]:
        for name in ("task", "hash", "vector", "story", "erased"):
            blob = name in ("vector", "story")
            with changed(
                store, "entries", row, **{name: (b"" if blob else 3) if row[name] is None else None}
            ):
                refused(lambda: look(database), "does not fit its seal")
    for row in rows_in(store, "operations"):
        with changed(store, "operations", row, deleted=None if row["deleted"] else "[1]"):
            refused(lambda: look(database), "does not fit its seal")
    store.close()


@pytest.mark.parametrize("table", TABLES)
def test_a_row_that_is_lost_is_told_when_what_it_was_for_is_read(
    database: Opener, table: str, tmp_path: Path
) -> None:
    memory = lived(database())
    store, whole = base_of(memory.store), look(database)
    kept = rows_in(store, table)
    for row in kept:
        key = {name: row[name] for name in KEYS[table]}
        where = " AND ".join(f"{name} = :{name}" for name in key)
        store._execute(f"DELETE FROM {table} WHERE {where}", **key)
        try:
            found = look(database)
        except ValueError as error:
            assert "lost" in str(error) or "is broken" in str(error)  # noqa: PT017
            told = True
        else:
            told = False
            for number, then in found.items():
                same(then, whole[number])
        assert told or row["last_use"] == -1  # which is as if there had been no row
        names = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        store._execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", **row)
    same(look(database)[memory.operation], memory)
    store.close()


def test_a_sound_row_of_another_moment_is_told(database: Opener) -> None:
    memory = opened(database())
    live(memory, range(2))
    memory.flush()
    store = base_of(memory.store)
    before = {row["slot"]: row for row in rows_in(store, "uses")}
    memory.recall(memory.columns["keys_ND"][:2].clone())
    memory.flush()
    replaced = 0
    for row in rows_in(store, "uses"):
        if row != before[row["slot"]]:
            with changed(store, "uses", row, **before[row["slot"]]):
                refused(lambda: look(database, back=False), "lost, or are of another moment")
            replaced += 1
    assert replaced
    store.close()


def test_all_operations_lost_are_told(database: Opener) -> None:
    lived(database()).store.close()
    store = base_of(opened(database()).store)
    store._execute("DELETE FROM operations")
    refused(lambda: look(database), "operations of it are lost")
    for table in ("entries", "keys"):
        store._execute(f"DELETE FROM {table}")
    refused(lambda: look(database), "operations of it are lost")
    store.close()


def test_every_line_of_the_description_is_sealed(database: Opener) -> None:
    store = base_of(lived(database()).store)
    lines = store._query("SELECT name, value FROM description")
    assert len(lines) == 13
    put = "UPDATE description SET value = :value WHERE name = :name"
    for name, value in lines:
        for word in {"true", "[]", "7" + value, value + "0"} - {value}:
            store._execute(put, name=name, value=word)
            refused_or_newer(lambda: opened(database()))
        store._execute(put, name=name, value=value)
    store._execute(put, name="schema", value="2")  # one bit: as if there were no seals
    refused(lambda: opened(database()), "description does not fit its seal")
    store._execute(put, name="schema", value="3")
    store.reach(5)
    store._execute("UPDATE description SET value = '7' WHERE name = 'past'")
    refused(lambda: store.reach(9), "description does not fit")  # damage is not sealed anew
    store._execute("UPDATE description SET value = '5' WHERE name = 'past'")
    store.reach(9)
    assert base_of(opened(database()).store).past == 9
    store.close()


def refused_or_newer(work: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"is broken|of version") as caught:
        work()
    assert "\n" not in str(caught.value)


def checksum(row: tuple[Any, ...]) -> int:
    """Return the seal of a row as the documentation says it."""
    text = ""
    for value in row:
        text += "," + (value.hex() if isinstance(value, bytes) else str(value))
    return zlib.crc32(text[1:].encode())


def expect_sums(open_it: Opener) -> None:
    """Add up what the memory held after every operation, in plain Python, from its rows."""
    memory = opened(open_it())
    store = base_of(memory.store)
    tables = {table: rows_in(store, table) for table in TABLES}
    for table, found in tables.items():
        for row in found:
            assert row["seal"] == checksum(tuple(row[n] for n in COLUMNS[table][:-1])), table
    first = max(1, store.first)
    for operation in tables["operations"]:
        number = operation["number"]
        if number < first:
            assert operation["whole"] is None  # nothing of what was let go is left
            continue
        then = store.at(number)  # as the tables have it, use of what was deleted as well
        last_S = then.columns["provenance_NC"][:, PROVENANCE.index("last_use")]
        newest = {row["slot"]: row for row in tables["entries"] if row["operation"] <= number}
        key = {row["slot"]: row["seal"] for row in tables["keys"] if row["operation"] <= number}
        whole = sum(row["seal"] for row in newest.values())
        whole += sum(key[slot] for slot, row in newest.items() if row["story"] is not None)
        for place, slot in enumerate(then.slots_S.tolist()):
            use = (then.columns["uses_N"][place].item(), last_S[place].item())
            accounts = then.accounts.values()
            own = b"".join(account[place].numpy().astype("<f4").tobytes() for account in accounts)
            if use != (0, -1) or any(own):
                whole += checksum((slot, *use, own))
        assert operation["whole"] == whole, number
    store.close()


def test_sums_are_right_through_deletions_folding_and_going_back(database: Opener) -> None:
    memory = lived(database())
    expect_sums(database)
    store = base_of(memory.store)
    store.reach(4)
    live(memory, range(5, 9))
    rekeyed(memory, 3)
    assert store.first > 0
    expect_sums(database)
    memory.delete([memory.next_id - 2, 2])
    expect_sums(database)
    memory.rewind(memory.operation - 2)
    expect_sums(database)
    live(memory, range(9, 11))
    memory.restore(memory.snapshot())
    expect_sums(database)
    memory.rewind(0)
    expect_sums(database)
    live(memory, range(2))
    expect_sums(database)
    memory.store.close()


def test_what_another_wrote_is_told_when_it_is_followed(database: Opener) -> None:
    first, second = opened(database()), opened(database())
    live(first, range(2))
    second.follow()
    live(first, range(2, 3))
    first.recall(first.columns["keys_ND"][:2].clone())
    first.flush()
    store = base_of(first.store)
    (row,) = (row for row in rows_in(store, "entries") if row["id"] == 5)
    with changed(store, "entries", row, episode=7):
        refused(second.follow, "a row of entries")
    where = {name: row[name] for name in KEYS["entries"]}
    store._execute("DELETE FROM entries WHERE operation = :operation AND slot = :slot", **where)
    refused(second.follow, "lost, or are of another moment")
    names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
    store._execute(f"INSERT INTO entries ({names}) VALUES ({marks})", **row)
    second.follow()
    same(first, second)
    for memory in (first, second):
        memory.store.close()


def test_use_of_slots_that_a_restored_snapshot_had_not_is_exact(database: Opener) -> None:
    first = opened(database())
    before = first.snapshot()
    live(first, range(1))
    then = first.flush()
    was = first.fork()
    third = opened(database())
    first.restore(before)
    restored, empty = first.operation, first.fork()
    third.follow()
    second = opened(database())
    live(second, range(1, 2))
    first.follow()
    live(third, range(2, 3))
    for memory in (first, second, third):
        same(memory.at(then), was)
        same(memory.at(restored), empty)  # though what was earned is told of no entry
    first.rewind(restored)
    same(first, empty)
    first.rewind(then)
    same(first, was)
    for memory in (first, second, third):
        memory.store.close()
    expect_sums(database)
