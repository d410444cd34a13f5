"""Acting, where nothing is learned from it: decisions on a CPU, in arrays instead of tensors.

A decision is some dozens of small operations, and most of their time is the price of calling them,
which is less for an array than for a tensor. So what needs no gradient is worked out here when it
is on a CPU: what a `Scorer` says of all that is held. It is the same, to rounding, as in tensors,
which remain for gradients and for GPUs, and as in native code (`fused.py`), which takes less time
where there is a compiler.

Arrays stand with features first, `[H, X]`: what is summed over features, and what belongs to a
column, then runs along the memory.

Letters: B rows, N slots, M = N + 1 (the candidate is last), P places of contents, X = B M columns
(or B P), W word size, H hidden size, O outputs of the scorer, F what embeds beside contents.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import gelu

from stillknows.memory.interface import Features

if TYPE_CHECKING:
    from stillknows.memory.policies.scorer import Weights

Array = NDArray[Any]
Made = TypeVar("Made")

_NEVER = np.float32(-1e9)  # what is added to the logit of what cannot be attended to
_FAINT = np.float32(2.0**-50)  # a cosine times its square moves no logit, and loses no digit
_STEEP = 60.0  # logits up to this have exponentials that may be summed as they are
_FEW = 12  # places, as many as are fetched faster all together
ROOT = np.float32(0.5**0.5)


def on_cpu(tensor: Tensor) -> bool:
    """Return whether a tensor may be looked at as an array."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def acts(tensor: Tensor) -> bool:
    """Return whether what comes of a tensor may be worked out in arrays."""
    return on_cpu(tensor) and not torch.is_grad_enabled()


def through(network: nn.Sequential, x_FX: Array) -> Array:
    """Return what linear layers with GELU between them make of columns, `[O, X]`."""
    for layer in network:
        if isinstance(layer, nn.Linear):
            x_FX = layer.weight.detach().numpy() @ x_FX
            x_FX += layer.bias.detach().numpy()[:, None]
        else:
            assert isinstance(layer, nn.GELU)
            x_FX = gelu(torch.from_numpy(x_FX)).numpy()
    return x_FX


class Products(NamedTuple):
    """What a desk needs of a scorer's weights; see `scorer.Weights`.

    Attributes:
        weights: all products of weights.
        content_WH: what embeds contents.
        content_H: what is added to it.
        attend_OH: what makes queries, and what is read, of z; its last column is what is added.
        layer_OH: the first layer of the network, of z, over sqrt(2).
        last_OH: its last layer, over sqrt(2).
        alike_O1: what faint likeness adds.
        when_HF: what embeds age, fullness, faint likeness, and being new.
        steep: whether a logit may be so large that its exponential is not finite.
        rooms: memory for one decision, while it is not in use.
    """

    weights: "Weights[Array]"
    content_WH: Array
    content_H: Array
    attend_OH: Array
    layer_OH: Array
    last_OH: Array
    alike_O1: Array
    when_HF: Array
    steep: bool
    rooms: deque["Room"]

    @classmethod
    def of(cls, weights: "Weights[Array]", content_WH: Array, content_H: Array) -> "Products":
        """Return them from products of weights, and from what embeds contents."""
        age_H, full_H, alike_H = weights.when_FH
        norm = np.linalg.norm
        return cls(
            weights,
            content_WH,
            content_H,
            _with_bias(
                np.hstack([weights.query_HH, weights.read_HH]), weights.query_H, weights.read_H
            ),
            _with_bias(weights.layer_HH, weights.layer_H) * ROOT,
            _with_bias(weights.last_HO * ROOT, weights.last_O),
            weights.alike_O[:, None] / _FAINT / _FAINT,
            np.stack([age_H, full_H, alike_H / _FAINT / _FAINT, weights.new_H], axis=1),
            bool(norm(weights.query_HH) + norm(weights.query_H) > _STEEP),  # as |z| < 1
            deque(maxlen=1),
        )

    def room(self, rows: int, places: int) -> "Room":
        """Return memory for a decision; nobody else has it until it is given back."""
        room = self.rooms.pop() if self.rooms else None
        if room is None or room.place_BM.shape != (rows, places):
            return Room(rows, places, len(self.content_H))
        return room


class Kept:
    """What was worked out of tensors on a CPU, for as long as these hold the same numbers."""

    def __init__(self) -> None:
        self._places: list[int] = []
        self._views: list[Array] = []
        self._held: list[bytes] = []
        self._made: Any = None

    def of(self, tensors: Sequence[Tensor], kind: type[Made], make: Callable[[], Made]) -> Made:
        """Return what was made of them, and make it anew if they are others, or hold others.

        Args:
            tensors: what it is made of.
            kind: its type; of another it is made anew.
            make: makes it.
        """
        places = [tensor.data_ptr() for tensor in tensors]
        same = isinstance(self._made, kind) and places == self._places
        if not same or [view.tobytes() for view in self._views] != self._held:
            self._places, self._views = places, [tensor.detach().numpy() for tensor in tensors]
            self._held, self._made = [view.tobytes() for view in self._views], make()
        made: Made = self._made
        return made


class Desk(ABC):
    """What a scorer notes of a pool of contents, where nothing is learned from decisions."""

    @abstractmethod
    def scores(self, features: Features) -> Tensor:
        """Return the numbers of all that is held and, last, of the candidate, `[O, B, M]`."""


class ArrayDesk(Desk):
    """Notes and numbers in arrays, with what of them the slots hold now.

    From one decision to the next only a few slots hold something else: their columns, and the
    candidates', are fetched anew.

    Args:
        products: of the scorer's weights as they are.
        content_BPW: the contents, in the order in which they came.
    """

    def __init__(self, products: Products, content_BPW: Array) -> None:
        rows, self._places, width = content_BPW.shape
        self._products = products
        self._embedded_XH = content_BPW.reshape(-1, width) @ products.content_WH
        self._embedded_XH += products.content_H
        self._relations_2X = _relations(content_BPW)
        self._first_B1 = self._places * np.arange(rows)[:, None]

    @np.errstate(invalid="ignore")
    def scores(self, features: Features) -> Tensor:
        """Return the numbers of all that is held and, last, of the candidate, `[O, B, M]`.

        With the letters of `scorer.Weights`, y `[H, X]` and z `[H + 1, X]`, whose last row is 1:
        so a product with z adds what is to be added.
        """
        assert features.place_BM is not None
        place_BM = features.place_BM.numpy()
        of, at = self._products, self._products.room(*place_BM.shape)
        self._fetch(place_BM, at)
        now_FX = self._now(features, at)
        np.matmul(of.when_HF, now_FX, out=at.y_HX)
        at.y_HX += at.held_HX
        at.scale(of.weights.floor)
        np.matmul(of.attend_OH, at.z_HX, out=at.both_OX)
        at.read(of.steep)
        at.y_HX += at.first_HX
        at.scale(of.weights.floor)
        np.matmul(of.layer_OH, at.z_HX, out=at.first_HX)
        torch.erf(at.first, out=at.second)
        at.second_HX += 1
        np.multiply(at.first_HX, at.second_HX, out=at.unit_HX)  # sqrt(2) gelu
        scores_OX = of.last_OH @ at.z_HX
        scores_OX += of.alike_O1 * now_FX[2]
        of.rooms.append(at)
        return torch.from_numpy(scores_OX.reshape(-1, *place_BM.shape))

    def _fetch(self, place_BM: Array, at: "Room") -> None:
        """Lay out what stands in these places: what is not there yet, where that is less work."""
        if at.desk is self and place_BM.shape[1] > _FEW:
            self._exchange(place_BM, at)
        else:
            at_BM = place_BM + self._first_B1
            at.held_HX[:] = self._embedded_XH.take(at_BM.ravel(), axis=0).T
            pairs_MBM = place_BM.T[:, :, None] + at_BM * self._places
            self._relations_2X[0].take(pairs_MBM, out=at.relation_MBM, mode="clip")
        at.desk, at.place_BM = self, place_BM

    def _exchange(self, place_BM: Array, at: "Room") -> None:
        """Lay out what has changed, columns of slots and of candidates."""
        row_K, slot_K = (place_BM != at.place_BM).nonzero()
        at_K = place_BM[row_K, slot_K] + row_K * self._places
        column_K = row_K * place_BM.shape[1] + slot_K
        at.held_HX[:, column_K] = self._embedded_XH.take(at_K, axis=0).T
        pairs_KM = place_BM[row_K] + (at_K * self._places)[:, None]
        to_KM, from_KM = self._relations_2X.take(pairs_KM, axis=1)
        at.relation_MBM[:, row_K, slot_K] = to_KM.T
        at.relation_MBM[slot_K, row_K] = from_KM

    def _now(self, features: Features, at: "Room") -> Array:
        """Return age (logarithm), how full, how alike (faint), and whether new, `[4, X]`."""
        now_FBM, filled_BN = at.now_FBM, features.filled_BN.numpy()
        np.log1p(features.age_BN.numpy(), out=now_FBM[0, :, :-1])
        if (filled := filled_BN.tobytes()) != at.filled:
            at.filled = filled
            now_FBM[1] = filled_BN.mean(axis=1, keepdims=True, dtype=np.float32)
        np.maximum.reduce(at.relation_MBM, axis=0, out=now_FBM[2])
        return now_FBM.reshape(4, -1)


class Room:
    """Memory for the numbers of a decision, taken once: to take it anew costs more than to use it.

    Args:
        rows: B.
        places: M.
        hidden: H.
    """

    def __init__(self, rows: int, places: int, hidden: int) -> None:
        columns, of_row = rows * places, (hidden, rows, places)
        self.desk: ArrayDesk | None = None  # whose columns are laid out, those of `place_BM`
        self.place_BM = np.empty((rows, places), np.int64)
        self.filled = b""
        self.held_HX = np.empty((hidden, columns), np.float32)
        self.relation_MBM = np.empty((places, rows, places), np.float32)
        self.now_FBM = np.zeros((4, rows, places), np.float32)
        self.now_FBM[3, :, -1] = 1
        self.y_HX = np.empty((hidden, columns), np.float32)
        self.z_HX = np.ones((hidden + 1, columns), np.float32)
        self.unit_HX = self.z_HX[:-1]
        both = torch.empty(2 * hidden, columns)
        self.first, self.second = both[:hidden], both[hidden:]
        self.both_OX = both.numpy()
        self.first_HX, self.second_HX = self.both_OX[:hidden], self.both_OX[hidden:]
        self._weight_MBM = np.empty((places, rows, places), np.float32)  # keys stand first
        self._weight_BMM = self._weight_MBM.transpose(1, 0, 2)
        self._key_BMH = self.unit_HX.reshape(of_row).transpose(1, 2, 0)
        self._first_BHM = self.first_HX.reshape(of_row).transpose(1, 0, 2)
        self._value_BHM = self.second_HX.reshape(of_row).transpose(1, 0, 2)

    def scale(self, floor: Any) -> None:
        """Put y / sqrt(|y|^2 + floor) into z."""
        np.multiply(self.y_HX, self.y_HX, out=self.first_HX)
        square_X = np.add.reduce(self.first_HX, axis=0, initial=floor)
        np.divide(self.y_HX, np.sqrt(square_X, out=square_X), out=self.unit_HX)

    def read(self, steep: bool) -> None:
        """Put what each reads from those that came after it, and from itself, before queries."""
        weight_MBM = self._weight_MBM
        np.matmul(self._key_BMH, self._first_BHM, out=self._weight_BMM)
        weight_MBM += self.relation_MBM
        if steep:
            weight_MBM -= np.maximum.reduce(weight_MBM, axis=0)
        np.exp(weight_MBM, out=weight_MBM)
        np.matmul(self._value_BHM, self._weight_BMM, out=self._first_BHM)
        self.first_HX /= np.add.reduce(weight_MBM, axis=0).reshape(-1)


def _with_bias(weight_HO: Array, *bias_O: Array) -> Array:
    return np.vstack([weight_HO, np.hstack(bias_O)]).T


@np.errstate(invalid="ignore")
def _relations(content_BPW: Array) -> Array:
    """Return what each content is to each other of its row, to it and from it, `[2, B P P]`.

    To what came later it is as alike as their cosine, where that is above 0, but faintly, so that
    the same number may be added to a logit; to what came earlier, `_NEVER`; to itself 0.
    """
    dot_BPP = content_BPW @ content_BPW.transpose(0, 2, 1)
    length_BP = np.sqrt(dot_BPP.diagonal(axis1=1, axis2=2))
    scale_BP = _FAINT / np.maximum(length_BP, 1e-12)
    dot_BPP *= scale_BP[:, :, None]
    dot_BPP *= scale_BP[:, None]
    later_PP, never_PP = _order(content_BPW.shape[1])
    relation_2BPP = np.empty((2, *dot_BPP.shape), np.float32)
    relation_2BPP[0] = np.where(later_PP, np.maximum(dot_BPP, 0), never_PP)
    relation_2BPP[1] = relation_2BPP[0].transpose(0, 2, 1)
    return relation_2BPP.reshape(2, -1)


@lru_cache(maxsize=64)
def _order(places: int) -> tuple[Array, Array]:
    """Return which (second) came later than which, and `_NEVER` for those that came earlier."""
    later_PP = np.triu(np.ones((places, places), np.bool_), 1)
    return later_PP, later_PP.T * _NEVER
