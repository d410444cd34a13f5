"""Sweeps: what is lived, what is lived again after a stop, and what is refused."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from slow_work import work

from stillknows.agents import progress
from stillknows.agents.commands import sweep
from stillknows.agents.commands.cli import main
from stillknows.agents.commands.processes import run_all
from stillknows.agents.configuration import compose_config
from stillknows.agents.reports import log as logs

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]
SHORT = (
    "debug=tiny",
    "stream.tasks.tasks=[where_person,route]",
    "stream.episodes=8",
    "stream.exam_episodes=2",
    "arms=[none]",
)
Finished = Callable[[str, BaseException | None], None]


class Inline:
    """Takes the place of the processes; stops the sweep, or a life, where it is told to."""

    def __init__(self, stops_after: int | None = None, fails: str = "") -> None:
        self.stops_after, self.fails, self.lived = stops_after, fails, list[str]()

    def __call__(
        self,
        work: Callable[..., Any],
        jobs: Mapping[str, tuple[Any, ...]],
        workers: int | None,
        finished: Finished,
    ) -> None:
        for place, (name, arguments) in enumerate(jobs.items()):
            if len(self.lived) == self.stops_after:
                raise KeyboardInterrupt
            if name == self.fails:
                finished(name, RuntimeError("out of memory."))
                continue
            work(*arguments, place)
            self.lived.append(name)
            finished(name, None)


def events(folder: Path) -> list[logs.Event]:
    return [
        {key: value for key, value in event.items() if key != "time"}
        for event in logs.read(folder)
        if event["event"] != "clock"
    ]


def test_what_is_lived() -> None:
    options = ["streams=[microworld,'stress stream.episodes=640']", "arms=[both,none]"]
    options += ["seeds=[0,1]", "orders=[0,2]"]
    plan = sweep.plan_sweep(compose_config(options, "sweep"), options)
    assert len(plan) == 16
    life = plan["stress-stream.episodes-640/none-seed1-order2"]
    assert (life.stream.name, life.stream.episodes) == ("stress", 640)
    assert (life.arm, life.seed, life.order) == ("none", 1, 2)
    assert (life.episodic_memory, "streams" in life) == (None, False)
    assert plan["microworld/both-seed0"].order == 0


def test_a_sweep_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Inline()
    monkeypatch.setattr(sweep, "run_all", whole)
    options = ["sweep", *SHORT, "seeds=[0,1]"]
    assert main([*options, f"run={tmp_path / 'whole'}"]) == 0
    assert whole.lived == ["microworld/none-seed0", "microworld/none-seed1"]

    run = tmp_path / "run"
    monkeypatch.setattr(sweep, "run_all", Inline(stops_after=1))
    assert main([*options, f"run={run}"]) == 130
    ended = (run / whole.lived[0] / logs.FILE).read_bytes()
    half = run / whole.lived[1]
    half.mkdir()
    lines = (tmp_path / "whole" / whole.lived[1] / logs.FILE).read_text().splitlines()
    (half / logs.FILE).write_text("\n".join(lines[:5]))

    again = Inline()
    monkeypatch.setattr(sweep, "run_all", again)
    capsys.readouterr()
    assert main([*options, f"run={run}"]) == 0
    assert again.lived == whole.lived[1:]
    assert (run / whole.lived[0] / logs.FILE).read_bytes() == ended
    assert events(half)[1:] == events(tmp_path / "whole" / whole.lived[1])[1:]
    assert (half / logs.CUT).read_text() == "\n".join(lines[:5])  # there was no checkpoint
    found = json.loads((run / "report.json").read_text())
    assert [life["seed"] for life in found["streams"][0]["lifetimes"]] == [0, 1]
    assert found["missing"] == []
    assert "done: microworld/none-seed1 (1 of 1)" in capsys.readouterr().err

    assert main([*options, f"run={run}", "learner.clip=0.5"]) == 2
    assert "was lived with other options, learner.clip (0.5 against 1.0)" in capsys.readouterr().err
    assert main([*options[:-1], "seeds=[1]", f"run={run}", "workers=1"]) == 0
    assert again.lived == whole.lived[1:]  # nothing was left to live


def test_lives_that_fail_do_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Inline(fails="microworld/none-seed0")
    monkeypatch.setattr(sweep, "run_all", run)
    assert main(["sweep", *SHORT, "seeds=[0,1]", f"run={tmp_path / 'run'}"]) == 2
    assert run.lived == ["microworld/none-seed1"]
    said = capsys.readouterr()
    assert "1 of 2 lifetimes failed, the first, microworld/none-seed0, with: out of memory." in (
        said.err
    )
    assert "failed: microworld/none-seed0 (1 of 2)" in said.err
    assert "| none | identity hidden | 1 |" in said.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["streams=[microwrld]"], "Did you mean 'microworld'"),
        (["streams=microworld"], "streams=microworld should be a list"),
        (["streams=[stress,stress]"], "names a stream twice"),
        (["seeds=[0,0]"], "name a life twice"),
        (["orders=[0,120]"], "5 tasks have 120 orders"),
        (["experiment=copy"], "is for `stillknows solve`"),
        (["stream.exam_every=-1"], "stream.exam_every=-1 should be a number of updates"),
    ],
)
def test_mistakes_are_one_sentence(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["sweep", f"run={tmp_path / 'run'}", *options]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_table_reads_how_far_lives_are_from_their_logs(tmp_path: Path) -> None:
    rows = {"x/a": ("x", "both"), "x/b": ("x", "both"), "x/c": ("x", "none"), "x/d": ("x", "none")}
    paths = {name: tmp_path / name[-1] / logs.FILE for name in rows}
    for path in paths.values():
        path.parent.mkdir()
    left = {name: (paths[name].parent, 8) for name in ("x/b", "x/c", "x/d")}  # x/a has ended before
    table = progress.LivesTable(rows, left)

    def cells() -> list[tuple[str, ...]]:
        found = table.table()
        columns = [list(column.cells) for column in found.columns]
        return [tuple(map(str, row)) for row in zip(*columns, strict=True)]

    paths["x/b"].write_text('{"event": "lifetime"}\n{"event": "update"}\n{"event": "upd')
    assert cells() == [("x", "both", "1 of 2", "12%"), ("x", "none", "0 of 2", "")]
    with paths["x/b"].open("a") as file:
        file.write('ate"}\n{"event": "update"}\n{"event": "examination"}\n')
    table.finish("x/c", well=True)
    table.finish("x/d", well=False)
    assert cells() == [("x", "both", "1 of 2", "38%"), ("x", "none", "1 of 2", "")]
    assert "1 of 3 lifetimes left" in str(table.table().title)
    assert "1 failed" in str(table.table().title)


@pytest.mark.slow
def test_a_sweep_whose_process_was_killed_goes_on(tmp_path: Path) -> None:
    options = [*SHORT, "seeds=[0,1,2]", "workers=1", f"run={tmp_path / 'run'}"]
    command = [sys.executable, "-m", "stillknows.agents.commands.cli", "sweep", *options]
    first = tmp_path / "run" / "microworld" / "none-seed0" / logs.FILE
    with subprocess.Popen(command) as sweeping:
        until = time.monotonic() + 300
        while not (first.exists() and '"clock"' in first.read_text()):
            assert sweeping.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        sweeping.kill()
    ended = first.read_bytes()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert first.read_bytes() == ended
    assert "done: microworld/none-seed0" not in done.stderr
    assert "| none | identity hidden | 3 |" in done.stdout
    assert "\x1b" not in done.stderr  # no table where there is no terminal


def test_where_all_lives_fail_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep, "run_all", Inline(fails="microworld/none-seed0"))
    assert main(["sweep", *SHORT, "seeds=[0]", f"run={tmp_path / 'run'}"]) == 2
    assert "1 of 1 lifetimes failed, the first, microworld/none-seed0, with: out of memory." in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("option", "list_of_all"),
    [("arm=ewc", "arms=[ewc]"), ("seed=5", "seeds=[5]"), ("order=2", "orders=[2]")],
)
def test_an_option_of_one_life_is_not_taken_for_one_of_all(
    option: str, list_of_all: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "debug=tiny", option]) == 2
    assert f"is of one life: give {list_of_all}." in capsys.readouterr().err


def test_the_first_job_that_raises_ends_all(tmp_path: Path) -> None:
    jobs = {str(number): (tmp_path, number) for number in range(6)}
    with pytest.raises(ValueError, match="the first cannot be"):
        run_all(work, jobs, 1)
    assert len(list(tmp_path.iterdir())) < 3
