"""What a report says of forgetting: where it came from, and what lies in weights and store.

Computed from logs alone: a question is forgotten if it was right in the examination right after
its own task and is wrong in the last one, never learned if it was wrong in both.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stillknows.agents.examinations.anatomy import CAUSES
from stillknows.agents.examinations.arms import ARMS
from stillknows.agents.examinations.inquiry import own_experiences
from stillknows.agents.examinations.swaps import CELLS, EMPTY, NOW, THEN, TIMES, Parts, parts_of
from stillknows.agents.examinations.trace import UNKNOWN
from stillknows.agents.reports.lives import Life, as_written
from stillknows.agents.reports.log import Event, read
from stillknows.agents.reports.log_parts import FILE
from stillknows.envs.measures.intervals import Interval, interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEVER_LEARNED = "never learned"
FATES = (*CAUSES.values(), NEVER_LEARNED)
_COLOURS = dict(
    zip(
        FATES,
        ("#4c72b0", "#dd8452", "#c44e52", "#8172b3", "#937860", "#bbbbbb", "#dddddd"),
        strict=True,
    )
)


class Account(NamedTuple):
    """How the questions of one lifetime ended.

    Attributes:
        name: the arm.
        seed: of the lifetime.
        tasks: names, in the order of the stream.
        asked: questions by task and whether they are carried.
        wrong: wrong answers by task, whether carried, and what became of them, one of `FATES`.
        mended: forgotten answers, by whether carried, that are right when the supports are forced
            into the read.
        exact: whether the working memory was followed exactly.
        swaps: accuracy by task, and when weights and store are of; empty if not swapped.
        further: accuracy by variant and task.
    """

    name: str
    seed: int
    tasks: tuple[str, ...]
    asked: Counter[tuple[int, int]]
    wrong: Counter[tuple[int, int, str]]
    mended: Counter[int]
    exact: bool
    swaps: dict[int, dict[tuple[str, str], float]]
    further: dict[str, dict[int, float]]

    def count(self, what: str, task: int | None = None, carried: int | None = None) -> int:
        """Return how many answers ended so, of all tasks or one, carried or not or both."""
        return sum(
            count
            for (at, was_carried, fate), count in self.wrong.items()
            if fate == what and task in (None, at) and carried in (None, was_carried)
        )

    def questions(self, task: int | None = None, carried: int | None = None) -> int:
        """Return how many were asked, of all tasks or one, carried or not or both."""
        return sum(
            count
            for (at, was_carried), count in self.asked.items()
            if task in (None, at) and carried in (None, was_carried)
        )


def account(events: Sequence[Event]) -> Account | None:
    """Return how the questions of a lifetime ended; None where its log does not tell."""
    found = [event for event in events if event["event"] == "anatomy"]
    if not found:
        return None
    exams = {(e["after"], e["task"], e["arm"]): e for e in events if e["event"] == "examination"}
    known, head = right_then(events), events[0]
    place = head.get("places", range(len(head["tasks"])))
    asked: Counter[tuple[int, int]] = Counter()
    wrong: Counter[tuple[int, int, str]] = Counter()
    mended: Counter[int] = Counter()
    for event in found:
        task, after = event["task"], event["after"]
        last = exams[after, task, "agent"]
        asked.update((place[task], carried) for carried in last["carried"])
        rows = zip(*(event[c] for c in ("episodes", "steps", "carried", "causes", "mended")),
                   strict=True)  # fmt: skip
        for episode, step, carried, cause, by_force in rows:
            forgotten = (episode, step) in known[task]
            wrong[place[task], carried, CAUSES[cause] if forgotten else NEVER_LEARNED] += 1
            mended[carried] += forgotten and by_force
    return Account(
        head["name"],
        head["seed"],
        tuple(as_written(head["tasks"], place)),
        asked,
        wrong,
        mended,
        all(event["exact"] for event in found),
        {place[task]: cells for task, cells in _swaps(exams, found).items()},
        {
            variant: {place[task]: accuracy for task, accuracy in each.items()}
            for variant, each in _further(exams).items()
        },
    )


def right_then(events: Sequence[Event]) -> dict[int, set[tuple[int, int]]]:
    """Return for each task the questions (episode, step) that were right after its training.

    Of a task that was never trained there are none.
    """
    own = own_experiences(events)
    right: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for event in events:
        plain = event["event"] == "examination" and event["arm"] == "agent"
        if plain and own.get(event["task"]) == event["after"]:
            rows = zip(event["episodes"], event["steps"], event["correct"], strict=True)
            right[event["task"]] = {(episode, step) for episode, step, mark in rows if mark}
    return right


def sections(arms: Mapping[str, Sequence[Life]], out: Path, suffix: str = "") -> list[str]:
    """Return the parts of a report about the lifetimes of some arms.

    Args:
        arms: their lifetimes, by name; those whose logs do not tell are left out.
        out: the figure is drawn into it.
        suffix: of the figure's name.
    """
    logs = {
        name: [read(life.folder) for life in lives if (life.folder / FILE).is_file()]
        for name, lives in arms.items()
    }
    found = {name: [one for one in map(account, each) if one] for name, each in logs.items()}
    found = {name: accounts for name, accounts in found.items() if accounts}
    if not found:
        return []
    figure = f"anatomy{suffix}.png"
    draw(found, out / figure)
    parts = ["## Where forgetting comes from", _words(found), _cause_table(found),
             f"![where forgetting comes from]({figure})", _task_table(found)]  # fmt: skip
    every = [one for accounts in found.values() for one in accounts]
    if any(one.swaps for one in every):
        parts += ["### In the weights, or in the store", _swap_words(), _swap_table(found)]
        parts += [_cell_table(found)]
    if any(one.further for one in every):
        parts += ["### How far it goes", _further_table(found)]
    return [*parts, _arm_words([events for each in logs.values() for events in each])]


def draw(arms: Mapping[str, Sequence[Account]], path: Path) -> None:
    """Draw what became of the questions of each task, a panel an arm, mean shares stacked."""
    from matplotlib.figure import Figure  # takes a second to import

    from stillknows.agents.reports.figures import in_lines

    figure = Figure(figsize=(3.2 + 3.2 * len(arms), 3.8), layout="constrained")
    grid = figure.subplots(1, len(arms), squeeze=False, sharey=True)[0]
    for axis, (name, lives) in zip(grid, arms.items(), strict=True):
        _stack(axis, lives, _shown(arms))
        axis.set_title(in_lines(f"{name} (n = {len(lives)})"))
    grid[0].set_ylabel("share of the questions")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=110)


def _stack(axis: "Axes", lives: Sequence[Account], shown: Sequence[str]) -> None:
    tasks = lives[0].tasks
    bottom = np.zeros(len(tasks))
    for what in shown:
        height = np.array([_share(lives, what, task).mean for task in range(len(tasks))])
        height = np.nan_to_num(height)
        hatch = "//" if what == NEVER_LEARNED else None
        axis.bar(
            range(len(tasks)), height, bottom=bottom, color=_COLOURS[what], label=what, hatch=hatch,
            edgecolor="white", linewidth=0.5,
        )  # fmt: skip
        bottom = bottom + height
    labels = [task.replace("_", " ") for task in tasks]
    axis.set_xticks(range(len(tasks)), labels, rotation=40, ha="right", fontsize=8)
    axis.set_ylim(0, 1)
    axis.grid(alpha=0.3, axis="y")
    axis.set_axisbelow(True)


def _swaps(
    exams: Mapping[tuple[int, int, str], Event], found: Sequence[Event]
) -> dict[int, dict[tuple[str, str], float]]:
    """Return the accuracy of every cell that was examined; without a store, those of weights."""
    swaps: dict[int, dict[tuple[str, str], float]] = {}
    for event in found:
        after, task = event["after"], event["task"]
        cells = {
            cell: _accuracy(exams[after, task, arm])
            for arm, cell in CELLS.items()
            if (after, task, arm) in exams
        }
        if cells:
            cells[NOW, NOW] = _accuracy(exams[after, task, "agent"])
            known = {
                (w, s): cells.get((w, s), cells.get((w, NOW), float("nan")))
                for w in TIMES
                for s in TIMES
            }
            swaps[task] = known
    return swaps


def _further(exams: Mapping[tuple[int, int, str], Event]) -> dict[str, dict[int, float]]:
    further: dict[str, dict[int, float]] = defaultdict(dict)
    for (_, task, arm), event in exams.items():
        if arm.startswith("further_"):
            further[arm.removeprefix("further_")][task] = _accuracy(event)
    return dict(further)


def _accuracy(event: Event) -> float:
    return float(np.mean(event["correct"])) if event["correct"] else float("nan")


def _share(
    lives: Sequence[Account], what: str, task: int | None = None, carried: int | None = None
) -> Interval:
    """Return the share of questions that ended so, over lifetimes."""
    asked = [one.questions(task, carried) for one in lives]
    return interval(
        [
            one.count(what, task, carried) / count if count else float("nan")
            for one, count in zip(lives, asked, strict=True)
        ]
    )


def _shown(arms: Mapping[str, Sequence[Account]]) -> list[str]:
    """Return what is worth a column: all, and what was not placed only if there is any."""
    unknown = CAUSES[UNKNOWN]
    some = any(one.count(unknown) for lives in arms.values() for one in lives)
    return [what for what in FATES if some or what != unknown]


def _cause_table(arms: Mapping[str, Sequence[Account]]) -> str:
    shown, rows = _shown(arms), []
    for name, lives in arms.items():
        for carried, told in enumerate(("this episode", "an earlier episode")):
            asked = sum(one.questions(carried=carried) for one in lives)
            if not asked:
                continue
            counts = [sum(one.count(what, carried=carried) for one in lives) for what in shown]
            cells = [
                f"{_share(lives, what, carried=carried)} ({count})"
                for what, count in zip(shown, counts, strict=True)
            ]
            forgotten = sum(c for c, w in zip(counts, shown, strict=True) if w != NEVER_LEARNED)
            mended = sum(one.mended[carried] for one in lives)
            of = f"{mended / forgotten:.2f}" if forgotten else "–"
            rows.append([name, told, str(len(lives)), str(asked), *cells, of])
    return _table(["arm", "told in", "n", "asked", *shown, "mended"], rows)


def _task_table(arms: Mapping[str, Sequence[Account]]) -> str:
    shown, rows = _shown(arms), []
    for name, lives in arms.items():
        for task, label in enumerate(lives[0].tasks):
            asked = sum(one.questions(task) for one in lives)
            counts = [str(sum(one.count(what, task) for one in lives)) for what in shown]
            rows.append([name, label, str(asked), *counts])
    return _table(["questions", "task", "asked", *shown], rows)


def _swap_table(arms: Mapping[str, Sequence[Account]]) -> str:
    """Return what was forgotten in each task and its three parts."""
    rows = []
    for name, lives in arms.items():
        for task, label in enumerate(lives[0].tasks):
            parts = [
                parts_of(one.swaps[task])
                for one in lives
                if (THEN, THEN) in one.swaps.get(task, {})
            ]
            if parts:
                columns = (
                    interval([float(p[n]) for p in parts]) for n in range(len(Parts._fields))
                )
                rows.append([name, label, str(len(parts)), *map(str, columns)])
    return _table(["arm", "task", "n", *Parts._fields], rows)


def _cell_table(arms: Mapping[str, Sequence[Account]]) -> str:
    """Return the mean accuracy of all tasks in each cell."""
    rows = []
    for name, lives in arms.items():
        swapped = [one for one in lives if one.swaps]
        for weights in TIMES if swapped else ():
            cells = []
            for store in TIMES:
                of = [
                    float(np.mean([cells[weights, store] for cells in one.swaps.values()]))
                    for one in swapped
                    if all((weights, store) in cells for cells in one.swaps.values())
                ]
                cells.append(str(interval(of)))
            rows.append([name, weights, *cells])
    return _table(["arm", "weights", *(f"store {store}" for store in TIMES)], rows)


def _further_table(arms: Mapping[str, Sequence[Account]]) -> str:
    rows = []
    for name, lives in arms.items():
        for variant in dict.fromkeys(key for one in lives for key in one.further):
            cells = [
                str(interval([one.further.get(variant, {}).get(t, float("nan")) for one in lives]))
                for t in range(len(lives[0].tasks))
            ]
            rows.append([name, variant, *cells])
    return _table(["arm", "examined with", *next(iter(arms.values()))[0].tasks], rows)


def _words(arms: Mapping[str, Sequence[Account]]) -> str:
    soft = [name for name, lives in arms.items() if not all(one.exact for one in lives)]
    approximate = f" Approximate, by share of writes: {', '.join(soft)}." if soft else ""
    return (
        "Of the questions that were right after their own task and are wrong now: the first link "
        "that is broken on the way from the fact to the answer. *Never learned* were wrong right "
        "after their own task as well. Shares of the questions asked, their number in brackets; "
        "*mended*: the share of the forgotten that is right when the supports are forced into the "
        f"read.{approximate}"
    )


def _swap_words() -> str:
    return (
        "Each task is examined with weights and store as they are now, as they were after its own "
        f"training ({THEN}), or before any ({EMPTY}). What was forgotten is the sum: *weights*, "
        "lost if only the weights move on; *store*, lost if only the store does; *interaction*, "
        "what only both together lose (below 0: what each of them alone loses already)."
    )


def _arm_words(lives: Sequence[Sequence[Event]]) -> str:
    """Explain the arms that were examined."""
    there = {e["arm"] for events in lives for e in events if e["event"] == "examination"}
    lines = [f"- **{arm.replace('_', ' ')}**: {ARMS[arm].means}." for arm in ARMS if arm in there]
    return "\n".join(["Arms of the examination:", "", *lines])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
