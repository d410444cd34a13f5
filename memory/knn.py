"""Exact nearest neighbours by squared Euclidean distance, and the kernel of episodic control.

The winners are found by a matrix product; their distances are then computed again by direct
differences, because |q|^2 - 2 q.k + |k|^2 loses the zero that the kernel is most sensitive to.

Letters: B queries, N stored keys, D key size, K neighbours.
"""

import torch
from torch import Tensor

_CHUNK = 1 << 22  # entries of the B x n matrix that is held at once


def nearest(
    query_BD: Tensor, keys_ND: Tensor, filled_N: Tensor, neighbours: int
) -> tuple[Tensor, Tensor]:
    """Return squared distances and slots of the nearest filled keys, nearest first.

    Ties go to the lower slot. Where fewer than K keys are filled, the distance is infinite and
    the slot -1.

    Args:
        query_BD: `[B, D]`.
        keys_ND: `[N, D]`.
        filled_N: which rows of `keys_ND` hold a key, bool `[N]`.
        neighbours: K, at least 1.

    Returns:
        `[B, K]` floats and `[B, K]` int64; no gradient reaches the selection, and the distances
        carry one to queries and keys.
    """
    with torch.no_grad():
        slot_BK = _select(query_BD, keys_ND, filled_N, min(neighbours, len(keys_ND)))
    difference_BKD = query_BD[:, None] - keys_ND[slot_BK]
    distance_BK = difference_BKD.square().sum(-1)
    distance_BK = distance_BK.masked_fill(~filled_N[slot_BK], torch.inf)
    slot_BK, by_slot_BK = slot_BK.sort(dim=1, stable=True)
    distance_BK, by_distance_BK = distance_BK.gather(1, by_slot_BK).sort(dim=1, stable=True)
    slot_BK = slot_BK.gather(1, by_distance_BK).masked_fill(distance_BK.isinf(), -1)
    missing = neighbours - slot_BK.shape[1]
    return (
        torch.nn.functional.pad(distance_BK, (0, missing), value=torch.inf),
        torch.nn.functional.pad(slot_BK, (0, missing), value=-1),
    )


def inverse_distance_weights(distance_BK: Tensor, delta: float = 1e-3) -> Tensor:
    """Return the normalised kernel, `[B, K]`: 1 / (d^2 + delta) over its sum.

    Pritzel et al. 2017, arXiv:1703.01988, equations 2 and 5. An infinite distance weighs 0; a
    row without neighbours is all zeros.
    """
    kernel_BK = 1 / (distance_BK + delta)
    return kernel_BK / kernel_BK.sum(dim=1, keepdim=True).clamp(min=torch.finfo().tiny)


def _select(query_BD: Tensor, keys_ND: Tensor, filled_N: Tensor, neighbours: int) -> Tensor:
    """Return K candidate slots a query, found in chunks of keys."""
    size = max(neighbours, _CHUNK // max(1, len(query_BD)))
    best, slots = [], []
    for first in range(0, len(keys_ND), size):
        keys_nD = keys_ND[first : first + size]
        score_Bn = keys_nD.square().sum(1) - 2 * query_BD @ keys_nD.T
        score_Bn = score_Bn.masked_fill(~filled_N[first : first + size], torch.inf)
        found = score_Bn.topk(min(neighbours, len(keys_nD)), dim=1, largest=False)
        best.append(found.values)
        slots.append(found.indices + first)
    if len(best) == 1:
        return slots[0]
    merged = torch.cat(best, dim=1).topk(neighbours, dim=1, largest=False)
    return torch.cat(slots, dim=1).gather(1, merged.indices)
