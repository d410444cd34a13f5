"""Figures of a report: accuracy matrices and accuracy over a life. Importing takes a second."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from stillknows.agents.report import Life

matplotlib.use("Agg")


def accuracy_matrices(arms: Mapping[str, Sequence["Life"]], path: Path) -> None:
    """Draw a mean accuracy matrix for each arm: rows are time, columns tasks."""
    figure = Figure(figsize=(1.2 + 3.6 * len(arms), 4.2), layout="constrained")
    grid = figure.subplots(1, len(arms), squeeze=False)[0]
    image: Any = None
    for axis, (name, lives) in zip(grid, arms.items(), strict=True):
        image = draw_matrix(axis, np.mean([life.matrix for life in lives], axis=0), lives[0].tasks)
        axis.set_title(f"{name} (n = {len(lives)})")
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
    axis.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    for (row, column), value in np.ndenumerate(matrix):
        colour = "black" if value > 0.6 else "white"
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    return image


def accuracy_over_life(arms: Mapping[str, Sequence["Life"]], path: Path) -> None:
    """Draw the accuracy in each task as the life goes on, a panel an arm, a thin line a life."""
    figure = Figure(figsize=(2.2 + 3.4 * len(arms), 3.4), layout="constrained")
    grid = figure.subplots(1, len(arms), squeeze=False, sharey=True)[0]
    for axis, (name, lives) in zip(grid, arms.items(), strict=True):
        for task, label in enumerate(lives[0].tasks):
            colour = f"C{task}"
            for life in lives:
                axis.plot(life.matrix[:, task], color=colour, alpha=0.25, linewidth=1)
            mean = np.mean([life.matrix[:, task] for life in lives], axis=0)
            axis.plot(mean, color=colour, label=label.replace("_", " "), marker="o", markersize=3)
        axis.set(title=name, xlabel="tasks lived", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
    grid[0].set_ylabel("accuracy in examinations")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=110)


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
