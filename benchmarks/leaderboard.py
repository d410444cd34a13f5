"""The leaderboard: every arm on every stream, beside floors, references and the marks it aims at.

stillknows train experiment=leaderboard_microworld run=runs/microworld
stillknows train experiment=leaderboard_babi stream.directory=FOLDER run=runs/babi
stillknows train experiment=leaderboard_control run=runs/control
python benchmarks/leaderboard.py runs/microworld runs/babi runs/control --out docs

Writes what follows the line `<!-- from logs -->` of `leaderboard.md`, a section a stream with its
figures, from logs alone; streams without a run here keep their sections. The arm `--ours` is
compared with all others, paired by seed and order. A stream with other dials, and the name of
another one, is given a name of its own:

stillknows train experiment=leaderboard_microworld stream.tasks.lifetime_facts=400 run=runs/facts
python benchmarks/leaderboard.py runs/facts --name facts
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from stillknows.agents.reports import anatomy_report
from stillknows.agents.reports.comparisons import metric_interval, paired
from stillknows.agents.reports.lives import Life, collect
from stillknows.agents.reports.report import groups_of, stream_name, table
from stillknows.envs.measures.intervals import Interval, interval

Arms = Mapping[str, Sequence[Life]]
REFERENCES = ("joint", "scratch")
STORES = ("recall", "rehearse")  # arms that are parts of ours
MARK = "<!-- from logs -->"
SHARE, FORGETTING, ACTING_FORGETTING = 0.95, 0.03, 0.05
HEAD = (
    "arm", "n", "average accuracy", "ours ahead by", "forgetting", "transfer by area",
    "share of joint", "carried", "bytes kept", "minutes",
)  # fmt: skip


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the page")
    parser.add_argument("--ours", default="both", help="the arm that is compared (both)")
    parser.add_argument("--name", default="", help="of the one stream (as it is called there)")
    given = parser.parse_args()
    try:
        lives, lacks = collect(given.runs)
        groups = {stream_name(arms): _first(arms, given.ours) for arms in groups_of(lives)}
        if given.name:
            groups = _named(given.name, groups)
    except ValueError as error:
        sys.exit(f"leaderboard: {error}")
    images = given.out / "images"
    images.mkdir(parents=True, exist_ok=True)
    anew = {}
    for name, arms in groups.items():
        draw(name, arms, images / f"leaderboard_{_short(name)}.png")
        anew[_short(name)] = "\n\n".join(stream_part(name, arms, images))
    page = given.out / "leaderboard.md"
    told, _, old = (page.read_text(encoding="utf-8") if page.is_file() else "").partition(MARK)
    parts = [*in_place(old, anew), *(f"- {lack}" for lack in lacks)]
    page.write_text("\n\n".join([told.rstrip(), MARK, *parts]) + "\n", encoding="utf-8")
    print("\n\n".join([*anew.values(), *(f"- {lack}" for lack in lacks)]))


def in_place(old: str, anew: Mapping[str, str]) -> list[str]:
    """Return the sections of a page, with those that are written anew in their places."""
    found = [f"## {section.strip()}" for section in old.split("\n## ")[1:]]
    sections = {_short(section[3:]): section for section in found}
    return list({**sections, **anew}.values())


def _short(name: str) -> str:
    """Return a stream's name without its fingerprint."""
    return name.split()[0]


def _named(name: str, groups: Mapping[str, Arms]) -> dict[str, Arms]:
    """Return the one stream under another name, and its fingerprint.

    Raises:
        ValueError: if there are several.
    """
    if len(groups) > 1:
        raise ValueError(f"--name {name} is for one stream, and there are {', '.join(groups)}.")
    ((full, arms),) = groups.items()
    return {" ".join([name, *full.split()[1:]]): arms}


def _first(arms: Arms, ours: str) -> Arms:
    """Return the arms with ours in the first place.

    Raises:
        ValueError: if it is not among them.
    """
    if ours not in arms:
        raise ValueError(f"there is no arm {ours}: give --ours, one of {', '.join(arms)}.")
    return {ours: arms[ours], **arms}


def stream_part(name: str, arms: Arms, images: Path) -> list[str]:
    """Return heading, table, floors, marks and anatomy of one stream."""
    first = next(iter(arms.values()))[0]
    short = _short(name)
    parts = [f"## {name}", f"![{short}](images/leaderboard_{short}.png)"]
    parts += [f"Tasks, in this order: {', '.join(first.tasks)}."]
    parts += [*first.sources, table(HEAD, _rows(arms)), *_floors(arms)]
    parts += ["Marks:", table(("mark", "measured", ""), marks(arms))]
    placed = {n: each for n, each in arms.items() if n in ("both", "none", *STORES, "ewc")}
    if anatomy_report.sections(placed, images, f"_{short}"):
        parts += [f"![where forgetting comes from](images/anatomy_{short}.png)"]
    return parts


def marks(arms: Arms) -> list[list[str]]:
    """Return a row for every mark: what it is, what was measured, and whether it is reached."""
    ours, *_ = arms.values()
    acting = bool(ours[0].acted)
    most = ACTING_FORGETTING if acting else FORGETTING
    found = [_mark(f"forgetting at most {most}", metric_interval(ours, "forgetting"), -most, -1)]
    found.append(_mark("transfer by area above 0", metric_interval(ours, "area_transfer"), 0))
    if not acting:
        found.append(_mark(f"at least {SHARE} of joint", share_of_joint(ours, arms), SHARE))
    for name, lives in rivals(arms).items():
        found.append(_mark(f"ahead of {_told(name)}", paired(ours, lives, "average_accuracy"), 0))
    if "rehearse" in arms and metric_interval(ours, "carried").n:
        gain = paired(ours, arms["rehearse"], "carried")
        found.append(_mark("recall beyond rehearsal, carried questions", gain, 0))
    return found


def rivals(arms: Arms) -> dict[str, Sequence[Life]]:
    """Return the baselines that keep the bytes of ours or fewer, to a hundredth."""
    (_, ours), *others = arms.items()
    room = 1.01 * max(life.metrics["memory_bytes"] for life in ours)
    return {
        name: lives
        for name, lives in others
        if lives[0].protocol not in REFERENCES
        and name not in STORES
        and not max(life.metrics["memory_bytes"] for life in lives) > room
    }


def share_of_joint(lives: Sequence[Life], arms: Arms) -> Interval:
    """Return the share that lives keep of the accuracy of joint training with the same seed."""
    joint = {life.pair: life for life in arms.get("joint", ())}
    return interval(
        [
            life.metrics["average_accuracy"] / joint[life.pair].metrics["average_accuracy"]
            for life in lives
            if life.pair in joint
        ]
    )


def _mark(what: str, found: Interval, least: float, sign: int = 1) -> list[str]:
    """Return a row: reached if the mean is, surely if the whole interval is."""
    low, mean = sorted((sign * found.low, sign * found.high))[0], sign * found.mean
    said = "surely" if low > least else "yes" if mean >= least else "no"
    return [what, str(found), said if found.n else "not measured"]


def _rows(arms: Arms) -> list[list[str]]:
    (_, ours), *_ = arms.items()
    rows: list[list[str]] = []
    for protocol in dict.fromkeys(lives[0].protocol for lives in arms.values()):
        rows.append([f"*{protocol}*", *[""] * (len(HEAD) - 1)])
        here = {n: lives for n, lives in arms.items() if lives[0].protocol == protocol}
        best = sorted(here, key=lambda n: -metric_interval(here[n], "average_accuracy").mean)
        rows += [_row(n, here[n], ours, arms) for n in best]
    return rows


def _row(name: str, lives: Sequence[Life], ours: Sequence[Life], arms: Arms) -> list[str]:
    behind = "" if lives is ours else str(paired(ours, lives, "average_accuracy"))
    metrics = ("forgetting", "area_transfer")
    cells = [str(metric_interval(lives, metric)) for metric in metrics]
    kept, seconds = (metric_interval(lives, m).mean for m in ("memory_bytes", "seconds"))
    return [
        _told(name),
        str(len(lives)),
        str(metric_interval(lives, "average_accuracy")),
        behind,
        *cells,
        str(share_of_joint(lives, arms)),
        str(metric_interval(lives, "carried")),
        f"{kept:,.0f}",
        f"{seconds / 60:.1f}",
    ]


def _told(name: str) -> str:
    """Return an arm's name in words, and its options as they are given."""
    arm, *options = name.split()
    return " ".join([arm.replace("_", " "), *(f"`{option}`" for option in options)])


def _floors(arms: Arms) -> list[str]:
    """Return a sentence about the floors of questions; acting begins at 0 by definition."""
    lives = [life for each in arms.values() for life in each]
    if lives[0].acted:
        return ["A score is 0 for random actions and 1 for the reference of its task."]
    told = []
    for floor in ("majority", "last_mentioned"):
        means = [float(np.mean(life.floors[floor])) for life in lives if floor in life.floors]
        told.append(f"{floor.replace('_', '-')} answer {interval(means).mean:.3f}")
    deaf = [float(np.mean(life.arms["no_story"])) for life in lives[:1] if "no_story" in life.arms]
    told += [f"ours without the story {value:.3f}" for value in deaf]
    return [f"Floors: {', '.join(told)}."]


def draw(name: str, arms: Arms, path: Path) -> None:
    """Draw the average accuracy of every arm of a stream with its interval."""
    figure = Figure(figsize=(5.2, 1 + 0.32 * len(arms)), layout="constrained")
    axis = figure.subplots()
    found = {n: metric_interval(lives, "average_accuracy") for n, lives in arms.items()}
    order = sorted(found, key=lambda n: found[n].mean)
    ours = next(iter(arms))
    for place, arm in enumerate(order):
        reference = arms[arm][0].protocol in REFERENCES
        colour = "#c44e52" if arm == ours else "#999999" if reference else "#4c72b0"
        axis.barh(place, found[arm].mean, color=colour)
        if found[arm].low == found[arm].low:
            axis.plot((found[arm].low, found[arm].high), (place, place), color="black")
    labels = [f"{_short(arm)} (n = {len(arms[arm])})" for arm in order]
    axis.set_yticks(range(len(order)), labels, fontsize=8)
    axis.set_xlim(0, 1.05)
    axis.set_title(_short(name))
    axis.set_xlabel("average accuracy at the end, 95 % interval")
    axis.grid(alpha=0.3, axis="x")
    axis.set_axisbelow(True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
