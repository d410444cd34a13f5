"""Lifetimes with control tasks: the log, the report, orders, blurred boundaries, and no trace."""

import copy
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from omegaconf import OmegaConf

from stillknows.agents.acting.control_examination import examine_control
from stillknows.agents.acting.control_life import KEPT, budgets_of, build_control, planned_updates
from stillknows.agents.acting.episodic_learner import EpisodicLearner
from stillknows.agents.acting.rollout import Stage
from stillknows.agents.commands.cli import main
from stillknows.agents.commands.train import check_life
from stillknows.agents.commands.verify import differences
from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.persistence.container import read_tree, write_tree
from stillknows.agents.persistence.trust import refuse_foreign
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


class Lane(gymnasium.Env):
    """From the left end of five places to the right one in at most eight steps; 1 at the end."""

    observation_space = spaces.Discrete(5)
    action_space = spaces.Discrete(2)

    def __init__(self, breaks_in=0):
        self.breaks_in = breaks_in

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.clock = 0, 0
        return 0, {}

    def step(self, action):
        self.place = max(0, self.place + (1 if action else -1))
        self.clock += 1
        self.breaks_in -= 1
        if self.breaks_in == 0:
            raise RuntimeError("a hole")
        over = self.place == 4
        return self.place, float(over), over, self.clock == 8 and not over, {"success": over}


class Dial(gymnasium.Env):
    """Sees a number and turns a dial to it; pays by how near it is."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Box(-2, 2, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return self._see(), {}

    def step(self, action):
        self.clock += 1
        pay = 1 - abs(float(action[0]) - self.drawn)
        return self._see(), pay, False, self.clock == 4, {}

    def _see(self):
        self.drawn = float(self.np_random.uniform(-1, 1))
        return np.full(3, self.drawn, dtype=np.float32)


LANE = "{_target_: tests.test_control_life.Lane, name: lane, reference: 1}"
DIAL = "{_target_: tests.test_control_life.Dial, name: dial, reference: 4}"
SHORT = (
    "stream=control",
    "arm=none",
    "rows=4",
    "controller.width=16",
    "learner.horizon=16",
    "stream.steps=128",
    "stream.exam_episodes=3",
    "keep=false",
)
BOTH = f"stream.tasks.ids=[{LANE},{DIAL}]".replace("tests.test_control_life", __name__)
ONE = f"stream.tasks.ids=[{LANE}]".replace("tests.test_control_life", __name__)
PPO = ("learner.sequence=8", "learner.minibatches=2")


def live(folder: Path, *overrides: str) -> list[logs.Event]:
    live_lifetime(compose_config([*SHORT, *overrides]), folder, lambda *_: None)
    return logs.read(folder)


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


def tree_equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)  # type: ignore[arg-type]
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(tree_equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(tree_equal, one, other))
    return bool(one == other)


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
    task = control_tasks([{"_target_": f"{__name__}.Lane", "reference": 1}])[0]
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
    task = control_tasks([{"_target_": f"{__name__}.Lane", "reference": 1}])[0]
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
    task = control_tasks([{"_target_": f"{__name__}.Lane", "reference": 1}])[0]
    assert isinstance(task, ControlTask)
    stage = Stage(task, 1, seed=0)
    stage.step(np.array([1]))
    kept = stage.state(lambda carried: carried)
    kept["observation"] = torch.zeros_like(kept["observation"])
    with pytest.raises(ValueError, match="does not repeat itself"):
        Stage(task, 1, seed=0).restore(kept, lambda tree: tree)


def test_near_a_boundary_the_next_task_is_mixed_in_ever_more(tmp_path: Path) -> None:
    blurred = ("stream.blur=0.5", "stream.steps=[2560,128]", "learner.epochs=1")
    events = live(tmp_path, BOTH, *PPO, *blurred)
    first = [e["task"] for e in events if e["event"] == "update" and e["experience"] == 0]
    assert len(first) == 40
    assert first[:20] == [0] * 20
    assert 0 < sum(first[20:30]) < sum(first[30:])
    assert summarise(events).matrix.shape == (3, 2)
    own = [e for e in events if e["event"] == "update" and e["experience"] == 1]
    assert {e["task"] for e in own} == {1}


def test_joint_training_has_each_task_by_its_own_unit(tmp_path: Path) -> None:
    mixed = ("arm=joint", "stream.steps=[256,64]", "stream.episodes=[null,30]", "learner.epochs=1")
    events = live(tmp_path, BOTH, *PPO, *mixed)
    lived = [e for e in events if e["event"] == "update"]
    steps = [sum(e["steps"] for e in lived if e["task"] == task) for task in (0, 1)]
    assert steps[0] == 256
    assert steps[1] == 128  # episodes have four steps, and 32 end in two updates of 64 steps


def test_what_broke_in_a_row_is_known_after_a_stop() -> None:
    task = control_tasks([{"_target_": f"{__name__}.Lane", "breaks_in": 3, "reference": 1}])[0]
    assert isinstance(task, ControlTask)
    stage = Stage(task, 1, seed=0)
    for _ in range(2 * 3):
        stage.step(np.array([0]))
    kept = stage.state(lambda tree: tree)
    assert kept["broken"] == [2]
    again = Stage(task, 1, seed=0)
    again.restore(kept, lambda tree: tree)
    assert [row.broken for row in again._rows()] == [2]


def test_tasks_come_in_any_order_and_again(tmp_path: Path) -> None:
    events = live(tmp_path, BOTH, *PPO, "stream.order=[1,0,1]", "learner.epochs=1")
    updates = [e for e in events if e["event"] == "update"]
    assert [e["task"] for e in updates] == [1, 1, 0, 0, 1, 1]
    life = summarise(events)
    assert life.matrix.shape == (4, 2)
    own = life.matrix[1, 1], life.matrix[2, 0]
    assert life.metrics["learning_accuracy"] == pytest.approx(np.mean(own))


def test_a_budget_may_be_in_episodes(tmp_path: Path) -> None:
    options = ("stream.episodes=[null,40]", "learner.epochs=1")
    events = live(tmp_path, BOTH, *PPO, *options)
    updates = [e for e in events if e["event"] == "update"]
    dial = [len(e["returns"]) for e in updates if e["task"] == 1]
    assert dial == [16, 16, 16]  # until there are 40
    config = compose_config([*SHORT, BOTH, *options])
    tasks = control_tasks(OmegaConf.to_container(config.stream.tasks.ids))  # type: ignore[arg-type]
    assert [tuple(each) for each in budgets_of(config, tasks)] == [(128, "steps"), (40, "episodes")]
    assert planned_updates(config) == 2 + 10


def test_joint_and_ewc_are_arms(tmp_path: Path) -> None:
    joint = live(tmp_path / "joint", "arm=joint", BOTH, *PPO)
    assert [e["task"] for e in joint if e["event"] == "update"] == [0, 1, 0, 1]
    assert joint[0]["protocol"] == "joint"
    assert summarise(joint).matrix.shape == (2, 2)
    naive = live(tmp_path / "naive", BOTH, *PPO, "learner.epochs=2")
    ewc = live(tmp_path / "ewc", "arm=ewc", BOTH, *PPO, "learner.epochs=2", "ewc_lambda=1e4")
    losses = [[e["loss"] for e in log if e["event"] == "update"] for log in (naive, ewc)]
    assert losses[0][:2] == losses[1][:2]  # nothing is penalised before the first boundary
    assert losses[0][3] != losses[1][3]


def test_the_store_is_an_arm_and_what_a_life_is_told_is_its_protocol(tmp_path: Path) -> None:
    told = {}
    small = "episodic_memory.bytes=40000"
    for arm, *options in (("both", small), ("recall", small), ("replay", small),
                          ("clear", small, "cloning=2"), ("ewc",), ("shrink_and_perturb",),
                          ("scratch",)):  # fmt: skip
        events = live(tmp_path / arm, f"arm={arm}", BOTH, *PPO, *options)
        updates = [e for e in events if e["event"] == "update"]
        told[arm] = events[0]["protocol"]
        rehearsed = [e["rehearsed_loss"] != 0 for e in updates]
        expected = {"both": [0, 0, 1, 1], "replay": [0, 1, 1, 1], "clear": [0, 1, 1, 1]}
        assert rehearsed == [bool(each) for each in expected.get(arm, [0, 0, 0, 0])]
        trusts = {
            (e["after"], e["task"]): e["trust"] for e in events if e["event"] == "examination"
        }
        recalled = {place for place, trust in trusts.items() if trust > 0}
        assert recalled == ({(1, 0), (2, 0)} if arm in ("both", "recall") else set())
        kept = small in options
        assert all(len(e["written"]) == (kept and len(e["actions"])) for e in updates)
        assert (updates[-1]["entries"] > 0) == kept
        end = next(e for e in events if e["event"] == "end")
        weights = 4 * end["parameters"]
        penalty = 2 * 2 * weights if arm == "ewc" else 0  # weights and importances, a task
        assert (35_000 < end["memory_bytes"] <= 40_000) or end["memory_bytes"] == penalty
    boundaries = dict.fromkeys(("both", "recall", "ewc", "shrink_and_perturb"), "boundaries told")
    hidden = dict.fromkeys(("replay", "clear"), "identity hidden")
    assert told == {**boundaries, **hidden, "scratch": "scratch"}


def test_alone_every_experience_begins_as_the_first_did(tmp_path: Path) -> None:
    from stillknows.agents.acting.recurrent_ppo import RecurrentPPO

    begun: list[Any] = []
    update = RecurrentPPO.update

    def watched(self: RecurrentPPO, *arguments: Any) -> Any:
        if self.updates in (0, 2):
            begun.append(copy.deepcopy(self.state()))
        return update(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecurrentPPO, "update", watched)
        options = (BOTH, *PPO, "protocol=scratch", "arm=both", "episodic_memory.bytes=40000")
        alone = live(tmp_path / "alone", *options)
        assert len(begun) == 2
        assert tree_equal(begun[0], begun[1])
        together = live(tmp_path / "together", BOTH, *PPO, "arm=both")
        assert len(begun) == 4
        assert not tree_equal(begun[2], begun[3])
    life = summarise(alone)
    assert life.metrics["average_accuracy"] == pytest.approx(
        np.mean([life.matrix[1, 0], life.matrix[2, 1]])
    )
    assert alone[0]["protocol"] == "scratch"
    losses = [[e["loss"] for e in log if e["event"] == "update"] for log in (alone, together)]
    assert losses[0][:2] == losses[1][:2]
    assert losses[0][2] != losses[1][2]


def test_a_curve_begins_at_the_floor_until_an_episode_has_ended(tmp_path: Path) -> None:
    short = ("learner.horizon=2", "learner.sequence=2", "stream.steps=16", "stream.order=[1,0]")
    updates = [e for e in live(tmp_path, BOTH, *short) if e["event"] == "update"]
    assert [e["task"] for e in updates] == [1, 1, 0, 0]
    assert updates[1]["accuracy"] != 0.0
    assert updates[2]["returns"] == []
    assert updates[2]["accuracy"] == 0.0


def test_a_plan_of_acting_may_go_on_and_names_no_module_of_others() -> None:
    plain = OmegaConf.to_container(
        compose_config(["experiment=leaderboard_control", "arm=both"]), resolve=True
    )
    refuse_foreign(plain, run=True)
    assert isinstance(plain, dict)
    for foreign in ("evil_module:X-v0", {"id": "evil_module:X-v0", "name": "x"}):
        plain["stream"]["tasks"]["ids"] = [foreign]
        with pytest.raises(ValueError, match=r"allow its module \('evil_module'\)"):
            refuse_foreign(plain, run=True)


def test_boundaries_are_told_only_if_the_rate_falls(tmp_path: Path) -> None:
    events = live(tmp_path, ONE, *PPO, "learner.anneal=true")
    assert events[0]["protocol"] == "boundaries told"


def test_questions_and_control_share_a_life(tmp_path: Path) -> None:
    events = live(
        tmp_path,
        f"stream.tasks.ids=[stillknows/WherePerson-v0,{LANE}]".replace(
            "tests.test_control_life", __name__
        ),
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


def test_a_stream_without_end_grows_no_memory(tmp_path: Path) -> None:
    from stillknows.agents.acting.control_strategy import ControlLifetime
    from stillknows.envs.streams import ActingExperience

    config = compose_config([*SHORT, ONE, *PPO, "learner.epochs=1"])
    task = control_tasks([{"_target_": f"{__name__}.Lane", "reference": 1}])[0]
    held: list[int] = []
    total: list[int] = []

    def forever() -> Iterator[ActingExperience]:
        for _ in range(14):
            gc.collect()
            objects = gc.get_objects()
            held.append(sum(type(each) in (Stage, ActingExperience, Lane) for each in objects))
            total.append(len(objects))
            del objects  # a list of everything would hold the one before
            yield ActingExperience([task], [0], [64], ["steps"], None)

    log = logs.LifetimeLog(tmp_path)
    learner = build_control(config, [task])
    life = ControlLifetime(control=learner, log=log, rows=4, exam_episodes=[1], seed=0)
    life.live(forever(), [])
    log.close()
    assert max(held) == 2  # the experience that is lived and the next one
    assert total[-1] - total[4] < 30
    assert sum('"update"' in line for line in log.path.read_text().splitlines()) == 14


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("arm=both", ONE, "learner=nec"), "has a lifelong store beside the learner's own"),
        (("arm=both", ONE, *PPO, "episodic_memory.store=sqlite"), "kept in tensors"),
        (("arm=both", ONE, *PPO, "episodic_policy=novelty"), "compares questions"),
        (("arm=both", ONE, *PPO, "episodic_memory.bytes=100"), "give the store more"),
        (("arm=mas", ONE, *PPO), "keeps what belongs to questions"),
        (("learner=questions", ONE), "learns to answer, not to act"),
        (
            (ONE, *PPO, "working_memory=slots", "working_policy=actor"),
            "ActorPolicy learns from stories",
        ),
        ((BOTH, "learner=nec"), "chooses among gymnasium.spaces.Discrete"),
        ((ONE, "stream.order=endless"), "needs an end"),
        ((ONE, "stream.order=[]"), "has no experiences"),
        ((ONE, "stream.order=[1]"), "names places from 0 to 0"),
        ((BOTH, "stream.steps=[1,2,3]"), "has 3 entries for 2 tasks"),
        ((ONE, "stream.steps=0"), "has no budget"),
        ((ONE, "stream.blur=2"), "a share between 0 and 1"),
        ((ONE, "stream.exam_episodes=0"), "at least 1"),
        (("stream.tasks.ids=[]",), "has no tasks"),
        (("stream.tasks.ids=[stillknows/WherePerson-v0]",), "give its budget in episodes"),
        (
            ("stream.tasks.ids=[stillknows/WherePerson-v0]", "stream.episodes=8",
             "stream.order=[0,0]"),
            "lived once",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_lived_is_said_before(options: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_life(compose_config([*SHORT, *options]))


def test_a_floor_above_the_reference_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"random actions return .* already"):
        live(tmp_path, BOTH.replace("reference: 4", "reference: -9"), *PPO)


def test_the_stream_of_questions_wants_its_learner(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "learner=recurrent_ppo", "debug=tiny"]) == 2
    assert "asks questions" in capsys.readouterr().err


def test_minigrid_and_popgym_are_lived_in_by_a_memory(tmp_path: Path) -> None:
    pytest.importorskip("minigrid")
    pytest.importorskip("popgym")
    ids = "stream.tasks.ids=[MiniGrid-MemoryS7-v0,popgym-RepeatFirstEasy-v0]"
    events = live(tmp_path, ids, *PPO, "working_memory=dnc", "stream.tasks.max_episode_steps=20")
    exams = [e for e in events if e["event"] == "examination"]
    assert all(max(e["lengths"]) <= 20 for e in exams)
    assert len(exams) == 6
