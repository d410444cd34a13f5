"""What a lifelong memory does with the store it is kept in: look back, fork, go back, delete.

Letters: S slots, N entries, D key size.
"""

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from stillknows.memory.refusals import refuse
from stillknows.memory.stores.store import Store, TensorStore, accounts_of, clear, put

if TYPE_CHECKING:
    from stillknows.memory.nec import NEC


class Kept:
    """The part of a memory that is about where it is kept.

    Attributes:
        store: where that is; tensors alone, until `keep_in`.
        holes: slots below the highest that was ever filled whose entries were deleted.
    """

    store: Store
    holes: set[int]
    _frozen: bool

    @property
    def operation(self) -> int:
        """The number of the last operation."""
        return self.store.operation

    def keep_in(self, store: Store) -> None:
        """Be kept in a store from now on; what it holds already becomes the memory.

        Raises:
            ValueError: if the store holds a memory of other sizes, or both hold entries.
            OSError: if it cannot be read or written.
        """
        store.begin(self._itself)
        self.store = store

    def flush(self) -> int:
        """Keep the use of entries since the last operation; return the number of the last."""
        return self.store.flush(self._itself)

    def follow(self) -> None:
        """Learn what others have changed in a memory that is shared."""
        self.store.follow(self._itself)

    def fork(self, store: Store | None = None) -> "NEC":
        """Return a memory that begins as this one is now, and goes on by itself.

        Args:
            store: where it is kept, empty; None: in tensors.
        """
        twin = self.blank()
        twin.restore(self._itself.snapshot())
        twin.store = TensorStore(self.operation)
        if store is not None:
            twin.keep_in(store)
        return twin

    def at(self, operation: int) -> "NEC":
        """Return a copy, in tensors, of the memory as it was after an operation.

        What was deleted since is not in it; `store.gaps` tells what that was. Nothing is written
        for it, use that is not kept yet least of all: with that the past might be folded, and
        `store.first` lie behind the operation that was asked for.

        Raises:
            ValueError: if there was no such operation, or the store keeps no past.
        """
        if operation == self.operation and not self.store.keeps_past:
            return self.fork()
        twin = self.blank()
        for account in accounts_of(twin).values():
            account.zero_()
        put(twin, self.store.at(operation))
        clear(twin, sorted(twin.holes))  # the past tells of their use
        twin.store = TensorStore(operation)
        return twin

    def rewind(self, operation: int) -> None:
        """Go back to an operation: what came after it is dropped, but for deletions.

        Raises:
            ValueError: if there was no such operation, or the store keeps no past.
        """
        self.store.rewind(self._itself, operation)

    def resume(self, snapshot: dict[str, Any], operation: int | None) -> None:
        """Become what a snapshot was taken of, after an operation of the store that keeps it.

        A database goes back to the operation, if it reaches it; one that is shared stays as it is,
        since others have lived on.
        """
        if self.store.shared:
            return
        if self.store.keeps_past and operation is not None and self._reaches(operation):
            self.rewind(operation)
        self._itself.restore(snapshot)

    def hold(self, operation: int | None) -> None:
        """See that the store can go back to an operation; None: to none in particular."""
        self.store.hold(operation)

    def delete(self, ids: Sequence[int]) -> list[int]:
        """Delete entries for good, wherever the store holds them.

        Args:
            ids: of entries, or of what were entries once.

        Returns:
            Those that were entries until now.

        Raises:
            RuntimeError: if the memory is frozen.
        """
        self.expect_thawed("deletes nothing")
        memory, wanted = self._itself, {entry for entry in ids if entry >= 0}  # -1: none
        while True:
            self.follow()
            held = dict(enumerate(memory.provenance("id").tolist()))
            gone = {slot: entry for slot, entry in held.items() if entry >= 0 and entry in wanted}
            clear(memory, list(gone))
            if self.store.erase(memory, sorted(wanted), list(gone)):
                return sorted(gone.values())

    def blank(self) -> "NEC":
        """Return an empty memory like this one, with a copy of its policy, in tensors."""
        twin: Any = copy.copy(self)
        twin.policy = copy.deepcopy(twin.policy)
        twin.columns = {name: torch.zeros_like(part) for name, part in twin.columns.items()}
        twin.columns["provenance_NC"].fill_(-1)
        twin.store, twin._frozen = TensorStore(), False
        twin.seen = twin.clock = twin.next_id = twin.size = 0
        twin._index()
        return cast("NEC", twin)

    def expect_thawed(self, does: str) -> None:
        """Raise a RuntimeError if the store is frozen; `does` ends its sentence."""
        if self._frozen:
            raise RuntimeError(f"The store is frozen: an examination {does}.")

    def _reaches(self, operation: int) -> bool:
        return operation == 0 or self.store.first <= operation <= self.operation

    @property
    def _itself(self) -> "NEC":
        return cast("NEC", self)


def renewed(
    columns: dict[str, Tensor], slots: Tensor, encode: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the keys of entries, computed again from their stories, `[S, D]`; no gradient.

    Raises:
        ValueError: if they have another width than the store's, or are NaN or infinite.
    """
    keys_ND, story_NTL = columns["keys_ND"], columns["story_NTL"]
    parts = [encode(story_NTL[chunk].long()).detach() for chunk in torch.split(slots, 1024)]
    keys_SD = torch.cat(parts)
    refuse(key=(keys_SD, keys_ND.shape[1]))
    if len(keys_SD) != len(slots):
        raise ValueError(f"encode returned {len(keys_SD)} keys of {len(slots)} stories.")
    return keys_SD.to(keys_ND)
