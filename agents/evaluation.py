"""Avalanche's metrics and loggers in our lives: by names, and through checkpoints.

Any `EvaluationPlugin` of Avalanche may be among the plugins of a life, with any metrics and
loggers; `Evaluation` is one that a configuration can name without a class of Avalanche's. What its
metrics have counted is kept in checkpoints, so that a life that was cut ends with the same figures;
loggers only write on. Importing this module imports Avalanche.
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_definitions import GenericPluginMetric
from avalanche.evaluation.metrics import (
    GenericExperienceForgetting,
    GenericStreamForgetting,
    Mean,
    accuracy_metrics,
    bwt_metrics,
    forgetting_metrics,
    forward_transfer_metrics,
    loss_metrics,
)
from avalanche.logging import (
    BaseLogger,
    CSVLogger,
    InteractiveLogger,
    TensorboardLogger,
    TextLogger,
)
from avalanche.training.plugins import EvaluationPlugin
from torch import Tensor

from stillknows.envs.tasks import suggest


class Score(GenericPluginMetric):  # type: ignore[misc]
    """The mean score of an examination: of questions the accuracy, of acting how far it got.

    Args:
        each: `experience`, or `stream` for the mean over all that was examined.
    """

    def __init__(self, each: str) -> None:
        super().__init__(Mean(), reset_at=each, emit_at=each, mode="eval")

    def update(self, strategy: Any) -> None:
        """Count the scores of one examination."""
        _count(self._metric, strategy.mb_scores)

    def __str__(self) -> str:
        """Return its name in logs."""
        return f"Score_{'Exp' if self._emit_at == 'experience' else 'Stream'}"


class _ForgottenScore:
    """Counts scores where Avalanche's counts right answers."""

    _current_metric: Any

    def __init__(self) -> None:
        super().__init__(Mean())  # type: ignore[call-arg]

    def metric_update(self, strategy: Any) -> None:
        _count(self._current_metric, strategy.mb_scores)

    def metric_result(self, strategy: Any) -> float:
        return float(self._current_metric.result())


class ScoreForgetting(_ForgottenScore, GenericExperienceForgetting):  # type: ignore[misc]
    """The score of a task right after its training, less what it is now."""

    def result_key(self, k: int) -> float | None:
        """Return that of one task, None before it was examined again."""
        lost: float | None = self.forgetting.result_key(k=k)
        return lost

    def result(self) -> dict[int, float]:
        """Return that of every task that was examined again."""
        lost: dict[int, float] = self.forgetting.result()
        return lost

    def __str__(self) -> str:
        """Return its name in logs."""
        return "ScoreForgetting_Exp"


class StreamScoreForgetting(_ForgottenScore, GenericStreamForgetting):  # type: ignore[misc]
    """The mean of it over all tasks that were examined again."""

    def __str__(self) -> str:
        """Return its name in logs."""
        return "ScoreForgetting_Stream"


def score_metrics() -> list[PluginMetric]:
    """Return the scores of examinations and how much of them was forgotten, for any life."""
    return [Score("experience"), Score("stream"), ScoreForgetting(), StreamScoreForgetting()]


METRICS: dict[str, Callable[[], list[PluginMetric]]] = {
    "accuracy": partial(accuracy_metrics, epoch=True, experience=True, stream=True),
    "loss": partial(loss_metrics, epoch=True, experience=True, stream=True),
    "forgetting": partial(forgetting_metrics, experience=True, stream=True),
    "bwt": partial(bwt_metrics, experience=True, stream=True),
    "forward_transfer": partial(forward_transfer_metrics, experience=True, stream=True),
    "score": score_metrics,
}
LOGGERS = ("interactive", "text", "csv", "tensorboard")


class Evaluation(EvaluationPlugin):  # type: ignore[misc]
    """Avalanche's `EvaluationPlugin` by the names of its metrics and loggers.

    Loggers write into the folder of the life: `avalanche/log.txt`, `avalanche/csv/` and
    `avalanche/tensorboard/`; a life that goes on writes into `avalanche-2/`, and so on.

    Args:
        metrics: keys of `METRICS`.
        loggers: some of `LOGGERS`; `interactive` prints.

    Raises:
        ValueError: if there is no such metric or logger.
    """

    def __init__(
        self,
        metrics: Sequence[str] = ("accuracy", "loss", "forgetting", "bwt", "forward_transfer"),
        loggers: Sequence[str] = ("text", "csv"),
    ) -> None:
        for name, known in [(n, METRICS) for n in metrics] + [(n, LOGGERS) for n in loggers]:
            if name not in known:
                what = "metric" if known is METRICS else "logger"
                raise ValueError(f"There is no {what} '{name}'. {suggest(name, list(known))}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there are no loggers: they wait for the folder
            super().__init__(*(METRICS[name]() for name in metrics), collect_all=False)
        self._asked = tuple(loggers)

    def write_into(self, folder: Path) -> None:
        """Begin to log.

        Args:
            folder: of the life.
        """
        place, number = folder / "avalanche", 1
        while place.exists():
            number += 1
            place = folder / f"avalanche-{number}"
        self.loggers = [_logger(name, place) for name in self._asked]

    def close(self) -> None:
        """Close what is logged into."""
        for logger in self.loggers:
            if isinstance(logger, TensorboardLogger):
                logger.writer.close()
            elif isinstance(logger, CSVLogger):
                logger.close()
            elif not isinstance(logger, InteractiveLogger):
                logger.file.close()


class KeptEvaluation:
    """The state of an `EvaluationPlugin`: what its metrics have counted, and the last figures.

    Args:
        evaluator: whose.
    """

    def __init__(self, evaluator: EvaluationPlugin) -> None:
        self.evaluator = evaluator

    def state(self) -> dict[str, Any]:
        """Return what it knows, as a tree.

        Raises:
            ValueError: with one sentence, if a metric holds what a tree cannot.
        """
        figures = self.evaluator.last_metric_results
        series = self.evaluator.all_metric_results if self.evaluator.collect_all else {}
        return {
            "metrics": [_kept(metric, str(metric)) for metric in self.evaluator.metrics],
            "last": {name: value for name, value in figures.items() if _is_plain(value)},
            "all": {n: list(each) for n, each in series.items() if all(map(_is_plain, each[1]))},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` was asked of.

        Raises:
            ValueError: if the tree is of other metrics.
        """
        for metric, tree in zip(self.evaluator.metrics, state["metrics"], strict=True):
            _given(metric, tree)
        self.evaluator.last_metric_results = dict(state["last"])
        for name, (places, values) in state["all"].items():
            self.evaluator.all_metric_results[name] = (list(places), list(values))


def _count(mean: Any, scores: Sequence[float]) -> None:
    for each in scores:
        mean.update(each)


def _logger(name: str, folder: Path) -> BaseLogger:
    """Return a logger that writes into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "text":
        return TextLogger((folder / "log.txt").open("w", encoding="utf-8", buffering=1))
    if name == "csv":
        return CSVLogger(str(folder / "csv"))
    return InteractiveLogger() if name == "interactive" else TensorboardLogger(folder / name)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _is_metric(value: Any) -> bool:
    """Return whether a value counts something: whether it has results and can be reset."""
    return hasattr(value, "__dict__") and hasattr(value, "result") and hasattr(value, "reset")


def _kept(value: Any, name: str) -> Any:
    """Return what a metric holds as a tree, in which all but plain values say their kind."""
    if _is_plain(value):
        return value
    if isinstance(value, Tensor):
        return {"tensor": value.detach()}
    if isinstance(value, dict):
        return {"dict": [[_kept(k, name), _kept(part, name)] for k, part in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_kept(part, name) for part in value]}
    if _is_metric(value):
        return {"metric": [[key, _kept(part, f"{name}.{key}")] for key, part in _vars(value)]}
    raise ValueError(
        f"The metric {name} holds a {type(value).__name__}, which no checkpoint can keep: leave "
        "the metric away, or switch checkpoints off with checkpoint.every=0."
    )


def _vars(metric: Any) -> list[tuple[str, Any]]:
    """Return what a metric holds, without the functions that it was given."""
    return [(key, part) for key, part in vars(metric).items() if not callable(part)]


def _given(held: Any, tree: Any) -> Any:
    """Return what a tree was made of, in the place of what is held now."""
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return value
    if kind == "metric":
        return _refilled(held, value)
    if kind == "dict":
        return _given_pairs(held if isinstance(held, dict) else {}, value)
    before = list(held) if isinstance(held, list | tuple) else []
    parts = [_given(b, t) for b, t in zip([*before, *[None] * len(value)], value, strict=False)]
    return tuple(parts) if kind == "tuple" else parts


def _refilled(metric: Any, pairs: Sequence[Any]) -> Any:
    if {name for name, _ in pairs} - set(vars(metric) if _is_metric(metric) else ()):
        raise ValueError(f"The state is of another metric than {type(metric).__name__}")
    for name, tree in pairs:
        setattr(metric, name, _given(getattr(metric, name), tree))
    return metric


def _given_pairs(held: dict[Any, Any], pairs: Sequence[Any]) -> dict[Any, Any]:
    """Fill a dictionary; one that makes its values itself makes those that are metrics."""
    before = dict(held)
    held.clear()
    for key_tree, tree in pairs:
        key = _given(None, key_tree)
        blank = before.get(key)
        if blank is None and isinstance(held, defaultdict) and held.default_factory:
            blank = held.default_factory()
        held[key] = _given(blank, tree)
    return held
