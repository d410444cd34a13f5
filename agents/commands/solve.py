"""`stillknows solve`: let a memory learn an algorithmic task with every seed, then report.

Every seed writes a log (`log.jsonl`: `solving`, `update`, `marks`, `clock`), from which the report
is made, and its weights (`weights.safetensors`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stillknows.agents.commands.processes import run_all
from stillknows.agents.configuration import (
    cause,
    compose_config,
    expect_device,
    expect_lists,
    expect_targets,
    expect_whole,
    expect_workers,
    new_folder,
)
from stillknows.agents.optimizer import Optimizers, build_optimizer
from stillknows.agents.persistence.container import write_tree
from stillknows.agents.progress import Bar
from stillknows.agents.reports import log as logs
from stillknows.agents.reports.protocol import flat
from stillknows.agents.solver import Curriculum, Report, Solver, examine, learn
from stillknows.envs.algorithmic import make_problem
from stillknows.envs.measures.intervals import interval
from stillknows.envs.problems import Problem
from stillknows.memory import expect
from stillknows.memory.recurrent import Recurrent

SCHEMA = "stillknows solver 1"
_OF_A_RUN = ("seeds", "run", "workers", "device", "compiled")  # tell no solvers apart
EVERY = 20  # updates between two lines of the log


def solve(overrides: Sequence[str]) -> Path:
    """Train a solver a seed and write their report.

    Args:
        overrides: Hydra overrides of `stillknows.configs.solve`.

    Returns:
        The folder of the run.

    Raises:
        ValueError: with one sentence, for any option, value, device or folder that cannot be.
    """
    config = compose_config(overrides, "solve")
    expect_lists(config, "seeds", "lessons")
    expect_workers(config)
    if not OmegaConf.is_dict(config.exams):
        raise ValueError(f"exams={config.exams} should name problems: exams.NAME=….")
    expect_whole(config, "seed", "exam_episodes", "learner.updates", "learner.batch")
    _expect_numbers(config.learner)
    if not all(isinstance(seed, int) and seed >= 0 for seed in config.seeds):
        raise ValueError(f"seeds={config.seeds} should be whole numbers from 0, such as [0,1,2].")
    expect_device(config)
    expect_targets(config)
    _optimizer(config, build(config)[0])
    run = new_folder(config, config.name)
    jobs = {f"seed{seed}": (config, seed, run / f"seed{seed}") for seed in config.seeds}
    run_all(_solve_one, jobs, config.workers)
    print(write_report([run], run))
    print(f"Written to {run / 'report.md'}.")
    return run


def _expect_numbers(learner: DictConfig) -> None:
    """Raise a ValueError if how a solver learns is no number that can be."""
    minutes = learner.minutes
    expect.above(0, **{"learner.clip": learner.clip})
    expect.number(0, 1, **{"learner.earlier": learner.earlier})
    if minutes is not None and not (isinstance(minutes, int | float) and minutes > 0):
        raise ValueError(
            f"learner.minutes={minutes} should be a number above 0, or null for no limit."
        )


def build(config: DictConfig) -> tuple[Solver, list[Problem], dict[str, Problem]]:
    """Return an untrained solver, its lessons and its examinations.

    Raises:
        ValueError: with one sentence, if they cannot be, or do not fit one another.
    """
    lessons = [_problem(dials) for dials in config.lessons]
    exams = {str(name): _problem(dials) for name, dials in config.exams.items()}
    sizes = {(p.input_size, p.output_size, p.group_size) for p in (*lessons, *exams.values())}
    if len(sizes) > 1:
        raise ValueError("The lessons and the exams differ in inputs or outputs: give them alike.")
    return Solver(_memory(config, lessons[0]), lessons[0], config.compiled), lessons, exams


def _problem(dials: Any) -> Problem:
    if not OmegaConf.is_dict(dials) or "task" not in dials:
        raise ValueError(f"A lesson or exam {dials} names no task: write {{task: copy, …}}.")
    return make_problem(**dials)


def _optimizer(config: DictConfig, solver: Solver) -> Optimizers:
    chosen = config.learner
    return build_optimizer(solver, chosen.learning_rate, chosen.matrix_rate, chosen.weight_decay)


def _memory(config: DictConfig, problem: Problem) -> Recurrent:
    """Return a memory that owns its recurrence, for the inputs of a problem."""
    chosen = config.working_memory
    name = chosen.get("_target_", "none")
    if name == "none" or not issubclass(get_class(name), Recurrent):
        raise ValueError(
            f"working_memory: {name.rpartition('.')[2]} has no recurrence of its own; choose "
            "working_memory=dnc or working_memory=ntm."
        )
    try:
        memory: Recurrent = instantiate(chosen, input_size=problem.input_size)
    except (InstantiationException, OmegaConfBaseException) as error:
        raise ValueError(cause(error)) from error
    return memory


def write_report(runs: list[Path], out: Path) -> str:
    """Write `report.md` and `learning.png` into a folder, and return the report.

    Args:
        runs: of one task; they hold the logs, at or below them.
        out: where the report goes.

    Raises:
        ValueError: if there is no log of `stillknows solve`, or one of another kind.
    """
    from stillknows.agents.reports.figures import learning_curves

    lives = logs.lifetimes(runs, begins="solving")
    names = list(dict.fromkeys(life[0]["name"] for life in lives))
    if len(names) > 1:
        raise ValueError(f"The runs are of {' and '.join(names)}: report on one task at a time.")
    lives = [life for life in lives if life[-1]["event"] == "clock"]
    if not lives:
        raise ValueError(f"No seed of {names[0]} has ended: there is nothing to report yet.")
    out.mkdir(parents=True, exist_ok=True)
    who = _told_apart(lives)
    curves = [
        (f"{memory}, seed {life[0]['seed']}", _updates(life))
        for (memory, _), life in zip(who, lives, strict=True)
    ]
    learning_curves(names[0], curves, out / "learning.png")
    text = f"# {names[0]}\n\n{_table(who, lives)}\n\n![known of the newest lesson](learning.png)\n"
    (out / "report.md").write_text(text, encoding="utf-8")
    return text


def _who(life: Sequence[logs.Event]) -> tuple[str, str]:
    """Return the memory of a log, and what it had to learn: updates, perhaps minutes."""
    config = life[0]["config"]
    budget, minutes = str(config["learner"]["updates"]), config["learner"].get("minutes")
    if minutes is not None:
        budget += f", {minutes} minutes"
    return config["working_memory"]["_target_"].rpartition(".")[2], budget


def _told_apart(lives: Sequence[Sequence[logs.Event]]) -> list[tuple[str, str]]:
    """Return who each log is of; of one memory and budget, with the options in which some differ.

    Raises:
        ValueError: if two logs are of one seed of the same.
    """
    who = [_who(life) for life in lives]
    options = [
        flat({k: v for k, v in life[0]["config"].items() if k not in _OF_A_RUN}) for life in lives
    ]
    named = []
    for (memory, budget), own in zip(who, options, strict=True):
        alike = [one for name, one in zip(who, options, strict=True) if name == (memory, budget)]
        keys = [k for k in own if any(one.get(k) != own[k] for one in alike)]
        differ = ", ".join(f"{k}={own[k]}" for k in keys)
        named.append((f"{memory} ({differ})" if differ else memory, budget))
    seeds = [(*name, life[0]["seed"]) for name, life in zip(named, lives, strict=True)]
    for memory, _, seed in seeds:
        if [(name, number) for name, _, number in seeds].count((memory, seed)) > 1:
            raise ValueError(f"Two runs hold {memory} with seed {seed}: report one of them.")
    return named


def _table(who: Sequence[tuple[str, str]], lives: Sequence[Sequence[logs.Event]]) -> str:
    """Return a Markdown table with a row a memory and examination; intervals are over seeds."""
    found: dict[tuple[str, str, str], list[logs.Event]] = {}
    for name, life in zip(who, lives, strict=True):
        for event in life:
            if event["event"] == "marks":
                found.setdefault((*name, event["exam"]), []).append(event)
    lines = [
        "| memory | at most | examined on | n | bits | of them wrong | all right |",
        "|---|---|---|---|---|---|---|",
    ]
    for (memory, budget, exam), marks in found.items():
        wrong, right = (interval([e[key] for e in marks]) for key in ("wrong_bits", "all_right"))
        bits = f"{marks[0]['bits']:.0f}"
        lines.append(
            f"| {memory} | {budget} | {exam} | {len(marks)} | {bits} | {wrong} | {right} |"
        )
    return "\n".join(lines)


def _updates(life: Sequence[logs.Event]) -> Mapping[str, list[float]]:
    """Return the columns of the updates that are in a log."""
    rows = [event for event in life if event["event"] == "update"]
    return {key: [row[key] for row in rows] for key in ("update", "newest", "known")}


def _solve_one(config: DictConfig, seed: int, folder: Path, place: int) -> None:
    """Train, examine and save one solver."""
    begun = time.monotonic()
    torch.manual_seed(seed)
    solver, lessons, exams = build(config)
    solver.to(config.device)
    chosen = config.learner
    optimizer = _optimizer(config, solver)
    curriculum = Curriculum(lessons, chosen.pass_mark, chosen.earlier, seed)
    bar = Bar(folder.name, chosen.updates, place)
    with closing(logs.LifetimeLog(folder)) as log:
        log.append("solving", **_describe(config, seed))

        def hear(update: int, report: Report) -> None:
            bar(f"lesson {report.newest + 1} of {len(lessons)}", update + 1, report.known)
            if update % EVERY == 0 or update + 1 == chosen.updates:
                log.append("update", update=update, **report._asdict())

        updates = learn(
            solver,
            curriculum,
            optimizer,
            updates=chosen.updates,
            batch=chosen.batch,
            clip=chosen.clip,
            hear=hear,
            spent=_clock(chosen.minutes),
        )
        for exam, problem in exams.items():
            marks = examine(solver, problem, config.exam_episodes, chosen.batch)
            log.append("marks", exam=exam, **marks._asdict())
        log.append("clock", seconds=time.monotonic() - begun, updates=updates)
    write_tree(folder / "weights.safetensors", dict(solver.state_dict()), SCHEMA)
    bar.close()


def _clock(minutes: float | None) -> Callable[[], float]:
    """Return what says which share of the minutes has passed."""
    begun = time.monotonic()
    return lambda: 0.0 if minutes is None else (time.monotonic() - begun) / (60 * minutes)


def _describe(config: DictConfig, seed: int) -> dict[str, Any]:
    chosen = OmegaConf.create(config)
    chosen.working_memory.input_size = None  # the lessons'
    return {
        "schema": logs.SCHEMA,
        "name": config.name,
        "seed": seed,
        "config": OmegaConf.to_container(chosen, resolve=True),
        "versions": logs.versions(),
    }
