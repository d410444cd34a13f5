"""Re-use: which earlier task gave what a later one needs, and how much can transfer at best.

What a task needs and gives (`Task.needs`, `Task.gives`) are names of skills and of facts with their
values: a fact that is told anew with another value is another fact. This file knows no task.
"""

from collections.abc import Sequence
from typing import NamedTuple

Names = Sequence[Sequence[str]]  # of each task, in the order of the stream


class Edge(NamedTuple):
    """A task that gave something, a later one that needs it, and what that is."""

    giver: int
    user: int
    what: str


def reuse_graph(needs: Names, gives: Names) -> list[Edge]:
    """Return the edges from each task to those that need what it was the last before them to give.

    Args:
        needs: of each task, in the order of the stream.
        gives: of each task.
    """
    givers: dict[str, int] = {}
    edges = []
    for user, (needed, given) in enumerate(zip(needs, gives, strict=True)):
        edges += [Edge(givers[what], user, what) for what in needed if what in givers]
        givers.update(dict.fromkeys(given, user))
    return edges


def ideal_transfer(needs: Names, gives: Names) -> list[float]:
    """Return the share of each task's needs that earlier tasks gave, NaN where it needs nothing.

    Who kept everything could answer that share of the task's skills and facts before meeting it.

    Args:
        needs: of each task, in the order of the stream.
        gives: of each task.
    """
    edges = reuse_graph(needs, gives)
    return [
        len({edge.what for edge in edges if edge.user == user}) / len(set(needed))
        if needed
        else float("nan")
        for user, needed in enumerate(needs)
    ]
