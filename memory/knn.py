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
_SLOT = 0xFFFFFFFF


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
    """Return the slots of the K nearest keys of a query, `[B, K]`.

    The best by score, and some more in reserve, are measured by direct differences. Where the
    reserve is not enough to be sure (many keys are equal), all keys are settled near the edge.
    """
    query_BD, keys_ND = query_BD.float(), keys_ND.float()
    square_N = keys_ND.square().sum(1)
    edge_B1 = _rounding(query_BD, square_N.masked_fill(~filled_N, 0))
    square_N = square_N.masked_fill(~filled_N, torch.inf)
    score_BM, slot_BM = _best_by_score(query_BD, keys_ND, square_N, neighbours)
    last_B1 = score_BM[:, neighbours - 1 : neighbours]
    sure_B = (score_BM[:, -1:] > last_B1 + edge_B1).squeeze(1) | last_B1.squeeze(1).isinf()
    exact_BM = (query_BD[:, None] - keys_ND[slot_BM]).square().sum(-1)
    exact_BM = exact_BM.masked_fill(score_BM.isinf(), torch.inf)
    slot_BK = _first(exact_BM, slot_BM, neighbours) & _SLOT
    if slot_BM.shape[1] < len(keys_ND) and not sure_B.all():
        unsure = ~sure_B
        edges = edge_B1[unsure]
        slot_BK[unsure] = _settle(query_BD[unsure], keys_ND, square_N, edges, neighbours)
    return slot_BK


def _best_by_score(
    query_BD: Tensor, keys_ND: Tensor, square_N: Tensor, neighbours: int
) -> tuple[Tensor, Tensor]:
    """Return the M >= K lowest `|k|^2 - 2 q.k`, lowest first, and their slots, `[B, M]` each."""
    reserve = neighbours + max(8, neighbours // 4)
    scores, slots = [], []
    for first, last in _chunks(query_BD, keys_ND):
        part = slice(first, last)
        score_Bn = torch.addmm(square_N[part], query_BD, keys_ND[part].T, alpha=-2)
        best = score_Bn.topk(min(reserve, last - first), dim=1, largest=False)
        scores.append(best.values)
        slots.append(best.indices + first)
    score_BM, slot_BM = torch.cat(scores, dim=1), torch.cat(slots, dim=1)
    if len(scores) == 1:
        return score_BM, slot_BM
    best = score_BM.topk(min(reserve, score_BM.shape[1]), dim=1, largest=False)
    return best.values, slot_BM.gather(1, best.indices)


def _settle(
    query_BD: Tensor, keys_ND: Tensor, square_N: Tensor, edge_B1: Tensor, neighbours: int
) -> Tensor:
    """Return the slots of the K nearest keys by measuring all that are near the edge, `[B, K]`."""
    best = []
    for first, last in _chunks(query_BD, keys_ND):
        keys_nD = keys_ND[first:last]
        score_Bn = torch.addmm(square_N[first:last], query_BD, keys_nD.T, alpha=-2)
        kept = min(neighbours, last - first)
        worst_B1 = score_Bn.topk(kept, dim=1, largest=False).values[:, -1:]
        near_Bn = (score_Bn <= worst_B1 + edge_B1) & score_Bn.isfinite()
        row_P, key_P = near_Bn.nonzero(as_tuple=True)
        exact_P = (query_BD[row_P] - keys_nD[key_P]).square().sum(-1)
        exact_Bn = torch.full_like(score_Bn, torch.inf).index_put((row_P, key_P), exact_P)
        best.append(_first(exact_Bn, torch.arange(first, last, device=keys_ND.device), kept))
    return torch.cat(best, dim=1).topk(neighbours, dim=1, largest=False).values & _SLOT


def _rounding(query_BD: Tensor, square_N: Tensor) -> Tensor:
    """Return how far apart the scores of equal distances may be, `[B, 1]`.

    Twice the error of a score: D roundings of terms that are no larger than (|q| + |k|)^2.
    """
    reach_B1 = (query_BD.norm(dim=1, keepdim=True) + square_N.amax().sqrt()).square()
    error_B1: Tensor = 2 * query_BD.shape[1] * torch.finfo(query_BD.dtype).eps * reach_B1
    return error_B1


def _first(distance_Bn: Tensor, slot: Tensor, neighbours: int) -> Tensor:
    """Return the lowest pairs of distance and slot as whole numbers, the slot in the low 32 bits.

    Bits of non-negative floats are ordered as the floats are: distance first, then slot.
    """
    order_Bn = (distance_Bn.view(torch.int32).long() << 32) | slot
    return order_Bn.topk(neighbours, dim=1, largest=False).values


def _chunks(query_BD: Tensor, keys_ND: Tensor) -> list[tuple[int, int]]:
    """Return the bounds of parts of the keys that a batch is compared with at once."""
    size = max(1, _CHUNK // max(1, len(query_BD)))
    return [(first, min(first + size, len(keys_ND))) for first in range(0, len(keys_ND), size)]
