"""Stores of every kind, opened in a folder of the test's own."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from candidates import rows

from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.stores.sqlite import SQLite
from stillknows.memory.stores.store import COUNTERS, Store, TensorStore

KINDS = ("tensor", "sqlite", "postgres")
Opener = Callable[[], Store]


def new_store(kind: str, folder: Path) -> Opener:
    """Return what opens a store, the same one each time."""
    name = uuid.uuid4().hex
    if kind == "sqlite":
        return lambda: SQLite(folder / f"{name}.sqlite")
    if kind == "postgres":
        from stillknows.memory.stores.postgres import PostgreSQL

        return lambda: PostgreSQL(name)
    return TensorStore


@pytest.fixture(params=KINDS[1:])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    if request.param == "postgres":
        request.getfixturevalue("postgres")
    return new_store(request.param, tmp_path)


def new(policy: Any = None, capacity: int = 5, **options: Any) -> NEC:
    sizes = {"answer_length": 2, "story_shape": (2, 3), "neighbours": 2}
    return NEC(capacity, 4, 3, policy or EvictOldest(), **(sizes | options))


def same(first: NEC, second: NEC) -> None:
    """Assert that two memories hold the same, to the bit."""
    one, other = first.snapshot(), second.snapshot()
    for name, column in one.pop("columns").items():
        assert torch.equal(column, other["columns"][name]), name
    assert one == {name: other[name] for name in COUNTERS}
    assert first.names == second.names
    assert first.holes == second.holes
    mine, theirs = (getattr(each.policy, "accounts", {}) for each in (first, second))
    for name, account in mine.items():
        assert torch.equal(account, theirs[name]), name


def live(memory: NEC, steps: range) -> None:
    """Remember, read and pay, a little of each."""
    for step in steps:
        memory.remember(rows((step % 7, 5 + step % 3), (50 + step, 6), episode=step, seed=step))
        recall = memory.recall(torch.randn(2, 4, generator=torch.Generator().manual_seed(step)))
        if hasattr(memory.policy, "observe_credit"):
            there = recall.present_BK
            weights = recall.weights_BK[there]
            memory.policy.observe_credit(recall.slots_BK[there], weights / 3, weights)
