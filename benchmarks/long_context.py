"""How far back a fact is still known, and what that costs: accuracy and time against distance.

    stillknows train experiment=long_context run=RUN
    python benchmarks/long_context.py RUN --stories 8 --out long_context.png
    python benchmarks/long_context.py RUN --stories 8 --entries 100         # small stores
    python benchmarks/long_context.py RUN --tables docs/controllers.md      # with rows of before
    python benchmarks/long_context.py --tables docs/controllers.md          # drawn again

Examines every agent that the experiment kept, with codes that were told so many sentences before
they are asked for, and draws means over lifetimes with 95 % intervals. Without a lifelong store
codes are told and asked for in one story; a reading that takes more than `--limit` seconds a story
is not tried further. With one they are told in one episode of the agent's life and asked for in
another (`later_episodes.py`). Rows of the tables of a page are drawn and printed as they stand
there, if they are not examined anew. One thread, CPU clock.
"""

import argparse
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import later_episodes
import matplotlib.pyplot as plt
import torch
from matplotlib.lines import Line2D
from tqdm import tqdm

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.examinations.examine import examine
from stillknows.agents.persistence.keeping import load_agent
from stillknows.agents.reports.log import lifetimes
from stillknows.agents.reports.report import table
from stillknows.envs.measures.intervals import Interval, interval
from stillknows.envs.recall import recall_tasks
from stillknows.memory.nec import NEC
from stillknows.memory.sparse_slots import SparseSlots

DISTANCES = (10, 30, 100, 300, 1000, 3000, 10_000)


STORE, OFF = "with 16 slots and the store", "recall off"
_CELL = re.compile(r"(-?[\d.]+)(?: \[(-?[\d.]+), (-?[\d.]+)\])?")
Rows = dict[str, tuple[int, list[Interval]]]


class Point(NamedTuple):
    """What one agent did at one distance: share of right answers, seconds a story.

    `asking` is, of a life of many episodes, what the one that asks took of the seconds.
    """

    accuracy: float
    seconds: float | None = None
    asking: float | None = None


Life = dict[int, Point]


def examined(agent: MemoryAgent, stories: int, limit: float) -> Life:
    """Return the points of an agent, up to the distance at which a story takes too long."""
    points: Life = {}
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


def emptied(store: Any, entries: int) -> NEC:
    """Return a store like another, empty, of so many entries."""
    sizes = (store.columns[name].shape[1] for name in ("keys_ND", "vectors_NV"))
    own = ("answer_length", "story_shape", "neighbours", "delta", "update_rate", "identity", "key")
    settings = {name: getattr(store, name) for name in own}
    return NEC(entries, *sizes, store.policy, **settings)


def lived_on(agent: MemoryAgent, stories: int) -> tuple[Life, Life]:
    """Return the points of an agent whose life goes on, and those with its recall off."""
    life = later_episodes.LaterEpisodes(agent, agent.settings["seed"], DISTANCES, stories)
    asked: dict[int, list[later_episodes.Asked]] = defaultdict(list)
    for each in life.run():
        asked[each.distance].append(each)
    with_store, without = Life(), Life()
    for distance, those in asked.items():
        with_store[distance] = Point(
            mean([mark for one in those for mark in one.correct]),
            mean([one.seconds for one in those]),
            mean([one.asking for one in those]),
        )
        without[distance] = Point(mean([mark for one in those for mark in one.without]))
    return with_store, without


def label(name: str) -> str:
    """Return what a figure calls an arm."""
    arm, *options = name.split()
    chosen = dict(part.split("=") for part in options)
    memory = {"none": "alone", "sparse_slots": "16 read of all"}
    held = memory.get(chosen.get("working_memory", ""), "with 16 slots")
    held = STORE if arm == "recall" else held
    return f"{chosen.get('controller', 'transformer').replace('_', '-')}, {held}"


def gathered(lives: Mapping[str, list[Life]], which: int) -> Rows:
    """Return of each arm how many lives and an interval a distance, as far as all of them got."""
    found: Rows = {}
    for name, each in lives.items():
        reached = [d for d in DISTANCES if all(d in life for life in each)]
        values = [[life[d][which] for life in each] for d in reached]
        rows = [[value for value in row if value is not None] for row in values]
        if all(map(len, rows)):
            found[name] = len(each), [interval(row) for row in rows]
    return found


def of_page(text: str) -> list[Rows]:
    """Return the rows of each table of a page that this benchmark printed."""
    head = "|  | n | " + " | ".join(f"{distance:,}" for distance in DISTANCES) + " |"
    tables: list[Rows] = []
    reading = False
    for line in text.splitlines():
        if line == head:
            tables.append({})
        reading = line == head or (reading and line.startswith("|"))
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if reading and line != head and cells[1].isdigit():
            found = [_CELL.fullmatch(cell) for cell in cells[2:]]
            lives = int(cells[1])
            rows = [Interval(*map(float, cell.groups("nan")), lives) for cell in found if cell]
            tables[-1][cells[0]] = lives, rows
    return tables


def style(name: str, number: int) -> dict[str, Any]:
    """Return how a line is drawn: a colour a controller, a dash a memory, grey without recall."""
    if name.endswith(OFF):
        return {"color": "lightgrey", "zorder": 0}
    lines = {"alone": ("--", "o"), "16 slots": ("-", "o"), "of all": (":", "o"), STORE: ("-.", "s")}
    line = next((line for end, line in lines.items() if name.endswith(end)), ("-.", "x"))
    return {"color": f"C{number % 3}", "ls": line[0], "marker": line[1], "ms": 4}


def legend(figure: Any, styles: Mapping[str, dict[str, Any]]) -> None:
    """Tell colours and dashes below both panels, each once."""
    told: dict[str, Line2D] = {}
    for name, drawn in styles.items():
        if not name.endswith(OFF):
            told.setdefault(name.split(",")[0], Line2D([], [], color=drawn["color"], lw=4))
    for name, drawn in styles.items():
        off = name.endswith(OFF)
        plain = {**drawn, "color": drawn["color"] if off else "dimgrey"}
        told.setdefault(OFF if off else name.split(", ", 1)[1], Line2D([], [], **plain))
    places = {"ncols": 3, "loc": "outside lower center", "fontsize": 8, "frameon": False}
    figure.legend(told.values(), told.keys(), **places)


def draw(accuracy: Rows, cost: Rows, asking: Rows, out: Path) -> None:
    """Draw both panels; in the second, faintly, what asking alone takes."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    controllers = list(dict.fromkeys(name.split(",")[0] for name in accuracy))
    styles = {name: style(name, controllers.index(name.split(",")[0])) for name in accuracy}
    for name, (_, rows) in accuracy.items():
        for panel, those in zip(panels, (rows, cost.get(name, (0, []))[1]), strict=True):
            at = DISTANCES[: len(those)]
            panel.plot(at, [row.mean for row in those], **styles[name])
        low, high = zip(*[(row.low, row.high) for row in rows], strict=True)
        color = styles[name]["color"]
        panels[0].fill_between(DISTANCES[: len(low)], low, high, color=color, alpha=0.04, lw=0)
    for name, (_, rows) in asking.items():
        drawn = {**styles[name], "marker": "", "alpha": 0.4}
        panels[1].plot(DISTANCES[: len(rows)], [row.mean for row in rows], **drawn)
    if asking:
        highest = max(rows[-1].mean for _, rows in asking.values())
        panels[1].text(DISTANCES[0], 1.2 * highest, "asking alone", fontsize=8, color="grey")
    panels[0].axvline(32, color="grey", lw=0.8)
    told = {"rotation": 90, "fontsize": 8, "color": "grey", "ha": "right"}
    panels[0].text(31, 0.2, "longest story in training", **told)
    panels[0].set(xscale="log", ylim=(0, 1.03), ylabel="share of right answers")
    panels[1].set(xscale="log", yscale="log", ylabel="seconds from the codes to the last answer")
    for panel in panels:
        panel.set_xlabel("sentences since the code was told")
        panel.spines[["top", "right"]].set_visible(False)
    legend(figure, styles)
    figure.savefig(out, dpi=150)


def show(found: Rows) -> str:
    """Return a table."""
    head = ["", "n", *(f"{distance:,}" for distance in DISTANCES)]
    lines = [
        [name, str(lives), *map(str, rows), *["–"] * (len(DISTANCES) - len(rows))]
        for name, (lives, rows) in found.items()
    ]
    return table(head, lines)


def main() -> None:
    """Examine, print tables, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="*")
    parser.add_argument("--stories", type=int, default=16)
    parser.add_argument("--limit", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("long_context.png"))
    parser.add_argument("--entries", type=int, help="of stores, which then are empty at first")
    parser.add_argument("--tables", type=Path, help="a page with tables of another run")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lives: dict[str, list[Life]] = defaultdict(list)
    files = sorted(file for run in given.run for file in run.rglob("agent.safetensors"))
    for file in tqdm(files, disable=None):
        agent, name = load_agent(file), label(next(iter(lifetimes([file.parent])))[0]["name"])
        if agent.recall:
            if given.entries:
                agent.episodic_memory = emptied(agent.episodic_memory, given.entries)
                name = f"{name} of {given.entries} entries"
            with_store, without = lived_on(agent, given.stories)
            lives[name].append(with_store)
            lives[f"{name}, {OFF}"].append(without)
        else:
            lives[name].append(examined(agent, given.stories, given.limit))
    tables = [gathered(lives, which) for which in range(3)]
    if given.tables:
        of_other = of_page(given.tables.read_text())
        tables = [{**old, **new} for old, new in zip_longest(of_other, tables, fillvalue={})]
    for rows in filter(None, tables):
        print(show(rows) + "\n")
    accuracy, cost, asking = tables
    draw(accuracy, cost, asking, given.out)


if __name__ == "__main__":
    main()
