"""The report: what was learned, forgotten and transferred, computed from logs alone.

`report.md` puts arms side by side with intervals over lifetimes; figures show the scores of each
arm after each task; `report.json` and `report.csv` hold every value. Lifetimes whose protocols
differ are never averaged: those that differ in its name alone stand in blocks of one table, others
in sections of their own, if that is asked for.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stillknows.agents.persistence.container import cannot_write
from stillknows.agents.reports import control_report
from stillknows.agents.reports.comparisons import (
    all_metrics,
    improvement,
    metric_interval,
    overall,
    paired,
    stability,
)
from stillknows.agents.reports.export import write_export
from stillknows.agents.reports.lives import Life, as_written, collect
from stillknows.agents.reports.protocol import PROTOCOLS, differences
from stillknows.agents.reports.references import with_references
from stillknows.envs.measures.intervals import interval
from stillknows.envs.measures.metrics import METRICS

SHOWN = ("average_accuracy", "forgetting", "backward_transfer", "forward_transfer",
         "learning_accuracy")  # fmt: skip
COMPARED = ("average_accuracy", "forgetting", "of_this_episode", "carried")

NAN = float("nan")
Arms = Mapping[str, list[Life]]
Rows = list[list[str]]


def write_report(folders: Sequence[Path], out: Path, apart: bool = False) -> str:
    """Write `report.md`, its figures, `report.json` and `report.csv`; return the report's text.

    Args:
        folders: runs; every lifetime at or below them counts.
        out: a folder, made if it is not there; an older report in it is replaced.
        apart: give lifetimes of other streams or budgets a section of their own.

    Raises:
        ValueError: if no lifetime in a folder is whole, or their protocols differ in more than the
            name and may not stand apart.
        OSError: if the folder cannot be made.
    """
    lives, lacks = collect(folders)
    groups = groups_of(lives)
    if len(groups) > 1 and not apart:
        raise ValueError(
            "These lifetimes are not averaged, since their protocols differ in "
            f"{differences(*(_common(next(iter(g.values()))[0]) for g in groups[:2]))}: report "
            "them one stream at a time, or each in a section of its own with --apart."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    parts = ["# What is still known"]
    for number, arms in enumerate(groups):
        if len(groups) > 1:
            parts.append(f"# Stream {stream_name(arms)}")
        parts += _sections(arms, out, f"-{number + 1}" if number else "")
    if len(groups) > 1:
        parts += ["# All streams", table(*overall({stream_name(arms): arms for arms in groups}))]
    if lacks:
        parts += ["## What is missing", "\n".join(f"- {lack}" for lack in lacks)]
    text = "\n\n".join(parts) + "\n"
    (out / "report.md").write_text(text, encoding="utf-8")
    write_export(groups, lacks, out)
    return text


def stream_name(arms: Arms) -> str:
    """Return the name of the stream of some arms, with the first arm's fingerprint."""
    life = next(iter(arms.values()))[0]
    name = life.setting.get("stream.name", "")
    return f"{name} ({life.fingerprint})".lstrip()


def groups_of(lives: Sequence[Life]) -> list[dict[str, list[Life]]]:
    """Return the arms of each stream, protocol by protocol; two of a name get the protocol's."""
    found: dict[str, dict[tuple[str, str], list[Life]]] = defaultdict(lambda: defaultdict(list))
    for life in lives:
        key = json.dumps(_common(life), sort_keys=True)
        found[key][life.name, life.protocol].append(life)
    groups = []
    for arms in found.values():
        names = [name for name, _ in arms]
        ordered = sorted(arms.items(), key=lambda item: _place(item[0][1]))
        named = {
            name if names.count(name) == 1 else f"{name} ({protocol})": each
            for (name, protocol), each in ordered
        }
        groups.append(with_references(named))
    return groups


def _common(life: Life) -> dict[str, object]:
    """Return the setting but for the name of the protocol."""
    return {name: value for name, value in life.setting.items() if name != "protocol"}


def _sections(arms: Arms, out: Path, suffix: str) -> list[str]:
    from stillknows.agents.reports import (  # matplotlib takes a second to import
        anatomy_report,
        figures,
    )

    figures.accuracy_matrices(arms, out / f"accuracy_matrix{suffix}.png")
    figures.accuracy_over_life(arms, out / f"accuracy{suffix}.png")
    first = next(iter(arms.values()))[0]
    parts = [
        f"Tasks, in this order: {', '.join(first.tasks)}. Every figure is a mean over lifetimes "
        "with its 95 % interval; n is the number of lifetimes.",
        _fingerprints(arms),
        *first.sources,
        _metric_table(arms),
        f"![accuracy matrices](accuracy_matrix{suffix}.png)",
        f"![accuracy over the life](accuracy{suffix}.png)",
    ]
    if len(arms) > 1:
        parts += [
            "## Differences to the first arm, paired by seed and order",
            _difference_table(arms),
        ]
    parts += ["## Accuracy at the end, task by task", _task_table(arms)]
    if any(share == share for lives in arms.values() for life in lives for share in life.ideal):
        parts += ["## What could transfer, and what did", _transfer_table(arms)]
    parts += control_report.sections(arms)
    parts += ["## What the figures mean", _definitions()]
    parts += anatomy_report.sections(arms, out, suffix)
    parts += ["## All metrics", table(*all_metrics(arms))]
    cuts = stability(arms)
    if cuts:
        parts += ["## Whether shorter streams rank the arms alike", table(*cuts)]
    return parts


def _fingerprints(arms: Arms) -> str:
    """Return the fingerprint of each protocol, and in which orders tasks were lived."""
    found = {life.protocol: life.fingerprint for lives in arms.values() for life in lives}
    orders = sorted({life.order for lives in arms.values() for life in lives})
    said = ", ".join(f"{protocol} `{print_}`" for protocol, print_ in found.items())
    lived = "" if orders == [0] else f" Orders of the tasks: {', '.join(map(str, orders))}."
    return f"Fingerprints of the protocols: {said}.{lived}"


def _metric_table(arms: Arms) -> str:
    shown = [*SHOWN, "by_token", "of_this_episode", "carried"]
    head = ["arm", "protocol", "n", *(metric.replace("_", " ") for metric in shown)]

    def row(name: str, lives: list[Life]) -> list[list[str]]:
        cells = [str(metric_interval(lives, metric)) for metric in shown]
        return [[name, lives[0].protocol, str(len(lives)), *cells]]

    return table(head, _in_blocks(arms, row))


def _difference_table(arms: Arms) -> str:
    (first, ours), *others = arms.items()
    names = [*(name.replace("_", " ") for name in COMPARED), "probability of improvement"]
    rows = []
    for name, theirs in others:
        found = [paired(ours, theirs, metric) for metric in COMPARED]
        better = improvement(ours, theirs, COMPARED[0])
        cells = [str(better.n), *map(str, found), str(better)]
        rows.append([f"{first} − {name}", *cells])
    return table(["arms", "n", *names], rows)


def _task_table(arms: Arms) -> str:
    tasks = next(iter(arms.values()))[0].tasks

    def arm_rows(name: str, lives: list[Life]) -> list[list[str]]:
        found = []
        for arm in lives[0].arms:
            label = name if arm == "agent" else f"{name}, {arm.replace('_', ' ')}"
            found.append([label, *_columns([life.arms.get(arm, []) for life in lives], len(tasks))])
        return found

    rows = _in_blocks(arms, arm_rows)
    lives = [life for each in arms.values() for life in each]
    return table(["", *tasks], [*rows, *_floor_rows(lives, len(tasks))])


def _floor_rows(lives: Sequence[Life], tasks: int) -> Rows:
    """Return the floors of questions where any is asked, and of acting where anything is done."""
    acts = [task == task for life in lives for task in life.acted.get("random", [NAN])]
    floors = {name: f"{name.replace('_', ' ')} answer" for name in ("majority", "last_mentioned")}
    floors = {} if all(acts) else floors
    floors |= {"random": "random actions"} if any(acts) else {}
    return [
        [f"floor: {label}", *_columns([life.floors[name] for life in _once(lives, name)], tasks)]
        for name, label in floors.items()
    ]


def _once(lives: Sequence[Life], floor: str = "") -> list[Life]:
    """Return a lifetime of each seed and order, with a floor: what all arms share counts once."""
    there = [life for life in lives if not floor or floor in life.floors]
    return list({life.pair: life for life in there}.values())


def _transfer_table(arms: Arms) -> str:
    """Return beside what earlier tasks gave how much of each task was known before its training."""
    tasks = next(iter(arms.values()))[0].tasks
    rows = []
    for name, lives in arms.items():
        told = [life for life in lives if life.protocol not in ("joint", "scratch")]
        for label, shift in ((f"{name}, before its training", 0), (f"{name}, after it", 1)):
            known = [
                as_written([life.matrix[n + shift, n] for n in range(len(tasks))], life.lived)
                for life in told
            ]
            rows.append([label, *_columns(known, len(tasks))])
    lives = [life for each in arms.values() for life in each]
    ideal = _columns([as_written(life.ideal, life.lived) for life in _once(lives)], len(tasks))
    return table(["", *tasks], [["share of its parts that earlier tasks gave", *ideal], *rows])


def _in_blocks(arms: Arms, rows_of: Callable[[str, list[Life]], list[list[str]]]) -> Rows:
    """Return the rows of all arms; each protocol is a block under its name if there are several."""
    protocols = list(dict.fromkeys(lives[0].protocol for lives in arms.values()))
    rows: Rows = []
    for protocol in protocols:
        here = [
            row
            for name, lives in arms.items()
            if lives[0].protocol == protocol
            for row in rows_of(name, lives)
        ]
        if len(protocols) > 1:
            rows.append([f"*{protocol}*", *[""] * (len(here[0]) - 1)])
        rows += here
    return rows


def _place(protocol: str) -> int:
    """Return where the block of a protocol stands."""
    return PROTOCOLS.index(protocol) if protocol in PROTOCOLS else len(PROTOCOLS)


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
            "- **probability of improvement**: of a lifetime of the first arm being better in "
            "average accuracy than its pair, with the interval of Clopper and Pearson.",
        ]
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _columns(rows: Sequence[Sequence[float]], tasks: int) -> list[str]:
    known = [row for row in rows if len(row) == tasks]
    if not known:
        return ["–"] * tasks
    return [str(interval([row[task] for row in known])) for task in range(tasks)]
