"""The best that a memory could have kept, for one who knows what will be asked.

A trace says when items are offered and which of them each question stands on. What is best under a
budget of slots is found by integer programming (HiGHS, through SciPy): exact, also for questions
with several supports, where Belady's rule and flows are not. Items cannot be fetched again, and are
not merged. No policy that learns sees any of this.

Letters: B rows, T items, N slots.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array
from torch import Tensor

from stillknows.envs.text import Story
from stillknows.memory import expect
from stillknows.memory.interface import Decision, Features, written


class Need(NamedTuple):
    """A question.

    Attributes:
        after: how many items were offered before it.
        items: which of them it stands on.
    """

    after: int
    items: frozenset[int]


class Trace(NamedTuple):
    """How many items an episode offers, one after another, and what it asks in between."""

    items: int
    needs: tuple[Need, ...]


class Keeping(NamedTuple):
    """A plan.

    Attributes:
        met: how many needs are met, each by all of its items.
        until: for each item, after how many items it may leave; one that is not worth writing may
            leave at once.
    """

    met: int
    until: tuple[int, ...]


def trace_of(story: Story) -> Trace:
    """Return the trace of a story; questions that stand on earlier episodes are left out."""
    number: dict[int, int] = {}
    needs = []
    for step, answer in enumerate(story.answers):
        if answer is None:
            number[step] = len(number)
        elif all(episode == story.episode for episode, _ in answer.supports):
            items = frozenset(number[step] for _, step in answer.supports)
            needs.append(Need(len(number), items))
    return Trace(len(number), tuple(needs))


def best_keeping(trace: Trace, capacity: int) -> Keeping:
    """Return the plan that meets most needs with so many slots.

    The unknowns are, for each item and each need that stands on it, whether the item is kept until
    then, and for each need, whether it is met. An item is kept for a need only if it was kept for
    those before (nothing is fetched again), a need is met only if all its items are kept for it,
    and after each item that is offered no more are kept than there are slots.

    Args:
        trace: what is offered and asked.
        capacity: slots, at least 1.

    Raises:
        ValueError: if there is no slot.
    """
    expect.whole(1, capacity=capacity)
    kept: dict[tuple[int, int], int] = {}  # (item, need) -> unknown
    for number, need in enumerate(trace.needs):
        kept.update({(item, number): len(kept) + place for place, item in enumerate(need.items)})
    met = len(kept)  # the unknowns behind: is need n met?
    rows = _orders(kept) + [
        ({met + number: 1.0, unknown: -1.0}, 0.0) for (_, number), unknown in kept.items()
    ]
    rows += _loads(trace, kept, float(capacity))
    unknowns = met + len(trace.needs)
    if not trace.needs:
        return Keeping(0, (0,) * trace.items)
    gain = np.zeros(unknowns)
    gain[met:] = -1.0
    gain[:met] = 1e-6  # nothing is kept in vain
    found = milp(
        gain,
        constraints=_constraints(rows, unknowns),
        integrality=np.ones(unknowns),
        bounds=Bounds(0, 1),
    )
    chosen = np.round(found.x).astype(bool)
    until = [0] * trace.items
    for (item, number), unknown in kept.items():
        if chosen[unknown]:
            until[item] = max(until[item], trace.needs[number].after)
    return Keeping(int(chosen[met:].sum()), tuple(until))


def _orders(kept: dict[tuple[int, int], int]) -> list[tuple[dict[int, float], float]]:
    """Return that what is kept for a need was kept for the item's needs before: rows `a x <= b`."""
    rows = []
    last: dict[int, int] = {}
    for (item, _), unknown in kept.items():
        if item in last:
            rows.append(({unknown: 1.0, last[item]: -1.0}, 0.0))
        last[item] = unknown
    return rows


def _loads(
    trace: Trace, kept: dict[tuple[int, int], int], capacity: float
) -> list[tuple[dict[int, float], float]]:
    """Return that no more is kept than there is room for, after each item: rows `a x <= b`."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for (item, number), unknown in kept.items():
        spans.setdefault(item, []).append((trace.needs[number].after, unknown))
    rows = []
    for offered in range(1, trace.items + 1):
        load = {}
        for item, needs in spans.items():
            ahead = [unknown for after, unknown in needs if after >= offered]
            if item < offered and ahead:
                load[ahead[0]] = 1.0
        rows.append((load, capacity))
    return rows


def _constraints(rows: list[tuple[dict[int, float], float]], unknowns: int) -> LinearConstraint:
    filled = [(entries, bound) for entries, bound in rows if entries]
    values = [value for entries, _ in filled for value in entries.values()]
    columns = [unknown for entries, _ in filled for unknown in entries]
    places = [row for row, (entries, _) in enumerate(filled) for _ in entries]
    matrix = coo_array((values, (places, columns)), shape=(len(filled), unknowns))
    return LinearConstraint(matrix.tocsr(), ub=np.array([bound for _, bound in filled]))


Futures = Callable[[Story, int], Sequence[Story]]


def expected_needs(stories: Sequence[Story], futures: Futures) -> Tensor:
    """Return how many of the questions to come stand on each item, on average over futures.

    Args:
        stories: what is told.
        futures: of a story, told up to a number of statements: ways in which it may go on.

    Returns:
        For each story, number of statements told and item: `[B, T + 1, T]`.
    """
    traces = [trace_of(story) for story in stories]
    longest = max(trace.items for trace in traces)
    expected_BTT = torch.zeros(len(stories), longest + 1, longest)
    for row, (story, trace) in enumerate(zip(stories, traces, strict=True)):
        for told in range(1, trace.items + 1):
            ways = futures(story, told)
            for way in ways:
                for need in trace_of(way).needs:
                    known = [item for item in need.items if item < told]
                    if need.after >= told:
                        expected_BTT[row, told, known] += 1 / len(ways)
    return expected_BTT


class Expecting:
    """A policy that knows how stories go on in general: what is least needed from now on leaves.

    Among equals the oldest leaves, and while there is room everything is written.

    It is causal, and where each question stands on one item, the best there is but for what a
    longer plan could gain; where questions stand on several, it counts each of them alone.

    Args:
        expected_BTT: `expected_needs` of the rows, in their order.
    """

    needs_similarity = False
    needs_noise = False

    def __init__(self, expected_BTT: Tensor) -> None:
        self.expected_BTT = expected_BTT

    def decide(self, features: Features) -> Decision:
        """Return one-hot decisions."""
        seen_B, rows_B = features.seen_B, torch.arange(len(features.seen_B))
        told_B = (seen_B + 1).clamp(max=self.expected_BTT.shape[1] - 1)
        need_BT = self.expected_BTT.to(features.age_BN.device)[rows_B, told_B]
        items = need_BT.shape[1]
        born_BN = (seen_B[:, None] - features.age_BN.long()).clamp(0, items - 1)
        held_BN = need_BT.gather(1, born_BN) - 1e-6 * features.age_BN
        held_BN = held_BN.masked_fill(~features.filled_BN, torch.inf)
        own_B = need_BT.gather(1, seen_B[:, None].clamp(max=items - 1))[:, 0]
        full_B = features.filled_BN.all(dim=1)
        kept_B = ~full_B | (own_B >= held_BN.amin(dim=1))
        return written(features, kept_B, -held_BN)


class Clairvoyant:
    """A policy that follows a plan for each row: what will not be needed any more leaves first.

    While there is room everything is written.

    Args:
        plans: of the rows, in their order; each decision is asked for all of them.
    """

    needs_similarity = False
    needs_noise = False

    def __init__(self, plans: Sequence[Keeping]) -> None:
        longest = max(len(plan.until) for plan in plans)
        self.until_BT = torch.tensor(
            [[*plan.until, *[0] * (longest + 1 - len(plan.until))] for plan in plans]
        )

    def decide(self, features: Features) -> Decision:
        """Return one-hot decisions."""
        seen_B1 = features.seen_B[:, None]
        until_BT = self.until_BT.to(seen_B1.device)
        wanted_B = until_BT.gather(1, seen_B1)[:, 0] > features.seen_B
        born_BN = (seen_B1 - features.age_BN.long()).clamp(min=0)
        until_BN = until_BT.gather(1, born_BN)
        full_B = features.filled_BN.all(dim=1)
        return written(features, wanted_B | ~full_B, -until_BN.float())
