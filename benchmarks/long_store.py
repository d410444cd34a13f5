"""Whether a long life fills memory or disk: millions of operations, with files and memory measured.

    nice python benchmarks/long_store.py --operations 10000000
    python benchmarks/long_store.py --operations 20000 --every 2000       # seconds

Each store lives by itself, in a process of its own, as an agent with it does: a step recalls for 32
questions and remembers 32 answers in a store that is full, every 50 steps all keys are computed
anew, every 500 steps there is a checkpoint, every step a line in the log. An operation is an entry
that was offered, one that left for it, or one whose use a question changed (8 a question): 320 a
step, all of which a database keeps. The curves go into a figure, and what they end with into a
table. PostgreSQL is there if libpq's variables (PGHOST ...) lead to a server, of which only the
size of the tables is seen.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from omegaconf import OmegaConf

from stillknows.agents.persistence.checkpoint import Checkpoints
from stillknows.agents.persistence.keeping import KeptMemory
from stillknows.agents.persistence.memory_places import store_at
from stillknows.agents.persistence.stopping import Stop
from stillknows.agents.reports.log import LifetimeLog
from stillknows.agents.reports.log_parts import parts, size
from stillknows.agents.reports.report import table
from stillknows.memory.episodic import Candidates
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.stores.database import Database

ROWS, WIDTH, STORY = 32, 32, (4, 8)
REKEY, SAVE = 50, 500  # steps
_MIB = 2**20


def new_memory(capacity: int) -> NEC:
    """Return an empty memory."""
    return NEC(capacity, WIDTH, WIDTH, EvictOldest(), answer_length=2, story_shape=STORY)


def step(memory: NEC, number: int, random: torch.Generator) -> tuple[list[int], list[int]]:
    """Recall and remember; return the ids of what was written and of what left."""
    memory.recall(torch.randn(ROWS, WIDTH, generator=random))
    whole = torch.arange(ROWS)
    written = memory.remember(
        Candidates(
            key_BD=torch.randn(ROWS, WIDTH, generator=random),
            vector_BV=torch.randn(ROWS, WIDTH, generator=random),
            answers_BA=torch.randint(1, 99, (ROWS, 2), generator=random),
            story_BTL=torch.randint(1, 9999, (ROWS, *STORY), generator=random),
            hash_B=whole + ROWS * number,
            outcome_BF=torch.zeros(ROWS, 3),
            task_B=whole * 0,
            episode_B=whole * 0 + number,
            step_B=whole,
        )
    )
    if number % REKEY == REKEY - 1:
        turned = torch.randn(STORY[1], WIDTH, generator=random)
        memory.rekey(lambda story_BTL: (story_BTL[:, -1].float() @ turned).sin())
    return [each.entry for each in written], [each.evicted for each in written]


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def sizes(memory: NEC, life: Path) -> dict[str, int]:
    """Return the bytes of everything that could grow."""
    files = {"main file": "memory.sqlite", "write-ahead log": "memory.sqlite-wal"}
    found = {name: _length(life / file) for name, file in files.items()}
    if isinstance(memory.store, Database) and not found["main file"]:
        whole = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND "
        own = f"relnamespace = '\"{memory.store.schema}\"'::regnamespace"  # type: ignore[attr-defined]
        found["main file"] = int(memory.store._query(whole + own)[0][0])
    return {
        "resident memory": resident(),
        **found,
        "checkpoints": sum(map(_length, life.glob("checkpoints/*"))),
        "longest file of the log": max(map(_length, parts(life))),
        "log, all files": size(life),
        "open files": len(list(Path("/proc/self/fd").iterdir())),
    }


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def live(kind: str, life: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Live and yield, now and then, how many operations there were and what they take."""
    memory, random = new_memory(given.capacity), torch.Generator().manual_seed(0)
    if kind != "tensor":
        place = f"postgres:long-{uuid.uuid4().hex[:8]}" if kind == "postgres" else None
        store = store_at(place or str(life / "memory.sqlite"))
        memory.keep_in(store)
        store.reach(given.past)
    log = LifetimeLog(life, part=given.part)
    config = OmegaConf.create({"checkpoint": {"every": 1, "seconds": 0, "keep": 2}})
    saved: dict[str, Any] = {"agent": KeptMemory(memory), "log": log}
    checkpoints = Checkpoints(life, config, saved, Stop())
    begun, number, operations, seen = time.monotonic(), 0, 0, 0
    while operations < given.operations and time.monotonic() - begun < 60 * given.minutes:
        written, evicted = step(memory, number, random)
        log.append("update", update=number, written=written, evicted=evicted)
        operations += len(written) + sum(gone >= 0 for gone in evicted) + ROWS * memory.neighbours
        if number % SAVE == SAVE - 1:
            checkpoints.save()
        number += 1
        if operations >= seen + given.every or operations >= given.operations:
            seen = operations
            minutes = (time.monotonic() - begun) / 60
            yield {"operations": operations, "minutes": minutes, **sizes(memory, life)}
    memory.store.close()


def write_curve(kind: str, folder: Path, curve: Path, given: argparse.Namespace) -> None:
    """Live in this process, and write what is seen as it is seen."""
    torch.set_num_threads(1)
    with curve.open("w") as file:
        for point in live(kind, folder / kind, given):
            file.write(json.dumps(point) + "\n")
            file.flush()


def figure(curves: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw memory and files over operations, a panel a store."""
    _, panels = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 3.6), squeeze=False)
    for panel, (kind, points) in zip(panels[0], curves.items(), strict=True):
        x = [point["operations"] / 1e6 for point in points]
        drawn = [name for name in points[0] if name not in ("operations", "minutes", "open files")]
        for place, name in enumerate(drawn):
            y = [point[name] / _MIB for point in points]
            if max(y):
                dashed = "--" if name == "log, all files" else "-"
                panel.plot(x, y, dashed, color=f"C{place}", label=name, linewidth=1.4)
        panel.set_yscale("log")
        panel.set_title(kind)
        panel.set_xlabel("memory operations, millions")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("MiB")
    handles = {
        label: handle
        for panel in panels[0]
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    plt.figlegend(handles.values(), handles.keys(), loc="lower center", ncols=3, fontsize=8)
    plt.tight_layout(rect=(0, 0.14, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path, dpi=150)


def summary(curves: dict[str, list[dict[str, Any]]]) -> str:
    """Return a table: of each size what it is at a tenth, at a half and at the end."""
    rows = []
    for kind, points in curves.items():
        last = points[-1]["operations"]
        at = [next(p for p in points if p["operations"] >= share * last) for share in (0.1, 0.5, 1)]
        for name in points[0]:
            if name not in ("operations", "minutes") and any(p[name] for p in at):
                unit = 1 if name == "open files" else _MIB
                cells = [f"{p[name] / unit:.{0 if unit == 1 else 1}f}" for p in at]
                rows.append([kind, name, *cells])
        minutes = f"{points[-1]['minutes']:.0f} min"
        rows.append(
            [
                kind,
                "operations",
                *(f"{p['operations']:,}" for p in at[:2]),
                f"{last:,} in {minutes}",
            ]
        )
    return table(["store", "MiB of", "at a tenth", "at a half", "at the end"], rows)


def main() -> None:
    """Live, measure, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", type=int, default=10_000_000)
    parser.add_argument("--stores", nargs="+", default=["tensor", "sqlite", "postgres"])
    parser.add_argument("--minutes", type=float, default=1e9, help="of a store, at most")
    parser.add_argument("--every", type=int, default=100_000, help="operations between two looks")
    parser.add_argument("--capacity", type=int, default=1000)
    parser.add_argument("--past", type=int, default=1000, help="episodic_memory.past")
    parser.add_argument("--part", type=int, default=16_000_000, help="log.part")
    parser.add_argument("--figure", type=Path, default=Path("docs/images/long_store.png"))
    parser.add_argument("--curves", type=Path, help="a folder: curves of other runs are drawn too")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = given.curves or Path(name) / "curves"
        folder.mkdir(parents=True, exist_ok=True)
        for kind in given.stores:
            curve = folder / f"{kind}.jsonl"
            process = context.Process(target=write_curve, args=(kind, Path(name), curve, given))
            process.start()
            process.join()
        files = sorted(folder.glob("*.jsonl"), key=lambda file: -ord(file.stem[0]))
        curves = {file.stem: list(map(json.loads, file.read_text().splitlines())) for file in files}
        print(summary(curves))
        figure(curves, given.figure)


if __name__ == "__main__":
    main()
