"""TensorBoard: the events of a lifetime's log as scalars and figures (tags: docs/metrics.md)."""

import math
import shutil
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from stillknows.agents.reports.learned import score
from stillknows.agents.reports.log import Event, read

ACTED = ("policy_loss", "value_loss", "entropy", "divergence", "clipped")
EXAMINED = ("scores", "returns", "lengths")


def write_board(folder: Path) -> None:
    """Write the log in `folder` as TensorBoard events beside it, in `folder/tensorboard`.

    Scalars go by updates since the beginning of the life. Written from the log alone; what is
    there already stays, and can be deleted to be made again.
    """
    from matplotlib.figure import Figure

    from stillknows.agents.reports import figures
    from stillknows.agents.reports.lives import summarise

    events = read(folder)
    place, beside = folder / "tensorboard", folder / "tensorboard.part"
    if place.exists():
        return
    shutil.rmtree(beside, ignore_errors=True)
    board = SummaryWriter(str(beside))
    updates = 0
    for event in events:
        updates += event["event"] == "update"
        for tag, value in scalars(event).items():
            board.add_scalar(tag, value, updates)
    life = summarise(events)
    figure = Figure(figsize=(5, 4), layout="constrained")
    figures.draw_matrix(figure.subplots(), life.matrix, [life.tasks[task] for task in life.lived])
    board.add_figure("accuracy_matrix", figure, updates)
    for name, value in life.metrics.items():
        if math.isfinite(value):
            board.add_scalar(f"lifetime/{name}", value, updates)
    board.close()
    beside.replace(place)


def scalars(event: Event) -> dict[str, float]:
    """Return the scalars of one event by tag."""
    if event["event"] == "update":
        tags = ("loss", "rehearsed_loss", "accuracy", "trust", "entries")
        decided = max(1, len(event["actions"]))
        shares = {
            f"memory/{name}": event["actions"].count(letter) / decided
            for name, letter in (("skip", "s"), ("add", "a"), ("update", "u"), ("merge", "m"))
        }
        acted = {f"training/{name}": float(event[name]) for name in ACTED if name in event}
        evicted = sum(entry >= 0 for entry in event["evicted"]) / decided
        return {
            **{f"training/{tag}": float(event[tag]) for tag in tags},
            **acted,
            **shares,
            "memory/evict": evicted,
        }
    if event["event"] == "examination":
        right = sum(event["correct"]) / max(1, len(event["correct"]))
        tag = f"examination/{event['name']}/{event['arm']}"
        if "scores" in event:
            means = {name: sum(event[name]) / max(1, len(event[name])) for name in EXAMINED}
            return {f"{tag}/{name}": mean for name, mean in means.items()}
        return {f"{tag}/accuracy": right, f"{tag}/loss": event["loss"]}
    if event["event"] == "interim":
        return {f"interim/{event['name']}": score(event)}
    if event["event"] == "plasticity":
        dormant = {f"plasticity/dormant_{tau}": share for tau, share in event["dormant"].items()}
        return {**dormant, "plasticity/effective_rank": event["effective_rank"]}
    if event["event"] == "rekey":
        return {"memory/rekey_overlap": event["overlap"]}
    return {}
