"""Statistics of arms over lifetimes: intervals, paired comparisons, and every metric in a table.

A table is a head and its rows. Lifetimes are paired by seed and order.
"""

import math
from collections.abc import Mapping, Sequence

from stillknows.agents.reports.lives import Life
from stillknows.agents.reports.references import NAMES as REFERENCED
from stillknows.envs.measures.intervals import (
    Interval,
    interval,
    paired_difference,
    probability_of_improvement,
)
from stillknows.envs.measures.metrics import METRICS
from stillknows.envs.measures.ranks import rank_stability

Arms = Mapping[str, Sequence[Life]]
Table = tuple[list[str], list[list[str]]]

SCORES = (
    *METRICS,
    *REFERENCED,
    "libero_forward_transfer",
    "libero_area",
    "by_token",
    "of_this_episode",
    "carried",
    "recall_gain",
    "recall_gain_normalised",
    "area",
    "loss_of_area",
    "dormant_0.0",
    "dormant_0.025",
    "dormant_0.1",
    "effective_rank",
)
COSTS = ("updates", "steps", "seconds", "memory_bytes", "parameters")


def metric_interval(lives: Sequence[Life], metric: str) -> Interval:
    """Return the mean of a metric over lifetimes and its interval."""
    return interval([life.metrics[metric] for life in lives])


def paired(ours: Sequence[Life], theirs: Sequence[Life], metric: str) -> Interval:
    """Return the interval of our metric less theirs, over the lifetimes that have a pair."""
    return paired_difference(*_pairs(ours, theirs, metric))


def improvement(ours: Sequence[Life], theirs: Sequence[Life], metric: str) -> Interval:
    """Return the probability that a lifetime of ours is better than its pair."""
    return probability_of_improvement(*_pairs(ours, theirs, metric))


def all_metrics(arms: Arms) -> Table:
    """Return a row for each metric that any arm has, a column for each arm."""
    rows = [["protocol", *(lives[0].protocol for lives in arms.values())]]
    rows.append(["n", *(str(len(lives)) for lives in arms.values())])
    for metric in (*SCORES, *COSTS):
        found = [metric_interval(lives, metric) for lives in arms.values()]
        if any(each.n for each in found):
            cells = map(_amount if metric in COSTS else str, found)
            rows.append([f"`{metric}`", *cells])
    return ["metric", *arms], rows


def stability(arms: Arms) -> Table | None:
    """Return Kendall's tau of the arms' ranking at each cut; None if no stream is cut.

    Arms that learn one task after another are ranked, references are not.
    """
    ranked = {
        name: [(life.matrix, life.trained) for life in lives]
        for name, lives in arms.items()
        if lives[0].protocol not in ("joint", "scratch")
    }
    found = rank_stability(ranked)
    if not found:
        return None
    return ["after tasks", *map(str, found)], [
        [
            "Kendall's tau with the whole",
            *("–" if math.isnan(tau) else f"{tau:.3f}" for tau in found.values()),
        ]
    ]


def overall(streams: Mapping[str, Arms]) -> Table:
    """Return the average accuracy of each arm in each stream; nothing is averaged over streams."""
    names = dict.fromkeys(name for arms in streams.values() for name in arms)
    rows = []
    for name in names:
        found = [
            metric_interval(arms[name], "average_accuracy") if name in arms else interval([])
            for arms in streams.values()
        ]
        rows.append([name, *(f"{each} (n = {each.n})" if each.n else "–" for each in found)])
    return ["average accuracy", *streams], rows


def _pairs(
    ours: Sequence[Life], theirs: Sequence[Life], metric: str
) -> tuple[list[float], list[float]]:
    """Return the values of the lifetimes that have a pair, in the same order."""
    there = {life.pair: life.metrics[metric] for life in theirs}
    both = [(life.metrics[metric], there[life.pair]) for life in ours if life.pair in there]
    return [a for a, _ in both], [b for _, b in both]


def _amount(found: Interval) -> str:
    """Return `mean [low, high]` of a large number without decimals."""
    if found.n == 0:
        return "–"
    bounds = "" if found.low != found.low else f" [{found.low:,.0f}, {found.high:,.0f}]"
    return f"{found.mean:,.0f}{bounds}"
