"""Metrics of a lifetime from its accuracy matrix; every variant goes by its own name.

`R[t, j]` is the score in task j after t training segments, row 0 before any: `[T + 1, N]`.
`trained[t - 1]` is the task of segment t. A score that was not taken is NaN and is left out of
means. Where a task is trained more than once, "right after its training" means the first time.
This file knows nothing of logs.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

METRICS = {
    "average_accuracy": "ACC: mean over tasks of the accuracy at the end "
    "(Lopez-Paz and Ranzato 2017).",
    "backward_transfer": "BWT: mean over all but the last task of (accuracy at the end - accuracy "
    "right after its training) (Lopez-Paz and Ranzato 2017).",
    "forward_transfer": "FWT: mean over all but the first task of (accuracy just before its "
    "training - accuracy before any training) (Lopez-Paz and Ranzato 2017). Positive whenever "
    "tasks share words: no claim of transfer rests on it.",
    "forgetting": "F: mean over all but the last task of (best accuracy before the end - accuracy "
    "at the end) (Chaudhry et al. 2018).",
    "forgetting_last": "Mean over all but the last task of (accuracy right after its training - "
    "accuracy at the end): what Avalanche calls forgetting, and -BWT.",
    "forgetting_clipped": "As F, but the best includes the end, so it is never negative: what "
    "Mammoth calls forgetting.",
    "learning_accuracy": "Mean over tasks of the accuracy right after its training "
    "(Riemer et al. 2019).",
}


def average_accuracy(R: Matrix, trained: Sequence[int]) -> float:
    """Return ACC, `mean_j R[T, j]` (Lopez-Paz and Ranzato 2017)."""
    return _mean(R[-1])


def backward_transfer(R: Matrix, trained: Sequence[int]) -> float:
    """Return BWT, `mean_j (R[T, j] - R[own(j), j])` (Lopez-Paz and Ranzato 2017).

    The mean is over the tasks that were trained before the last segment.
    """
    return _mean([R[-1, j] - R[own, j] for j, own in _earlier(trained)])


def forward_transfer(R: Matrix, trained: Sequence[int]) -> float:
    """Return FWT, `mean_j (R[own(j) - 1, j] - R[0, j])` (Lopez-Paz and Ranzato 2017).

    The mean is over all trained tasks but the first; their baseline b_j is row 0.
    """
    return _mean([R[own - 1, j] - R[0, j] for j, own in _first_segments(trained) if own > 1])


def forgetting(R: Matrix, trained: Sequence[int]) -> float:
    """Return F, `mean_j (max_{1 <= t < T} R[t, j] - R[T, j])` (Chaudhry et al. 2018).

    The mean is over the tasks that were trained before the last segment.
    """
    return _mean([_best(R[1:-1, j]) - R[-1, j] for j, _ in _earlier(trained)])


def forgetting_last(R: Matrix, trained: Sequence[int]) -> float:
    """Return `mean_j (R[own(j), j] - R[T, j])`, Avalanche's forgetting: -BWT."""
    return -backward_transfer(R, trained)


def forgetting_clipped(R: Matrix, trained: Sequence[int]) -> float:
    """Return `mean_j (max_{1 <= t <= T} R[t, j] - R[T, j])`, Mammoth's forgetting.

    The mean is over the tasks that were trained before the last segment.
    """
    return _mean([_best(R[1:, j]) - R[-1, j] for j, _ in _earlier(trained)])


def learning_accuracy(R: Matrix, trained: Sequence[int]) -> float:
    """Return LA, `mean_j R[own(j), j]` (Riemer et al. 2019)."""
    return _mean([R[own, j] for j, own in _first_segments(trained)])


def intransigence(R: Matrix, trained: Sequence[int], reference: Sequence[float]) -> float:
    """Return `mean_j (reference[j] - R[own(j), j])` (Chaudhry et al. 2018).

    Args:
        R: the accuracy matrix.
        trained: the task of each segment.
        reference: accuracy of a jointly trained agent in each task.
    """
    return _mean([reference[j] - R[own, j] for j, own in _first_segments(trained)])


_FUNCTIONS: dict[str, Callable[[Matrix, Sequence[int]], float]] = {
    "average_accuracy": average_accuracy,
    "backward_transfer": backward_transfer,
    "forward_transfer": forward_transfer,
    "forgetting": forgetting,
    "forgetting_last": forgetting_last,
    "forgetting_clipped": forgetting_clipped,
    "learning_accuracy": learning_accuracy,
}


def summary(R: Matrix, trained: Sequence[int]) -> dict[str, float]:
    """Return every metric of `METRICS` by name; NaN where it is not defined.

    Raises:
        ValueError: if the matrix does not have one row more than there are segments.
    """
    if R.shape[0] != len(trained) + 1:
        raise ValueError(
            f"The matrix has {R.shape[0]} rows for {len(trained)} training segments: it needs one "
            "before any training and one after each."
        )
    return {name: function(R, trained) for name, function in _FUNCTIONS.items()}


def _first_segments(trained: Sequence[int]) -> list[tuple[int, int]]:
    """Return (task, number of the segment that trained it first)."""
    first = {task: number for number, task in reversed(list(enumerate(trained, start=1)))}
    return sorted(first.items())


def _earlier(trained: Sequence[int]) -> list[tuple[int, int]]:
    """Return the same for the tasks that were not first trained in the last segment."""
    return [(task, own) for task, own in _first_segments(trained) if own < len(trained)]


def _best(scores: Matrix) -> float:
    known = scores[~np.isnan(scores)]
    return float(known.max()) if len(known) else float("nan")


def _mean(values: Sequence[float] | Matrix) -> float:
    known = [float(value) for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
