"""Uniform numbers from counters: the same keys give the same numbers in any batch and any order.

A draw is a hash of (key of the episode, step, position). The counters are mixed by the finaliser of
SplitMix64 (Steele, Lea and Flood 2014, OOPSLA, section 4); row and position are joined in 32 bits,
where a store of many slots takes its time, by the finaliser of MurmurHash3 (Appleby 2011), with the
row's second half in its middle. No state, so nothing to save, restore or leak.
"""

import torch
from torch import Tensor

from stillknows.memory import native

_MANY = 1 << 14  # numbers, from which on the native file draws them
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as a signed 64-bit integer
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64
_FIRST_32 = 0x85EBCA6B - 2**32
_SECOND_32 = 0xC2B2AE35 - 2**32


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right filling with zeros (torch shifts signed integers filling with the sign)."""
    return (x >> bits).bitwise_and_((1 << (8 * x.element_size() - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """Return a well-mixed 64-bit integer for each 64-bit integer of `x` (any shape)."""
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def hash_rows(tokens_BL: Tensor) -> Tensor:
    """Return a number for each row of whole numbers, which minds their order, int64 `[B]`."""
    place_L = mix(torch.arange(tokens_BL.shape[1], device=tokens_BL.device))
    return mix(mix(tokens_BL) ^ place_L).sum(dim=1)


def uniform(key_B: Tensor, step_B: Tensor, size: int) -> Tensor:
    """Return floats in [0, 1), `[B, size]`, from keys `[B]` and steps `[B]` (int64)."""
    if key_B.is_cpu and len(key_B) * size >= _MANY and native.library() is not None:
        return native.uniform(key_B, step_B, size)
    row_B1 = mix(mix(key_B) ^ step_B)[:, None]
    position = mix(torch.arange(size, device=key_B.device))
    x = row_B1.to(torch.int32) ^ position.to(torch.int32)
    x.bitwise_xor_(_shift(x, 16)).mul_(_FIRST_32).bitwise_xor_(_shift(row_B1, 32).to(torch.int32))
    x.bitwise_xor_(_shift(x, 13)).mul_(_SECOND_32)
    return _shift(x.bitwise_xor_(_shift(x, 16)), 8).float().div_(1 << 24)
