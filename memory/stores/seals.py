"""What tells a damaged row of a database from a whole one, and what tells that one is lost.

Every row ends with its seal, a checksum of all that it says. What a memory holds after an operation
has a sum, the operation's `whole`: the seals of the newest rows of all slots, of keys where there
are entries, and of use where there is any. Whoever reads a memory adds up what was found, so that
a row that is lost, or is one of another moment, is told though each that was found is sound. Sums
go with every write, forwards, so that they cost no reading.

A seal finds accidents, not forgeries.

Letters: N slots.
"""

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

_ENTRY, _KEY, _USE = range(3)  # what a slot adds to the whole
_END = 4  # bytes of a blob's own seal
Row = tuple[Any, ...]


def seal(row: Sequence[Any]) -> int:
    """Return the seal of a row: CRC-32 of its values as text, bytes in hexadecimal; never 0."""
    told = ",".join([part.hex() if type(part) is bytes else str(part) for part in row])
    return crc32(told.encode()) or 1


def sealed(rows: Sequence[Row]) -> list[Row]:
    """Return rows with their seals at the end."""
    return [(*row, seal(row)) for row in rows]


def expect_sealed(table: str, rows: Sequence[Row]) -> None:
    """Raise a ValueError if a row does not say what its seal, its last value, is of."""
    for row in rows:
        if row[-1] != seal(row[:-1]):
            raise ValueError(f"a row of {table} ({row[0]!r:.20}, …) does not fit its seal")


def seal_blob(blob: bytes, number: int) -> bytes:
    """Return a blob of an operation with a seal of its own, since it is let go before the rest."""
    return blob + crc32(blob, number & 0xFFFFFFFF).to_bytes(_END, "little")


def open_blob(blob: Any, number: int) -> bytes:
    """Return a blob without its seal.

    Raises:
        ValueError: if it does not fit.
    """
    if not isinstance(blob, bytes) or seal_blob(blob[:-_END], number) != blob:
        raise ValueError(f"what operation {number} says of use does not fit its seal")
    return blob[:-_END]


def no_seals(capacity: int) -> NDArray[np.int64]:
    """Return the seals of a memory that holds nothing, `[3, N]`."""
    return np.zeros((3, capacity), np.int64)


def count(
    seals_3N: NDArray[np.int64],
    entries: Sequence[Row],
    keys: Sequence[Row],
    uses: Sequence[Row],
) -> NDArray[np.int64]:
    """Return seals with those of newer rows in their slots; the whole is the sum of all.

    Args:
        seals_3N: as they were.
        entries: newer rows, sealed.
        keys: newer rows of slots with an entry, sealed.
        uses: newer rows, sealed; those of slots that were never used add nothing.
    """
    newer_3N = seals_3N.copy()
    newer_3N[_ENTRY, [row[1] for row in entries]] = [row[-1] for row in entries]
    newer_3N[_KEY, [row[1] for row in entries]] = 0
    newer_3N[_KEY, [row[1] for row in keys]] = [row[-1] for row in keys]
    used = [row for row in uses if row[1] or row[2] != -1 or any(row[3])]
    newer_3N[_USE, [row[0] for row in uses]] = 0
    newer_3N[_USE, [row[0] for row in used]] = [row[-1] for row in used]
    return newer_3N
