"""The log of a lifetime: append-only events, one JSON object a line.

Every metric, figure and table is computed from it. Apart from the field `time`, the same seed
gives the same log. Logs hold ids of memory entries, never their content.

Events, each with `event` and `time` (seconds since the epoch):

- `lifetime`: `schema`, `name` (the arm), `seed`, `order`, `places` (of each task in the stream as
  it is written), `tasks` (as they are lived), `repeats` (the first task that each one trains like),
  `scale` (where scores are no shares: floor and reference of each task), `sources`, `needs` and
  `gives` (what each task does, see `stillknows.envs.reuse`), `protocol`, `setting` and its
  `fingerprint` (see `protocol.py`), `config`, `versions`.
- `update`: `experience`, `update`, `task`, `loss`, `rehearsed_loss`, `accuracy`, `trust`,
  `entries`, `steps` (of all rows); and the decisions of the episodic memory in columns: `actions`
  (a letter each: s skip, a add, u update, m merge), `written` and `evicted` (ids of entries, -1 for
  none), `names` (of the questions that were written, 40 bits of a hash, 0 for none).
- `examination`: `after` (experiences lived), `task`, `name`, `arm`, `loss`, and columns with an
  entry a question: `episodes`, `steps`, `correct`, `carried`, `by_token` (share of its tokens).
- `interim`: `experience`, `update` (updates of the experience so far), `task`, `name`, `loss`,
  `correct`: an examination while a task is trained (`stream.exam_every`).
- `plasticity`: `after`, `dormant` (share of units by tau), `effective_rank`, `units`, `width`,
  `sentences`.
- `anatomy`: `after`, `task`, `name`, `exact`, and columns with an entry a question that was wrong
  in the last examination (see `stillknows.agents.anatomy`): `causes` (a letter each), `episodes`,
  `steps`, `carried`, `fates` (a letter a support), `shares` and `even` (of a read), `mended`.
- `floor`: `task`, `majority`, `last_mentioned`.

In tasks that are acted in, `update` also has `returns` and `lengths`
of the episodes that ended, and what learning tells of itself (`policy_loss`, `value_loss`,
`entropy`, `divergence`, `clipped`), and its `accuracy` is the mean score of late; `examination`
has `scores`, `returns` and `lengths`, an entry an episode, and `correct` only where the
environment tells of success; `floor` has `random` (0), `random_return` and `reference_return`; and
`fault` is an episode that broke: `task`, `name`, `where`, `episode`, `step`, `reason`.

The others:

- `rekey`: `experience`, `overlap` (share of neighbours that stay).
- `end`: `updates`, `parameters`, `memory_bytes`.
- `clock`: `seconds`, of the whole life; the only event that another run of a seed does not repeat.

A log grows by a line an update, some 12 bytes a question; what a resumed life had lived beyond its
checkpoint is lived again, and the old lines go to `cut.jsonl`.
"""

import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from stillknows.agents.container import cannot_write
from stillknows.agents.events import expect_event

SCHEMA = 1
FILE = "log.jsonl"
CUT = "cut.jsonl"
_BEGINNING = {"events": 0, "bytes": 0, "checksum": 0}
_CHUNK = 1 << 20
_LONGEST = 1 << 26  # bytes of a line
PACKAGES = ("stillknows", "torch", "gymnasium", "avalanche-lib", "numpy")

Event = dict[str, Any]


class LifetimeLog:
    """Writes events to a file, each as a whole line.

    Args:
        folder: where `log.jsonl` begins; made if it is not there.
        resume: whether to go on with a log, at its beginning until `restore` says where.

    Raises:
        ValueError: if the folder already holds a log that is not to go on, or another process is
            writing it.
    """

    def __init__(self, folder: Path, resume: bool = False) -> None:
        self.path = folder / FILE
        if self.path.exists() and not resume:
            raise ValueError(f"{folder} already holds a lifetime: choose another folder with run=…")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        _claim(self._file, self.path)
        self._place = dict(_BEGINNING)

    def append(self, event: str, **fields: Any) -> Event:
        """Write one event and return it.

        Raises:
            OSError: with one sentence, if there is no room; the log ends with a whole line.
        """
        record = {"event": event, "time": time.time(), **fields}
        line = (json.dumps(record) + "\n").encode()
        try:
            left = memoryview(line)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._file.truncate(self._place["bytes"])
            raise cannot_write(self.path, error) from error
        self._place["events"] += 1
        self._place["bytes"] += len(line)
        self._place["checksum"] = zlib.crc32(line, self._place["checksum"])
        return record

    def state(self) -> dict[str, int]:
        """Return where the log stands, when all of it is on the disk."""
        os.fsync(self._file.fileno())
        return dict(self._place)

    def restore(self, state: Mapping[str, int] = _BEGINNING) -> None:
        """Cut the log back to where it stood; the rest is kept aside, in `cut.jsonl`.

        Raises:
            ValueError: if what is left would not be what was written then.
        """
        place = {name: int(state[name]) for name in _BEGINNING}
        if _checksum(self.path, place["bytes"]) != place["checksum"]:
            raise ValueError(f"{self.path} is not the log that was written until then")
        if self.path.stat().st_size > place["bytes"]:
            self._keep_aside(place["bytes"])
        self._file.truncate(place["bytes"])
        self._place = place

    def _keep_aside(self, begin: int) -> None:
        with self.path.open("rb") as log, self.path.with_name(CUT).open("ab") as cut:
            log.seek(begin)
            shutil.copyfileobj(log, cut, _CHUNK)
            cut.flush()
            os.fsync(cut.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _claim(file: BinaryIO, path: Path) -> None:
    """Refuse to write a log that another process writes, where the system can tell."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ValueError(f"{path} is being written by another process: let it end.") from error


def _checksum(path: Path, length: int) -> int:
    """Return the CRC-32 of the first bytes of a file, -1 if it has fewer."""
    checksum, left = 0, length
    with path.open("rb") as file:
        while left and (part := file.read(min(left, _CHUNK))):
            checksum, left = zlib.crc32(part, checksum), left - len(part)
    return -1 if left else checksum


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
    if not events:
        raise ValueError(f"{path} is empty: the life stopped before it began.")
    if events[0]["event"] != begins:
        raise ValueError(f"{path} does not begin with a {begins}: the file is broken or foreign.")
    if events[0].get("schema") != SCHEMA:
        raise ValueError(
            f"{path} has schema {events[0].get('schema')}; this version reads schema {SCHEMA}."
        )
    if begins == "lifetime":
        _expect_events(events, path)
    return events


def _expect_events(events: list[Event], path: Path) -> None:
    try:
        for line, event in enumerate(events, start=1):
            known = events[0]["tasks"] if line > 1 else []
            expect_event(event, len(known), line)
    except ValueError as error:
        raise ValueError(f"{path}, {error}: the log is broken or foreign.") from None


def begins_with(folders: list[Path]) -> str:
    """Return the first event of the first log at or below the folders, "" if there is none."""
    for folder in folders:
        for path in sorted(folder.rglob(FILE)):
            return next((str(event["event"]) for event in _parse(path)), "")
    return ""


def find(folders: list[Path]) -> list[Path]:
    """Return the folders of all logs at or below some folders, each once, by their paths.

    Raises:
        ValueError: if a folder is not there or has no log in it.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        paths = sorted(folder.rglob(FILE)) if folder.is_dir() else []
        if not paths:
            raise ValueError(f"{folder} is not a run: there is no {FILE} in it or below it.")
        for path in paths:
            found.setdefault(path.resolve(), path.parent)
    return list(found.values())


def lifetimes(folders: list[Path], begins: str = "lifetime") -> list[list[Event]]:
    """Return the events of every lifetime at or below the folders, in the order of their paths.

    Args:
        folders: of one run or more.
        begins: as in `read`.

    Raises:
        ValueError: if a folder is not there or has no lifetime in it, or a log cannot be read.
    """
    return [read(folder, begins) for folder in find(folders)]


def _parse(path: Path) -> Iterator[Event]:
    """Yield events; a last line cut short by a stop is left out, any other broken line is named."""
    with path.open("rb") as file:
        number, following = 1, file.readline(_LONGEST)
        while line := following:
            following = file.readline(_LONGEST)
            try:
                event = json.loads(line)
            except (ValueError, RecursionError) as error:
                if not following and not line.endswith(b"\n"):
                    return
                told = f"{path}, line {number} is not JSON: the log is broken."
                raise ValueError(told) from error
            if not isinstance(event, dict) or "event" not in event:
                raise ValueError(f"{path}, line {number} is no event: the file is not a log.")
            yield event
            number += 1
