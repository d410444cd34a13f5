"""Exact nearest neighbours on a GPU, in three kernels, for the keys of several stores at once.

The keys are read once: a kernel multiplies a tile of them with all queries and keeps the lowest
score of every group of keys, and of the tile. The groups that may hold a winner are then measured
by direct differences, as `knn.py` does and for its reasons. Where rounding leaves it open who is
among the K nearest (many keys are equal), a third kernel measures all keys of that store for that
query; it is always started and does nothing elsewhere, so the host is never asked.

The product is in tf32, whose rounding is known and only decides how many groups are measured.
Needs Triton, which comes with PyTorch for CUDA; `knn.py` calls this file where both are there.

Letters: S stores, B queries, R = S B rows, N keys of a store, D key size, T tiles of keys, J groups
of keys, M groups that are measured, C = keys in them, K neighbours.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from stillknows.memory.interface import placed

_GROUP = 16  # keys of which the lowest score is kept
_SPAN = 8  # tiles of one program
_MOST_NEIGHBOURS = 1024  # that one program keeps in order


def nearest_of_each(
    query_BD: Tensor,
    keys: Sequence[Tensor],
    filled: Sequence[Tensor],
    neighbours: int,
    precision: str = "tf32",
) -> tuple[Tensor, Tensor]:
    """Return squared distances and slots of the nearest filled keys of each store, nearest first.

    Ties go to the lower slot. Where fewer than K keys are filled, the distance is infinite and the
    slot -1. Nothing here waits for the GPU.

    Args:
        query_BD: `[B, D]`, float32.
        keys: of each store, `[N, D]`, float32; N may differ.
        filled: which rows hold a key, bool `[N]` each.
        neighbours: K, at least 1.
        precision: of the product that looks for candidates: `tf32`, `tf32x3` or `ieee`.

    Returns:
        `[S, B, K]` floats and `[S, B, K]` int64, without a gradient.

    Raises:
        ValueError: if K is beyond 1,024.
    """
    if neighbours > _MOST_NEIGHBOURS:
        raise ValueError(f"neighbours={neighbours}: at most {_MOST_NEIGHBOURS} on a GPU.")
    query_BD = query_BD.detach().float().contiguous()
    keys = [each.detach().float().contiguous() for each in keys]
    held = [each.contiguous().view(torch.uint8) for each in filled]
    places = tuple(
        (key.data_ptr(), fill.data_ptr(), len(key)) for key, fill in zip(keys, held, strict=True)
    )
    table_S3 = _table(places, query_BD.device)
    most, count = max(len(each) for each in keys), 2 * neighbours
    groups = triton.cdiv(most, _GROUP)
    if count < groups:
        lowest_RJ, coarse_RT = _lowest_scores(query_BD, table_S3, most, precision)
        bound_R, group_RM = _chosen(lowest_RJ, coarse_RT, count)
    else:
        group_J = torch.arange(groups, device=query_BD.device)
        group_RM = group_J.expand(len(keys) * len(query_BD), -1).contiguous()
        bound_R = query_BD.new_full((len(group_RM),), torch.inf)
    distance_RK, slot_RK = _measured(query_BD, table_S3, group_RM, neighbours)
    unsure_R = _unsure(query_BD, bound_R, distance_RK[:, -1])
    _settle(query_BD, table_S3, unsure_R, distance_RK, slot_RK)
    shape = (len(keys), len(query_BD), neighbours)
    return distance_RK.view(shape), slot_RK.view(shape)


@lru_cache(maxsize=64)
def _table(places: tuple[tuple[int, int, int], ...], device: torch.device) -> Tensor:
    """Return addresses of keys and of what is filled, and sizes, int64 `[S, 3]`."""
    return placed(places, device)


def _lowest_scores(
    query_BD: Tensor, table_S3: Tensor, most: int, precision: str
) -> tuple[Tensor, Tensor]:
    """Return the lowest score of each group (`[R, J]`) and of each tile (`[R, T]`) of the keys.

    It is infinite for none. The largest store has `most` keys, and all have as many tiles.
    """
    queries, size = query_BD.shape
    chosen = _tiling(size, queries, _shared_memory(query_BD.device))
    tiles = triton.cdiv(most, chosen["TILE"])
    rows, groups = len(table_S3) * queries, tiles * (chosen["TILE"] // _GROUP)
    lowest_RJ, coarse_RT = (query_BD.new_empty(rows, many) for many in (groups, tiles))
    blocks = triton.cdiv(queries, chosen["QUERIES"])
    _lowest_scores_kernel[(triton.cdiv(tiles, _SPAN), blocks, len(table_S3))](
        query_BD,
        table_S3,
        lowest_RJ,
        coarse_RT,
        queries,
        groups,
        tiles,
        D=size,
        GROUP=_GROUP,
        SPAN=_SPAN,
        PRECISION=precision,
        **chosen,
        num_warps=4,
    )
    return lowest_RJ, coarse_RT


def _tiling(size: int, queries: int, shared: int) -> dict[str, int]:
    """Return what is multiplied at once, and how many tiles are under way: they must fit.

    The keys stand first in the product, so that a Hopper chip multiplies them where they arrive.

    Args:
        size: D.
        queries: B.
        shared: bytes that one program has on the chip.
    """
    width = min(128, max(16, triton.next_power_of_2(size)))
    block = min(64, max(16, triton.next_power_of_2(queries)))
    tile = 128 if width <= 64 else 64
    room = shared - (1 << 13) - 4 * width * block  # the compiler needs some besides
    stages = max(1, min(3, room // (4 * width * tile))) if size <= width else 1
    return {"WIDTH": width, "QUERIES": block, "TILE": tile, "STAGES": stages}


def _shared_memory(device: torch.device) -> int:
    """Return how many bytes one program has on the chip."""
    if device.type != "cuda":
        return 1 << 16
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"])


def _chosen(lowest_RJ: Tensor, coarse_RT: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the lowest of `count` groups and a score that no other is below, `[R]`, `[R, M]`.

    The groups are in the tiles whose lowest scores are lowest.
    """
    if count >= coarse_RT.shape[1]:
        score_RM, group_RM = lowest_RJ.topk(count, dim=1, largest=False)
    else:
        tile_RM = coarse_RT.topk(count, dim=1, largest=False, sorted=False).indices
        of_tile = torch.arange(lowest_RJ.shape[1] // coarse_RT.shape[1], device=tile_RM.device)
        group_RC = (tile_RM[:, :, None] * len(of_tile) + of_tile).flatten(1)
        score_RM, at_RM = lowest_RJ.gather(1, group_RC).topk(count, dim=1, largest=False)
        group_RM = group_RC.gather(1, at_RM)
    return score_RM[:, -1], group_RM.sort(dim=1).values


def _measured(
    query_BD: Tensor, table_S3: Tensor, group_RM: Tensor, neighbours: int
) -> tuple[Tensor, Tensor]:
    """Return distances and slots of the K nearest in some groups, by direct differences."""
    queries, size = query_BD.shape
    rows, count = group_RM.shape
    candidates = count * _GROUP
    distance_RC = query_BD.new_empty(rows, candidates)
    _distances_kernel[(rows, triton.cdiv(candidates, 64))](
        query_BD,
        table_S3,
        group_RM,
        distance_RC,
        queries,
        candidates,
        D=size,
        WIDTH=_width(size),
        GROUP=_GROUP,
        TILE=64,
    )
    kept = min(neighbours, candidates)
    distance_RK, place_RK = (part[:, :kept] for part in distance_RC.sort(dim=1, stable=True))
    slot_RK = group_RM.gather(1, place_RK // _GROUP) * _GROUP + place_RK % _GROUP
    slot_RK = slot_RK.masked_fill(distance_RK.isposinf(), -1)
    missing = (0, neighbours - kept)
    return (
        torch.nn.functional.pad(distance_RK, missing, value=torch.inf).contiguous(),
        torch.nn.functional.pad(slot_RK, missing, value=-1).contiguous(),
    )


def _unsure(query_BD: Tensor, bound_R: Tensor, last_R: Tensor) -> Tensor:
    """Return for which rows a key that was not measured may be among the K nearest, int32 `[R]`.

    Args:
        query_BD: the queries.
        bound_R: no key that was not measured has a lower score.
        last_R: the squared distance of the last of the K.
    """
    length_R = query_BD.square().sum(dim=1).repeat(len(bound_R) // len(query_BD))
    # Of the two factors of a product tf32 cuts off 2^-10 each, and a key at the distance d has
    # |k| <= |q| + d.
    cut_R = 2**-8 * (length_R + (length_R * last_R).sqrt())
    last_R = last_R - length_R
    reach_R = 10 * length_R + 2 * last_R  # as in `knn._rounding`, twice as wide
    sums_R = 4 * (query_BD.shape[1] + 4) * torch.finfo(torch.float32).eps * reach_R
    edge_R = last_R + cut_R + sums_R
    return ((bound_R <= edge_R) & bound_R.isfinite()).to(torch.int32)


def _settle(
    query_BD: Tensor, table_S3: Tensor, unsure_R: Tensor, distance_RK: Tensor, slot_RK: Tensor
) -> None:
    """Put the nearest of all keys into the rows that are unsure."""
    queries, size = query_BD.shape
    rows, neighbours = slot_RK.shape
    _settle_kernel[(rows,)](
        query_BD,
        table_S3,
        unsure_R,
        distance_RK,
        slot_RK,
        queries,
        neighbours,
        D=size,
        WIDTH=_width(size),
        KEPT=max(16, triton.next_power_of_2(neighbours)),
    )


def _width(size: int) -> int:
    """Return how many numbers of a key a program takes at once."""
    width: int = min(64, max(16, triton.next_power_of_2(size)))
    return width


@triton.jit
def _numbers_of(query_ptr, query, asks, number, D: tl.constexpr):
    """Return some numbers of each query, 0 where there are none."""
    there = asks[:, None] & (number < D)[None, :]
    return tl.load(query_ptr + query[:, None] * D + number[None, :], mask=there, other=0.0)


@triton.jit
def _lowest_scores_kernel(
    query_ptr,
    table_ptr,
    lowest_ptr,
    coarse_ptr,
    queries,
    groups,
    tiles,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    TILE: tl.constexpr,
    GROUP: tl.constexpr,
    SPAN: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Keep the lowest |k|^2 - 2 q.k of each GROUP keys, and of each tile, for QUERIES queries."""
    store, query = tl.program_id(2), tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    keys_ptr = tl.load(table_ptr + 3 * store).to(tl.pointer_type(tl.float32))
    keys_ptr = tl.multiple_of(keys_ptr, 16)
    held_ptr = tl.load(table_ptr + 3 * store + 1).to(tl.pointer_type(tl.uint8))
    entries = tl.load(table_ptr + 3 * store + 2)
    asks = query < queries
    rows = store.to(tl.int64) * queries + query
    number = tl.arange(0, WIDTH)
    asked = _numbers_of(query_ptr, query, asks, number, D)
    for tile in tl.range(
        tl.program_id(0) * SPAN, min(tl.program_id(0) * SPAN + SPAN, tiles), num_stages=STAGES
    ):
        row = tile * TILE + tl.arange(0, TILE)
        here = row < entries
        product = tl.zeros((TILE, QUERIES), tl.float32)
        length = tl.zeros((TILE,), tl.float32)
        for begin in tl.static_range(0, D, WIDTH):
            inside = begin + number < D
            if D > WIDTH:  # else it stays where it is
                asked = _numbers_of(query_ptr, query, asks, begin + number, D)
            wanted = here[:, None]
            if D % WIDTH != 0:
                wanted = wanted & inside[None, :]
            keys = tl.load(
                keys_ptr + row[:, None].to(tl.int64) * D + begin + number[None, :],
                mask=wanted,
                other=0.0,
            )
            product = tl.dot(keys, tl.trans(asked), product, input_precision=PRECISION)
            length += tl.sum(keys * keys, axis=1)
        held = tl.load(held_ptr + row, mask=here, other=0)
        score = tl.where((held != 0)[:, None], length[:, None] - 2 * product, float("inf"))
        lowest = tl.min(tl.reshape(score, (TILE // GROUP, GROUP, QUERIES)), axis=1)
        group = tile * (TILE // GROUP) + tl.arange(0, TILE // GROUP)
        tl.store(lowest_ptr + rows[None, :] * groups + group[:, None], lowest, mask=asks[None, :])
        tl.store(coarse_ptr + rows * tiles + tile, tl.min(lowest, axis=0), mask=asks)


@triton.jit
def _distances_kernel(
    query_ptr,
    table_ptr,
    group_ptr,
    distance_ptr,
    queries,
    candidates,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
):
    """Measure the keys of some groups for one query, infinite where none is held."""
    row = tl.program_id(0).to(tl.int64)
    store, query = row // queries, row % queries
    keys_ptr = tl.load(table_ptr + 3 * store).to(tl.pointer_type(tl.float32))
    keys_ptr = tl.multiple_of(keys_ptr, 16)
    held_ptr = tl.load(table_ptr + 3 * store + 1).to(tl.pointer_type(tl.uint8))
    entries = tl.load(table_ptr + 3 * store + 2)
    place = tl.program_id(1) * TILE + tl.arange(0, TILE)
    wanted = place < candidates
    group = tl.load(group_ptr + row * (candidates // GROUP) + place // GROUP, mask=wanted, other=0)
    slot = group * GROUP + place % GROUP
    there = wanted & (slot < entries)
    held = tl.load(held_ptr + slot, mask=there, other=0)
    distance = tl.zeros((TILE,), tl.float32)
    for begin in tl.static_range(0, D, WIDTH):
        number = begin + tl.arange(0, WIDTH)
        inside = number < D
        asked = tl.load(query_ptr + query * D + number, mask=inside, other=0.0)
        keys = tl.load(
            keys_ptr + slot[:, None] * D + number[None, :],
            mask=there[:, None] & inside[None, :],
            other=0.0,
        )
        apart = tl.where(inside[None, :], asked[None, :] - keys, 0.0)
        distance += tl.sum(apart * apart, axis=1)
    distance = tl.where(held != 0, distance, float("inf"))
    tl.store(distance_ptr + row * candidates + place, distance, mask=wanted)


@triton.jit
def _settle_kernel(
    query_ptr,
    table_ptr,
    unsure_ptr,
    distance_ptr,
    slot_ptr,
    queries,
    neighbours,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    KEPT: tl.constexpr,
):
    """Where a row is unsure, measure all keys and keep the nearest, the lower slot among equals.

    A distance and its slot are one whole number, since the bits of floats that are not negative
    have the order of the floats.
    """
    row = tl.program_id(0).to(tl.int64)
    if tl.load(unsure_ptr + row) != 0:
        store, query = row // queries, row % queries
        keys_ptr = tl.load(table_ptr + 3 * store).to(tl.pointer_type(tl.float32))
        held_ptr = tl.load(table_ptr + 3 * store + 1).to(tl.pointer_type(tl.uint8))
        entries = tl.load(table_ptr + 3 * store + 2)
        lane = tl.arange(0, KEPT)
        nothing = tl.full((KEPT,), 0x7F800000, tl.int64) << 32  # infinity
        best = nothing + lane
        last = tl.max(best)
        for begin in range(0, entries, KEPT):
            slot = begin + lane.to(tl.int64)
            there = slot < entries
            held = tl.load(held_ptr + slot, mask=there, other=0)
            distance = tl.zeros((KEPT,), tl.float32)
            for first in tl.static_range(0, D, WIDTH):
                number = first + tl.arange(0, WIDTH)
                inside = number < D
                asked = tl.load(query_ptr + query * D + number, mask=inside, other=0.0)
                keys = tl.load(
                    keys_ptr + slot[:, None] * D + number[None, :],
                    mask=there[:, None] & inside[None, :],
                    other=0.0,
                )
                apart = tl.where(inside[None, :], asked[None, :] - keys, 0.0)
                distance += tl.sum(apart * apart, axis=1)
            bits = distance.to(tl.int32, bitcast=True).to(tl.int64)
            new = tl.where(held != 0, (bits << 32) + slot, nothing + slot)
            if tl.min(new) < last:
                farthest_first = tl.sort(new, descending=True)
                best = tl.sort(tl.minimum(best, farthest_first))
                last = tl.max(best)
        found = (best >> 32).to(tl.int32)
        present = found != 0x7F800000
        slot = tl.where(present, best & 0xFFFFFFFF, -1)
        kept = lane < neighbours
        tl.store(distance_ptr + row * neighbours + lane, found.to(tl.float32, bitcast=True), kept)
        tl.store(slot_ptr + row * neighbours + lane, slot, kept)
