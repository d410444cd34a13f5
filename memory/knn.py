"""Exact nearest neighbours by squared Euclidean distance, and the kernel of episodic control.

A matrix product leaves out the keys that cannot win; direct differences settle the rest, because
|q|^2 - 2 q.k + |k|^2 loses the zero that the kernel is most sensitive to, and rounds differently
in batches of different sizes, which would choose at random among equal keys. It knows nothing of
what the keys stand for. On a GPU with Triton the same is done by `knn_kernels.py`, which reads the
keys once and never makes the host wait; on a CPU with a compiler by `nearest.cpp`.

A score is |k|^2 - 2 q.k, the squared distance less |q|^2, infinite where no key is held.

Letters: B queries, N stored keys, D key size, K neighbours, M candidates, K and some in reserve.
"""

import importlib.util
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stillknows.memory import native
from stillknows.memory.rounded import InBytes

_HELD = 1 << 22  # scores of a batch that are held at most; of more, the lowest of each group
_CHUNK = 1 << 18  # numbers that are computed at once where not all are held; these fit a cache
_FEW = 1 << 14  # scores that are chosen from without groups
_CACHED = 1 << 20  # numbers of keys that one product with a single query reads fast
_TRITON = importlib.util.find_spec("triton") is not None
_MOST_BY_KERNELS = 1024  # neighbours that one program keeps in order
_PIECE = 2048  # keys that a product with a single query takes at once where they are more


def nearest(
    query_BD: Tensor,
    keys_ND: Tensor,
    filled_N: Tensor,
    neighbours: int,
    length_N: Tensor | None = None,
    rounded: InBytes | None = None,
) -> tuple[Tensor, Tensor]:
    """Return squared distances and slots of the nearest filled keys, nearest first.

    Ties go to the lower slot. Where fewer than K keys are filled, the distance is infinite and
    the slot -1. Squares have to fit: a key whose squared length overflows may be found or not.

    Args:
        query_BD: `[B, D]`.
        keys_ND: `[N, D]`.
        filled_N: which rows of `keys_ND` hold a key, bool `[N]`.
        neighbours: K, at least 1.
        length_N: `squared_lengths` of the keys, where they are known already.
        rounded: the keys in bytes (`Rounded.of`), where they are kept.

    Returns:
        `[B, K]` floats and `[B, K]` int64; no gradient reaches the selection, and the distances
        carry one to queries and keys.
    """
    if native.searches(query_BD, (keys_ND,)):
        kept = () if rounded is None else (rounded,)
        found = native.nearest_of_each(query_BD, (keys_ND,), (filled_N,), neighbours, kept)
        distance_BK, slot_BK = (part[0] for part in found)
        return _with_gradient(distance_BK, slot_BK, query_BD, keys_ND), slot_BK
    if _has_kernels(query_BD, keys_ND, neighbours):
        distances, slots = nearest_of_each(query_BD, [keys_ND], [filled_N], neighbours)
        return distances[0], slots[0]
    held = min(neighbours, len(keys_ND))
    with torch.no_grad():
        if length_N is None:
            length_N = squared_lengths(keys_ND, filled_N)
        query_UD, row_B = torch.unique(query_BD, dim=0, return_inverse=True)  # many ask the same
        slot_UM = _candidates(query_UD.float(), keys_ND.float(), length_N, held)
        rows = max(1, _CHUNK // max(1, slot_UM.shape[1] * keys_ND.shape[1]))
        parts = zip(torch.split(query_UD, rows), torch.split(slot_UM, rows), strict=True)
        distance_UM = torch.cat([_distances(query, keys_ND, slot) for query, slot in parts])
        distance_UK, order_UK = (part[:, :held] for part in distance_UM.sort(dim=1, stable=True))
        distance_BK, slot_BK = distance_UK[row_B], slot_UM.gather(1, order_UK)[row_B]
    distance_BK = _with_gradient(distance_BK, slot_BK, query_BD, keys_ND)
    if missing := neighbours - held:
        distance_BK = torch.nn.functional.pad(distance_BK, (0, missing), value=torch.inf)
        slot_BK = torch.nn.functional.pad(slot_BK, (0, missing), value=-1)
    return distance_BK, slot_BK


def nearest_of_each(
    query_BD: Tensor, keys: Sequence[Tensor], filled: Sequence[Tensor], neighbours: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Return what `nearest` does for each of several stores, at once where it can.

    Args:
        query_BD: `[B, D]`.
        keys: of each store, `[N, D]`; N may differ.
        filled: which rows hold a key, bool `[N]` each.
        neighbours: K, at least 1.
    """
    if all(_has_kernels(query_BD, keys_ND, neighbours) for keys_ND in keys):
        from stillknows.memory.gpu import knn_kernels

        found_at_once = knn_kernels.nearest_of_each(query_BD, keys, filled, neighbours)
    elif native.searches(query_BD, keys):
        found_at_once = native.nearest_of_each(query_BD, keys, filled, neighbours)
    else:
        pairs = zip(keys, filled, strict=True)
        found = [nearest(query_BD, *pair, neighbours) for pair in pairs]
        return [distance_BK for distance_BK, _ in found], [slot_BK for _, slot_BK in found]
    parts = zip(*found_at_once, keys, strict=True)
    distances = [_with_gradient(one, two, query_BD, keys_ND) for one, two, keys_ND in parts]
    return distances, list(found_at_once[1])


def _has_kernels(query_BD: Tensor, keys_ND: Tensor, neighbours: int) -> bool:
    """Return whether `knn_kernels.py` does it: on a GPU, if Triton is there."""
    on_gpu = keys_ND.device.type == "cuda" and keys_ND.dtype == torch.float32
    something = query_BD.numel() and keys_ND.numel() and neighbours <= _MOST_BY_KERNELS
    return bool(_TRITON and on_gpu and something)


def squared_lengths(keys_ND: Tensor, filled_N: Tensor) -> Tensor:
    """Return `|k|^2` of each key, infinite where none is held, `[N]` floats."""
    length_N: Tensor = torch.linalg.vector_norm(keys_ND.float(), dim=1).square()
    return length_N.masked_fill(~filled_N, torch.inf)


class Lengths:
    """`squared_lengths` of the keys of a store, computed again only when they have changed."""

    def __init__(self) -> None:
        self._of: tuple[Tensor, Tensor] | None = None
        self._versions = (-1, -1)
        self._length_N = torch.zeros(0)

    def __reduce__(self) -> tuple[type["Lengths"], tuple[()]]:
        """Make a copy begin anew: a copied tensor counts its changes from 0."""
        return Lengths, ()

    def of(self, keys_ND: Tensor, filled_N: Tensor) -> Tensor:
        """Return `squared_lengths(keys_ND, filled_N)`."""
        versions = (keys_ND._version, filled_N._version)
        known = self._of is not None and self._of[0] is keys_ND and self._of[1] is filled_N
        if not known or versions != self._versions:
            self._of, self._versions = (keys_ND, filled_N), versions
            self._length_N = squared_lengths(keys_ND, filled_N)
        return self._length_N


def inverse_distance_weights(distance_BK: Tensor, delta: float = 1e-3) -> Tensor:
    """Return the normalised kernel, `[B, K]`: 1 / (d^2 + delta) over its sum.

    Pritzel et al. 2017, arXiv:1703.01988, equations 2 and 5. An infinite distance weighs 0; a
    row without neighbours is all zeros.
    """
    kernel_BK = 1 / (distance_BK + delta)
    return kernel_BK / by_halves(kernel_BK)[:, None].clamp(min=torch.finfo().tiny)


def by_halves(numbers: Tensor) -> Tensor:
    """Return sums over the last dimension: its upper half is added to its lower until one is left.

    Vectors of any width can keep to that order, so that `nearest.cpp` has the same last bit.
    """
    if numbers.device.type != "cpu":
        return numbers.sum(dim=-1)
    size = numbers.shape[-1]
    half = 1 << max(0, size - 1).bit_length()
    numbers = torch.nn.functional.pad(numbers, (0, half - size))
    while half > 1:
        half //= 2
        numbers = numbers[..., :half] + numbers[..., half:]
    return numbers[..., 0]


def share_kept(before_BK: Tensor, after_BK: Tensor) -> float:
    """Return recall@K: the share of the neighbours before (slots, -1 for none) that stay.

    Where there were none, all stay.
    """
    known_BK = before_BK >= 0
    if not known_BK.any():
        return 1.0
    same_BKK = (before_BK[:, :, None] == after_BK[:, None]) & known_BK[:, :, None]
    return float(same_BKK.any(dim=2).sum() / known_BK.sum())


def _distances(query_BD: Tensor, keys_ND: Tensor, slot_Bn: Tensor) -> Tensor:
    """Return squared distances to the keys at `slot_Bn`, infinite at -1, by differences."""
    at_Bn = slot_Bn.clamp(min=0)
    keys_BnD = keys_ND.index_select(0, at_Bn.flatten()).view(*at_Bn.shape, keys_ND.shape[1])
    distance_Bn = by_halves((query_BD[:, None] - keys_BnD).square_())
    return distance_Bn.masked_fill(slot_Bn < 0, torch.inf)


def _with_gradient(
    distance_BK: Tensor, slot_BK: Tensor, query_BD: Tensor, keys_ND: Tensor
) -> Tensor:
    """Return distances, measured again where a gradient is to reach queries or keys."""
    wanted = torch.is_grad_enabled() and (query_BD.requires_grad or keys_ND.requires_grad)
    return _distances(query_BD, keys_ND, slot_BK) if wanted else distance_BK


def _candidates(query_BD: Tensor, keys_ND: Tensor, length_N: Tensor, neighbours: int) -> Tensor:
    """Return slots among which the K nearest are, in their order, -1 for none, `[B, M]`.

    Where the scores leave it open who is among the K nearest (many keys are equal), the keys
    that may be are measured.
    """
    size = _group_size(len(query_BD), len(keys_ND))
    score_JB = _lowest_of_groups(query_BD, keys_ND, length_N, size)
    count = min(neighbours + max(8, neighbours // 4), len(keys_ND))
    score_BM, slot_BM = _lowest(score_JB, count)
    if size > 1:
        place = torch.arange(size, device=keys_ND.device)
        slot_BC = (slot_BM[:, :, None] * size + place).flatten(1)
        score_BM, slot_BM = _lowest_of_some(query_BD, keys_ND, length_N, slot_BC, count)
    slot_BM = slot_BM.masked_fill(score_BM.isposinf(), -1)
    last_B1, beyond_B1 = score_BM[:, neighbours - 1 : neighbours], score_BM[:, -1:]
    edge_B1 = last_B1 + _rounding(query_BD, last_B1)
    unsure_B = ((beyond_B1 <= edge_B1) & beyond_B1.isfinite()).any(dim=1)
    if count < len(keys_ND) and unsure_B.any():
        doubtful = query_BD[unsure_B], keys_ND, length_N, edge_B1[unsure_B]
        slot_BM[unsure_B] = torch.nn.functional.pad(
            _settle(*doubtful, neighbours), (0, count - neighbours), value=-1
        )
    return slot_BM.sort(dim=1).values


def _group_size(queries: int, keys: int) -> int:
    """Return how many keys share a group: fewer groups to choose from, more keys to compare."""
    return 1 if queries * keys <= _HELD else 2 ** int(math.log2(max(1.0, keys / 3000)) / 2)


def _scores(query_BD: Tensor, keys_nD: Tensor, length_n: Tensor) -> Tensor:
    """Return scores, `[n, B]`."""
    twice_DB, length_n1 = query_BD.T * -2, length_n[:, None]
    if len(query_BD) > 1 or keys_nD.numel() <= _CACHED:
        return torch.addmm(length_n1, keys_nD, twice_DB)
    # A product with one vector reads memory slowly unless it is cut in pieces.
    pieces = math.ceil(len(keys_nD) / _PIECE)
    whole = len(keys_nD) // pieces * pieces
    keys_PpD = keys_nD[:whole].view(pieces, -1, keys_nD.shape[1])
    score_n1 = torch.bmm(keys_PpD, twice_DB.expand(pieces, -1, -1)).view(-1, 1)
    return torch.cat([score_n1, keys_nD[whole:] @ twice_DB]).add_(length_n1)


def _lowest_of_groups(query_BD: Tensor, keys_ND: Tensor, length_N: Tensor, size: int) -> Tensor:
    """Return the lowest score of each `size` keys in a row, `[J, B]`."""
    if size == 1:
        return _scores(query_BD, keys_ND, length_N)
    lowest, together = [], max(1, _CHUNK // (len(query_BD) * size)) * size
    for keys_nD, length_n in zip(
        torch.split(keys_ND, together), torch.split(length_N, together), strict=True
    ):
        score_nB = _scores(query_BD, keys_nD, length_n)
        whole = len(score_nB) // size * size
        lowest.append(score_nB[:whole].view(-1, size, len(query_BD)).amin(dim=1))
        if whole < len(score_nB):
            lowest.append(score_nB[whole:].amin(dim=0, keepdim=True))
    return torch.cat(lowest)


def _lowest(score_nB: Tensor, count: int, ordered: bool = True) -> tuple[Tensor, Tensor]:
    """Return the lowest scores and where they are, `[B, M]`: a topk that looks at few.

    The M lowest are in the M groups of four whose lowest scores are lowest, and these are found
    in the same way.
    """
    quarter = len(score_nB) // 4
    if quarter <= count or score_nB.numel() <= _FEW:
        count = min(count, len(score_nB))
        return score_nB.T.topk(count, dim=1, largest=False, sorted=ordered)
    rows, queries = 4 * quarter, score_nB.shape[1]
    group_jB = score_nB[:rows].view(4, quarter, queries).amin(dim=0)
    group_BM = _lowest(group_jB, count, ordered=False)[1]
    first_4 = torch.arange(0, rows, quarter, device=score_nB.device)
    row_BC = (group_BM[:, :, None] + first_4).flatten(1)
    if rows < len(score_nB):  # what is in no group
        rest = torch.arange(rows, len(score_nB), device=score_nB.device)
        row_BC = torch.cat([row_BC, rest.expand(queries, -1)], dim=1)
    score_BC = score_nB.T.gather(1, row_BC)
    score_BM, at_BM = score_BC.topk(count, dim=1, largest=False, sorted=ordered)
    return score_BM, row_BC.gather(1, at_BM)


def _lowest_of_some(
    query_BD: Tensor, keys_ND: Tensor, length_N: Tensor, slot_BC: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return the lowest scores of some keys, a row a query, and their slots, `[B, M]`."""
    there_BC = slot_BC < len(keys_ND)
    slot_BC = slot_BC.clamp(max=len(keys_ND) - 1)
    rows = max(1, _CHUNK // (slot_BC.shape[1] * keys_ND.shape[1]))
    product = [
        torch.bmm(keys_ND[slot_bC], query_bD[:, :, None])[:, :, 0]
        for query_bD, slot_bC in zip(
            torch.split(query_BD, rows), torch.split(slot_BC, rows), strict=True
        )
    ]
    score_BC = torch.sub(length_N[slot_BC], torch.cat(product), alpha=2)
    score_BC = score_BC.masked_fill(~there_BC, torch.inf)
    score_BM, at_BM = score_BC.topk(count, dim=1, largest=False)
    return score_BM, slot_BC.gather(1, at_BM)


def _settle(
    query_BD: Tensor, keys_ND: Tensor, length_N: Tensor, edge_B1: Tensor, neighbours: int
) -> Tensor:
    """Return the slots of the K nearest by measuring all keys up to an edge, `[B, K]`."""
    nearest_BK = []
    for query_1D, edge_1 in zip(torch.split(query_BD, 1), edge_B1, strict=True):
        near_n = (_scores(query_1D, keys_ND, length_N)[:, 0] <= edge_1).nonzero()[:, 0]
        order_n = by_halves((keys_ND[near_n] - query_1D).square()).sort(stable=True).indices
        nearest_BK.append(near_n[order_n[:neighbours]])
    return torch.stack(nearest_BK)


def _rounding(query_BD: Tensor, score_B1: Tensor) -> Tensor:
    """Return how far apart the scores of equal distances near such a score may be, `[B, 1]`.

    Four times the error of a score: D roundings, and some more for the squares, of terms that
    are no larger than (|q| + |k|)^2. A key at the distance d has |k| <= |q| + d, and
    (2 |q| + d)^2 <= 8 |q|^2 + 2 d^2 = 10 |q|^2 + 2 score.
    """
    reach_B1 = 10 * query_BD.square().sum(dim=1, keepdim=True) + 2 * score_B1
    real = torch.finfo(query_BD.dtype)  # where squares are denormal, an error is absolute
    return 2 * (query_BD.shape[1] + 4) * (real.eps * reach_B1 + real.tiny * real.eps)
