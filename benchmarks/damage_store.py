"""What becomes of damaged and hostile memories in a file of SQLite.

    python benchmarks/damage_store.py --files 1000

A memory is written to, with checkpoints on the way; then its file or its write-ahead log is damaged
as in `damage.py`, made by another version, or by an enemy who knows SQL. Some were closed, some are
of a process that was killed, before or after its log was folded into the file. Half of them are
gone on with from the newest checkpoint, as by `train resume=…`, the others looked at, as by
`memory ls`, and at every operation of their past. Every reading ends in one of:

- refused: one sentence;
- past refused: (looked at only) all was as before, but of the past, which is told in one sentence;
- whole: all that was read is what had been written, exactly, if need be from the checkpoint;
- earlier: (looked at only) the same, but it is the memory of an earlier moment, with its past: a
  write-ahead log that is cut is one of then.

Counted as failures: anything else that was accepted, any other exception, a memory other than the
checkpoint's where a life goes on, and any code run.
"""

import argparse
import contextlib
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from damage import DAMAGE, listen
from omegaconf import OmegaConf
from tqdm import trange

from stillknows.agents.persistence.checkpoint import Checkpoints
from stillknows.agents.persistence.keeping import KeptMemory
from stillknows.agents.persistence.memory_places import memory_at, store_at
from stillknows.agents.persistence.stopping import Stop
from stillknows.agents.reports.log import LifetimeLog
from stillknows.agents.reports.report import table
from stillknows.memory.episodic import Candidates
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.stores.past import Born
from stillknows.memory.stores.sqlite import SQLite
from stillknows.memory.stores.store import COUNTERS

FOLD = "PRAGMA wal_checkpoint(PASSIVE)"  # the log into the file; it is begun anew afterwards
FILE, WAL = "memory.sqlite", "memory.sqlite-wal"
ENEMIES = (
    "PRAGMA user_version = 99",
    "PRAGMA application_id = 1",
    "UPDATE description SET value = '1000000000000' WHERE name = 'capacity'",
    "UPDATE description SET value = '[]' WHERE name = 'story_shape'",
    "DELETE FROM description",
    "UPDATE entries SET vector = zeroblob(10000000) WHERE slot = 0",
    "UPDATE entries SET story = x'00', slot = slot + 1000000",
    "UPDATE entries SET id = 'x'",
    "UPDATE keys SET key = 'text'",
    "UPDATE uses SET slot = -5 WHERE slot = 0",
    "UPDATE operations SET seen = -1, size = 1000000",
    "DELETE FROM operations",
    "DROP TABLE keys",
    "ALTER TABLE uses RENAME TO others; CREATE VIEW uses AS SELECT * FROM others, others AS o",
    "DROP TABLE uses; CREATE VIEW uses AS SELECT load_extension('evil') AS slot",
    "CREATE TRIGGER evil AFTER INSERT ON operations BEGIN DELETE FROM entries; END",
)


def new_memory() -> NEC:
    """Return an empty memory."""
    return NEC(100, 8, 4, EvictOldest(), answer_length=2, story_shape=(2, 6), neighbours=4)


def step(memory: NEC, number: int) -> None:
    """Ask eight questions and remember eight answers."""
    draw, whole = torch.Generator().manual_seed(number), torch.arange(8)
    memory.recall(torch.randn(8, 8, generator=draw))
    memory.remember(
        Candidates(
            key_BD=torch.randn(8, 8, generator=draw),
            vector_BV=torch.randn(8, 4, generator=draw),
            answers_BA=torch.randint(1, 99, (8, 2), generator=draw),
            story_BTL=torch.randint(1, 99, (8, 2, 6), generator=draw),
            hash_B=whole + 8 * number,
            outcome_BF=torch.zeros(8, 3),
            task_B=whole * 0,
            episode_B=whole * 0 + number,
            step_B=whole,
        )
    )


def checkpoints(folder: Path, memory: NEC, log: LifetimeLog) -> Checkpoints:
    """Return the checkpoints of a memory in a folder."""
    config = OmegaConf.create({"checkpoint": {"every": 1, "seconds": 0, "keep": 2}})
    return Checkpoints(folder, config, {"agent": KeptMemory(memory), "log": log}, Stop())


class Truth(NamedTuple):
    """What was written: the memory after every operation, and when its entries were."""

    after: dict[int, NEC]
    births: dict[int, Born]

    @property
    def newest(self) -> NEC:
        """The memory as it was in the end."""
        return self.after[max(self.after)]


def live(folder: Path, killed: Path, folded: Path) -> Truth:
    """Write a memory and close it; return what it held.

    Its files are copied as a life leaves them that is killed, and one that is killed after its log
    was folded into the file.
    """
    memory, log, store = new_memory(), LifetimeLog(folder), SQLite(folder / FILE)
    memory.keep_in(store)
    saved = checkpoints(folder, memory, log)
    for number in range(30):
        step(memory, number)
        log.append("update", update=number)
        if number % 10 == 9:
            saved.save()
        if number == 15:
            store._query(FOLD)
    truth = Truth({n: memory.at(n) for n in range(1, memory.flush() + 1)}, store.births())
    shutil.copytree(folder, killed)
    store._query(FOLD)
    shutil.copytree(folder, folded)
    log.close()
    store.close()
    return truth


def equal(one: NEC, other: NEC) -> bool:
    """Return whether two memories hold the same, with all use and counters."""
    counted = all(getattr(one, name) == getattr(other, name) for name in COUNTERS)
    return counted and all(
        torch.equal(part, other.columns[name]) for name, part in one.columns.items()
    )


def go_on(folder: Path, truth: Truth) -> str:
    """Go on from the newest checkpoint; say what came of it."""
    memory, log = new_memory(), LifetimeLog(folder, resume=True)
    with contextlib.ExitStack() as opened:
        opened.callback(log.close)
        store = store_at(str(folder / FILE))
        opened.callback(store.close)
        memory.keep_in(store)
        checkpoints(folder, memory, log).restore_newest()
        whole = equal(memory, truth.newest)
        step(memory, 99)
    return "whole" if whole else "FAILED: another memory"


def look(folder: Path, truth: Truth) -> str:
    """Look at a memory and back into its past; say what came of it."""
    with memory_at(str(folder / FILE), read_only=True) as memory:
        number, store = memory.operation, memory.store
        assert isinstance(store, SQLite)
        if number not in truth.after or not equal(memory, truth.after[number]):
            return "FAILED: accepted though wrong"
        born = {entry: when for entry, when in truth.births.items() if when.operation <= number}
        try:
            same = store.births() == born and all(
                equal(memory.at(then), truth.after[then]) for then in range(1, number)
            )
        except ValueError as error:
            return "past refused" if sound(error) else f"FAILED: {error!r}"
        if not same:
            return "FAILED: another past accepted"
        return "whole" if number == max(truth.after) else "earlier"


def sound(error: Exception) -> bool:
    """Return whether an error is one sentence."""
    return bool(str(error)) and "\n" not in str(error)


def spoil(folder: Path, draw: random.Random) -> str:
    """Damage a memory; say how."""
    kind = draw.choice([*DAMAGE, *DAMAGE, "an enemy's"])
    if kind == "an enemy's":
        with contextlib.closing(sqlite3.connect(folder / FILE)) as connection:
            connection.executescript(draw.choice(ENEMIES))
        return kind
    path = folder / draw.choice([FILE, FILE, WAL])
    path = path if path.exists() and path.stat().st_size else folder / FILE
    path.write_bytes(DAMAGE[kind](bytearray(path.read_bytes()), draw))
    return kind


def read_one(folder: Path, reading: Callable[[Path, Truth], str], truth: Truth) -> str:
    """Read a memory; say what came of it."""
    try:
        return reading(folder, truth)
    except (ValueError, OSError) as error:
        return "refused" if sound(error) else f"FAILED: {type(error).__name__} {error!r}"
    except Exception as error:  # noqa: BLE001 (that there is none is what is measured)
        return f"FAILED: {type(error).__name__}: {error}"


def main() -> None:
    """Damage, read, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    came: Counter[tuple[str, str]] = Counter()
    heard: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        left = [Path(temporary) / name for name in ("closed", "killed", "folded")]
        truth = live(*left)
        listen(heard)
        for number in trange(given.files, disable=None):
            draw, folder = random.Random(f"{given.seed} {number}"), Path(temporary) / str(number)
            shutil.copytree(draw.choice(left), folder)
            kind, reading = spoil(folder, draw), draw.choice([go_on, look])
            what = read_one(folder, reading, truth)
            came[f"{reading.__name__.replace('_', ' ')}, {kind}", what.partition(":")[0]] += 1
            if what.startswith("FAILED"):
                print(f"file {number}: {kind}, {reading.__name__}: {what}", flush=True)
            shutil.rmtree(folder)
    outcomes = ["refused", "past refused", "whole", "earlier", "FAILED"]
    kinds = sorted({which for which, _ in came})
    rows = [[which, *(str(came[which, what]) for what in outcomes)] for which in kinds]
    print(table(["memory", *outcomes[:-1], "failed"], rows))
    print(f"\nCode that ran: {len(heard)} {heard[:3]}")


if __name__ == "__main__":
    main()
