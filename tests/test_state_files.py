"""What a file keeps of any part, what it takes to read it, and what is no file of ours."""

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counters import DATA
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from stillknows.agents.commands.cli import main
from stillknows.agents.configuration import compose_config
from stillknows.agents.optimizer import Optimizers, load_optimizer
from stillknows.agents.persistence.checkpoint import (
    read_checkpoint,
)
from stillknows.agents.persistence.container import read_tree, write_tree
from stillknows.agents.persistence.keeping import load_agent, save_agent
from stillknows.agents.persistence.resuming import PLAN, read_plan, write_plan
from stillknows.agents.persistence.state import (
    random_states,
    restore_random_states,
    restore_to,
    state_of,
)
from stillknows.agents.persistence.trust import bounded, refuse_foreign
from stillknows.agents.reports import log as logs
from stillknows.memory.policies.rules import EvictIdle

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]


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
