"""Mistakes on the command line: one sentence that says what was wrong, and the way out."""

from pathlib import Path

import pytest

from stillknows.agents.choices import arms_with, choices
from stillknows.agents.commands.cli import main
from stillknows.agents.commands.solve import build
from stillknows.agents.configuration import compose_config

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
            assert "no recurrence of its own" in str(error)  # noqa: PT017
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
