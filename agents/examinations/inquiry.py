"""The inquiry at the end of a life: what its last examination asks beyond right and wrong.

The cause of every wrong answer; the arms of `stillknows.agents.examinations.arms`; weights and
store swapped for their earlier selves; and how far what was learned goes. All of it is written into
the log, and nothing of it stays in the agent.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.examinations.anatomy import Dissector, columns, dissect
from stillknows.agents.examinations.arms import chosen
from stillknows.agents.examinations.examine import Result, examine
from stillknows.agents.examinations.swaps import CELLS, EMPTY, NOW, THEN, Snapshots
from stillknows.agents.examinations.trace import Ledger
from stillknows.agents.reports.log import Event, LifetimeLog, read
from stillknows.envs.tasks import Task
from stillknows.envs.variants import VARIANTS, variant
from stillknows.memory.stores.store import Through, at_once

Round = tuple[str, Callable[[], Result]]  # the name of an arm, and what examines in it
MISLEADING = "misleading"  # a variant of the store, not of the stories


class Inquiry:
    """Holds the last examination of a life.

    Args:
        agent: who lives.
        folder: of the life.
        experiences: how many it will have.
        arms: of the examination, keys of `stillknows.agents.examinations.arms.ARMS`.
        anatomy: whether weights and store are kept after every experience and swapped in the end.
        generalisation: some of `names`, `longer` and `misleading`.
        through: how something is kept where that may fail.

    Raises:
        ValueError: if there is no such arm or variant, or too much would be kept.
    """

    def __init__(
        self,
        agent: MemoryAgent,
        folder: Path,
        experiences: int,
        arms: Sequence[str],
        anatomy: bool,
        generalisation: Sequence[str],
        through: Through = at_once,
    ) -> None:
        self.agent, self.folder, self.through = agent, folder, through
        self.arms = chosen(arms, agent)
        self.snapshots = Snapshots(folder, agent, experiences) if anatomy else None
        self.variants = list(dict.fromkeys(generalisation))
        for name in self.variants:
            if name not in (*VARIANTS, MISLEADING):
                known = ", ".join((*VARIANTS, MISLEADING))
                raise ValueError(f"generalisation has no variant '{name}': there are {known}.")
        self._ledger: Ledger | None = None
        self._own: dict[int, int] = {}

    def lived(self, experiences: int) -> None:
        """Keep what is needed later, after so many experiences; 0: before any."""
        snapshots = self.snapshots
        if snapshots is not None:
            self.through(lambda: snapshots.take(experiences))

    def rounds(
        self,
        log: LifetimeLog,
        task: Task,
        settings: Mapping[str, Any],
        after: int,
        rekey: Callable[[], Any],
    ) -> Iterator[Round]:
        """Yield every way to examine in one task, by the name of its arm, the agent as it is first.

        Args:
            log: takes the causes of wrong answers.
            task: in which.
            settings: of `examine`.
            after: how many experiences were lived.
            rekey: computes the keys of the store again.
        """
        ledger = self._read()
        yield "agent", partial(self._dissect, ledger, log, task, settings, after)
        for arm in self.arms[1:]:
            yield arm, partial(examine, self.agent, task, arm=arm, **settings)
        if self.snapshots is not None and settings["number"] in self._own:
            yield from self._swaps(self.snapshots, task, settings, rekey)
        yield from self._further(task, settings)

    def _dissect(
        self,
        ledger: Ledger,
        log: LifetimeLog,
        task: Task,
        settings: Mapping[str, Any],
        after: int,
    ) -> Result:
        """Examine, and write why wrong answers are wrong."""
        dissector = Dissector(self.agent, ledger)
        result = dissect(dissector, task, **settings)
        place = {"after": after, "task": settings["number"], "name": task.name}
        log.append("anatomy", **place, **columns(dissector))
        return result

    def _swaps(
        self,
        snapshots: Snapshots,
        task: Task,
        settings: Mapping[str, Any],
        rekey: Callable[[], Any],
    ) -> Iterator[Round]:
        """Yield earlier weights and stores; without a store these are the weights alone."""
        when = {NOW: None, THEN: self._own[settings["number"]], EMPTY: 0}

        def ask(weights: int | None, store: int | None) -> Result:
            with snapshots.swapped(weights, store, rekey):
                return examine(self.agent, task, **settings)

        for arm, (weights, store) in CELLS.items():
            if self.agent.episodic_memory is not None or store == NOW:
                yield arm, partial(ask, when[weights], when[store])

    def _further(self, task: Task, settings: Mapping[str, Any]) -> Iterator[Round]:
        """Yield names, lengths and entries that were not met in training."""
        for name in self.variants:
            other = task if name == MISLEADING else variant(task, name)
            arm = MISLEADING if name == MISLEADING else "agent"
            if other is not None and (self.agent.recall or arm == "agent"):
                ask = partial(examine, self.agent, other, arm=arm, **settings)
                yield f"further_{name}", ask

    def _read(self) -> Ledger:
        """Return what became of the questions offered to the store, from the log so far."""
        if self._ledger is None:
            events = read(self.folder)
            self._ledger, self._own = Ledger(events), own_experiences(events)
        return self._ledger


def own_experiences(events: Sequence[Event]) -> dict[int, int]:
    """Return for each task after how many experiences it had first been trained in.

    An experience is of the task that it begins with: near its end batches of the next may be mixed
    in (`stream.blur`). That of the joint reference is of all its tasks.
    """
    joint = any(event.get("protocol") == "joint" for event in events[:1])
    tasks: dict[int, int] = {}
    own: dict[int, int] = {}
    for event in events:
        if event["event"] == "update" and (joint or event["experience"] not in tasks):
            tasks[event["experience"]] = event["task"]
            own.setdefault(event["task"], event["experience"] + 1)
    return own
