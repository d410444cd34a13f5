"""Lifetimes with control tasks: the log, the report, orders, blurred boundaries, and no trace."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lanes import BOTH, LANE, ONE, PPO, SHORT, live, tree_equal
from omegaconf import OmegaConf

from stillknows.agents.acting.control_examination import examine_control
from stillknows.agents.acting.control_life import KEPT, build_control
from stillknows.agents.acting.episodic_learner import EpisodicLearner
from stillknows.agents.acting.rollout import Stage
from stillknows.agents.commands.verify import differences
from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.persistence.container import read_tree, write_tree
from stillknows.agents.reports import log as logs
from stillknows.agents.reports.board import scalars
from stillknows.agents.reports.lives import summarise
from stillknows.agents.reports.report import write_report
from stillknows.envs.control import ControlTask, control_tasks, spaces_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]


class Death(Exception):  # noqa: N818 (it is no error)
    """The end of a process, played in one."""


def live_until(folder: Path, options: Sequence[str], events: int) -> bool:
    """Live on until the log has so many events; return whether the life has ended."""
    append = logs.LifetimeLog.append

    def dying(self: logs.LifetimeLog, event: str, **fields: Any) -> logs.Event:
        record = append(self, event, **fields)
        if self._place["events"] >= events:
            raise Death
        return record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs.LifetimeLog, "append", dying)
        try:
            config = compose_config([*SHORT, "checkpoint.every=2", "stream.steps=320", *options])
            live_lifetime(config, folder, lambda *_: None, resume=True)
        except Death:
            return False
    return True


@pytest.mark.parametrize(
    "options",
    [
        (BOTH, *PPO, "arm=ewc", "stream.blur=0.5", "learner.anneal=true"),
        (BOTH, *PPO, "working_memory=slots", "working_memory.slots=4", "stream.order=[0,1,0]"),
        (ONE, "learner=nec", "stream.sampled=true"),
        (BOTH, *PPO, "arm=both", "episodic_memory.bytes=40000"),
        (BOTH, *PPO, "arm=clear", "episodic_memory.bytes=40000", "protocol=scratch"),
    ],
)
def test_a_life_of_acting_that_was_cut_ends_as_one_that_was_not(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    assert live_until(straight, options, 10**9)
    whole = len(logs.read(straight))
    for share in (0.3, 0.6, 0.8):  # in examinations and in the middle of episodes
        assert not live_until(cut, options, int(share * whole))
    assert live_until(cut, options, 10**9)
    assert list(differences(straight, cut)) == []
    again = (cut / "cut.jsonl").read_text().count("\n")
    assert again <= 3 * 3 + 3  # two updates and the event that was cut; before any checkpoint all


def test_fresh_agents_that_act_are_held_to_no_earlier_task(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="EWC keeps something of earlier tasks"):
        live(tmp_path / "life", BOTH, *PPO, "arm=ewc", "protocol=scratch")


def without_time(events: list[logs.Event]) -> list[logs.Event]:
    return [
        {key: value for key, value in event.items() if key != "time"}
        for event in events
        if event["event"] != "clock"
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One life in two tasks with different spaces."""
    folder = tmp_path_factory.mktemp("run")
    live(folder / "none-0", BOTH, *PPO)
    return folder


def test_two_tasks_with_different_spaces_give_a_report(run: Path, tmp_path: Path) -> None:
    text = write_report([run], tmp_path)
    life = summarise(logs.read(run / "none-0"))
    assert life.matrix.shape == (3, 2)
    last = [e for e in logs.read(run / "none-0") if e["event"] == "examination"][-2:]
    floors = [e for e in logs.read(run / "none-0") if e["event"] == "floor"]
    for event, floor in zip(last, floors, strict=True):
        span = floor["reference_return"] - floor["random_return"]
        by_hand = [(total - floor["random_return"]) / span for total in event["returns"]]
        assert event["scores"] == pytest.approx(by_hand)
        assert life.matrix[2, event["task"]] == pytest.approx(np.mean(by_hand))
        assert life.acted["end"][event["task"]] == pytest.approx(np.mean(event["returns"]))
    assert life.metrics["average_accuracy"] == pytest.approx(np.mean(life.matrix[2]))
    assert "## Returns, task by task" in text
    assert "lane: return 1 scores 1, as given." in text
    assert f"| none, at the end | {life.acted['end'][0]:.3f} |" in text
    assert "floor: random actions | 0.000 | 0.000 |" in text
    assert life.floors == {"random": [0.0, 0.0]}
    assert "majority" not in text  # nothing is asked
    assert "last mentioned" not in text


def test_the_log_tells_the_whole_life(run: Path) -> None:
    events = logs.read(run / "none-0")
    assert events[0]["protocol"] == "identity hidden"
    exams = [(e["after"], e["task"]) for e in events if e["event"] == "examination"]
    assert exams == [(after, task) for after in range(3) for task in range(2)]
    updates = [e for e in events if e["event"] == "update"]
    assert [e["task"] for e in updates] == [0, 0, 1, 1]
    assert [e["steps"] for e in updates] == [64, 64, 64, 64]
    for event in updates:
        assert len(event["returns"]) == len(event["lengths"]) > 0
        assert event["clipped"] + event["entropy"] > 0
    assert [e["lengths"] for e in updates][2:] == [[4] * 16] * 2
    lane = [e for e in events if e["event"] == "examination" and e["task"] == 0]
    for event in lane:
        assert event["correct"] == [int(total == 1) for total in event["returns"]]
    assert events[-2]["event"] == "end"
    assert events[-2]["steps"] == 256
    tags = scalars(updates[0]) | scalars(lane[0])
    assert tags["training/entropy"] == updates[0]["entropy"]
    assert tags["examination/lane/agent/returns"] == np.mean(lane[0]["returns"])


@pytest.mark.parametrize("learner", [("learner=recurrent_ppo", *PPO), ("learner=nec",)])
def test_the_same_seed_gives_the_same_log_and_another_seed_another(
    learner: tuple[str, ...], tmp_path: Path
) -> None:
    one, again, other = (
        without_time(live(tmp_path / name, ONE, *learner, f"seed={seed}"))
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    )
    assert one == again
    lengths = [[e["lengths"] for e in log if e["event"] == "update"] for log in (one, other)]
    assert lengths[0] != lengths[1]


def test_episodic_control_learns_the_lane_in_the_same_loop(tmp_path: Path) -> None:
    options = ("learner.explore_for=400", "learner.update_rate=0.5", "learner.discount=0.8")
    events = live(tmp_path, ONE, "learner=nec", *options, "stream.steps=640")
    assert summarise(events).matrix[-1, 0] > 0.9
    # four places with two actions; those that an episode met twice before they were known, twice
    assert 8 <= [e["entries"] for e in events if e["event"] == "update"][-1] < 16
    end = events[-2]
    assert end["memory_bytes"] > 0


@pytest.mark.parametrize(
    "options",
    [
        ("learner=recurrent_ppo", *PPO, "working_memory=slots"),
        ("learner=nec",),
        ("learner=nec", "learner.curiosity=0.3"),
    ],
)
@pytest.mark.parametrize("sampled", [False, True])
def test_examinations_leave_no_trace(options: tuple[str, ...], sampled: bool) -> None:
    config = compose_config([*SHORT, ONE, *options])
    tasks = control_tasks(OmegaConf.to_container(config.stream.tasks.ids))  # type: ignore[arg-type]
    task = tasks[0]
    assert isinstance(task, ControlTask)
    learner = build_control(config, tasks)
    signature = learner.meet(*spaces_of(task))
    stage = Stage(task, 4, seed=0)
    learner.update(signature, stage)
    before = learner.state(), stage.state(learner.pack), torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()  # type: ignore[index]
    found = [
        examine_control(learner.player(signature, sampled, 0), task, episodes=5, rows=rows, seed=0)
        for rows in (5, 5, 2)
    ]
    after = learner.state(), stage.state(learner.pack), torch.get_rng_state()
    assert tree_equal(before, after)
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # type: ignore[index]
    assert found[0] == found[1]
    assert sampled or found[0] == found[2]


def test_episodic_control_goes_on_from_a_file_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    task = control_tasks([{"_target_": "lanes.Lane", "reference": 1}])[0]
    assert isinstance(task, ControlTask)
    options = {"key_size": 8, "capacity": 50, "horizon": 30, "replay": 100, "explore_for": 200}
    lives = []
    for _ in range(2):
        learner = EpisodicLearner(**options, explore=(0.2, 0.2), curiosity=3.0)
        lives.append((learner, learner.meet(*spaces_of(task)), Stage(task, 3, seed=0)))
    (one, signature, here), (other, _, there) = lives
    one.update(signature, here)
    assert any(here.carried)
    kept = {"learner": one.state(), "stage": here.state(one.pack)}
    write_tree(tmp_path / "kept.safetensors", kept, "test")
    kept = read_tree(tmp_path / "kept.safetensors", "test")
    other.restore(kept["learner"])
    there.restore(kept["stage"], lambda tree: other.unpack(tree, 3))
    for _ in range(2):
        assert one.update(signature, here) == other.update(signature, there)


def test_a_checkpoint_of_before_the_counts_is_read_without() -> None:
    task = control_tasks([{"_target_": "lanes.Lane", "reference": 1}])[0]
    assert isinstance(task, ControlTask)
    learner = EpisodicLearner(key_size=8, capacity=50, horizon=5, replay=100, curiosity=1.0)
    signature = learner.meet(*spaces_of(task))
    before = learner.state()
    learner.update(signature, Stage(task, 2, seed=0))
    agent = learner.who(signature)
    assert agent.taken.sum() == agent.lived == 10
    del before[signature]["taken"]
    learner.restore(before)
    assert agent.lived == 0


def test_a_place_that_is_not_found_again_is_told() -> None:
    task = control_tasks([{"_target_": "lanes.Lane", "reference": 1}])[0]
    assert isinstance(task, ControlTask)
    stage = Stage(task, 1, seed=0)
    stage.step(np.array([1]))
    kept = stage.state(lambda carried: carried)
    kept["observation"] = torch.zeros_like(kept["observation"])
    with pytest.raises(ValueError, match="does not repeat itself"):
        Stage(task, 1, seed=0).restore(kept, lambda tree: tree)


def test_what_broke_in_a_row_is_known_after_a_stop() -> None:
    task = control_tasks([{"_target_": "lanes.Lane", "breaks_in": 3, "reference": 1}])[0]
    assert isinstance(task, ControlTask)
    stage = Stage(task, 1, seed=0)
    for _ in range(2 * 3):
        stage.step(np.array([0]))
    kept = stage.state(lambda tree: tree)
    assert kept["broken"] == [2]
    again = Stage(task, 1, seed=0)
    again.restore(kept, lambda tree: tree)
    assert [row.broken for row in again._rows()] == [2]


def test_questions_and_control_share_a_life(tmp_path: Path) -> None:
    events = live(
        tmp_path,
        f"stream.tasks.ids=[stillknows/WherePerson-v0,{LANE}]",
        "stream.episodes=[16,null]",
        "arm=both",
        "working_memory=slots",
        *PPO,
    )
    exams = [(e["after"], e["name"], e["arm"]) for e in events if e["event"] == "examination"]
    names = ["stillknows/WherePerson", "lane"]
    own = [exam for exam in exams if exam[2] == "agent"]
    assert own == [(after, name, "agent") for after in range(3) for name in names]
    assert {exam[:2] for exam in exams if exam[2] != "agent"} == {(2, names[0])}
    updates = [e for e in events if e["event"] == "update"]
    assert [e["task"] for e in updates] == [0] * 4 + [1, 1]
    assert updates[0]["written"]
    assert summarise(events).matrix.shape == (3, 2)
    floors = {e["name"]: e for e in events if e["event"] == "floor"}
    assert floors["stillknows/WherePerson"]["majority"] > 0
    text = write_report([tmp_path], tmp_path)
    for name in ("majority", "last_mentioned"):
        of_questions = floors["stillknows/WherePerson"][name]
        assert f"floor: {name.replace('_', ' ')} answer | {of_questions:.3f} | – |" in text
    assert "floor: random actions | – | 0.000 |" in text


def test_who_is_examined_explores_nothing_however_it_stands() -> None:
    """Among questions, the mode that Avalanche sets is that of who answers."""
    options = ("working_memory=slots", "working_memory.slots=2", "working_policy=retention")
    config = compose_config([*SHORT, ONE, *PPO, *options])
    torch.manual_seed(0)
    (task,) = control_tasks(config.stream.tasks.ids)
    learner = build_control(config, [task])
    policy, explored = learner.agent.core.policy, []  # type: ignore[union-attr]
    decide = policy.decide

    def noting(features: Any) -> Any:
        explored.append(policy.training)
        return decide(features)

    policy.decide = noting
    player = learner.player(learner.meet(*spaces_of(task)))
    examine_control(player, task, episodes=2, rows=2, seed=0)
    assert explored
    assert not any(explored)
    assert learner.agent.training


def test_a_life_that_breaks_is_told_and_kept(tmp_path: Path) -> None:
    lane = ONE.replace("reference: 1", "reference: 1, breaks_in: 1, exam: {breaks_in: 0}")
    with pytest.raises(ValueError, match="lane broke in 3 episodes in a row"):
        live(tmp_path, lane, *PPO, "stream.retries=2", "keep=true")
    events = logs.read(tmp_path)
    faults = [e for e in events if e["event"] == "fault"]
    assert len(faults) == 3 + 3 * 2  # three in the first row, two in each of the others
    assert {e["reason"] for e in faults} == {"RuntimeError: a hole"}
    assert events[-1]["event"] == "end"
    assert read_tree(tmp_path / "agent.safetensors", KEPT)["learner"]["updates"] == 0
    once = ONE.replace("reference: 1", "reference: 1, breaks_in: 20")
    healed = live(tmp_path / "once", once, *PPO)
    assert any(e["event"] == "fault" for e in healed)
    assert summarise(healed).matrix.shape == (2, 1)
