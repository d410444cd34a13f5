"""Who stays: the decision that numbers of what is held, and of the candidate, lead to on a CPU.

It is worked out in one call of native code where there is any, else in arrays.

Letters: B rows, N slots, M = N + 1 (the candidate is last).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stillknows.memory import native
from stillknows.memory.interface import ADD, SKIP, Decision

_BOUNDED, _COMPETES, _TAKES_ROOM, _TELLS = 1, 2, 4, 8  # as in choosing.cpp


class Terms(NamedTuple):
    """On what terms a candidate is kept.

    Attributes:
        threshold: its number must be above it; None: need not.
        competes: whether a full memory keeps it only if it is worth as much as what is worth least.
        takes_room: whether it is kept where there is room, whatever its number is.
        margin: where numbers are probabilities, and what is nearer than this to 0, or to 1, is
            worth the same: the action tells that of the candidate as it is. 0: they are not.
    """

    threshold: float | None = None
    competes: bool = True
    takes_room: bool = False
    margin: float = 0.0


def choose(filled_BN: Tensor, worth_BX: Tensor, number_BY: Tensor, terms: Terms) -> Decision:
    """Return decisions by which what is worth least leaves; of equals the first, NaN before all.

    Args:
        filled_BN: which slots hold something.
        worth_BX: what each slot is worth, and perhaps more behind.
        number_BY: the candidate's number is the last.
        terms: on which it is kept.
    """
    if native.library() is None:
        return _in_arrays(filled_BN, worth_BX, number_BY, terms)
    rows, slots = filled_BN.shape
    assert len(worth_BX) == len(number_BY) == rows
    assert 0 < slots <= worth_BX.shape[1]
    assert filled_BN.dtype == torch.bool
    filled_BN, worth_BX, number_BY = (
        filled_BN.contiguous(), native.floats(worth_BX), native.floats(number_BY)
    )  # fmt: skip
    threshold, competes, takes_room, margin = terms
    how = _BOUNDED * (threshold is not None) + _COMPETES * competes
    how += _TAKES_ROOM * takes_room + _TELLS * (margin > 0)
    told = Decision(
        torch.empty(rows, 4), torch.empty(rows, slots), torch.empty(rows, slots), torch.empty(rows)
    )
    native.call(
        "choose", rows, slots, filled_BN.data_ptr(), worth_BX.data_ptr(), worth_BX.shape[1],
        number_BY[:, -1:].data_ptr(), number_BY.shape[1], threshold or 0.0, margin, how,
        *(part.data_ptr() for part in told),
    )  # fmt: skip
    return told


@np.errstate(invalid="ignore")
def _in_arrays(filled_BN: Tensor, worth_BX: Tensor, number_BY: Tensor, terms: Terms) -> Decision:
    """Return what `choose` does."""
    filled, own_B = filled_BN.numpy(), number_BY.numpy()[:, -1]
    rows, slots = filled.shape
    low, high = np.float32(terms.margin), np.float32(1 - terms.margin)
    clip = (lambda number: number.clip(low, high)) if terms.margin else np.asarray
    worth_BN = np.where(filled, clip(worth_BX.numpy()[:, :slots]), -np.inf)
    full_B, lowest_B = np.logical_and.reduce(filled, 1), np.minimum.reduce(worth_BN, 1)
    kept_B = (clip(own_B) >= lowest_B) | ~full_B if terms.competes else np.ones(rows, np.bool_)
    if terms.threshold is not None:
        kept_B &= own_B > terms.threshold
    if terms.takes_room:
        kept_B |= ~full_B
    action_B4 = np.zeros((rows, 4), np.float32)
    action_B4[:, SKIP], action_B4[:, ADD] = ~kept_B, kept_B
    if terms.margin:
        action_B4[:, SKIP] *= 1 - own_B
        action_B4[:, ADD] = own_B
    places_2BN = np.zeros((2, rows, slots), np.float32)  # of slots, of victims
    places_2BN[full_B.view(np.int8), np.arange(rows), worth_BN.argmin(1)] = kept_B
    nothing_B = np.zeros(rows, np.float32)
    return Decision(*map(torch.from_numpy, (action_B4, *places_2BN, nothing_B)))
