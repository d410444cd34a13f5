"""Metrics against matrices worked out by hand, intervals against simulation, floors by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stillknows.envs import metrics
from stillknows.envs.floors import Heard, last_mentioned_answer, majority_answer
from stillknows.envs.intervals import interval, paired_difference

R = np.array(
    [
        [0.10, 0.20, 0.00],
        [0.90, 0.30, 0.10],
        [0.95, 0.80, 0.20],
        [0.60, 0.70, 0.85],
    ]
)
TRAINED = [0, 1, 2]


def test_by_hand() -> None:
    found = metrics.summary(R, TRAINED)
    assert set(found) == set(metrics.METRICS)
    expected = {
        "average_accuracy": (0.60 + 0.70 + 0.85) / 3,
        "backward_transfer": ((0.60 - 0.90) + (0.70 - 0.80)) / 2,
        "forward_transfer": ((0.30 - 0.20) + (0.20 - 0.00)) / 2,
        "forgetting": ((0.95 - 0.60) + (0.80 - 0.70)) / 2,
        "forgetting_last": ((0.90 - 0.60) + (0.80 - 0.70)) / 2,
        "forgetting_clipped": ((0.95 - 0.60) + (0.80 - 0.70)) / 2,
        "learning_accuracy": (0.90 + 0.80 + 0.85) / 3,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name
    reference = metrics.intransigence(R, TRAINED, [1.0, 0.9, 0.95])
    assert reference == pytest.approx((0.10 + 0.10 + 0.10) / 3)


def test_a_task_that_improves_forgets_less_than_nothing_but_not_when_clipped() -> None:
    better = R.copy()
    better[3, 0] = 1.0
    assert metrics.forgetting(better, TRAINED) == pytest.approx(((0.95 - 1.0) + 0.10) / 2)
    assert metrics.forgetting_clipped(better, TRAINED) == pytest.approx((0.0 + 0.10) / 2)


def test_repeats_count_from_the_first_training_and_missing_scores_are_left_out() -> None:
    matrix = np.vstack([R, [0.9, 0.6, 0.8]])
    assert metrics.learning_accuracy(matrix, [0, 1, 2, 0]) == pytest.approx((0.9 + 0.8 + 0.85) / 3)
    gaps = R.copy()
    gaps[3, 1] = np.nan
    assert metrics.backward_transfer(gaps, TRAINED) == pytest.approx(-0.30)
    with pytest.raises(ValueError, match="4 rows for 2"):
        metrics.summary(R, [0, 1])


@settings(max_examples=50)
@given(arrays(float, (5, 4), elements=st.floats(0, 1)))
def test_relations_that_always_hold(matrix: np.ndarray) -> None:
    found = metrics.summary(matrix, [0, 1, 2, 3])
    assert found["backward_transfer"] == pytest.approx(-found["forgetting_last"])
    assert found["forgetting_clipped"] >= max(0.0, found["forgetting"]) - 1e-12
    assert found["forgetting"] >= found["forgetting_last"] - 1e-12
    assert all(-1 <= value <= 1 for value in found.values())


def test_interval_of_five_by_hand() -> None:
    found = interval([0.1, 0.2, 0.3, 0.4, 0.5])
    reach = 2.7764451 * np.std([0.1, 0.2, 0.3, 0.4, 0.5], ddof=1) / np.sqrt(5)
    assert found.mean == pytest.approx(0.3)
    assert found.high == pytest.approx(0.3 + reach)
    assert found.low == pytest.approx(0.3 - reach)
    assert np.isnan(interval([0.7]).low)
    assert interval([0.5, float("nan"), 0.5]).n == 2
    assert paired_difference([0.9, 0.8], [0.5, 0.5]).mean == pytest.approx(0.35)
    with pytest.raises(ValueError, match="Pairs"):
        paired_difference([1.0], [1.0, 2.0])


def test_intervals_of_few_lifetimes_hold_what_they_promise() -> None:
    draws = np.random.default_rng(0).normal(size=(3000, 5))
    covered = np.mean([(i := interval(row)).low <= 0 <= i.high for row in draws])
    assert 0.935 < covered < 0.965


def test_many_lifetimes_are_bootstrapped() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.1, 40)
    found = interval(values)
    assert found.low < values.mean() < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(40), rel=0.3)
    assert found == interval(values)


def test_floors_by_hand() -> None:
    exam = [
        Heard(("mary is in the hall .", "john is in the park ."), "where is mary ?", "hall"),
        Heard(("go north and then east .",), "how ?", "north east"),
        Heard(("nothing is said .",), "where ?", "park"),
    ]
    train = ["park", "park", "hall", "north east", "east"]
    assert majority_answer(train, exam) == pytest.approx(1 / 3)
    assert last_mentioned_answer(train, exam) == pytest.approx(1 / 3)
    assert last_mentioned_answer([*train, "east"], exam[:1]) == 0.0
    close = [Heard(("first north east .",), "how ?", "north east")]
    assert last_mentioned_answer(train, close) == 1.0
