"""Neural Episodic Control beside DQN: return against steps on small control tasks.

    python benchmarks/control.py --task cartpole --seeds 5 --out control.png

Both methods search the same number of settings on two seeds of their own, by the area under the
curve of returns, and then live `--seeds` lives with the best one. DQN is that of
stable-baselines3; its settings are about those of RL Zoo. Needs `pip install
stable-baselines3 minigrid matplotlib`. Prints one Markdown table: the mean return in the last
tenth of the steps, and the steps until the mean of ten episodes first reached the threshold. In
CartPole a step is worth 1, so that nobody can be there before ten times the threshold.

Acrobot and DoorKey take more than an hour of a core each: `--keep FOLDER` writes every life down,
and the same command goes on where an interrupted one stopped.
"""

import argparse
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from tqdm import tqdm

from stillknows.agents.acting.control import EpisodicControl, live_control
from stillknows.envs.measures.intervals import interval
from stillknows.memory.action_values import ActionValues

Curve = list[tuple[int, float]]  # steps of the life so far, return of the episode that ended
Settings = Mapping[str, Any]
Job = tuple[str, str, Settings, int, int]  # method, task, settings, seed, steps


def _door_key() -> gymnasium.Env:
    from minigrid.wrappers import ImgObsWrapper

    env = ImgObsWrapper(gymnasium.make("MiniGrid-DoorKey-5x5-v0"))
    return gymnasium.wrappers.FlattenObservation(env)


def _acrobot() -> gymnasium.Env:
    """Return Acrobot with its numbers in their bounds: both methods see -1 to 1."""
    env = gymnasium.make("Acrobot-v1")
    return gymnasium.wrappers.RescaleObservation(env, np.float32(-1), np.float32(1))


class Task(NamedTuple):
    """An environment, how long it is lived in, and the mean return that counts as learned."""

    make: Callable[[], gymnasium.Env]
    steps: int
    threshold: float


TASKS = {
    "cartpole": Task(partial(gymnasium.make, "CartPole-v1"), 20_000, 150.0),
    "acrobot": Task(_acrobot, 40_000, -150.0),
    "frozenlake": Task(partial(gymnasium.make, "FrozenLake-v1", is_slippery=False), 10_000, 0.8),
    "doorkey": Task(_door_key, 50_000, 0.7),
}
NEC_GRID: tuple[Settings, ...] = tuple(
    {"steps": steps, "explore": explore}
    for steps, explore in itertools.product(
        (100, None), ("stray 0.01", "stray 0.05", "stray 0.1", "curiosity")
    )
)
DQN_GRID: tuple[Settings, ...] = tuple(
    {"learning_rate": rate, "exploration_fraction": share, "rhythm": rhythm}
    for rate, share, rhythm in itertools.product((2.3e-3, 5e-4), (0.05, 0.16), ("zoo", "every 4"))
)
RHYTHMS = {  # train_freq, gradient_steps, target_update_interval
    "zoo": (256, 128, 10),
    "every 4": (4, 1, 500),
}


def live_nec(task: Task, settings: Settings, seed: int) -> Curve:
    """Return the episodes of one life of the NEC agent."""
    torch.manual_seed(seed)
    env = task.make()
    kind, _, share = settings["explore"].partition(" ")  # of the steps, over which straying falls
    curious = kind == "curiosity"
    memory = ActionValues(
        int(env.action_space.n), 20_000, 32, neighbours=11, update_rate=0.1, learning_rate=1e-3
    )
    agent = EpisodicControl(
        spaces.flatdim(env.observation_space),
        memory,
        32,
        steps=settings["steps"],
        explore=(0.0, 0.0) if curious else (1.0, 0.01),
        explore_for=int(float(share or 0) * task.steps),
        curiosity=0.3 if curious else 0.0,
        seed=seed,
    )
    return [tuple(lived) for lived in live_control(agent, [env], task.steps, seed=seed)]


def live_dqn(task: Task, settings: Settings, seed: int) -> Curve:
    """Return the episodes of one life of stable-baselines3's DQN."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback

    class Listen(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.curve: Curve = []

        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info:
                    self.curve.append((self.num_timesteps, float(info["episode"]["r"])))
            return True

    frequency, gradients, target = RHYTHMS[settings["rhythm"]]
    model = DQN(
        "MlpPolicy",
        task.make(),
        learning_rate=settings["learning_rate"],
        exploration_fraction=settings["exploration_fraction"],
        exploration_final_eps=0.01,
        batch_size=64,
        buffer_size=50_000,
        learning_starts=500,
        train_freq=frequency,
        gradient_steps=gradients,
        target_update_interval=target,
        policy_kwargs={"net_arch": [256, 256]},
        seed=seed,
        device="cpu",
    )
    listen = Listen()
    model.learn(task.steps, callback=listen)
    return listen.curve


METHODS = {"NEC": (live_nec, NEC_GRID), "DQN": (live_dqn, DQN_GRID)}


def smooth(curve: Curve, steps: int, points: int = 200) -> np.ndarray:
    """Return the mean return of the last ten episodes at evenly spaced steps, NaN before any."""
    ends, totals = np.array([c[0] for c in curve]), np.array([c[1] for c in curve])
    line = np.full(points, np.nan)
    for point, step in enumerate(np.linspace(steps / points, steps, points)):
        known = int((ends <= step).sum())
        if known:
            line[point] = totals[max(0, known - 10) : known].mean()
    return line


def first_crossing(curve: Curve, threshold: float) -> float:
    """Return after how many steps the mean of ten episodes first reached the threshold, or inf."""
    for last in range(10, len(curve) + 1):
        if np.mean([total for _, total in curve[last - 10 : last]]) >= threshold:
            return float(curve[last - 1][0])
    return float("inf")


def _life(keep: Path | None, job: Job) -> Curve:
    """Return the episodes of one life, from the folder of lives where it has been lived."""
    method, name, settings, seed, steps = job
    told = "-".join(str(value).replace(" ", "") for value in settings.values())
    kept = keep and keep / f"{method}-{name}-{steps}-{told}-seed{seed}.json"
    if kept and kept.exists():
        return [(end, total) for end, total in json.loads(kept.read_text())]
    torch.set_num_threads(1)
    curve = METHODS[method][0](TASKS[name]._replace(steps=steps), settings, seed)
    if kept:
        whole = kept.with_suffix(".part")
        whole.write_text(json.dumps(curve))
        whole.rename(kept)
    return curve


class Lives(NamedTuple):
    """Lives in one task, of so many steps each, side by side and kept in a folder."""

    pool: ProcessPoolExecutor
    keep: Path | None
    name: str
    steps: int

    def live(
        self, method: str, settings: Sequence[Settings], seeds: Sequence[int], label: str
    ) -> list[Curve]:
        """Return the curves of every setting with every seed, seeds within settings."""
        jobs = [(method, self.name, one, seed, self.steps) for one in settings for seed in seeds]
        futures = [self.pool.submit(_life, self.keep, job) for job in jobs]
        return [future.result() for future in tqdm(futures, desc=label, disable=None)]

    def search(self, method: str) -> Settings:
        """Return the settings of the largest mean return over the life, on seeds 1000 and 1001."""
        grid = METHODS[method][1]
        curves = self.live(method, grid, (1000, 1001), f"{method} search")
        areas = [np.nanmean(smooth(curve, self.steps)) for curve in curves]
        return grid[int(np.reshape(areas, (-1, 2)).mean(axis=1).argmax())]


def draw(lines: Mapping[str, np.ndarray], lives: Lives, out: str) -> None:
    """Draw mean and range over seeds of the returns against steps."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    at = np.linspace(0, lives.steps, 200)
    for method, lines_S in lines.items():
        axes.plot(at, lines_S.mean(axis=0), label=method)
        axes.fill_between(at, lines_S.min(axis=0), lines_S.max(axis=0), alpha=0.2)
    axes.axhline(TASKS[lives.name].threshold, color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="environment steps", ylabel="return, mean of ten episodes", title=lives.name)
    axes.legend()
    figure.savefig(out, dpi=120)


def row(method: str, settings: Settings, curves: Sequence[Curve], lives: Lives) -> str:
    """Return the row of the table that tells of these lives."""
    late = [float(np.nanmean(smooth(curve, lives.steps)[-20:])) for curve in curves]
    steps = np.sort([first_crossing(curve, TASKS[lives.name].threshold) for curve in curves])
    told = ", ".join(f"{key} {value}" for key, value in settings.items())
    crossed = f"{np.median(steps):.0f} ({steps[0]:.0f} to {steps[-1]:.0f})"
    return f"| {method} | {told} | {interval(late)} | {crossed} |"


def options() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=sorted(TASKS), default="cartpole")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, help="other than the task's own")
    parser.add_argument("--no-search", action="store_true", help="take the first settings")
    parser.add_argument("--keep", type=Path, help="where lives are written down and found again")
    parser.add_argument("--out", help="where the figure goes")
    return parser.parse_args()


def main() -> None:
    """Search, live, print the table and draw the figure."""
    asked = options()
    task, lines = TASKS[asked.task], {}
    if asked.keep:
        asked.keep.mkdir(parents=True, exist_ok=True)
    print(f"| {asked.task} | settings | return at the end |", end="")
    print(f" steps to {task.threshold}, median (range) |\n|---|---|---|---|")
    with ProcessPoolExecutor(asked.workers) as pool:
        lives = Lives(pool, asked.keep, asked.task, asked.steps or task.steps)
        for method, (_, grid) in METHODS.items():
            settings = grid[0] if asked.no_search else lives.search(method)
            curves = lives.live(method, [settings], range(asked.seeds), method)
            lines[method] = np.stack([smooth(curve, lives.steps) for curve in curves])
            print(row(method, settings, curves, lives), flush=True)
    if asked.out:
        draw(lines, lives, asked.out)


if __name__ == "__main__":
    main()
