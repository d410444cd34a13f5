"""Tasks of any text environments: how they are made side by side, and what their authors hear."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from stillknows.envs import side_by_side
from stillknows.envs.side_by_side import TextVectorEnv
from stillknows.envs.tasks import Task, make, suggest


class Echo(gymnasium.Env):
    """Tells a word, then asks for it, with one fault of its author's."""

    observation_space = action_space = spaces.Text(8)
    vocabulary = ("a", "b")

    def __init__(self, fault: str = "") -> None:
        if fault == "constructor":
            raise KeyError("fuel")
        self.fault = fault

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 4))
        return None if self.fault == "begins" else "a", {}

    def step(self, action):
        self.left -= self.fault != "endless"
        said = {"number": 3, "array": np.array(["a"])}.get(self.fault, "a")
        reward = {"nan": np.nan, "inf": np.inf}.get(self.fault, 1.0)
        return None if not self.left else said, reward, not self.left, False, {}


class Anew(SyncVectorEnv):
    """Rows begin anew by themselves, as Gymnasium's do if nothing else is said."""

    def __init__(self, num_envs: int = 1, **arguments: str) -> None:
        super().__init__([lambda: Echo(**arguments)] * num_envs)


gymnasium.register("Echo-v0", entry_point=Echo)
gymnasium.register("EchoAnew-v0", entry_point=Echo, vector_entry_point=Anew)


def lived(id: str, fault: str = "", rows: int = 4) -> np.ndarray:
    """Return the reward of each row until all have ended."""
    envs = make(Task("echo", id, {}, {}), rows, {"fault": fault} if fault else {})
    envs.reset(seed=0)
    total, ended = np.zeros(rows), np.zeros(rows, dtype=bool)
    while not ended.all():
        _, rewards, terminated, truncated, _ = envs.step(("",) * rows)
        total, ended = total + rewards, terminated | truncated
    return total


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            "constructor",
            r"Echo-v0 cannot be made with \{'fault': 'constructor'\}: KeyError: 'fuel'",
        ),
        ("begins", "Echo-v0 gave the observation None, which is no text: give a string"),
        ("number", "Echo-v0 gave the observation 3, which is no text"),
        ("array", "Echo-v0 gave the observation array.*which is no text"),
        ("nan", "Echo-v0 gave the reward nan: give a finite number"),
        ("inf", "Echo-v0 gave the reward inf: give a finite number"),
        ("endless", "An episode of Echo-v0 has 50 steps and no end: .* max_episode_steps"),
    ],
)
def test_what_an_author_did_wrong_is_one_sentence_with_the_name(fault, says, monkeypatch):
    monkeypatch.setattr(side_by_side, "_ENDLESS", 50)
    with pytest.raises(ValueError, match=says):
        lived("Echo-v0", fault)


def test_what_is_said_after_the_end_is_not_heard():
    assert set(lived("Echo-v0").tolist()) <= {1.0, 2.0, 3.0}


def test_the_statistics_of_gymnasium_are_not_taken_for_the_number_of_an_episode():
    envs = TextVectorEnv([gymnasium.wrappers.RecordEpisodeStatistics(Echo()) for _ in range(4)])
    envs.reset(seed=0)
    for _ in range(4):
        _, _, terminated, _, info = envs.step(("",) * 4)
        assert "episode" not in info
    assert terminated.all()


def test_our_numbers_of_episodes_leave_gymnasiums_statistics_another_key():
    env = gymnasium.wrappers.RecordEpisodeStatistics(
        gymnasium.make("stillknows/WherePerson-v0"), stats_key="returns"
    )
    _, info = env.reset(seed=1, options={"episode": 5})
    ended = False
    while not ended:
        _, _, ended, _, info = env.step("garden")
    assert info["episode"] == 5
    assert info["returns"]["l"] == info["step"]


def test_unknown_arguments_are_one_sentence():
    with pytest.raises(ValueError, match=r"Echo-v0 cannot be made with .'fuel': 1.: TypeError: "):
        make(Task("echo", "Echo-v0", {}, {}), 2, {"fuel": 1})


def test_rows_that_would_begin_anew_by_themselves_are_put_side_by_side():
    envs = make(Task("echo", "EchoAnew-v0", {}, {}), 4, {})
    assert isinstance(envs, TextVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert lived("EchoAnew-v0").tolist() == lived("Echo-v0").tolist()


def test_a_name_of_any_kind_is_looked_up():
    assert suggest(3, ["route"]) == "Known: route."  # type: ignore[arg-type]
