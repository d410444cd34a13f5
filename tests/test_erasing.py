"""Deletion beside files that are foreign, broken or held, and of lives in tensors alone."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from candidates import rows
from safetensors.torch import save_file

from stillknows.agents.commands.cli import main
from stillknows.agents.persistence.container import write_tree
from stillknows.agents.persistence.memory_erasing import erase, report_of
from stillknows.agents.persistence.memory_files import AGENT, memory_in
from stillknows.agents.persistence.memory_places import memory_at
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.stores.sqlite import SQLite


def remembered(capacity: int, *names: int) -> NEC:
    """Return a memory in tensors of one entry a name, whose episode is its name."""
    memory = NEC(capacity, 4, 3, EvictOldest(), answer_length=1, story_shape=(2, 3))
    for name in names:
        memory.remember(rows((name, 5), episode=name, seed=name))
    return memory


def ids(memory: NEC) -> list[int]:
    return sorted(entry for entry in memory.provenance("id").tolist() if entry >= 0)


def held(place: Path) -> list[int]:
    with memory_at(str(place), read_only=True) as memory:
        return ids(memory)


@pytest.fixture
def john(tmp_path: Path) -> Path:
    """A memory in SQLite with a fork beside it."""
    memory = remembered(8, 0, 1, 2, 3)
    memory.fork(SQLite(tmp_path / "twin.sqlite")).store.close()
    memory.keep_in(SQLite(tmp_path / "john.sqlite"))
    memory.store.close()
    return tmp_path / "john.sqlite"


def foreign_weights(folder: Path) -> Path:
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    return folder / "model.safetensors"


def foreign_database(folder: Path) -> Path:
    with closing(sqlite3.connect(folder / "a.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    return folder / "a.sqlite"


def broken(folder: Path) -> Path:
    (folder / "b.safetensors").write_bytes(b"half")
    return folder / "b.safetensors"


@pytest.mark.parametrize("beside", [foreign_weights, foreign_database, broken])
def test_what_cannot_be_read_stays_is_told_and_keeps_no_copy_from_being_cleared(
    beside: Callable[[Path], Path], john: Path
) -> None:
    path = beside(john.parent)
    before = path.read_bytes()
    done = erase(str(john), [2])
    assert done.unread == [str(path)]
    assert str(path) in report_of(done).partition("remove:")[2]
    assert done.files == {str(john): [2], str(john.parent / "twin.sqlite"): [2]}
    assert held(john) == held(john.parent / "twin.sqlite") == [0, 1, 3]
    assert path.read_bytes() == before


def test_copies_are_cleared_though_another_program_holds_the_memory(john: Path) -> None:
    with closing(sqlite3.connect(john, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entries").fetchall()
        with pytest.raises(OSError, match="close it, and delete once more"):
            erase(str(john), [2])
    assert held(john) == held(john.parent / "twin.sqlite") == [0, 1, 3]


def test_a_copy_that_cannot_be_cleared_leaves_the_memory_for_another_try(john: Path) -> None:
    with closing(sqlite3.connect(john.parent / "twin.sqlite", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entries").fetchall()
        with pytest.raises(OSError, match=r"twin\.sqlite no longer holds"):
            erase(str(john), [2])
        assert held(john) == [0, 1, 2, 3]
    assert erase(str(john), [2]).ids == [2]
    assert held(john) == [0, 1, 3]


def test_what_only_a_checkpoint_of_a_life_in_tensors_holds_is_deleted_too(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    earlier = tmp_path / "checkpoints" / "1.safetensors"
    agent, memory = tmp_path / AGENT, remembered(2, 0, 1)
    write_tree(earlier, {"memory": memory.snapshot()}, "stillknows test 1")
    memory.remember(rows((2, 5), episode=2, seed=2))
    write_tree(agent, {"memory": memory.snapshot()}, "stillknows test 1")
    assert (ids(memory_in(earlier)), ids(memory_in(agent))) == ([0, 1], [1, 2])
    assert erase(str(agent), [], episode=0).files == {str(earlier): [0]}
    assert (ids(memory_in(earlier)), ids(memory_in(agent))) == ([1], [1, 2])
    done = erase(str(agent), [1])
    assert done.files == {str(agent): [1], str(earlier): [1]}
    assert (ids(memory_in(earlier)), ids(memory_in(agent))) == ([], [2])


def test_the_past_is_not_deleted_alone_and_a_name_may_have_an_at(
    john: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["memory", "delete", f"{john}@2", "--entry", "2"]) == 2
    assert "The past cannot be deleted alone: leave the @ away." in capsys.readouterr().err
    assert held(john) == [0, 1, 2, 3]
    home = john.rename(john.parent / "john@home.sqlite")
    assert main(["memory", "delete", str(home), "--entry", "2"]) == 0
    assert held(home) == [0, 1, 3]


def test_a_file_of_something_else_holds_no_memory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="something foreign: it is no file of this project"):
        memory_in(foreign_weights(tmp_path))


def test_a_limit_below_nothing_is_refused(john: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "ls", str(john), "--limit", "-2"]) == 2
    assert "limit=-2 should be a whole number, at least 0." in capsys.readouterr().err
