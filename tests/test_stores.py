"""One contract for every store: tensors, SQLite, and PostgreSQL where a server is there."""

import copy
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from candidates import rows

from stillknows.agents.persistence.keeping import KeptMemory
from stillknows.memory.checks.check import run_check
from stillknows.memory.checks.check_bench import Bench
from stillknows.memory.checks.check_store import CHECKS
from stillknows.memory.interface import ADD
from stillknows.memory.nec import NEC
from stillknows.memory.policies.learned import UtilityPolicy
from stillknows.memory.policies.rules import EvictIdle, EvictOldest, Reservoir
from stillknows.memory.stores.merging import merge
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


@pytest.fixture(params=KINDS)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    if request.param == "postgres":
        request.getfixturevalue("postgres")
    return new_store(request.param, tmp_path)


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


@pytest.mark.parametrize(("token_bytes", "most"), [(1, 255), (2, 32_767), (4, 2**31 - 1)])
def test_tokens_of_every_size_are_kept(database: Opener, token_bytes: int, most: int) -> None:
    memory = new(token_bytes=token_bytes)
    memory.keep_in(database())
    offered = rows((1, 5), (2, 6))
    story_BTL = torch.tensor([[[most, 1, 0], [0, 0, 0]], [[1, most, 2], [most, 0, 0]]])
    memory.remember(offered._replace(story_BTL=story_BTL))
    memory.flush()
    assert torch.equal(memory.entries(torch.arange(2)).story_BTL, story_BTL)
    again = new(token_bytes=token_bytes)
    again.keep_in(database())
    same(memory, again)
    for each in (memory, again):
        each.store.close()


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "gpu"])
def test_every_store_keeps_the_contract_of_memories(opener: Opener, name: str) -> None:
    memory = new()
    memory.keep_in(opener())
    run_check(name, CHECKS[name], Bench(memory, 0, 30, torch.device("cpu")))
    memory.store.close()


@pytest.mark.parametrize("policy", [EvictOldest, EvictIdle, Reservoir, UtilityPolicy])
def test_a_memory_in_a_store_is_the_memory_in_tensors_and_opens_as_it_was(
    opener: Opener, policy: Callable[[], Any]
) -> None:
    torch.manual_seed(0)
    plain = new(policy())
    kept = new(copy.deepcopy(plain.policy))
    kept.keep_in(opener())
    for memory in (plain, kept):
        live(memory, range(9))
        memory.rekey(lambda story_BTL: story_BTL.flatten(1).float()[:, :4].sin())
        live(memory, range(9, 12))
    same(plain, kept)
    kept.flush()
    kept.store.close()
    if not isinstance(kept.store, TensorStore):
        again = new(copy.deepcopy(policy()))
        again.keep_in(opener())
        same(plain, again)
        assert again.operation == kept.operation
        again.store.close()


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


def test_what_is_deleted_is_gone_from_now_and_from_the_past(database: Opener) -> None:
    memory = new()
    memory.keep_in(database())
    for step in range(4):
        memory.remember(rows((step, 5), episode=step, seed=step))
    before = memory.fork()
    assert memory.delete([1, 99]) == [1]
    assert memory.provenance("id")[:4].tolist() == [0, -1, 2, 3]
    assert len(memory) == 3
    assert memory.store.gaps(4) == [1]
    assert memory.at(4).provenance("id")[:4].tolist() == [0, -1, 2, 3]
    assert memory.at(1).provenance("id")[:2].tolist() == [0, -1]
    memory.rewind(4)  # what was deleted stays so
    assert memory.provenance("id")[:4].tolist() == [0, -1, 2, 3]
    (written,) = memory.remember(rows((9, 6), seed=9))
    assert memory.provenance("id")[1] == written.entry  # the first free slot
    assert len(memory) == len(before)
    again = new()
    again.keep_in(database())
    same(memory, again)
    for each in (memory, again):
        each.store.close()


def test_to_delete_nothing_leaves_all_as_it_is(database: Opener) -> None:
    memory = new()
    memory.keep_in(database())
    for step in range(2):
        memory.remember(rows((step, 5), episode=step, seed=step))
    assert memory.delete([0]) == [0]
    assert memory.delete([-1]) == []  # what `Written` has where there is no entry
    memory.remember(rows((9, 6), seed=9))
    again = new()
    again.keep_in(database())
    same(memory, again)
    for each in (memory, again):
        each.store.close()


def test_two_who_share_a_memory_decide_one_after_the_other(database: Opener) -> None:
    first, second = new(capacity=6), new(capacity=6)
    first.keep_in(database())
    second.keep_in(database())
    for step in range(12):
        here, there = (first, second) if step % 2 else (second, first)
        prepare = here.store.prepare

        def late(memory: NEC, prepare: Any = prepare, here: NEC = here, there: NEC = there) -> None:
            """Prepare; then the other one writes first."""
            prepare(memory)
            here.store.prepare = prepare  # type: ignore[method-assign]
            there.remember(rows((100 + step, 6), seed=step))  # noqa: B023 (called at once)

        here.store.prepare = late  # type: ignore[method-assign]
        here.recall(torch.ones(1, 4))
        (written,) = here.remember(rows((step, 5), seed=step))
        assert written.entry == here.provenance("id").max()
    for memory in (first, second):
        memory.flush()
    for memory in (first, second):
        memory.follow()
    same(first, second)
    assert first.next_id == first.seen == 24
    assert sorted(first.provenance("id").tolist()) == list(range(18, 24))
    assert first.columns["uses_N"].sum() > 0
    for memory in (first, second):
        memory.store.close()


def test_a_try_that_another_one_s_use_came_before_leaves_nothing(database: Opener) -> None:
    first, second = new(capacity=6), new(capacity=6)
    first.keep_in(database())
    first.remember(rows((1, 5)))
    second.keep_in(database())
    prepare = first.store.prepare

    def late(memory: NEC) -> None:
        prepare(memory)
        first.store.prepare = prepare  # type: ignore[method-assign]
        second.recall(torch.zeros(1, 4))
        second.flush()

    first.store.prepare = late  # type: ignore[method-assign]
    (written,) = first.remember(rows((2, 6)))
    assert written == (ADD, 1, -1)
    second.follow()
    same(first, second)
    assert first.columns["uses_N"][0] == 1
    for memory in (first, second):
        memory.store.close()


def test_use_by_several_adds_up(database: Opener) -> None:
    first, second = new(neighbours=1), new(neighbours=1)
    first.keep_in(database())
    first.remember(rows((1, 5)))
    second.keep_in(database())
    for memory, times in ((first, 3), (second, 4)):
        for _ in range(times):
            memory.recall(torch.zeros(1, 4))
    first.flush()
    second.flush()
    first.follow()
    assert first.columns["uses_N"][0] == second.columns["uses_N"][0] == 7
    for memory in (first, second):
        memory.store.close()


def test_who_was_rewound_by_another_writes_after_that(database: Opener) -> None:
    first, second = new(), new()
    first.keep_in(database())
    live(first, range(3))
    second.keep_in(database())
    live(second, range(3, 5))
    first.rewind(2)
    assert second.store.write(second, "write", [0]) is False  # it does not know yet
    (written,) = second.remember(rows((33, 5), seed=33))
    first.follow()
    same(first, second)
    assert first.operation == 3
    assert first.seen == 5
    assert written.entry == first.provenance("id").max()
    for memory in (first, second):
        memory.store.close()


@pytest.mark.parametrize("rule", [EvictOldest, EvictIdle, Reservoir])
def test_what_was_deleted_makes_room_before_anybody_leaves(rule: Callable[[], Any]) -> None:
    memory = new(rule(), capacity=4)
    memory.remember(rows((1, 5), (2, 5), (3, 5), (4, 5)))
    memory.delete([2])
    written = memory.remember(rows((5, 5), (6, 5), (7, 5), seed=1))
    assert written[0] == (ADD, 4, -1)
    assert memory.provenance("id")[2] == 4
    if rule is not Reservoir:
        assert [each.evicted for each in written[1:]] == [0, 1]
    assert len(memory) == 4
    assert memory.holes == set()
    again = memory.fork()
    assert again.names == memory.names


def test_a_fork_goes_on_by_itself(database: Opener, tmp_path: Path) -> None:
    memory = new()
    memory.keep_in(database())
    live(memory, range(5))
    twin = memory.fork(SQLite(tmp_path / "fork.sqlite"))
    same(memory, twin)
    live(twin, range(5, 7))
    assert memory.seen == 10
    assert twin.seen == 14
    with pytest.raises(ValueError, match="holds a memory already, and so does this agent"):
        memory.fork(SQLite(tmp_path / "fork.sqlite"))
    for each in (memory, twin):
        each.store.close()


def bounded(store: Store, past: int | None, policy: Any = None) -> NEC:
    """Return a memory in a store that keeps so many operations of its past."""
    memory = new(policy)
    memory.keep_in(store)
    store.reach(past)  # type: ignore[attr-defined]
    return memory


def rekeyed(memory: NEC, seed: int) -> None:
    keys = torch.randn(memory.capacity, 4, generator=torch.Generator().manual_seed(seed))
    memory.rekey(lambda story_BTL: keys[: len(story_BTL)])


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


def test_merging_joins_what_is_known_and_keeps_what_was_used_most(opener: Opener) -> None:
    one, other = new(capacity=3, neighbours=1), new(capacity=5, neighbours=1)
    one.keep_in(opener())
    one.remember(rows((1, 5), (2, 6), episode=1, seed=1))
    other.remember(rows((1, 5), (3, 7), (4, 8), episode=2, seed=2))
    for slot, times in ((0, 1), (1, 2), (2, 3)):
        for _ in range(times):
            other.recall(other.columns["keys_ND"][slot : slot + 1])
    done = merge(one, other)
    assert done.joined == {0: 0}
    assert done.added == {1: 2, 2: 3}
    assert done.dropped == [1]  # never used
    assert done.refused == []
    assert sorted(one.provenance("hash").tolist()) == [1, 3, 4]
    slot = one.provenance("id").tolist().index(0)
    assert one.provenance("episode")[slot] == 1  # its own clock has it as the youngest
    assert one.columns["uses_N"][slot] == 1
    before = one.fork()
    assert merge(one, other).added == {}
    assert torch.equal(one.columns["uses_N"], before.columns["uses_N"])
    with pytest.raises(ValueError, match="only alike ones merge"):
        merge(one, new(answer_length=3))
    with pytest.raises(ValueError, match="identity=question and text: only alike"):
        merge(one, new(identity="text"))
    with pytest.raises(ValueError, match="choose used or newest"):
        merge(one, other, "best")
    one.store.close()


def test_merging_with_its_own_fork_adds_nothing_though_an_answer_stands_twice() -> None:
    memory = new(capacity=6, neighbours=1)
    for answer in (5, 6, 5):  # once a question has had two answers, each of them is added
        memory.remember(rows((1, answer), seed=1))
    fork = memory.fork()
    done = merge(memory, fork)
    assert done.joined == {0: 0, 1: 1, 2: 2}
    assert done.added == {}
    assert memory.size == 3
    assert torch.equal(memory.provenance("id"), fork.provenance("id"))


@pytest.mark.parametrize("kind", KINDS)
def test_any_life_of_a_memory_is_that_of_a_list(
    kind: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    load_benchmark: Callable[[str], Any],
) -> None:
    if kind == "postgres":
        request.getfixturevalue("postgres")
    machines = load_benchmark("state_machines")
    here = machines.machine(kind, tmp_path)
    machines.run(here, {"tensor": 30, "sqlite": 30, "postgres": 8}[kind], 20)
    assert here.steps > 8 * 10
