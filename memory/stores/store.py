"""Where a lifelong memory is kept: what every store offers, and the one that is tensors alone.

A memory computes on its columns, the device copy. Its store keeps what they hold: a `TensorStore`
nothing but them (a file is written by who wants one, from `snapshot`), a database
(`sqlite.py`, `postgres.py`) every operation, by number, and every entry. A store knows nothing of
words, tasks or agents.

Letters: S slots, N entries.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from stillknows.memory.episodic import Departures
from stillknows.memory.names import Holding

if TYPE_CHECKING:
    from stillknows.memory.nec import NEC

T = TypeVar("T")
COUNTERS = ("seen", "clock", "next_id", "size")


class Rows(NamedTuple):
    """What some slots hold.

    Attributes:
        slots_S: which, int64.
        columns: of the memory, each `[S, ...]`.
        accounts: of its policy, each `[S]`.
        counters: of the memory, as they were then.
    """

    slots_S: Tensor
    columns: dict[str, Tensor]
    accounts: dict[str, Tensor]
    counters: dict[str, int]


class Through(Protocol):
    """How work is done that may fail with an OSError and changes nothing then."""

    def __call__(self, work: Callable[[], T], /) -> T:
        """Return what the work returns."""
        ...


def at_once(work: Callable[[], T], /) -> T:
    """Do work once; its error is the caller's."""
    return work()


class Store(Protocol):
    """What a memory asks of the place where it is kept.

    A change is an operation; operations are numbered from 1. A change is made on the device copy
    first and acknowledged by `write`: after that it is kept, whole.

    Attributes:
        keeps_past: whether `at` and `rewind` reach operations before the last.
        shared: whether others live with the memory.
    """

    keeps_past: bool
    shared: bool

    @property
    def operation(self) -> int:
        """The number of the last operation that the device copy knows."""
        ...

    @property
    def first(self) -> int:
        """The oldest operation that `at` and `rewind` reach, beside 0."""
        ...

    def hold(self, operation: int | None) -> None:
        """See that `at` and `rewind` reach back to an operation; None: to none in particular."""
        ...

    def begin(self, memory: "NEC") -> None:
        """Keep a memory: load what is kept already, or write what it holds.

        Raises:
            ValueError: if what is kept has other sizes, or both hold something.
            OSError: if it cannot be read or written; so do all the others.
        """
        ...

    def follow(self, memory: "NEC") -> None:
        """Bring the device copy to the newest operation, those of others included."""
        ...

    def prepare(self, memory: "NEC") -> None:
        """Make the device copy ready for a change; each begins with this, or with `follow`.

        What others have done is asked for only where they were at work lately. So who is alone does
        not wait for an answer, and who is not, after all, hears it from `write`.
        """
        ...

    def write(
        self, memory: "NEC", kind: str, slots: Sequence[int], keyed: Sequence[int] = ()
    ) -> bool:
        """Keep a change of the device copy, and all use since the last one, in one transaction.

        Args:
            memory: as it is after the change.
            kind: of the operation.
            slots: whose entries are new, changed or gone.
            keyed: whose keys alone are new.

        Returns:
            False if somebody else has changed the memory since the operation that the device copy
            knows: nothing was kept, and the next `prepare` or `follow` undoes the change and all
            that it did to use and accounts.
        """
        ...

    def flush(self, memory: "NEC") -> int:
        """Keep the use that came after the last operation; return the number of the last."""
        ...

    def at(self, operation: int) -> Rows:
        """Return the memory as it was after an operation; 0: before the first.

        What was deleted since is not in it.

        Raises:
            ValueError: if there was no such operation, or its past is not kept.
        """
        ...

    def gaps(self, operation: int) -> list[int]:
        """Return the ids of entries that were there after an operation and were deleted since."""
        ...

    def rewind(self, memory: "NEC", operation: int) -> None:
        """Go back to an operation; what came after it is dropped. What was deleted stays so.

        Raises:
            ValueError: as `at` does.
        """
        ...

    def erase(self, memory: "NEC", ids: Sequence[int], slots: Sequence[int]) -> bool:
        """Delete entries for good, past ones too; the device copy has cleared their slots.

        Returns:
            As `write` does.
        """
        ...

    def close(self) -> None:
        """Let go of what is open. Use that was not flushed is lost."""
        ...


class TensorStore:
    """Keeps nothing beside the device copy: operations are counted, their past is gone.

    Args:
        operation: the number to count on from.
    """

    keeps_past = shared = False

    def __init__(self, operation: int = 0) -> None:
        self.operation = operation

    @property
    def first(self) -> int:
        """The last operation: the past is gone."""
        return self.operation

    def hold(self, operation: int | None) -> None:
        """Do nothing: there is no past."""

    def begin(self, memory: "NEC") -> None:
        """Do nothing: what the memory holds is all there is."""

    def follow(self, memory: "NEC") -> None:
        """Do nothing: nobody else changes the memory."""

    def prepare(self, memory: "NEC") -> None:
        """Do nothing, for the same reason."""

    def write(
        self, memory: "NEC", kind: str, slots: Sequence[int], keyed: Sequence[int] = ()
    ) -> bool:
        """Count an operation."""
        self.operation += 1
        return True

    def flush(self, memory: "NEC") -> int:
        """Return the number of the last operation."""
        return self.operation

    def at(self, operation: int) -> Rows:
        """Raise a ValueError: the past is gone."""
        raise ValueError(
            f"A memory with store=tensor keeps no past, so there is no operation {operation} to "
            "look at: live with episodic_memory.store=sqlite."
        )

    def gaps(self, operation: int) -> list[int]:
        """Return nothing: there is no past with gaps."""
        return []

    def rewind(self, memory: "NEC", operation: int) -> None:
        """Raise a ValueError, unless there is nothing to go back over."""
        if operation != self.operation:
            self.at(operation)

    def erase(self, memory: "NEC", ids: Sequence[int], slots: Sequence[int]) -> bool:
        """Count an operation: what was cleared is nowhere else."""
        self.operation += 1
        return True

    def close(self) -> None:
        """Do nothing."""


class Unmanaged:
    """The policy of a memory that is only looked at: it keeps accounts, and decides nothing.

    Args:
        names: of the accounts that the policy who wrote it kept.
    """

    needs_similarity = False

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = tuple(names)
        self.accounts: dict[str, Tensor] = {}

    def begin(self, capacity: int) -> None:
        """Keep accounts of `capacity` entries."""
        self.accounts = {name: torch.zeros(capacity) for name in self._names}

    def decide(self, features: Any) -> Any:
        """Raise a ValueError: nothing is written here."""
        raise ValueError("This memory was opened without a policy, and remembers nothing new.")


def accounts_of(memory: "NEC") -> dict[str, Tensor]:
    """Return what the policy keeps about each entry by name, each `[N]`, to be changed in place."""
    accounts: dict[str, Tensor] = getattr(memory.policy, "accounts", {})
    return accounts


def describe(memory: "NEC") -> dict[str, Any]:
    """Return what a memory must agree on with where it is kept."""
    columns = memory.columns
    return {
        "capacity": memory.capacity,
        "key_size": columns["keys_ND"].shape[1],
        "vector_size": columns["vectors_NV"].shape[1],
        "answer_length": columns["answers_NA"].shape[1],
        "story_shape": list(columns["story_NTL"].shape[1:]),
        "token_bytes": columns["story_NTL"].element_size(),
        "identity": memory.identity,
        "accounts": list(accounts_of(memory)),
    }


def rows_of(memory: "NEC", slots_S: Tensor) -> Rows:
    """Return a copy of what slots hold."""
    return Rows(
        slots_S,
        {name: column[slots_S] for name, column in memory.columns.items()},
        {name: account[slots_S].clone() for name, account in accounts_of(memory).items()},
        {name: getattr(memory, name) for name in COUNTERS},
    )


def clear(memory: "NEC", slots: Sequence[int]) -> None:
    """Empty slots of a device copy, whatever they hold."""
    if not slots:
        return
    at_S = torch.tensor(slots, device=memory.columns["filled_N"].device)
    filled_S = memory.columns["filled_N"][at_S].tolist()
    hash_S = memory.provenance("hash")[at_S].tolist()
    for slot, question, filled in zip(slots, hash_S, filled_S, strict=True):
        if filled:
            memory.names.drop(question, slot)
    for name, column in memory.columns.items():
        column[at_S] = -1 if name == "provenance_NC" else 0
    for account in accounts_of(memory).values():
        account[at_S.to(account.device)] = 0
    memory.holes.update(slots)


def put(memory: "NEC", rows: Rows) -> None:
    """Make slots of a device copy hold what they say, and set its counters to theirs."""
    slots = rows.slots_S.tolist()
    clear(memory, slots)
    for name, part in rows.columns.items():
        column = memory.columns[name]
        column[rows.slots_S.to(column.device)] = part.to(column)
    for name, account in accounts_of(memory).items():
        account[rows.slots_S.to(account.device)] = rows.accounts[name].to(account)
    held = zip(slots, rows.columns["filled_N"].tolist(), holdings(rows.columns), strict=True)
    oldest_first = sorted(held, key=lambda one: one[2][1].entry)
    for slot, filled, (question, holding) in oldest_first:
        if filled:
            memory.names.add(question, slot, holding)
            memory.holes.discard(slot)
    for counter, value in rows.counters.items():
        setattr(memory, counter, value)
    memory.holes = {slot for slot in memory.holes if slot < memory.size}
    memory.departures = Departures()


def are_alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether two sets of columns have the same names, sizes and kinds of numbers."""
    kinds = [{name: (c.shape, c.dtype) for name, c in each.items()} for each in (one, other)]
    return kinds[0] == kinds[1]


def holdings(columns: dict[str, Tensor]) -> list[tuple[int, Holding]]:
    """Return the name and what is held of each row of columns."""
    provenance, answers = columns["provenance_NC"].tolist(), columns["answers_NA"].tolist()
    return [
        (row[-1], Holding(row[0], tuple(answer)))
        for row, answer in zip(provenance, answers, strict=True)
    ]
