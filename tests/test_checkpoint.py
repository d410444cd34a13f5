"""Checkpoints as files: what is kept of any part, damage, older schemas, and what is refused."""

import json
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counters import DATA
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.persistence.checkpoint import (
    BEST,
    FOLDER,
    Checkpoints,
    life_of,
    numbered,
    read_checkpoint,
)
from stillknows.agents.persistence.container import read_tree, write_tree
from stillknows.agents.persistence.keeping import CHECKPOINT, load_agent
from stillknows.agents.persistence.moved import as_now
from stillknows.agents.persistence.stopping import Stop
from stillknows.agents.reports import log as logs

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]


class Counter:
    """A part of a life that counts, and holds what it is given."""

    def __init__(self) -> None:
        self.count = 0

    def state(self) -> Any:
        return {"count": self.count, "numbers": torch.full((3,), self.count)}

    def restore(self, state: Any) -> None:
        self.count = int(state["numbers"][0])
        if self.count != state["count"]:
            raise ValueError("The counter is of another kind.")


def configured(**chosen: Any) -> DictConfig:
    usual = {"every": 1, "seconds": 0, "keep": 3}
    return OmegaConf.create({"checkpoint": {**usual, **chosen}, "seed": 0})


def kept(folder: Path, boundaries: int = 4, **chosen: Any) -> Counter:
    """Count some boundaries, with checkpoints; return who counted."""
    log, counter = logs.LifetimeLog(folder, resume=True), Counter()
    checkpoints = Checkpoints(folder, configured(**chosen), {"part": counter, "log": log}, Stop())
    for number in range(boundaries):
        counter.count += 1
        log.append("counted", number=number)
        checkpoints.passed(best=number == 1)
    log.close()
    return counter


def restored(folder: Path) -> int:
    """Return where the life in a folder goes on, -1 if at its beginning."""
    log, counter = logs.LifetimeLog(folder, resume=True), Counter()
    try:
        parts = {"part": counter, "log": log}
        return (
            counter.count
            if Checkpoints(folder, configured(), parts, Stop()).restore_newest()
            else -1
        )
    finally:
        log.close()


# --- Files -------------------------------------------------------------------------------------


def test_the_newest_are_kept_and_the_best(tmp_path: Path) -> None:
    kept(tmp_path, boundaries=7)
    assert [path.stem for path in numbered(tmp_path / FOLDER)] == [
        "000000005",
        "000000006",
        "000000007",
    ]
    assert read_checkpoint(tmp_path / FOLDER / BEST)["part"]["count"] == 2
    assert {p.name for p in (tmp_path / FOLDER).iterdir()} == {
        "000000005.safetensors", "000000006.safetensors", "000000007.safetensors", BEST,
    }  # fmt: skip
    assert restored(tmp_path) == 7


def test_the_interval_counts_boundaries_or_seconds(tmp_path: Path) -> None:
    kept(tmp_path / "three", boundaries=8, every=3)
    assert [path.stem[-1] for path in numbered(tmp_path / "three" / FOLDER)] == ["3", "6"]
    kept(tmp_path / "time", boundaries=3, every=99, seconds=1e-9)
    assert len(numbered(tmp_path / "time" / FOLDER)) == 3
    kept(tmp_path / "none", boundaries=3, every=0, seconds=1e-9)
    assert not (tmp_path / "none" / FOLDER).exists()


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "flipped":
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 4]) + content[-1:])
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "of another schema":
        write_tree(path, read_tree(path, CHECKPOINT), "stillknows checkpoint 99")
    elif how == "of another life":
        write_tree(path, {**read_tree(path, CHECKPOINT), "life": "x"}, CHECKPOINT)
    elif how == "of another part":
        tree = read_tree(path, CHECKPOINT)
        write_tree(path, {**tree, "part": {**tree["part"], "count": -1}}, CHECKPOINT)
    else:
        tree = read_tree(path, CHECKPOINT)
        del tree["log"]
        write_tree(path, tree, CHECKPOINT)


HOWS = (
    "flipped", "truncated", "emptied", "of another schema", "of another life", "of another part",
    "without a log",
)  # fmt: skip


@pytest.mark.parametrize("how", HOWS)
def test_a_broken_one_is_told_and_the_one_before_it_is_used(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(tmp_path)
    newest = numbered(tmp_path / FOLDER)[-1]
    damage(newest, how)
    assert restored(tmp_path) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(newest) in said
    assert "000000003.safetensors is used" in said
    assert newest.with_name(newest.name + ".broken").exists()
    assert len((tmp_path / logs.FILE).read_bytes().splitlines()) == 3
    assert b'"number": 3' in (tmp_path / logs.CUT).read_bytes()
    assert restored(tmp_path) == 3  # and nothing is told again
    assert capsys.readouterr().err == ""


def test_where_none_is_whole_the_life_is_left_as_it_is(tmp_path: Path) -> None:
    kept(tmp_path)
    for path in numbered(tmp_path / FOLDER):
        damage(path, "truncated")
    for _ in range(2):
        with pytest.raises(ValueError, match="is whole: delete"):
            restored(tmp_path)
    assert len((tmp_path / logs.FILE).read_bytes().splitlines()) == 4


def test_a_log_that_is_not_the_one_that_was_written_is_found_out(tmp_path: Path) -> None:
    kept(tmp_path)
    path = tmp_path / logs.FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[3].replace(b"counted", b"covnted")]))
    assert restored(tmp_path) == 3
    path.write_bytes(b"".join(lines[:1]))
    with pytest.raises(ValueError, match="No checkpoint"):
        restored(tmp_path)


def test_random_numbers_go_on_with_a_life(tmp_path: Path) -> None:
    kept(tmp_path)
    drawn = torch.rand(1).item(), random.random(), np.random.normal()
    assert restored(tmp_path) == 4
    assert (torch.rand(1).item(), random.random(), np.random.normal()) == drawn


def test_what_was_half_written_is_cleared_away(tmp_path: Path) -> None:
    kept(tmp_path)
    half = tmp_path / FOLDER / "000000005.safetensors.part"
    half.write_bytes(b"half")
    assert restored(tmp_path) == 4
    assert not half.exists()


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_no_flipped_bit_is_read_as_something_else(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    tree = {"a": [1, 2.5, "x", None], "b": torch.arange(20), "c": torch.ones(3, dtype=torch.bool)}
    write_tree(path, tree, "test 1")
    whole = repr(read_tree(path, "test 1"))
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)
    with suppress(ValueError):
        assert repr(read_tree(path, "test 1")) == whole


def test_a_checkpoint_of_schema_1_goes_on(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    shutil.copy(DATA / "checkpoint_1.safetensors", tmp_path / FOLDER / "000000008.safetensors")
    shutil.copy(DATA / "checkpoint_1.jsonl", tmp_path / logs.FILE)
    head = json.loads((tmp_path / logs.FILE).read_text().splitlines()[0])
    updates: list[int] = []
    live_lifetime(
        OmegaConf.create(as_now(head["config"])),
        tmp_path,
        lambda name, update, accuracy: updates.append(update),
        resume=True,
    )
    assert updates == [3, 4]  # those of the first task were behind
    assert (
        (tmp_path / logs.FILE).read_bytes().startswith((DATA / "checkpoint_1.jsonl").read_bytes())
    )
    assert logs.read(tmp_path)[-1]["event"] == "clock"
    store = load_agent(DATA / "checkpoint_1.safetensors").episodic_memory
    assert store is not None
    assert store.seen == 16  # two updates of four episodes with two questions


def test_a_life_has_a_name_that_harmless_options_do_not_change() -> None:
    config = compose_config(["debug=tiny"])
    assert life_of(config) == life_of(compose_config(["debug=tiny", "workers=7", "seeds=[1,2]"]))
    assert life_of(config) != life_of(compose_config(["debug=tiny", "learner.clip=2"]))
    assert life_of(config) == life_of(
        OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    )
