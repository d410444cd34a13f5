"""The help of a command names every file of `configs/` that can be chosen for it, and no other."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from stillknows.agents.choices import command_of
from stillknows.agents.commands.cli import main
from stillknows.agents.configuration import compose_config

CONFIGS = Path(__file__).parents[1] / "configs"


def helped(command: str, capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """Return the choices that a command's help names, by group."""
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out.partition("what there is to choose from:")[2]
    found = re.findall(r"^  ([a-z_]+)=(?:\[\.\.\.\])?\s+(\S.*(?:\n {4,}.*)*)", text, flags=re.M)
    return {group: re.findall(r"\w+", names) for group, names in found}


def files(group: str) -> list[str]:
    """Return the names in a folder of `configs/`, without those that choose for a memory."""
    return sorted(f.stem for f in (CONFIGS / group).glob("*.yaml") if f.stem[:4] != "for_")


@pytest.mark.parametrize("command", ["train", "sweep", "check", "verify-resume"])
def test_the_help_names_every_choice(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    named = helped(command, capsys)
    folders = sorted(f.name for f in CONFIGS.iterdir() if f.is_dir() and f.name[:2] != "__")
    assert sorted({"arms": "arm"}.get(group, group) for group in named) == folders
    for group, names in named.items():
        there = files("arm" if group == "arms" else group)
        if group in ("experiment", "debug"):
            there = [name for name in there if command_of(group, name) == "train"]
        assert names == there


def test_what_solve_can_choose_is_apart(capsys: pytest.CaptureFixture[str]) -> None:
    train, solve = helped("train", capsys), helped("solve", capsys)
    assert sorted(solve) == ["debug", "experiment", "working_memory"]
    assert sorted(train["experiment"] + solve["experiment"]) == files("experiment")
    for name in solve["experiment"]:
        assert compose_config([f"experiment={name}"], "solve").command == "solve"


def test_a_command_without_choices_names_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert helped("report", capsys) == {}


@pytest.mark.parametrize("stream", files("stream"))
def test_tiny_goes_with_every_stream(stream: str) -> None:
    options = [f"stream={stream}"]
    plain, tiny = (compose_config([*options, *extra]).stream for extra in ([], ["debug=tiny"]))
    assert (tiny.episodes, tiny.exam_episodes) == (64, 16)
    before, after = (OmegaConf.to_container(each.tasks) for each in (plain, tiny))
    small = {"sentences": 12, "questions": 3, "carry": 0.3, "lifetime_facts": 24, "lag": 8}
    assert after == before | (small if stream == "microworld" else {})  # other dials stay
