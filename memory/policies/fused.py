"""Numbers of all that is held, in native code: what `acting.py` works out in arrays, to rounding.

What is linear in a content is noted of it by `scoring.cpp`, together with what queries, and what is
read, are made of, so that a decision adds to it, scales it, and attends.

Letters: B rows, N slots, M = N + 1 (the candidate is last), P places of contents, W word size,
H hidden size, V = 2 H, F = 3 H, O outputs, L columns; H and L are up to a multiple of 8.
"""

import ctypes
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stillknows.memory import native
from stillknows.memory.interface import Features
from stillknows.memory.policies.acting import ROOT, Array, Desk

if TYPE_CHECKING:
    from stillknows.memory.policies.scorer import Weights

_PADDED = 8  # as in products.h


class Network(NamedTuple):
    """Products of a scorer's weights (`scorer.Weights`), as native code has them.

    Attributes:
        packed: all of them, one after the other (`Network` of scoring.cpp).
        width: W.
        hidden: H.
        outputs: O.
    """

    packed: Tensor
    width: int
    hidden: int
    outputs: int

    @classmethod
    def of(cls, weights: "Weights[Array]", content_WH: Array, content_H: Array) -> "Network":
        """Return them from products of weights, and from what embeds contents."""
        attend_HV = np.hstack([_square(weights.query_HH), _square(weights.read_HH)])
        when_4H = _filled(np.vstack([weights.when_FH, weights.new_H]))
        parts = [
            *(_filled(content_WH), _filled(content_H), attend_HV, _filled(weights.query_H)),
            *(_filled(weights.read_H), np.hstack([when_4H, when_4H @ attend_HV])),
            *(_square(weights.layer_HH) * ROOT, _filled(weights.layer_H) * ROOT),
            *(_filled(weights.last_HO.T * ROOT), weights.last_O, weights.alike_O, weights.floor),
        ]
        packed = np.concatenate([part.ravel() for part in parts], dtype=np.float32)
        hidden = len(parts[1])
        return cls(torch.tensor(packed), len(content_WH), hidden, len(weights.last_O))

    @property
    def given(self) -> tuple[int, int, int, int]:
        """What native code is told of them."""
        return self.packed.data_ptr(), self.width, self.hidden, self.outputs


class NativeDesk(Desk):
    """What a scorer notes of a pool of contents, where there is native code.

    Args:
        products: of the scorer's weights as they are.
        content_BPW: the contents, in the order in which they came.
    """

    def __init__(self, products: Network, content_BPW: Tensor) -> None:
        rows, places, width = content_BPW.shape
        assert width == products.width
        content_BPW = native.floats(content_BPW)
        columns = places + -places % _PADDED
        self._products, self._rows, self._places = products, rows, places
        self._noted_BPF = torch.empty(rows, places, 3 * products.hidden)
        self._alike_BPL = torch.empty(rows, places, columns)
        native.call(
            "note", *products.given, content_BPW.data_ptr(), rows, places,
            self._noted_BPF.data_ptr(), self._alike_BPL.data_ptr(),
        )  # fmt: skip

    def scores(self, features: Features) -> Tensor:
        """Return the numbers of all that is held and, last, of the candidate, `[O, B, M]`.

        Raises:
            ValueError: if the slots of a row stand at places that are not there, or at the same.
        """
        assert features.place_BM is not None
        network, place_BM = self._products, features.place_BM.contiguous()
        filled_BN, age_BN = features.filled_BN.contiguous(), native.floats(features.age_BN)
        rows, slots = filled_BN.shape
        assert age_BN.shape == (rows, slots)
        assert place_BM.dtype == torch.int64
        assert place_BM.shape == (self._rows, slots + 1) == (rows, slots + 1)
        score_OBM = torch.empty(network.outputs, rows, slots + 1)
        wrong = native.call(
            "score", *network.given, self._noted_BPF.data_ptr(), self._alike_BPL.data_ptr(), rows,
            self._places, slots, place_BM.data_ptr(), age_BN.data_ptr(), filled_BN.data_ptr(),
            score_OBM.data_ptr(),
        )  # fmt: skip
        if wrong >= 0:
            raise ValueError(
                f"place_BM of row {wrong} is {place_BM[wrong].tolist()}: each slot stands at a "
                f"place of its own, below {self._places}."
            )
        return score_OBM


def expected_use(network: nn.Module, features: Features) -> Tensor:
    """Return what `offline.OfflinePolicy.expected_use` does, `[B, M]`, without a gradient."""
    weights = [native.floats(part) for part in network.parameters()]
    filled_BN = features.filled_BN.contiguous()
    past = features.age_BN, features.idle_BN, features.usage_BN
    alike_BN, *past_BN = (native.floats(part) for part in (features.similarity_BN, *past))
    rows, slots = filled_BN.shape
    assert all(part.shape == (rows, slots) for part in (alike_BN, *past_BN))
    use_BM = torch.empty(rows, slots + 1)
    native.call(
        "expect_use", _addresses(weights), len(weights[1]), rows, slots, filled_BN.data_ptr(),
        alike_BN.data_ptr(), _addresses(past_BN), use_BM.data_ptr(),
    )  # fmt: skip
    return use_BM


def _addresses(tensors: Iterable[Tensor]) -> "ctypes.Array[ctypes.c_void_p]":
    held = [tensor.data_ptr() for tensor in tensors]
    return (ctypes.c_void_p * len(held))(*held)


def _filled(numbers: Array) -> Array:
    """Return numbers with zeros behind, up to a multiple of 8 in a row."""
    behind = -numbers.shape[-1] % _PADDED
    return np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, behind)])


def _square(numbers_HH: Array) -> Array:
    return _filled(_filled(numbers_HH).T).T
