"""Damage in a database is told: no bit of a row, no row, and no row of another moment is taken."""

import random
import sqlite3
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from candidates import rows
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.agents.persistence.memory_places import memory_at
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.stores.database import Database
from stillknows.memory.stores.schema import COLUMNS
from stillknows.memory.stores.seals import seal
from stillknows.memory.stores.sqlite import APPLICATION, SQLite
from stillknows.memory.stores.store import COUNTERS, Store, accounts_of

TABLES = ("operations", "entries", "keys", "uses")
DATA = Path(__file__).parent / "data"
UNSEAL = (  # makes a memory of the second version
    "UPDATE operations SET undo = substr(undo, 1, length(undo) - 4)",
    "ALTER TABLE operations DROP COLUMN whole",
    *(f"ALTER TABLE {table} DROP COLUMN seal" for table in TABLES),
    "DELETE FROM description WHERE name = 'seal'",
    "UPDATE description SET value = '2' WHERE name = 'schema'",
)


Opener = Callable[[], Store]


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    if request.param == "sqlite":
        return lambda: SQLite(tmp_path / "memory.sqlite")
    request.getfixturevalue("postgres")
    from stillknows.memory.stores.postgres import PostgreSQL

    name = uuid.uuid4().hex
    return lambda: PostgreSQL(name)


class EvictOldestPaid(EvictOldest):
    """First in, first out, with accounts of what each entry earned."""

    def begin(self, capacity: int) -> None:
        self.accounts = {"earned": torch.zeros(capacity), "lost": torch.zeros(capacity)}


def new(policy: type[EvictOldest] = EvictOldestPaid, neighbours: int = 2) -> NEC:
    return NEC(5, 4, 3, policy(), answer_length=2, story_shape=(2, 3), neighbours=neighbours)


def live(memory: NEC, steps: range) -> None:
    """Remember, read and pay, a little of each."""
    for step in steps:
        memory.remember(rows((step % 7, 5 + step % 3), (50 + step, 6), episode=step, seed=step))
        recall = memory.recall(torch.randn(2, 4, generator=torch.Generator().manual_seed(step)))
        for place, account in enumerate(accounts_of(memory).values()):
            account[recall.slots_BK[recall.present_BK]] += step / 3 - place


def rekeyed(memory: NEC, seed: int) -> None:
    keys = torch.randn(memory.capacity, 4, generator=torch.Generator().manual_seed(seed))
    memory.rekey(lambda story_BTL: keys[: len(story_BTL)])


def same(first: NEC, second: NEC) -> None:
    """Assert that two memories hold the same, to the bit."""
    assert all(getattr(first, name) == getattr(second, name) for name in COUNTERS)
    assert first.names == second.names
    for name, column in first.columns.items():
        assert torch.equal(column, second.columns[name]), name
    for name, account in accounts_of(first).items():
        assert torch.equal(account, accounts_of(second)[name]), name


def opened(store: Store) -> NEC:
    """Return a memory that begins with what a store holds."""
    memory = new()
    try:
        memory.keep_in(store)
    except BaseException:
        store.close()
        raise
    return memory


def base_of(store: Store) -> Database:
    assert isinstance(store, Database)
    return store


def lived(store: Store) -> NEC:
    """Return a memory that was written to, read, rekeyed, and deleted from."""
    memory = opened(store)
    live(memory, range(3))
    rekeyed(memory, 1)
    live(memory, range(3, 5))
    memory.delete([memory.next_id - 1, 4])
    memory.remember(rows((60, 6), seed=60))
    memory.recall(memory.columns["keys_ND"][:2].clone())
    memory.flush()
    return memory


def look(open_it: Opener, back: bool = True) -> dict[int, NEC]:
    """Return a memory as it was after each operation, the oldest first, having read all of it."""
    memory = opened(open_it())
    try:
        store = base_of(memory.store)
        if back:
            store.births(), store.ids_of(None, 1), store.names_of([1]), store.gaps(store.operation)
        past = range(max(1, store.first), memory.operation)
        return {n: memory.at(n) for n in past if back} | {memory.operation: memory.fork()}
    finally:
        memory.store.close()


def refused(work: Callable[[], Any], words: str = "is broken") -> None:
    """Expect one sentence."""
    with pytest.raises(ValueError, match=words) as caught:
        work()
    assert "\n" not in str(caught.value)
    assert "is broken" in str(caught.value)


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
        then = memory.at(number)
        newest = {row["slot"]: row for row in tables["entries"] if row["operation"] <= number}
        key = {row["slot"]: row["seal"] for row in tables["keys"] if row["operation"] <= number}
        whole = sum(row["seal"] for row in newest.values())
        whole += sum(key[slot] for slot, row in newest.items() if row["story"] is not None)
        for slot in range(then.capacity):
            use = (then.columns["uses_N"][slot].item(), then.provenance("last_use")[slot].item())
            accounts = getattr(then.policy, "accounts", {}).values()
            own = b"".join(account[slot].numpy().astype("<f4").tobytes() for account in accounts)
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


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[int, NEC]]:
    """Return the file of a memory, and what it was after every operation."""
    path = tmp_path_factory.mktemp("seals") / "memory.sqlite"
    lived(SQLite(path)).store.close()
    return path.read_bytes(), look(lambda: SQLite(path))


@settings(max_examples=60)
@given(draw=st.integers(0, 10**9))
def test_a_file_with_a_flipped_bit_is_refused_or_as_it_was(
    draw: int, closed: tuple[bytes, dict[int, NEC]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content, truth = bytearray(closed[0]), closed[1]
    place = random.Random(draw).randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path = tmp_path_factory.getbasetemp() / f"{uuid.uuid4().hex}.sqlite"
    path.write_bytes(content)
    try:
        found = look(lambda: SQLite(path, read_only=True))
    except (ValueError, OSError) as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    finally:
        path.unlink()
    assert found.keys() == truth.keys()
    for number, then in found.items():
        same(then, truth[number])


JUNK = (None, -5, 2**62, 1.5, "text", "ü\n", b"", b"\xff" * 40, float("inf"))


@pytest.mark.parametrize("table", TABLES)
def test_any_type_in_any_column_even_with_a_seal_that_fits_is_no_traceback(
    table: str, tmp_path: Path
) -> None:
    path = tmp_path / "memory.sqlite"
    lived(SQLite(path)).store.close()
    whole = path.read_bytes()
    broken = 0
    for place, name in enumerate(COLUMNS[table]):
        for junk in JUNK[place % 2 :: 2]:
            path.write_bytes(whole)
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                names = ", ".join(COLUMNS[table][:-1])
                try:
                    connection.execute(f"UPDATE {table} SET {name} = ?", [junk])
                except sqlite3.IntegrityError:
                    continue
                for *row, number in connection.execute(f"SELECT {names}, rowid FROM {table}"):
                    put = f"UPDATE {table} SET seal = ? WHERE rowid = ?"
                    if name != "seal":
                        connection.execute(put, [seal(row), number])
            try:
                look(lambda: SQLite(path, read_only=True))
            except ValueError as error:
                assert "\n" not in str(error)  # noqa: PT017
                assert "is broken" in str(error)  # noqa: PT017
                broken += 1
    assert broken > 5


def test_text_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite"
    lived(SQLite(path)).store.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE entries SET story = CAST(x'ff0a0aff' AS TEXT)")
    refused(lambda: look(lambda: SQLite(path)), "Could not decode")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE keys")
    refused(lambda: look(lambda: SQLite(path)), "no such table: keys")


def unsealed(store: Store) -> NEC:
    """Return a memory that was lived in, of the second version, closed."""
    memory = lived(store)
    for statement in UNSEAL:
        base_of(memory.store)._execute(statement)
    memory.store.close()
    return memory


def test_a_memory_without_seals_is_read_and_written_as_it_is(database: Opener) -> None:
    plain = unsealed(database())
    memory = opened(database())
    same(memory, plain)
    store, twin = base_of(memory.store), plain.fork()
    store.reach(5)
    for each in (memory, twin):
        live(each, range(5, 8))
        each.delete([each.next_id - 1])
        rekeyed(each, 2)
        live(each, range(8, 10))
        each.flush()
    same(memory, twin)
    assert 0 < store.first < memory.operation
    then = memory.at(memory.operation - 2)
    assert store.description()["schema"] == 2
    assert len(store.births()) > 5
    memory.rewind(memory.operation - 2)
    same(memory, then)
    memory.store.close()
    again = opened(database())
    same(again, then)
    base_of(again.store)._execute("UPDATE uses SET slot = 77 WHERE slot = 2")
    refused(lambda: opened(database()), "names a slot that there is not")
    again.store.close()


def test_a_file_of_the_second_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((DATA / "memory_2.sql").read_text())
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute("PRAGMA user_version = 1")
    wanted = new(EvictOldest, neighbours=1)
    for step in range(5):
        wanted.remember(rows((step, 5), (50 + step, 6), episode=step, seed=step))
        for slot in range(step):
            wanted.recall(wanted.columns["keys_ND"][slot : slot + 1].clone())
    wanted.rekey(lambda story_BTL: torch.arange(4 * len(story_BTL)).reshape(-1, 4).float())
    wanted.remember(rows((9, 7), episode=9, seed=9))
    wanted.delete([6])
    with memory_at(str(path), read_only=True) as memory:
        same(memory, wanted)
        assert memory.store.gaps(7) == [6]
        assert sorted(base_of(memory.store).births()) == list(range(11))
    kept = new(EvictOldest, neighbours=1)
    kept.keep_in(SQLite(path))
    for each in (kept, wanted):
        each.remember(rows((3, 8), episode=10, seed=10))
        each.delete([7])
    same(kept, wanted)
    kept.store.close()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE entries SET vector = zeroblob(99)", "a vector in it is broken"),
        ("UPDATE entries SET story = 'abc'", "a story in it is broken"),
        ("UPDATE entries SET episode = 'x'", "where an entry in it is from is broken"),
        ("UPDATE entries SET slot = slot + 5", "names a slot that there is not"),
        ("UPDATE uses SET accounts = x'01'", "what it says of use is broken"),
        ("UPDATE uses SET uses = 'x'", "could not convert"),
        ("UPDATE uses SET slot = -1 WHERE slot = 0", "names a slot that there is not"),
        ("UPDATE operations SET size = 6", "counted is broken"),
        ("UPDATE operations SET seen = -1", "counted is broken"),
        ("UPDATE operations SET clock = 'x'", "counted is broken"),
        ("DELETE FROM operations WHERE number = 2", "operations of it are lost"),
        ("DELETE FROM keys WHERE slot = 2", "a key in it is broken"),
    ],
)
def test_sizes_and_types_are_looked_at_where_there_are_no_seals(
    statement: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "memory.sqlite"
    unsealed(SQLite(path))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    refused(lambda: look(lambda: SQLite(path)), words)


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
