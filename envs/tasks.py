"""What a stream is made of: tasks, each a Gymnasium environment to train in and one to examine.

This file knows nothing of Avalanche (see `streams.py`) and nothing of agents.
"""

import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv

from stillknows.envs.side_by_side import TextVectorEnv

# Editions of stories, by who makes their tasks: raised where the same seed begins to tell others.
EDITIONS = {"generated": 3, "recall": 3, "reasoning_gym": 3}
EDITION = 2  # of all whom EDITIONS does not name
TextVector = VectorEnv[tuple[str, ...], tuple[str, ...], np.ndarray]


class Task(NamedTuple):
    """One task of a stream.

    Attributes:
        name: what reports call it.
        id: its Gymnasium id.
        train: constructor arguments of the environment that is trained in.
        exam: constructor arguments of the one that examines.
        exam_stories: how many different stories it examines with; None if they never end.
        source: where the stories come from, for the report; "" if they are generated.
        needs: skills and facts that its questions stand on, where that is known.
        gives: skills and facts that can be learned in it.
    """

    name: str
    id: str
    train: Mapping[str, Any]
    exam: Mapping[str, Any]
    exam_stories: int | None = None
    source: str = ""
    needs: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()


def gymnasium_tasks(
    ids: Sequence[str],
    train: Mapping[str, Any] | None = None,
    exam: Mapping[str, Any] | None = None,
) -> list[Task]:
    """Return the tasks of any text environments that `gymnasium.make` knows.

    Args:
        ids: Gymnasium ids, `module:Name-v0` where a module must be imported first.
        train: constructor arguments of all of them in training.
        exam: the same in examinations; those of training where left out.
    """
    train = dict(train or {})
    exam = train if exam is None else dict(exam)
    return [Task(id.split(":")[-1].removesuffix("-v0"), id, train, exam) for id in ids]


def dials_of(place: str, given: Any, fixed: Sequence[str] = ()) -> dict[str, Any]:
    """Return the dials that are given at a place of a stream's tasks, none for null.

    Args:
        place: what sentences call it, such as `own.route`.
        given: names and values.
        fixed: names that are not to be given: the stream says what they are.

    Raises:
        ValueError: if they are no names and values, or one of them is fixed.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(f"{place}={given} should be dials, as {{sentences: 12}}.")
    for name in fixed:
        if name in given:
            raise ValueError(
                f"{name}={given[name]}: a stream says itself which {name} it trains and examines "
                f"with; leave {name} out."
            )
    return dict(given)


def edition_of(makers: Iterable[str]) -> int:
    """Return the edition of stories whose tasks some functions make, by their full names."""
    modules = [maker.split(".")[-2:][0] for maker in makers]
    return max((EDITIONS.get(module, EDITION) for module in modules), default=EDITION)


def suggest(word: str, known: Sequence[str]) -> str:
    """Return `Did you mean …?` for a misspelled word, or the list of what is known."""
    close = difflib.get_close_matches(str(word), known, n=1)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."


def vocabulary(tasks: Sequence[Task]) -> tuple[str, ...]:
    """Return every word that any of the tasks can say or expect, sorted."""
    words: set[str] = set()
    for task in tasks:
        for arguments in (task.train, task.exam):
            env = make(task, 1, arguments)
            declared = getattr(env, "vocabulary", None)
            words.update(declared if declared is not None else _heard(env))
            env.close()
    return tuple(sorted(words))


def make(task: Task, rows: int, arguments: Mapping[str, Any]) -> TextVector:
    """Return `rows` environments of a task side by side.

    They are native where the task has a vector of its own whose rows are reset together.

    Raises:
        ValueError: if the id is unknown, it cannot be made so, or its spaces are not text.
    """
    spec = spec_of(task.id)
    with making(task.id, arguments):
        envs = _native(spec, rows, arguments) or _plain(spec, rows, arguments)
    for space in (envs.single_observation_space, envs.single_action_space):
        if not isinstance(space, spaces.Text):
            raise ValueError(
                f"{task.id} has the space {space}; this agent reads and writes only "
                "gymnasium.spaces.Text: wrap the environment so that it speaks in sentences."
            )
    return envs


def _native(spec: EnvSpec, rows: int, arguments: Mapping[str, Any]) -> TextVector | None:
    """Return a task's own vector, None where it has none, or rows begin anew by themselves."""
    if spec.vector_entry_point is None:
        return None
    mode = "vector_entry_point"
    envs = gymnasium.make_vec(spec, rows, vectorization_mode=mode, **arguments)
    if spec.entry_point is None or envs.metadata.get("autoreset_mode") is AutoresetMode.DISABLED:
        return envs
    envs.close()
    return None


def _plain(spec: EnvSpec, rows: int, arguments: Mapping[str, Any]) -> TextVector:
    rest = {"disable_env_checker": True, **arguments}
    return TextVectorEnv([gymnasium.make(spec, **rest) for _ in range(rows)])


@contextmanager
def making(name: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Tell in one sentence what goes wrong where an environment is made.

    Raises:
        ValueError: if anything but a ValueError, which tells itself, is raised.
    """
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"{name} cannot be made with {dict(arguments)}: {said}.") from error


def spec_of(id: str) -> EnvSpec:
    """Return what Gymnasium knows of an id, after importing the module named before a colon."""
    module, _, name = id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gymnasium.spec(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{id}: there is no module '{error.name}'; put its folder on PYTHONPATH."
        ) from error
    except gymnasium.error.Error as error:
        ours = [known for known in gymnasium.registry if known.startswith("stillknows/")]
        raise ValueError(f"There is no environment '{name}'. {suggest(name, ours)}") from error


def _heard(env: TextVector, episodes: int = 32) -> set[str]:
    """Return the words met in some episodes, for environments that declare no vocabulary."""
    words: set[str] = set()
    for seed in range(episodes):
        observations, info = env.reset(seed=seed)
        ended = np.zeros(env.num_envs, dtype=bool)
        while not ended.all():
            words.update(observations[0].split())
            observations, _, terminated, truncated, info = env.step(("",) * env.num_envs)
            ended = terminated | truncated
            words.update(str(info["target"][0]).split() if "target" in info else ())
    return words
