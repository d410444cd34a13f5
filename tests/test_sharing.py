"""Writers of one memory: who is alone does not ask before it writes, and nothing else is different.

What asks before every write is the reference: its `prepare` is `follow`.
"""

import copy
import itertools
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from candidates import rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from writers_of import ACTIONS, read, same, same_policies, write

from stillknows.memory.interface import UPDATE
from stillknows.memory.nec import NEC
from stillknows.memory.policies.learned import UtilityPolicy
from stillknows.memory.policies.rules import EvictIdle, EvictOldest, EvictRare, KeepFacts, Reservoir
from stillknows.memory.stores.database import Database
from stillknows.memory.stores.sqlite import SQLite
from stillknows.memory.stores.store import accounts_of

Opener = Callable[[], Database]
POLICIES = (EvictOldest, EvictIdle, EvictRare, Reservoir, KeepFacts, UtilityPolicy)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Opener]]:
    """Return what finds a place for a memory: what opens it, the same one each time."""
    if request.param == "postgres":
        request.getfixturevalue("postgres")
    found: list[Database] = []

    def opener() -> Opener:
        name = uuid.uuid4().hex

        def opened() -> Database:
            found.append(_open(request.param, name, tmp_path))
            return found[-1]

        return opened

    yield opener
    for store in found:
        store.close()


def _open(backend: str, name: str, folder: Path) -> Database:
    if backend == "sqlite":
        return SQLite(folder / f"{name}.sqlite")
    from stillknows.memory.stores.postgres import PostgreSQL

    return PostgreSQL(name)


def opened(store: Database, policy: Any = None, asks: bool = False) -> NEC:
    """Return a memory kept in a store; `asks`: it follows before each write."""
    sizes: dict[str, Any] = {"answer_length": 2, "story_shape": (2, 3), "neighbours": 2}
    memory = NEC(4, 4, 3, policy or EvictOldest(), **sizes)
    memory.keep_in(store)
    if asks:
        store.prepare = store.follow  # type: ignore[method-assign]
    return memory


def writers(opener: Opener, policy: Any, asks: bool) -> list[NEC]:
    """Return two who share a memory."""
    return [opened(opener(), copy.deepcopy(policy), asks) for _ in range(2)]


def live_alike(place: Callable[[], Opener], policy: Any, steps: list[tuple[int, str, int]]) -> None:
    """Let two share a memory, and two who ask before each write another; compare at each step."""
    plain, asking = (writers(place(), policy, asks) for asks in (False, True))
    for who, action, number in steps:
        done = [ACTIONS[action](both[who], number) for both in (plain, asking)]
        assert done[0] == done[1], (action, done)
        same(plain[who], asking[who])
        same_policies(plain[who], asking[who])
    for both in (plain, asking):
        for memory in (*both, *both):  # the use of each, then what the other has told
            memory.flush()
            memory.follow()
    same(*plain)
    for one, other in zip(plain, asking, strict=True):
        same(one, other)
    for memory in (*plain, *asking):  # a server has not room for all examples at once
        memory.store.close()


@pytest.mark.parametrize("policy", [EvictOldest, UtilityPolicy])
def test_two_writers_end_as_if_they_had_asked_in_every_order(
    place: Callable[[], Opener], policy: Callable[[], Any]
) -> None:
    torch.manual_seed(0)
    for others in itertools.combinations(range(1, 6), 2):  # who begins has two more
        steps = []
        for number in range(6):
            who = int(number == 0 or number in others)
            steps += [(who, "read", number), (1 - who, "read", 7 + number), (who, "write", number)]
        live_alike(place, policy(), steps)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(["write", "write", "read", "read", *ACTIONS]),
        st.integers(0, 30),
    ),
    min_size=4,
    max_size=16,
)


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(steps=STEPS, which=st.sampled_from(POLICIES))
def test_any_two_lives_in_one_memory_are_as_if_they_had_asked(
    place: Callable[[], Opener], steps: list[tuple[int, str, int]], which: Callable[[], Any]
) -> None:
    torch.manual_seed(0)
    live_alike(place, which(), [(0, "write", 1), (1, "write", 2), *steps])


def test_who_is_alone_does_not_ask_and_who_is_not_asks_until_it_is(
    place: Callable[[], Opener], monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = place()
    first, second = opened(opener()), opened(opener())
    head, asked = Database._head, []

    def count(store: Database) -> Any:
        asked.append(store)
        return head(store)

    monkeypatch.setattr(Database, "_head", count)

    def questions(memory: NEC, work: Callable[[NEC, int], Any], number: int) -> int:
        """Return how often it asked; where it finds something, it asks once more, to read it."""
        asked.clear()
        ACTIONS["read"](memory, number)
        work(memory, number)
        return len(asked)

    assert [questions(first, write, number) for number in range(4)] == [0] * 4
    assert questions(first, ACTIONS["flush"], 4) == 0
    assert questions(second, write, 5) == 2  # after it came second
    assert [questions(second, write, number) for number in range(6, 9)] == [1, 0, 0]
    assert questions(first, ACTIONS["flush"], 9) == 2
    assert [questions(first, ACTIONS["flush"], number) for number in range(10, 13)] == [1, 0, 0]
    assert questions(second, write, 13) == 2
    assert questions(first, write, 14) == 2
    assert questions(second, write, 15) == 2  # it asks at once, since it was not alone
    assert questions(first, write, 16) == 2
    second.follow()
    same(first, second)


def test_a_write_that_came_second_costs_no_use(place: Callable[[], Opener]) -> None:
    opener = place()
    first = opened(opener(), UtilityPolicy())
    first.remember(rows((1, 5), (2, 5), (3, 5), (4, 5)))
    second = opened(opener(), UtilityPolicy())
    where, weight_N = torch.arange(4), torch.tensor([0.1, 0.2, 0.7, 1.3])
    first.touch(where, weight_N)
    first.policy.observe_credit(where, weight_N / 7, weight_N)  # type: ignore[attr-defined]
    second.remember(rows((2, 5), (3, 5), seed=1))
    uses_N = first.columns["uses_N"].clone()
    accounts = {name: account.clone() for name, account in accounts_of(first).items()}
    (written,) = first.remember(rows((1, 5), seed=2))  # it changes what nobody else has changed
    assert written == (UPDATE, 0, -1)
    assert torch.equal(first.columns["uses_N"], uses_N)
    assert torch.equal(accounts_of(first)["earned"], accounts["earned"])
    assert torch.equal(accounts_of(first)["weight"], accounts["weight"])
    second.follow()
    same(first, second)


def test_what_is_earned_without_a_read_is_kept_too(place: Callable[[], Opener]) -> None:
    opener = place()
    first, second = (opened(opener(), UtilityPolicy()) for _ in range(2))
    first.remember(rows((1, 5), (2, 5)))
    second.follow()
    for memory, earned in ((first, 0.5), (second, 0.25)):
        credit = torch.tensor([earned])
        memory.policy.observe_credit(torch.tensor([1]), credit, credit * 0)  # type: ignore[attr-defined]
        memory.flush()
    first.follow()
    assert first.operation == 3
    assert accounts_of(first)["earned"].tolist() == [0, 0.75, 0, 0]
    same(first, second)


@pytest.mark.parametrize("action", ["write", "rekey", "delete"])
def test_who_asks_and_comes_second_all_the_same_loses_no_use(
    place: Callable[[], Opener], action: str
) -> None:
    opener = place()
    first = opened(opener())
    first.remember(rows((1, 5), (2, 5), (3, 5), (4, 5)))
    second = opened(opener())
    second.remember(rows((3, 5), seed=1))
    first.follow()  # it is not alone, and so it asks
    first.touch(torch.arange(4), torch.tensor([0.1, 0.2, 0.7, 1.3]))
    uses_N, follow = first.columns["uses_N"].clone(), first.store.follow

    def late(memory: NEC) -> None:
        """Follow; then the other one writes first."""
        first.store.follow = follow  # type: ignore[method-assign]
        follow(memory)
        second.remember(rows((2, 5), seed=2))

    first.store.follow = late  # type: ignore[method-assign]
    if action == "write":
        first.remember(rows((1, 5), seed=3))
    else:
        ACTIONS[action](first, 9)
    assert first.operation == 4
    assert torch.equal(first.columns["uses_N"], uses_N)
    second.follow()
    same(first, second)


@pytest.mark.parametrize("aware", [True, False])
def test_use_of_an_entry_that_left_is_nobody_s(place: Callable[[], Opener], aware: bool) -> None:
    opener = place()
    first = opened(opener())
    first.remember(rows((1, 5), (2, 5), (3, 5), (4, 5)))
    second = opened(opener())
    first.touch(torch.arange(4), torch.tensor([3.0, 4.0, 5.0, 6.0]))
    second.remember(rows((6, 5), seed=1))  # instead of the oldest
    if aware:
        first.follow()
        assert first.provenance("id").tolist() == [4, 1, 2, 3]
        assert first.columns["uses_N"].tolist() == [0, 4, 5, 6]
    first.remember(rows((7, 5), seed=2))  # instead of the next; it would have been the oldest
    assert first.provenance("id").tolist() == [4, 5, 2, 3]
    assert first.columns["uses_N"].tolist() == [0, 0, 5, 6]
    second.follow()
    same(first, second)


def test_a_rewind_by_another_is_heard_of_at_the_write(place: Callable[[], Opener]) -> None:
    opener = place()
    first, second = opened(opener()), opened(opener())
    for number in range(4):
        write(first, number)
    second.rewind(2)
    reference = second.fork()
    assert write(first, 9) == write(reference, 9)
    assert first.operation == 3
    for _ in range(2):  # then it is alone
        second.follow()
    same(first, second)
    first.rewind(1)
    for number in (20, 21):  # to the number that the other one knows, with other contents
        write(first, number)
    reference = first.fork()
    assert first.operation == second.operation == 3
    assert write(second, 22) == write(reference, 22)
    first.follow()
    same(first, second)


def test_a_number_that_was_let_go_is_not_taken_again(place: Callable[[], Opener]) -> None:
    opener = place()
    first, second = opened(opener()), opened(opener())
    first.store.reach(2)  # type: ignore[attr-defined]
    second.store.past = 2  # type: ignore[attr-defined]
    write(first, 0)
    second.follow()
    for _ in range(8):  # operations of which nothing is left once the past is folded
        read(second, 3)
        second.flush()
    there = second.store._query("SELECT number FROM operations WHERE number = 2")  # type: ignore[attr-defined]
    assert not there
    reference = second.fork()
    assert write(first, 4) == write(reference, 4)
    assert first.operation == second.operation + 1 == 10
    second.follow()
    same(first, second)


def test_a_write_without_a_question_whose_connection_is_lost_leaves_nothing(
    place: Callable[[], Opener], monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = place()
    memory, other = opened(opener(), EvictRare()), opened(opener(), EvictRare())
    for number in range(3):
        write(memory, number)
    read(memory, 3)
    twin = memory.fork()
    with monkeypatch.context() as patch:
        cut_off(memory.store, other.store, patch)
        with pytest.raises(OSError, match="is lost"):
            write(memory, 4)
    memory.follow()
    assert memory.operation == 3
    for number in (5, 6):  # it follows, and goes on without a question
        for column, theirs in zip(memory.columns.values(), twin.columns.values(), strict=True):
            assert torch.equal(column, theirs)
        for each in (memory, twin):
            read(each, number)
        assert write(memory, number) == write(twin, number)
    other.follow()
    same(memory, other)
    assert torch.equal(memory.columns["uses_N"], twin.columns["uses_N"])


def cut_off(store: Any, other: Any, patch: pytest.MonkeyPatch) -> None:
    """End the connections of all but another; where there are none, let the next write fail."""
    if isinstance(store, SQLite):

        def fails(change: Any) -> None:
            raise OSError("The disk is lost.")

        patch.setattr(store, "_commit", fails)
        return
    other._query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
        "AND datname = current_database()"
    )


def test_texts_of_arrays_hold_every_value(postgres: None) -> None:
    from stillknows.memory.stores.postgres import PostgreSQL, _bound

    values: dict[str, list[Any]] = {
        "bigint": [0, -1, None, 2**63 - 1, -(2**63)],
        "float8": [0.1, -0.0, 1e300, 5e-324, float("inf")],
        "text": ["", 'a"b\\c', "{x,y}", "NULL", "ü\n'"],
        "bytea": [b"", b"\0\xff", b'"\\', None, bytes(range(256))],
    }
    store = PostgreSQL(uuid.uuid4().hex)
    bound = _bound("t", tuple(values), list(zip(*values.values(), strict=True)))
    arrays = ", ".join(f"CAST(:t_{kind} AS {kind}[])" for kind in values)
    found = store._query(f"SELECT * FROM unnest({arrays})", **bound)
    assert found == list(zip(*values.values(), strict=True))
    assert str(found[1][1]) == "-0.0"
    assert store._query(f"SELECT * FROM unnest({arrays})", **_bound("t", tuple(values), [])) == []
    store.close()
