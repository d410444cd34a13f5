"""Rows of a database: what slots of a memory hold as numbers and bytes, and back.

Vectors are float32, answers int32, stories uint8, int16 or int32, little-endian, zeros at the end
left away. What comes from a database is broken or foreign until its lengths fit.

Letters: S slots, D key size, V vector size, A tokens of an answer, T sentences and L tokens of a
story, F accounts of a policy.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillknows.memory.episodic import PROVENANCE, blank_columns
from stillknows.memory.stores.store import Rows

if TYPE_CHECKING:
    from stillknows.memory.nec import NEC

WHERE = ("id", "task", "episode", "step", "birth", "hash")  # of provenance; last_use stands by uses
_NOTHING = [-1] + [None] * (len(WHERE) + 2)
Bytes = bytes | None


class Version(NamedTuple):
    """A row of entries: what a slot held from an operation on; an id of -1: nothing.

    Attributes:
        erased: by which operation, if its content was deleted.
        seal: of all that is before it (`seals.py`); 0 in a memory that has none.
    """

    operation: int
    slot: int
    id: int
    task: int | None = None
    episode: int | None = None
    step: int | None = None
    birth: int | None = None
    hash: int | None = None
    vector: Bytes = None
    answer: Bytes = None
    story: Bytes = None
    erased: int | None = None
    seal: int = 0

    @property
    def held(self) -> bool:
        """Whether an entry is there."""
        return self.id >= 0 and self.story is not None


class Sizes(NamedTuple):
    """What a row of a memory measures, from its description.

    Attributes:
        shapes: of an entry's vector, answer, story and key.
        types: of their numbers.
        accounts: names of what the policy keeps about an entry.
        capacity: how many slots there are.
    """

    shapes: dict[str, tuple[int, ...]]
    types: dict[str, str]
    accounts: tuple[str, ...]
    capacity: int = 0

    @classmethod
    def of(cls, description: dict[str, Any]) -> "Sizes":
        """Return the sizes in a description.

        Raises:
            ValueError: if it is broken.
        """
        try:
            shapes: dict[str, tuple[int, ...]] = {
                "vector": (description["vector_size"],),
                "answer": (description["answer_length"],),
                "story": tuple(description["story_shape"]),
                "key": (description["key_size"],),
            }
            tokens = {1: "|u1", 2: "<i2", 4: "<i4"}[description["token_bytes"]]
            accounts = tuple(map(str, description["accounts"]))
            numbers = [description["capacity"], *(n for shape in shapes.values() for n in shape)]
        except (KeyError, TypeError) as error:
            raise ValueError("its description is broken") from error
        sound = all(type(number) is int and 0 <= number < 2**40 for number in numbers)
        if not sound or len(shapes["story"]) != 2:
            raise ValueError("its description is broken")
        types = {"vector": "<f4", "answer": "<i4", "story": tokens, "key": "<f4"}
        return cls(shapes, types, accounts, description["capacity"])

    @property
    def use(self) -> np.dtype[Any]:
        """The type of one slot's use: slot, weight of reads, time of the last, accounts."""
        return np.dtype(
            [("slot", "<i4"), ("uses", "<f4"), ("last", "<i8"), ("own", "<f4", len(self.accounts))]
        )

    def bytes(self, name: str) -> int:
        """Return the bytes of a part of an entry."""
        return math.prod(self.shapes[name]) * np.dtype(self.types[name]).itemsize

    def expect_slots(self, slots: Sequence[Any]) -> None:
        """Raise a ValueError if one of them is none."""
        if not all(type(slot) is int and 0 <= slot < self.capacity for slot in slots):
            raise ValueError("it names a slot that there is not")


def entry_rows(
    memory: "NEC", slots: Sequence[int], operation: int, sizes: Sizes
) -> list[tuple[Any, ...]]:
    """Return a row for each slot, as of `Version`, without a seal."""
    at_S = torch.tensor(slots, dtype=torch.int64, device=memory.columns["filled_N"].device)
    places = [PROVENANCE.index(name) for name in WHERE]
    whole = memory.columns["provenance_NC"][at_S][:, places].tolist()
    blobs = [
        _blobs(memory.columns[column][at_S], sizes.types[name])
        for name, column in (
            ("vector", "vectors_NV"),
            ("answer", "answers_NA"),
            ("story", "story_NTL"),
        )
    ]
    filled = memory.columns["filled_N"][at_S].tolist()
    return [
        (operation, slot, *(numbers + list(parts) if held else _NOTHING), None)
        for slot, numbers, held, *parts in zip(slots, whole, filled, *blobs, strict=True)
    ]


def key_rows(memory: "NEC", slots: Sequence[int], operation: int) -> list[tuple[Any, ...]]:
    """Return a row for each slot that is filled: operation, slot, key."""
    keys_ND, filled_N = memory.columns["keys_ND"], memory.columns["filled_N"]
    at_S = torch.tensor(slots, dtype=torch.int64, device=keys_ND.device)
    blobs = _blobs(keys_ND[at_S], "<f4")
    filled = filled_N[at_S].tolist()
    return [
        (operation, slot, blob)
        for slot, blob, held in zip(slots, blobs, filled, strict=True)
        if held
    ]


def pack_use(slots_S: Tensor, use_SU: Tensor, sizes: Sizes) -> NDArray[Any]:
    """Return the use of slots as one array of records."""
    records = np.zeros(len(slots_S), sizes.use)
    numbers = use_SU.cpu().numpy()
    records["slot"] = slots_S.cpu().numpy()
    records["uses"], records["last"], records["own"] = numbers[:, 0], numbers[:, 1], numbers[:, 2:]
    return records


def use_rows(use: NDArray[Any]) -> list[tuple[Any, ...]]:
    """Return a row for each record of use: slot, weight of reads, time of the last, accounts."""
    own = use["own"].tobytes()
    width = len(own) // max(1, len(use))
    accounts = [own[width * row : width * (row + 1)] for row in range(len(use))]
    numbers = (use[name].tolist() for name in ("slot", "uses", "last"))
    return list(zip(*numbers, accounts, strict=True))


def use_from(rows: Sequence[tuple[Any, ...]], sizes: Sizes) -> NDArray[Any]:
    """Return a record for each slot up to the last of rows, which `use_rows` made.

    Raises:
        ValueError: if they are none of this memory.
    """
    slots = [row[0] for row in rows]
    sizes.expect_slots(slots)
    use = np.zeros(max(slots, default=-1) + 1, sizes.use)
    use["slot"], use["last"] = np.arange(len(use)), -1
    width = 4 * len(sizes.accounts)
    if not all(isinstance(row[3], bytes) and len(row[3]) == width for row in rows):
        raise ValueError("what it says of use is broken")
    use["uses"][slots] = np.array([row[1] for row in rows], np.float64)
    use["last"][slots] = np.array([row[2] for row in rows], np.int64)
    own = np.frombuffer(b"".join(row[3] for row in rows), "<f4")
    use["own"][slots] = own.reshape(len(rows), len(sizes.accounts))
    return use


def unpack_use(blob: bytes, sizes: Sizes) -> NDArray[Any]:
    """Return the records in a blob.

    Raises:
        ValueError: if it does not hold whole ones.
    """
    if len(blob) % sizes.use.itemsize:
        raise ValueError("what it says of use is broken")
    return np.frombuffer(blob, sizes.use)


def rows_from(
    entries: Sequence[Version],
    keys: dict[int, bytes],
    use: NDArray[Any],
    counters: dict[str, int],
    sizes: Sizes,
) -> Rows:
    """Return rows of a database as those of a memory.

    Args:
        entries: the newest of each slot.
        keys: of slots.
        use: records of slots.
        counters: of the memory.
        sizes: of it.

    Raises:
        ValueError: if a length does not fit.
    """
    slots = [row.slot for row in entries]
    sizes.expect_slots(slots)
    filled = [row.held for row in entries]
    held = [row for row in entries if row.held]
    story = sizes.shapes["story"]
    key, vector, answer = (sizes.shapes[name][0] for name in ("key", "vector", "answer"))
    columns = blank_columns(
        len(slots),
        key,
        vector,
        answer,
        (story[0], story[1]),
        "cpu",
        np.dtype(sizes.types["story"]).itemsize,
    )
    columns["filled_N"] = torch.tensor(filled, dtype=torch.bool)
    at = columns["filled_N"].nonzero()[:, 0]
    columns["vectors_NV"][at] = _tensor([row.vector for row in held], "vector", sizes)
    columns["answers_NA"][at] = _tensor([row.answer for row in held], "answer", sizes)
    columns["story_NTL"][at] = _tensor([row.story for row in held], "story", sizes)
    if sizes.bytes("key"):
        found = [keys.get(slots[place]) for place in at.tolist()]
        columns["keys_ND"][at] = _tensor(found, "key", sizes)
    accounts = {name: torch.zeros(len(slots)) for name in sizes.accounts}
    _place(columns, [row[2 : 2 + len(WHERE)] for row in held], at)
    _add_use(columns, accounts, slots, use)
    return Rows(torch.tensor(slots, dtype=torch.int64), columns, accounts, counters)


def _place(columns: dict[str, Tensor], whole: list[tuple[Any, ...]], at: Tensor) -> None:
    """Set the provenance of filled rows."""
    if not all(type(number) is int for row in whole for number in row):
        raise ValueError("where an entry in it is from is broken")
    if whole:
        places = torch.tensor([PROVENANCE.index(name) for name in WHERE])
        columns["provenance_NC"][at[:, None], places] = torch.tensor(whole, dtype=torch.int64)


def _add_use(
    columns: dict[str, Tensor], accounts: dict[str, Tensor], slots: list[int], use: NDArray[Any]
) -> None:
    """Set use and accounts of the slots that records are about."""
    row_of = {slot: row for row, slot in enumerate(slots)}
    kept = np.array([record for record in use if int(record["slot"]) in row_of], use.dtype)
    rows = torch.tensor([row_of[int(slot)] for slot in kept["slot"]], dtype=torch.int64)
    columns["uses_N"][rows] = torch.from_numpy(kept["uses"].astype(np.float32))
    last_use = torch.from_numpy(kept["last"].astype(np.int64))
    columns["provenance_NC"][rows, PROVENANCE.index("last_use")] = last_use
    for place, account in enumerate(accounts.values()):
        account[rows] = torch.from_numpy(kept["own"][:, place].astype(np.float32))


def _blobs(part_SX: Tensor, kind: str) -> list[bytes]:
    """Return the numbers of each row as bytes."""
    numbers = part_SX.detach().cpu().flatten(1).numpy().astype(kind, copy=False)
    return [row.tobytes().rstrip(b"\0") for row in numbers]


def _tensor(blobs: Sequence[Bytes], name: str, sizes: Sizes) -> Tensor:
    """Return blobs as a tensor, `[S, ...]`; their lengths are looked at first."""
    width = sizes.bytes(name)
    if not all(isinstance(blob, bytes) and len(blob) <= width for blob in blobs):
        raise ValueError(f"a {name} in it is broken")
    whole = b"".join(blob.ljust(width, b"\0") for blob in blobs if blob is not None)
    numbers = np.frombuffer(whole, sizes.types[name]).reshape(len(blobs), *sizes.shapes[name])
    return torch.from_numpy(numbers.copy())
