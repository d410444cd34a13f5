"""`stillknows solve`: let a memory learn an algorithmic task with every seed, then report.

Every seed writes a log (`log.jsonl`: `solving`, `update`, `marks`, `clock`), from which the report
is made, its weights (`weights.safetensors`), and checkpoints, from which it goes on if it was cut.
"""

from collections.abc import Mapping, Sequence
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
from stillknows.agents.persistence.checkpoint import Checkpoints, intervals_of
from stillknows.agents.persistence.container import write_tree
from stillknows.agents.persistence.resuming import (
    folder_name,
    goes_on,
    has_ended,
    resumed,
    write_plan,
)
from stillknows.agents.persistence.stopping import Stop, Stopped
from stillknows.agents.persistence.trouble import through_of
from stillknows.agents.progress import Bar
from stillknows.agents.reports import log as logs
from stillknows.agents.reports.protocol import flat
from stillknows.agents.solver import Curriculum, Learning, Report, Solver, examine, learn
from stillknows.envs.algorithmic import make_problem
from stillknows.envs.measures.intervals import interval
from stillknows.envs.problems import Problem
from stillknows.memory import expect
from stillknows.memory.recurrent import Recurrent

SCHEMA = "stillknows solver 1"
_OF_A_RUN = (  # tell no solvers apart
    *("seed", "seeds", "run", "workers", "device", "compiled"),
    *("checkpoint", "on_trouble", "log"),
)


def solve(overrides: Sequence[str]) -> Path:
    """Train a solver a seed and write their report.

    Args:
        overrides: Hydra overrides of `stillknows.configs.solve`, or `resume=RUN` to go on with a
            run, and options that change nothing that is learned.

    Returns:
        The folder of the run.

    Raises:
        ValueError: with one sentence, for any option, value, device or folder that cannot be.
        OSError: with one sentence, if something cannot be written, or a process was killed.
        Stopped: if the run was asked to stop.
    """
    if any(each.startswith("resume=") for each in overrides):
        run, solvers, workers = resumed(overrides, "solve")
        for each in solvers.values():
            _check(each)
    else:
        for option in overrides:
            name, _, value = option.partition("=")
            if name.lstrip("+") == "seed":
                raise ValueError(f"{option} is of one solver: give seeds=[{value}].")
        config = compose_config(overrides, "solve")
        solvers, workers = _solvers_of(config), config.workers
        run = new_folder(config, config.name)
        write_plan(run, solvers)
    with goes_on(run, "solve"):
        run_all(_solve_one, {name: (c, run / name) for name, c in solvers.items()}, workers)
    print(write_report([run], run))
    print(f"Written to {run / 'report.md'}.")
    return run


def _solvers_of(config: DictConfig) -> dict[str, DictConfig]:
    """Return the configuration of a solver a seed, by its folder's name.

    Raises:
        ValueError: with one sentence, if one cannot be.
    """
    expect_lists(config, "seeds", "lessons")
    expect_workers(config)
    if not OmegaConf.is_dict(config.exams):
        raise ValueError(f"exams={config.exams} should name problems: exams.NAME=….")
    expect_whole(config, "seed", "exam_episodes", "learner.updates", "learner.batch")
    _expect_numbers(config.learner)
    whole = all(type(seed) is int and seed >= 0 for seed in config.seeds)
    if not whole or len(set(config.seeds)) < len(config.seeds):
        raise ValueError(
            f"seeds={config.seeds} should be different whole numbers from 0, such as [0,1,2]."
        )
    _check(config)
    solvers = []
    for seed in config.seeds:
        solvers.append(config.copy())
        solvers[-1].seed = seed
    return {folder_name(each): each for each in solvers}


def _check(config: DictConfig) -> None:
    """Build everything once, so that what cannot be is said before anything is learned."""
    expect_device(config)
    expect_targets(config)
    intervals_of(config)
    through_of(config, Stop())
    _optimizer(config, build(config)[0])


def _expect_numbers(learner: DictConfig) -> None:
    """Raise a ValueError if how a solver learns is no number that can be."""
    minutes = learner.minutes
    expect.above(0, **{"learner.clip": learner.clip})
    expect.number(0, 1, **{n: learner[n[8:]] for n in ("learner.earlier", "learner.pass_mark")})
    if minutes is not None and not (type(minutes) in (int, float) and minutes > 0):
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
    _expect_steps(memory, problem)
    return memory


@torch.no_grad()
def _expect_steps(memory: Recurrent, problem: Problem) -> None:
    """Raise a ValueError if a memory waits for a question, or cannot take a step."""
    if memory.think or not memory.query_writes:
        raise ValueError(
            "A problem asks no question that a memory could think about or leave unwritten: give "
            "working_memory.think=0 and working_memory.query_writes=true."
        )
    try:
        memory.step(memory.initial_state(1), torch.zeros(1, problem.input_size))
    except (TypeError, AttributeError, LookupError, RuntimeError) as error:
        raise ValueError(
            f"working_memory: {type(memory).__name__} cannot take a step ({error}): look at its "
            "link and its controller."
        ) from error


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


def _solve_one(config: DictConfig, folder: Path, place: int) -> int | None:
    """Train, examine and save a solver that has not ended; return the signal that stopped it."""
    bar = Bar(folder.name, config.learner.updates, place)
    try:
        if not has_ended(folder):
            _solve_on(config, folder, bar)
    except Stopped as stop:
        return stop.number
    finally:
        bar.close()
    return None


def _solve_on(config: DictConfig, folder: Path, bar: Bar) -> None:
    """Go on from the newest checkpoint, or from the beginning."""
    torch.manual_seed(config.seed)
    solver, lessons, exams = build(config)
    solver.to(config.device)
    chosen, stop = config.learner, Stop()
    learning = Learning(
        solver,
        Curriculum(lessons, chosen.pass_mark, chosen.earlier, config.seed),
        _optimizer(config, solver),
        updates=chosen.updates,
        batch=chosen.batch,
        clip=chosen.clip,
    )
    through = through_of(config, stop)
    with closing(logs.LifetimeLog(folder, resume=True, through=through)) as log, stop:
        parts: dict[str, Any] = {"learning": learning, "log": log}
        checkpoints = Checkpoints(folder, config, parts, stop, through)
        if not checkpoints.restore_newest():
            log.restore()
            log.append("solving", **_describe(config))

        def hear(update: int, report: Report) -> None:
            bar(f"lesson {report.newest + 1} of {len(lessons)}", update + 1, report.known)
            log.append("update", update=update, **report._asdict())
            checkpoints.passed()  # named after the events of the log: each has a name of its own

        planned = 60 * chosen.minutes if chosen.minutes else float("inf")  # seconds
        updates = learn(learning, hear, lambda: checkpoints.lived / planned)
        for exam, problem in exams.items():
            marks = examine(solver, problem, config.exam_episodes, chosen.batch)
            log.append("marks", exam=exam, **marks._asdict())
        write_tree(folder / "weights.safetensors", dict(solver.state_dict()), SCHEMA)
        log.append("clock", seconds=checkpoints.lived, updates=updates)


def _describe(config: DictConfig) -> dict[str, Any]:
    chosen = OmegaConf.create(config)
    chosen.working_memory.input_size = None  # the lessons'
    return {
        "schema": logs.SCHEMA,
        "name": config.name,
        "seed": config.seed,
        "config": OmegaConf.to_container(chosen, resolve=True),
        "versions": logs.versions(),
    }
