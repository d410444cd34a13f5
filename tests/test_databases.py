"""Memories in databases when things go wrong: killed, broken, foreign, locked, cut off, crowded."""

import os
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from written import new

from stillknows.memory.episodic import Candidates
from stillknows.memory.nec import NEC
from stillknows.memory.stores.merging import merge
from stillknows.memory.stores.sqlite import APPLICATION, SQLite
from stillknows.memory.stores.store import TensorStore


def rows(name: int) -> Candidates:
    random = torch.Generator().manual_seed(name)
    whole = torch.tensor([name])
    return Candidates(
        key_BD=torch.randn(1, 4, generator=random),
        vector_BV=torch.randn(1, 3, generator=random),
        answers_BA=whole[:, None] + 1,
        story_BTL=torch.randint(1, 30_000, (1, 2, 3), generator=random),
        hash_B=whole,
        outcome_BF=torch.zeros(1, 3),
        task_B=whole,
        episode_B=whole,
        step_B=whole,
    )


def kept(path: Path, names: range) -> NEC:
    memory = new()
    memory.keep_in(SQLite(path))
    for name in names:
        memory.remember(rows(name))
    return memory


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork where threads are
def test_what_was_acknowledged_is_there_after_a_kill(
    tmp_path: Path, load_benchmark: Callable[[str], Any]
) -> None:
    benchmark, path = load_benchmark("store_durability"), tmp_path / "memory.sqlite"
    counts, plain = [], benchmark.new_memory()
    for seconds in (0.02, 0.05, 0.11):
        acknowledged = benchmark.one_round(path, seconds)
        counts.append(benchmark.expect_kept(path, acknowledged, plain))
    assert 0 < counts[0] < counts[1] < counts[2]


def test_half_of_an_operation_is_none(tmp_path: Path) -> None:
    memory = kept(tmp_path / "memory.sqlite", range(3))
    before, insert = memory.fork(), memory.store._insert

    def fails(table: str, *arguments: Any, **options: Any) -> None:
        if table == "keys":
            raise KeyboardInterrupt
        insert(table, *arguments, **options)

    memory.store._insert = fails  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        memory.remember(rows(7))
    memory.store._insert = insert  # type: ignore[method-assign]
    again = new()
    again.keep_in(SQLite(tmp_path / "memory.sqlite"))
    memory.follow()  # the device copy was ahead
    for each in (again, memory):
        assert each.operation == 3
        assert each.seen == before.seen
        assert each.names == before.names
        for name, column in before.columns.items():
            assert torch.equal(column, each.columns[name]), name
    (written,) = memory.remember(rows(8))
    assert written.entry == 3


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE birds (name TEXT)")
    connection.close()


def torn(path: Path) -> None:
    kept(path, range(40)).store.close()
    whole = bytearray(path.read_bytes())
    whole[4096:] = os.urandom(len(whole) - 4096)
    path.write_bytes(whole)


def newer(path: Path) -> None:
    kept(path, range(2)).store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()


def changed(statement: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        kept(path, range(2)).store.close()
        with sqlite3.connect(path) as connection:
            connection.execute(statement)
        connection.close()

    return change


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (foreign, "is a database of something else"),
        (lambda path: path.write_bytes(b"x" * 5000), "is broken or no memory"),
        (torn, "is broken"),
        (newer, "of version 2; this reads version 1"),
        (changed("UPDATE description SET value='9' WHERE name='schema'"), "of version 9; this"),
        (
            changed("UPDATE description SET value='8' WHERE name='capacity'"),
            "description does not fit",
        ),
        (changed("UPDATE entries SET vector=zeroblob(99)"), "is broken: a row of entries"),
        (changed("UPDATE entries SET story='abc'"), "is broken: a row of entries"),
        (changed("UPDATE uses SET accounts=x'01'"), "is broken: a row of uses"),
        (changed("DELETE FROM keys WHERE slot=1"), "is broken: a key in it is broken"),
        (changed("DELETE FROM description"), "version None; this reads version 3"),
        (changed("DELETE FROM description WHERE name='generation'"), "is broken: "),
        (changed("UPDATE description SET value='{' WHERE name='past'"), "is broken: "),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    spoil: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "memory.sqlite"
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=words) as caught:
        new().keep_in(SQLite(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(path.read_bytes()) == len(before)


@pytest.mark.parametrize(
    "options",
    [
        {"capacity": 5},
        {"answer_length": 3},
        {"story_shape": (2, 4)},
        {"token_bytes": 4},
        {"identity": "text"},
    ],
)
def test_a_memory_of_other_sizes_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    kept(tmp_path / "memory.sqlite", range(2)).store.close()
    other = new(**options)
    with pytest.raises(ValueError, match=next(iter(options))):
        other.keep_in(SQLite(tmp_path / "memory.sqlite"))
    assert isinstance(other.store, TensorStore)  # and it is as it was


def test_what_was_only_merged_is_kept_as_well(tmp_path: Path) -> None:
    memory, other = new(), new()
    for name in range(3):
        other.remember(rows(name))
    merge(memory, other)
    assert memory.seen == 0
    fork = memory.fork(SQLite(tmp_path / "fork.sqlite"))
    memory.keep_in(SQLite(tmp_path / "memory.sqlite"))
    for place, each in (("fork", fork), ("memory", memory)):
        each.store.close()
        again = new()
        again.keep_in(SQLite(tmp_path / f"{place}.sqlite"))
        assert again.provenance("hash").tolist()[:3] == [0, 1, 2]
        again.store.close()
    fresh = new()
    merge(fresh, other)
    with pytest.raises(ValueError, match="holds a memory already"):
        fresh.keep_in(SQLite(tmp_path / "memory.sqlite"))


def test_a_folder_that_cannot_be_and_a_file_that_is_locked_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be opened"):
        SQLite(tmp_path / "file" / "memory.sqlite")
    with pytest.raises(OSError, match="cannot be opened"):
        SQLite(tmp_path)
    monkeypatch.setattr("stillknows.memory.stores.sqlite._BUSY", 0.05)
    memory = kept(tmp_path / "memory.sqlite", range(2))
    other = sqlite3.connect(tmp_path / "memory.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OSError, match="held by another program that writes"):
        memory.remember(rows(5))
    other.execute("ROLLBACK")
    memory.remember(rows(6))
    assert memory.operation == 3
    assert sorted(memory.provenance("hash").tolist()) == [-1, 0, 1, 6]
    other.execute("PRAGMA query_only = ON")
    assert other.execute("PRAGMA application_id").fetchone() == (APPLICATION,)
    other.close()


def test_a_memory_that_is_only_looked_at_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no memory"):
        SQLite(tmp_path / "memory.sqlite", read_only=True)
    assert not list(tmp_path.iterdir())
    kept(tmp_path / "memory.sqlite", range(2)).store.close()
    reader = new()
    reader.keep_in(SQLite(tmp_path / "memory.sqlite", read_only=True))
    assert len(reader) == 2
    with pytest.raises(OSError, match="cannot be opened or written"):
        reader.remember(rows(4))


def test_deleted_bytes_are_in_no_page_and_no_log(tmp_path: Path) -> None:
    memory = kept(tmp_path / "memory.sqlite", range(3))
    memory.rekey(lambda story_BTL: story_BTL.flatten(1).float()[:, :4].cos())
    one = rows(1)
    contents = [
        one.key_BD.numpy().tobytes(),
        one.vector_BV.numpy().tobytes(),
        one.story_BTL.numpy().astype("<i2").tobytes(),
        one.story_BTL.flatten(1).float()[:, :4].cos().numpy().tobytes(),
    ]

    def held(content: bytes) -> list[str]:
        return [file.name for file in tmp_path.iterdir() if content in file.read_bytes()]

    assert all(held(content) for content in contents)
    memory.delete([1])
    assert not any(held(content) for content in contents)  # while it is still open
    assert memory.store._query("PRAGMA freelist_count") == [(0,)]
    memory.store.close()
    assert not any(held(content) for content in contents)
    assert [file.name for file in tmp_path.iterdir()] == ["memory.sqlite"]


def test_a_file_has_no_free_pages_after_a_deletion(tmp_path: Path) -> None:
    memory = kept(tmp_path / "memory.sqlite", range(200))
    memory.delete(range(190))  # most of them were in the past
    assert memory.store._query("PRAGMA freelist_count") == [(0,)]
    assert memory.at(100).size == memory.at(100).capacity
    assert len(memory.at(100)) == 0
    assert memory.store.gaps(100) == [96, 97, 98, 99]
    memory.store.close()


def test_a_deletion_that_a_reader_holds_up_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillknows.memory.stores.sqlite._BUSY", 0.05)
    memory = kept(tmp_path / "memory.sqlite", range(3))
    reader = sqlite3.connect(tmp_path / "memory.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM entries").fetchone()
    with pytest.raises(OSError, match=r"write-ahead log may|held by another program"):
        memory.delete([1])
    reader.execute("COMMIT")
    reader.close()
    memory.delete([1])
    content = rows(1).vector_BV.numpy().tobytes()
    assert not any(content in file.read_bytes() for file in tmp_path.iterdir())


def test_without_a_server_the_sentence_names_no_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("psycopg")
    from stillknows.memory.stores.postgres import PostgreSQL

    for name, value in {
        "HOST": "127.0.0.1",
        "PORT": "1",
        "PASSWORD": "s3cret",
        "USER": "u",
    }.items():
        monkeypatch.setenv(f"PG{name}", value)
    with pytest.raises(OSError, match="PGHOST and PGDATABASE") as caught:
        PostgreSQL("memory")
    assert "s3cret" not in repr(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="1 to 52 bytes"):
        PostgreSQL("x" * 53)


def test_a_lost_connection_is_one_sentence_and_nothing_is_lost(postgres: None) -> None:
    import psycopg

    from stillknows.memory.stores.postgres import PostgreSQL

    name = uuid.uuid4().hex
    memory = new()
    memory.keep_in(PostgreSQL(name))
    memory.remember(rows(1))
    memory.recall(torch.zeros(1, 4))
    with psycopg.connect("", autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND datname = current_database()"
        )
    with pytest.raises(OSError, match="is lost: what was acknowledged is kept"):
        memory.remember(rows(2))
    (written,) = memory.remember(rows(3))
    assert written.entry == 1
    assert memory.columns["uses_N"][0] == 1
    again = new()
    again.keep_in(PostgreSQL(name))
    assert again.provenance("hash").tolist()[:2] == [1, 3]
    third = PostgreSQL(name)
    with pytest.raises(ValueError, match="capacity=4, where"):
        new(capacity=5).keep_in(third)
    for store in (memory.store, again.store, third):
        store.close()


def test_who_writes_alone_sends_one_message_a_write(postgres: None) -> None:
    from sqlalchemy import event

    from stillknows.memory.stores.postgres import PostgreSQL

    name = uuid.uuid4().hex
    memory, other, store = new(), new(), PostgreSQL(name)
    memory.keep_in(store)
    sent: list[str] = []
    event.listen(
        store._engine, "before_cursor_execute", lambda *said: sent.append(said[2].split()[0])
    )
    for number in range(7):
        memory.recall(torch.zeros(2, 4))
        memory.remember(rows(number))
    assert sent == ["WITH"] * 7
    sent.clear()
    memory.recall(torch.zeros(2, 4))
    memory.flush()
    assert sent == ["WITH"]
    other.keep_in(PostgreSQL(name))
    other.remember(rows(8))
    sent.clear()
    memory.remember(rows(9))
    assert sent[:2] == ["WITH", "SELECT"]
    assert sent[-1] == "WITH"
    sent.clear()
    for number in (10, 11):
        memory.remember(rows(number))
    assert sent == ["SELECT", "WITH", "WITH"]
    for each in (memory, other):
        each.store.close()


def test_names_and_contents_are_bound_not_pasted(postgres: None) -> None:
    from stillknows.memory.stores.postgres import PostgreSQL

    name = "a\"b; DROP SCHEMA x '%s:y"
    memory = new()
    memory.keep_in(PostgreSQL(name))
    memory.remember(rows(1))
    again = new()
    again.keep_in(PostgreSQL(name))
    assert len(again) == 1
    for each in (memory, again):
        each.store.close()
