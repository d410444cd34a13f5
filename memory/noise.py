"""Uniform numbers from counters: the same keys give the same numbers in any batch and any order.

A draw is a hash of (key of the episode, step, position): the finaliser of SplitMix64 (Steele, Lea
and Flood 2014, OOPSLA, section 4). No state, so nothing to save, restore or leak.
"""

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as a signed 64-bit integer
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right filling with zeros (torch shifts signed integers filling with the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """Return a well-mixed 64-bit integer for each 64-bit integer of `x` (any shape)."""
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def uniform(key_B: Tensor, step_B: Tensor, size: int) -> Tensor:
    """Return floats in [0, 1), `[B, size]`, from keys `[B]` and steps `[B]` (int64)."""
    base_B = mix(mix(key_B) ^ step_B)
    position = torch.arange(size, device=key_B.device)
    return _shift(mix(base_B[:, None] ^ mix(position)), 40).float() / float(1 << 24)
