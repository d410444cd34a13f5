"""How much entries are used: what a database has of it, and what the device copy has beyond that.

Reads count on the device copy; a database has their count with the next operation. Others count
too, and what each has counted adds up. A change of the memory overwrites use, such as that of an
entry that leaves: so it is noted before, for where the change is not kept.

Letters: S slots, N entries, U numbers of use: weight of reads, time of the last, accounts.
"""

from collections.abc import Iterable
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from stillknows.memory.stores.store import accounts_of

if TYPE_CHECKING:
    from stillknows.memory.nec import NEC


class Unkept(NamedTuple):
    """Use that a database does not have yet.

    Attributes:
        slots_S: whose, int64.
        more_SU: how much more than the database has.
        ids_S: of their entries, -1 for none.
    """

    slots_S: Tensor
    more_SU: Tensor
    ids_S: Tensor


class Usage:
    """The use of all slots: weights of reads, times of the last, and each account, `[N]` all.

    Args:
        capacity: slots (N).
        accounts: how many numbers a policy keeps about each.
        device: of the memory.
    """

    def __init__(
        self, capacity: int = 0, accounts: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        last_N = torch.full((capacity,), -1, device=device)
        others = [torch.zeros(capacity, device=device) for _ in range(1 + accounts)]
        self._kept = [others[0], last_N, *others[1:]]  # as the database has it
        self._noted, self._noted_ids = [part[:0] for part in self._kept], last_N[:0]
        self._reach = 0  # slots that the memory ever had, before it was restored to fewer too

    def kept(self, slots_S: Tensor) -> Tensor:
        """Return the use of slots as the database has it, float64 `[S, U]`, which is exact."""
        return _at(self._kept, slots_S)

    def keep(self, slots_S: Tensor, use_SU: Tensor) -> None:
        """Note that the database has the use of slots."""
        for kept_N, use_S in zip(self._kept, use_SU.unbind(dim=1), strict=True):
            kept_N[slots_S] = use_S.to(kept_N)

    def since(self, memory: "NEC") -> tuple[Tensor, Tensor]:
        """Return the slots whose use the database does not have yet, int64, and their use."""
        now = self._now(memory)
        used_S = self._differing(now)
        return used_S, _at(now, used_S)

    def note(self, memory: "NEC") -> None:
        """Note how much slots are used, and by which entries, before a change."""
        self._noted = [part_S.clone() for part_S in self._now(memory)]
        self._noted_ids = memory.provenance("id")[: self._reach].clone()

    def unkept(self, memory: "NEC", undone: Iterable[int]) -> Unkept:
        """Return what the database does not have yet.

        Args:
            memory: as it is.
            undone: slots with a change that is not kept: theirs is the use that was noted.
        """
        now = [part_S.clone() for part_S in self._now(memory)]
        ids_S = memory.provenance("id")[: self._reach].clone()
        undone_S = torch.tensor(sorted(undone), dtype=torch.int64).to(ids_S)
        ids_S[undone_S] = -1  # where there was nothing yet
        undone_S = undone_S[undone_S < len(self._noted_ids)]
        for part_S, noted_S in zip((*now, ids_S), (*self._noted, self._noted_ids), strict=True):
            part_S[undone_S] = noted_S[undone_S]
        used_S = self._differing(now)
        return Unkept(used_S, _at(now, used_S) - self.kept(used_S), ids_S[used_S])

    def take(self, memory: "NEC", slots_S: Tensor, unkept: Unkept) -> None:
        """Take what slots hold now for what the database has, and add what it has not.

        Where another entry came into a slot, the use of the one that left is nobody's.
        """
        held = _held(memory)
        at_S = slots_S.to(held[0].device)
        self.keep(at_S, _at(held, at_S))
        used_S, more_SU, ids_S = unkept
        stays_S = torch.isin(used_S, at_S) & (ids_S >= 0)
        stays_S &= memory.provenance("id")[used_S] == ids_S
        self._add(memory, used_S[stays_S], more_SU[stays_S])

    def load(self, memory: "NEC") -> None:
        """Take all that the memory holds for what the database has."""
        for kept_N, held_N in zip(self._kept, _held(memory), strict=True):
            kept_N.copy_(held_N)

    def _add(self, memory: "NEC", slots_S: Tensor, more_SU: Tensor) -> None:
        more_SU[:, 1].clamp_(min=0)
        use_US = (self.kept(slots_S) + more_SU).T
        memory.columns["uses_N"][slots_S] = use_US[0].to(memory.columns["uses_N"])
        memory.provenance("last_use")[slots_S] = use_US[1].long()
        for account, use_S in zip(accounts_of(memory).values(), use_US[2:], strict=True):
            account[slots_S.to(account.device)] = use_S.to(account)

    def _now(self, memory: "NEC") -> list[Tensor]:
        """Return the use of all slots that the memory ever had, its own columns."""
        self._reach = max(self._reach, memory.size)
        return [part_N[: self._reach] for part_N in _held(memory)]

    def _differing(self, now: list[Tensor]) -> Tensor:
        """Return the slots whose use is not as the database has it."""
        pairs = zip(now, self._kept, strict=True)
        differs = (now_S != kept_N[: self._reach] for now_S, kept_N in pairs)
        return reduce(torch.logical_or, differs).nonzero()[:, 0]


def _held(memory: "NEC") -> list[Tensor]:
    """Return the use of all slots, the memory's own columns."""
    parts = (memory.columns["uses_N"], memory.provenance("last_use"))
    return [*parts, *(part.to(parts[0].device) for part in accounts_of(memory).values())]


def _at(parts: list[Tensor], slots_S: Tensor) -> Tensor:
    return torch.stack([part[slots_S].double() for part in parts], dim=1)
