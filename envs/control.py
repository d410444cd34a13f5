"""Control tasks: any Gymnasium environment as a task of a stream, with guards around its episodes.

A task is an id that `gymnasium.make` knows, or a constructor; its observations arrive as flat
finite numbers (`observed.py`). Every episode has a seed of its own, so where an environment
stands is data: the number of its episode and the actions since it began. An environment that
raises, or that gives a number which is none, has its episode cut and begun anew with another seed,
so many times in a row, and no more.

This file knows nothing of agents and nothing of streams.
"""

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from stillknows.envs.observed import Floats, flat, readable
from stillknows.envs.tasks import Task, gymnasium_tasks, making, spec_of, suggest

Env = gymnasium.Env[Any, Any]

FAMILIES = {"MiniGrid": "minigrid", "BabyAI": "minigrid", "popgym": "popgym"}
_BEST = {"minigrid": 1.0, "popgym": 1.0}  # the best return of an episode, by their definition
_SEEDS = 2**30  # of training below it, of examinations from it on
_OWN = ("id", "_target_", "name", "reference", "max_episode_steps", "exam")


class ControlTask(NamedTuple):
    """One task of a stream that is acted in.

    Attributes:
        name: what reports call it.
        id: its Gymnasium id, or `module.Class` of its constructor.
        train: constructor arguments of the environment that is trained in.
        exam: constructor arguments of the one that examines.
        reference: the return that scores 1.
        max_episode_steps: an episode is cut after so many, if its own limit is not lower.
        constructed: whether `id` is a constructor.
        exam_stories: examinations never end: None.
        source: where the reference comes from, for the report.
    """

    name: str
    id: str
    train: Mapping[str, Any]
    exam: Mapping[str, Any]
    reference: float
    max_episode_steps: int
    constructed: bool = False
    exam_stories: int | None = None
    source: str = ""


class Ended(NamedTuple):
    """An episode that came to its end.

    Attributes:
        number: of the episode, in its row.
        total: sum of its rewards.
        length: its steps.
        success: whether it succeeded, None where the environment does not say.
    """

    number: int
    total: float
    length: int
    success: bool | None


class Fault(NamedTuple):
    """An episode that broke: its number in its row, the steps until then, and why."""

    number: int
    step: int
    reason: str


def control_tasks(
    ids: Sequence[str | Mapping[str, Any]],
    max_episode_steps: int = 1000,
    references: Mapping[str, float] | None = None,
) -> list[Task | ControlTask]:
    """Return the tasks of any environments that Gymnasium knows, or that a constructor makes.

    One whose observations and actions are both text is a text task. The others are scored between
    a random policy and a reference: the one given, the threshold of the environment's spec, or
    the best return by definition (MiniGrid, BabyAI and POPGym: 1).

    Args:
        ids: Gymnasium ids, `module:Name-v0` where a module must be imported first; or mappings
            with `id` or `_target_` (a class, or a function that returns an environment), and if
            wanted `name`, `reference`, `max_episode_steps`, `exam` (arguments that differ in
            examinations); what else they hold are constructor arguments.
        max_episode_steps: an episode is cut after so many, if its own limit is not lower.
        references: returns that score 1, by name or id.

    Raises:
        ValueError: if there is no such environment, two have the same name, one has no reference,
            or its spaces are of a kind that nothing here reads or moves.
    """
    tasks = [
        _task(dict(entry) if isinstance(entry, Mapping) else {"id": entry}, max_episode_steps,
              references or {})
        for entry in ids
    ]  # fmt: skip
    names = [task.name for task in tasks]
    for name in references or {}:
        if name not in {*names, *(task.id for task in tasks)}:
            raise ValueError(f"stream.tasks.references names {name}. {suggest(name, names)}")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Two tasks are called {name}: give one another name, or let it come again by "
                "stream.order."
            )
    return tasks


def spaces_of(task: ControlTask) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Return the spaces of a task's observations, as they are read, and of its actions.

    Raises:
        ValueError: if the examination's are others, or nothing here reads or moves such spaces.
    """
    met = []
    for arguments in (task.train, task.exam):
        env = build(task, arguments)
        met.append((readable(env.observation_space, _is_grid(task.id)), env.action_space))
        env.close()
    if met[0] != met[1]:
        raise ValueError(f"{task.name} is examined with other spaces than it is trained with.")
    if not isinstance(
        met[0][1], spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary | spaces.Box
    ):
        raise ValueError(
            f"{task.name} has the action space {met[0][1]}: an agent here moves Discrete, "
            "MultiDiscrete, MultiBinary and Box; wrap the environment so that it has one of them."
        )
    return met[0]


def build(task: ControlTask, arguments: Mapping[str, Any]) -> Env:
    """Return one plain environment of a task.

    Raises:
        ValueError: if it cannot be made with such arguments.
    """
    with making(task.id, arguments):
        if task.constructed:
            made: Env = _located(task.id)(**arguments)
            return gymnasium.wrappers.TimeLimit(made, task.max_episode_steps)
        spec = spec_of(task.id)
        limit = min(spec.max_episode_steps or task.max_episode_steps, task.max_episode_steps)
        return gymnasium.make(spec, limit, disable_env_checker=True, **arguments)


class Episodes(gymnasium.Env[Floats, Any]):
    """One row of a task: its episodes one after the other, each with a seed of its own.

    Observations are flat. A fault cuts the episode (`truncated`), and makes the environment anew.

    Args:
        task: whose.
        arguments: of its constructor.
        seed_of: the seed of an episode, by its number.
        retries: how many episodes in a row may break.

    Attributes:
        number: of the episode that is lived, from 0 on.
        actions: what was done in it so far.
        ended: episodes that came to their end, for whoever takes them from there.
        faults: episodes that broke, likewise.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        task: ControlTask,
        arguments: Mapping[str, Any],
        seed_of: Callable[[int], int],
        retries: int = 3,
    ) -> None:
        self.task, self.arguments, self.seed_of, self.retries = task, arguments, seed_of, retries
        self.env = build(task, arguments)
        self.read_as = readable(self.env.observation_space, _is_grid(task.id))
        self.observation_space = spaces.Box(
            -np.inf, np.inf, (spaces.flatdim(self.read_as),), np.float32
        )
        self.action_space = self.env.action_space
        self.number = -1
        self.actions: list[Any] = []
        self.ended: list[Ended] = []
        self.faults: list[Fault] = []
        self._total, self.broken = 0.0, 0
        self._seen = np.zeros(self.observation_space.shape, dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Begin the next episode, with the seed that is its own."""
        while True:
            self.number += 1
            self.actions, self._total = [], 0.0
            try:
                observation, _ = self.env.reset(seed=self.seed_of(self.number))
                self._seen = self._finite(observation)
            except Exception as error:  # noqa: BLE001 (whatever an environment raises)
                self._break(error)
            else:
                return self._seen, {}

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Take one step; one that breaks cuts the episode where it stood, with no reward."""
        self.actions.append(action)
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            seen, reward, info = self._finite(observation), float(reward), dict(info)
            if not np.isfinite(reward):
                raise ValueError(f"it gave the reward {reward}")
        except Exception as error:  # noqa: BLE001 (whatever an environment raises)
            self._break(error)
            return self._seen, 0.0, False, True, {}
        self._seen, self._total = seen, self._total + reward
        if terminated or truncated:
            self.broken = 0
            success = info.get("success", info.get("is_success"))
            known = None if success is None else bool(success)
            self.ended.append(Ended(self.number, self._total, len(self.actions), known))
        return seen, reward, bool(terminated), bool(truncated), {}

    def go_to(self, number: int, actions: Sequence[Any]) -> Floats:
        """Stand where an episode stood after some actions; return what is seen there."""
        self.number = number - 1
        seen, _ = self.reset()
        for action in actions:
            seen = self.step(action)[0]
        self.ended.clear()
        self.faults.clear()  # they were told before
        return seen

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _finite(self, observation: Any) -> Floats:
        seen = flat(self.read_as, observation)
        if seen.shape != self._seen.shape:
            raise ValueError(f"it gave {seen.size} numbers where its space has {self._seen.size}")
        if not np.isfinite(seen).all():
            raise ValueError("it gave an observation that is NaN or infinite")
        return seen

    def _break(self, error: Exception) -> None:
        """Keep a fault and make the environment anew; too many in a row are an error."""
        reason = f"{type(error).__name__}: {error}"
        self.faults.append(Fault(self.number, len(self.actions), reason))
        self.broken += 1
        if self.broken > self.retries:
            raise ValueError(
                f"{self.task.name} broke in {self.broken} episodes in a row, at last in step "
                f"{len(self.actions)} ({reason}): what was lived is in the log."
            ) from error
        with suppress(Exception):  # whatever is left of it
            self.env.close()
        self.env = build(self.task, self.arguments)


def side_by_side(
    task: ControlTask,
    rows: int,
    seed: int,
    retries: int = 3,
) -> SyncVectorEnv:
    """Return `rows` training environments of a task, each begun anew in the step it ends in.

    Args:
        task: whose.
        rows: B.
        seed: of all their episodes.
        retries: how many episodes in a row may break, in each.
    """

    def row_of(row: int) -> Callable[[], Episodes]:
        return lambda: Episodes(
            task, task.train, lambda number: episode_seed(seed, row, number), retries
        )

    return SyncVectorEnv([row_of(r) for r in range(rows)], autoreset_mode=AutoresetMode.SAME_STEP)


def episode_seed(seed: int, row: int, number: int, exam: bool = False) -> int:
    """Return the seed of an episode; none of training is one of an examination."""
    name = f"{seed} {row} {number} {exam}".encode()
    drawn = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") % _SEEDS
    return drawn + _SEEDS * exam


def _task(entry: dict[str, Any], most: int, references: Mapping[str, float]) -> Task | ControlTask:
    unknown = [key for key in entry if not isinstance(key, str)]
    if unknown or ("id" in entry) == ("_target_" in entry):
        raise ValueError(f"The task {entry} needs an id, or a constructor by _target_.")
    constructed = "_target_" in entry
    id = str(entry["_target_"] if constructed else entry["id"])
    if not constructed:
        _import_family(id)
    arguments = {key: value for key, value in entry.items() if key not in _OWN}
    differs = entry.get("exam") or {}
    if not isinstance(differs, Mapping):
        raise ValueError(f"{id}: exam={differs} should be arguments, as {{render_mode: null}}.")
    exam = {**arguments, **differs}
    name = str(entry.get("name", id.split(":")[-1].split(".")[-1]))
    limits = (most, entry.get("max_episode_steps", most))
    for limit in limits:
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise ValueError(
                f"{name}: max_episode_steps={limit} leaves no step; give a whole number from 1 on."
            )
    task = ControlTask(name, id, arguments, exam, 0.0, min(limits), constructed)
    env = build(task, arguments)
    texts = isinstance(env.observation_space, spaces.Text) + isinstance(
        env.action_space, spaces.Text
    )
    env.close()
    if texts == 2 and not constructed:
        (text,) = gymnasium_tasks([id], arguments, exam)
        return text._replace(name=name) if "name" in entry else text
    given = entry.get("reference", references.get(name, references.get(id)))
    return _with_reference(task, given)


def _with_reference(task: ControlTask, given: float | None) -> ControlTask:
    """Return a task with the return that scores 1, and where that is from."""
    if given is not None:
        if isinstance(given, bool) or not isinstance(given, int | float) or not np.isfinite(given):
            raise ValueError(f"{task.name}: reference={given!r} is no finite number: give one.")
        return task._replace(reference=float(given), source=f"return {given:g} scores 1, as given")
    threshold = None if task.constructed else spec_of(task.id).reward_threshold
    if threshold is not None:
        return task._replace(
            reference=float(threshold),
            source=f"return {threshold:g} scores 1, the threshold of its specification",
        )
    best = _BEST.get(_family(task.id) or "")
    if best is None:
        raise ValueError(
            f"{task.name} has no reward threshold, so its returns have no scale: give the return "
            f"that scores 1, for instance that of an agent trained in it alone, by "
            f"'+stream.tasks.references={{{task.name}: RETURN}}'."
        )
    return task._replace(reference=best, source=f"return {best:g} scores 1, the best there is")


def _family(id: str) -> str | None:
    """Return the module of a family of environments that its id names, if it does."""
    return FAMILIES.get(id.split(":")[-1].partition("-")[0])


def _is_grid(id: str) -> bool:
    return _family(id) == "minigrid"


def _import_family(id: str) -> None:
    module = _family(id)
    if module is None:
        return
    try:
        importlib.import_module(module)
    except ModuleNotFoundError:
        raise ValueError(f"{id} needs {module}: pip install 'stillknows[rl]'.") from None


def _located(path: str) -> Callable[..., Env]:
    """Return the class or function that `module.Name` names."""
    module, _, name = path.rpartition(".")
    try:
        made: Callable[..., Env] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"_target_: {path} names no constructor ({error}).") from None
    return made
