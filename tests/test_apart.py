"""Which lives are averaged: those with the same options that came to their end."""

import copy
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from test_report import write_life

from stillknows.agents.configuration import compose_config
from stillknows.agents.reports import log as logs
from stillknows.agents.reports.apart import distinct, options_of
from stillknows.agents.reports.lives import collect
from stillknows.agents.reports.report import write_report

OF_SEED = [[1, 2], [8, 3], [6, 9]]


def config_of(*overrides: str) -> dict[str, Any]:
    config: Any = OmegaConf.to_container(compose_config(overrides), resolve=True)
    return dict(config)


def lived(folder: Path, seed: int, *overrides: str, last: int = 9) -> Path:
    head = {"config": config_of(f"seed={seed}", f"run={folder}", *overrides)}
    return write_life(folder, "both", [[1, 2], [8, 3], [6, last]], seed=seed, head=head)


def names(folder: Path) -> list[str]:
    return [life.name for life in collect([folder])[0]]


@pytest.mark.parametrize(
    ("override", "usual", "told"),
    [
        ("learner.learning_rate=0.001", "learner.learning_rate=0.004", ""),
        ("episodic_memory.bytes=4000", "episodic_memory.bytes=8000000", ""),
        ("controller.width=32", "controller.width=64", ""),  # and what follows it
        ("+controller.dropout=0.1", "", "controller.dropout=0.1"),
        (
            "episodic_memory=none",
            "episodic_memory._target_=stillknows.memory.nec.NEC.within",
            "episodic_memory=None",
        ),
    ],
)
def test_other_options_and_other_seeds_are_never_averaged(
    tmp_path: Path, override: str, usual: str, told: str
) -> None:
    for seed in (0, 1):
        lived(tmp_path / f"usual{seed}", seed)
        lived(tmp_path / f"other{seed}", 2 + seed, override, last=5)
    text = write_report([tmp_path], tmp_path)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| both")][:2]
    assert [row[:4] for row in rows] == [
        [
            f"| both ({usual})" if usual else "| both",
            "identity hidden",
            "2",
            "0.750 [0.750, 0.750]",
        ],
        [f"| both ({told or override})", "identity hidden", "2", "0.550 [0.550, 0.550]"],
    ]


def test_the_same_seed_with_other_options_is_named_by_them_and_twice_by_its_run(
    tmp_path: Path,
) -> None:
    lived(tmp_path / "one" / "x", 0)
    lived(tmp_path / "two" / "x", 0, "learner.clip=2")
    assert names(tmp_path) == ["both (learner.clip=1.0)", "both (learner.clip=2)"]
    lived(tmp_path / "three" / "x", 0, "learner.clip=2")
    assert set(names(tmp_path)) == {
        "both (learner.clip=1.0)",
        "both (learner.clip=2) (two)",
        "both (learner.clip=2) (three)",
    }


def test_what_changes_nothing_that_is_lived_tells_no_lives_apart(tmp_path: Path) -> None:
    others = ["workers=1", "checkpoint.every=0", "log.part=null", "anatomy=true", "operations=5"]
    store = ["episodic_memory.store=sqlite", "keep=false", "seeds=[1]", "exam_arms=[agent]"]
    lived(tmp_path / "one", 0)
    lived(tmp_path / "two", 1, *others, *store)
    assert names(tmp_path) == ["both", "both"]


def test_a_memory_of_another_kind_is_told_by_its_kind_alone() -> None:
    slots, dnc = (options_of(config_of(f"working_memory={m}")) for m in ("slots", "dnc"))
    assert distinct(dnc, [slots]) == (
        "working_memory._target_=stillknows.memory.dnc.DNC, "
        "working_policy._target_=stillknows.memory.policies.rules.EvictOldest"
    )


def test_options_that_older_logs_lack_were_as_the_files_of_configs_have_them() -> None:
    now = config_of("arm=clear")
    older = copy.deepcopy(now)
    for part, name in (("learner", "recall_rehearsed"), ("episodic_memory", "writes")):
        older[part].pop(name, None)
    older.pop("token_bytes")
    older["learner"]["_target_"] = "stillknows.agents.learner.QuestionLearner"
    older["plugins"][0]["_target_"] = "stillknows.agents.clear.CLEAR"  # before it had a room
    then = options_of(older)
    assert distinct(options_of(now), [then]) == distinct(then, [options_of(now)]) == ""
    now["token_bytes"] = 1
    assert distinct(options_of(now), [then]) == "token_bytes=1"
    now["plugins"][0]["cloning"] = 3.0
    assert distinct(options_of(now), [then]) == "token_bytes=1, plugins.0.cloning=3.0"
    assert distinct(options_of(now), [options_of(None)]) == ""  # it tells no options


def test_a_life_that_is_killed_within_its_last_examination_is_cut(tmp_path: Path) -> None:
    write_life(tmp_path / "whole", "both", OF_SEED)
    write_life(tmp_path / "killed", "both", OF_SEED, seed=1, end=False)
    lives, lacks = collect([tmp_path])
    assert [life.seed for life in lives] == [0]
    assert lacks == [
        f"{tmp_path / 'killed'}: stopped in b after 4 updates; it is left out, its log stays as "
        "it is."
    ]
    assert len(logs.read(tmp_path / "killed")) == len(logs.read(tmp_path / "whole")) - 2
