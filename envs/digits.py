"""Handwritten digits, 1,797 of 8 x 8 pixels, from scikit-learn: what small benchmarks are made of.

A third of each class examines, the rest trains; which ones is always the same. The digits are those
of the test set of Alpaydin and Kaynak 1998 (UCI, optical recognition of handwritten digits), and
come with scikit-learn; nothing is downloaded.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from sklearn.datasets import load_digits

EXAMINED = 3  # one of so many


class Digits(NamedTuple):
    """Images, float32 `[E, 8, 8]` from 0 to 16, and labels, int64 `[E]`."""

    images: np.ndarray
    labels: np.ndarray


def digits() -> dict[str, Digits]:
    """Return the digits that train and those that examine, by `train` and `test`."""
    loaded = load_digits()
    images, labels = loaded.images.astype(np.float32), loaded.target.astype(np.int64)
    place = np.zeros(len(labels), dtype=int)  # of each among those of its class
    for label in range(10):
        place[labels == label] = np.arange((labels == label).sum())
    examined = place % EXAMINED == 0
    return {
        "train": Digits(images[~examined], labels[~examined]),
        "test": Digits(images[examined], labels[examined]),
    }


def permuted(part: Digits, seed: int) -> Digits:
    """Return digits whose pixels stand in an order that a seed draws; 0: as they are."""
    if seed == 0:
        return part
    order = np.random.default_rng(seed).permutation(64)
    images = part.images.reshape(-1, 64)[:, order].reshape(part.images.shape)
    return Digits(images, part.labels)


def rotated(part: Digits, degrees: float) -> Digits:
    """Return digits turned counter-clockwise, interpolated linearly."""
    if degrees == 0:
        return part
    turned = ndimage.rotate(part.images, degrees, axes=(2, 1), reshape=False, order=1)
    return Digits(turned.astype(np.float32), part.labels)
