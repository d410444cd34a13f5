"""What a lifetime's log tells of learning itself: curves, their areas, and plasticity.

A curve is made of the answers of a training, each before it is learned from, or of the
examinations before, during and after it (`stream.exam_every`).
"""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from stillknows.agents.reports.log import Event
from stillknows.envs.measures import curves
from stillknows.envs.measures.metrics import Matrix, mean, normalise
from stillknows.envs.measures.plasticity import TAUS

NAN = float("nan")

Scale = Sequence[tuple[float, float]]


def score(event: Event, scale: Scale | None = None) -> float:
    """Return the mean return of an examination, or its share of right answers; NaN if not finite.

    Args:
        event: `examination` or `interim`; of tasks with returns they have a column `returns`.
        scale: floor and reference of each task, as lived, that become 0 and 1; None: as it is.
    """
    if "scores" in event:  # between floor and reference already
        scale = None
    marks = event.get("scores") or event.get("returns") or event.get("correct")
    value = float(np.mean(marks)) if marks else NAN
    if not math.isfinite(value):
        return NAN
    if scale is None:
        return value
    floor, reference = scale[event["task"]]
    return float(normalise(np.array([value]), [floor], [reference])[0])


class Learned:
    """The learning curves of a lifetime.

    Args:
        events: of its log.
        matrix: score after each experience, tasks as lived, `[T + 1, N]`.
        trained: the task of each experience.

    Attributes:
        areas: under the curve of each task, where it was trained first, by what the curve is made
            of: `training` or `examinations`.
    """

    def __init__(self, events: Sequence[Event], matrix: Matrix, trained: Sequence[int]) -> None:
        self.head, self.matrix, self.trained = events[0], matrix, tuple(trained)
        self.alone = self.head["protocol"] == "scratch"
        self.probes = [event for event in events if event["event"] == "plasticity"]
        self._updates: dict[int, list[Event]] = defaultdict(list)
        self._interim: dict[int, list[Event]] = defaultdict(list)
        for event in events:
            if event["event"] == "update":
                self._updates[event["experience"]].append(event)
            elif event["event"] == "interim":
                self._interim[event["experience"]].append(event)
        self.areas = {"training": self._areas_of_training(), "examinations": self._areas_of_exams()}

    def metrics(self) -> dict[str, float]:
        """Return what curves and activations tell of this life, by name; NaN where unknown."""
        found = {
            "area": mean(self.areas["training"]),
            "loss_of_area": self._loss_of_area(),
            "libero_forward_transfer": NAN,
            "libero_area": NAN,
            **{f"dormant_{tau}": NAN for tau in TAUS},
            "effective_rank": NAN,
        }
        if self.probes:
            found |= {f"dormant_{tau}": share for tau, share in self.probes[-1]["dormant"].items()}
            found["effective_rank"] = self.probes[-1]["effective_rank"]
        if self._interim and not self.alone and self._first():
            speeds = [NAN] * self.matrix.shape[1]
            for experience, task in self._first():
                speeds[task] = curves.forward_transfer_speed(self._curve(experience, task)[1])
            found["libero_forward_transfer"] = curves.libero_forward_transfer(speeds)
            found["libero_area"] = curves.libero_area(self.matrix, self.trained, speeds)
        return found

    def _first(self) -> list[tuple[int, int]]:
        """Return the experience that trained each task first; of joint training none."""
        if self.head["protocol"] == "joint" or len(self.matrix) != len(self.trained) + 1:
            return []
        return list({task: (n, task) for n, task in reversed([*enumerate(self.trained)])}.values())

    def _areas_of_training(self) -> list[float]:
        areas = [NAN] * self.matrix.shape[1]
        for experience, task in self._first():
            areas[task] = self._area_of_training(experience, task)
        return areas

    def _area_of_training(self, experience: int, task: int) -> float:
        own = [event for event in self._updates[experience] if event["task"] == task]
        seen = [event.get("accuracy", NAN) for event in own]
        return curves.area([one for one in seen if math.isfinite(one)])

    def _areas_of_exams(self) -> list[float]:
        areas = [NAN] * self.matrix.shape[1]
        for experience, task in self._first() if self._interim else ():
            at, scores = self._curve(experience, task)
            areas[task] = curves.area(scores, at)
        return areas

    def _curve(self, experience: int, task: int) -> tuple[list[int], list[float]]:
        """Return updates and scores of the examinations before, during and after an experience."""
        scale = self.head.get("scale")
        known = {0: self.matrix[0 if self.alone else experience, task]}
        known |= {event["update"]: score(event, scale) for event in self._interim[experience]}
        known[len(self._updates[experience])] = self.matrix[experience + 1, task]
        taken = {at: float(value) for at, value in known.items() if not np.isnan(value)}
        return list(taken), list(taken.values())

    def _loss_of_area(self) -> float:
        """Return the mean loss over the tasks that come again, be it under another number."""
        if not self._first():
            return NAN
        again: dict[int, list[float]] = defaultdict(list)
        first = self.head.get("repeats", range(self.matrix.shape[1]))
        for experience, task in enumerate(self.trained):
            again[first[task]].append(self._area_of_training(experience, task))
        return mean([curves.loss_of_area(areas) for areas in again.values() if len(areas) > 1])
