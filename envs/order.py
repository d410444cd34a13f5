"""The order of a stream: shuffled by a seed, its tasks again after a long absence, or for ever."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from random import Random
from typing import TypeVar

import numpy as np

from stillknows.envs.tasks import Task

T = TypeVar("T")


def arrange(items: Sequence[T], cycles: int = 1, order_seed: int | None = None) -> list[T]:
    """Return items in the order of a stream.

    Args:
        items: one a task.
        cycles: how often they come, each time in the same order.
        order_seed: shuffles them; None leaves them as they are.

    Raises:
        ValueError: if a number is not whole or below 0, or there is no cycle.
    """
    if not isinstance(cycles, int) or cycles < 1:
        raise ValueError(f"stream.cycles={cycles}: give a whole number of at least 1.")
    if order_seed is not None and (not isinstance(order_seed, int) or order_seed < 0):
        raise ValueError(f"stream.order_seed={order_seed}: give a whole number from 0 on, or null.")
    order = list(items)
    if order_seed is not None:
        Random(order_seed).shuffle(order)
    return order * cycles


def task_order(tasks: int, order: int) -> list[int]:
    """Return the places of tasks in an order of a stream; no two orders are the same.

    Args:
        tasks: how many there are.
        order: 0 is the order as written, the others are drawn, the same ones every time.

    Raises:
        ValueError: if the tasks have fewer orders.
    """
    if not isinstance(order, int) or order < 0 or order >= math.factorial(tasks):
        raise ValueError(
            f"order={order}: {tasks} tasks have {math.factorial(tasks)} orders, from 0 on."
        )
    drawn = np.random.default_rng(0)
    known = {tuple(range(tasks)): None}
    while len(known) <= order:
        known[tuple(drawn.permutation(tasks).tolist())] = None
    return list(list(known)[order])


def places_of(lived: Sequence[int], written: Sequence[int]) -> list[int]:
    """Return where each task as lived stands in the stream as written.

    Args:
        lived: numbers of the tasks; one that returns has its number again.
        written: the same numbers in another order.
    """
    free: dict[int, list[int]] = {}
    for place, number in enumerate(written):
        free.setdefault(number, []).append(place)
    return [free[number].pop(0) for number in lived]


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


def places(
    order: str | Sequence[int] | None, tasks: int, seed: int, most: int | None = None
) -> Iterator[int]:
    """Yield the task of each experience, by its place.

    Args:
        order: None, one after the other; `shuffled`, each once, by the seed; `endless`, any but
            the last one, by the seed, for ever; or the places themselves, which may come again.
        tasks: how many there are.
        seed: of the order.
        most: how many experiences there are at most.

    Raises:
        ValueError: if the order is none of these, or names a task that is not there.
    """
    if most is not None and (not isinstance(most, int) or most < 0):
        raise ValueError(f"stream.experiences={most}: give a whole number from 0 on, or null.")
    if order == "endless" and tasks > 1:
        return islice(_drawn(tasks, seed), most)
    if order == "shuffled":
        order = [int(place) for place in np.random.default_rng(seed).permutation(tasks)]
    if order == "endless":
        return islice(repeat(0), most)
    if isinstance(order, str | int | float):
        raise ValueError(f"stream.order={order}: choose null, shuffled, endless or a list.")
    listed = list(range(tasks)) if order is None else list(order)
    if not all(isinstance(place, int) and 0 <= place < tasks for place in listed):
        raise ValueError(f"stream.order={listed} names places from 0 to {tasks - 1}.")
    return islice(listed, most)


def _drawn(tasks: int, seed: int) -> Iterator[int]:
    """Yield places for ever, none twice in a row."""
    random = np.random.default_rng(seed)
    place = int(random.integers(tasks))
    while True:
        yield place
        place = (place + int(random.integers(1, tasks))) % tasks
