"""One contract for every store: tensors, SQLite, and PostgreSQL where a server is there."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from candidates import rows
from opened_stores import (
    KINDS,
    Opener,
    database,  # noqa: F401
    live,
    new,
    new_store,
    same,
)

from stillknows.memory.checks.check import run_check
from stillknows.memory.checks.check_bench import Bench
from stillknows.memory.checks.check_store import CHECKS
from stillknows.memory.interface import ADD
from stillknows.memory.nec import NEC
from stillknows.memory.policies.learned import UtilityPolicy
from stillknows.memory.policies.rules import EvictIdle, EvictOldest, Reservoir
from stillknows.memory.stores.merging import merge
from stillknows.memory.stores.sqlite import SQLite
from stillknows.memory.stores.store import TensorStore


@pytest.fixture(params=KINDS)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    if request.param == "postgres":
        request.getfixturevalue("postgres")
    return new_store(request.param, tmp_path)


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


def use(memory: NEC, slot: int) -> list[float]:
    """Return the use of a slot, and what its policy keeps about it."""
    accounts = getattr(memory.policy, "accounts", {}).values()
    parts = (memory.columns["uses_N"], memory.provenance("last_use"), *accounts)
    return [float(part[slot]) for part in parts]


def test_of_what_was_deleted_no_use_comes_back_with_the_past(database: Opener) -> None:
    memory = new(UtilityPolicy())
    memory.keep_in(database())
    live(memory, range(6))
    then, entry = memory.flush(), int(memory.provenance("id")[1])
    nothing = [0.0, -1.0, *[0.0] * len(memory.policy.accounts)]
    assert use(memory, 1) != nothing
    memory.delete([entry])
    assert use(memory, 1) == use(memory.at(then), 1) == nothing
    memory.rewind(then)
    assert memory.holes == {1}
    assert use(memory, 1) == nothing
    other = new(UtilityPolicy())
    other.keep_in(database())  # before it is kept, and after
    assert use(other, 1) == nothing
    memory.touch(torch.tensor([0]), torch.tensor([1.0]))
    memory.flush()
    other.follow()
    same(memory, other)
    for operation in (then, memory.operation):
        assert use(memory.at(operation), 1) == nothing
    live(memory, range(6, 7))
    assert 1 not in memory.holes
    for each in (memory, other):
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
