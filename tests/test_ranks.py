"""How stable rankings are, against rankings worked out by hand."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stillknows.agents.reports.comparisons import stability
from stillknows.envs.measures.ranks import kendall, rank_stability, score_at

Life = tuple[np.ndarray, list[int]]


def life(scores: list[float]) -> Life:
    """Return a life of as many tasks as scores: after t tasks the first t have score[t - 1]."""
    tasks = len(scores)
    matrix = np.zeros((tasks + 1, tasks))
    for after, score in enumerate(scores, start=1):
        matrix[after, :after] = score
        matrix[after, after:] = 0.9  # not trained yet: does not count
    return matrix, list(range(tasks))


def test_the_score_at_a_cut_counts_what_was_trained_by_then() -> None:
    matrix, trained = life([0.5, 0.4, 0.3])
    assert [score_at(matrix, trained, cut) for cut in (1, 2, 3)] == pytest.approx([0.5, 0.4, 0.3])
    assert score_at(matrix[:, ::-1], [2, 1, 0], 2) == pytest.approx(0.4)
    assert score_at(matrix, [0, 0, 1], 2) == pytest.approx(0.4)


def test_kendall_by_hand() -> None:
    assert kendall([1, 2, 3, 4], [1, 2, 3, 4]) == 1
    assert kendall([1, 2, 3], [3, 2, 1]) == -1
    assert kendall([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx((5 - 1) / 6)
    assert math.isnan(kendall([1, 1], [1, 2]))


def test_short_streams_that_mislead_are_found_out() -> None:
    early = [0.9, 0.8, 0.7, 0.3, 0.2, 0.1]  # best at first, worst in the end
    steady = [0.6] * 6
    slow = [0.1, 0.2, 0.4, 0.5, 0.55, 0.9]
    lives = {name: [life(scores)] for name, scores in
             (("early", early), ("steady", steady), ("slow", slow))}  # fmt: skip
    found = rank_stability(lives, cuts=(1, 3, 5, 6, 10))
    # at the end slow, steady, early; after 5 steady, slow, early; after 1 early, steady, slow
    assert found == pytest.approx({1: -1.0, 3: -1.0, 5: 1 / 3})
    assert rank_stability({"early": [life(early)]}) == {}


def test_methods_are_ranked_by_the_mean_over_their_lifetimes() -> None:
    swing = [life([0.0, 0.0, 0.0]), life([1.0, 0.2, 0.2])]
    steady = [life([0.4, 0.4, 0.4])] * 2
    assert rank_stability({"swing": swing, "steady": steady}, cuts=(1, 2)) == {1: -1.0, 2: 1.0}


def test_a_tau_of_arms_that_are_all_equal_is_left_open() -> None:
    matrix, trained = life([0.5] * 6)
    one: Any = SimpleNamespace(matrix=matrix, trained=trained, protocol="identity hidden")
    table = stability({"both": [one], "none": [one]})
    assert table == (["after tasks", "5"], [["Kendall's tau with the whole", "–"]])
