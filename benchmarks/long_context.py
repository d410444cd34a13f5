"""How far back a fact is still known, and what that costs: accuracy and time against distance.

    stillknows train experiment=long_context run=RUN
    python benchmarks/long_context.py RUN --out long_context.png

Examines every agent that the experiment kept, with stories whose codes were told so many sentences
before they are asked for, and draws means over lifetimes with 95 % intervals. A reading that takes
more than `--limit` seconds a story is not tried further. One thread, CPU clock.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from tqdm import tqdm

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.examine import examine
from stillknows.agents.keeping import load_agent
from stillknows.agents.log import lifetimes
from stillknows.agents.report import table
from stillknows.envs.intervals import Interval, interval
from stillknows.envs.recall import recall_tasks
from stillknows.memory.sparse_slots import SparseSlots

DISTANCES = (10, 30, 100, 300, 1000, 3000, 10_000)


class Point(NamedTuple):
    """What one agent did at one distance: share of right answers, seconds a story."""

    accuracy: float
    seconds: float


def examined(agent: MemoryAgent, stories: int, limit: float) -> dict[int, Point]:
    """Return the points of an agent, up to the distance at which a story takes too long."""
    points: dict[int, Point] = {}
    if isinstance(agent.working_memory, SparseSlots):
        agent.working_memory.slots = 2 * max(DISTANCES)  # room for every sentence
    for task in recall_tasks(list(DISTANCES), trained=32):
        begun = time.process_time()
        result = examine(agent, task, number=0, episodes=stories, rows=4, seed=0)
        spent = (time.process_time() - begun) / stories
        points[task.exam["distance"]] = Point(result.accuracy, spent)
        if spent > limit:
            break
    return points


def label(name: str) -> str:
    """Return what a figure calls an arm."""
    options = dict(part.split("=") for part in name.split()[1:])
    memory = {"none": "alone", "sparse_slots": "16 read of all"}
    held = memory.get(options.get("working_memory", ""), "with 16 slots")
    return f"{options.get('controller', 'transformer').replace('_', '-')}, {held}"


def gathered(lives: Mapping[str, list[dict[int, Point]]], which: int) -> dict[str, list[Interval]]:
    """Return for each arm an interval a distance, as far as all its lifetimes got."""
    return {
        name: [
            interval([life[distance][which] for life in each])
            for distance in DISTANCES
            if all(distance in life for life in each)
        ]
        for name, each in lives.items()
    }


def draw(
    accuracy: Mapping[str, list[Interval]], cost: Mapping[str, list[Interval]], out: Path
) -> None:
    """Draw both panels."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    for number, name in enumerate(accuracy):
        line = {"alone": "--", "16 slots": "-", "of all": ":"}
        style = {
            "color": f"C{number % 3}",
            "ls": next(style for end, style in line.items() if name.endswith(end)),
            "marker": "o",
        }
        for panel, rows in zip(panels, (accuracy[name], cost[name]), strict=True):
            at = DISTANCES[: len(rows)]
            panel.plot(at, [row.mean for row in rows], label=name, ms=4, **style)
        low, high = zip(*[(row.low, row.high) for row in accuracy[name]], strict=True)
        panels[0].fill_between(DISTANCES[: len(low)], low, high, color=style["color"], alpha=0.05)
    panels[0].axvline(32, color="grey", lw=0.8)
    panels[0].text(33, 0.02, "longest in training", fontsize=8, color="grey")
    panels[0].set(xscale="log", ylim=(0, 1.03), ylabel="share of right answers")
    panels[1].set(xscale="log", yscale="log", ylabel="seconds a story")
    for panel in panels:
        panel.set_xlabel("sentences since the code was told")
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, frameon=False, ncols=3, loc="outside lower center")
    figure.savefig(out, dpi=150)


def main() -> None:
    """Examine, print a table, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="+")
    parser.add_argument("--stories", type=int, default=16)
    parser.add_argument("--limit", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("long_context.png"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    lives: dict[str, list[dict[int, Point]]] = defaultdict(list)
    files = sorted(file for run in given.run for file in run.rglob("agent.safetensors"))
    for file in tqdm(files, disable=None):
        name = next(iter(lifetimes([file.parent])))[0]["name"]
        lives[label(name)].append(examined(load_agent(file), given.stories, given.limit))
    accuracy, cost = gathered(lives, 0), gathered(lives, 1)
    head = ["", "n", *(f"{distance:,}" for distance in DISTANCES)]
    for shown in (accuracy, cost):
        rows = [
            [name, str(len(lives[name])), *map(str, cells), *["–"] * (len(DISTANCES) - len(cells))]
            for name, cells in shown.items()
        ]
        print(table(head, rows) + "\n")
    draw(accuracy, cost, given.out)


if __name__ == "__main__":
    main()
