"""Figures of a report: accuracy matrices and accuracy over a life. Importing takes a second."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from stillknows.agents.reports.lives import Life

matplotlib.use("Agg")
LINE = 32  # letters of a title that a panel is wide
FEW = 12  # tasks; where there are more, scores are colours alone and tasks have no legend


def accuracy_matrices(arms: Mapping[str, Sequence["Life"]], path: Path) -> None:
    """Draw a mean accuracy matrix for each arm: rows are time, columns tasks."""
    wide = max(3.6, 0.3 * max(len(lives[0].tasks) for lives in arms.values()))
    figure = Figure(figsize=(1.2 + wide * len(arms), 0.6 + wide), layout="constrained")
    grid = figure.subplots(1, len(arms), squeeze=False)[0]
    image: Any = None
    for axis, (name, lives) in zip(grid, arms.items(), strict=True):
        image = draw_matrix(axis, _mean_matrix(lives), _labels(lives))
        axis.set_title(in_lines(f"{name} (n = {len(lives)})"))
        if axis is not grid[0]:
            axis.set_yticklabels([])
    grid[0].set_ylabel("examined after training on")
    figure.colorbar(image, ax=list(grid), label="accuracy", shrink=0.8)
    figure.savefig(path, dpi=110)


def draw_matrix(axis: "matplotlib.axes.Axes", matrix: np.ndarray, tasks: Sequence[str]) -> Any:
    """Draw one accuracy matrix with its numbers."""
    image = axis.imshow(matrix, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    labels = [task.replace("_", " ") for task in tasks]
    rows = ["nothing", *labels] if len(matrix) == len(tasks) + 1 else ["nothing", "all tasks"]
    rows = rows if len(matrix) == len(rows) else [str(row) for row in range(len(matrix))]
    axis.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    for (row, column), value in np.ndenumerate(matrix) if len(tasks) <= FEW else ():
        colour = "black" if value > 0.6 else "white"
        axis.text(
            column,
            row,
            "" if np.isnan(value) else f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color=colour,
        )
    return image


def accuracy_over_life(arms: Mapping[str, Sequence["Life"]], path: Path) -> None:
    """Draw the accuracy in each task as the life goes on, a panel an arm, a thin line a life.

    Fresh agents (the protocol `scratch`) have no life that goes on and no panel, unless all are.
    """
    living = {name: lives for name, lives in arms.items() if lives[0].protocol != "scratch"}
    arms = living or arms
    figure = Figure(figsize=(2.2 + 3.4 * len(arms), 3.4), layout="constrained")
    grid = figure.subplots(1, len(arms), squeeze=False, sharey=True)[0]
    for axis, (name, lives) in zip(grid, arms.items(), strict=True):
        for task, label in enumerate(_labels(lives)):
            colour = f"C{task}"
            for life in lives:
                axis.plot(life.matrix[:, task], color=colour, alpha=0.25, linewidth=1)
            mean = _mean_matrix(lives)[:, task]
            axis.plot(mean, color=colour, label=label.replace("_", " "), marker="o", markersize=3)
        axis.set(title=in_lines(name), xlabel="tasks lived", ylim=limits(arms))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    grid[0].set_ylabel("accuracy in examinations")
    handles, labels = grid[0].get_legend_handles_labels()
    if len(labels) <= FEW:
        figure.legend(handles, labels, loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=110)


def in_lines(title: str) -> str:
    """Return the title of a panel in lines that do not reach into the next."""
    return "\n".join(textwrap.wrap(title, LINE))


def _labels(lives: Sequence["Life"]) -> list[str]:
    """Return the names of the tasks as they were lived; their numbers, if orders differ."""
    first = lives[0]
    if len({life.lived for life in lives}) == 1:
        return [first.tasks[place] for place in first.lived]
    return [f"task {number}" for number in range(1, len(first.tasks) + 1)]


def limits(arms: Mapping[str, Sequence["Life"]]) -> tuple[float, float]:
    """Return 0 to 1 with a margin; further where scores lie beyond."""
    scores = np.concatenate([life.matrix.ravel() for lives in arms.values() for life in lives])
    known = scores[np.isfinite(scores)]
    low, high = min(0.0, *known, 0.0), max(1.0, *known, 1.0)
    margin = 0.02 * (high - low)
    return low - margin, high + margin


def _mean_matrix(lives: Sequence["Life"]) -> np.ndarray:
    """Return the mean score after each task over lifetimes; NaN where none was taken."""
    rows = max(len(life.matrix) for life in lives)
    missing = [(0, rows - len(life.matrix)) for life in lives]
    padded = [
        np.pad(life.matrix, (below, (0, 0)), constant_values=np.nan)
        for life, below in zip(lives, missing, strict=True)
    ]
    matrices = np.ma.masked_invalid(padded)
    mean: np.ndarray = np.ma.mean(matrices, axis=0).filled(np.nan)
    return mean


def learning_curves(
    name: str, curves: Sequence[tuple[str, Mapping[str, Sequence[float]]]], path: Path
) -> None:
    """Draw how far each solver is: lessons that are behind it, and the share known of the next."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    for label, columns in curves:
        far = np.add(columns["newest"], columns["known"])
        axis.plot(columns["update"], far, linewidth=1, label=label)
    axis.set(title=name.replace("_", " "), xlabel="updates", ylabel="lessons known")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
