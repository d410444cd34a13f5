"""Mistakes on the command line: one sentence that says what was wrong, and the way out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stillknows.agents.assembly import assemble
from stillknows.agents.choices import arms_with, choices
from stillknows.agents.commands.cli import main
from stillknows.agents.commands.solve import build
from stillknows.agents.configuration import compose_config
from stillknows.agents.controllers.tokenizer import WordTokenizer
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.reports.log import SCHEMA, LifetimeLog
from stillknows.memory.interface import Decision, Features
from stillknows.memory.slots import Slots

RULES = "stillknows.memory.policies.rules"
BUDGETS = "should be a number for all tasks"
NO_MODULE = "no module 'nowhere' can be imported. A class is named by its module"


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("stillknows: ")
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["stream.episodes=abc"],
            f"stream.episodes=abc {BUDGETS}, such as stream.episodes=6400, or",
        ),
        (["stream.episodes=[64,abc]"], f"stream.episodes=[64,abc] {BUDGETS}"),
        (["stream.episodes=null"], f"stream.episodes=null {BUDGETS}"),
        (["stream=control", "stream.steps=abc"], f"stream.steps=abc {BUDGETS}"),
        (["arms=[si]", "si_c=0.1"], "stands with an arm that has it: 'arms=[\"si si_c=0.1\"]'."),
        (['arms=["ewc si_c=0.1"]'], "stands with an arm that has it: 'arms=[\"si si_c=0.1\"]'."),
        (["patterns=8"], "'arms=[\"agem patterns=8\"]' or 'arms=[\"gem patterns=8\"]'."),
        (["learner.clip=${nowhere}"], "Interpolation key 'nowhere' not found"),
        (["sic=0.1"], "Did you mean 'si_c'?"),
        (["learner=3"], "learner=3 should be a name. Known: nec, pretrained, questions"),
        (["learner=null"], "learner=null should be a name. Known: nec"),
        (["fuse={a: 1}"], "fuse={a: 1} should be a name. Known: concatenation"),
        (["arms=[3]"], "arm=3 should be a name. Known: agem"),
        (
            [f"working_policy._target_={RULES}.EvictOldst"],
            f"There is no {RULES}.EvictOldst. Did you mean '{RULES}.EvictOldest'?",
        ),
        (
            ["working_policy._target_=stillknows.memory.policies.rulez.EvictOldest"],
            f"Did you mean '{RULES}.EvictOldest'?",
        ),
        (["working_policy._target_=nowhere.Mine"], f"There is no nowhere.Mine: {NO_MODULE}"),
        (["working_policy._target_=nowhere"], f"There is no nowhere: {NO_MODULE}"),
        (["working_policy._target_=.Mine"], "There is no .Mine: no module '' can be imported."),
        (["plugins=[{_target_: nowhere.Mine}]"], NO_MODULE),
        (
            [f"working_policy._target_={RULES}.Zyzzyva"],
            f"There is no {RULES}.Zyzzyva: {RULES} has no 'Zyzzyva'.",
        ),
        (
            ["learner.optimizer={_target_: torch.optim.SGDD, _partial_: true}"],
            "Did you mean 'torch.optim.SGD'?",
        ),
        (
            [
                "stream=control",
                "stream.tasks.ids=[CartPole-v1]",
                "learner._target_=stillknows.agents.acting.recurrent_ppo.RecurentPPO",
            ],
            "Did you mean 'stillknows.agents.acting.recurrent_ppo.RecurrentPPO'?",
        ),
    ],
)
def test_what_train_is_told_wrongly(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert sentence in told(capsys, "train", f"run={tmp_path / 'run'}", *arguments)
    assert not (tmp_path / "run").exists()


def test_a_module_that_fails_is_not_said_to_be_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, code in (("lacking", "import nowhere"), ("dividing", "1 / 0")):
        (tmp_path / f"{name}.py").write_text(f"{code}\nclass Mine: pass\n")
    said = [
        told(capsys, "check", f"working_policy._target_={name}.Mine")
        for name in ("lacking", "dividing")
    ]
    assert "lacking.Mine cannot be imported: No module named 'nowhere'; mend" in said[0]
    assert "dividing.Mine cannot be imported: division by zero; mend" in said[1]


@pytest.mark.parametrize(
    "stream",
    [["debug=tiny"], ["stream=control", "stream.tasks.ids=[CartPole-v1]", "stream.steps=64"]],
)
def test_a_policy_that_keeps_something_is_refused_before_anything_is_lived(
    stream: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "keeping.py").write_text(
        f"from {RULES} import EvictOldest\n"
        "class Mine(EvictOldest):\n"
        "    fills_room, left = True, 0  # changes late, once the slots are full\n"
        "    def decide(self, features):\n"
        "        self.left += 1\n"
        "        return super().decide(features)\n"
    )
    own = ["working_memory=slots", "working_policy._target_=keeping.Mine"]
    said = told(capsys, "train", f"run={tmp_path / 'run'}", *stream, *own)
    assert "Mine keeps 'left' from one decision to the next, and an examination may change" in said
    assert "let it decide from its features alone" in said
    assert not (tmp_path / "run").exists()


def test_a_memory_of_solve_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, "solve", "working_memory._target_=stillknows.memory.dnc.DNK")
    assert "There is no stillknows.memory.dnc.DNK. Did you mean 'stillknows.memory.dnc.DNC" in said


def test_the_help_of_solve_names_the_memories_that_can_solve(
    capsys: pytest.CaptureFixture[str],
) -> None:
    able = []
    for name in choices("working_memory"):
        try:
            build(compose_config(["experiment=copy", f"working_memory={name}"], "solve"))
        except ValueError as error:
            said = str(error)
            assert "no recurrence of its own" in said or "asks no question" in said
        else:
            able.append(name)
    with pytest.raises(SystemExit):
        main(["solve", "--help"])
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("  working_memory="))
    assert line.split("=")[1].replace(",", "").split() == able


def test_who_cannot_be_talked_to(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    life = tmp_path / "run" / "both-seed0"
    life.mkdir(parents=True)
    assert f"{life} is a folder in which no agent was kept: give RUN/" in told(
        capsys, "talk", str(life)
    )
    file = life / "agent.safetensors"
    file.touch()
    for folder in (life, life.parent):
        said = told(capsys, "talk", str(folder))
        assert f"{folder} is a folder, not an agent: give the file, such as {file}." in said
    assert "There is no file" in told(capsys, "talk", str(tmp_path / "nobody"))


def test_options_that_only_some_arms_have() -> None:
    assert arms_with("si_c") == ["si"]
    assert arms_with("patterns") == ["agem", "gem"]
    assert arms_with("episodic_memory") == arms_with("protocol") == []  # every life has them


def test_nobody_reads_on() -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `head` does when it has enough
    command = [sys.executable, "-m", "stillknows.agents.commands.cli", "check", "--steps=10"]
    ended = subprocess.run(
        [*command, "working_policy=evict_oldest"], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert ended.stderr == ""
    assert ended.returncode == 141


@pytest.mark.parametrize("name", ["arms", "seeds", "orders"])
def test_a_list_with_nothing_in_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "train", f"{name}=[]") == (
        f"stillknows: {name}=[] is empty: name at least one.\n"
    )


def test_lines_of_a_memory_that_are_not_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = told(capsys, "memory", "import", str(tmp_path / "new.sqlite"), str(tmp_path / "none"))
    assert said.endswith(f"There is no file {tmp_path / 'none'}: give one that `export` wrote.\n")
    assert not (tmp_path / "new.sqlite").exists()


def test_what_lacks_the_doors_of_a_working_memory() -> None:
    config = compose_config(
        ["debug=tiny", "working_memory=none", "+working_memory={_target_: torch.nn.Identity}"]
    )
    with pytest.raises(ValueError, match="working_memory: Identity has no word_size and no reads"):
        assemble(config, WordTokenizer(["john"]))


class Nameless(Slots):
    """A working memory that cannot be told which episodes it begins."""

    def initial_state(self, batch, device="cpu"):
        return super().initial_state(batch, device)


def test_a_working_memory_that_takes_no_names_of_episodes() -> None:
    own = "+working_memory={_target_: test_mistakes.Nameless, slots: 4, word_size: 16}"
    config = compose_config(["debug=tiny", "working_memory=none", own])
    with pytest.raises(ValueError, match=r"Nameless\.initial_state should take batch, device and"):
        assemble(config, WordTokenizer(["john"]))


class Stumbling:
    """A policy with a mistake in it."""

    def decide(self, features: Features) -> Decision:
        raise KeyError("colour")


def test_a_policy_that_stumbles_is_named() -> None:
    ring = Slots(slots=4, word_size=16)
    items, here = torch.ones(2, 3, 16), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"Stumbling raised KeyError\('colour'\)"):
        ring.sequence(ring.initial_state(2), items, here, Stumbling())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::SyntaxWarning")
def test_a_plugin_that_asks_for_a_dataset_is_told_of_the_baselines(tmp_path: Path) -> None:
    plugin = "plugins=[{_target_: avalanche.training.plugins.ReplayPlugin}]"
    small = ["debug=tiny", "arm=none", "stream.episodes=8", "stream.exam_episodes=8"]
    config = compose_config([*small, plugin, "checkpoint.every=0"])
    with pytest.raises(ValueError, match="episodes have none: choose one of the baselines"):
        live_lifetime(config, tmp_path, lambda *_: None)


def test_logs_of_train_and_of_solve_are_not_reported_together(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, begins in (("a", "solving"), ("b", "lifetime")):
        (tmp_path / name).mkdir()
        log = LifetimeLog(tmp_path / name)
        log.append(begins, schema=SCHEMA)
        log.close()
    said = told(capsys, "report", str(tmp_path / "a"), str(tmp_path / "b"))
    assert "is of `stillknows train`, not of solve: report on the runs of each alone." in said
