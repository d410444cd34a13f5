"""Small environments to act in, and lives in them."""

from pathlib import Path

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.reports import log as logs


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
    """Sees a number and turns a dial to it; pays by how near it is; then it is cut."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Box(-2, 2, (1,), np.float32)

    def __init__(self, steps=4):
        self.steps = steps

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return self._see(), {}

    def step(self, action):
        self.clock += 1
        pay = 1 - abs(float(action[0]) - self.drawn)
        return self._see(), pay, False, self.clock == self.steps, {}

    def _see(self):
        self.drawn = float(self.np_random.uniform(-1, 1))
        return np.full(3, self.drawn, dtype=np.float32)


LANE = "{_target_: lanes.Lane, name: lane, reference: 1}"
DIAL = "{_target_: lanes.Dial, name: dial, reference: 4}"
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
BOTH = f"stream.tasks.ids=[{LANE},{DIAL}]"
ONE = f"stream.tasks.ids=[{LANE}]"
PPO = ("learner.sequence=8", "learner.minibatches=2")


def live(folder: Path, *overrides: str) -> list[logs.Event]:
    live_lifetime(compose_config([*SHORT, *overrides]), folder, lambda *_: None)
    return logs.read(folder)


def tree_equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)  # type: ignore[arg-type]
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(tree_equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(tree_equal, one, other))
    return bool(one == other)
