"""Intervals over lifetimes: the unit is a life (seed and order), never a cell of its matrix.

Below 20 lifetimes Student's t, whose coverage holds there; from 20 on a bootstrap over lifetimes.
Two methods are compared by the paired difference over the seeds they share.
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
    if not 0 < level < 1:
        raise ValueError(f"level={level}: give a share between 0 and 1, such as 0.95.")
    known = np.array([value for value in values if not np.isnan(value)], dtype=float)
    if len(known) == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(known.mean())
    if len(known) == 1:
        return Interval(mean, np.nan, np.nan, 1)
    if np.ptp(known) == 0:
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
    if len(ours) != len(theirs):
        raise ValueError(f"Pairs need two of each: {len(ours)} lifetimes against {len(theirs)}.")
    return interval([a - b for a, b in zip(ours, theirs, strict=True)], level)
