"""Writes of a lifelong memory by a rule that leaves nothing to ask: all is written, by order.

Such a rule refreshes what is known and adds the rest, and who leaves is lowest in one column of
provenance (`interface.leaves_first`). So rows go to their slots one after another, without features
of every slot. Letters: B rows, N entries.
"""

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from stillknows.memory import episodic, interface
from stillknows.memory.episodic import DIMENSIONS, Candidates, Departures, Written
from stillknows.memory.interface import ADD
from stillknows.memory.names import Name
from stillknows.memory.refusals import refuse, refuse_tokens
from stillknows.memory.table import REFUSED, Done, Table, When

if TYPE_CHECKING:
    from stillknows.memory.nec import NEC


class Ordered:
    """The part of a memory that is about such writes.

    Attributes:
        departures: who leaves next.
    """

    departures: Departures

    def refuse(self, candidates: Candidates) -> None:
        """Raise a ValueError if a candidate has other sizes than the store, or is no number."""
        counts = {name: len(part) for name, part in candidates._asdict().items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"Candidates have a row in every part: there are {counts}.")
        for name, part in candidates._asdict().items():
            if part.dim() != DIMENSIONS[name]:
                raise ValueError(
                    f"{name} has the shape {list(part.shape)}: give it {DIMENSIONS[name]} "
                    "dimensions, the rows first."
                )
        columns = cast("NEC", self).columns
        told, kept = (list(x.shape[1:]) for x in (candidates.story_BTL, columns["story_NTL"]))
        if told != kept:
            raise ValueError(
                f"The story has the shape {told} where this store keeps {kept}: cut it, or fill it "
                "up with zeros."
            )
        key_size, vector_size = (columns[name].shape[1] for name in ("keys_ND", "vectors_NV"))
        refuse(key=(candidates.key_BD, key_size), outcome=(candidates.outcome_BF, 3))
        refuse(vector=(candidates.vector_BV, vector_size))
        refuse_tokens(
            story=(candidates.story_BTL, columns["story_NTL"].dtype),
            answer=(candidates.answers_BA, columns["answers_NA"].dtype),
        )

    def _in_order(self, rows: int) -> bool:
        """Return whether the policy is such a rule, and the rows fit."""
        memory = cast("NEC", self)
        free = memory.writes is None or rows <= memory.writes
        return bool(interface.leaves_first(memory.policy)) and rows <= memory.capacity and free

    def _empty(self) -> Iterator[int]:
        """Return the slots that hold nothing, in order."""
        memory = cast("NEC", self)
        return chain(sorted(memory.holes), range(memory.size, memory.capacity))

    def _writes_at_once(self, candidates: Candidates) -> bool:
        """Return whether the native file does it."""
        memory, rows = cast("NEC", self), candidates.hash_B.shape[0]
        if not isinstance(memory.names, Table) or memory.holes or not rows:
            return False
        told = hasattr(memory.policy, "observe_write")
        return not told and self._in_order(rows) and memory.names.fits(candidates)

    def _write_at_once(self, candidates: Candidates, hash_B: Tensor) -> tuple[list[int], Tensor]:
        """Write natively; return the slots that changed, and of each row what `Written` holds.

        Raises:
            ValueError: if a number is NaN or infinite, or a token too large.
        """
        memory, table = cast("NEC", self), cast(Table, cast("NEC", self).names)
        rank = str(interface.leaves_first(memory.policy))
        refresh = memory.identity != "none" and getattr(memory.policy, "refresh", True)
        when = When(self.departures, rank, refresh, memory.size, memory.seen, memory.clock + 1,
                    memory.next_id, memory.update_rate)  # fmt: skip
        while not isinstance(done := table.write(candidates, hash_B, when), Done):
            if done == REFUSED:
                self.refuse(candidates)
                raise AssertionError("The native file refuses what Python takes.")
            self.departures.sort(len(hash_B), memory.provenance(rank)[: memory.size])
        memory.clock, memory.size, memory.next_id = when.clock, done.size, done.next_id
        memory.seen += hash_B.shape[0]
        return list(dict.fromkeys(done.told_4B[0].tolist())), done.told_4B[1:]

    def _place_in_order(
        self, known: list[int], names: list[Name]
    ) -> tuple[list[int], list[Written]]:
        """Do the same in Python, but for the contents; as `_settle` does for any policy."""
        memory = cast("NEC", self)
        rows, size, column = len(names), memory.size, interface.leaves_first(memory.policy)
        known = known if getattr(memory.policy, "refresh", True) else [-1] * rows
        rank_N = memory.provenance(str(column))[:size]
        wanted = max(0, rows - len(memory.holes) - (memory.capacity - size))
        wanted += len(memory.holes) if wanted else 0
        first = self.departures.first(wanted, rank_N).tolist()
        leaving = [slot for slot in first if slot not in memory.holes]  # holes rank lowest
        those = ((slot, cast(int, memory.names.at(slot))) for slot in leaving)
        placing: Any = (memory.names, known, names, self._empty(), those, memory.next_id)
        slots, written = episodic.place_in_order(*placing)
        added = [row for row in range(rows) if written[row].action == ADD]
        begun = {slots[row]: written[row].entry for row in added}
        memory._stamp(begun, {slots[row]: names[row][0] for row in added})
        memory.next_id += len(added)
        return slots, written
