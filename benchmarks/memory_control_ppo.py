"""Memory control by a library of reinforcement learning: PPO of stable-baselines3, unchanged.

    python benchmarks/memory_control_ppo.py --steps 300000

It decides about every sentence of stories of which three in four change nothing, with three slots,
and is paid for each question whose fact is held. Prints answers right in a story, on stories that
it did not train on: of PPO, of rules that add everything, and of one who knows what will be asked.
Needs `pip install stable-baselines3`.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from tqdm import trange

from stillknows.agents.reports.report import table
from stillknows.agents.teaching.clairvoyant import best_keeping
from stillknows.agents.teaching.memory_control import MemoryControl
from stillknows.envs.measures.intervals import interval
from stillknows.memory.interface import ADD

ID = "stillknows.agents:stillknows/MemoryControl-v0"
SETTINGS: dict[str, Any] = {
    "stories": "stillknows/WherePerson-v0",
    "slots": 3,
    "people": 3,
    "places": 5,
    "sentences": 24,
    "questions": 3,
    "distractors": 0.75,
}
Act = Callable[[np.ndarray, int], Sequence[int]]  # of an observation and a step


def rewards(act: Act, stories: int) -> tuple[list[float], list[float]]:
    """Return what is earned in each story, and what could have been."""
    env = gymnasium.make(ID, **SETTINGS)
    control: Any = env.unwrapped
    assert isinstance(control, MemoryControl)
    earned, possible = [], []
    for story in range(stories):
        seen, _ = env.reset(seed=10**6 + story)
        possible.append(float(best_keeping(control._trace, control.slots).met))
        total, over, step = 0.0, False, 0
        while not over:
            seen, reward, ended, cut, _ = env.step(np.asarray(act(seen, step)))
            total, over, step = total + float(reward), ended or cut, step + 1
        earned.append(total)
    return earned, possible


def main() -> None:
    """Train, examine, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stories", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    slots = SETTINGS["slots"]
    rules: dict[str, Act] = {
        "first in, first out": lambda _, step: (ADD, step % slots),
        "evict uniformly": lambda *_: (ADD, int(draw.integers(slots))),
    }
    found = {name: [float(np.mean(rewards(act, given.stories)[0]))] for name, act in rules.items()}
    found["clairvoyant"] = [float(np.mean(rewards(rules["evict uniformly"], given.stories)[1]))]
    found["PPO"] = []
    for seed in trange(given.seeds, disable=None):
        envs = make_vec_env(ID, n_envs=8, seed=seed, env_kwargs=SETTINGS)
        model = PPO("MlpPolicy", envs, seed=seed, n_steps=256, batch_size=256, ent_coef=0.01)
        model.learn(given.steps)

        def act(seen: np.ndarray, _: int, model: PPO = model) -> Any:
            return model.predict(seen, deterministic=True)[0]

        found["PPO"].append(float(np.mean(rewards(act, given.stories)[0])))
    rows = [[name, str(len(values)), str(interval(values))] for name, values in found.items()]
    print(table(["", "n", "right answers a story, of 3"], rows))


if __name__ == "__main__":
    main()
