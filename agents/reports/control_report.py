"""What a report tells of control tasks: returns as they are, beside their floor and reference."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from stillknows.agents.examinations.inquiry import own_experiences
from stillknows.agents.reports.log import Event
from stillknows.envs.measures.intervals import interval

if TYPE_CHECKING:
    from stillknows.agents.reports.lives import Life

ROWS = {
    "own": "right after its own training",
    "end": "at the end",
    "best": "best at any examination",
}


def acted(events: Sequence[Event], tasks: int) -> dict[str, list[float]]:
    """Return mean returns of the examinations in each task, NaN in tasks that are not acted in.

    Returns:
        By name: `own`, right after the task's first training; `end`; `best`; and `random` and
        `reference`, which score 0 and 1. Empty if no task is acted in.
    """
    exams = [event for event in events if event["event"] == "examination" and "returns" in event]
    if not exams:
        return {}
    table = {name: [float("nan")] * tasks for name in (*ROWS, "random", "reference")}
    protocol = events[0]["protocol"]
    first = {} if protocol == "joint" else own_experiences(events)
    for task in {event["task"] for event in exams}:
        means = {e["after"]: float(np.mean(e["returns"])) for e in exams if e["task"] == task}
        if protocol == "scratch":  # the others are of agents that learned another task
            means = {after: value for after, value in means.items() if after in (0, first[task])}
        table["own"][task] = means.get(first.get(task, -1), float("nan"))
        table["end"][task], table["best"][task] = means[max(means)], max(means.values())
    for event in events:
        if event["event"] == "floor" and "random_return" in event:
            table["random"][event["task"]] = event["random_return"]
            table["reference"][event["task"]] = event["reference_return"]
    return table


def sections(arms: Mapping[str, Sequence["Life"]]) -> list[str]:
    """Return the part of a report about returns, nothing where no task is acted in."""
    lives = [life for each in arms.values() for life in each if life.acted]
    if not lives:
        return []
    lines = [["returns", *lives[0].tasks]]
    for name, each in arms.items():
        for row, label in ROWS.items():
            lines.append([f"{name}, {label}", *_means([life.acted[row] for life in each])])
    for row, label in (("random", "random actions, score 0"), ("reference", "reference, score 1")):
        lines.append([label, *_means([life.acted[row] for life in lives])])
    head, *rows = lines
    table = [head, ["---"] * len(head), *rows]
    return [
        "## Returns, task by task",
        "In tasks that are acted in, accuracy stands for a score: how far the mean return of an "
        "examination is on the way from random actions, 0, to the reference, 1. It may lie beyond "
        "either.",
        "\n".join("| " + " | ".join(line) + " |" for line in table),
    ]


def _means(rows: Sequence[Sequence[float]]) -> list[str]:
    return [str(interval(list(column))) for column in zip(*rows, strict=True)]
