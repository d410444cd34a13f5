"""Variants of a task's examination that ask how far what was learned goes.

The words of a variant are in the vocabulary; they were never met in this place in training.
"""

from collections.abc import Callable, Mapping
from typing import Any

from stillknows.envs import MICROWORLD
from stillknows.envs.recall import ID as RECALL
from stillknows.envs.tasks import Task

Arguments = Mapping[str, Any]
LONGER = 2  # times as many statements, or as far


def _with_unseen_names(task: Task) -> Arguments | None:
    """Return an examination about people and things (for routes: places) of no training story."""
    return {**task.exam, "names": "unseen"} if task.id in MICROWORLD else None


def _longer(task: Task) -> Arguments | None:
    """Return an examination with stories twice as long."""
    if task.id in MICROWORLD:
        return {**task.exam, "length_factor": LONGER * task.exam.get("length_factor", 1.0)}
    if task.id == RECALL:
        return {**task.exam, "distance": LONGER * task.exam.get("distance", 10)}
    return None


VARIANTS: dict[str, Callable[[Task], Arguments | None]] = {
    "names": _with_unseen_names,
    "longer": _longer,
}


def variant(task: Task, name: str) -> Task | None:
    """Return a task with another examination, None where its environment has no such variant.

    Args:
        task: whose training stays as it is.
        name: a key of `VARIANTS`.
    """
    exam = VARIANTS[name](task)
    return None if exam is None else task._replace(exam=exam)
