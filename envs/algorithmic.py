"""Algorithmic tasks as Gymnasium environments: copies, associative recall and graphs.

    gymnasium.make("stillknows/Copy-v0", max_length=10)
    gymnasium.make_vec("stillknows/ShortestPath-v0", num_envs=8)

An episode is written at reset (`stillknows.envs.problems`, `stillknows.envs.graphs`) and served
step by step. An observation is what is shown at a step: bits, then the channels of the problem's
flags. An action is a bit for each output (`MultiBinary`), ignored where none is asked for: who has
probabilities thresholds them, or takes the likeliest of each group (`Problem.group_size`). The
reward of an asked step is the share of its bits or groups that are right, of any other step 0.
`info` always says `step` and `marked` (does the current observation ask?); after an answer it also
says `target`, the right bits.

Letters: B rows, T steps, I inputs, O outputs. This file knows nothing of who answers.
"""

import dataclasses
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from stillknows.envs.graphs import FamilyTree, GraphTraversal, ShortestPath
from stillknows.envs.problems import (
    KEYS,
    AssociativeRecall,
    Batch,
    Copy,
    Episode,
    Problem,
    RepeatCopy,
    generate,
)
from stillknows.envs.tasks import suggest
from stillknows.envs.text import expect_all, row_seeds

Info = dict[str, Any]

PROBLEMS: dict[str, type[Problem]] = {
    "copy": Copy,
    "repeat_copy": RepeatCopy,
    "associative_recall": AssociativeRecall,
    "graph_traversal": GraphTraversal,
    "shortest_path": ShortestPath,
    "family_tree": FamilyTree,
}


def make_problem(task: str, **dials: Any) -> Problem:
    """Return a problem by its name in `PROBLEMS`.

    Raises:
        ValueError: if the task or a dial is unknown, or a dial out of range.
    """
    if task not in PROBLEMS:
        raise ValueError(f"There is no algorithmic task '{task}'. {suggest(task, list(PROBLEMS))}")
    known = [field.name for field in dataclasses.fields(PROBLEMS[task])]
    for name in dials:
        if name not in known:
            raise ValueError(f"The task {task} has no dial '{name}'. {suggest(name, known)}")
    return PROBLEMS[task](**dials)


def _spaces(problem: Problem) -> tuple[spaces.Box, spaces.MultiBinary]:
    return spaces.Box(*problem.bounds, dtype=np.float32), spaces.MultiBinary(problem.output_size)


def _key(generator: np.random.Generator) -> int:
    return int(generator.integers(KEYS))


def _as_bits(actions: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return an action as an array, or say what it should be."""
    bits = np.asarray(actions)
    if bits.shape != shape:
        raise ValueError(f"An action of shape {bits.shape}: give one bit an output, shape {shape}.")
    if not np.isin(bits, (0, 1)).all():
        raise ValueError("An action of other numbers than 0 and 1: threshold probabilities first.")
    return bits


class Algorithmic(gymnasium.Env[np.ndarray, np.ndarray]):
    """One episode of a problem after another.

    Args:
        task: a key of `PROBLEMS`.
        **dials: see the problem.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, task: str, **dials: Any) -> None:
        self.problem = make_problem(task, **dials)
        self.observation_space, self.action_space = _spaces(self.problem)
        self._episode: Episode | None = None
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: Info | None = None
    ) -> tuple[np.ndarray, Info]:
        """Begin the next episode; there are no options."""
        super().reset(seed=seed)
        self._episode, self._step = self.problem.episode(_key(self.np_random)), 0
        return self._episode.inputs_TI[0].copy(), {"marked": False, "step": 0}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, Info]:
        """Take the bits of this step (ignored where none are asked for) and show the next.

        Raises:
            ValueError: if the action is not one bit for each output.
        """
        if self._episode is None or self._step == len(self._episode.marked_T):
            raise gymnasium.error.ResetNeeded("The episode has ended: call reset() for the next.")
        bits_O = _as_bits(action, (self.problem.output_size,))
        inputs_TI, targets_TO, marked_T = self._episode
        reward, told = 0.0, {}
        if marked_T[self._step]:
            target_O = targets_TO[self._step]
            reward = float(self.problem.share_right(bits_O, target_O))
            told = {"target": target_O.copy()}
        self._step += 1
        ended = self._step == len(marked_T)
        observation_I = np.zeros_like(inputs_TI[0]) if ended else inputs_TI[self._step].copy()
        marked = not ended and bool(marked_T[self._step])
        return observation_I, reward, ended, False, {"marked": marked, "step": self._step, **told}


class AlgorithmicVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """B episodes of a problem side by side, written at reset and served by index.

    Row b serves what a plain environment would that was reset with `seed + b`. Rows that have
    ended show zeros and stay terminated until all are reset together.

    Args:
        task: a key of `PROBLEMS`.
        num_envs: how many rows (B).
        **dials: see the problem.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, task: str, num_envs: int = 1, **dials: Any) -> None:
        self.problem, self.num_envs = make_problem(task, **dials), num_envs
        self.single_observation_space, self.single_action_space = _spaces(self.problem)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators: list[np.random.Generator] = []
        self._batch: Batch | None = None
        self._step = 0

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: Info | None = None
    ) -> tuple[np.ndarray, Info]:
        """Begin the next episode in every row; there are no options.

        Raises:
            ValueError: if there is a list of seeds that is not one a row, or some rows alone are
                to be reset.
        """
        expect_all(options)
        if seed is not None or not self._generators:
            self._generators = [
                gymnasium.utils.seeding.np_random(each)[0]
                for each in row_seeds(seed, self.num_envs)
            ]
        batch = generate(self.problem, map(_key, self._generators), spare=1)
        self._batch, self._step = batch, 0
        return batch.inputs_BTI[:, 0].copy(), self._info(batch)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Info]:
        """Take one action a row (ignored where none is asked for) and show the next step.

        Raises:
            ValueError: if the actions are not one bit for each output of each row.
        """
        batch = self._batch
        if batch is None or self._step >= batch.lengths_B.max():
            raise gymnasium.error.ResetNeeded("All episodes have ended: call reset() for the next.")
        bits_BO = _as_bits(actions, (self.num_envs, self.problem.output_size))
        targets_BO, marked_B = batch.targets_BTO[:, self._step], batch.marked_BT[:, self._step]
        rewards_B = np.where(marked_B, self.problem.share_right(bits_BO, targets_BO), 0.0)
        told = {"target": targets_BO.copy(), "_target": marked_B.copy()} if marked_B.any() else {}
        self._step += 1
        ended_B = self._step >= batch.lengths_B
        return (
            batch.inputs_BTI[:, self._step].copy(),
            rewards_B,
            ended_B,
            np.zeros_like(ended_B),
            {**self._info(batch), **told},
        )

    def _info(self, batch: Batch) -> Info:
        everyone = np.ones(self.num_envs, dtype=bool)
        return {
            "marked": batch.marked_BT[:, self._step].copy(),
            "_marked": everyone,
            "step": np.minimum(self._step, batch.lengths_B),
            "_step": everyone.copy(),
        }
