"""The log of a lifetime: append-only events, one JSON object a line.

Every metric, figure and table is computed from it. Apart from the field `time`, the same seed
gives the same log. Logs hold ids of memory entries, never their content.

Events, each with `event` and `time` (seconds since the epoch):

- `lifetime`: `schema`, `name` (the arm), `seed`, `order`, `places` (of each task in the stream as
  it is written), `tasks` (as they are lived), `repeats` (the first task that each one trains like),
  `scale` (where scores are no shares: floor and reference of each task), `sources`, `needs` and
  `gives` (what each task does, see `stillknows.envs.measures.reuse`), `protocol`, `setting` and its
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
  in the last examination (see `stillknows.agents.examinations.anatomy`): `causes` (a letter each),
  `episodes`, `steps`, `carried`, `fates` (a letter a support), `shares` and `even` (of a read),
  `mended`.
- `floor`: `task`, `majority`, `last_mentioned`.

In tasks that are acted in, `update` also has `returns` and `lengths`
of the episodes that ended, and what learning tells of itself (`policy_loss`, `value_loss`,
`entropy`, `divergence`, `clipped`), and its `accuracy` is the mean score of late; `examination`
has `trust` (the share of what is recalled in what is done), `scores`, `returns` and `lengths`, an
entry an episode, and `correct` only where the
environment tells of success; `floor` has `random` (0), `random_return` and `reference_return`; and
`fault` is an episode that broke: `task`, `name`, `where`, `episode`, `step`, `reason`.

The others:

- `rekey`: `experience`, `overlap` (share of neighbours that stay).
- `end`: `updates`, `parameters`, `memory_bytes`.
- `clock`: `seconds`, of the whole life; the only event that another run of a seed does not repeat.

Every line ends with `checksum`, the CRC-32 of what stands before it, so that a damaged line is told
from a whole one. A log grows by a line an update, some 12 bytes a question; a long one is in
several files (see `log_parts.py`), which everything here reads as one. What a
resumed life had lived beyond its checkpoint is lived again, and the old lines go to `cut.jsonl`.
"""

import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from omegaconf import DictConfig

from stillknows.agents.persistence.container import cannot_write
from stillknows.agents.reports.events import expect_event, expect_examined
from stillknows.agents.reports.log_parts import (
    FILE,
    checksum,
    copy_from,
    full_part,
    full_parts,
    parts,
    size,
    where,
)
from stillknows.memory.stores.store import Through, at_once

SCHEMA = 1
COMMANDS = {"lifetime": "train", "solving": "solve"}  # whose logs begin so
CUT = "cut.jsonl"
_BEGINNING = {"events": 0, "bytes": 0, "checksum": 0}
_LONGEST = 1 << 26  # bytes of a line
_SEAL = b', "checksum": "'
PACKAGES = ("stillknows", "torch", "gymnasium", "avalanche-lib", "numpy")

Event = dict[str, Any]


def part_of(config: DictConfig) -> int | None:
    """Return after how many bytes a log goes on in another file; None: never.

    Raises:
        ValueError: if that is no number.
    """
    part = config.log.part if config.get("log") else None
    if part is not None and (not isinstance(part, int) or part < 1):
        raise ValueError(f"log.part={part} should be a whole number of bytes; null: one file.")
    return part


class LifetimeLog:
    """Writes events to a file, each as a whole line.

    Args:
        folder: where `log.jsonl` begins; made if it is not there.
        resume: whether to go on with a log, at its beginning until `restore` says where.
        part: bytes after which the log goes on in another file; None: never.
        through: how a line is written where that may fail.

    Raises:
        ValueError: if the folder already holds a log that is not to go on, or another process is
            writing it.
    """

    def __init__(
        self,
        folder: Path,
        resume: bool = False,
        part: int | None = None,
        through: Through = at_once,
    ) -> None:
        self.path, self.part, self.through = folder / FILE, part, through
        if parts(folder) and not resume:
            raise ValueError(f"{folder} already holds a lifetime: choose another folder with run=…")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _claimed(self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._place, self._length = dict(_BEGINNING), 0

    def append(self, event: str, **fields: Any) -> Event:
        """Write one event and return it.

        Raises:
            OSError: with one sentence, if there is no room; the log ends with a whole line.
        """
        record = {"event": event, "time": time.time(), **fields}
        line = _sealed(json.dumps(record))
        self.through(lambda: self._write(line))
        self._place["events"] += 1
        self._place["bytes"] += len(line)
        self._place["checksum"] = zlib.crc32(line, self._place["checksum"])
        return record

    def _write(self, line: bytes) -> None:
        """Write a line, or nothing; it may begin another file."""
        try:
            if self.part is not None and self._length >= self.part:
                self._begin_another()
            left = memoryview(line)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._file.truncate(self._length)
            raise cannot_write(self.path, error) from error
        self._length += len(line)

    def _begin_another(self) -> None:
        """Give the file that is full its number, and write another one."""
        os.fsync(self._file.fileno())
        folder = self.path.parent
        if self.path.exists():  # it has its number, if only the new file could not be made
            self.path.rename(full_part(folder, len(full_parts(folder)) + 1))
        self._go_on_in(_claimed(self.path), 0)

    def _go_on_in(self, file: BinaryIO, length: int) -> None:
        self._file.close()
        self._file, self._length = file, length

    def state(self) -> dict[str, int]:
        """Return where the log stands, when all of it is on the disk."""
        os.fsync(self._file.fileno())
        return dict(self._place)

    def restore(self, state: Mapping[str, int] = _BEGINNING) -> None:
        """Cut the log back to where it stood; the rest is kept aside, in `cut.jsonl`.

        Raises:
            ValueError: if what is left would not be what was written then.
        """
        folder, place = self.path.parent, {name: int(state[name]) for name in _BEGINNING}
        if checksum(folder, place["bytes"]) != place["checksum"]:
            raise ValueError(f"{self.path} is not the log that was written until then")
        if size(folder) > place["bytes"]:
            with self.path.with_name(CUT).open("ab") as cut:
                copy_from(folder, place["bytes"], cut)
                cut.flush()
                os.fsync(cut.fileno())
        self._cut(place["bytes"])
        self._place = place

    def _cut(self, begin: int) -> None:
        """Cut the log: the part in which it ends then is the one that is written again.

        From one step to the next, what is left is a beginning of the log.
        """
        number, length = where(self.path.parent, begin)
        full = full_parts(self.path.parent)
        if number < len(full):
            self.path.unlink()
            for path in full[:number:-1]:
                path.unlink()
            full[number].rename(self.path)
            self._go_on_in(_claimed(self.path), length)
        self._file.truncate(length)
        self._length = length

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _sealed(event: str) -> bytes:
    """Return an event, a JSON object, as a line that ends with the checksum of all before it."""
    begin = event.encode()[:-1]
    return b'%b%b%08x"}\n' % (begin, _SEAL, zlib.crc32(begin))


def _is_whole(line: bytes) -> bool:
    """Return whether a line that is sealed is as it was written."""
    begin, seal, end = line.rpartition(_SEAL)
    return bool(seal) and end.rstrip() == b'%08x"}' % zlib.crc32(begin)


def _claimed(path: Path) -> BinaryIO:
    """Open a log to be written; refuse one that another process writes, where that can be told."""
    file = path.open("ab", buffering=0)
    try:
        import fcntl
    except ImportError:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ValueError(f"{path} is being written by another process: let it end.") from error
    return file


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
    if not parts(folder):
        raise ValueError(f"{folder} is not a run: it holds no {FILE}.")
    events = list(_parse(folder))
    if not events:
        raise ValueError(f"{path} is empty: the life stopped before it began.")
    if events[0]["event"] in COMMANDS and events[0]["event"] != begins:
        theirs, ours = COMMANDS[events[0]["event"]], COMMANDS[begins]
        raise ValueError(
            f"{path} is of `stillknows {theirs}`, not of {ours}: report on the runs of each alone."
        )
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
        expect_examined(events)
    except ValueError as error:
        raise ValueError(f"{path}, {error}: the log is broken or foreign.") from None


def begins_with(folders: list[Path]) -> str:
    """Return the first event of the first log at or below the folders that can be read, or ""."""
    for folder in folders:
        for below in _with_logs(folder):
            try:
                return next(str(event["event"]) for event in _parse(below))
            except (ValueError, LookupError, StopIteration):
                continue
    return ""


def _with_logs(folder: Path) -> list[Path]:
    """Return the folders of all logs at or below a folder, by their paths."""
    files = (full_part(folder, 1).name, FILE)
    return sorted({path.parent for name in files for path in folder.rglob(name)})


def find(folders: list[Path]) -> list[Path]:
    """Return the folders of all logs at or below some folders, each once, by their paths.

    Raises:
        ValueError: if a folder is not there or has no log in it.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        lives = _with_logs(folder) if folder.is_dir() else []
        if not lives:
            raise ValueError(f"{folder} is not a run: there is no {FILE} in it or below it.")
        for life in lives:
            found.setdefault(life.resolve(), life)
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


def _parse(folder: Path) -> Iterator[Event]:
    """Yield events; a last line cut short by a stop is left out, any other broken line is named.

    Lines end with a checksum, from the first that does on: a log may begin as those of before.
    """
    files, sealed = parts(folder), False
    for path in files:
        with path.open("rb") as file:
            lines = iter(partial(file.readline, _LONGEST), b"")
            for number, line in enumerate(lines, start=1):
                cut = path == files[-1] and not line.endswith(b"\n") and len(line) < _LONGEST
                try:
                    event = json.loads(line)
                except (ValueError, RecursionError) as error:
                    if cut:
                        return
                    told = f"{path}, line {number} is not JSON: the log is broken."
                    raise ValueError(told) from error
                if not isinstance(event, dict) or "event" not in event:
                    raise ValueError(f"{path}, line {number} is no event: the file is not a log.")
                sealed = sealed or _SEAL in line
                if sealed and not _is_whole(line):
                    raise ValueError(f"{path}, line {number} was changed: the log is broken.")
                event.pop("checksum", None)
                yield event
