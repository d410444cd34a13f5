"""The log of a lifetime: append-only events, one JSON object a line.

Every metric, figure and table is computed from it. Apart from the field `time`, the same seed
gives the same log. Logs hold ids of memory entries, never their content.

Events, each with `event` and `time` (seconds since the epoch):

- `lifetime`: `schema`, `name` (the arm), `seed`, `tasks`, `sources`, `needs` and `gives` (what each
  task does, see `stillknows.envs.reuse`), `protocol`, `config`, `versions`.
- `update`: `experience`, `update`, `task`, `loss`, `rehearsed_loss`, `accuracy`, `trust`,
  `entries`; and the decisions of the episodic memory in columns: `actions` (a letter each: s skip,
  a add, u update, m merge), `written` and `evicted` (ids of entries, -1 for none).
- `examination`: `after` (experiences lived), `task`, `name`, `arm`, `loss`, and columns with an
  entry a question: `episodes`, `steps`, `correct`, `carried`, `by_token` (share of its tokens).
- `floor`: `task`, `majority`, `last_mentioned`.
- `rekey`: `experience`, `overlap` (share of neighbours that stay).
- `end`: `updates`, `parameters`, `memory_bytes`.
- `clock`: `seconds`, of the whole life; the only event that another run of a seed does not repeat.
"""

import json
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

SCHEMA = 1
FILE = "log.jsonl"
PACKAGES = ("stillknows", "torch", "gymnasium", "avalanche-lib", "numpy")

Event = dict[str, Any]


class LifetimeLog:
    """Writes events to a new file, each flushed as a whole line.

    Args:
        folder: where `log.jsonl` begins; made if it is not there.

    Raises:
        ValueError: if the folder already holds a log.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        if self.path.exists():
            raise ValueError(f"{folder} already holds a lifetime: choose another folder with run=…")
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("x", encoding="utf-8")

    def append(self, event: str, **fields: Any) -> Event:
        """Write one event and return it."""
        record = {"event": event, "time": time.time(), **fields}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        return record

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def versions() -> dict[str, str]:
    """Return the versions of what a result may depend on."""
    return {package: version(package) for package in PACKAGES}


def read(folder: Path, begins: str = "lifetime") -> list[Event]:
    """Return the events of a lifetime.

    Args:
        folder: holds `log.jsonl`.
        begins: the first event; `solving` for a log of `stillknows solve`.

    Raises:
        ValueError: if the folder holds no log, or one that this version cannot read.
    """
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not a run: it holds no {FILE}.")
    events = list(_parse(path))
    if not events or events[0]["event"] != begins:
        raise ValueError(f"{path} does not begin with a {begins}: the file is broken or foreign.")
    if events[0].get("schema") != SCHEMA:
        raise ValueError(
            f"{path} has schema {events[0].get('schema')}; this version reads schema {SCHEMA}."
        )
    return events


def begins_with(folders: list[Path]) -> str:
    """Return the first event of the first log at or below the folders, "" if there is none."""
    for folder in folders:
        for path in sorted(folder.rglob(FILE)):
            return next((str(event["event"]) for event in _parse(path)), "")
    return ""


def lifetimes(folders: list[Path], begins: str = "lifetime") -> list[list[Event]]:
    """Return the events of every lifetime at or below the folders, in the order of their paths.

    Args:
        folders: of one run or more.
        begins: as in `read`.

    Raises:
        ValueError: if a folder is not there or has no lifetime in it.
    """
    found: list[list[Event]] = []
    for folder in folders:
        paths = sorted(folder.rglob(FILE)) if folder.is_dir() else []
        if not paths:
            raise ValueError(f"{folder} is not a run: there is no {FILE} in it or below it.")
        found.extend(read(path.parent, begins) for path in paths)
    return found


def _parse(path: Path) -> Iterator[Event]:
    """Yield events; a last line cut short by a stop is left out, any other broken line is named."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                return
            raise ValueError(f"{path}, line {number} is not JSON: the log is broken.") from error
        if not isinstance(event, dict) or "event" not in event:
            raise ValueError(f"{path}, line {number} is no event: the file is not a log.")
        yield event
