"""Examinations in control tasks: whole episodes, in environments with seeds of their own.

Nothing of the agent changes: its core begins afresh with every episode, its stores are frozen, and
what is drawn comes from a generator of the examination. A score is how far a return is on the way
from that of random actions, 0, to a reference, 1; it may lie beyond either.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from stillknows.agents.acting.players import Player
from stillknows.envs.control import ControlTask, Ended, Episodes, Fault, episode_seed


class Examined(NamedTuple):
    """What an examination found, an entry an episode.

    Attributes:
        returns: sums of rewards.
        lengths: steps.
        successes: whether each succeeded; one that does not say did not; empty where none says.
        faults: episodes that broke, and were begun anew with another seed.
    """

    returns: list[float]
    lengths: list[int]
    successes: list[int]
    faults: list[Fault]


def examine_control(
    player: Player, task: ControlTask, *, episodes: int, rows: int, seed: int, retries: int = 3
) -> Examined:
    """Let a player act in a task's examination.

    Args:
        player: who acts.
        task: its `exam` arguments make the environments.
        episodes: how many.
        rows: how many are acted in side by side; changes no return, unless actions are drawn.
        seed: of the lifetime; the same examination has the same episodes every time.
        retries: how often an episode that breaks is begun anew.

    Raises:
        ValueError: if one breaks more often.
    """
    found: list[Ended] = []
    faults: list[Fault] = []
    for first in range(0, episodes, rows):
        left, attempt = list(range(first, min(episodes, first + rows))), 0
        while left:
            ended, broken = _play(player, task, left, seed, attempt, retries)
            found += ended.values()
            faults += broken
            left, attempt = [number for number in left if number not in ended], attempt + 1
            if left and attempt > retries:
                raise ValueError(
                    f"{task.name} broke {attempt} times in an episode of its examination "
                    f"({broken[-1].reason}): what was lived is in the log."
                )
    found.sort(key=lambda each: each.number)
    told = any(each.success is not None for each in found)
    success = [int(bool(each.success)) for each in found] if told else []
    return Examined(
        [each.total for each in found], [each.length for each in found], success, faults
    )


def score(total: float, floor: float, reference: float) -> float:
    """Return how far a return is on the way from the floor, 0, to the reference, 1."""
    return (total - floor) / (reference - floor)


def _play(
    player: Player,
    task: ControlTask,
    numbers: Sequence[int],
    seed: int,
    attempt: int,
    retries: int,
) -> tuple[dict[int, Ended], list[Fault]]:
    """Act in episodes side by side; return those that came to their end, and those that broke."""
    rows = [
        Episodes(task, task.exam, partial(_seed, seed, attempt, number), retries)
        for number in numbers
    ]
    seen = [row.reset()[0] for row in rows]
    player.begin(len(rows), np.array(numbers, dtype=np.int64))
    over = [False] * len(rows)
    while not all(over):
        actions = player.act(np.stack(seen))
        for place, row in enumerate(rows):
            if not over[place]:
                seen[place], _, terminated, truncated, _ = row.step(actions[place])
                over[place] = terminated or truncated
    for row in rows:
        row.close()
    ended = {n: row.ended[0]._replace(number=n)
             for n, row in zip(numbers, rows, strict=True) if row.ended}  # fmt: skip
    faults = [fault._replace(number=n)
              for n, row in zip(numbers, rows, strict=True) for fault in row.faults]  # fmt: skip
    return ended, faults


def _seed(seed: int, attempt: int, number: int, resets: int) -> int:
    """Return the seed of an examination's episode, another one for each time it is begun anew."""
    return episode_seed(seed, attempt + 1000 * resets, number, exam=True)
