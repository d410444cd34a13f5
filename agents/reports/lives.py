"""Lifetimes as reports need them: read from their logs, each with its numbers.

What cannot be counted is named in a sentence and left out; the logs stay as they are.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stillknows.agents.persistence.resuming import as_planned
from stillknows.agents.reports import control_report
from stillknows.agents.reports.apart import distinct, options_of
from stillknows.agents.reports.learned import Learned, Scale, score
from stillknows.agents.reports.log import Event, find, read
from stillknows.agents.reports.protocol import Setting, fingerprint, logged_setting
from stillknows.envs.measures.metrics import METRICS, Matrix, gain, mean, normalised_gain, summary
from stillknows.envs.measures.reuse import ideal_transfer

NAN = float("nan")
OTHER_TABLES = ("weights_", "further_")  # arms that stand in tables of their own
OF_THE_FIRST = ("forward_transfer", "isolated_forgetting", "zero_shot_transfer")


class Life(NamedTuple):
    """What a report needs of one lifetime.

    Attributes:
        name: the arm.
        seed: of the lifetime.
        order: of its tasks.
        tasks: names, in the order of the stream as it is written.
        lived: the place of each lived task among them.
        trained: the task of each experience, by its number in the life.
        sources: where the stories come from, a line for each task that is not generated.
        protocol: of the lifetime.
        setting: what must be equal for lifetimes to be averaged.
        matrix: score after each experience, row 0 before any, tasks as lived, `[T + 1, N]`.
        metrics: by name; `carried` is the accuracy at the end in questions about earlier episodes.
        areas: under the learning curve of each task as lived, by what the curve is made of:
            `training` (answers before they are learned from) or `examinations`.
        arms: score at the end in each task of the stream of the examination's arms, by name.
        floors: accuracy of the floors in each task of the stream, by name; those of questions are
            NaN in tasks that are acted in, random actions in tasks that ask.
        ideal: of each task as lived, the share of its skills and facts that earlier ones gave, or
            NaN.
        end: the event that closed the life, empty if it has not ended.
        folder: where its log is.
        acted: returns of acting, by what they are of.
        options: of its agent; those of an arm whose options differ are not averaged.
    """

    name: str
    seed: int
    order: int
    tasks: tuple[str, ...]
    lived: tuple[int, ...]
    trained: tuple[int, ...]
    sources: tuple[str, ...]
    protocol: str
    setting: Setting
    matrix: Matrix
    metrics: dict[str, float]
    areas: dict[str, list[float]]
    arms: dict[str, list[float]]
    floors: dict[str, list[float]]
    ideal: list[float]
    end: Event
    folder: Path
    acted: dict[str, list[float]]
    options: Setting

    @property
    def pair(self) -> tuple[int, int]:
        """What it shares with the lifetimes of other arms that it is compared with."""
        return self.seed, self.order

    @property
    def fingerprint(self) -> str:
        """Of its setting."""
        return fingerprint(self.setting)


def collect(folders: Sequence[Path]) -> tuple[list[Life], list[str]]:
    """Return the whole lifetimes at or below some folders, and a sentence for each lack.

    They come in the order in which they were asked for: the first arm is the one named first.
    Where an arm was lived with different options, its name gets them; where it was lived twice with
    the same seed and order, it gets the name of the run.

    Raises:
        ValueError: if a folder is not there, or no lifetime in them is whole.
    """
    lives, lacks = [], []
    for folder in as_planned(find(list(folders))):
        try:
            events = read(folder)
        except ValueError as error:
            lacks.append(str(error))
            continue
        lacks += [f"{folder}: {lack}" for lack in lacks_of(events)]
        if not stopped(events):
            lives.append(summarise(events, folder))
    if not lives:
        raise ValueError(" ".join(["No lifetime is whole.", *lacks[:3]]))
    return _told_apart(_by_options(sorted(lives, key=lambda life: life.pair))), lacks


def summarise(events: Sequence[Event], folder: Path = Path()) -> Life:
    """Compute the matrix of scores, the metrics and the rest from a lifetime's log."""
    head = events[0]
    count = len(head["tasks"])
    lived = tuple(head.get("places", range(count)))
    exams = [event for event in events if event["event"] == "examination"]
    matrix = accuracy_matrix(exams, count, head.get("scale"))
    trained = tuple(_trained(events)[: len(matrix) - 1])
    last = _at_the_end(exams, len(matrix) - 1, trained, head["protocol"])
    shown = [event for event in last if not event["arm"].startswith(OTHER_TABLES)]
    arms = {arm: as_written(scores, lived) for arm, scores in _by_arm(shown, head).items()}
    learned = Learned(events, matrix, trained)
    own = [event for event in last if event["arm"] == "agent"]
    asked = [event for event in own if "returns" not in event]
    metrics = {
        **_of_matrix(matrix, trained, head),
        "carried": _share_right(asked, 1),
        "by_token": _by_token(own),
        "of_this_episode": _share_right(asked, 0),
        **_of_recall(arms),
        **learned.metrics(),
        **_of_cost(events),
    }
    return Life(
        name=head["name"],
        seed=head["seed"],
        order=head.get("order", 0),
        tasks=tuple(as_written(head["tasks"], lived)),
        lived=lived,
        trained=trained,
        sources=tuple(
            f"{task}: {source}."
            for task, source in zip(head["tasks"], head.get("sources", ()), strict=False)
            if source
        ),
        protocol=head["protocol"],
        setting=logged_setting(head),
        matrix=matrix,
        metrics=metrics,
        areas=learned.areas,
        arms=arms,
        floors=_floors(events, lived),
        ideal=ideal_transfer(head.get("needs", ()), head.get("gives", ())) or [NAN] * count,
        end=next((event for event in events if event["event"] == "end"), {}),
        folder=folder,
        acted={
            name: as_written(row, lived)
            for name, row in control_report.acted(events, count).items()
        },
        options=options_of(head.get("config")),
    )


def accuracy_matrix(exams: Sequence[Event], tasks: int, scale: Scale | None = None) -> Matrix:
    """Return the score after each experience, NaN where not examined, `[T + 1, N]`."""
    rows = 1 + max((event["after"] for event in exams), default=0)
    matrix = np.full((rows, tasks), np.nan)
    for event in exams:
        if event["arm"] == "agent":
            matrix[event["after"], event["task"]] = score(event, scale)
    return matrix


def stopped(events: Sequence[Event]) -> bool:
    """Return whether a life has not been lived to its end: all examinations, and what follows."""
    return not any(event["event"] == "end" for event in events)


def lacks_of(events: Sequence[Event]) -> list[str]:
    """Return a sentence for everything that a log lacks or holds wrongly, without a name."""
    tasks = events[0]["tasks"]
    updates = [event for event in events if event["event"] == "update"]
    lacks = []
    if stopped(events):
        where = f"in {tasks[updates[-1]['task']]} after {len(updates)} updates" if updates else (
            "before its first update"
        )  # fmt: skip
        lacks.append(f"stopped {where}; it is left out, its log stays as it is.")
    wrong = [n for n, event in enumerate(updates) if not math.isfinite(event.get("loss", 0.0))]
    if wrong:
        task = tasks[updates[wrong[0]]["task"]]
        lacks.append(
            f"the loss is NaN or infinite in {len(wrong)} of {len(updates)} updates, first in "
            f"update {wrong[0] + 1}, of {task}."
        )
    exams = [e for e in events if e["event"] == "examination" and e["arm"] == "agent"]
    matrix = accuracy_matrix(exams, len(tasks))
    for after, task in np.argwhere(np.isnan(matrix)) if not stopped(events) else ():
        lacks.append(
            f"no score of {tasks[task]} after {after} experiences was logged; means leave it out."
        )
    return lacks


def as_written(values: Sequence[Any], lived: Sequence[int]) -> list[Any]:
    """Return values of tasks as lived in the order of the stream as it is written."""
    return [value for _, value in sorted(zip(lived, values, strict=True), key=lambda p: p[0])]


def _by_options(lives: list[Life]) -> list[Life]:
    """Return lives of which no two of one arm in one setting have other options and one name."""
    alike: dict[tuple[str, str], list[Setting]] = defaultdict(list)
    for life in lives:
        known = alike[life.name, life.fingerprint]
        if life.options not in known:
            known.append(life.options)
    own = [distinct(life.options, alike[life.name, life.fingerprint]) for life in lives]
    return [
        life._replace(name=f"{life.name} ({differ})") if differ else life
        for life, differ in zip(lives, own, strict=True)
    ]


def _told_apart(lives: list[Life]) -> list[Life]:
    """Return lives of which no two have the same arm, seed and order in one setting."""
    places = Counter((life.name, life.fingerprint, life.pair) for life in lives)
    twice = {(name, print_) for (name, print_, _), count in places.items() if count > 1}
    alike = [life for life in lives if (life.name, life.fingerprint) in twice]
    runs = dict.fromkeys(life.folder.resolve().parent for life in alike)
    depth = next((d for d in range(1, 4) if len({run.parts[-d:] for run in runs}) == len(runs)), 4)
    named = [
        life._replace(name=f"{life.name} ({'/'.join(life.folder.resolve().parent.parts[-depth:])})")
        if (life.name, life.fingerprint) in twice
        else life
        for life in lives
    ]
    known: dict[Any, Life] = {}
    for life in named:
        other = known.setdefault((life.name, life.fingerprint, life.pair), life)
        if other is not life:
            raise ValueError(
                f"{other.folder} and {life.folder} are the same arm, seed and order: report one."
            )
    return named


def _trained(events: Sequence[Event]) -> list[int]:
    """Return the task of each experience."""
    updates = [event for event in events if event["event"] == "update"]
    # the first of an experience: near its end batches of the next task may be mixed in
    tasks = {event["experience"]: event["task"] for event in reversed(updates)}
    return [tasks[experience] for experience in sorted(tasks)]


def _at_the_end(
    exams: Sequence[Event], last: int, trained: Sequence[int], protocol: str
) -> list[Event]:
    """Return the last examinations; of fresh agents, each one's in the task that it learned."""
    if protocol != "scratch":
        return [event for event in exams if event["after"] == last]
    return [e for e in exams if e["after"] and trained[e["after"] - 1 :][:1] == (e["task"],)]


def _of_matrix(matrix: Matrix, trained: Sequence[int], head: Event) -> dict[str, float]:
    """Return the metrics of a matrix; of joint training and of fresh agents, what they have."""
    metrics, protocol = dict.fromkeys(METRICS, NAN), head["protocol"]
    if protocol == "joint":
        metrics["average_accuracy"] = mean(matrix[-1])
    elif protocol == "scratch":
        own = mean([matrix[after, task] for after, task in enumerate(trained, start=1)])
        metrics |= {"average_accuracy": own, "learning_accuracy": own}
    elif trained and len(matrix) == len(trained) + 1:
        metrics = summary(matrix, trained)
        if "repeats" in head:
            metrics |= _where_tasks_return(matrix, trained, head["repeats"])
    return metrics


def _where_tasks_return(
    matrix: Matrix, trained: Sequence[int], repeats: Sequence[int]
) -> dict[str, float]:
    """Return what is asked of tasks that are new, or not trained: one that returns is the first."""
    kinds = list(dict.fromkeys(repeats))
    firsts = [repeats.index(kind) for kind in kinds]
    found = summary(matrix[:, firsts], [kinds.index(repeats[task]) for task in trained])
    return {name: found[name] for name in OF_THE_FIRST}


def _of_recall(arms: dict[str, list[float]]) -> dict[str, float]:
    """Return what the episodic memory adds at the end, examined with it and without."""
    if "no_recall" not in arms:
        return {"recall_gain": NAN, "recall_gain_normalised": NAN}
    return {
        "recall_gain": gain(arms["agent"], arms["no_recall"]),
        "recall_gain_normalised": normalised_gain(arms["agent"], arms["no_recall"]),
    }


def _of_cost(events: Sequence[Event]) -> dict[str, float]:
    """Return what a life took."""
    updates = [event for event in events if event["event"] == "update"]
    ended = {event["event"]: event for event in events if event["event"] in ("end", "clock")}
    end, clock = ended.get("end", {}), ended.get("clock", {})
    steps = [event["steps"] for event in updates if "steps" in event]
    return {
        "updates": float(len(updates)),
        "steps": float(sum(steps)) if steps else NAN,
        "seconds": float(clock.get("seconds", NAN)),
        "memory_bytes": float(end.get("memory_bytes", NAN)),
        "parameters": float(end.get("parameters", NAN)),
    }


def _share_right(exams: Sequence[Event], carried: int) -> float:
    """Return the mean over tasks of the accuracy in carried (or other) questions."""
    shares = [
        [right for right, was in zip(e["correct"], e["carried"], strict=True) if was == carried]
        for e in exams
        if "correct" in e
    ]
    return float(np.mean([np.mean(s) for s in shares if s])) if any(shares) else NAN


def _by_token(exams: Sequence[Event]) -> float:
    """Return the mean over tasks of the share of right tokens; older logs do not tell."""
    shares = [event["by_token"] for event in exams if event.get("by_token")]
    return float(np.mean([np.mean(share) for share in shares])) if shares else NAN


def _by_arm(exams: Sequence[Event], head: Event) -> dict[str, list[float]]:
    arms: dict[str, list[float]] = defaultdict(lambda: [NAN] * len(head["tasks"]))
    for event in exams:
        arms[event["arm"]][event["task"]] = score(event, head.get("scale"))
    return dict(arms)


def _floors(events: Sequence[Event], lived: Sequence[int]) -> dict[str, list[float]]:
    found = [event for event in events if event["event"] == "floor"]
    if len(found) != len(lived):
        return {}
    found.sort(key=lambda event: event["task"])
    rows = {
        name: as_written([event.get(name, NAN) for event in found], lived)
        for name in ("majority", "last_mentioned", "random")
    }
    return {name: row for name, row in rows.items() if not np.isnan(row).all()}
