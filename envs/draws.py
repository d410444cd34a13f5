"""Random numbers of many rows at once, each row's a pure function of its key.

A row draws the same numbers whichever rows stand beside it, so that a batch of stories is written
in a few operations on arrays and row b is the story of key b. Letters: B rows, N numbers a row.
"""

import numpy as np

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIXES = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


def mixed(numbers: np.ndarray) -> np.ndarray:
    """Return numbers whose bits are mixed, uint64 (Steele et al. 2014, SplitMix64's finaliser)."""
    for shift, factor in _MIXES:
        numbers = (numbers ^ (numbers >> shift)) * factor
    return np.asarray(numbers ^ (numbers >> np.uint64(31)))


class Draws:
    """Numbers one after another for every row.

    Args:
        keys_B: of the rows, whole numbers from 0.
    """

    def __init__(self, keys_B: np.ndarray) -> None:
        self._keys_B1 = mixed(np.asarray(keys_B).astype(np.uint64))[:, None]
        self._drawn = 0

    def uniform(self, count: int) -> np.ndarray:
        """Return numbers from 0 to below 1, float64 `[B, N]`."""
        places_N = np.arange(self._drawn + 1, self._drawn + count + 1, dtype=np.uint64)
        self._drawn += count
        bits_BN = mixed(self._keys_B1 + places_N * _STEP)
        return np.asarray((bits_BN >> np.uint64(11)) * 2.0**-53)

    def below(self, most: int, count: int) -> np.ndarray:
        """Return whole numbers below `most`, each as likely, int64 `[B, N]`."""
        return (self.uniform(count) * most).astype(np.int64)

    def order(self, count: int) -> np.ndarray:
        """Return the numbers below `count` in any order, int64 `[B, N]`."""
        return np.argsort(self.uniform(count), axis=1)
