"""Checkpoints as files: what is kept of any part, damage, older schemas, and what is refused."""

import json
import random
import shutil
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file

from stillknows.agents.commands.cli import main
from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.optimizer import Optimizers, load_optimizer
from stillknows.agents.persistence.checkpoint import (
    BEST,
    FOLDER,
    Checkpoints,
    life_of,
    numbered,
    read_checkpoint,
)
from stillknows.agents.persistence.container import read_tree, write_tree
from stillknows.agents.persistence.keeping import CHECKPOINT, load_agent, save_agent
from stillknows.agents.persistence.moved import as_now
from stillknows.agents.persistence.resuming import PLAN, read_plan, write_plan
from stillknows.agents.persistence.state import (
    random_states,
    restore_random_states,
    restore_to,
    state_of,
)
from stillknows.agents.persistence.stopping import Stop
from stillknows.agents.persistence.trust import bounded, refuse_foreign
from stillknows.agents.reports import log as logs
from stillknows.memory.policies.rules import EvictIdle

DATA = Path(__file__).parent / "data"

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


# --- The state of any part ---------------------------------------------------------------------


class Plain:
    """Holds whatever it is given."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def through_a_file(tree: Any, path: Path) -> Any:
    write_tree(path, tree, "test 1")
    return read_tree(path, "test 1")


def typed(value: Any) -> Any:
    """Return a value with its types, so that True is not 1; sets without an order."""
    if isinstance(value, dict):
        return [(typed(key), typed(part)) for key, part in value.items()]
    if isinstance(value, set):
        return set, {(type(part), part) for part in value}
    if isinstance(value, list | tuple):
        return type(value), [typed(part) for part in value]
    return type(value), repr(value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda below: (
        st.lists(below, max_size=3)
        | st.tuples(below, below)
        | st.sets(st.integers() | st.text(max_size=2), max_size=3)
        | st.dictionaries(
            st.integers() | st.text(max_size=2) | st.tuples(st.integers()), below, max_size=3
        )
    ),
    max_leaves=8,
)


@given(value=plain)
def test_plain_attributes_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    twin = Plain(value=None, own=1)
    tree = through_a_file(state_of(Plain(value=value)), tmp_path_factory.getbasetemp() / "plain")
    restore_to(twin, tree)
    assert typed(twin.value) == typed(value)
    assert twin.own == 1


def test_tensors_weights_and_defaults_come_back(tmp_path: Path) -> None:
    weight = torch.arange(6.0).view(2, 3)
    held: defaultdict[int, dict[str, int]] = defaultdict(dict, {1: {"a": 2}})
    whole = torch.arange(4)
    part = Plain(view=weight.flatten()[1:5:2], held=held, same=(whole, whole), own=weight.clone())
    twin = Plain(view=None, held=defaultdict(dict), same=None, own=None)
    other = weight.clone()
    tree = through_a_file(state_of(part, {"w": weight}), tmp_path / "tree")
    restore_to(twin, tree, {"w": other})
    assert twin.held[7] == {}  # still a defaultdict
    assert twin.held[1] == {"a": 2}
    assert twin.same[0] is twin.same[1]
    other += 10
    assert twin.view.tolist() == [11.0, 13.0]  # still a view of the weight
    assert torch.equal(twin.own, weight)


def test_a_plugin_that_cannot_be_kept_is_refused_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"Plain\.f holds a function.*checkpoint\.every=0"):
        state_of(Plain(f=lambda: 0))
    with pytest.raises(ValueError, match="with a gradient"):
        state_of(Plain(t=torch.ones(1, requires_grad=True)))
    plugin = "{_target_: avalanche.training.plugins.ReplayPlugin, mem_size: 5}"
    arguments = ["train", "debug=tiny", f"plugins=[{plugin}]", f"run={tmp_path / 'run'}"]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "ReplayPlugin.storage_policy" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["decide", "__class__", "two words"])
def test_a_state_sets_no_methods(name: str) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        restore_to(EvictIdle(), {name: 3})
    rule = EvictIdle()
    restore_to(rule, state_of(EvictIdle(refresh=False)))
    assert rule.refresh is False


def test_random_numbers_go_on(tmp_path: Path) -> None:
    before = through_a_file(random_states(), tmp_path / "random")

    def draw() -> list[Any]:
        return [random.random(), np.random.normal(), np.random.randint(99), torch.rand(2).tolist()]

    drawn = draw()
    restore_random_states(before)
    assert draw() == drawn


def test_an_optimiser_refuses_the_state_of_another() -> None:
    def stepped(shape: tuple[int, ...]) -> torch.optim.Optimizer:
        weight = torch.ones(shape, requires_grad=True)
        optimizer = torch.optim.Adam([weight], betas=(0.5, 0.6))
        weight.sum().backward()
        optimizer.step()
        return optimizer

    tree = json.loads(json.dumps(stepped((2, 3)).state_dict()["param_groups"]))
    state = stepped((2, 3)).state_dict()["state"]
    twin = stepped((2, 3))
    load_optimizer(twin, {"param_groups": tree, "state": state})
    assert twin.param_groups[0]["betas"] == (0.5, 0.6)
    with pytest.raises(ValueError, match="other weights"):
        load_optimizer(stepped((3, 2)), {"param_groups": tree, "state": state})
    with pytest.raises(ValueError, match="zip"):
        Optimizers(stepped((1,))).load_state_dict({"parts": []})


# --- What a stranger may ask for ---------------------------------------------------------------


def test_no_more_memory_is_taken_than_a_file_has_numbers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="far more memory"), bounded(0):
        torch.nn.Linear(10**7, 10**7)
    with bounded(0):
        assert torch.nn.Linear(10, 10).weight.shape == (10, 10)
    agent = load_agent(DATA / "checkpoint_1.safetensors")
    for part, name in (("controller", "longest"), ("episodic_memory", "bytes")):
        settings = json.loads(json.dumps(agent.settings))
        settings[part][name] = 10**13
        agent.settings, before = settings, agent.settings
        save_agent(agent, tmp_path / "huge.safetensors")
        agent.settings = before
        with pytest.raises(ValueError, match="far more memory"):
            load_agent(tmp_path / "huge.safetensors")


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("stillknows.envs.microworld.microworld_tasks", True),
        ("stillknows.agents.learner.QuestionLearner", True),
        ("stillknows.agents.baselines.penalties.EWC", True),
        ("stillknows.memory.nec.NEC.within", True),
        ("torch.optim.SGD", True),
        ("torch.optim.lr_scheduler.CosineAnnealingLR", True),
        ("torch.optim.optimizer.torch.load", False),
        ("torch.load", False),
        ("stillknows.agents.reports.log.LifetimeLog", False),
        ("stillknows.agents.commands.train.train", False),
        ("stillknows.envs.tasks.importlib.import_module", False),
        ("avalanche.training.plugins.ReplayPlugin", False),
    ],
)
def test_what_a_run_may_name(target: str, allowed: bool) -> None:
    config: Sequence[Any] = [{"part": {"_target_": target}}]
    if allowed:
        refuse_foreign(list(config), run=True)
    else:
        with pytest.raises(ValueError, match="no part of a run"):
            refuse_foreign(list(config), run=True)


# --- Logs --------------------------------------------------------------------------------------

EXAM = {
    "event": "examination",
    "after": 0,
    "task": 0,
    "arm": "agent",
    "correct": [1],
    "carried": [0],
}
ANATOMY = {"event": "anatomy", "causes": "n", "episodes": [0], "steps": [0], "mended": [0]}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"task": 2}, "line 2 names task 2 of 2"),
        ({"after": 10**12}, "after 1000000000000 experiences"),
        ({"correct": 1}, "look at its 'correct'"),
        ({"correct": ["1"]}, "look at its 'correct'"),
        ({"correct": [1, 0]}, "columns of different lengths"),
        ({"event": ["examination"]}, "line 2 is no event"),
        ({"arm": None}, "look at its 'arm'"),
        ({"event": "update", "experience": 0, "steps": [1]}, "look at its 'steps'"),
        ({"event": "clock", "seconds": {}}, "look at its 'seconds'"),
        ({"event": "end", "memory_bytes": None}, "look at its 'memory_bytes'"),
        ({"event": "update", "experience": 0, "accuracy": None}, "look at its 'accuracy'"),
        ({"carried": []}, "columns of different lengths"),
        ({"episodes": [1, 2]}, "columns of different lengths"),
        (ANATOMY, "line 2 is about an examination that is not there"),
        ({**ANATOMY, "causes": "x"}, "look at its 'causes'"),
        ({**ANATOMY, "mended": None}, "look at its 'mended'"),
        ({**ANATOMY, "steps": [0, 0]}, "columns of different lengths"),
    ],
)
def test_a_log_that_does_not_fit_is_told_with_its_line(
    change: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    head = {"event": "lifetime", "schema": 1, "name": "a", "seed": 0, "tasks": ["a", "b"]}
    lines = [{**head, "protocol": "joint"}, {**EXAM, **change}]
    (tmp_path / logs.FILE).write_text("\n".join(map(json.dumps, lines)) + "\n")
    with pytest.raises(ValueError, match=sentence) as error:
        logs.read(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seeded", ["x", 3, ["none-seed0"], {"none-seed0": 5}])
def test_a_plan_that_was_changed_is_told_in_a_sentence(seeded: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_plan(run, {"none-seed0": compose_config(["debug=tiny", "name=none"])})
    assert list(read_plan(run)) == ["none-seed0"]
    plan = json.loads((run / PLAN).read_text())
    (run / PLAN).write_text(json.dumps({**plan, "seeded": seeded}))
    with pytest.raises(ValueError, match="is broken or foreign") as error:
        read_plan(run)
    assert "\n" not in str(error.value)


def test_foreign_files_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="something foreign"):
        read_checkpoint(path)
    path.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match="broken"):
        read_checkpoint(path)
