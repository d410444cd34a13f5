"""The past of a memory in a database, bounded: what is older is folded into one state.

Whoever lives long cannot keep every operation. So a memory may say how many operations of its past
are kept. Now and then, in a transaction of its own after a write, all that is older becomes one
state, the base: `at` and `rewind` reach back to it, the room of what was dropped is used again, and
the database grows no further. What a checkpoint stands on is kept for it (`hold`).
"""

import json
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from stillknows.memory.stores.past import Past, seal_of_lines
from stillknows.memory.stores.schema import BOUNDED, FOLD, LOCK, UNSUM
from stillknows.memory.stores.store import Through, at_once

_SLACK = 8  # the past is folded when it is longer by a share of 1 / _SLACK


class Compacted(Past):
    """A memory in a database whose past may be bounded.

    Attributes:
        operation: the last that the device copy knows.
        past: how many operations are kept that `at` and `rewind` can reach; None: all.
        through: how work is done that may fail for want of room or of a connection: `at_once`, or
            again and again.

    Args:
        name: what sentences about it call it.
    """

    past: int | None = None
    through: Through = staticmethod(at_once)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.operation, self._generation, self._base = 0, 0, 0
        self._held: int | None = None  # an operation that the past reaches back to

    def reach(self, past: int | None) -> None:
        """Let the past reach back so many operations from now on; None: as far as it does.

        The memory knows it, whoever opens it. The past is folded with later writes.
        """
        if past != self.past:
            with self._writing():
                self._describe(past=past)
        self.past = past

    def hold(self, operation: int | None) -> None:
        """Let the past reach back to an operation, whatever `past` says; None: to none."""
        self._held = operation

    def _fold(self) -> None:
        """Let go of what is older than the past that is kept, if that is worth a transaction."""
        if self.past is None:
            return
        reach = self.operation - self.past
        base = reach if self._held is None else min(reach, self._held)
        if base - self._base >= max(1, self.past // _SLACK):
            self.through(lambda: self._fold_into(base))

    def _fold_into(self, base: int) -> None:
        with self._writing():
            self._execute(LOCK)
            head = self._head()
            self._base = head.base
            if head.base < base <= head.operation and head.generation == self._generation:
                for statement in (*FOLD, UNSUM) if self._sealed else FOLD:
                    self._execute(statement, base=base)
                self._schema = max(self._schema, BOUNDED)
                self._describe(schema=self._schema, base=base)
                self._base = base

    def _describe(self, **lines: Any) -> None:
        """Set lines of the description, and its seal; it has to be sound."""
        self._execute(LOCK)
        kept = dict(self._description())
        if kept:
            self.description()
        kept |= {name: json.dumps(value) for name, value in lines.items()}
        if self._sealed:
            kept["seal"] = str(seal_of_lines(kept))
        self._insert("description", list(kept.items()), key="name")

    @abstractmethod
    def _execute(self, statement: str, **values: Any) -> int:
        """Run a statement; return how many rows it changed."""

    @abstractmethod
    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]], key: str = "") -> None:
        """Insert rows, all columns in order but those left empty; with a key, or replace them."""

    @abstractmethod
    def _writing(self) -> AbstractContextManager[None]:
        """A transaction: all or nothing, flushed at its end."""
