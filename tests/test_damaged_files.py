"""Files of a memory with anything in them: flipped bits, other types, or of earlier versions."""

import json
import random
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from candidates import rows
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed import (
    TABLES,
    Opener,
    base_of,
    database,  # noqa: F401
    live,
    lived,
    look,
    new,
    opened,
    refused,
    rekeyed,
    same,
)

from stillknows.agents.persistence.memory_lines import export, read_lines
from stillknows.agents.persistence.memory_places import memory_at
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.stores.schema import COLUMNS
from stillknows.memory.stores.seals import seal
from stillknows.memory.stores.sqlite import APPLICATION, SQLite
from stillknows.memory.stores.store import Store

DATA = Path(__file__).parent / "data"
UNSEAL = (  # makes a memory of the second version
    "UPDATE operations SET undo = substr(undo, 1, length(undo) - 4)",
    "ALTER TABLE operations DROP COLUMN whole",
    *(f"ALTER TABLE {table} DROP COLUMN seal" for table in TABLES),
    "DELETE FROM description WHERE name = 'seal'",
    "UPDATE description SET value = '2' WHERE name = 'schema'",
)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[int, NEC]]:
    """Return the file of a memory, and what it was after every operation."""
    path = tmp_path_factory.mktemp("seals") / "memory.sqlite"
    lived(SQLite(path)).store.close()
    return path.read_bytes(), look(lambda: SQLite(str(path)))


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda head, entry: entry.update(id=-1), "has an id of its own"),
        (lambda head, entry: entry.update(id=1), "has an id of its own"),
        (lambda head, entry: head.update(next_id=1), "below the next_id of line 1"),
        (lambda head, entry: head.update(seen=2**63), "line 1 is broken: look at seen"),
        (lambda head, entry: entry["key"].__setitem__(0, 1e39), "line 2 is broken"),
        (lambda head, entry: entry.update(uses=1e39), "line 2 is broken"),
        (lambda head, entry: entry["tokens"]["story"][0].__setitem__(0, -1), "line 2 is broken"),
        (lambda head, entry: entry["tokens"]["answer"].__setitem__(0, -1), "line 2 is broken"),
    ],
)
def test_exported_lines_hold_only_what_a_memory_can(
    change: Callable[..., None], words: str
) -> None:
    memory = NEC(8, 4, 3, EvictOldest(), answer_length=1, story_shape=(2, 3))
    memory.remember(rows((0, 5), (1, 5)))
    head, entry, other = map(json.loads, export(memory, None))
    whole = read_lines(map(json.dumps, (head, entry, other)), "x")
    assert all(torch.equal(whole.columns[name], part) for name, part in memory.columns.items())
    change(head, entry)
    with pytest.raises(ValueError, match=words):
        read_lines(map(json.dumps, (head, entry, other)), "x")
