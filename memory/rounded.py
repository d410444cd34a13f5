"""Keys of a store in bytes, kept between searches: screening reads these, a quarter as much.

Who wins is measured by the keys themselves (`cpp/screening.h`), so that nothing depends on what is
kept here but time. Letters: N entries, D key size, P numbers that D is filled up to.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from stillknows.memory import native

_SPARE = 16  # rows that are read at once, and so beyond the last


class InBytes:
    """Room for keys in bytes: `[N, P]`, of each two bounds and its step `[N]`, and a centre `[P]`.

    Args:
        capacity: N.
        key_size: D.
    """

    def __init__(self, capacity: int, key_size: int) -> None:
        rows, padded = capacity + _SPARE, -(-key_size // 32) * 32
        bytes_NP = torch.empty(rows, padded, dtype=torch.uint8)
        self._parts = (bytes_NP, *torch.empty(3, rows), torch.zeros(padded))
        self.addresses = [part.data_ptr() for part in self._parts]


class Rounded:
    """The keys of one store in bytes, made again as far as keys have changed.

    A tensor counts its changes. Those which `note` was told of are made up for row by row; after
    any other, or many, all rows are made anew.
    """

    def __init__(self) -> None:
        self._keys_ND: Tensor | None = None
        self._room: InBytes | None = None
        self._version = self._rows = self._few = 0
        self._changed: list[int] = []

    def __reduce__(self) -> tuple[type["Rounded"], tuple[()]]:
        """Make a copy begin anew: a copied tensor counts its changes from 0."""
        return Rounded, ()

    def note(self, keys_ND: Tensor, before: int, slots: Iterable[int] | Tensor) -> None:
        """Learn that since version `before` of the keys only those at `slots` have changed."""
        if self._keys_ND is keys_ND and self._version == before:
            self._changed.extend(slots.tolist() if isinstance(slots, Tensor) else slots)
            self._version = keys_ND._version
            if len(self._changed) > self._few:  # all rows will be made anew
                self._version, self._changed = -1, []

    def of(self, columns: Mapping[str, Tensor], rows: int) -> InBytes | None:
        """Return the first `rows` keys in bytes, None where they are not kept in bytes.

        Args:
            columns: of the store, whose keys are such that `native.searches`.
            rows: those above hold none.
        """
        keys_ND, filled_N = columns["keys_ND"], columns["filled_N"]
        if not 0 < keys_ND.shape[1] <= native.longest_rounded():
            return None
        if self._keys_ND is not keys_ND or self._room is None:
            self._keys_ND, self._room, self._version = keys_ND, InBytes(*keys_ND.shape), -1
        known = self._version == keys_ND._version
        if known and rows <= 2 * self._rows and len(self._changed) <= self._few:
            native.round_rows(keys_ND, filled_N, self._room, self._changed)
            self._few -= len(self._changed)
        else:  # about a centre of what is there now, which serves for as many changes as rows
            native.round_rows(keys_ND[:rows], filled_N, self._room, None)
            self._version, self._rows, self._few = keys_ND._version, rows, rows
        self._changed = []
        return self._room
