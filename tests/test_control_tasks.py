"""Control tasks: any environment, its spaces as numbers, its episodes, and what goes wrong."""

from itertools import pairwise

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from stillknows.agents.acting.control_examination import examine_control, score
from stillknows.agents.acting.players import RandomPlayer
from stillknows.agents.controllers.encoder import SpaceEncoder
from stillknows.agents.reports.control_report import acted
from stillknows.agents.reports.learned import Learned
from stillknows.envs.control import (
    ControlTask,
    Episodes,
    control_tasks,
    episode_seed,
    side_by_side,
    spaces_of,
)
from stillknows.envs.observed import Words, flat, readable, signature_of
from stillknows.envs.order import places
from stillknows.envs.tasks import Task


class Walk(gymnasium.Env):
    """Pays what the seed drew; may raise, pay nothing finite, or never end."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, breaks=(), pays=1.0, ends=4, sees=0.0, resets=True):
        self.breaks, self.pays, self.ends, self.sees = breaks, pays, ends, sees
        self.resets, self.begun = resets, 0

    def close(self):
        self.closed = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if not self.resets:
            raise RuntimeError("no way in")
        self.seed, self.clock = seed, 0
        self.drawn = self.np_random.random()
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action):
        self.clock += 1
        breaks = self.breaks == "always" or (self.breaks == "some" and self.seed % 3 == 0)
        if breaks and self.clock == 2:
            raise RuntimeError("the floor gave way")
        seen = np.zeros(3) if self.sees == "more" else np.array([self.sees, self.drawn])
        seen, info = seen.astype(np.float32), {} if self.pays else None
        return seen, self.pays * self.drawn, self.clock == self.ends, False, info


class Reached(Walk):
    """Says that it succeeded where it did, and nothing where it did not."""

    def step(self, action):
        seen, pays, ended, cut, _ = super().step(action)
        return seen, pays, ended, cut, {"success": True} if ended and self.drawn < 0.5 else {}


class Odd(Walk):
    """Shows what no agent reads, or moves as none can."""

    def __init__(self, which):
        super().__init__()
        self.observation_space, self.action_space = {
            "sequence": (spaces.Sequence(spaces.Discrete(2)), Walk.action_space),
            "graph": (spaces.Graph(spaces.Discrete(2), None), Walk.action_space),
            "text": (Walk.observation_space, spaces.Text(4)),
            "dict": (Walk.observation_space, spaces.Dict({"a": spaces.Discrete(2)})),
        }[which]


def walk(limit=50, **arguments):
    return ControlTask("Walk", f"{__name__}.Walk", arguments, arguments, 1.0, limit, True)


def numbers(task, steps, seed=0, rows=2, retries=3):
    envs = side_by_side(task, rows, seed, retries)
    envs.reset()
    for _ in range(steps):
        envs.step(np.zeros(rows, dtype=np.int64))
    return envs.envs


def test_tasks_come_from_ids_arguments_and_constructors():
    tasks = control_tasks(
        [
            "CartPole-v1",
            {"id": "FrozenLake-v1", "is_slippery": False, "exam": {"is_slippery": True}},
            {"_target_": f"{__name__}.Walk", "ends": 2, "name": "short", "reference": 3},
            "stillknows/WherePerson-v0",
        ],
        max_episode_steps=300,
        references={"CartPole-v1": 400},
    )
    assert [task.name for task in tasks] == ["CartPole-v1", "FrozenLake-v1", "short",
                                             "stillknows/WherePerson"]  # fmt: skip
    assert [task.reference for task in tasks[:3]] == [400, 0.7, 3]
    assert tasks[1].train == {"is_slippery": False}
    assert tasks[1].exam == {"is_slippery": True}
    assert tasks[2].train == {"ends": 2}
    assert isinstance(tasks[3], Task)
    pole = Episodes(tasks[0], {}, lambda number: number)
    assert pole.env.spec.max_episode_steps == 300


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (["CartPol-v1"], "no environment 'CartPol-v1'"),
        (["Pendulum-v1"], "no reward threshold, so its returns have no scale"),
        (["CartPole-v1", "CartPole-v1"], "Two tasks are called CartPole-v1"),
        ([{"name": "x"}], "needs an id, or a constructor"),
        ([{"id": "CartPole-v1", "gravity": 3}], "cannot be made with {'gravity': 3}"),
        ([{"_target_": "nowhere.Env"}], "nowhere.Env names no constructor"),
        ([{"id": "CartPole-v1", "max_episode_steps": 0}], "leaves no step"),
        ([{"id": "CartPole-v1", "max_episode_steps": "9"}], "give a whole number from 1 on"),
        ([{"id": "CartPole-v1", "max_episode_steps": True}], "give a whole number from 1 on"),
        ([{"id": "CartPole-v1", "reference": True}], "reference=True is no finite number"),
        ([{"id": "CartPole-v1", "exam": 5}], "exam=5 should be arguments"),
        ([{"id": "CartPole-v1", "reference": float("nan")}], "reference=nan is no finite number"),
        ([{"_target_": f"{__name__}.Odd", "which": "x"}], r"Odd cannot be made .*: KeyError: 'x'"),
    ],
)
def test_tasks_that_cannot_be_are_one_sentence(entries, says):
    with pytest.raises(ValueError, match=says):
        control_tasks(entries)


def test_a_reference_of_no_task_is_told():
    with pytest.raises(ValueError, match=r"references names CartPol. Did you mean 'CartPole-v1'"):
        control_tasks(["CartPole-v1"], references={"CartPol": 3})


def test_tasks_of_text_keep_the_names_that_they_are_given():
    same = {"id": "stillknows/Kinship-v0"}
    tasks = control_tasks([{**same, "name": "near"}, {**same, "name": "far", "relations": 6}, same])
    assert [task.name for task in tasks] == ["near", "far", "stillknows/Kinship"]
    assert tasks[1].train == {"relations": 6}


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("sequence", "Nothing reads observations of Sequence"),
        ("graph", "Nothing reads observations of Graph"),
        ("text", "an agent here moves Discrete"),
        ("dict", "an agent here moves Discrete"),
    ],
)
def test_spaces_that_cannot_be_are_one_sentence(which, says):
    entry = {"_target_": f"{__name__}.Odd", "which": which, "reference": 1}
    with pytest.raises(ValueError, match=says):
        spaces_of(control_tasks([entry])[0])


def test_any_mixture_of_spaces_is_read_as_finite_numbers():
    space = spaces.Dict(
        {
            "told": spaces.Text(30),
            "pair": spaces.Tuple((spaces.Discrete(3, start=2), spaces.MultiBinary(2))),
            "sight": spaces.Box(0, 255, (4, 4, 3), np.uint8),
        }
    )
    read = readable(space)
    space.seed(0)
    for _ in range(5):
        assert flat(read, space.sample()).shape == (spaces.flatdim(read),)
    seen = flat(read, {"told": "go to go", "pair": (4, np.array([0, 1])),
                       "sight": np.zeros((4, 4, 3), np.uint8)})  # fmt: skip
    words = seen[-48:]
    assert words[0] == words[2] != words[1]
    assert words[3:].tolist() == [0] * 45
    assert seen[:5].tolist() == [0, 0, 1, 0, 1]
    vector = SpaceEncoder(read, 8)(torch.from_numpy(seen)[None])
    assert vector.shape == (1, 8)
    other = seen.copy()
    other[-48:-45] = other[-48:-45][[1, 0, 2]]  # the order of words counts
    assert not torch.allclose(vector, SpaceEncoder(read, 8)(torch.from_numpy(other)[None]))


def test_words_are_weighed_by_their_place():
    torch.manual_seed(0)
    words = Words()
    encoder = SpaceEncoder(words, 8)
    said = [torch.from_numpy(words.read(text))[None] for text in ("a b", "b a", "a b c", "")]
    vectors = [encoder(each)[0] for each in said]
    assert not torch.allclose(vectors[0], vectors[1])
    assert not torch.allclose(vectors[0], vectors[2])
    assert vectors[3].abs().max() == 0


def test_signatures_tell_spaces_and_nothing_else():
    box, other = spaces.Box(-1, 1, (2,), np.float32), spaces.Box(-1, 2, (2,), np.float32)
    names = {
        signature_of(seen, moved)
        for seen in (box, other, spaces.Discrete(2), spaces.Dict({"a": box}),
                     spaces.Dict({"b": box}), spaces.Tuple((box,)), spaces.MultiBinary(2),
                     spaces.Dict({"a": spaces.Dict({"b": box}), "c": box}),
                     spaces.Dict({"a": spaces.Dict({"b": box, "c": box})}),
                     spaces.MultiDiscrete([2, 2]), spaces.MultiDiscrete([2, 3]))
        for moved in (spaces.Discrete(2), spaces.Discrete(2, start=1), spaces.Discrete(3))
    }  # fmt: skip
    assert len(names) == 33
    again = spaces.Box(np.float32(-1), np.float32(1), (2,))
    assert signature_of(box, spaces.Discrete(2)) == signature_of(again, spaces.Discrete(2))


@given(st.integers(0, 10**6), st.integers(0, 100), st.integers(0, 10**6))
def test_no_episode_of_training_is_one_of_an_examination(seed, row, number):
    assert episode_seed(seed, row, number) < 2**30 <= episode_seed(seed, row, number, exam=True)
    assert episode_seed(seed, row, number, exam=True) < 2**31


def test_every_episode_has_its_own_seed_and_the_same_one_again():
    def totals(seed):
        return [e.total for env in numbers(walk(), 12, seed) for e in env.ended]

    assert totals(0) == totals(0)
    assert len(set(totals(0))) == 6
    assert not set(totals(0)) & set(totals(1))


def test_where_an_environment_stood_is_data():
    env, other = (Episodes(walk(), {}, lambda number: 7 + number) for _ in range(2))
    env.reset()
    for _ in range(6):
        seen, _, ended, _, _ = env.step(1)
        if ended:
            env.reset()
    assert (env.number, len(env.actions)) == (1, 2)
    assert np.array_equal(other.go_to(env.number, env.actions), seen)
    assert other.step(1)[1] == env.step(1)[1]


def test_an_environment_that_does_not_end_is_cut():
    env = numbers(walk(limit=5, ends=0), 12, rows=1)[0]
    assert [each.length for each in env.ended] == [5, 5]


def test_an_episode_that_breaks_is_begun_anew_with_another_seed():
    rows = numbers(walk(breaks="some"), 40)
    for env in rows:
        assert env.faults
        assert len(env.ended) >= 6
        assert {fault.reason for fault in env.faults} == {"RuntimeError: the floor gave way"}
        assert {fault.step for fault in env.faults} == {2}
        broken = {fault.number for fault in env.faults}
        assert not broken & {each.number for each in env.ended}
        seeds = [env.seed_of(number) % 3 == 0 for number in sorted(broken)]
        assert all(seeds)


def test_an_environment_that_broke_is_closed():
    episodes = Episodes(walk(breaks="always"), {"breaks": "always"}, lambda number: number)
    episodes.reset()
    broke = episodes.env.unwrapped
    for _ in range(2):
        episodes.step(0)
    assert episodes.env.unwrapped is not broke
    assert broke.closed


@pytest.mark.parametrize(
    ("fault", "step", "says"),
    [
        ({"breaks": "always"}, 2, "RuntimeError: the floor gave way"),
        ({"pays": float("nan")}, 1, "ValueError: it gave the reward nan"),
        ({"pays": float("inf")}, 1, "ValueError: it gave the reward inf"),
        ({"sees": float("nan")}, 1, "ValueError: it gave an observation that is NaN or infinite"),
        ({"sees": float("-inf")}, 1, "ValueError: it gave an observation that is NaN or infinite"),
        ({"sees": "more"}, 1, "ValueError: it gave 3 numbers where its space has 2"),
        ({"pays": 0}, 1, "TypeError: 'NoneType' object is not iterable"),
        ({"resets": False}, 0, "RuntimeError: no way in"),
    ],
)
def test_what_keeps_breaking_stops_with_one_sentence(fault, step, says):
    sentence = f"broke in 3 episodes in a row, at last in step {step} .{says}.: what was lived"
    with pytest.raises(ValueError, match=sentence):
        numbers(walk(**fault), 40, retries=2)
    with pytest.raises(ValueError, match=f"Walk broke .* {'' if not step else 'of its exam'}"):
        examine_control(RandomPlayer(Walk.action_space), walk(**fault), episodes=3, rows=2, seed=0)


def test_an_examination_is_the_same_however_many_act_side_by_side():
    task = ControlTask("CartPole", "CartPole-v1", {}, {}, 475.0, 500)
    found = [
        examine_control(RandomPlayer(spaces.Discrete(2), 5), task, episodes=7, rows=rows, seed=3)
        for rows in (1, 3, 7)
    ]
    assert found[0] == found[1] == found[2]
    assert len(set(found[0].returns)) > 3
    assert found[0].successes == []
    other = examine_control(RandomPlayer(spaces.Discrete(2), 5), task, episodes=7, rows=3, seed=4)
    assert other.returns != found[0].returns


def test_an_episode_that_says_nothing_of_success_had_none():
    task = ControlTask("Reached", f"{__name__}.Reached", {}, {}, 1.0, 50, True)
    found = examine_control(RandomPlayer(Walk.action_space), task, episodes=12, rows=5, seed=0)
    assert found.successes == [int(total < 4 * 0.5) for total in found.returns]
    assert 0 < sum(found.successes) < 12


def test_an_episode_of_an_examination_that_breaks_is_replaced():
    found = examine_control(
        RandomPlayer(Walk.action_space), walk(breaks="some"), episodes=12, rows=4, seed=0
    )
    assert len(found.returns) == 12
    assert found.faults
    whole = examine_control(RandomPlayer(Walk.action_space), walk(), episodes=12, rows=4, seed=0)
    broken = {fault.number for fault in found.faults}
    for number in set(range(12)) - broken:
        assert found.returns[number] == whole.returns[number]


def test_scores_lie_between_the_floor_and_the_reference():
    assert [score(x, -500, -100) for x in (-500, -300, -100, -60)] == [0, 0.5, 1, 1.1]


def test_orders_of_tasks():
    assert list(places(None, 3, 0)) == [0, 1, 2]
    assert list(places([2, 0, 2], 3, 0, most=2)) == [2, 0]
    shuffled = [tuple(places("shuffled", 4, seed)) for seed in range(20)]
    assert {tuple(sorted(order)) for order in shuffled} == {(0, 1, 2, 3)}
    assert len(set(shuffled)) > 8
    assert shuffled[0] == tuple(places("shuffled", 4, 0))
    drawn = list(places("endless", 3, 1, most=300))
    assert all(a != b for a, b in pairwise(drawn))
    assert min(drawn.count(place) for place in range(3)) > 70
    assert list(places("endless", 1, 0, most=2)) == [0, 0]
    for wrong in ("sideways", [3], [-1], ["a"], 3):
        with pytest.raises(ValueError, match=r"stream\.order"):
            places(wrong, 3, 0)
    for most in (-1, 1.5):
        with pytest.raises(ValueError, match=r"stream\.experiences=.*give a whole number"):
            places("endless", 3, 0, most)


def test_minigrid_is_read_with_its_mission():
    pytest.importorskip("minigrid")
    door, goal = control_tasks(["MiniGrid-DoorKey-5x5-v0", "BabyAI-GoToObj-v0"])
    assert (door.reference, goal.reference) == (1.0, 1.0)
    assert signature_of(*spaces_of(door)) == signature_of(*spaces_of(goal))
    rows = [Episodes(task, {}, lambda number: number) for task in (door, goal)]
    seen = [row.reset()[0] for row in rows]
    assert seen[0].shape == seen[1].shape == (4 + 147 + 48,)
    assert (seen[0][-48:] > 0).sum() == 13  # use the key to open the door and then get to the goal
    assert not np.array_equal(seen[0][-48:], seen[1][-48:])
    sight = spaces_of(door)[0]["image"]
    assert sight.high.max() == 10 >= seen[0][4:151].max()


def test_popgym_is_lived_in():
    pytest.importorskip("popgym")
    names = ["RepeatFirstEasy", "AutoencodeEasy", "ConcentrationEasy", "PositionOnlyPendulumEasy"]
    for task in control_tasks([f"popgym-{name}-v0" for name in names]):
        found = examine_control(RandomPlayer(spaces_of(task)[1]), task, episodes=2, rows=2, seed=0)
        assert all(-1.01 <= total <= 1.01 for total in found.returns)


def test_a_fresh_agent_is_told_of_in_its_own_task_alone():
    returns = {0: [0.0, 3.0], 1: [5.0, 9.0], 2: [2.0, 7.0]}  # after so many experiences, by task
    trained = [{"event": "update", "experience": n, "task": n} for n in (0, 1)]
    exams = [
        {"event": "examination", "after": after, "task": task, "returns": [row[task]]}
        for after, row in returns.items()
        for task in (0, 1)
    ]
    fresh = acted([{"event": "lifetime", "protocol": "scratch"}, *trained, *exams], 2)
    assert fresh["own"] == fresh["end"] == fresh["best"] == [5.0, 7.0]
    one = acted([{"event": "lifetime", "protocol": "identity hidden"}, *trained, *exams], 2)
    assert (one["own"], one["end"], one["best"]) == ([5.0, 7.0], [2.0, 7.0], [5.0, 9.0])


def test_the_area_of_a_task_is_of_its_own_updates():
    head = {"event": "lifetime", "protocol": "identity hidden"}
    seen = [(0, 0, 1.0), (0, 1, 0.0), (0, 0, 0.5), (1, 1, 0.25), (1, 1, 0.75)]  # one was mixed in
    updates = [
        {"event": "update", "experience": e, "task": task, "accuracy": value}
        for e, task, value in seen
    ]
    learned = Learned([head, *updates], np.zeros((3, 2)), (0, 1))
    assert learned.areas["training"] == [0.75, 0.5]
