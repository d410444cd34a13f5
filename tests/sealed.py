"""Memories in databases that were lived in, to be damaged."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from candidates import rows

from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.stores.database import Database
from stillknows.memory.stores.sqlite import SQLite
from stillknows.memory.stores.store import COUNTERS, Store, accounts_of

TABLES = ("operations", "entries", "keys", "uses")


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
