"""Intervals against tables of Student's t and against simulated experiments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.envs.intervals import Interval, interval, paired_difference

SCORES = st.lists(st.floats(0, 1), min_size=2, max_size=19)


def test_five_lifetimes_by_hand() -> None:
    values = [0.1, 0.2, 0.3, 0.4, 0.5]
    reach = 2.7764451 * np.sqrt(0.025) / np.sqrt(5)  # t(0.975, 4) of the tables
    assert interval(values) == pytest.approx((0.3, 0.3 - reach, 0.3 + reach, 5))
    reach = 2.1318468 * np.sqrt(0.025) / np.sqrt(5)  # t(0.95, 4)
    assert interval(values, 0.9) == pytest.approx((0.3, 0.3 - reach, 0.3 + reach, 5))


def test_two_lifetimes_by_hand() -> None:
    assert interval([0.2, 0.4]) == pytest.approx((0.3, 0.3 - 1.2706205, 0.3 + 1.2706205, 2))


def test_one_lifetime_has_a_mean_and_no_bounds() -> None:
    mean, low, high, n = interval([0.7])
    assert (mean, n) == (0.7, 1)
    assert np.isnan([low, high]).all()
    assert str(interval([0.7])) == "0.700"
    assert interval([]).n == 0
    assert np.isnan(interval([float("nan")]).mean)
    assert str(interval([])) == "–"


def test_scores_that_were_not_taken_are_left_out() -> None:
    assert interval([0.2, float("nan"), 0.4]) == interval([0.2, 0.4])
    assert str(Interval(0.5, 0.25, 0.75, 3)) == "0.500 [0.250, 0.750]"


@pytest.mark.parametrize("n", [5, 25])
def test_equal_scores_have_no_width(n: int) -> None:
    assert interval([0.5] * n) == (0.5, 0.5, 0.5, n)
    shifted = paired_difference([0.1 * k + 0.4 for k in range(n)], [0.1 * k for k in range(n)])
    assert shifted == pytest.approx((0.4, 0.4, 0.4, n))


@given(SCORES, st.floats(-1, 1))
def test_the_interval_moves_and_turns_with_the_scores(values: list[float], by: float) -> None:
    mean, low, high, n = interval(values)
    assert low <= mean <= high
    assert interval([v + by for v in values]) == pytest.approx((mean + by, low + by, high + by, n))
    assert interval([-v for v in values]) == pytest.approx((-mean, -high, -low, n))


def test_pairs() -> None:
    found = paired_difference([0.9, 0.8, float("nan")], [0.5, 0.5, 0.1])
    assert found == interval([0.9 - 0.5, 0.8 - 0.5])
    assert found.mean == pytest.approx(0.35)
    with pytest.raises(ValueError, match=r"Pairs.*1 lifetimes against 2"):
        paired_difference([1.0], [1.0, 2.0])


@pytest.mark.parametrize("level", [0.0, 1.0, 95, float("nan")])
def test_a_level_is_a_share(level: float) -> None:
    with pytest.raises(ValueError, match=r"share between 0 and 1, such as 0\.95"):
        interval([0.1, 0.2], level)


def test_five_lifetimes_hold_what_they_promise() -> None:
    draws = np.random.default_rng(0).normal(size=(4000, 5))
    covered = [(found := interval(row)).low <= 0 <= found.high for row in draws]
    assert 0.93 < np.mean(covered) < 0.97


def test_student_until_nineteen_and_the_bootstrap_from_twenty() -> None:
    values = np.random.default_rng(1).exponential(0.1, 40)
    for n, skewed in ((19, False), (20, True), (40, True)):
        found = interval(values[:n])
        above, below = found.high - found.mean, found.mean - found.low
        assert (above > 1.05 * below) == skewed  # only a bootstrap sees the skew
        standard_error = values[:n].std(ddof=1) / np.sqrt(n)
        assert above + below == pytest.approx(2 * 2.0 * standard_error, rel=0.2)
        assert found == interval(values[:n])


@settings(max_examples=5)
@given(st.integers(0, 2**32))
def test_the_bootstrap_of_many_agrees_with_resampling_in_a_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(0.5, 0.1, 60)
    means = [random.choice(values, 60).mean() for _ in range(2000)]
    found = interval(values)
    width = found.high - found.low
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.15 * width)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.15 * width)
