"""Forecasting: readings of a noisy process are told one after another, and the next is asked for.

Readings are digits and wrap. Each is the one before plus the story's drift, which is never told,
and now and then one more or one less. What comes next cannot be known; `forecast` is the best that
can be said, and how often that is right.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from stillknows.envs.kinds.writing import DIGITS, Page, Problems, Ranges

DRIFTS = (1, 3, 5, 7, 9)
_TOLD = "((the reading) (is {reading}) .)"
_ASKED = "(what ((will (the (next reading))) be) ?)"


@dataclass(frozen=True, kw_only=True)
class Forecast(Problems):
    """The next reading.

    Attributes:
        readings: told before the first question.
        further: told before every other question; the first of them is what was asked for.
        noise: how often a reading is one more or one less than the drift says.
        questions: asked.
    """

    ranges: ClassVar[Ranges] = {
        "readings": (2, 100),
        "further": (1, 100),
        "noise": (0, 0.6),
        "questions": (1, 20),
    }
    said: ClassVar[Sequence[str]] = (_TOLD, _ASKED, *DIGITS)

    readings: int = 5
    further: int = 3
    noise: float = 0.1
    questions: int = 2

    @property
    def least_told(self) -> int:
        """How many readings come before the first question at least."""
        return self.readings

    def write(self, draw: Random, page: Page) -> None:
        """Tell readings and ask for the next in between."""
        drift, reading = draw.choice(DRIFTS), draw.randrange(10)
        steps: list[int] = []
        for question in range(self.questions):
            for _ in range(self.further if question else self.readings):
                steps.append(page.tell(_TOLD.format(reading=reading)))
                slip = draw.choice((-1, 1)) if draw.random() < self.noise else 0
                reading = (reading + drift + slip) % len(DIGITS)
            page.ask(_ASKED, str(reading), steps)


def forecast(readings: Sequence[int], noise: float) -> tuple[int, float]:
    """Return the likeliest next reading and its probability, by Bayes' rule over all drifts.

    p(next = y | readings) = sum_d p(d | readings) p(y - last | d), with a uniform prior over
    `DRIFTS`, and p(step | d) = 1 - noise for a step of d, noise / 2 for one more or one less.
    """

    def chance(step: int, drift: int) -> float:
        slip = (step - drift) % len(DIGITS)
        return {0: 1 - noise, 1: noise / 2, len(DIGITS) - 1: noise / 2}.get(slip, 0.0)

    beliefs = dict.fromkeys(DRIFTS, 1 / len(DRIFTS))
    for before, after in itertools.pairwise(readings):
        beliefs = {drift: p * chance(after - before, drift) for drift, p in beliefs.items()}
    total = sum(beliefs.values())
    chances = {
        y: sum(p * chance(y - readings[-1], drift) for drift, p in beliefs.items()) / total
        for y in range(len(DIGITS))
    }
    best = max(chances, key=chances.__getitem__)
    return best, chances[best]
