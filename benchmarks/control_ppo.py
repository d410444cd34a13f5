"""Recurrent PPO beside PPO of stable-baselines3 on CartPole: mean return after the same steps.

    python benchmarks/control_ppo.py --steps 20480 --seeds 3

Both act in eight environments side by side, 128 steps an update; stable-baselines3 has no memory
and its own settings, or those of RL Zoo for CartPole. Needs `pip install
stable-baselines3`. Prints one Markdown table: the mean return of the last 20 episodes of training
and the processor's time.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from stillknows.agents.acting.recurrent_ppo import RecurrentPPO
from stillknows.agents.acting.rollout import Stage
from stillknows.envs.control import ControlTask, spaces_of
from stillknows.envs.measures.intervals import interval

ROWS = 8
ZOO: dict[str, Any] = {
    "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20,
    "ent_coef": 0.0, "learning_rate": 1e-3,
}  # fmt: skip


def ours(core: str) -> Callable[[int, int], list[float]]:
    """Return what lives with a core and returns the returns of its episodes."""

    def live(steps: int, seed: int) -> list[float]:
        torch.manual_seed(seed)
        task = ControlTask("CartPole", "CartPole-v1", {}, {}, 475.0, 500)
        learner = RecurrentPPO(core=core, sequence=32, seed=seed)
        signature, stage = learner.meet(*spaces_of(task)), Stage(task, ROWS, seed)
        updates = steps // (ROWS * learner.horizon)
        return [e.total for _ in range(updates) for e in learner.update(signature, stage).ended]

    return live


def theirs(settings: dict[str, Any]) -> Callable[[int, int], list[float]]:
    """Return what lives with stable-baselines3's PPO and returns the returns of its episodes."""

    def live(steps: int, seed: int) -> list[float]:
        from stable_baselines3 import PPO
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.env_util import make_vec_env

        class Listen(BaseCallback):
            def __init__(self) -> None:
                super().__init__()
                self.returns: list[float] = []

            def _on_step(self) -> bool:
                infos = self.locals["infos"]
                self.returns += [float(i["episode"]["r"]) for i in infos if "episode" in i]
                return True

        listen = Listen()
        envs = make_vec_env("CartPole-v1", ROWS, seed=seed)
        PPO("MlpPolicy", envs, seed=seed, device="cpu", **settings).learn(steps, callback=listen)
        return listen.returns

    return live


def main() -> None:
    """Live all lives and print the table."""
    parser = argparse.ArgumentParser(description="Recurrent PPO beside stable-baselines3's PPO.")
    parser.add_argument("--steps", type=int, default=20480)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods = {
        "recurrent PPO, LSTM": ours("lstm"),
        "the same without a memory": ours("none"),
        "stable-baselines3, its own settings": theirs({"n_steps": 128}),
        "stable-baselines3, settings of RL Zoo": theirs(ZOO),
    }
    print(f"| CartPole-v1, {options.steps} steps | n | return | seconds of the processor |")
    print("|---|---|---|---|")
    for name, live in methods.items():
        began, means = time.process_time(), []
        for seed in range(options.seeds):
            means.append(float(np.mean(live(options.steps, seed)[-20:])))
        spent = (time.process_time() - began) / options.seeds
        print(f"| {name} | {options.seeds} | {interval(means)} | {spent:.0f} |", flush=True)


if __name__ == "__main__":
    main()
