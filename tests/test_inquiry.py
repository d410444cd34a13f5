"""The last examination of a life: weights against store, how far it goes, and explanations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inquired import (
    SMALL,
    _story,
    life,  # noqa: F401
)

from stillknows.agents.assembly import build_agent
from stillknows.agents.commands.cli import main
from stillknows.agents.configuration import compose_config
from stillknows.agents.examinations.anatomy import CAUSES
from stillknows.agents.examinations.arms import ARMS
from stillknows.agents.examinations.guard import note
from stillknows.agents.examinations.inquiry import own_experiences
from stillknows.agents.examinations.swaps import CELLS, NOW, THEN, TIMES, Snapshots, parts_of
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.persistence.container import read_tree
from stillknows.agents.persistence.keeping import SCHEMA as KEPT
from stillknows.agents.persistence.memory_files import AGENT
from stillknows.agents.reports import events as of_logs
from stillknows.agents.reports.anatomy_report import FATES, account, right_then
from stillknows.agents.reports.lives import summarise
from stillknows.agents.reports.log import SCHEMA, LifetimeLog, read
from stillknows.agents.reports.report import write_report
from stillknows.envs.microworld import microworld_tasks
from stillknows.envs.recall import recall_tasks
from stillknows.envs.tasks import Task
from stillknows.envs.variants import VARIANTS, variant
from stillknows.envs.world import PEOPLE, UNSEEN_PEOPLE

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]


def exams(folder: Path) -> dict[tuple[int, int, str], dict[str, Any]]:
    found = [event for event in read(folder) if event["event"] == "examination"]
    return {(e["after"], e["task"], e["arm"]): e for e in found}


shares = st.floats(0, 1)


@given(st.tuples(shares, shares, shares, shares))
def test_the_three_parts_are_what_was_forgotten(accuracy: tuple[float, ...]) -> None:
    cells = dict(zip([(w, s) for w in (NOW, THEN) for s in (NOW, THEN)], accuracy, strict=True))
    parts = parts_of(cells)
    assert sum(parts[1:]) == pytest.approx(parts.forgotten)
    still = parts_of({**cells, (NOW, THEN): cells[THEN, THEN], (NOW, NOW): cells[THEN, NOW]})
    assert still.weights == 0  # weights that did not move took nothing
    assert still.interaction == pytest.approx(0)
    assert still.forgotten == pytest.approx(still.store)


def test_earlier_weights_with_the_earlier_store_are_the_earlier_examination(life: Path) -> None:
    found = exams(life)
    for task in (0, 1):
        then = found[task + 1, task, "agent"]
        again = found[2, task, "weights_then_store_then"]
        for column in ("correct", "episodes", "steps", "by_token", "carried", "loss"):
            assert then[column] == again[column], column
        assert {arm for after, number, arm in found if (after, number) == (2, task)} >= set(CELLS)
    moved = found[2, 0, "agent"]["loss"], found[2, 0, "weights_then_store_now"]["loss"]
    assert moved[0] != moved[1]
    first = found[2, 0, "weights_empty_store_empty"]
    assert first["loss"] == pytest.approx(found[0, 0, "agent"]["loss"], rel=0.5)


def test_a_swap_leaves_everything_as_it_was(life: Path, tmp_path: Path) -> None:
    config = compose_config(SMALL)
    tasks = microworld_tasks(["where_person"], **{"carry": 0.3, "lifetime_facts": 24, "lag": 4})
    torch.manual_seed(0)
    agent = build_agent(config, tasks)
    snapshots = Snapshots(tmp_path, agent, 1)
    before = note(agent, whole=True)
    snapshots.take(0)
    with torch.no_grad():
        for weight in agent.parameters():
            weight.add_(1.0)
    after = note(agent, whole=True)
    rekeyed = []
    with snapshots.swapped(0, 0, lambda: rekeyed.append(True)):
        assert note(agent, whole=True) == before
    assert note(agent, whole=True) == after
    assert rekeyed == [True]
    with pytest.raises(ValueError, match="There is no file"):  # noqa: SIM117
        with snapshots.swapped(3, None, lambda: None):
            pass
    with pytest.raises(ValueError, match=r"anatomy=true would keep .* more than 0"):
        Snapshots(tmp_path, agent, 1, most_bytes=2**16)


def test_an_inquiry_changes_no_life(life: Path, tmp_path: Path) -> None:
    options = ["agent.answer_length=1"]
    live_lifetime(compose_config([*SMALL, *options]), tmp_path / "plain", lambda *_: None)
    plain, asked = exams(tmp_path / "plain"), exams(life)
    for key, event in plain.items():
        for column in ("correct", "loss", "by_token"):
            assert event[column] == asked[key][column], key
    assert not (tmp_path / "plain" / "anatomy").exists()
    kept = [read_tree(folder / AGENT, KEPT) for folder in (tmp_path / "plain", life)]
    for name, weight in kept[0]["weights"].items():
        assert torch.equal(weight, kept[1]["weights"][name]), name
    for name, column in kept[0]["store"]["columns"].items():
        assert torch.equal(column, kept[1]["store"]["columns"][name]), name


def test_the_letters_of_causes_are_those_that_a_log_may_hold() -> None:
    assert set(CAUSES) == of_logs._CAUSES


def test_an_experience_is_of_the_task_that_it_begins_with() -> None:
    seen = [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0)]  # the next task's batches are mixed in
    updates = [{"event": "update", "experience": e, "task": task} for e, task in seen]
    assert own_experiences(updates) == {0: 1, 1: 2}
    joint = [{"event": "lifetime", "protocol": "joint"}, *updates[:2]]
    assert own_experiences(joint) == {0: 1, 1: 1}  # which begins with all of them


def test_every_wrong_answer_has_a_cause_and_they_add_up(life: Path) -> None:
    events = read(life)
    one = account(events)
    assert one is not None
    found, right = exams(life), right_then(events)
    for task in (0, 1):
        last, then = found[2, task, "agent"], found[task + 1, task, "agent"]
        wrong = len(last["correct"]) - sum(last["correct"])
        assert sum(one.count(what, task) for what in FATES) == wrong
        assert one.questions(task) == len(last["correct"])
        assert len(right[task]) == sum(then["correct"])
        lost = sum(a and not b for a, b in zip(then["correct"], last["correct"], strict=True))
        assert sum(one.count(what, task) for what in FATES[:-1]) == lost
        cells = one.swaps[task]
        assert set(cells) == {(w, s) for w in TIMES for s in TIMES}
        forgotten = np.mean(then["correct"]) - np.mean(last["correct"])
        assert parts_of(cells).forgotten == pytest.approx(forgotten)


def test_the_report_shows_all_of_it(life: Path, tmp_path: Path) -> None:
    text = write_report([life], tmp_path)
    for title in ("Where forgetting comes from", "In the weights, or in the store", "How far"):
        assert title in text
    assert "| both | misleading |" in text
    assert "further" not in text.split("## What the figures mean")[0]  # in a table of its own
    assert set(summarise(read(life)).arms) == {"agent", "no_recall", "no_story"}
    assert "- **no story**: hearing the questions only." in text


def test_a_life_without_findings_is_reported_as_before(life: Path, tmp_path: Path) -> None:
    lines = (life / "log.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["event"] != "anatomy"]
    (tmp_path / "log.jsonl").write_text("\n".join(kept))
    assert account(read(tmp_path)) is None
    assert "forgetting comes from" not in write_report([tmp_path], tmp_path)


def write_log(folder: Path, seed: int, causes: str, swaps: bool = False) -> None:
    """Write by hand: of ten questions eight were right then, and the first are wrong now."""
    log = LifetimeLog(folder)
    head = {"schema": SCHEMA, "name": "ours", "seed": seed, "tasks": ["a"], "sources": [""]}
    log.append("lifetime", **head, protocol="identity hidden")
    log.append("update", experience=0, task=0)
    log.append("update", experience=1, task=0)
    wrong = len(causes)
    columns = {"episodes": list(range(10)), "steps": [5] * 10, "carried": [0] * 5 + [1] * 5}
    for after, correct in (
        (0, [0] * 10),
        (1, [1] * 8 + [0] * 2),
        (2, [0] * wrong + [1] * (10 - wrong)),
    ):
        place = {"after": after, "task": 0, "name": "a", "arm": "agent", "loss": 1.0}
        log.append("examination", **place, correct=correct, **columns)
    for arm, right in (("weights_now_store_then", 5), ("weights_then_store_now", 7),
                       ("weights_then_store_then", 8)) if swaps else ():  # fmt: skip
        place = {"after": 2, "task": 0, "name": "a", "arm": arm, "loss": 1.0}
        log.append("examination", **place, correct=[1] * right + [0] * (10 - right), **columns)
    log.append(
        "anatomy", after=2, task=0, name="a", exact=True, causes=causes,
        episodes=list(range(wrong)), steps=[5] * wrong, carried=[0] * 5 + [1] * (wrong - 5),
        fates=["h"] * wrong, shares=[0.0] * wrong, even=[1.0] * wrong,
        mended=[1, 1, 0, 0, 0, 0, 0, 0, 1, 1][:wrong],
    )  # fmt: skip
    log.append("end")
    log.close()


def test_a_report_on_logs_written_by_hand(tmp_path: Path) -> None:
    write_log(tmp_path / "0", 0, "neorm", swaps=True)
    write_log(tmp_path / "1", 1, "nnormmmmmm")  # all ten are wrong, two of which always were
    text = write_report([tmp_path], tmp_path)
    here = next(line for line in text.splitlines() if line.startswith("| ours | this episode"))
    cells = [cell.strip() for cell in here.strip("|").split("|")]
    assert cells[2:4] == ["2", "10"]
    # shares of five questions: never written 1/5 and 2/5, t with one degree of freedom
    assert cells[4] == "0.300 [-0.971, 1.571] (3)"
    assert [cell.split("(")[1].rstrip(")") for cell in cells[4:10]] == [
        "3",
        "1",
        "2",
        "2",
        "2",
        "0",
    ]
    assert cells[10] == "0.40"  # four of ten
    earlier = next(line for line in text.splitlines() if line.startswith("| ours | an earlier"))
    cells = [cell.strip() for cell in earlier.strip("|").split("|")]
    assert [cell.split("(")[1].rstrip(")") for cell in cells[4:10]] == [
        "0",
        "0",
        "0",
        "0",
        "3",
        "2",
    ]
    assert cells[10] == "0.00"  # those that were mended were never learned
    assert "| ours | a | 20 | 3 | 1 | 2 | 2 | 5 | 2 |" in text
    # 0.8 - 0.5 forgotten: the weights alone lose 0.3, the store alone 0.1, together no more
    assert "| ours | a | 1 | 0.300 | 0.300 | 0.100 | -0.100 |" in text


# --- How far it goes ---------------------------------------------------------------------------


def test_variants_are_about_what_training_never_says() -> None:
    (task,) = microworld_tasks(["where_person"], sentences=6, questions=2)
    unseen, longer = variant(task, "names"), variant(task, "longer")
    assert unseen is not None
    assert longer is not None
    heard = {name: _heard(each) for name, each in (("t", task), ("u", unseen), ("l", longer))}
    assert not set(heard["u"]) & set(PEOPLE)
    assert set(heard["u"]) & set(UNSEEN_PEOPLE)
    assert set(heard["t"]) & set(PEOPLE)
    assert unseen.train == longer.train == task.train
    assert heard["l"].count(".") == 2 * heard["t"].count(".")
    (recall,) = recall_tasks([7], 7)
    further = variant(recall, "longer")
    assert further is not None
    assert further.exam["distance"] == 14
    assert variant(recall, "names") is None
    assert variant(Task("x", "CartPole-v1", {}, {}), "longer") is None


def _heard(task: Task) -> list[str]:
    return " ".join(_story(task, 5, {"episode": 0}).sentences).split()


def test_the_page_names_all_arms_causes_and_variants() -> None:
    page = (Path(__file__).parents[1] / "docs" / "anatomy.md").read_text()
    assert [arm for arm in ARMS if f"`{arm}`" not in page] == []
    assert [name for name in CAUSES.values() if f"| {name} |" not in page] == []
    assert f"generalisation=[{','.join((*VARIANTS, 'misleading'))}]" in page


def test_options_that_cannot_be_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, sentence in (
        ("exam_arms=[no_recal]", "no arm 'no_recal'"),
        ("generalisation=[nmes]", "no variant 'nmes'"),
    ):
        assert main(["train", *SMALL[:-1], option, f"run={tmp_path / 'run'}"]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1
