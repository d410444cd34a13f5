"""Every value of a report in files for other programs: `report.json` and `report.csv`.

What is not known is null in the one and empty in the other.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stillknows.agents.reports.comparisons import (
    COSTS,
    SCORES,
    improvement,
    metric_interval,
    paired,
)
from stillknows.agents.reports.lives import Life
from stillknows.envs.measures.intervals import Interval

Arms = Mapping[str, Sequence[Life]]


def write_export(groups: Sequence[Arms], lacks: Sequence[str], out: Path) -> None:
    """Write both files into a folder.

    Args:
        groups: the arms of each stream.
        lacks: a sentence for everything that is missing.
        out: the folder.
    """
    whole = {"streams": [_stream(arms) for arms in groups], "missing": list(lacks)}
    text = json.dumps(_known(whole), indent=1, allow_nan=False, ensure_ascii=False)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    with (out / "report.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*_LIFE, *SCORES, *COSTS])
        for arms in groups:
            for name, lives in arms.items():
                writer.writerows(_row(name, life) for life in lives)


_LIFE = ("stream", "fingerprint", "protocol", "arm", "seed", "order", "folder")


def _row(name: str, life: Life) -> list[Any]:
    described = _described(name, life)
    values = (life.metrics[metric] for metric in (*SCORES, *COSTS))
    return [*described.values(), *("" if value != value else value for value in values)]


def _described(name: str, life: Life) -> dict[str, Any]:
    stream = life.setting.get("stream.name", "")
    here = (stream, life.fingerprint, life.protocol, name, life.seed, life.order, str(life.folder))
    return dict(zip(_LIFE, here, strict=True))


def _stream(arms: Arms) -> dict[str, Any]:
    first = next(iter(arms.values()))[0]
    return {
        "tasks": first.tasks,
        "setting": {name: value for name, value in first.setting.items() if name != "protocol"},
        "arms": {name: _arm(lives) for name, lives in arms.items()},
        "differences": _differences(arms),
        "lifetimes": [_life(name, life) for name, lives in arms.items() for life in lives],
    }


def _arm(lives: Sequence[Life]) -> dict[str, Any]:
    return {
        "protocol": lives[0].protocol,
        "fingerprint": lives[0].fingerprint,
        "metrics": {name: _interval(metric_interval(lives, name)) for name in (*SCORES, *COSTS)},
    }


def _differences(arms: Arms) -> list[dict[str, Any]]:
    """Return the first arm less each other one, paired by seed and order, in every score."""
    (first, ours), *others = arms.items()
    return [
        {
            "arm": first,
            "less": name,
            "metrics": {score: _interval(paired(ours, theirs, score)) for score in SCORES},
            "probability_of_improvement": _interval(improvement(ours, theirs, "average_accuracy")),
        }
        for name, theirs in others
    ]


def _life(name: str, life: Life) -> dict[str, Any]:
    return {
        **_described(name, life),
        "lived": life.lived,
        "trained": life.trained,
        "matrix": life.matrix,
        "metrics": life.metrics,
        "areas": life.areas,
        "examinations": life.arms,
        "floors": life.floors,
    }


def _interval(found: Interval) -> dict[str, Any]:
    return dict(found._asdict())


def _known(tree: Any) -> Any:
    """Return a tree with null in the place of every number that is not finite."""
    if isinstance(tree, Mapping):
        return {str(key): _known(value) for key, value in tree.items()}
    if isinstance(tree, np.ndarray):
        return _known(tree.tolist())
    if isinstance(tree, list | tuple):
        return [_known(value) for value in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return None
    return tree
