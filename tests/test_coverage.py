"""The simulation of coverage, small: intervals of this project hold, others do not."""

import importlib.util
import types
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def simulation() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("coverage_benchmark", PATH)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(("lives", "correlation"), [(3, 0.0), (5, 0.6), (19, 0.3)])
def test_few_lifetimes(simulation: types.ModuleType, lives: int, correlation: float) -> None:
    found = simulation.coverage(lives, correlation, 1500, ["this project"])
    assert 0.93 < found["this project"] < 0.97


def test_many_lifetimes(simulation: types.ModuleType) -> None:
    found = simulation.coverage(25, 0.6, 200, ["this project"])
    assert 0.88 < found["this project"] < 0.98


def test_skewed_scores(simulation: types.ModuleType) -> None:
    found = simulation.coverage(5, 0.6, 1500, ["this project"], skew=True)
    assert 0.89 < found["this project"] < 0.97


def test_what_draws_cells_on_their_own_is_sure_of_too_much(simulation: types.ModuleType) -> None:
    apart = simulation.coverage(10, 0.0, 300, ["by cell"])
    together = simulation.coverage(10, 0.6, 300, ["by cell", "percentile"])
    assert apart["by cell"] > 0.85
    assert together["by cell"] < 0.7
    assert together["percentile"] > 0.8
    assert simulation.coverage(3, 0.3, 300, ["percentile"])["percentile"] < 0.85


def test_scores_have_the_correlation_that_they_should(simulation: types.ModuleType) -> None:
    scores = simulation.gaussian(np.random.default_rng(0), 20_000, 0.6)
    assert np.corrcoef(scores, rowvar=False)[0, 1:].mean() == pytest.approx(0.6, abs=0.02)
    assert scores.std() == pytest.approx(1, abs=0.02)
    assert simulation.skewed(scores).mean() == pytest.approx(8 / 9, abs=0.01)


def test_pairs_are_narrower_and_hold(simulation: types.ModuleType) -> None:
    share, width = simulation.paired_coverage(5, 800)
    assert 0.92 < share < 0.98
    assert width < 0.8
