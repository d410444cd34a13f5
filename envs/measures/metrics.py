"""Metrics of a lifetime from its matrix of scores; every variant goes by its own name.

`R[t, j]` is the score in task j after t training segments, row 0 before any: `[T + 1, N]`.
`trained[t - 1]` is the task of segment t, `own(j)` the first segment that trained j. Scores are in
any unit in which more is better: accuracies, or returns; `normalise` brings tasks with a floor and
a reference of their own onto one scale. A score that was not taken is NaN and is left out of means.
What needs learning curves is in `curves.py`. This file knows nothing of logs.
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
    "forgetting_clipped": "Mean over all but the last task of (best accuracy since its training, "
    "the end included, - accuracy at the end), so never negative: what Mammoth and PyCIL call "
    "forgetting.",
    "forgetting_all_tasks": "Mean over all tasks, the last included, of (accuracy right after its "
    "training - accuracy at the end): Continual World's forgetting (Wolczyk et al. 2021).",
    "isolated_forgetting": "Mean over pairs of (what a task lost while one later task was "
    "learned), as a share of the highest score there is (CORA, Powers et al. 2022).",
    "zero_shot_transfer": "Mean over pairs of (what a task not yet trained gained while an earlier "
    "one was learned), as a share of the highest score there is (CORA, Powers et al. 2022).",
    "negative_backward_transfer": "NBT: mean over all tasks, the last included (0), of (accuracy "
    "right after its training - mean accuracy after each later task) (LIBERO, Liu et al. 2023).",
    "learning_accuracy": "Mean over tasks of the accuracy right after its training "
    "(Riemer et al. 2019).",
}


def average_accuracy(R: Matrix, trained: Sequence[int]) -> float:
    """Return ACC, `mean_j R[T, j]` (Lopez-Paz and Ranzato 2017)."""
    return mean(R[-1])


def backward_transfer(R: Matrix, trained: Sequence[int]) -> float:
    """Return BWT, `mean_j (R[T, j] - R[own(j), j])` (Lopez-Paz and Ranzato 2017).

    The mean is over the tasks that were trained before the last segment.
    """
    return mean([R[-1, j] - R[own, j] for j, own in _earlier(trained)])


def forward_transfer(R: Matrix, trained: Sequence[int]) -> float:
    """Return FWT, `mean_j (R[own(j) - 1, j] - R[0, j])` (Lopez-Paz and Ranzato 2017).

    The mean is over all trained tasks but the first; their baseline b_j is row 0.
    """
    return mean([R[own - 1, j] - R[0, j] for j, own in first_segments(trained) if own > 1])


def forgetting(R: Matrix, trained: Sequence[int]) -> float:
    """Return F, `mean_j (max_{1 <= t < T} R[t, j] - R[T, j])` (Chaudhry et al. 2018).

    The mean is over the tasks that were trained before the last segment.
    """
    return mean([_best(R[1:-1, j]) - R[-1, j] for j, _ in _earlier(trained)])


def forgetting_last(R: Matrix, trained: Sequence[int]) -> float:
    """Return `mean_j (R[own(j), j] - R[T, j])`, Avalanche's forgetting: -BWT."""
    return -backward_transfer(R, trained)


def forgetting_clipped(R: Matrix, trained: Sequence[int]) -> float:
    """Return `mean_j (max_{own(j) <= t <= T} R[t, j] - R[T, j])`, Mammoth's and PyCIL's forgetting.

    Both examine tasks only once they are trained. The mean is over the tasks that were trained
    before the last segment.
    """
    return mean([_best(R[own:, j]) - R[-1, j] for j, own in _earlier(trained)])


def forgetting_all_tasks(R: Matrix, trained: Sequence[int]) -> float:
    """Return `mean_j (R[own(j), j] - R[T, j])` over all trained tasks (Wolczyk et al. 2021).

    Continual World counts the last task too, whose forgetting is 0, and takes each of the two
    scores as the mean of five examinations; here they are one examination each.
    """
    return mean([R[own, j] - R[-1, j] for j, own in first_segments(trained)])


def isolated_forgetting(
    R: Matrix, trained: Sequence[int], scale: Sequence[float] | None = None
) -> float:
    """Return `mean (R[t - 1, j] - R[t, j]) / scale[j]` over segments t after own(j) (CORA).

    Segments that train j again are left out. CORA divides by the highest score of the same method,
    so that methods cannot be compared; `scale` is one number a task, the same for all (1 for
    accuracies).
    """
    return mean(
        [
            (R[t - 1, j] - R[t, j]) / size
            for j, own, size in _scaled(trained, scale)
            for t in range(own + 1, len(R))
            if trained[t - 1] != j
        ]
    )


def zero_shot_transfer(
    R: Matrix, trained: Sequence[int], scale: Sequence[float] | None = None
) -> float:
    """Return `mean (R[t, j] - R[t - 1, j]) / scale[j]` over segments t before own(j) (CORA).

    `scale` is as in `isolated_forgetting`.
    """
    return mean(
        [
            (R[t, j] - R[t - 1, j]) / size
            for j, own, size in _scaled(trained, scale)
            for t in range(1, own)
        ]
    )


def negative_backward_transfer(R: Matrix, trained: Sequence[int]) -> float:
    """Return NBT, `mean_j mean_{t > own(j)} (R[own(j), j] - R[t, j])` (LIBERO, Liu et al. 2023).

    The mean is over all trained tasks; the last one, after which nothing comes, counts 0. As in the
    other metrics, a task is left out if its own score or all later ones were not taken, the last
    one too, and of the later ones those that were not.
    """
    last = len(R) - 1
    return mean(
        [mean(R[own, j] - R[min(own + 1, last) :, j]) for j, own in first_segments(trained)]
    )


def learning_accuracy(R: Matrix, trained: Sequence[int]) -> float:
    """Return LA, `mean_j R[own(j), j]` (Riemer et al. 2019)."""
    return mean([R[own, j] for j, own in first_segments(trained)])


def intransigence(R: Matrix, trained: Sequence[int], reference: Sequence[float]) -> float:
    """Return `mean_j (reference[j] - R[own(j), j])` (Chaudhry et al. 2018).

    Args:
        R: the matrix of scores.
        trained: the task of each segment.
        reference: score of a jointly trained agent in each task.
    """
    return mean([reference[j] - R[own, j] for j, own in first_segments(trained)])


def gain(stateful: Sequence[float], stateless: Sequence[float]) -> float:
    """Return `mean_j (stateful[j] - stateless[j])`: what carried state adds (CL-Bench 2026).

    Args:
        stateful: score in each task, with what was carried there.
        stateless: score of the same agent in each task without it.
    """
    return mean([a - b for a, b in zip(stateful, stateless, strict=True)])


def normalised_gain(
    stateful: Sequence[float], stateless: Sequence[float], best: Sequence[float] | float = 1.0
) -> float:
    """Return `mean_j (stateful[j] - stateless[j]) / (best[j] - stateless[j])` (CL-Bench 2026).

    A task that is at its best without the state has nothing to gain and is left out.

    Args:
        stateful: as in `gain`.
        stateless: as in `gain`.
        best: the highest score there is, one number or one a task.
    """
    room = np.broadcast_to(best, len(stateless)) - np.asarray(stateless, dtype=float)
    gained = np.asarray(stateful, dtype=float) - np.asarray(stateless, dtype=float)
    return mean([part / whole for part, whole in zip(gained, room, strict=True) if whole > 0])


def normalise(R: Matrix, floor: Sequence[float], reference: Sequence[float]) -> Matrix:
    """Return `(R[t, j] - floor[j]) / (reference[j] - floor[j])`: 0 is the floor, 1 the reference.

    Args:
        R: scores, tasks last: `[…, N]`.
        floor: of each task, such as the return of random actions.
        reference: of each task, such as the return of an agent that learned it alone.

    Raises:
        ValueError: if a reference is not above its floor.
    """
    low, high = np.asarray(floor, dtype=float), np.asarray(reference, dtype=float)
    if not (high > low).all():
        raise ValueError(f"Each reference must be above its floor: {reference} against {floor}.")
    scaled: Matrix = (R - low) / (high - low)
    return scaled


_FUNCTIONS: dict[str, Callable[[Matrix, Sequence[int]], float]] = {
    "average_accuracy": average_accuracy,
    "backward_transfer": backward_transfer,
    "forward_transfer": forward_transfer,
    "forgetting": forgetting,
    "forgetting_last": forgetting_last,
    "forgetting_clipped": forgetting_clipped,
    "forgetting_all_tasks": forgetting_all_tasks,
    "isolated_forgetting": isolated_forgetting,
    "zero_shot_transfer": zero_shot_transfer,
    "negative_backward_transfer": negative_backward_transfer,
    "learning_accuracy": learning_accuracy,
}


def summary(R: Matrix, trained: Sequence[int]) -> dict[str, float]:
    """Return every metric of `METRICS` by name, of scores whose scale is 1; NaN where undefined.

    Raises:
        ValueError: if the matrix does not have one row more than there are segments.
    """
    if R.shape[0] != len(trained) + 1:
        raise ValueError(
            f"The matrix has {R.shape[0]} rows for {len(trained)} training segments: it needs one "
            "before any training and one after each."
        )
    return {name: function(R, trained) for name, function in _FUNCTIONS.items()}


def first_segments(trained: Sequence[int]) -> list[tuple[int, int]]:
    """Return (task, number of the segment that trained it first), by task."""
    first = {task: number for number, task in reversed(list(enumerate(trained, start=1)))}
    return sorted(first.items())


def mean(values: Sequence[float] | Matrix) -> float:
    """Return the mean of the values that were taken, NaN if there is none."""
    known = [float(value) for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _earlier(trained: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first segments of tasks that were not first trained in the last one."""
    return [(task, own) for task, own in first_segments(trained) if own < len(trained)]


def _scaled(trained: Sequence[int], scale: Sequence[float] | None) -> list[tuple[int, int, float]]:
    """Return the first segments, each with the scale of its task."""
    return [(j, own, 1.0 if scale is None else scale[j]) for j, own in first_segments(trained)]


def _best(scores: Matrix) -> float:
    known = scores[~np.isnan(scores)]
    return float(known.max()) if len(known) else float("nan")
