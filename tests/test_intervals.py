"""Intervals against tables of Student's t and against simulated experiments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stillknows.envs.measures.intervals import (
    Interval,
    interval,
    paired_difference,
    probability_of_improvement,
)

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


def test_the_probability_of_improvement_by_hand() -> None:
    nan = float("nan")
    found = probability_of_improvement([0.9, 0.8, 0.7, nan], [0.5, 0.5, 0.5, 0.1])
    # three of three: the lower bound p has p^3 = 0.025
    assert found == pytest.approx((1.0, 0.025 ** (1 / 3), 1.0, 3))
    found = probability_of_improvement([0.1, 0.9, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5])
    assert found.mean == 0.5
    assert found.low == pytest.approx(1 - found.high)
    assert probability_of_improvement([nan], [0.0]).n == 0
    with pytest.raises(ValueError, match="Pairs"):
        probability_of_improvement([1.0], [])
    with pytest.raises(ValueError, match="share between 0 and 1"):
        probability_of_improvement([1.0], [0.0], 95)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_who_improves_on_whom_turns_round(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    here = probability_of_improvement(ours, theirs)
    there = probability_of_improvement(theirs, ours)
    assert 0 <= here.low <= here.mean <= here.high <= 1
    assert there == pytest.approx((1 - here.mean, 1 - here.high, 1 - here.low, here.n))


@pytest.mark.parametrize("chance", [0.5, 0.8, 0.97])
@pytest.mark.parametrize("n", [3, 10, 25])
def test_the_probability_of_improvement_covers_at_least_as_often_as_it_says(
    chance: float, n: int
) -> None:
    known = [stats.binom.pmf(won, n, chance) for won in range(n + 1)]
    found = [
        probability_of_improvement([1.0] * won + [-1.0] * (n - won), [0.0] * n)
        for won in range(n + 1)
    ]
    inside = [
        share for share, each in zip(known, found, strict=True) if each.low <= chance <= each.high
    ]
    assert sum(inside) >= 0.95


def test_lifetimes_that_differ_by_rounding_have_an_interval():
    values = [0.1, 0.1 + 1e-16] * 15
    found = interval(values)
    assert found[:3] == pytest.approx((0.1, 0.1, 0.1))
