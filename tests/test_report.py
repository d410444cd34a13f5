"""Reports on logs written by hand: references, orders, protocols apart, and what is missing."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from stillknows.agents.commands.cli import main
from stillknows.agents.persistence.resuming import write_order
from stillknows.agents.reports import log as logs
from stillknows.agents.reports.comparisons import COSTS, SCORES
from stillknows.agents.reports.figures import LINE, in_lines, limits
from stillknows.agents.reports.lives import collect, summarise
from stillknows.agents.reports.protocol import fingerprint
from stillknows.agents.reports.references import with_references
from stillknows.agents.reports.report import write_report

SETTING = {"protocol": "identity hidden", "schema": 1, "rows": 8, "stream.name": "small"}
Matrix = Sequence[Sequence[int]]


def write_life(
    folder: Path,
    arm: str,
    matrix: Matrix,
    *,
    seed: int = 0,
    curves: Sequence[Sequence[float]] = ((0.5, 0.7), (0.5, 0.7)),
    setting: dict[str, Any] | None = None,
    interim: Sequence[tuple[int, int, int]] = (),
    losses: Sequence[float] = (1.0, 1.0),
    head: dict[str, Any] | None = None,
    floors: Sequence[float] = (),
    end: bool = True,
) -> Path:
    """Write a log: `matrix[t][j]` of ten answers were right, `curves[e]` are of experience e.

    `interim` holds (experience, update, right answers of ten).
    """
    setting = {**SETTING, **(setting or {})}
    log = logs.LifetimeLog(folder)
    tasks = list("abcdefghij")[: len(matrix[0])]
    told = {"schema": 1, "name": arm, "seed": seed, "tasks": tasks, "setting": setting}
    log.append("lifetime", protocol=setting["protocol"], **{**told, **(head or {})})
    joint = setting["protocol"] == "joint"
    for after, row in enumerate(matrix):
        for number, seen in enumerate(curves[after - 1] if after else ()):
            task = (number if joint else after - 1) % len(tasks)
            place = {"experience": after - 1, "update": number, "task": task, "steps": 40}
            log.append("update", **place, accuracy=seen, loss=losses[number % len(losses)])
            for experience, update, right in interim:
                if (experience, update) == (after - 1, number + 1):
                    at = {"experience": experience, "update": update, "task": task}
                    log.append("interim", **at, correct=[1] * right + [0] * (10 - right))
        for task, right in enumerate(row):
            if right < 0:
                continue
            columns = {"correct": [1] * right + [0] * (10 - right), "carried": [0] * 10}
            exam = {"after": after, "task": task, "arm": "agent", "loss": 1.0}
            log.append("examination", **exam, **columns)
    for task, floor in enumerate(floors):
        log.append("floor", task=task, majority=floor, last_mentioned=floor)
    if end:
        log.append("end", updates=4, parameters=10, memory_bytes=1000)
        log.append("clock", seconds=60.0)
    log.close()
    return folder


JOINT, SCRATCH = {"protocol": "joint"}, {"protocol": "scratch"}


def with_two_references(run: Path) -> None:
    for seed in (0, 1):
        write_life(run / f"both{seed}", "both", [[1, 2], [8, 3], [6, 9 - seed]], seed=seed)
        joint = [[1, 2], [9, 9 + seed]]
        write_life(run / f"joint{seed}", "joint", joint, seed=seed, setting=JOINT)
        own = [[0.3, 0.5], [0.2 + 0.2 * seed, 0.4 + 0.2 * seed]]
        fresh = [[1, 2], [7, 0], [0, 8]]
        write_life(run / f"fresh{seed}", "fresh", fresh, seed=seed, curves=own, setting=SCRATCH)


def test_references_by_hand(tmp_path: Path) -> None:
    with_two_references(tmp_path)
    text = write_report([tmp_path], tmp_path)
    found = json.loads((tmp_path / "report.json").read_text())
    (stream,) = found["streams"]
    both = {life["seed"]: life["metrics"] for life in stream["lifetimes"] if life["arm"] == "both"}
    assert both[0]["intransigence"] == pytest.approx((0.9 - 0.8 + 0.9 - 0.9) / 2)
    assert both[1]["intransigence"] == pytest.approx((0.9 - 0.8 + 1.0 - 0.8) / 2)
    # areas of both are 0.6; of fresh agents 0.4 and 0.3 or 0.5, on average 0.4 and 0.4
    assert both[0]["area_transfer"] == pytest.approx(((0.6 - 0.4) / 0.6 + (0.6 - 0.3) / 0.6) / 2)
    assert both[1]["area_transfer"] == pytest.approx(((0.6 - 0.4) / 0.6 + (0.6 - 0.5) / 0.6) / 2)
    assert both[0]["scratch_gain"] == pytest.approx((0.8 - 0.7 + 0.9 - 0.8) / 2)
    assert both[0]["scratch_gain_normalised"] == pytest.approx((0.1 / 0.3 + 0.1 / 0.2) / 2)
    fresh = next(life for life in stream["lifetimes"] if life["arm"] == "fresh")
    assert fresh["metrics"]["average_accuracy"] == pytest.approx((0.7 + 0.8) / 2)  # each its own
    assert fresh["metrics"]["forgetting"] is None
    assert fresh["examinations"]["agent"] == [0.7, 0.8]
    assert (both[0]["steps"], both[0]["seconds"], both[0]["memory_bytes"]) == (160, 60, 1000)
    mean = np.mean([both[seed]["area_transfer"] for seed in (0, 1)])
    assert f"| `area_transfer` | {mean:.3f} [" in text
    assert stream["arms"]["both"]["metrics"]["area_transfer"]["mean"] == pytest.approx(mean)
    rows = list(csv.DictReader((tmp_path / "report.csv").read_text().splitlines()))
    assert [row["protocol"] for row in rows] == [*["identity hidden"] * 2, *["joint"] * 2,
                                                 *["scratch"] * 2]  # fmt: skip
    assert float(rows[0]["intransigence"]) == pytest.approx(0.05)
    assert rows[2]["intransigence"] == ""


def test_what_all_arms_share_counts_once_for_each_lifetime(tmp_path: Path) -> None:
    for arm in ("both", "none", "replay"):
        for seed in (0, 1):
            floors = [0.2 + 0.1 * seed] * 2
            matrix = [[1, 2], [8, 3], [6, 9]]
            write_life(tmp_path / f"{arm}{seed}", arm, matrix, seed=seed, floors=floors)
    rows = {line.split(" | ")[0]: line for line in write_report([tmp_path], tmp_path).splitlines()}
    # t with one degree of freedom of 0.2 and 0.3, not of three times both
    assert rows["| floor: majority answer"].count("0.250 [-0.385, 0.885]") == 2


def test_protocols_stand_in_blocks_of_one_table(tmp_path: Path) -> None:
    with_two_references(tmp_path)
    lines = write_report([tmp_path], tmp_path).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("| arm |"))
    starts = [line.split(" | ")[0].strip("| ") for line in lines[first + 2 : first + 8]]
    assert starts == ["*identity hidden*", "both", "*joint*", "joint", "*scratch*", "fresh"]


def test_an_arm_has_fresh_agents_of_its_own_kind(tmp_path: Path) -> None:
    with_two_references(tmp_path)
    own = [[1, 2], [3, 0], [0, 5]]
    write_life(tmp_path / "own", "both protocol=scratch", own, setting=SCRATCH)
    arms: dict[str, list[Any]] = {}
    for life in collect([tmp_path])[0]:
        arms.setdefault(life.name, []).append(life)
    compared = with_references(arms)
    gains = [life.metrics["scratch_gain"] for life in compared["both"]]
    assert gains[0] == pytest.approx((0.8 - 0.3 + 0.9 - 0.5) / 2)
    assert np.isnan(gains[1])  # its seed has no fresh agent of this kind


def test_an_arm_has_the_references_with_its_own_options(tmp_path: Path) -> None:
    for number, options in enumerate((" learner.clip=2", "")):
        own = [[1, 2], [3 + number, 0], [0, 5]]
        write_life(tmp_path / f"s{number}", f"scratch{options}", own, setting=SCRATCH)
        write_life(tmp_path / f"b{number}", f"both{options}", [[1, 2], [8, 3], [6, 9]])
    write_life(tmp_path / "other", "ewc ewc_lambda=2", [[1, 2], [8, 3], [6, 9]])
    compared = with_references({life.name: [life] for life in collect([tmp_path])[0]})
    gains = {name: lives[0].metrics["scratch_gain"] for name, lives in compared.items()}
    with_clip, without = (0.8 - 0.3 + 0.9 - 0.5) / 2, (0.8 - 0.4 + 0.9 - 0.5) / 2
    assert gains["both learner.clip=2"] == pytest.approx(with_clip)
    assert gains["both"] == pytest.approx(without)
    assert gains["ewc ewc_lambda=2"] in (pytest.approx(with_clip), pytest.approx(without))


def test_examinations_during_training_make_the_curves(tmp_path: Path) -> None:
    interim = [(0, 1, 8), (1, 1, 5)]
    write_life(tmp_path / "x", "both", [[1, 2], [6, 3], [4, 9]], interim=interim)
    life = summarise(logs.read(tmp_path / "x"))
    # task a: 0.1, 0.8, 0.6 and task b: 0.3, 0.5, 0.9 before, after one update, after two
    assert life.areas["examinations"] == pytest.approx([(0.45 + 0.7) / 2, (0.4 + 0.7) / 2])
    speeds = [(0.1 + 0.8 + 0.8) / 3, (0.3 + 0.5 + 0.9) / 3]
    assert life.metrics["libero_forward_transfer"] == pytest.approx(np.mean(speeds))
    expected = ((speeds[0] + 0.4) / 2 + speeds[1]) / 2
    assert life.metrics["libero_area"] == pytest.approx(expected)
    write_life(tmp_path / "y", "fresh", [[2, 1], [4, 0], [0, 5]], interim=interim, setting=SCRATCH)
    fresh = summarise(logs.read(tmp_path / "y"))
    # a fresh agent knows before its training what nobody knows: 0.2 of a, 0.1 of b
    assert fresh.areas["examinations"] == pytest.approx([(0.5 + 0.6) / 2, (0.3 + 0.5) / 2])


@pytest.mark.parametrize("numbers", [3, 2])
def test_a_task_that_comes_again(numbers: int, tmp_path: Path) -> None:
    matrix = [row[:numbers] for row in ([0, 0, 0], [5, 0, 5], [5, 5, 5], [6, 5, 6])]
    curves, told = [[0.2, 0.6], [0.5, 0.5], [0.1, 0.5]], {"repeats": [0, 1, 0][:numbers]}
    write_life(tmp_path, "both", matrix, curves=curves, head=told)
    assert summarise(logs.read(tmp_path)).metrics["loss_of_area"] == pytest.approx(1 - 0.3 / 0.4)


def test_a_task_that_returns_is_no_new_task(tmp_path: Path) -> None:
    keeps = [[0, 0] * 2, [9, 0] * 2, [9, 9] * 2, [9, 9] * 2, [9, 9] * 2]
    forgets = [[0, 0] * 2, [9, 0] * 2, [0, 9] * 2, [9, 0] * 2, [0, 9] * 2]
    for arm, matrix in (("keeps", keeps), ("forgets", forgets)):
        told = {"repeats": [0, 1, 0, 1]}
        write_life(tmp_path / arm, arm, matrix, curves=[[0.5]] * 4, head=told)
    found = {life.name: life.metrics for life in collect([tmp_path])[0]}
    assert found["keeps"]["forward_transfer"] == 0  # nothing was known before it was trained
    assert found["keeps"]["zero_shot_transfer"] == 0
    assert found["keeps"]["isolated_forgetting"] == 0
    assert found["forgets"]["isolated_forgetting"] == pytest.approx(0.9)  # each time all of it
    assert found["forgets"]["forgetting"] == pytest.approx(0.9 * 2 / 3)


def test_orders_are_put_in_place(tmp_path: Path) -> None:
    turned = {"tasks": ["b", "a"], "places": [1, 0], "order": 1}
    write_life(tmp_path / "x", "both", [[1, 2], [8, 3], [6, 9]])
    write_life(tmp_path / "y", "both", [[2, 1], [8, 2], [4, 7]], head=turned)
    lives, lacks = collect([tmp_path])
    assert lacks == []
    assert [life.tasks for life in lives] == [("a", "b")] * 2
    assert [life.arms["agent"] for life in lives] == [[0.6, 0.9], [0.7, 0.4]]
    assert [life.metrics["forgetting"] for life in lives] == pytest.approx([0.2, 0.4])
    text = write_report([tmp_path], tmp_path)
    assert "Orders of the tasks: 0, 1." in text
    assert "| both | 0.650 [0.015, 1.285] | 0.650 [" in text  # a, then b


def test_what_differs_is_named_and_never_averaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_life(tmp_path / "x", "both", [[1, 2], [8, 3], [6, 9]])
    other = {"rows": 32, "stream.name": "large"}
    write_life(tmp_path / "y", "both", [[1, 2], [8, 3], [2, 3]], setting=other)
    assert main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "rows (8 against 32), stream.name (small against large)" in said
    assert said.count("\n") == 1
    assert main(["report", str(tmp_path), "--apart"]) == 0
    said = capsys.readouterr().out
    names = [f"small ({fingerprint(SETTING)})", f"large ({fingerprint({**SETTING, **other})})"]
    assert all(f"# Stream {name}\n" in said for name in names)
    assert f"| average accuracy | {' | '.join(names)} |" in said
    assert "| both | 0.750 (n = 1) | 0.250 (n = 1) |" in said


def test_an_arm_that_was_lived_twice_gets_the_name_of_its_run(tmp_path: Path) -> None:
    for run, last in (("one", 6), ("two", 2)):
        write_life(tmp_path / run / "x", "both", [[1, 2], [8, 3], [last, 9]])
    text = write_report([tmp_path / "one", tmp_path / "two", tmp_path / "one"], tmp_path)
    assert "| both (one) | identity hidden | 1 | 0.750 |" in text
    assert "| both (two) | identity hidden | 1 | 0.550 |" in text
    write_life(tmp_path / "one" / "y", "both", [[1, 2], [8, 3], [6, 9]])
    with pytest.raises(ValueError, match="the same arm, seed and order"):
        write_report([tmp_path / "one"], tmp_path)


def test_arms_stand_in_the_order_in_which_they_were_asked_for(tmp_path: Path) -> None:
    for arm in ("a", "b", "c", "other"):
        write_life(tmp_path / f"{arm}-seed0", arm, [[1, 2], [8, 3], [6, 9]])
    (tmp_path / "run.json").write_text('{"lives": {"c-seed0": {}, "a-seed0": {}, "b-seed0": {}}}')
    assert [life.name for life in collect([tmp_path])[0]] == ["c", "a", "b", "other"]
    assert "| c − a | 1 |" in write_report([tmp_path], tmp_path)
    (tmp_path / "run.json").write_text('{"lives": 3}')
    assert [life.name for life in collect([tmp_path])[0]] == ["a", "b", "c", "other"]


def test_what_is_missing_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    whole = [[1, 2], [8, 3], [6, 9]]
    write_life(tmp_path / "whole", "both", whole)
    write_life(tmp_path / "stopped", "both", whole[:2], seed=1, end=False)
    nan = float("nan")
    write_life(tmp_path / "nan", "both", whole, seed=2, losses=(1.0, nan))
    write_life(tmp_path / "gap", "both", [[1, 2], [8, -1], [6, 9]], seed=3)
    cut = write_life(tmp_path / "cut", "both", whole, seed=4, end=False) / logs.FILE
    cut.write_text(cut.read_text()[:-30])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / logs.FILE).touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / logs.FILE).write_text('{"event": "lifetime"\n{}\n')
    before = {path: path.read_bytes() for path in tmp_path.rglob(logs.FILE)}
    text = write_report([tmp_path], tmp_path)
    lacks = text.split("## What is missing\n\n")[1].strip().splitlines()
    expected = [
        ("broken", "line 1 is not JSON"),
        ("cut", "stopped in b after 4 updates; it is left out, its log stays as it is."),
        ("empty", "is empty: the life stopped before it began."),
        ("gap", "no score of b after 1 experiences was logged; means leave it out."),
        ("nan", "the loss is NaN or infinite in 2 of 4 updates, first in update 2, of a."),
        ("stopped", "stopped in a after 2 updates; it is left out, its log stays as it is."),
    ]
    assert len(lacks) == len(expected)
    for line, (folder, sentence) in zip(lacks, expected, strict=True):
        assert str(tmp_path / folder) in line
        assert sentence in line
    assert "| both | identity hidden | 3 | 0.750 [0.750, 0.750] |" in text
    found = json.loads((tmp_path / "report.json").read_text())
    assert len(found["missing"]) == 6
    assert [life["seed"] for life in found["streams"][0]["lifetimes"]] == [0, 2, 3]
    assert before == {path: path.read_bytes() for path in tmp_path.rglob(logs.FILE)}
    with pytest.raises(ValueError, match=r"No lifetime is whole\. .*is empty"):
        write_report([tmp_path / "empty"], tmp_path)
    assert write_report([tmp_path], tmp_path / "a" / "new one") == text
    assert (tmp_path / "a" / "new one" / "report.md").read_text(encoding="utf-8") == text
    with pytest.raises(OSError, match="could not be written"):
        write_report([tmp_path], tmp_path / "report.md")


def test_scores_may_be_returns(tmp_path: Path) -> None:
    log = logs.LifetimeLog(tmp_path)
    told = {"schema": 1, "name": "both", "seed": 0, "tasks": ["a", "b"]}
    scale = [[-200, -100], [10, 20]]
    log.append("lifetime", protocol="identity hidden", setting=SETTING, scale=scale, **told)
    rows = ([-200, 10], [-120, 12], [-150, 20])
    for after, row in enumerate(rows):
        if after:
            log.append("update", experience=after - 1, task=after - 1, loss=1.0)
        for task, value in enumerate(row):
            exam = {"after": after, "task": task, "arm": "agent"}
            log.append("examination", **exam, returns=[value - 5.0, value + 5.0])
    log.close()
    life = summarise(logs.read(tmp_path))
    np.testing.assert_allclose(life.matrix, [[0, 0], [0.8, 0.2], [0.5, 1.0]])
    assert life.metrics["forgetting"] == pytest.approx(0.3)
    assert life.arms["agent"] == pytest.approx([0.5, 1.0])


def test_figures_reach_as_far_as_scores_do(tmp_path: Path) -> None:
    inside = summarise(logs.read(write_life(tmp_path / "a", "none", [[0, 0], [9, 0], [9, 8]])))
    assert limits({"none": [inside]}) == pytest.approx((-0.02, 1.02))
    beyond = inside._replace(matrix=np.array([[-0.5, np.nan], [0.0, 1.5]]))
    assert limits({"none": [inside], "both": [beyond]}) == pytest.approx((-0.54, 1.54))


def test_rankings_of_short_streams(tmp_path: Path) -> None:
    tasks = 7

    def matrix(scores: Sequence[int]) -> list[list[int]]:
        return [[0] * tasks, *([score] * tasks for score in scores)]

    arms = {"early": [9, 8, 7, 6, 5, 2, 1], "late": [1, 1, 2, 3, 4, 8, 9]}
    for name, scores in arms.items():
        write_life(tmp_path / name, name, matrix(scores), curves=[[0.5]] * tasks)
    fresh = matrix([5] * tasks)
    write_life(tmp_path / "z", "fresh", fresh, curves=[[0.5]] * tasks, setting=SCRATCH)
    text = write_report([tmp_path], tmp_path)
    assert "| after tasks | 5 |\n| --- | --- |\n| Kendall's tau with the whole | -1.000 |" in text


def test_who_is_better_how_often(tmp_path: Path) -> None:
    for seed in range(3):
        write_life(tmp_path / f"x{seed}", "ours", [[1, 2], [8, 3], [6, 9]], seed=seed)
        worse = [[1, 2], [8, 3], [5, 9 + (seed == 1)]]
        write_life(tmp_path / f"y{seed}", "theirs", worse, seed=seed)
    write_life(tmp_path / "alone", "theirs", [[1, 2], [8, 3], [10, 10]], seed=9)
    lines = write_report([tmp_path], tmp_path).splitlines()
    row = next(line for line in lines if line.startswith("| ours − theirs | 3 |"))
    # better twice, equal once: 2.5 of 3, with the bounds of that many successes
    low, high = stats.beta.ppf(0.025, 2.5, 1.5), stats.beta.ppf(0.975, 3.5, 0.5)
    assert row.endswith(f"| 0.833 [{low:.3f}, {high:.3f}] |")


def test_every_metric_of_a_report_is_explained(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    assert [name for name in (*SCORES, *COSTS) if f"`{name}`" not in page] == []
    life = summarise(logs.read(write_life(tmp_path, "both", [[1, 2], [8, 3], [6, 9]])))
    compared = with_references({"both": [life]})["both"][0]
    assert set(compared.metrics) == {*SCORES, *COSTS}


def test_arms_of_two_sweeps_are_told_apart_by_the_folders_that_differ(tmp_path: Path) -> None:
    runs = [tmp_path / f"sweep-{number}" / "stream" for number in (1, 2)]
    for run, last in zip(runs, (6, 2), strict=True):
        write_life(run / "x", "both", [[1, 2], [8, 3], [last, 9]])
    text = write_report(runs, tmp_path)
    assert "| both (sweep-1/stream) |" in text
    assert "| both (sweep-2/stream) |" in text


def test_a_sweep_notes_the_order_of_its_lives(tmp_path: Path) -> None:
    for arm in ("a", "b"):
        write_life(tmp_path / f"{arm}-seed0", arm, [[1, 2], [8, 3], [6, 9]])
    write_order(tmp_path, ["stream/b-seed0", "stream/a-seed0"])
    assert [life.name for life in collect([tmp_path])[0]] == ["b", "a"]


def test_a_life_that_lacks_its_last_examinations_is_reported_with_the_others(
    tmp_path: Path,
) -> None:
    write_life(tmp_path / "one", "both", [[1, 2], [8, 3], [6, 9]], seed=0)
    write_life(tmp_path / "two", "both", [[1, 2], [8, 3]], seed=1)
    assert "| both | identity hidden | 2 |" in write_report([tmp_path], tmp_path)


def test_a_first_log_that_is_broken_is_named_and_the_others_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_life(tmp_path / "one", "both", [[1, 2], [8, 3], [6, 9]], seed=0)
    write_life(tmp_path / "two", "both", [[1, 2], [8, 3], [6, 9]], seed=1)
    log = tmp_path / "one" / "log.jsonl"
    log.write_bytes(b"\0" * 40 + log.read_bytes()[40:])
    assert main(["report", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "| both | identity hidden | 1 |" in told
    assert str(log) in told


def test_the_title_of_a_panel_stays_above_it() -> None:
    title = "both episodic_memory.store=sqlite episodic_policy=keep_facts (n = 2)"
    lines = in_lines(title).split("\n")
    assert " ".join(lines) == title
    assert max(map(len, lines)) <= LINE
    assert in_lines("both (n = 2)") == "both (n = 2)"
