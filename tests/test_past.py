"""The past of a memory in a database: as it was, bounded, and kept for checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
from opened_stores import (
    Opener,
    database,  # noqa: F401
    live,
    new,
    same,
)

from stillknows.agents.persistence.keeping import KeptMemory
from stillknows.memory.nec import NEC
from stillknows.memory.policies.learned import UtilityPolicy
from stillknows.memory.stores.sqlite import SQLite
from stillknows.memory.stores.store import Store


def test_the_past_is_as_it_was(database: Opener) -> None:
    torch.manual_seed(0)
    memory = new(UtilityPolicy())
    memory.keep_in(database())
    past = {}
    for step in range(8):
        live(memory, range(step, step + 1))
        if step == 4:
            memory.rekey(lambda story_BTL: -story_BTL.flatten(1).float()[:, :4])
        past[memory.flush()] = memory.fork()
    for operation, was in past.items():
        same(memory.at(operation), was)
    assert len(memory.at(0)) == 0
    middle = list(past)[3]
    memory.rewind(middle)
    same(memory, past[middle])
    assert memory.operation == middle
    with pytest.raises(ValueError, match=f"has no operation {middle + 1}: the last is {middle}"):
        memory.at(middle + 1)
    live(memory, range(4, 5))  # and it goes on as it did
    memory.rekey(lambda story_BTL: -story_BTL.flatten(1).float()[:, :4])
    memory.flush()
    same(memory, past[list(past)[4]])
    memory.store.close()


def test_a_cut_life_goes_back_in_its_own_memory_and_not_in_a_shared_one(database: Opener) -> None:
    memory = new()
    memory.keep_in(database())
    live(memory, range(3))
    operation, snapshot = memory.flush(), memory.snapshot()
    then = memory.fork()
    live(memory, range(3, 6))
    now = memory.fork()
    memory.store.shared = True
    memory.resume(snapshot, operation)
    same(memory, now)
    memory.store.shared = False
    memory.resume(snapshot, operation)
    same(memory, then)
    assert memory.operation == operation
    live(memory, range(3, 4))
    memory.rewind(1)  # as if a loss of power had taken the rest
    memory.resume(snapshot, operation)
    same(memory, then)
    memory.store.close()


def test_tensors_keep_no_past_and_say_so() -> None:
    memory = new()
    live(memory, range(3))
    same(memory.at(memory.operation), memory)
    memory.rewind(memory.operation)
    with pytest.raises(ValueError, match="keeps no past"):
        memory.at(1)
    with pytest.raises(ValueError, match="keeps no past"):
        memory.rewind(1)


def bounded(store: Store, past: int | None, policy: Any = None) -> NEC:
    """Return a memory in a store that keeps so many operations of its past."""
    memory = new(policy)
    memory.keep_in(store)
    store.reach(past)  # type: ignore[attr-defined]
    return memory


def rekeyed(memory: NEC, seed: int) -> None:
    keys = torch.randn(memory.capacity, 4, generator=torch.Generator().manual_seed(seed))
    memory.rekey(lambda story_BTL: keys[: len(story_BTL)])


def test_the_first_moment_can_be_asked_for_however_much_was_used_since(database: Opener) -> None:
    for past in (0, 6):
        memory = bounded(database(), past)
        live(memory, range(12))
        first, last = memory.store.first, memory.operation
        then = memory.at(first)
        memory.touch(torch.tensor([0]), torch.tensor([1.0]))
        now = memory.fork()
        same(memory.at(first), then)
        assert (memory.store.first, memory.operation) == (first, last)
        same(memory, now)
        memory.flush()
        assert memory.store.first > first
        same(memory.at(memory.operation), now)
        memory.rewind(0)
        memory.store.close()


def test_a_bounded_past_is_as_it_was_and_ends_in_a_sentence(database: Opener) -> None:
    torch.manual_seed(0)
    memory = bounded(database(), 6, UtilityPolicy())
    past = {}
    for step in range(30):
        live(memory, range(step, step + 1))
        if step % 5 == 4:
            rekeyed(memory, step)
        if step == 24:
            memory.delete([memory.next_id - 1])
        past[memory.flush()] = memory.fork()
    last, base = memory.operation, memory.store.first
    assert last - base == 6  # a share of 1 / 8 more is none here
    for operation in range(base, last + 1):
        if operation in past:
            same(memory.at(operation), past[operation])
    assert len(memory.at(0)) == 0
    with pytest.raises(ValueError, match=f"past back to operation {base} only, and {base - 1} is"):
        memory.at(base - 1)
    with pytest.raises(ValueError, match="only, and 1 is before it"):
        memory.rewind(1)
    middle = sorted(past)[-3]
    memory.rewind(middle)
    same(memory, past[middle])
    memory.rewind(0)
    assert len(memory) == memory.operation == memory.store.first == 0
    live(memory, range(2))
    assert memory.at(1).seen == 2
    memory.store.close()


def test_a_bounded_database_grows_no_further(database: Opener) -> None:
    plain, memory = new(), bounded(database(), 8)
    counts = []
    for step in range(90):
        for each in (plain, memory):
            live(each, range(step, step + 1))
            rekeyed(each, step)
        if step >= 30:
            tables = ("operations", "entries", "keys", "uses")
            count = [memory.store._query(f"SELECT count(*) FROM {name}")[0][0] for name in tables]  # type: ignore[attr-defined]
            counts.append(count)
    same(plain, memory)
    most = [max(column) for column in zip(*counts, strict=True)]
    # at most 10 operations of the past, and before it a row of each of the five slots
    assert most[0] <= 9 + 1 + 5
    assert most[1] <= 2 * 10 + 5
    assert most[2] <= 5 * 10 + 5
    assert most[3] == 5
    assert sum(counts[-1]) <= sum(counts[0]) + 10
    assert len(memory.store.births()) >= 5  # type: ignore[attr-defined]
    present = "SELECT id, time FROM present ORDER BY id"
    ids = [row[0] for row in memory.store._query(present)]  # type: ignore[attr-defined]
    assert ids == sorted(memory.provenance("id").tolist())
    memory.store.close()


def test_what_a_checkpoint_stands_on_is_kept(database: Opener) -> None:
    memory = bounded(database(), 2)
    live(memory, range(3))
    memory.hold(0)
    operation, then, snapshot = memory.flush(), memory.fork(), memory.snapshot()
    memory.hold(operation)
    live(memory, range(3, 20))
    assert memory.store.first == operation
    memory.resume(snapshot, operation)
    same(memory, then)
    assert memory.operation == operation
    memory.hold(None)
    live(memory, range(3, 20))
    assert memory.store.first >= memory.operation - 3
    memory.resume(snapshot, operation)  # beyond the past: from the snapshot alone
    same(memory, then)
    assert memory.operation > operation
    memory.store.close()


def test_the_past_reaches_back_to_the_oldest_of_the_checkpoints_that_are_kept(
    tmp_path: Path,
) -> None:
    memory = bounded(SQLite(tmp_path / "memory.sqlite"), 1)
    part, reached = KeptMemory(memory), []
    part.hold(None, 2)  # what was there before this process is not known
    for step in range(4):
        live(memory, range(5 * step, 5 * step + 5))
        reached.append(memory.store.first)
        part.hold(part.state(), 2)
    assert reached == [0, 0, 6, 12]  # five writes and a flush each
    part.hold(None, 2)
    live(memory, range(5))
    assert memory.store.first == 12
    memory.store.close()


def test_who_was_away_longer_than_the_past_catches_up(database: Opener) -> None:
    first = bounded(database(), 3)
    live(first, range(2))
    second = new()
    second.keep_in(database())
    assert second.store.past == 3  # type: ignore[attr-defined]
    second.recall(first.columns["keys_ND"][:1])
    live(first, range(2, 5))
    for _ in range(8):  # an operation that changes use alone, which only its undo would tell
        first.recall(first.columns["keys_ND"][2:3])
        first.flush()
    assert first.store.first > second.operation
    assert first.store.first > 5
    second.follow()
    first.follow()
    same(first, second)
    second.flush()
    first.follow()
    same(first, second)
    for memory in (first, second):
        memory.store.close()


def test_a_memory_of_the_first_version_is_read_and_bounded(database: Opener) -> None:
    memory = new()
    memory.keep_in(database())
    live(memory, range(4))
    memory.flush()
    for statement in (
        "UPDATE description SET value = '1' WHERE name = 'schema'",
        "DELETE FROM description WHERE name IN ('base', 'past', 'seal')",
        "UPDATE operations SET undo = substr(undo, 1, length(undo) - 4)",
        "ALTER TABLE operations DROP COLUMN whole",
        *(
            f"ALTER TABLE {table} DROP COLUMN seal"
            for table in ("operations", "entries", "keys", "uses")
        ),
    ):
        memory.store._execute(statement)  # type: ignore[attr-defined]
    memory.store.close()
    again = new()
    again.keep_in(database())
    same(memory, again)
    assert again.store.first == 0
    assert len(again.at(1)) == 2
    again.store.reach(2)  # type: ignore[attr-defined]
    live(again, range(4, 9))
    assert again.store.first == again.operation - 2
    assert again.store.description()["schema"] == 2  # type: ignore[attr-defined]
    again.store.close()
