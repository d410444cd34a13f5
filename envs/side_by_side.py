"""Any plain text environments side by side, for those without a vector of their own.

What an environment does wrong is told in one sentence that names it. This file knows nothing of how
stories are written.
"""

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from stillknows.envs.text import expect_all, row_seeds
from stillknows.envs.turns import Info

_FAULTS = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    OSError,
    RuntimeError,
)  # of an environment; a life that is asked to stop is none
_LARGEST = np.iinfo(np.int64).max
_ENDLESS = 100_000  # steps
_COLUMNS = (((bool, np.bool_), bool), ((int, np.integer), int), ((float, np.floating), float))


class TextVectorEnv(VectorEnv[tuple[str, ...], tuple[str, ...], np.ndarray]):
    """Any plain text environments side by side, for those without a vector of their own.

    Rows that have ended say "" until all are reset together, and stay terminated or truncated;
    reset seeds row b with `seed + b`. An episode that seems to have no end is a ValueError.

    Args:
        envs: the environments, one a row.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, envs: Sequence[gymnasium.Env[str, str]]) -> None:
        self.envs, self.num_envs = list(envs), len(envs)
        self.single_observation_space = envs[0].observation_space
        self.single_action_space = envs[0].action_space
        self.observation_space = spaces.Tuple(tuple(env.observation_space for env in envs))
        self.action_space = spaces.Tuple(tuple(env.action_space for env in envs))
        self._terminated = np.ones(self.num_envs, dtype=bool)
        self._truncated = np.zeros(self.num_envs, dtype=bool)
        self._infos: list[Info] = [{}] * self.num_envs
        self._steps = 0

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], Info]:
        """Begin an episode in every row."""
        expect_all(options)
        seeds = row_seeds(seed, self.num_envs)
        pairs = [
            _begun(env, s, _for_row(options, row))
            for row, (env, s) in enumerate(zip(self.envs, seeds, strict=True))
        ]
        self._terminated = np.zeros(self.num_envs, dtype=bool)
        self._truncated = np.zeros(self.num_envs, dtype=bool)
        self._infos, self._steps = [info for _, info in pairs], 0
        return tuple(observation for observation, _ in pairs), gather(self._infos)

    def step(
        self, actions: Sequence[str]
    ) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray, Info]:
        """Step every row that has not ended."""
        observations, rewards = [""] * self.num_envs, np.zeros(self.num_envs)
        infos = [{**info, "question": False} for info in self._infos]
        going = np.flatnonzero(~(self._terminated | self._truncated)).tolist()
        self._steps += 1
        if going and self._steps > _ENDLESS:
            raise ValueError(
                f"An episode of {_name(self.envs[going[0]])} has {_ENDLESS} steps and no end: let "
                "it end after wrong answers too, or register it with max_episode_steps."
            )
        for row in going:
            observation, reward, ended, cut, info = _stepped(self.envs[row], actions[row])
            over = ended or cut
            observations[row], rewards[row] = observation, reward
            self._terminated[row], self._truncated[row] = ended, cut
            infos[row] = {**info, "question": False} if over else dict(info)
            self._infos[row] = {k: info[k] for k in ("episode", "step", "tree") if k in info}
        ends = self._terminated.copy(), self._truncated.copy()
        return tuple(observations), rewards, *ends, gather(infos)

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()


def gather(infos: Sequence[Info]) -> Info:
    """Join the infos of rows as Gymnasium does: an array a key, and a mask `_key` of who has it.

    Truth values and numbers become arrays of their kind, with False or 0 where a row has none;
    all else, what is of mixed kinds or too large included, becomes an array of objects, with None.
    """
    joined: Info = {}
    for key in {key: None for info in infos for key in info}:
        present = [info[key] for info in infos if key in info]
        dtype: type = next((d for kind, d in _COLUMNS if _all_are(kind, present)), object)
        if dtype is int and not all(abs(int(value)) <= _LARGEST for value in present):
            dtype = object
        blank = None if dtype is object else 0
        column = (info.get(key, blank) for info in infos)
        joined[key] = np.fromiter(column, dtype=dtype, count=len(infos))
        joined[f"_{key}"] = np.array([key in info for info in infos])
    return joined


def _all_are(kind: tuple[type, ...], values: Sequence[Any]) -> bool:
    return all(isinstance(value, kind) for value in values)


def _begun(
    env: gymnasium.Env[str, str], seed: int | None, options: Info | None
) -> tuple[str, Info]:
    """Return what an environment says first.

    Raises:
        ValueError: if it raises, or does not return an observation in text and an info.
    """
    try:
        observation, info = env.reset(seed=seed, options=options)
        info = _own(info)
    except _FAULTS as error:
        if _tells_itself(env):
            raise
        raise ValueError(
            f"{_name(env)} raised {type(error).__name__} in reset(seed=…, options=…), which "
            f"returns an observation and an info: {error}."
        ) from error
    return _text(env, observation), info


def _stepped(env: gymnasium.Env[str, str], action: str) -> tuple[str, float, bool, bool, Info]:
    """Return what an environment says to an answer, "" where that ends the episode.

    Raises:
        ValueError: if it raises, does not return five things, or one of them is of no use.
    """
    try:
        observation, reward, ended, cut, info = env.step(action)
        reward, over, info = float(reward), bool(ended or cut), _own(info)
    except _FAULTS as error:
        if _tells_itself(env):
            raise
        raise ValueError(
            f"{_name(env)} raised {type(error).__name__} in step({action!r}), which returns "
            f"an observation, a reward, whether it ended or was cut, and an info: {error}."
        ) from error
    if not math.isfinite(reward):
        raise ValueError(f"{_name(env)} gave the reward {reward}: give a finite number.")
    return "" if over else _text(env, observation), reward, ended, cut, info


def _own(info: Any) -> Info:
    """Return an info without Gymnasium's statistics, which stand where an episode's number does."""
    numbered = isinstance(info.get("episode", 0), int | np.integer)
    return {key: value for key, value in info.items() if numbered or key != "episode"}


def _text(env: gymnasium.Env[str, str], observation: Any) -> str:
    """Return an observation, or say that it is no text."""
    if not isinstance(observation, str):
        raise ValueError(
            f"{_name(env)} gave the observation {observation!r}, which is no text: give a string."
        )
    return observation


def _tells_itself(env: gymnasium.Env[str, str]) -> bool:
    """Return whether an environment is one of ours, whose own sentences say more."""
    return type(env.unwrapped).__module__.startswith("stillknows.")


def _name(env: gymnasium.Env[str, str]) -> str:
    """Return what sentences call an environment."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def _for_row(options: Info | None, row: int) -> Info | None:
    """Return the reset options of one row: its episode comes `row` after that of row 0."""
    if options is None or "episode" not in options:
        return options
    return {**options, "episode": options["episode"] + row}
