"""The native file and PyTorch side by side, and keys that are hard to search among."""

import math

import numpy as np
import pytest
import torch

from stillknows.memory import native
from stillknows.memory.knn import nearest
from stillknows.memory.rounded import Rounded

compiled = pytest.mark.skipif(native.library() is None, reason="needs a C++ compiler")


def without() -> pytest.MonkeyPatch:
    """Return a patch under which there is no native file; undo it."""
    patch = pytest.MonkeyPatch()
    patch.setattr(native, "library", lambda: None)
    return patch


def both(work):
    """Return what work returns with the native file and without."""
    done = work()
    patch = without()
    try:
        return done, work()
    finally:
        patch.undo()


def points(random, kind, count, size):
    """Return vectors: spread, in few tight clumps far away, equal in part, or in order of time.

    Or some are much larger than others, or all very small.
    """
    if kind == "whole":
        return random.integers(-1, 2, (count, size)).astype(np.float32)
    if kind == "clumps":
        centres = 50 * random.normal(size=(3, size)) + 300
        noise = 10.0 ** random.integers(-6, 1, (count, 1)) * random.normal(size=(count, size))
        return (centres[random.integers(3, size=count)] + noise).astype(np.float32)
    spread = random.normal(size=(count, size))
    if kind == "tails":
        spread = random.standard_cauchy(size=(count, size)).clip(-1e9, 1e9)
    if kind == "small":
        spread *= 10.0 ** random.integers(-15, -5)
    return (spread.cumsum(axis=0) if kind == "walk" else spread).astype(np.float32)


def search(query, keys, filled, neighbours):
    """Return distances and slots natively, natively with the keys in bytes, and without."""
    columns = {"keys_ND": keys, "filled_N": filled}
    kept = Rounded().of(columns, len(keys))
    mine, theirs = both(lambda: nearest(query, keys, filled, neighbours))
    return mine, nearest(query, keys, filled, neighbours, None, kept), theirs


def search_alike(query, keys, filled, neighbours):
    """Return what all three find, which is the same to the last bit."""
    *ours, theirs = search(query, keys, filled, neighbours)
    for distances, slots in ours:
        assert torch.equal(slots, theirs[1])
        assert torch.equal(distances, theirs[0])
    return theirs


def hidden(random):
    """Return a query, keys and the nearest five, by numbers for which their steps are too large."""
    large, small = np.zeros((640, 32)), 0.0003 * random.normal(size=(640, 32))
    large[np.arange(640), random.integers(32, size=640)] = random.choice([-1, 1], size=640)
    large[:5] *= math.sqrt(1.043)
    small[:5] = 0.0039
    large[5:] *= random.uniform(1, 1.1, (635, 1))
    return np.repeat([0, 0.2], 32), *shuffled(random, np.concatenate([large, small], axis=1))


def lopsided(random):
    """Return a query below 0, keys and the nearest five, with one number and larger steps."""
    signs = random.permuted(np.tile(np.repeat([-1.0, 1.0], 32), (640, 1)), axis=1)
    keys = random.uniform(0.885, 1.3, (640, 1)) * signs  # not all alike, or all are measured
    keys[:5] = 0
    keys[np.arange(5), random.integers(64, size=5)] = -8
    return np.full(64, -1.0), *shuffled(random, keys)


def blunted(random):
    """Return a query, keys and the nearest five, by numbers of the query below half its step.

    The mean of every 20th key, about which all is rounded, is 0.
    """
    keys = np.full((640, 64), -0.5)
    keys[:, 0] = random.uniform(-20, -10, 640)
    sampled = np.arange(0, 640, 20)
    keys[sampled, 0] = np.tile([11, -0.5, -10, -0.5], 8)
    keys[sampled[::2], 1:] = 0.5
    five, others = random.permutation(np.arange(1, 640, 20))[:10].reshape(2, 5)
    keys[others, 0] = 0.5 / 127 * np.arange(50, 55)
    keys[five, 1:], keys[five, 0] = 0.5, 0
    return np.array([1.0] + [0.49 / 127] * 63), keys, five


def shuffled(random, keys):
    """Return keys in any order, and where the first five are."""
    order = random.permutation(len(keys))
    return keys[order], order.argsort()[:5]
