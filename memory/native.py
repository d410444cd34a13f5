"""Loads native code, which does on a CPU what a store and a policy do most often, if it can.

The sources are compiled on first use (`compiled.py`). Without a compiler, or with
`STILLKNOWS_NATIVE=0`, nothing is compiled or loaded, and PyTorch does the same: numbers of a store
(`nearest.cpp` and `drawing.cpp`, called here, and `writing.cpp` by `table.py`) to the last bit,
those of decisions (`scoring.cpp` by `fused.py`, `choosing.cpp` by `choosing.py`) to rounding. It
knows tensors only.

Letters: S stores, B queries, N keys, D key size, K neighbours.
"""

import ctypes
import functools
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stillknows.memory import compiled
from stillknows.memory.compiled import pointers, wholes

if TYPE_CHECKING:
    from stillknows.memory.rounded import InBytes

_SOURCES = Path(__file__).parent / "cpp"
SOURCES = [
    _SOURCES / f"{name}.cpp" for name in ("nearest", "writing", "drawing", "scoring", "choosing")
]
HEADERS = [
    _SOURCES / f"{name}.h" for name in ("vectors", "measuring", "rounding", "screening", "products")
]
_LAST_USE = 5  # of provenance
MOST = 1 << 31  # keys of a store, whose slots are 32 bits there
_whole, _pointer = ctypes.c_int64, ctypes.c_void_p
_real, _double = ctypes.c_float, ctypes.c_double
SIGNATURES: dict[str, list[Any]] = {
    "find_nearest": [_pointer, _whole, _pointer, *[_whole] * 4, _pointer, _pointer],
    "read_values": [_pointer, _whole, _pointer, *[_whole] * 4, _real, _real, _pointer],
    "is_finite": [_pointer, _whole],
    "rounds": [],
    "round_rows": [_pointer, _whole, _pointer, _whole],
    "names_add": [_pointer, _whole, *[_pointer] * 3],
    "names_drop": [_pointer, _whole],
    "names_find": [_pointer, _whole, *[_pointer] * 3],
    "names_known": [_pointer, _whole, _pointer, _whole],
    "write_rows": [_pointer] * 4,
    "uniform": [_whole, _whole, *[_pointer] * 3],
    "note": [_pointer, *[_whole] * 3, _pointer, _whole, _whole, _pointer, _pointer],
    "score": [_pointer, *[_whole] * 3, *[_pointer] * 2, *[_whole] * 3, *[_pointer] * 4],
    "expect_use": [_pointer, *[_whole] * 3, *[_pointer] * 4],
    "choose": [
        *[_whole] * 2,
        _pointer,
        *[_pointer, _whole] * 2,
        *[_double] * 2,
        _whole,
        *[_pointer] * 4,
    ],
}


class _Store(ctypes.Structure):
    """`Store` of nearest.cpp."""

    _fields_ = (
        *pointers("keys filled"),
        *wholes("count"),
        *pointers("values uses last_use"),
        *wholes("stride clock counts"),
        *pointers("bytes low width step centre"),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled file, None where there is none; the first call may compile it."""
    return compiled.load("native", SOURCES, HEADERS, SIGNATURES)


def call(function: str, *arguments: Any) -> int:
    """Call a function of the compiled file; what it returns means nothing where it says nothing."""
    return int(getattr(library(), function)(*arguments))


def uniform(key_B: Tensor, step_B: Tensor, size: int) -> Tensor:
    """Return what `noise.uniform` does, `[B, size]`."""
    whole = torch.broadcast_tensors(key_B, step_B)  # type: ignore[no-untyped-call]
    key_B, step_B = (part.to(torch.int64).contiguous() for part in whole)
    drawn_BX = torch.empty(len(key_B), size)
    call("uniform", *drawn_BX.shape, *(part.data_ptr() for part in (key_B, step_B, drawn_BX)))
    return drawn_BX


def floats(tensor: Tensor) -> Tensor:
    """Return the numbers of a tensor as native code reads them: float32, one after the other."""
    return tensor.float().contiguous()


def is_finite(numbers: Tensor) -> bool | None:
    """Return whether all numbers are finite; None where that is not told here."""
    plain = numbers.is_cpu and numbers.dtype == torch.float32 and numbers.is_contiguous()
    if not plain or library() is None:
        return None
    return bool(call("is_finite", numbers.data_ptr(), numbers.numel()))


def searches(query_BD: Tensor, keys: Sequence[Tensor]) -> bool:
    """Return whether the nearest of these queries among these keys are found here."""
    if not (query_BD.is_cpu and query_BD.dtype == torch.float32 and query_BD.dim() == 2):
        return False
    if not query_BD.shape[1]:
        return False
    for keys_ND in keys:
        plain = keys_ND.is_cpu and keys_ND.dtype == torch.float32 and keys_ND.is_contiguous()
        if not plain or keys_ND.shape[0] >= MOST or keys_ND.shape[1] != query_BD.shape[1]:
            return False
    return library() is not None


@functools.cache
def longest_rounded() -> int:
    """Return how long keys may be that are kept in bytes; 0 where none are."""
    return call("rounds") if library() is not None else 0


def round_rows(keys_ND: Tensor, filled_N: Tensor, room: "InBytes", slots: list[int] | None) -> None:
    """Put keys into bytes, those at `slots`; or, where it is None, all, about a new centre."""
    if slots == []:
        return
    store = _searched(keys_ND, filled_N, room)
    some = None if slots is None else (_whole * len(slots))(*slots)
    call("round_rows", ctypes.byref(store), keys_ND.shape[1], some, len(slots or ()))


def nearest_of_each(
    query_BD: Tensor,
    keys: Sequence[Tensor],
    filled: Sequence[Tensor],
    neighbours: int,
    rounded: Sequence["InBytes"] = (),
) -> tuple[Tensor, Tensor]:
    """Return what `knn.nearest_of_each` does, `[S, B, K]` each, without a gradient.

    Args:
        query_BD: `[B, D]`.
        keys: of each store, such that `searches`.
        filled: which rows hold a key, bool `[N]` each.
        neighbours: K.
        rounded: keys of each store in bytes, where they are kept.
    """
    filled = [part.contiguous() for part in filled]
    stores = [_searched(*store) for store in zip_longest(keys, filled, rounded)]
    whole = (len(stores), query_BD.shape[0], neighbours)
    distance_SBK, slot_SBK = torch.empty(whole), torch.empty(whole, dtype=torch.int64)
    query_BD = query_BD.detach().contiguous()
    asked = _asked(stores, query_BD, neighbours)
    call("find_nearest", *asked, distance_SBK.data_ptr(), slot_SBK.data_ptr())
    return distance_SBK, slot_SBK


def _searched(keys_ND: Tensor, filled_N: Tensor, room: "InBytes | None") -> _Store:
    """Return a store that is asked for no values."""
    addresses = room.addresses if room else ()
    whole = keys_ND.data_ptr(), filled_N.data_ptr(), keys_ND.shape[0]
    return _Store(*whole, None, None, None, 0, 0, 0, *addresses)


def _asked(stores: list[_Store], query_BD: Tensor, neighbours: int) -> tuple[Any, ...]:
    """Return who is asked for what, as native code is told it."""
    whole = (_Store * len(stores))(*stores), len(stores)
    return *whole, query_BD.data_ptr(), *query_BD.shape, neighbours, torch.get_num_threads()


def values(
    query_BD: Tensor,
    columns: Sequence[dict[str, Tensor]],
    sizes: Sequence[int],
    clocks: Sequence[int | None],
    neighbours: int,
    delta: float,
    empty: float,
    rounded: Sequence["InBytes | None"],
) -> Tensor:
    """Return what each store says of each query, `[B, S]`, without a gradient; reads are counted.

    Args:
        query_BD: `[B, D]`.
        columns: of each store, whose keys are such that `searches`.
        sizes: how many slots were ever filled.
        clocks: the time of the read, None where it does not count.
        neighbours: K.
        delta: of the inverse-distance kernel; below 0: all neighbours weigh alike.
        empty: what a store without entries says.
        rounded: keys of each store in bytes, None where they are not kept.
    """
    parts = zip(columns, sizes, clocks, rounded, strict=True)
    stores = [_store(*part) for part in parts]
    value_BS, query_BD = torch.empty(query_BD.shape[0], len(stores)), query_BD.contiguous()
    call("read_values", *_asked(stores, query_BD, neighbours), delta, empty, value_BS.data_ptr())
    return value_BS


def _store(
    columns: dict[str, Tensor], size: int, clock: int | None, room: "InBytes | None"
) -> _Store:
    provenance_NC = columns["provenance_NC"]
    return _Store(
        columns["keys_ND"].data_ptr(),
        columns["filled_N"].data_ptr(),
        size,
        columns["vectors_NV"].data_ptr(),
        columns["uses_N"].data_ptr(),
        provenance_NC.data_ptr() + _LAST_USE * provenance_NC.element_size(),
        provenance_NC.stride(0),
        clock or 0,
        clock is not None,
        *(room.addresses if room else ()),
    )
