"""Commands that go on with a run, or refuse to."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cut_lives import (
    CONFIGURATIONS,
    SMALL,
    configured,
    live,
    straight,  # noqa: F401
)

from stillknows.agents.commands.cli import main
from stillknows.agents.commands.verify import differences
from stillknows.agents.persistence.checkpoint import FOLDER, numbered, read_checkpoint
from stillknows.agents.reports import log as logs

CLI = (sys.executable, "-m", "stillknows.agents.commands.cli")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]


# --- The command -------------------------------------------------------------------------------


def run_of(tmp_path: Path, overrides: Sequence[str]) -> Path:
    """Write the plan of a run that was not begun."""
    from stillknows.agents.commands.train import lives_of
    from stillknows.agents.persistence.resuming import write_plan

    write_plan(tmp_path / "run", lives_of(overrides))
    return tmp_path / "run"


@pytest.mark.slow
def test_the_command_goes_on_with_a_run(
    straight: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, [*SMALL, *CONFIGURATIONS["everything"], "arms=[both]", "seeds=[0,1]"])
    config = configured("everything")
    live(config, run / "both-seed0", die_after=20)
    assert main(["train", f"resume={run}", "workers=1", "checkpoint.every=50"]) == 0
    assert "average accuracy" in capsys.readouterr().out
    assert logs.read(run / "both-seed1")[-1]["event"] == "clock"
    assert list(differences(straight("everything"), run / "both-seed0")) == []
    before = (run / "both-seed0" / "log.jsonl").read_bytes()
    assert main(["train", f"resume={run}"]) == 0  # all have ended: only the report is written
    assert (run / "both-seed0" / "log.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_command_that_is_asked_to_stop_says_how_to_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    chosen = [*SMALL, *CONFIGURATIONS["everything"], "stream.episodes=6400", "arms=[both]"]
    command = [*CLI, "train", *chosen, f"run={run}"]
    log = run / "both-seed0" / "log.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 240
        while not (log.exists() and log.read_text().count('"update"') > 7):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        process.terminate()
        _, said = process.communicate(timeout=120)
    assert process.returncode == 143
    assert (
        said.strip()
        .splitlines()[-1]
        .endswith(f"stopped; `stillknows train resume={run}` goes on from where it was saved.")
    )
    at = read_checkpoint(numbered(log.parent / FOLDER)[-1])
    assert at["log"]["bytes"] == log.stat().st_size  # nothing is lived again


@pytest.mark.slow
def test_verify_resume_kills_and_compares(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = [*SMALL, *CONFIGURATIONS["everything"], "arms=[both]"]
    assert main(["verify-resume", *chosen, "--cuts", "2"]) == 0
    said = capsys.readouterr().out
    assert "killed 2 times" in said
    assert "What was cut ended as what was not." in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["learner.clip=2"], "goes on with the configuration that it has"),
        (["seeds=[3]"], "goes on with the configuration that it has"),
        (["checkpoint.every=-1"], "checkpoint.every=-1"),
        (["checkpoint.keep=0"], "at least 1"),
    ],
)
def test_what_would_change_results_is_refused(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, [*SMALL, "arms=[none]"])
    assert main(["train", f"resume={run}", *arguments]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert [path.name for path in run.iterdir()] == ["run.json"]


def test_a_plan_that_is_not_there_or_foreign_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", f"resume={tmp_path}"]) == 2
    assert "no run that can go on" in capsys.readouterr().err
    run = run_of(tmp_path, [*SMALL, "arms=[none]"])
    plan = json.loads((run / "run.json").read_text())
    life = plan["lives"]["none-seed0"]
    victim = tmp_path / "victim"
    for change, sentence in (
        ({"learner": {"_target_": "os.mkdir", "path": str(victim)}}, "names os.mkdir"),
        ({"plugins": [{"_target_": "pathlib.Path.touch"}]}, "names pathlib.Path.touch"),
        ({"name": "${oc.env:HOME}"}, "asks for"),
        ({"name": "elsewhere"}, "other names than their folders"),
        (
            {"stream": {**life["stream"], "ids": ["evil_module:X-v0"]}},
            "allow its module ('evil_module')",
        ),
        (
            {"stream": {**life["stream"], "train": {"stories": "evil_module:X-v0"}}},
            "allow its module ('evil_module')",
        ),
    ):
        changed = {**plan, "lives": {"none-seed0": {**life, **change}}}
        (run / "run.json").write_text(json.dumps(changed))
        assert main(["train", f"resume={run}"]) == 2
        assert sentence in capsys.readouterr().err
    (run / "run.json").write_text(json.dumps({**plan, "schema": 9}))
    assert main(["train", f"resume={run}"]) == 2
    assert "schema is 9" in capsys.readouterr().err
    assert not victim.exists()
