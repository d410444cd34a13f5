"""Metrics of learning curves: areas, and what they tell of transfer and of lost plasticity.

A curve is the score in a task while it is trained, in any unit in which more is better. This file
knows nothing of logs.
"""

from collections.abc import Sequence

import numpy as np
from scipy.integrate import trapezoid

from stillknows.envs.measures.metrics import Matrix, first_segments, mean


def area(scores: Sequence[float], positions: Sequence[float] | None = None) -> float:
    """Return `AUC = 1/D integral p(s) ds`, the mean height of a curve (Wolczyk et al. 2021).

    Args:
        scores: p at each position.
        positions: s, rising; straight lines join them. None: each score stands for a stretch of
            the same length, as the accuracies of the batches of a training do.

    A score that is NaN was not taken: the line goes on from the one before it to the one after.

    Raises:
        ValueError: if the positions do not rise, or are not as many as the scores.
    """
    if positions is None:
        return mean(scores)
    if len(positions) != len(scores) or not (np.diff(positions) > 0).all():
        raise ValueError("A curve needs a score at each position, and positions that rise.")
    known = [(at, p) for at, p in zip(positions, scores, strict=True) if not np.isnan(p)]
    if len(known) < 2:
        return mean(scores)
    at, p = zip(*known, strict=True)
    return float(trapezoid(p, at) / (at[-1] - at[0]))


def area_transfer(
    areas: Sequence[float],
    alone: Sequence[float],
    alone_mean: Sequence[float] | None = None,
    best: float = 1.0,
) -> float:
    """Return Continual World's forward transfer, `mean_i (AUC_i - AUCb_i) / (best - AUCb_i)`.

    (Wolczyk et al. 2021.) A task whose reference is at its best leaves nothing to transfer and is
    left out. The paper averages areas over seeds before it divides; with the mean over seeds as
    the divisor, the mean of this over paired lifetimes is the same number.

    Args:
        areas: `AUC_i` of the life, one a task.
        alone: `AUCb_i` of fresh agents that learned each task alone with the same budget.
        alone_mean: `AUCb_i` in the divisor; None: that of `alone`.
        best: the highest score there is.
    """
    divisors = alone if alone_mean is None else alone_mean
    return mean(
        [
            (ours - theirs) / (best - reference)
            for ours, theirs, reference in zip(areas, alone, divisors, strict=True)
            if reference < best
        ]
    )


def forward_transfer_speed(curve: Sequence[float]) -> float:
    """Return LIBERO's `FWT_k`, the mean of a curve that stays at its best once it was there.

    (Liu et al. 2023: the mean over examinations during training, of which those after the best
    count as the best, since its weights are kept.)

    Args:
        curve: scores of examinations during the training of a task, the one before it included.
    """
    known = np.asarray([score for score in curve if not np.isnan(score)], dtype=float)
    if len(known) == 0:
        return float("nan")
    best = int(known.argmax())
    known[best:] = known[best]
    return float(known.mean())


def libero_forward_transfer(speeds: Sequence[float]) -> float:
    """Return LIBERO's FWT, `mean_k FWT_k` (Liu et al. 2023), from `forward_transfer_speed`."""
    return mean(speeds)


def libero_area(R: Matrix, trained: Sequence[int], speeds: Sequence[float]) -> float:
    """Return LIBERO's AUC, `mean_k (FWT_k + sum_{t > k} R[t, k]) / (T - k + 1)`.

    (Liu et al. 2023.) k is the segment that trained a task first. Scores that were not taken are
    left out of the mean of a task.

    Args:
        R: the matrix of scores (see `metrics.py`).
        trained: the task of each segment.
        speeds: `FWT_k` of each task, as `forward_transfer_speed` returns it.
    """
    return mean([mean([speeds[j], *R[own + 1 :, j]]) for j, own in first_segments(trained)])


def loss_of_area(areas: Sequence[float]) -> float:
    """Return `mean_{r > 1} max(0, 1 - AUC_r / AUC_1)`: what a task learned again is slower by.

    Args:
        areas: of the same task, each time it was trained; NaN if it was trained once, or learned
            nothing the first time.
    """
    first, *later = areas
    if not first > 0:
        return float("nan")
    return mean([max(0.0, 1.0 - again / first) for again in later if not np.isnan(again)])
