"""Lives that wait: a full disk, a folder that cannot be written, a server that is away."""

import errno
import resource
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stillknows.agents.commands.cli import main
from stillknows.agents.commands.verify import differences
from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.persistence import trouble
from stillknows.agents.persistence.checkpoint import FOLDER
from stillknows.agents.persistence.stopping import Stop, Stopped
from stillknows.agents.persistence.trouble import Waiting
from stillknows.agents.reports import log as logs
from stillknows.memory.episodic import Candidates
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.stores.sqlite import SQLite

CHECKPOINTS = "stillknows.agents.persistence.checkpoint.write_tree"
OPERATIONS = "stillknows.agents.teaching.operations.write_tree"
SMALL = (
    "debug=tiny",
    "rows=4",
    "stream.episodes=16",
    "stream.exam_episodes=4",
    "stream.tasks.tasks=[where_person]",
    "stream.tasks.sentences=6",
    "stream.tasks.questions=2",
    "stream.tasks.lag=0",
    "checkpoint.every=2",
    "checkpoint.seconds=0",
    "episodic_memory.bytes=40000",
    "episodic_memory.store=sqlite",
    "operations=1",
    "log.part=2000",
    "on_trouble=wait",
)
FULL = OSError(errno.ENOSPC, "No space left on device")

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("DeprecationWarning", "FutureWarning", "UserWarning", "SyntaxWarning")
]


class Failing:
    """A function that fails some times before it works, at every third call.

    Args:
        work: what it does then.
        error: what it raises.
        times: how often.
    """

    def __init__(self, work: Callable[..., Any], error: Exception, times: int = 2) -> None:
        self.work, self.error, self.times = work, error, times
        self.calls = self.failed = self.left = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if not self.left:
            self.calls += 1
            self.left = self.times + 1 if self.calls % 3 == 0 else 1
        self.left -= 1
        if self.left:
            self.failed += 1
            raise self.error
        return self.work(*arguments, **options)

    def __get__(self, owner: Any, kind: Any = None) -> Callable[..., Any]:
        return lambda *arguments, **options: self(owner, *arguments, **options)


def live(folder: Path, *options: str) -> Path:
    live_lifetime(compose_config([*SMALL, *options]), folder, lambda *_: None)
    return folder


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return live(tmp_path_factory.mktemp("run") / "straight")


def test_pauses_grow_and_it_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    slept: list[float] = []
    work = Failing(lambda: 7, FULL, times=9)
    work.calls = 2
    assert Waiting(Stop(), slept.append)(work) == 7
    assert work.failed == 9
    assert sum(slept) == pytest.approx(1 + 2 + 4 + 8 + 16 + 32 + 3 * 60)
    assert max(slept) <= 0.5
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "No space left on device" in said
    assert "Waiting until that is mended" in said
    broken = Failing(lambda: 7, ValueError("It is broken."))
    broken.calls = 2
    with pytest.raises(ValueError, match="is broken"):  # which no waiting mends
        Waiting(Stop(), slept.append)(broken)


def test_who_waits_can_be_stopped() -> None:
    stop = Stop()

    def sleep(seconds: float) -> None:
        stop.asked = 15

    work = Failing(lambda: 7, FULL, times=9)
    work.calls = 2
    with pytest.raises(Stopped):
        Waiting(stop, sleep)(work)
    assert work.failed == 1


def test_a_life_that_waited_ends_as_one_that_did_not(
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    failing = {
        "log": Failing(logs.LifetimeLog._write, FULL),
        "store": Failing(SQLite._commit, OSError(str(full))),
        "checkpoint": Failing(trouble_free(CHECKPOINTS), FULL),
        "operations": Failing(trouble_free(OPERATIONS), FULL, 1),
    }
    monkeypatch.setattr(logs.LifetimeLog, "_write", failing["log"])
    monkeypatch.setattr(SQLite, "_commit", failing["store"])
    monkeypatch.setattr(CHECKPOINTS, failing["checkpoint"])
    monkeypatch.setattr(OPERATIONS, failing["operations"])
    monkeypatch.setattr(trouble.time, "sleep", lambda seconds: None)
    life = tmp_path / "life"
    live(life)
    assert all(each.failed for each in failing.values())
    assert list(differences(straight, life)) == []
    assert not list(life.rglob("*.part"))
    said = capsys.readouterr().err
    assert said.count("Waiting until that is mended") < sum(
        each.failed for each in failing.values()
    )


def trouble_free(name: str) -> Callable[..., Any]:
    module, _, function = name.rpartition(".")
    return getattr(__import__(module, fromlist=[function]), function)


def test_a_disk_that_is_really_full_is_waited_for(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    waited: list[float] = []

    def make_room(seconds: float) -> None:
        waited.append(seconds)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(trouble.time, "sleep", make_room)
    life = tmp_path / "life"
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        live(life, "episodic_memory.store=tensor")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert waited
    told, found = (
        [
            {k: v for k, v in e.items() if k not in ("time", "seconds", "config")}
            for e in logs.read(f)
        ]
        for f in (straight, life)
    )
    assert found == told
    assert list((life / FOLDER).glob("*.safetensors"))


def test_an_unknown_choice_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, words in (
        ("on_trouble=panic", "choose stop or wait"),
        ("log.part=0", "should be a whole number of bytes"),
        ("operations_keep=0", "null keeps all"),
    ):
        run = f"run={tmp_path / 'run'}"
        assert main(["train", "debug=tiny", "arms=[none]", run, option]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# --- A server that is away ---------------------------------------------------------------------


def memory_in(store: Any) -> NEC:
    memory = NEC(4, 4, 3, EvictOldest(), answer_length=2, story_shape=(2, 3), neighbours=1)
    memory.keep_in(store)
    return memory


def offer(memory: NEC, name: int) -> Any:
    random = torch.Generator().manual_seed(name)
    whole = torch.tensor([name])
    memory.recall(torch.randn(2, 4, generator=random))
    return memory.remember(
        Candidates(
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
    )


def same(first: NEC, second: NEC) -> None:
    one, other = first.snapshot(), second.snapshot()
    for name, column in one.pop("columns").items():
        assert torch.equal(column, other["columns"][name]), name
    assert one == {name: other[name] for name in one}


def test_a_server_that_is_stopped_is_waited_for(server: Any) -> None:
    from stillknows.memory.stores.postgres import PostgreSQL
    from stillknows.memory.stores.store import TensorStore

    plain, memory = memory_in(TensorStore()), memory_in(PostgreSQL("away"))
    starts: list[float] = []

    def start(seconds: float) -> None:
        if not starts:
            server.start()
        starts.append(seconds)

    memory.store.through = Waiting(Stop(), start)  # type: ignore[attr-defined]
    for name in range(6):
        if name == 3:
            server.stop()
        assert offer(plain, name) == offer(memory, name)
    assert starts
    memory.flush()
    same(plain, memory)
    again = memory_in(PostgreSQL("away"))
    same(plain, again)
    assert again.operation == memory.operation
    for each in (memory, again):
        each.store.close()


def test_what_was_taken_but_not_answered_is_not_done_twice(postgres: None) -> None:
    from stillknows.memory.stores.postgres import PostgreSQL
    from stillknows.memory.stores.store import TensorStore

    store = PostgreSQL("unanswered")
    plain, memory = memory_in(TensorStore()), memory_in(store)
    commit = store._commit

    def lost(change: Any) -> None:
        store._commit = commit  # type: ignore[method-assign]
        commit(change)
        raise OSError("The connection is lost.")

    store.through = Waiting(Stop(), lambda seconds: None)
    for name in range(4):
        if name == 2:
            store._commit = lost  # type: ignore[method-assign]
        assert offer(plain, name) == offer(memory, name)
    same(plain, memory)
    assert memory.operation == 4
    other = memory_in(PostgreSQL("unanswered"))
    store._commit = lost  # type: ignore[method-assign]

    def first(change: Any) -> None:  # and another one's number is not taken for one's own
        store._commit = commit  # type: ignore[method-assign]
        offer(other, 50)
        raise OSError("The connection is lost.")

    store._commit = first  # type: ignore[method-assign]
    offer(memory, 5)
    other.follow()
    same(memory, other)
    assert sorted(memory.provenance("hash").tolist()) == [2, 3, 5, 50]
    for each in (memory, other):
        each.store.close()
