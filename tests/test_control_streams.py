"""Streams of acting: orders, budgets, boundaries and arms, and what cannot be lived."""

import copy
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lanes import BOTH, LANE, ONE, PPO, SHORT, Lane, live, tree_equal
from omegaconf import OmegaConf

from stillknows.agents.acting.control_life import (
    _experiences,
    _starts,
    acting_tasks,
    budgets_of,
    build_control,
    planned_updates,
)
from stillknows.agents.acting.rollout import Stage
from stillknows.agents.commands.cli import main
from stillknows.agents.commands.train import check_life
from stillknows.agents.configuration import compose_config
from stillknows.agents.persistence.trust import refuse_foreign
from stillknows.agents.reports import log as logs
from stillknows.agents.reports.lives import summarise
from stillknows.envs.control import control_tasks

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]


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


def test_tasks_come_in_any_order_and_again(tmp_path: Path) -> None:
    events = live(tmp_path, BOTH, *PPO, "stream.order=[1,0,1]", "learner.epochs=1")
    updates = [e for e in events if e["event"] == "update"]
    assert [e["task"] for e in updates] == [1, 1, 0, 0, 1, 1]
    life = summarise(events)
    assert life.matrix.shape == (4, 2)
    own = life.matrix[1, 1], life.matrix[2, 0]
    assert life.metrics["learning_accuracy"] == pytest.approx(np.mean(own))


@pytest.mark.parametrize(
    ("order", "starts"),
    [("null", [0, 16, 16]), ("[2,1,0]", [24, 24, 0]), ("[0,2,0]", [0, 0, 16])],
)
def test_episodes_of_questions_are_counted_as_they_are_lived(order: str, starts: list[int]) -> None:
    where, thing = "stillknows/WherePerson-v0", "stillknows/WhereObject-v0"
    ids = f"stream.tasks.ids=[{where},{LANE},{thing}]"
    config = compose_config([*SHORT, ids, f"stream.order={order}"])
    config.stream.episodes = [16, 8, 24]  # the lane's are none of questions
    tasks = acting_tasks(config)
    assert _starts(config, tasks) == starts


def test_a_task_of_questions_that_comes_again_goes_on_with_new_episodes() -> None:
    where = "stillknows/WherePerson-v0"
    options = [f"stream.tasks.ids=[{where},{LANE}]", "stream.order=[0,1,0]"]
    config = compose_config([*SHORT, *options])
    config.stream.episodes = [16, 8]
    lived = list(_experiences(config, acting_tasks(config)))
    assert [each.first_episodes for each in (lived[0], lived[2])] == [(0,), (16,)]
    assert lived[1].following is None  # what comes is no task of acting


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


def test_a_stream_without_end_grows_no_memory(tmp_path: Path) -> None:
    from stillknows.agents.acting.control_strategy import ControlLifetime
    from stillknows.envs.streams import ActingExperience

    config = compose_config([*SHORT, ONE, *PPO, "learner.epochs=1"])
    task = control_tasks([{"_target_": "lanes.Lane", "reference": 1}])[0]
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
        ((ONE, "learner=nec", "learner.store_rate=-1"), "store_rate=-1 should be a number"),
        ((ONE, "learner=nec", "working_memory=slots"), "leave working_memory=none"),
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
