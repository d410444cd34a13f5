"""Exact nearest neighbours by squared Euclidean distance, and the kernel of episodic control.

A matrix product leaves out the keys that cannot win; direct differences settle the rest, because
|q|^2 - 2 q.k + |k|^2 loses the zero that the kernel is most sensitive to, and rounds differently
in batches of different sizes, which would choose at random among equal keys. It knows nothing of
what the keys stand for.

Letters: B queries, N stored keys, D key size, K neighbours.
"""

import math

import torch
from torch import Tensor

_CHUNK = 1 << 20  # entries of the B x n matrix that is held at once
_SLOT = 0xFFFFFFFF
_ROWS = 512  # keys that one piece of a product with a single query takes


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

    Keys stand in blocks. The K nearest are in the K blocks with the lowest scores; the keys of
    these and of some blocks in reserve are measured by direct differences. Where the reserve is
    not enough to be sure (many keys are equal), all keys are settled near the edge.
    """
    query_BD, keys_ND = query_BD.float(), keys_ND.float()
    blocks = math.ceil(len(keys_ND) / _block_size(len(keys_ND)))
    lowest_BJ, longest = _lowest_scores(query_BD, keys_ND, filled_N, blocks)
    taken = lowest_BJ.topk(min(blocks, neighbours + max(8, neighbours // 4)), dim=1, largest=False)
    order_BK = _measure(query_BD, keys_ND, filled_N, taken.indices, blocks, neighbours)
    slot_BK = order_BK & _SLOT
    last_B1 = (order_BK[:, -1:] >> 32).to(torch.int32).view(torch.float32)
    error_B1 = _rounding(query_BD, longest)
    edge_B1 = last_B1 - query_BD.square().sum(1, keepdim=True) + error_B1
    beyond_B1 = taken.values[:, -1:]
    unsure_B = ~((beyond_B1 > edge_B1) | beyond_B1.isposinf()).squeeze(1)
    if taken.indices.shape[1] < blocks and unsure_B.any():
        errors = error_B1[unsure_B]
        slot_BK[unsure_B] = _settle(query_BD[unsure_B], keys_ND, filled_N, errors, neighbours)
    return slot_BK


def _block_size(entries: int) -> int:
    """Return how many keys share a block: fewer blocks to choose from, more keys to measure."""
    return 2 ** max(0, round(math.log2(math.sqrt(entries / 1500)))) if entries else 1


def _lowest_scores(
    query_BD: Tensor, keys_ND: Tensor, filled_N: Tensor, blocks: int
) -> tuple[Tensor, Tensor]:
    """Return the lowest `|k|^2 - 2 q.k` of each block, `[B, J]`, and the largest `|k|^2`.

    Key n is in block n mod J.
    """
    lowest_BJ = torch.full((len(query_BD), blocks), torch.inf, device=query_BD.device)
    together = blocks * max(1, _CHUNK // (max(1, len(query_BD)) * blocks))
    longest = [lowest_BJ.new_zeros(())]
    for part_nD, there_n in zip(
        torch.split(keys_ND, together), torch.split(filled_N, together), strict=True
    ):
        score_Bn, square_n = _scores(query_BD, part_nD, there_n)
        longest.append(square_n.masked_fill(~there_n, 0).amax())
        if len(there_n) % blocks:
            missing = blocks - len(there_n) % blocks
            score_Bn = torch.nn.functional.pad(score_Bn, (0, missing), value=torch.inf)
        rows = score_Bn.shape[1] // blocks
        by_block = score_Bn.view(len(query_BD), rows, blocks)
        lowest_BJ = torch.minimum(lowest_BJ, by_block.amin(dim=1))
    return lowest_BJ, torch.stack(longest).amax()


def _scores(query_BD: Tensor, keys_nD: Tensor, filled_n: Tensor) -> tuple[Tensor, Tensor]:
    """Return `|k|^2 - 2 q.k`, infinite where nothing is held, `[B, n]`, and `|k|^2`, `[n]`."""
    square_n = torch.linalg.vector_norm(keys_nD, dim=1).square()
    twice_DB = (-2 * query_BD).T
    if len(query_BD) == 1:  # a product with one vector reads memory slowly unless cut in pieces
        whole = len(keys_nD) // _ROWS * _ROWS
        pieces = keys_nD[:whole].view(-1, _ROWS, keys_nD.shape[1])
        first = torch.bmm(pieces, twice_DB.expand(len(pieces), -1, -1)).view(1, -1)
        score_Bn = torch.cat([first, (keys_nD[whole:] @ twice_DB).T], dim=1)
    else:
        score_Bn = twice_DB.T @ keys_nD.T
    return score_Bn.add_(square_n.masked_fill(~filled_n, torch.inf)), square_n


def _measure(
    query_BD: Tensor,
    keys_ND: Tensor,
    filled_N: Tensor,
    block_BM: Tensor,
    blocks: int,
    neighbours: int,
) -> Tensor:
    """Return the K nearest keys of these blocks in order (see `_first`), `[B, K]`."""
    first_n = torch.arange(0, len(keys_ND), blocks, device=keys_ND.device)
    slot_Bn = (block_BM[:, :, None] + first_n).flatten(1)
    there_Bn = slot_Bn < len(keys_ND)
    slot_Bn = slot_Bn.clamp(max=len(keys_ND) - 1)
    there_Bn &= filled_N[slot_Bn]
    rows = max(1, _CHUNK // (slot_Bn.shape[1] * query_BD.shape[1]))
    exact = [
        _distances(
            query_bD,
            keys_ND.index_select(0, slot_bn.flatten()).view(*slot_bn.shape, query_BD.shape[1]),
        )
        for query_bD, slot_bn in zip(
            torch.split(query_BD, rows), torch.split(slot_Bn, rows), strict=True
        )
    ]
    exact_Bn = torch.cat(exact).masked_fill(~there_Bn, torch.inf)
    return _first(exact_Bn, slot_Bn, neighbours)


def _distances(query_bD: Tensor, keys_bnD: Tensor) -> Tensor:
    """Return squared distances of each query to its own n keys, `[b, n]`; the keys are spent."""
    return keys_bnD.sub_(query_bD[:, None]).square_().sum(-1)


def _settle(
    query_BD: Tensor, keys_ND: Tensor, filled_N: Tensor, error_B1: Tensor, neighbours: int
) -> Tensor:
    """Return the slots of the K nearest keys by measuring all that are near the edge, `[B, K]`."""
    best = []
    for first, last in _chunks(query_BD, keys_ND):
        keys_nD = keys_ND[first:last]
        score_Bn, _ = _scores(query_BD, keys_nD, filled_N[first:last])
        kept = min(neighbours, last - first)
        worst_B1 = score_Bn.topk(kept, dim=1, largest=False).values[:, -1:]
        near_Bn = (score_Bn <= worst_B1 + error_B1) & score_Bn.isfinite()
        row_P, key_P = near_Bn.nonzero(as_tuple=True)
        exact_P = (query_BD[row_P] - keys_nD[key_P]).square().sum(-1)
        exact_Bn = torch.full_like(score_Bn, torch.inf).index_put((row_P, key_P), exact_P)
        best.append(_first(exact_Bn, torch.arange(first, last, device=keys_ND.device), kept))
    return torch.cat(best, dim=1).topk(neighbours, dim=1, largest=False).values & _SLOT


def _rounding(query_BD: Tensor, longest: Tensor) -> Tensor:
    """Return how far apart the scores of equal distances may be, `[B, 1]`.

    Twice the error of a score: D roundings, and some more for the squares, of terms that are no
    larger than (|q| + |k|)^2.
    """
    reach_B1 = (query_BD.norm(dim=1, keepdim=True) + longest.sqrt()).square()
    error_B1: Tensor = 2 * (query_BD.shape[1] + 4) * torch.finfo(query_BD.dtype).eps * reach_B1
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
