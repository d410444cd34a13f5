"""The order of a stream: shuffled by a seed, and its tasks again after a long absence."""

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import TypeVar

from stillknows.envs.tasks import Task

T = TypeVar("T")


def arrange(items: Sequence[T], cycles: int = 1, order_seed: int | None = None) -> list[T]:
    """Return items in the order of a stream.

    Args:
        items: one a task.
        cycles: how often they come, each time in the same order.
        order_seed: shuffles them; None leaves them as they are.

    Raises:
        ValueError: if a number is not whole, or there is no cycle.
    """
    if not isinstance(cycles, int) or cycles < 1:
        raise ValueError(f"stream.cycles={cycles}: give a whole number of at least 1.")
    if order_seed is not None and not isinstance(order_seed, int):
        raise ValueError(f"stream.order_seed={order_seed}: give a whole number, or null.")
    order = list(items)
    if order_seed is not None:
        Random(order_seed).shuffle(order)
    return order * cycles


def returning(tasks: Sequence[Task]) -> list[Task]:
    """Return tasks whose names tell apart those that return: `kinship`, then `kinship (2)`."""
    met: Counter[str] = Counter()
    named = []
    for task in tasks:
        met[task.name] += 1
        again = met[task.name] > 1
        named.append(task._replace(name=f"{task.name} ({met[task.name]})") if again else task)
    return named


def expect_distinct(tasks: Sequence[Task]) -> None:
    """Raise a ValueError if there is no task, or two have one name."""
    if not tasks:
        raise ValueError("The stream has no tasks: name some.")
    name, times = Counter(task.name for task in tasks).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"The stream names {name} {times} times: name it once, and let the tasks return with "
            f"stream.cycles={times}."
        )
