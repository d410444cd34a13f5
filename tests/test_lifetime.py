"""Whole lifetimes: the log, the report, the command line, and equal runs."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hydra.utils
import numpy as np
import pytest
from omegaconf import OmegaConf

from stillknows import configs
from stillknows.agents import lifetime
from stillknows.agents.assembly import PARTS
from stillknows.agents.commands.cli import main
from stillknows.agents.commands.train import one_life
from stillknows.agents.configuration import compose_config
from stillknows.agents.examinations.examine import Examiner
from stillknows.agents.lifetime import episodes_of, exam_episodes_of, live_lifetime
from stillknows.agents.reports import log as logs
from stillknows.agents.reports.board import scalars
from stillknows.agents.reports.lives import accuracy_matrix, summarise
from stillknows.agents.reports.report import write_report
from stillknows.envs.tasks import Task

TINY = ("debug=tiny", "stream.episodes=16", "stream.exam_episodes=8")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]


CLI = (sys.executable, "-m", "stillknows.agents.commands.cli")
_EWC = "stillknows.agents.baselines.penalties.EWC"
EWC = f"plugins=[{{_target_: {_EWC}, ewc_lambda: 100.0, batches: 2}}]"


def live(folder: Path, *overrides: str) -> list[logs.Event]:
    live_lifetime(compose_config([*TINY, *overrides]), folder, lambda *_: None)
    return logs.read(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms with two seeds."""
    folder = tmp_path_factory.mktemp("run")
    for arm in ("both", "none"):
        for seed in (0, 1):
            live(folder / f"{arm}-{seed}", f"arm={arm}", f"seed={seed}")
    return folder


def without_time(events: list[logs.Event]) -> list[logs.Event]:
    return [
        {k: v for k, v in event.items() if k != "time"}
        for event in events
        if event["event"] != "clock"
    ]


def test_the_same_seed_gives_the_same_log_and_another_seed_another(
    run: Path, tmp_path: Path
) -> None:
    again = without_time(live(tmp_path / "again", "arm=both", "seed=0"))
    assert again == without_time(logs.read(run / "both-0"))
    other = [e for e in logs.read(run / "both-1") if e["event"] == "update"]
    assert [e["loss"] for e in other] != [e["loss"] for e in again if e["event"] == "update"]


def test_the_log_tells_the_whole_protocol(run: Path) -> None:
    events = logs.read(run / "both-0")
    exams = [(e["after"], e["task"]) for e in events if e.get("arm") == "agent"]
    assert exams == [(after, task) for after in range(6) for task in range(5)]
    arms = {e["arm"] for e in events if e["event"] == "examination" and e["after"] == 5}
    assert arms == {"agent", "no_recall", "no_story"}
    updates = [e for e in events if e["event"] == "update"]
    assert [e["task"] for e in updates] == [task for task in range(5) for _ in range(2)]
    for event in updates:
        assert len(event["actions"]) == len(event["written"]) == len(event["evicted"]) == 24
    written = [
        entry
        for event in updates
        for entry, action in zip(event["written"], event["actions"], strict=True)
        if action == "a"
    ]
    assert written == list(range(len(written)))  # ids of entries never repeat
    evicted = sum(entry >= 0 for event in updates for entry in event["evicted"])
    assert updates[-1]["entries"] == len(written) - evicted
    assert events[0]["schema"] == logs.SCHEMA
    assert {"floor", "rekey", "end"} <= {e["event"] for e in events}


def test_no_question_is_carried_before_its_fact_was_told(run: Path) -> None:
    exams = [e for e in logs.read(run / "both-0") if e.get("arm") == "agent"]
    for event in exams:
        carried = sum(event["carried"])
        assert carried == 0 if event["after"] <= event["task"] else carried >= 0
    assert sum(sum(e["carried"]) for e in exams) > 0


def test_the_report_equals_a_computation_by_hand(run: Path, tmp_path: Path) -> None:
    text = write_report([run], tmp_path)
    assert (tmp_path / "report.md").read_text() == text
    assert (tmp_path / "accuracy_matrix.png").stat().st_size > 5000
    events = logs.read(run / "both-0")
    life = summarise(events)
    last = [e for e in events if e.get("arm") == "agent" and e["after"] == 5]
    by_hand = np.mean([np.mean(e["correct"]) for e in sorted(last, key=lambda e: e["task"])])
    assert life.metrics["average_accuracy"] == pytest.approx(by_hand)
    both = [summarise(logs.read(run / f"both-{s}")).metrics["average_accuracy"] for s in (0, 1)]
    assert f"{np.mean(both):.3f}" in text
    assert "both − none" in text
    assert "floor: majority answer" in text


def test_no_question_is_about_an_episode_that_fills_no_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supports: set[int] = set()
    mark = Examiner.mark

    def marked(self: Examiner, thought: Any, marked: Any) -> None:
        rows = zip(marked.supports, marked.carried, strict=True)
        supports.update(episode for pairs, carried in rows if carried for episode, _ in pairs)
        mark(self, thought, marked)

    monkeypatch.setattr(Examiner, "mark", marked)
    carried = ("stream.tasks.carry=0.5", "stream.tasks.tasks=[where_person]")
    live(tmp_path, "arm=none", *carried, "stream.episodes=31", "stream.exam_episodes=96")
    assert max(supports) == 23  # three batches of eight were lived


def test_floors_are_of_the_questions_of_the_examination(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, heard = [], []
    mark = Examiner.mark

    def marked(self: Examiner, thought: Any, marked: Any) -> None:
        asked.extend(thought.stories)
        mark(self, thought, marked)

    def last_mentioned(answers: Any, exam: Any) -> float:
        heard.extend((*question.story, question.question) for question in exam)
        return 0.5

    monkeypatch.setattr(Examiner, "mark", marked)
    monkeypatch.setattr(lifetime, "last_mentioned_answer", last_mentioned)
    options = ("arm=none", "stream.tasks.tasks=[where_person]", "exam_arms=[agent]")
    live(tmp_path, *options)
    last = asked[-len(heard) :]  # of the last examination; earlier questions are no statements
    told = [(*(line for line in story[:-1] if "?" not in line), story[-1]) for story in last]
    assert sorted(heard) == sorted(told)


def write_log(
    folder: Path, arm: str, seed: int, matrix: list[list[int]], trained: tuple[int, ...] = (0, 1)
) -> None:
    """Write a log by hand: `matrix[t][j]` of the ten answers in task j were right."""
    log = logs.LifetimeLog(folder)
    head = {"schema": logs.SCHEMA, "name": arm, "seed": seed, "tasks": ["a", "b"]}
    log.append("lifetime", **head, sources=["", "read from b.txt"], protocol="identity hidden")
    for after, row in enumerate(matrix):
        if after:
            log.append("update", experience=after - 1, task=trained[after - 1])
        for task, right in enumerate(row):
            correct = [1] * right + [0] * (10 - right)
            exam = {"after": after, "task": task, "name": "ab"[task], "arm": "agent"}
            log.append("examination", **exam, correct=correct, carried=[0] * 9 + [1], loss=1.0)
    log.append("end")
    log.close()


def test_a_report_on_logs_written_by_hand(tmp_path: Path) -> None:
    write_log(tmp_path / "x0", "ours", 0, [[1, 2], [9, 3], [8, 10]])
    write_log(tmp_path / "x1", "ours", 1, [[1, 2], [9, 3], [6, 10]])
    write_log(tmp_path / "y0", "theirs", 0, [[1, 2], [9, 3], [2, 9]])
    write_log(tmp_path / "y1", "theirs", 1, [[1, 2], [9, 3], [3, 9]])
    text = write_report([tmp_path], tmp_path)
    rows = {line.split(" | ")[0]: line for line in reversed(text.splitlines())}  # the first of each
    assert "| 0.850 [" in rows["| ours"]  # ACC: (0.9 + 0.8) / 2
    assert "| 0.200 [" in rows["| ours"]  # forgetting: (0.1 + 0.3) / 2
    # paired differences in ACC are 0.9 - 0.55 and 0.8 - 0.6: t with one degree of freedom
    assert "0.275 [-0.678, 1.228]" in rows["| ours − theirs"]
    assert "\nb: read from b.txt.\n" in text


def test_the_order_of_tasks_is_read_from_the_log(tmp_path: Path) -> None:
    write_log(tmp_path, "ours", 0, [[0, 0], [2, 9], [8, 7], [6, 8]], trained=(1, 0, 1))
    metrics = summarise(logs.read(tmp_path)).metrics
    assert metrics["learning_accuracy"] == pytest.approx(0.85)  # 0.8 in a, first 0.9 in b
    assert metrics["backward_transfer"] == pytest.approx(-0.15)  # 0.6 - 0.8 and 0.8 - 0.9
    assert metrics["forward_transfer"] == pytest.approx(0.2)  # of a, before its training


def test_accuracy_matrix_by_hand() -> None:
    events = [
        {"after": 0, "task": 0, "arm": "agent", "correct": [0, 0]},
        {"after": 1, "task": 0, "arm": "agent", "correct": [1, 0, 1, 1]},
        {"after": 1, "task": 1, "arm": "agent", "correct": [0, 1]},
        {"after": 1, "task": 1, "arm": "no_story", "correct": [1, 1]},
    ]
    matrix = accuracy_matrix(events, 2)
    np.testing.assert_array_equal(matrix, [[0, np.nan], [0.75, 0.5]])


def test_tensorboard_tags_are_all_explained(run: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    tags = {tag for event in logs.read(run / "both-0") for tag in scalars(event)}
    generic = {
        "/".join(["examination", "TASK", *t.split("/")[2:]]) if "exam" in t else t for t in tags
    }
    generic = {t.replace("/agent/", "/ARM/").replace("/no_recall/", "/ARM/") for t in generic}
    generic = {t.replace("/no_story/", "/ARM/") for t in generic}
    assert [tag for tag in generic if f"`{tag}`" not in page] == []


def test_joint_and_ewc_live_too(tmp_path: Path) -> None:
    joint = live(tmp_path / "joint", "arm=joint")
    assert [e["task"] for e in joint if e["event"] == "update"] == [0, 1, 2, 3, 4] * 2
    assert summarise(joint).matrix.shape == (2, 5)
    ewc = live(tmp_path / "ewc", "arm=ewc", EWC)
    plain = live(tmp_path / "none", "arm=none")
    losses = [[e["loss"] for e in events if e["event"] == "update"] for events in (ewc, plain)]
    assert losses[0][:3] == losses[1][:3]  # the penalty begins to act in the second task
    assert losses[0][4:] != losses[1][4:]


@pytest.mark.parametrize("stream", ["reasoning", "microworld"])
def test_budgets_are_one_number_or_one_a_task(stream: str) -> None:
    tasks = {"reasoning": "[kinship,programs]", "microworld": "[route,where_person]"}[stream]
    chosen = (f"stream={stream}", f"stream.tasks.tasks={tasks}")
    for given, budgets in (("[64,128]", [64, 128]), ("96", [96, 96])):
        assert episodes_of(compose_config([*chosen, f"stream.episodes={given}"])) == budgets


def test_a_broken_or_foreign_log_is_one_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run"):
        logs.read(tmp_path)
    lines = (run / "none-0" / "log.jsonl").read_text().splitlines()
    broken = tmp_path / "log.jsonl"
    broken.write_text("\n".join([*lines[:3], "{oops", *lines[3:]]))
    with pytest.raises(ValueError, match="line 4 is not JSON"):
        logs.read(tmp_path)
    broken.write_text("\n".join([*lines[:5], lines[5][:20]]))
    assert len(logs.read(tmp_path)) == 5  # a last line cut short by a stop
    broken.write_text(json.dumps({"event": "lifetime", "schema": 99}))
    with pytest.raises(ValueError, match="schema 99"):
        logs.read(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["stream=microwrld"], "Did you mean 'microworld'"),
        (["learner.lerning_rate=1"], "Did you mean 'learning_rate'"),
        (["arms=[bth]"], "Did you mean 'both'"),
        (["stream.tasks.tasks=[wher_person]"], "Did you mean 'where_person'"),
        (["stream.tasks.people=99"], "people=99 is out of range"),
        (["controller.width=63"], "width=63 is no multiple"),
        (["rows=many"], "rows=many should be a number"),
        (["stream.episodes=1"], "at least one batch"),
        (["device=cuda:77"], "device=cuda:77 is not there"),
        (["stream=babi", "stream.directory=/nowhere"], "tasks_1-20_v1-2.tar.gz"),
        (["stream=babi"], "stream.directory"),
        (["stream=gymnasium", "stream.ids=[CartPole-v1]"], "gymnasium.spaces.Text"),
        (["stream=gymnasium", "stream.ids=[stillknows/Rute-v0]"], "Did you mean"),
        (["learner.learning_rate=abc"], "learning_rate"),
        (["seeds=3"], "seeds=3"),
        (["seeds=[1,1]"], "name a life twice"),
        (['arms=["both working_policy=evict_oldst"]'], "Did you mean 'evict_oldest'"),
        (
            ['arms=["both learner.rehearse"]'],
            "'learner.rehearse' cannot be read: an option is NAME",
        ),
        (["arms=[none learner.clip=2]"], "wants quotes, as in 'arms=[\"none learner.clip=2\"]'."),
        (["not an option"], "option"),
        (["experimint=babi"], "Did you mean 'experiment'?"),
        (["working_memory.tied=7"], "working_memory.tied=7 should be true or false."),
        (["episodic_memory.bytes=90000", "arms=[none]"], "What was chosen has no such option"),
        (
            ["working_memory=none", "+working_memory.slots=3"],
            "working_memory=none has no option 'slots'",
        ),
        (
            ["working_memory=memory_network", "+working_memory.heads=2"],
            "MemoryNetwork has no option 'heads': leave it away with '~working_memory.heads'",
        ),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tiny = TINY[:1] if not arguments[0].startswith("stream=") else ()
    assert main(["train", *tiny, f"run={tmp_path / 'run'}", *arguments]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_that_exists_is_left_as_it_is(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = sorted(run.rglob("*"))
    assert main(["train", *TINY, f"run={run}"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before
    assert main(["report", str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err


def test_the_command_line_lives_two_arms_and_reports(tmp_path: Path) -> None:
    done = subprocess.run(
        [*CLI, "train", *TINY, f"run={tmp_path / 'run'}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "average accuracy" in done.stdout
    assert "%|" not in done.stderr  # no progress bars where there is no terminal
    assert list((tmp_path / "run" / "both-seed0" / "tensorboard").iterdir())
    assert (tmp_path / "run" / "report.md").exists()


def test_an_examination_asks_every_story_of_a_file_once() -> None:
    endless, file = Task("a", "id", {}, {}), Task("b", "id", {}, {}, exam_stories=250)
    config = OmegaConf.create({"stream": {"exam_episodes": 300}})
    assert exam_episodes_of(config, [endless, file]) == [300, 250]
    config.stream.exam_episodes = 100
    assert exam_episodes_of(config, [endless, file]) == [100, 100]
    config.stream.exam_episodes = None
    assert exam_episodes_of(config, [file]) == [250]
    with pytest.raises(ValueError, match="those of a never end: give a number"):
        exam_episodes_of(config, [file, endless])


def test_an_arm_is_stronger_than_an_experiment() -> None:
    config = compose_config(["experiment=microworld", "arm=replay"])
    assert config.episodic_policy._target_.endswith("rules.Reservoir")
    assert config.episodic_memory.key_size == 0
    config = compose_config(["experiment=microworld", "arm=both"])
    assert config.episodic_policy._target_.endswith("rules.KeepFacts")


def test_every_experiment_of_lives_names_parts_that_are_there() -> None:
    files = (Path(configs.__file__).parent / "experiment").glob("*.yaml")
    chosen = [file.stem for file in files if "arms:" in file.read_text(encoding="utf-8")]
    assert {"babi", "capacity", "controllers", "microworld"} <= set(chosen)
    for name in chosen:
        arms = compose_config([f"experiment={name}"]).arms
        for arm in {str(arms[0]), str(arms[-1])}:
            config = one_life([f"experiment={name}"], arm, seed=3)
            assert (config.name, config.seed) == (arm, 3)
            parts = [config[part] for part in PARTS if OmegaConf.is_dict(config.get(part))]
            targets = [part._target_ for part in parts if "_target_" in part]
            assert len(targets) >= 4
            assert all(callable(hydra.utils.get_object(target)) for target in targets)


@pytest.mark.slow
def test_lives_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    options = ["debug=tiny", "stream.episodes=64000", "seeds=[0]", f"run={tmp_path / 'run'}"]
    command = [*CLI, "train", *options, "arms=[none]"]
    log = tmp_path / "run" / "none-seed0" / "log.jsonl"
    with subprocess.Popen(command) as parent:
        until = time.monotonic() + 120
        while not (log.exists() and log.read_text().count('"update"') > 5):
            assert parent.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)
        parent.kill()
    time.sleep(2)
    length = log.stat().st_size
    time.sleep(3)
    assert log.stat().st_size == length


def test_an_arm_may_have_options_of_its_own(tmp_path: Path) -> None:
    arms = 'arms=["none","none working_policy=evict_uniformly working_memory.slots=5"]'
    assert main(["train", *TINY, arms, f"run={tmp_path / 'run'}"]) == 0
    folders = sorted(path.parent for path in tmp_path.rglob("log.jsonl"))
    assert [folder.name for folder in folders] == [
        "none-seed0",
        "none-working_policy-evict_uniformly-working_memory.slots-5-seed0",
    ]
    heads = [logs.read(folder)[0] for folder in folders]
    assert heads[1]["name"] == "none working_policy=evict_uniformly working_memory.slots=5"
    assert heads[1]["config"]["working_memory"]["slots"] == 5
    assert "| none − none working_policy" in (tmp_path / "run" / "report.md").read_text()
