"""Lives that were cut: they end as those that were not, bit for bit."""

import gc
import os
import resource
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
from cut_lives import (
    SMALL,
    configured,
    live,
    straight,  # noqa: F401
)
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from stillknows.agents.commands.verify import differences
from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.persistence.checkpoint import BEST, FOLDER, numbered, read_checkpoint
from stillknows.agents.persistence.keeping import load_agent
from stillknows.agents.persistence.memory_places import memory_at
from stillknows.agents.persistence.stopping import Stopped
from stillknows.agents.reports import log as logs
from stillknows.agents.teaching.operations import find_operations, load_operations

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]


@pytest.mark.parametrize(
    ("name", "cuts"),
    [
        ("everything", [2, 15, 20]),  # in every phase; the first before any checkpoint
        ("baselines", [9, 17, 20, 23]),
        ("ewc", [15, 19]),
        ("sqlite", [2, 9, 20]),
        ("actor", [6, 15]),
        ("critic", [7, 15]),
        ("sgd", [10, 15]),
    ],
)
def test_a_life_that_was_cut_ends_as_one_that_was_not(
    straight: Callable[[str], Path], name: str, cuts: list[int], tmp_path: Path
) -> None:
    for cut in cuts:
        assert not live(configured(name), tmp_path, die_after=cut)
    assert live(configured(name), tmp_path)
    assert list(differences(straight(name), tmp_path)) == []
    again = (tmp_path / "cut.jsonl").read_text().splitlines()
    assert len(again) <= 2 + 5 * len(cuts)  # three updates, and what they and a task's end wrote


def test_a_life_whose_memory_is_damaged_says_so_and_goes_on_without_it(
    straight: Callable[[str], Path], tmp_path: Path
) -> None:
    assert not live(configured("sqlite"), tmp_path, die_after=20)
    path = tmp_path / "memory.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE entries SET episode = episode + 1")
    with pytest.raises(ValueError, match="seal: take a copy of it, or move it away, and a life"):
        live(configured("sqlite"), tmp_path)
    path.unlink()
    assert live(configured("sqlite"), tmp_path)
    one, other = (load_agent(each / "agent.safetensors") for each in (tmp_path, straight("sqlite")))
    assert all(torch.equal(part, other.state_dict()[n]) for n, part in one.state_dict().items())
    assert [e for e in logs.read(tmp_path) if e["event"] == "exam"] == [
        e for e in logs.read(straight("sqlite")) if e["event"] == "exam"
    ]


@settings(max_examples=2, phases=[Phase.generate])
@given(cuts=st.lists(st.integers(1, 25), min_size=1, max_size=2))
def test_whenever_it_is_cut(
    straight: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    for cut in sorted(cuts):
        live(configured("everything"), folder, die_after=cut)
    live(configured("everything"), folder)
    assert list(differences(straight("everything"), folder)) == []


def test_checkpoints_change_nothing_and_need_not_be(
    straight: Callable[[str], Path], tmp_path: Path
) -> None:
    chosen = configured("everything", "checkpoint.every=0")
    assert not live(chosen, tmp_path, die_after=5)
    live(chosen, tmp_path)  # from its beginning
    assert not (tmp_path / FOLDER).exists()
    both = [load_agent(each / "agent.safetensors") for each in (tmp_path, straight("everything"))]
    one, other = (agent.state_dict() for agent in both)
    assert all(torch.equal(one[name], other[name]) for name in one)
    logged = [
        [{k: v for k, v in e.items() if k not in ("time", "seconds", "config")} for e in events]
        for events in map(logs.read, (tmp_path, straight("everything")))
    ]
    assert logged[0] == logged[1]


def test_differences_are_found(straight: Callable[[str], Path], tmp_path: Path) -> None:
    live(configured("everything", "seed=1"), tmp_path)
    found = list(differences(straight("everything"), tmp_path))
    assert any("the logs differ in event 0 (lifetime)" in each for each in found)
    assert any("agent.weights" in each for each in found)
    assert any("agent.store.columns" in each for each in found)
    assert any("random.torch" in each for each in found)


def test_the_last_are_kept_and_the_best(straight: Callable[[str], Path]) -> None:
    folder = straight("everything")
    kept = numbered(folder / FOLDER)
    assert len(kept) == 2
    last = read_checkpoint(kept[-1])
    assert last["strategy"]["position"]["phase"] == "end"
    exams = [e for e in logs.read(folder) if e.get("arm") == "agent"]
    scores: dict[int, list[float]] = {}
    for event in exams:
        scores.setdefault(event["after"], []).append(sum(event["correct"]) / len(event["correct"]))
    means = {after: sum(each) / len(each) for after, each in scores.items()}
    best = read_checkpoint(folder / FOLDER / BEST)
    assert best["strategy"]["counters"]["best"] == pytest.approx(max(means.values()))
    assert best["strategy"]["position"]["experience"] == max(means, key=means.__getitem__)


def test_the_past_of_a_memory_reaches_back_to_the_checkpoints(
    straight: Callable[[str], Path],
) -> None:
    folder = straight("sqlite")
    kept = [read_checkpoint(path)["agent"]["store"] for path in numbered(folder / FOLDER)]
    with memory_at(str(folder / "memory.sqlite"), read_only=True) as memory:
        assert 0 < memory.store.first <= min(state["operation"] for state in kept)


def test_an_agent_can_be_taken_out_of_a_checkpoint(straight: Callable[[str], Path]) -> None:
    folder = straight("everything")
    ends = [numbered(folder / FOLDER)[-1], folder / "agent.safetensors"]
    one, other = (load_agent(path).state_dict() for path in ends)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_operations_are_rewound_too(straight: Callable[[str], Path], tmp_path: Path) -> None:
    live(configured("actor"), tmp_path, die_after=9)  # five updates, of which three are saved
    live(configured("actor"), tmp_path)
    aside = [path.name for path in (tmp_path / "operations.cut").iterdir()]
    assert aside == ["0000004.safetensors"]
    files = [find_operations([each]) for each in (tmp_path, straight("actor"))]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert [int(path.stem) for path in files[0]] == [6, 8, 10]  # operations_keep=3
    for mine, theirs in zip(*files, strict=True):
        for one, other in zip(load_operations(mine), load_operations(theirs), strict=True):
            if isinstance(one, torch.Tensor):
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
            else:
                assert one == other


# --- Being stopped -----------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_life_that_is_asked_to_stop_is_saved_at_the_next_boundary(
    straight: Callable[[str], Path], tmp_path: Path, number: int, status: int
) -> None:
    before = signal.getsignal(number)

    def ask(name: str, update: int, accuracy: float) -> None:
        if update == 4:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # a second one is not heard

    with pytest.raises(Stopped) as stopped:
        live_lifetime(configured("everything"), tmp_path, ask)
    assert stopped.value.status == status
    assert signal.getsignal(number) is before
    at = read_checkpoint(numbered(tmp_path / FOLDER)[-1])["strategy"]["position"]
    assert (at["phase"], at["updates"]) == ("training", 4)
    live(configured("everything"), tmp_path)
    assert list(differences(straight("everything"), tmp_path)) == []
    assert not (tmp_path / "cut.jsonl").exists()  # nothing was lived again


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("size", "file"), [(7_000, "log.jsonl"), (50_000, "safetensors")])
def test_a_full_disk_is_one_sentence_and_nothing_is_lost(
    straight: Callable[[str], Path], tmp_path: Path, size: int, file: str
) -> None:
    every = "checkpoint.every=1" if file == "safetensors" else "checkpoint.every=0"
    with room_for(size), pytest.raises(OSError, match=f"{file} could not be written") as error:
        live_lifetime(configured("everything", every), tmp_path, lambda *_: None)
    assert "\n" not in str(error.value)
    assert (tmp_path / "log.jsonl").read_bytes().endswith(b"}\n")
    assert not list(tmp_path.rglob("*.part"))
    if file == "safetensors":
        live(configured("everything"), tmp_path)
        assert list(differences(straight("everything"), tmp_path)) == []


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    with pytest.raises(OSError, match="checkpoints could not be written"):
        live_lifetime(configured("everything"), tmp_path, lambda *_: None)
    with pytest.raises(OSError, match=r"log\.jsonl could not be written"):
        logs.LifetimeLog(tmp_path / FOLDER / "below")


def test_two_processes_cannot_write_one_log(tmp_path: Path) -> None:
    log = logs.LifetimeLog(tmp_path)
    with pytest.raises(ValueError, match="by another process"):
        logs.LifetimeLog(tmp_path, resume=True)
    log.close()


def test_neither_memory_nor_open_files_grow(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def look(name: str, update: int, accuracy: float) -> None:
        if update in (12, 36):
            gc.collect()
            seen.append((len(gc.get_objects()), len(os.listdir("/proc/self/fd"))))

    chosen = ["episodic_memory.bytes=8000", "working_memory.slots=3", "operations=5"]
    long = ["stream.episodes=148", "stream.tasks.tasks=[where_person]", "checkpoint.every=6"]
    config = compose_config([*SMALL, *chosen, *long, "working_policy=actor"])
    live_lifetime(config, tmp_path, look)
    (objects, files), (later, files_later) = seen
    assert files_later == files
    assert later - objects < 200  # twelve updates' questions alone would be more
    assert len(numbered(tmp_path / FOLDER)) == 2
