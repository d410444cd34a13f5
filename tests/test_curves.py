"""Metrics of curves and of activations, against numbers worked out by hand and plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stillknows.envs.measures import curves, plasticity

SHARES = st.lists(st.floats(0, 0.99), min_size=1, max_size=6)


def test_areas_by_hand() -> None:
    assert curves.area([0.2, 0.4, 0.9]) == pytest.approx(0.5)
    # from 0.2 to 0.4 over 10, from 0.4 to 0.9 over 30
    assert curves.area([0.2, 0.4, 0.9], [0, 10, 40]) == pytest.approx((3.0 + 19.5) / 40)
    assert curves.area([0.7], [3]) == 0.7
    assert math.isnan(curves.area([]))
    # what was not taken lies on the line from 0.2 to 0.9, or beyond the ends
    assert curves.area([0.2, math.nan, 0.9], [0, 10, 40]) == pytest.approx(0.55)
    assert curves.area([math.nan, 0.4, 0.9], [0, 10, 40]) == pytest.approx(0.65)
    assert curves.area([math.nan, 0.4, math.nan], [0, 10, 40]) == 0.4
    for wrong in ([0, 10], [0, 10, 10], [0, math.nan, 10]):
        with pytest.raises(ValueError, match="positions that rise"):
            curves.area([0.2, 0.4, 0.9], wrong)


def test_transfer_by_area_by_hand() -> None:
    found = curves.area_transfer([0.8, 0.3, 0.9], [0.6, 0.5, 1.0])
    assert found == pytest.approx((0.2 / 0.4 - 0.2 / 0.5) / 2)  # the third leaves nothing
    assert curves.area_transfer([1.0], [0.0]) == 1.0
    assert curves.area_transfer([75.0], [50.0], best=100.0) == 0.5


@given(arrays(float, (5, 3), elements=st.floats(0, 0.9)), arrays(float, (5, 3)))
def test_paired_transfer_has_the_mean_of_the_published_ratio(
    alone: np.ndarray, drawn: np.ndarray
) -> None:
    ours = np.clip(np.nan_to_num(drawn), 0, 1)
    mean = alone.mean(axis=0)
    paired = [curves.area_transfer(a, b, mean) for a, b in zip(ours, alone, strict=True)]
    published = np.mean((ours.mean(axis=0) - mean) / (1 - mean))
    assert np.mean(paired) == pytest.approx(published, abs=1e-9)


def test_libero_by_hand() -> None:
    first = curves.forward_transfer_speed([0.0, 0.6, 0.4, 0.5])  # stays at 0.6
    assert first == pytest.approx((0.0 + 0.6 + 0.6 + 0.6) / 4)
    second = curves.forward_transfer_speed([0.2, 0.3, math.nan, 0.7])
    assert second == pytest.approx((0.2 + 0.3 + 0.7) / 3)
    assert curves.libero_forward_transfer([first, second]) == pytest.approx((0.45 + 0.4) / 2)
    matrix = np.array([[0.0, 0.1], [0.6, 0.2], [0.3, 0.7]])
    area = curves.libero_area(matrix, [0, 1], [first, second])
    assert area == pytest.approx(((0.45 + 0.3) / 2 + 0.4) / 2)
    assert math.isnan(curves.forward_transfer_speed([]))


def test_loss_of_area_by_hand() -> None:
    assert curves.loss_of_area([0.5, 0.4, 0.6]) == pytest.approx((0.2 + 0.0) / 2)
    assert math.isnan(curves.loss_of_area([0.5]))
    assert math.isnan(curves.loss_of_area([0.0, 0.4]))


def test_dormant_units_by_hand() -> None:
    activations = np.array([[1.0, 0.0, -0.1, 0.02], [-3.0, 0.0, 0.1, 0.0]])
    # sizes 2, 0, 0.1, 0.01, mean 0.5275; scores 3.79, 0, 0.19, 0.019
    shares = [plasticity.dormant_share(activations, tau) for tau in plasticity.TAUS]
    assert shares == [0.25, 0.5, 0.5]
    assert plasticity.dormant_share(activations, 0.2) == 0.75
    assert plasticity.dormant_share(np.zeros((3, 4)), 0.0) == 1.0
    for broken in (math.nan, math.inf):
        assert math.isnan(plasticity.dormant_share(np.array([[1.0, broken], [0.0, 1.0]]), 0.1))


def test_effective_rank_by_hand() -> None:
    assert plasticity.effective_rank(np.eye(4) * 7) == pytest.approx(4)
    assert plasticity.effective_rank(np.ones((5, 3))) == pytest.approx(1)
    shares = np.array([0.75, 0.25])
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert plasticity.effective_rank(np.diag(shares * 8)) == pytest.approx(expected)
    assert plasticity.effective_rank(np.zeros((2, 2))) == 0
    assert math.isnan(plasticity.effective_rank(np.array([[np.nan, 1.0]])))


@given(arrays(float, (6, 4), elements=st.floats(-10, 10, width=16)), st.floats(0.1, 100))
def test_plasticity_does_not_depend_on_the_unit(activations: np.ndarray, unit: float) -> None:
    activations[0, 0] += 20
    rank = plasticity.effective_rank(activations)
    assert 1 - 1e-9 <= rank <= 4 + 1e-9
    assert plasticity.effective_rank(activations * unit) == pytest.approx(rank)
    shares = [plasticity.dormant_share(activations, tau) for tau in (0.0, 0.1, 0.5)]
    assert shares == sorted(shares)
    assert shares[0] == np.mean(np.all(activations == 0, axis=0))


@given(SHARES)
def test_no_transfer_from_the_reference_to_itself(areas: list[float]) -> None:
    assert curves.area_transfer(areas, areas) == 0
    assert curves.area_transfer([1.0] * len(areas), areas) == pytest.approx(1)
