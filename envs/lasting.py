"""Codes that hold for a whole life, of people who are in no story: "the brave baker".

What holds and in which episode it is told is a pure function of the life's seed, for many rows at
once. This file knows nothing of stories. Letters: B rows, F codes of the life, L codes an episode.
"""

from functools import cached_property
from typing import NamedTuple

import numpy as np

from stillknows.envs.draws import Draws
from stillknows.envs.life import ADJECTIVES, MOST_FACTS, NOUNS, subject

WORDS = frozenset((*ADJECTIVES, *NOUNS))


class Earlier(NamedTuple):
    """Codes that were told before: which, in which episode, at which step, `[B, Q]` each.

    `known_B` says of which rows there are any.
    """

    codes_BQ: np.ndarray
    episodes_BQ: np.ndarray
    steps_BQ: np.ndarray
    known_B: np.ndarray


class LastingCodes:
    """The codes of one life.

    Args:
        life: its seed, 0 or more.
        count: how many there are (F), at most `MOST_FACTS` and a multiple of `each`.
        each: how many an episode tells (L), at its first steps.
        choices: how many different values they may have.
    """

    def __init__(self, life: int, count: int, each: int, choices: int) -> None:
        self.life, self.count, self.each, self.choices = life, count, each, choices

    @cached_property
    def values(self) -> np.ndarray:
        """The value of each code, a number, int64 `[F]`."""
        keys_F = self.life * MOST_FACTS + np.arange(self.count)
        return Draws(keys_F).below(self.choices, 1)[:, 0]

    @cached_property
    def people(self) -> list[str]:
        """Whose codes they are, F different names."""
        return [f"the {subject(code)}" for code in range(self.count)]

    def told_in(self, episodes_B: np.ndarray) -> np.ndarray:
        """Return which codes some episodes tell, int64 `[B, L]`; the first again after the last."""
        return (episodes_B[:, None] * self.each + np.arange(self.each)) % self.count

    def known_before(
        self,
        first_B: np.ndarray,
        until_B: np.ndarray,
        now_B: np.ndarray,
        chance_B: np.ndarray,
        asked: int,
    ) -> Earlier:
        """Return codes told in [first, until) and not again until and with episode `now`.

        They follow one another from one that is drawn, so that none comes twice while others are
        left.

        Args:
            first_B: the first episode that counts.
            until_B: the episode before which it was told.
            now_B: the last episode that may have told it again.
            chance_B: draws, from 0 to below 1.
            asked: how many of each row (Q).
        """
        oldest_B1 = np.maximum(first_B, now_B - self.count // self.each + 1)[:, None]
        pool_B1 = np.maximum((until_B[:, None] - oldest_B1) * self.each, 0)
        drawn_B1 = (chance_B[:, None] * pool_B1).astype(np.int64)
        place_BQ = (drawn_B1 + np.arange(asked)) % np.maximum(pool_B1, 1)
        episodes_BQ, steps_BQ = oldest_B1 + place_BQ // self.each, place_BQ % self.each
        codes_BQ = (episodes_BQ * self.each + steps_BQ) % self.count
        return Earlier(codes_BQ, episodes_BQ, steps_BQ, pool_B1[:, 0] > 0)
