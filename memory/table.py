"""Who holds what, and writes in order, by the native file: as `Names` and `place_in_order` do.

It knows numbers only. Letters: B rows, N entries, D key size, Q who is next in line to leave.
"""

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from stillknows.memory import native
from stillknows.memory.compiled import pointers, wholes
from stillknows.memory.episodic import DIMENSIONS, PROVENANCE, Candidates, Departures
from stillknows.memory.names import Holding

REFUSED, LINE_ENDS = 1, 2  # why nothing was written
_COLUMNS = ("keys_ND", "vectors_NV", "answers_NA", "story_NTL", "uses_N", "filled_N",
            "provenance_NC")  # fmt: skip
_DIMENSIONS = tuple(DIMENSIONS.values())
_ID, _HASH = PROVENANCE.index("id"), PROVENANCE.index("hash")


class _Names(ctypes.Structure):
    _fields_ = (*wholes("buckets"), *pointers("heads older newer beyond count names entries"))


class _Table(ctypes.Structure):
    _fields_ = (
        *pointers("keys vectors answers stories uses filled provenance"),
        *wholes("key_size vector_size answer_length story_size token_bytes capacity"),
        ("names", _Names),
        *pointers("last_row"),
    )


class _Rows(ctypes.Structure):
    _fields_ = (
        *wholes("count"),
        *pointers("keys vectors outcomes answers stories names tasks episodes steps"),
        *wholes("answer_length outcome_size"),
        *pointers("told"),
    )


class _Order(ctypes.Structure):
    _fields_ = (
        *pointers("line ranks"),
        *wholes("length rank_column refresh size seen clock next_id"),
        ("rate", ctypes.c_float),
    )


class When(NamedTuple):
    """When and how rows are written.

    Attributes:
        departures: who leaves.
        rank: what is ranked by, a column of provenance.
        refresh: whether what is known is updated.
        size: slots that were ever filled.
        seen: candidates that came before.
        clock: the time of the write.
        next_id: of entries.
        rate: of updates.
    """

    departures: Departures
    rank: str
    refresh: bool
    size: int
    seen: int
    clock: int
    next_id: int
    rate: float


class Done(NamedTuple):
    """What became of rows.

    Attributes:
        told_4B: slot, action, entry and evicted entry of each, int64.
        size: slots that were ever filled, now.
        next_id: of entries.
    """

    told_4B: Tensor
    size: int
    next_id: int


class Table:
    """The columns of a store on a CPU, with an index of who holds what.

    Args:
        columns: of the store, which is written through them; what they hold already is indexed.
    """

    def __init__(self, columns: dict[str, Tensor]) -> None:
        capacity = len(columns["filled_N"])
        self._columns = columns
        self._sizes = [columns[name].shape[1:].numel() for name in _COLUMNS[:4]]
        buckets = 1 << max(4, (capacity - 1).bit_length())
        self._heads = torch.full((buckets,), -1, dtype=torch.int32)
        links = torch.full((4, capacity), -2, dtype=torch.int32)
        self._older_N, self._newer_N, self._beyond_N, self._count_N = links.unbind()
        self._names_N, self._entries_N = torch.zeros(2, capacity, dtype=torch.int64).unbind()
        self._last_row_N = torch.zeros(capacity, dtype=torch.int32)
        self._made: tuple[list[int], _Table] | None = None
        slots = columns["filled_N"].nonzero()[:, 0]
        slots = slots[columns["provenance_NC"][slots, _ID].argsort()]  # the newest last
        whole = columns["provenance_NC"][slots]
        self._add(whole[:, _HASH].contiguous(), slots, whole[:, _ID].contiguous())

    @staticmethod
    def holds(columns: dict[str, Tensor]) -> bool:
        """Return whether such columns can be held here."""
        plain = all(part.device.type == "cpu" and part.is_contiguous() for part in columns.values())
        return plain and len(columns["filled_N"]) < native.MOST and native.library() is not None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: addresses are made anew."""
        return {**self.__dict__, "_made": None}

    def __eq__(self, other: object) -> bool:
        """Compare what is held."""
        if not isinstance(other, Table):
            return NotImplemented
        held_N = self._older_N != -2
        same = torch.equal(held_N, other._older_N != -2)
        pairs = ((self._names_N, other._names_N), (self._entries_N, other._entries_N))
        return same and all(torch.equal(one[held_N], two[held_N]) for one, two in pairs)

    def add(self, name: int, slot: int, holding: Holding) -> None:
        """Note that a slot holds a name."""
        one = (ctypes.byref(ctypes.c_int64(number)) for number in (name, slot, holding.entry))
        self._call("names_add", 1, *one)

    def drop(self, name: int, slot: int) -> int:
        """Note that a slot no longer holds a name; return the id of its entry."""
        assert int(self._names_N[slot]) == name
        return int(self._call("names_drop", slot))

    def at(self, slot: int) -> int | None:
        """Return the name that a slot holds, None where it holds nothing."""
        return int(self._names_N[slot]) if int(self._older_N[slot]) != -2 else None

    def known(self, name: int, answer: tuple[int, ...]) -> int:
        """Return the newest slot of this name, if all of its slots hold this answer, or -1."""
        answer_A = torch.tensor(answer, dtype=torch.int64)
        whole = ctypes.byref(self._table())
        known = native.call("names_known", whole, name, answer_A.data_ptr(), len(answer))
        return int(known)

    def newest(self, names: Tensor) -> Tensor:
        """Return the newest slot of each name, -1 where it is not held, int64."""
        return self._find(names)[0]

    def count_at(self, slots: Tensor, names: Tensor) -> Tensor:
        """Return how many entries hold the names at slots, both of one shape."""
        return self.count(names)

    def count(self, names: Tensor) -> Tensor:
        """Return how many entries hold each name, of any shape."""
        return self._find(names)[1]

    def count_all(self, names_N: Tensor) -> Tensor:
        """Return how many entries hold the name of each slot, where `names_N` are those of all."""
        return self.count(names_N)

    def fits(self, rows: Candidates) -> bool:
        """Return whether rows have the widths of the columns, and are as many in every part."""
        (keys, vectors, *_), kept = self._sizes, self._columns["story_NTL"].shape
        shapes = [part.shape for part in rows]
        if tuple(map(len, shapes)) != _DIMENSIONS:
            return False
        (count, key_size), (_, vector_size), *_ = shapes
        wide = key_size == keys or not keys, vector_size == vectors or not vectors
        as_many = all(shape[0] == count for shape in shapes) and rows.outcome_BF.shape[1] == 3
        return all(wide) and as_many and rows.story_BTL.shape[1:] == kept[1:]

    def write(self, rows: Candidates, hash_B: Tensor, when: When) -> Done | int:
        """Write rows in order: update what is known, and add the rest.

        Args:
            rows: what is written, such that it `fits`.
            hash_B: the names that they are known by.
            when: and who leaves where there is no room.

        Returns:
            What became of them; or why nothing was written: `REFUSED`, or `LINE_ENDS`.
        """
        count, line, passed = hash_B.shape[0], when.departures, ctypes.c_int64()
        told_4B = torch.empty(4, count, dtype=torch.int64)
        parts = [_plain(part, torch.float32) for part in (*rows[:2], rows.outcome_BF)]
        whole = (rows.answers_BA, rows.story_BTL, hash_B, rows.task_B, rows.episode_B, rows.step_B)
        parts += [_plain(part, torch.int64) for part in whole]
        given = _Rows(
            count, *[part.data_ptr() for part in parts], parts[3].shape[1], parts[2].shape[1],
            told_4B.data_ptr(),
        )  # fmt: skip
        addresses = [part.data_ptr() + 8 * line.passed for part in (line.slots_Q, line.ranks_Q)]
        length = line.slots_Q.shape[0] - line.passed
        order = _Order(*addresses, length, PROVENANCE.index(when.rank), *when[2:])
        sent = (ctypes.byref(part) for part in (self._table(), given, order, passed))
        if status := native.call("write_rows", *sent):
            return status
        line.passed += passed.value
        increment_version([self._columns[name] for name in ("keys_ND", "vectors_NV", "filled_N")])
        return Done(told_4B, order.size, order.next_id)

    def _table(self) -> _Table:
        """Return the addresses of all columns, as they are now."""
        now = [column.data_ptr() for column in self._columns.values()]
        if self._made is None or self._made[0] != now:
            columns = self._columns
            index = (
                self._heads, self._older_N, self._newer_N, self._beyond_N, self._count_N,
                self._names_N, self._entries_N,
            )  # fmt: skip
            made = _Table(
                *(columns[name].data_ptr() for name in _COLUMNS), *self._sizes,
                columns["story_NTL"].element_size(), len(columns["filled_N"]),
                _Names(len(self._heads), *(part.data_ptr() for part in index)),
                self._last_row_N.data_ptr(),
            )  # fmt: skip
            self._made = now, made
        return self._made[1]

    def _call(self, function: str, *arguments: Any) -> Any:
        return native.call(function, ctypes.byref(self._table().names), *arguments)

    def _add(self, names: Tensor, slots: Tensor, entries: Tensor) -> None:
        parts = (names.data_ptr(), slots.data_ptr(), entries.data_ptr())
        self._call("names_add", len(slots), *parts)

    def _find(self, names: Tensor) -> tuple[Tensor, Tensor]:
        names = _plain(names, torch.int64)
        newest, count = torch.empty_like(names), torch.empty_like(names)
        parts = (names.data_ptr(), newest.data_ptr(), count.data_ptr())
        self._call("names_find", names.numel(), *parts)
        return newest, count


def _plain(part: Tensor, kind: torch.dtype) -> Tensor:
    """Return numbers of a kind, in order, on the CPU."""
    plain = part.dtype == kind and part.is_contiguous() and part.is_cpu
    return part if plain else part.to("cpu", kind).contiguous()
