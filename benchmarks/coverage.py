"""How often 95 % intervals over lifetimes cover the truth, where tasks of a life are correlated.

python benchmarks/coverage.py                     the tables of RESULTS.md (about three minutes)
python benchmarks/coverage.py --experiments 200   a quick look

A simulated experiment has some lifetimes of ten tasks each. The score of task j in life l is
Gaussian with a part that the life shares, so that scores of one life are correlated, or a skewed
share between 0 and 1 made of such a Gaussian. Estimated is the mean over tasks and lives, and the
difference of two arms that share their seeds. Beside the interval of this project stand the
percentile bootstrap over lifetimes, and a bootstrap that draws a life for every cell on its own
(as rliable's stratified bootstrap does).
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats
from tqdm import tqdm

from stillknows.agents.reports.report import table
from stillknows.envs.measures.intervals import interval, paired_difference

TASKS = 10
Scores = np.ndarray  # [lifetimes, tasks]
Bounds = tuple[float, float]


def gaussian(draw: np.random.Generator, lives: int, correlation: float) -> Scores:
    """Return standard Gaussian scores whose correlation within a life is given."""
    shared, own = draw.normal(size=(lives, 1)), draw.normal(size=(lives, TASKS))
    return np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own


def skewed(scores: Scores) -> Scores:
    """Return shares between 0 and 1 with the same ranks: Beta(8, 1), most of them near 1."""
    return np.asarray(stats.beta.ppf(stats.norm.cdf(scores), 8, 1))


def ours(scores: Scores, _: np.random.Generator) -> Bounds:
    """Return this project's interval of the mean."""
    found = interval(scores.mean(axis=1))
    return found.low, found.high


def percentile(scores: Scores, draw: np.random.Generator, resamples: int = 999) -> Bounds:
    """Return the percentile bootstrap over lifetimes."""
    lives = scores.mean(axis=1)
    means = lives[draw.integers(len(lives), size=(resamples, len(lives)))].mean(axis=1)
    return tuple(np.quantile(means, [0.025, 0.975]))


def by_cell(scores: Scores, draw: np.random.Generator, resamples: int = 999) -> Bounds:
    """Return the percentile bootstrap that draws a life for every cell on its own."""
    lives, tasks = scores.shape
    drawn = draw.integers(lives, size=(resamples, lives, tasks))
    means = np.take_along_axis(scores[None], drawn, axis=1).mean(axis=(1, 2))
    return tuple(np.quantile(means, [0.025, 0.975]))


METHODS: dict[str, Callable[[Scores, np.random.Generator], Bounds]] = {
    "this project": ours,
    "percentile": percentile,
    "by cell": by_cell,
}


def coverage(
    lives: int,
    correlation: float,
    experiments: int,
    methods: Sequence[str] = tuple(METHODS),
    skew: bool = False,
    seed: int = 0,
) -> dict[str, float]:
    """Return the share of experiments whose interval covers the true mean, by method."""
    draw = np.random.default_rng(seed)
    truth = 8 / 9 if skew else 0.0
    covered = dict.fromkeys(methods, 0)
    for _ in range(experiments):
        scores = gaussian(draw, lives, correlation)
        scores = skewed(scores) if skew else scores
        for name in methods:
            low, high = METHODS[name](scores, draw)
            covered[name] += bool(low <= truth <= high)
    return {name: count / experiments for name, count in covered.items()}


def paired_coverage(lives: int, experiments: int, seed: int = 0) -> tuple[float, float]:
    """Return the coverage of a paired difference, and how wide it is beside an unpaired one.

    Three quarters of the variance of a life's mean come from its seed, which both arms share.
    """
    draw = np.random.default_rng(seed)
    covered, widths = 0, []
    for _ in range(experiments):
        shared = np.sqrt(0.75) * draw.normal(size=lives)
        one, other = (shared + 0.5 * draw.normal(size=lives) for _ in range(2))
        found = paired_difference(one, other)
        covered += found.low <= 0 <= found.high
        apart = stats.ttest_ind(one, other, equal_var=False).confidence_interval()
        widths.append((found.high - found.low) / (apart.high - apart.low))
    return covered / experiments, float(np.median(widths))


def main() -> None:
    """Simulate and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=1000)
    given = parser.parse_args().experiments
    cases = [(n, c, skew) for skew in (False, True) for c in (0.0, 0.3, 0.6) for n in LIVES]
    rows = []
    for number, (lives, correlation, skew) in enumerate(tqdm(cases, disable=None)):
        found = coverage(lives, correlation, given, skew=skew, seed=number)
        kind = "skewed" if skew else "Gaussian"
        rows.append([kind, str(correlation), str(lives), *(f"{c:.3f}" for c in found.values())])
    print(table(["scores", "correlation", "lifetimes", *METHODS], rows) + "\n")
    rows = []
    for lives in LIVES:
        share, width = paired_coverage(lives, given)
        rows.append([str(lives), f"{share:.3f}", f"{width:.2f}"])
    print(table(["lifetimes", "paired difference covers", "width beside unpaired"], rows))


LIVES = (3, 5, 10, 19, 20, 50)

if __name__ == "__main__":
    main()
