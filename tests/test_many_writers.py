"""Processes that write into one memory, some of which are killed."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from written import new

from stillknows.memory.stores.sqlite import SQLite

ROOT = Path(__file__).parents[1]


WRITER = """
import sys, torch
from test_databases import new, rows
from stillknows.memory.stores.postgres import PostgreSQL
memory = new(capacity=400)
memory.keep_in(PostgreSQL(sys.argv[1]))
for name in range(int(sys.argv[2]), int(sys.argv[3])):
    (written,) = memory.remember(rows(name))
    print(name, written.entry, memory.operation, flush=True)
    memory.recall(torch.zeros(1, 4))
memory.flush()
"""


@pytest.mark.slow
def test_four_processes_share_a_memory_and_one_is_killed(postgres: None) -> None:
    from stillknows.memory.stores.postgres import PostgreSQL

    name = uuid.uuid4().hex
    where = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}"}

    def start(first: int, last: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WRITER, name, str(first), str(last)]
        return subprocess.Popen(command, env=where, stdout=subprocess.PIPE, text=True)

    processes = [start(100 * number, 100 * number + 60) for number in range(4)]
    victim = processes[0]
    assert victim.stdout is not None
    said = [victim.stdout.readline() for _ in range(15)]
    victim.send_signal(signal.SIGKILL)
    said += [line for line in victim.stdout.readlines() if line.endswith("\n")]
    victim.wait()
    acknowledged = [tuple(map(int, line.split())) for line in said]
    again = start(acknowledged[-1][0] + 1, 60)
    victim.stdout.close()
    for process in (*processes[1:], again):
        lines, _ = process.communicate(timeout=240)
        assert process.returncode == 0
        acknowledged += [tuple(map(int, line.split())) for line in lines.splitlines()]
    memory = new(capacity=400)
    memory.keep_in(PostgreSQL(name))
    held = dict(
        zip(memory.provenance("hash").tolist(), memory.provenance("id").tolist(), strict=True)
    )
    assert all(held[question] == entry for question, entry, _ in acknowledged)
    numbers = [operation for *_, operation in acknowledged]
    assert len(set(numbers)) == len(numbers)
    assert {question for question in held if question >= 0} == {
        100 * number + question for number in range(4) for question in range(60)
    }
    # What was killed between its commit and its word may have written once more than it said.
    assert memory.seen in (240, 241)
    memory.store.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork where threads are
def test_a_server_is_killed_while_four_processes_write_and_nothing_is_lost_or_twice(
    server: Any, load_benchmark: Callable[[str], Any]
) -> None:
    benchmark = load_benchmark("store_durability")
    entries, operations = benchmark.kill_server(server, 4, 0.6, random.Random(0))
    assert operations == entries > 12


def maker(path: Path) -> sqlite3.Connection:
    """Return who is about to make something of a file, and holds it."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE half (number)")
    return connection


def test_who_opens_a_file_that_another_is_making_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite"
    other = maker(path)
    ends = threading.Thread(target=lambda: (time.sleep(0.2), other.execute("ROLLBACK")))
    ends.start()
    memory = new()
    memory.keep_in(SQLite(path))
    ends.join()
    other.close()
    assert memory.operation == 0
    memory.store.close()


def test_who_may_not_wait_longer_hears_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillknows.memory.stores.sqlite._BUSY", 0.05)
    other = maker(tmp_path / "memory.sqlite")
    with pytest.raises(OSError, match=r"held by another program that writes to it: wait until"):
        SQLite(tmp_path / "memory.sqlite")
    other.close()


def test_a_memory_that_is_made_while_it_is_opened_is_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, query = tmp_path / "memory.sqlite", SQLite._query
    made = threading.Event()

    def slow(store: SQLite, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        found = query(store, statement, **values)
        if not made.is_set():  # between the first look and the next
            made.set()
            memory = new()
            memory.keep_in(SQLite(path))
            memory.store.close()
        return found

    monkeypatch.setattr(SQLite, "_query", slow)
    memory = new()
    memory.keep_in(SQLite(path))
    assert memory.operation == 0
    memory.store.close()
