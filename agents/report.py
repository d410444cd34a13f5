"""The report: what was learned, forgotten and transferred, computed from logs alone.

`report.md` puts arms side by side with intervals over lifetimes; figures show the accuracy
matrix of each arm and the accuracy in each task over the life.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stillknows.agents.log import Event, lifetimes
from stillknows.envs.intervals import Interval, interval, paired_difference
from stillknows.envs.metrics import METRICS, Matrix, summary
from stillknows.envs.reuse import ideal_transfer

SHOWN = ("average_accuracy", "forgetting", "backward_transfer", "forward_transfer",
         "learning_accuracy")  # fmt: skip


class Life(NamedTuple):
    """What a report needs of one lifetime.

    Attributes:
        name: the arm.
        seed: of the lifetime.
        tasks: names, in the order of the stream.
        sources: where the stories come from, a line for each task that is not generated.
        protocol: of the lifetime.
        matrix: accuracy after each experience, row 0 before any, `[T + 1, N]`.
        metrics: by name; `carried` is the accuracy at the end in questions about earlier episodes.
        arms: accuracy at the end in each task of the examination's arms, by name.
        floors: accuracy of the floors in each task, by name.
        ideal: of each task, the share of its skills and facts that earlier tasks gave, or NaN.
        end: the event that closed the life, empty if it has not ended.
    """

    name: str
    seed: int
    tasks: tuple[str, ...]
    sources: tuple[str, ...]
    protocol: str
    matrix: Matrix
    metrics: dict[str, float]
    arms: dict[str, list[float]]
    floors: dict[str, list[float]]
    ideal: list[float]
    end: Event


def summarise(events: Sequence[Event]) -> Life:
    """Return what a report needs of a lifetime's events."""
    head = events[0]
    tasks = tuple(head["tasks"])
    exams = [event for event in events if event["event"] == "examination"]
    matrix = accuracy_matrix(exams, len(tasks))
    joint = head["protocol"] == "joint"
    trained = _trained(events)[: len(matrix) - 1]
    metrics = {name: float("nan") for name in METRICS}
    if joint:
        metrics["average_accuracy"] = float(np.mean(matrix[-1]))
    elif trained:
        metrics = summary(matrix, trained)
    last = [event for event in exams if event["after"] == len(matrix) - 1]
    metrics["carried"] = _share_right([event for event in last if event["arm"] == "agent"], 1)
    metrics["by_token"] = _by_token([event for event in last if event["arm"] == "agent"])
    metrics["of_this_episode"] = _share_right([e for e in last if e["arm"] == "agent"], 0)
    return Life(
        name=head["name"],
        seed=head["seed"],
        tasks=tasks,
        sources=tuple(
            f"{task}: {source}."
            for task, source in zip(tasks, head.get("sources", ()), strict=False)
            if source
        ),
        protocol=head["protocol"],
        matrix=matrix,
        metrics=metrics,
        arms=_by_arm(last, len(tasks)),
        floors=_floors(events, len(tasks)),
        ideal=ideal_transfer(head.get("needs", ()), head.get("gives", ())),
        end=next((event for event in events if event["event"] == "end"), {}),
    )


def accuracy_matrix(exams: Sequence[Event], tasks: int) -> Matrix:
    """Return accuracy after each experience, NaN where not examined, `[T + 1, N]`."""
    rows = 1 + max((event["after"] for event in exams), default=0)
    matrix = np.full((rows, tasks), np.nan)
    for event in exams:
        if event["arm"] == "agent":
            matrix[event["after"], event["task"]] = _accuracy(event)
    return matrix


def _trained(events: Sequence[Event]) -> list[int]:
    """Return the task of each experience."""
    tasks = {event["experience"]: event["task"] for event in events if event["event"] == "update"}
    return [tasks[experience] for experience in sorted(tasks)]


def write_report(folders: Sequence[Path], out: Path) -> str:
    """Write `report.md` and its figures into `out` and return the report's text.

    Args:
        folders: runs; every lifetime at or below them counts.
        out: an existing folder; an older report in it is replaced.

    Raises:
        ValueError: if a folder holds no lifetime, or their streams are not the same.
    """
    from stillknows.agents import figures  # matplotlib takes a second to import

    lives = [summarise(events) for events in lifetimes(list(folders))]
    if len({life.tasks for life in lives}) > 1:
        raise ValueError(
            "These lifetimes have different tasks, and averages never mix streams: report them "
            "one stream at a time."
        )
    arms: dict[str, list[Life]] = defaultdict(list)
    for life in sorted(lives, key=lambda life: life.seed):
        arms[life.name].append(life)
    figures.accuracy_matrices(arms, out / "accuracy_matrix.png")
    figures.accuracy_over_life(arms, out / "accuracy.png")
    text = "\n\n".join(_sections(arms)) + "\n"
    (out / "report.md").write_text(text, encoding="utf-8")
    return text


def _sections(arms: Mapping[str, list[Life]]) -> list[str]:
    first = next(iter(arms.values()))[0]
    parts = [
        "# What is still known",
        f"Tasks, in this order: {', '.join(first.tasks)}. Every figure is a mean over lifetimes "
        "with its 95 % interval; n is the number of lifetimes.",
        *first.sources,
        _metric_table(arms),
        "![accuracy matrices](accuracy_matrix.png)",
        "![accuracy over the life](accuracy.png)",
    ]
    if len(arms) > 1:
        parts += ["## Differences to the first arm, paired by seed", _difference_table(arms)]
    parts += ["## Accuracy at the end, task by task", _task_table(arms)]
    if any(share == share for life in arms[first.name] for share in life.ideal):
        parts += ["## What could transfer, and what did", _transfer_table(arms)]
    parts += ["## What the figures mean", _definitions()]
    return parts


def _metric_table(arms: Mapping[str, list[Life]]) -> str:
    shown = [*SHOWN, "by_token", "of_this_episode", "carried"]
    rows = []
    for name, lives in arms.items():
        cells = [str(_metric(lives, metric)) for metric in shown]
        rows.append([name, lives[0].protocol, str(len(lives)), *cells])
    return table(["arm", "protocol", "n", *(metric.replace("_", " ") for metric in shown)], rows)


def _difference_table(arms: Mapping[str, list[Life]]) -> str:
    (first, ours), *others = arms.items()
    rows = []
    for name, theirs in others:
        pairs = [(a, b) for a in ours for b in theirs if a.seed == b.seed]
        cells = [str(len(pairs))]
        for metric in (*SHOWN[:2], "of_this_episode", "carried"):
            here = [ours.metrics[metric] for ours, _ in pairs]
            there = [theirs.metrics[metric] for _, theirs in pairs]
            cells.append(str(paired_difference(here, there)))
        rows.append([f"{first} − {name}", *cells])
    names = (*SHOWN[:2], "of_this_episode", "carried")
    return table(["arms", "n", *(name.replace("_", " ") for name in names)], rows)


def _task_table(arms: Mapping[str, list[Life]]) -> str:
    tasks = next(iter(arms.values()))[0].tasks
    rows = []
    for name, lives in arms.items():
        for arm in lives[0].arms:
            label = name if arm == "agent" else f"{name}, {arm.replace('_', ' ')}"
            rows.append([label, *_columns([life.arms.get(arm, []) for life in lives], len(tasks))])
    lives = [life for each in arms.values() for life in each]
    for floor in ("majority", "last_mentioned"):
        columns = _columns([life.floors.get(floor, []) for life in lives], len(tasks))
        rows.append([f"floor: {floor.replace('_', ' ')} answer", *columns])
    return table(["", *tasks], rows)


def _transfer_table(arms: Mapping[str, list[Life]]) -> str:
    """Return beside what earlier tasks gave how much of each task was known before its training."""
    tasks = next(iter(arms.values()))[0].tasks
    rows = []
    for name, lives in arms.items():
        told = [life for life in lives if len(life.matrix) > len(tasks)]  # not the joint reference
        for label, shift in ((f"{name}, before its training", 0), (f"{name}, after it", 1)):
            known = [[life.matrix[n + shift, n] for n in range(len(tasks))] for life in told]
            rows.append([label, *_columns(known, len(tasks))])
    lives = [life for each in arms.values() for life in each]
    ideal = _columns([life.ideal for life in lives], len(tasks))
    return table(["", *tasks], [["share of its parts that earlier tasks gave", *ideal], *rows])


def _definitions() -> str:
    lines = [f"- **{name.replace('_', ' ')}**: {METRICS[name]}" for name in SHOWN]
    return "\n".join(
        [
            *lines,
            "- **by token**: average accuracy at the end, counting the tokens of answers that are "
            "right in their places.",
            "- **of this episode**, **carried**: accuracy at the end in questions whose supports "
            "lie in their own episode, or in earlier episodes of the same life. Without carried "
            "questions (`carry=0`) a store can help only by rehearsal or by similar episodes.",
            "- **no recall**, **no story**: the same agent examined without its episodic memory, "
            "or hearing the questions only.",
        ]
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _metric(lives: Sequence[Life], metric: str) -> Interval:
    return interval([life.metrics[metric] for life in lives])


def _columns(rows: Sequence[Sequence[float]], tasks: int) -> list[str]:
    known = [row for row in rows if len(row) == tasks]
    if not known:
        return ["–"] * tasks
    return [str(interval([row[task] for row in known])) for task in range(tasks)]


def _accuracy(event: Event) -> float:
    return float(np.mean(event["correct"])) if event["correct"] else float("nan")


def _share_right(exams: Sequence[Event], carried: int) -> float:
    """Return the mean over tasks of the accuracy in carried (or other) questions."""
    shares = [
        [right for right, was in zip(e["correct"], e["carried"], strict=True) if was == carried]
        for e in exams
    ]
    return float(np.mean([np.mean(s) for s in shares if s])) if any(shares) else float("nan")


def _by_token(exams: Sequence[Event]) -> float:
    """Return the mean over tasks of the share of right tokens; older logs do not tell."""
    shares = [event["by_token"] for event in exams if event.get("by_token")]
    return float(np.mean([np.mean(share) for share in shares])) if shares else float("nan")


def _by_arm(exams: Sequence[Event], tasks: int) -> dict[str, list[float]]:
    arms: dict[str, list[float]] = defaultdict(lambda: [float("nan")] * tasks)
    for event in exams:
        arms[event["arm"]][event["task"]] = _accuracy(event)
    return dict(arms)


def _floors(events: Sequence[Event], tasks: int) -> dict[str, list[float]]:
    found = [event for event in events if event["event"] == "floor"]
    floors: dict[str, Any] = {}
    for name in ("majority", "last_mentioned"):
        floors[name] = [event[name] for event in sorted(found, key=lambda e: e["task"])]
    return floors if len(found) == tasks else {}
