"""Any plain text environments side by side, for those without a vector of their own.

What an environment does wrong is told in one sentence that names it. This file knows nothing of how
stories are written.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from stillknows.envs.text import row_seeds
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
_COLUMNS = (((bool, np.bool_), bool), ((int, np.integer), int), ((float, np.floating), float))


class TextVectorEnv(VectorEnv[tuple[str, ...], tuple[str, ...], np.ndarray]):
    """Any plain text environments side by side, for those without a vector of their own.

    Rows that have ended say "" until all are reset together, and stay terminated or truncated;
    reset seeds row b with `seed + b`.

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

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], Info]:
        """Begin an episode in every row."""
        seeds = row_seeds(seed, self.num_envs)
        pairs = [
            _begun(env, s, _for_row(options, row))
            for row, (env, s) in enumerate(zip(self.envs, seeds, strict=True))
        ]
        self._terminated = np.zeros(self.num_envs, dtype=bool)
        self._truncated = np.zeros(self.num_envs, dtype=bool)
        self._infos = [info for _, info in pairs]
        return tuple(observation for observation, _ in pairs), gather(self._infos)

    def step(
        self, actions: Sequence[str]
    ) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray, Info]:
        """Step every row that has not ended."""
        observations, rewards = [""] * self.num_envs, np.zeros(self.num_envs)
        infos = [{**info, "question": False} for info in self._infos]
        for row in np.flatnonzero(~(self._terminated | self._truncated)).tolist():
            observation, reward, ended, cut, info = _stepped(self.envs[row], actions[row])
            over = ended or cut
            observations[row], rewards[row] = "" if over else observation, reward
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
    all else, what is of mixed kinds included, becomes an array of objects, with None.
    """
    joined: Info = {}
    for key in {key: None for info in infos for key in info}:
        present = [info[key] for info in infos if key in info]
        dtype: type = next((d for kind, d in _COLUMNS if _all_are(kind, present)), object)
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
        ValueError: if it raises, or does not return an observation and an info.
    """
    try:
        observation, info = env.reset(seed=seed, options=options)
        return observation, dict(info)
    except _FAULTS as error:
        if _tells_itself(env):
            raise
        raise ValueError(
            f"{_name(env)} raised {type(error).__name__} in reset(seed=…, options=…), which "
            f"returns an observation and an info: {error}."
        ) from error


def _stepped(env: gymnasium.Env[str, str], action: str) -> tuple[str, float, bool, bool, Info]:
    """Return what an environment says to an answer.

    Raises:
        ValueError: if it raises, or does not return five things.
    """
    try:
        observation, reward, ended, cut, info = env.step(action)
        return observation, float(reward), ended, cut, dict(info)
    except _FAULTS as error:
        if _tells_itself(env):
            raise
        raise ValueError(
            f"{_name(env)} raised {type(error).__name__} in step({action!r}), which returns "
            f"an observation, a reward, whether it ended or was cut, and an info: {error}."
        ) from error


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
