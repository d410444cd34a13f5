"""Whether short streams rank methods as long ones do.

`R[t, j]` and `trained` are as in `metrics.py`; this file knows nothing of logs.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from stillknows.envs.measures.metrics import Matrix, mean

CUTS = (5, 10, 20, 50, 100)  # tasks


def score_at(R: Matrix, trained: Sequence[int], cut: int) -> float:
    """Return the mean score after `cut` segments in the tasks trained by then."""
    return mean(R[cut, sorted(set(trained[:cut]))])


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Kendall's tau-b of two rankings of the same methods; NaN if one ranks all alike."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return float("nan")
    return float(stats.kendalltau(first, second).statistic)


def rank_stability(
    lives: Mapping[str, Sequence[tuple[Matrix, Sequence[int]]]], cuts: Sequence[int] = CUTS
) -> dict[int, float]:
    """Return Kendall's tau of the methods' ranking at each cut against that of the whole stream.

    Methods are ranked by the mean over their lifetimes of `score_at`.

    Args:
        lives: matrix and segments of every lifetime of each method.
        cuts: after how many segments the stream is cut; those from its end on are left out.

    Returns:
        Tau by cut, empty if there are fewer than two methods.
    """
    lengths = {len(trained) for method in lives.values() for _, trained in method}
    if len(lives) < 2 or not lengths:
        return {}
    whole = min(lengths)

    def ranking(cut: int) -> list[float]:
        return [
            float(np.mean([score_at(R, trained, cut) for R, trained in method]))
            for method in lives.values()
        ]

    return {cut: kendall(ranking(cut), ranking(whole)) for cut in cuts if cut < whole}
