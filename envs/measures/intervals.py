"""Intervals over lifetimes: the unit is a life (seed and order), never a cell of its matrix.

Below 20 lifetimes Student's t, whose coverage holds there; from 20 on a bootstrap over lifetimes
(BCa). Two methods are compared by the paired difference over the seeds and orders they share.
benchmarks/coverage.py measures how often these intervals cover.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

BOOTSTRAP_FROM = 20


class Interval(NamedTuple):
    """A mean, its interval (NaN for a single lifetime) and the number of lifetimes."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """Return `mean [low, high]`."""
        if np.isnan(self.mean):
            return "–"
        if np.isnan(self.low):
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return the mean of one number a lifetime and its interval.

    Args:
        values: one a lifetime; NaN values are left out.
        level: nominal coverage, a share between 0 and 1.

    Raises:
        ValueError: if the level is not such a share.
    """
    _expect_share(level)
    known = np.array([value for value in values if not np.isnan(value)], dtype=float)
    if len(known) == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(known.mean())
    if len(known) == 1:
        return Interval(mean, np.nan, np.nan, 1)
    if np.ptp(known) <= 1e-12 * max(1.0, np.abs(known).max()):  # equal but for rounding
        return Interval(mean, mean, mean, len(known))
    if len(known) >= BOOTSTRAP_FROM:
        drawn = stats.bootstrap(
            (known,), np.mean, confidence_level=level, n_resamples=9999, method="BCa", rng=0
        ).confidence_interval
        return Interval(mean, float(drawn.low), float(drawn.high), len(known))
    error = known.std(ddof=1) / np.sqrt(len(known))
    reach = float(stats.t.ppf(0.5 + level / 2, len(known) - 1) * error)
    return Interval(mean, mean - reach, mean + reach, len(known))


def paired_difference(
    ours: Sequence[float], theirs: Sequence[float], level: float = 0.95
) -> Interval:
    """Return the interval of `ours - theirs`, paired by place.

    Raises:
        ValueError: if there are not as many of one as of the other.
    """
    _expect_pairs(ours, theirs)
    return interval([a - b for a, b in zip(ours, theirs, strict=True)], level)


def probability_of_improvement(
    ours: Sequence[float], theirs: Sequence[float], level: float = 0.95
) -> Interval:
    """Return the probability that a lifetime of ours is better than its pair of theirs.

    Equal lifetimes count half. The interval is that of Clopper and Pearson (1934) for as many
    successes, which covers at least as often as it says, also when all pairs agree.

    Args:
        ours: one number a lifetime, more is better.
        theirs: the same, paired by place; pairs with a NaN are left out.
        level: nominal coverage, a share between 0 and 1.

    Raises:
        ValueError: if the level is no such share, or there are not as many of one as of the other.
    """
    _expect_pairs(ours, theirs)
    _expect_share(level)
    known = [(a, b) for a, b in zip(ours, theirs, strict=True) if not np.isnan(a - b)]
    if not known:
        return Interval(np.nan, np.nan, np.nan, 0)
    n, won = len(known), sum((a > b) + 0.5 * (a == b) for a, b in known)
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, won, n - won + 1)) if won > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, won + 1, n - won)) if won < n else 1.0
    return Interval(won / n, low, high, n)


def _expect_pairs(ours: Sequence[float], theirs: Sequence[float]) -> None:
    if len(ours) != len(theirs):
        raise ValueError(f"Pairs need two of each: {len(ours)} lifetimes against {len(theirs)}.")


def _expect_share(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level}: give a share between 0 and 1, such as 0.95.")
