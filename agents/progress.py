"""Progress: one bar a lifetime, or a table of many lifetimes.

On anything but a terminal there is neither.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from tqdm import tqdm

from stillknows.agents.reports.log_parts import chunks, size

Progress = Callable[[str, int, float], None]


class Bar:
    """A progress bar of one lifetime.

    Args:
        name: of the lifetime.
        updates: how many there will be.
        position: the line of the bar, where several lifetimes run side by side.
    """

    def __init__(self, name: str, updates: int, position: int = 0) -> None:
        self.name = name
        self.bar = tqdm(
            total=updates,
            desc=name,
            position=position,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            mininterval=0.5,
        )

    def __call__(self, task: str, update: int, accuracy: float) -> None:
        """Show that `update` updates are done, the last one in `task`."""
        self.bar.set_description(f"{self.name}: {task}", refresh=False)
        self.bar.set_postfix(accuracy=f"{accuracy:.2f}", refresh=False)
        self.bar.update(update - self.bar.n)

    def close(self) -> None:
        """Leave the line as it is."""
        self.bar.close()


class LivesTable:
    """A table of many lifetimes: how many have ended in each row, and how far the others are.

    How far they are is read from their logs as they grow.

    Args:
        rows: the stream and the arm of every lifetime, by its name.
        logs: of the lifetimes that are still to be lived: its folder and its number of updates.
    """

    def __init__(
        self, rows: Mapping[str, tuple[str, str]], logs: Mapping[str, tuple[Path, int]]
    ) -> None:
        self.rows, self.logs = dict(rows), dict(logs)
        self.failed: list[str] = []
        self.all, self.begun = len(logs), time.monotonic()
        self._read = {name: (0, 0) for name in logs}  # bytes of a log, updates in them
        self._live = Live(
            get_renderable=self.table,
            console=Console(stderr=True),
            refresh_per_second=1,
            transient=True,
        )

    def __enter__(self) -> "LivesTable":
        """Show the table, if there is a terminal."""
        if sys.stderr.isatty():
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take it away."""
        self._live.stop()

    def finish(self, name: str, well: bool) -> None:
        """Count a lifetime that ended."""
        self.logs.pop(name)
        if not well:
            self.failed.append(name)
        if not self._live.is_started:
            done = f"{'done' if well else 'failed'}: {name}"
            print(f"{done} ({self.all - len(self.logs)} of {self.all})", file=sys.stderr)

    def table(self) -> Table:
        """Return the table as it is now."""
        table = Table("stream", "arm", "lived", "running", title=self._left(), title_justify="left")
        whole = Counter(self.rows.values())
        waiting = Counter(self.rows[name] for name in (*self.logs, *self.failed))
        shares = {name: self._updates(name) / max(1, self.logs[name][1]) for name in [*self.logs]}
        for row, count in whole.items():
            running = [f"{s:.0%}" for name, s in shares.items() if s and self.rows[name] == row]
            table.add_row(*row, f"{count - waiting[row]} of {count}", " ".join(running))
        return table

    def _left(self) -> str:
        """Return how many lifetimes are left, and how long the others took."""
        minutes = (time.monotonic() - self.begun) / 60
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{len(self.logs)} of {self.all} lifetimes left after {minutes:.0f} min{failed}"

    def _updates(self, name: str) -> int:
        """Return how many updates a log holds, reading what is new in it."""
        at, count = self._read[name]
        folder, _ = self.logs[name]
        if size(folder) < at:  # a life that goes on has cut its log back
            at, count = 0, 0
        new = b"".join(chunks(folder, at))
        whole = new[: new.rfind(b"\n") + 1]
        at, count = at + len(whole), count + whole.count(b'{"event": "update"')
        self._read[name] = at, count
        return count
