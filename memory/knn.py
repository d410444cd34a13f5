"""Exact nearest neighbours by squared Euclidean distance, and the kernel of episodic control.

A matrix product leaves out the keys that cannot win; direct differences settle the rest, because
|q|^2 - 2 q.k + |k|^2 loses the zero that the kernel is most sensitive to, and rounds differently
in batches of different sizes, which would choose at random among equal keys. It knows nothing of
what the keys stand for.

Letters: B queries, N stored keys, D key size, K neighbours.
"""

import torch
from torch import Tensor

_CHUNK = 1 << 20  # entries of the B x n matrix that is held at once


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
        distinct_UD, row_B = torch.unique(query_BD, dim=0, return_inverse=True)  # questions repeat
        slot_UK = _select(distinct_UD, keys_ND, filled_N, min(neighbours, len(keys_ND)))
        slot_BK = slot_UK[row_B]
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


def share_kept(before_BK: Tensor, after_BK: Tensor) -> float:
    """Return recall@K: the share of the neighbours before (slots, -1 for none) that stay."""
    known_BK = before_BK >= 0
    same_BKK = (before_BK[:, :, None] == after_BK[:, None]) & known_BK[:, :, None]
    return float(same_BKK.any(dim=2).sum() / known_BK.sum().clamp(min=1))


def _select(query_BD: Tensor, keys_ND: Tensor, filled_N: Tensor, neighbours: int) -> Tensor:
    """Return the slots of the K nearest keys of a query, `[B, K]`, found in chunks of keys."""
    query_BD, keys_ND = query_BD.float(), keys_ND.float()
    size = max(1, _CHUNK // max(1, len(query_BD)))
    best = []
    for first in range(0, len(keys_ND), size):
        chunk = slice(first, first + size)
        exact_Bn = _exact_near_the_edge(query_BD, keys_ND[chunk], filled_N[chunk], neighbours)
        slot_n = torch.arange(first, first + exact_Bn.shape[1], device=keys_ND.device)
        # Bits of non-negative floats are ordered as the floats are: distance first, then slot.
        order_Bn = (exact_Bn.view(torch.int32).long() << 32) | slot_n
        best.append(order_Bn.topk(min(neighbours, len(slot_n)), dim=1, largest=False).values)
    merged_BK = torch.cat(best, dim=1).topk(neighbours, dim=1, largest=False).values
    return merged_BK & 0xFFFFFFFF


def _exact_near_the_edge(
    query_BD: Tensor, keys_nD: Tensor, filled_n: Tensor, neighbours: int
) -> Tensor:
    """Return squared distances `[B, n]` by direct differences, infinite for keys that cannot win.

    A key stays if its score is within twice the rounding error of the K-th best: D roundings of
    terms that are no larger than (|q| + |k|)^2.
    """
    square_n = keys_nD.square().sum(1)
    score_Bn = (square_n - 2 * query_BD @ keys_nD.T).masked_fill(~filled_n, torch.inf)
    last = score_Bn.topk(min(neighbours, len(keys_nD)), dim=1, largest=False).values[:, -1:]
    longest = square_n.masked_fill(~filled_n, 0).amax().sqrt()
    reach_B1 = (query_BD.norm(dim=1, keepdim=True) + longest).square()
    edge_B1 = last + 2 * query_BD.shape[1] * torch.finfo(score_Bn.dtype).eps * reach_B1
    row_P, key_P = ((score_Bn <= edge_B1) & filled_n).nonzero(as_tuple=True)
    exact_P = (query_BD[row_P] - keys_nD[key_P]).square().sum(-1)
    return torch.full_like(score_Bn, torch.inf).index_put((row_P, key_P), exact_P)
