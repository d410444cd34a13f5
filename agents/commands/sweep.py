"""`stillknows sweep`: arms × streams × seeds × orders over the cores, and on after a stop.

A lifetime that has ended is never lived again, and one that stopped goes on from where it was
saved, as in `stillknows train resume=RUN`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stillknows.agents.commands.processes import run_all
from stillknows.agents.commands.train import check_life, live_on, plan_lives
from stillknows.agents.configuration import compose_config, expect_lists, new_folder
from stillknows.agents.persistence.checkpoint import HARMLESS
from stillknows.agents.persistence.memory_places import expect_apart
from stillknows.agents.persistence.moved import as_now
from stillknows.agents.persistence.resuming import has_ended, slug, write_order
from stillknows.agents.persistence.stopping import Stopped
from stillknows.agents.progress import LivesTable
from stillknows.agents.reports.log_parts import parts
from stillknows.agents.reports.protocol import differences, flat


def sweep(overrides: Sequence[str]) -> Path:
    """Live all lifetimes of a sweep to their end, and report on them.

    Args:
        overrides: Hydra overrides of `stillknows.configs.sweep`; the same with `run=FOLDER` of a
            sweep that stopped goes on with it.

    Returns:
        The folder of the sweep.

    Raises:
        ValueError: with one sentence, for any option, value, device or folder that cannot be, or
            if lifetimes failed; the others are lived nevertheless.
        OSError: with one sentence, if a process was killed.
        Stopped: if the sweep was asked to stop.
    """
    config = compose_config(overrides, "sweep")
    plan = plan_sweep(config, overrides)
    first = {(name.partition("/")[0], each.name): each for name, each in reversed(plan.items())}
    for each in first.values():
        check_life(each)
    run = Path(config.run) if config.run is not None else new_folder(config, "sweep")
    for name, each in plan.items():
        expect_same(each, run / name)
    for stream in dict.fromkeys(name.partition("/")[0] for name in plan):
        write_order(run / stream, [name for name in plan if name.partition("/")[0] == stream])
    left = {name: each for name, each in plan.items() if not has_ended(run / name)}
    how = f"the same command with run={run} goes on."
    try:
        failed = _live(plan, left, run, config.workers)
    except Stopped as stop:
        raise Stopped(stop.number, f"stopped; {how}") from stop
    except OSError as error:
        raise OSError(f"{error} When that is mended, {how}") from error
    if len(failed) < len(plan):
        from stillknows.agents.reports.report import write_report

        print(write_report([run], run, apart=True))
        print(f"Written to {run / 'report.md'}; TensorBoard: tensorboard --logdir {run}")
    if failed:
        name, wrong = next(iter(failed.items()))
        raise ValueError(
            f"{len(failed)} of {len(plan)} lifetimes failed, the first, {name}, with: {wrong} "
            f"When that is mended, {how}"
        )
    return run


def plan_sweep(config: DictConfig, overrides: Sequence[str]) -> dict[str, DictConfig]:
    """Return the configuration of every lifetime, by its folder's name below the sweep's.

    A stream is one of `configs/stream`, and may have options of its own, as an arm may.

    Raises:
        ValueError: if one of the lists is none, or a life is named twice.
    """
    expect_lists(config, "streams")
    shared = [each for each in overrides if not each.startswith("streams=")]
    plan: dict[str, DictConfig] = {}
    for stream in map(str, config.streams):
        name, *options = stream.split()
        if any(path.startswith(f"{slug(stream)}/") for path in plan):
            raise ValueError(f"streams={config.streams} names a stream twice.")
        lives = plan_lives(config, [*shared, f"stream={name}", *options])
        plan |= {f"{slug(stream)}/{folder}": each for folder, each in lives.items()}
    expect_apart(plan)
    return plan


def expect_same(config: DictConfig, folder: Path) -> None:
    """Raise a ValueError if a folder holds a lifetime that was lived with other options."""
    files = parts(folder)
    if not files:
        return
    with files[0].open(encoding="utf-8") as file:
        try:
            theirs = as_now(json.loads(file.readline())["config"])
        except (ValueError, LookupError, TypeError):
            return  # nothing of it was lived
    mine: Any = OmegaConf.to_container(config, resolve=True)
    one, other = (flat({n: v for n, v in c.items() if n not in HARMLESS}) for c in (mine, theirs))
    if one != other:
        raise ValueError(
            f"{folder} was lived with other options, {differences(one, other)}: choose another "
            "run=…."
        )


def _live(
    plan: Mapping[str, DictConfig], left: Mapping[str, DictConfig], run: Path, workers: int | None
) -> dict[str, BaseException]:
    """Live what is left; return what went wrong, by the lifetime's name."""
    from stillknows.agents.lifetime import updates_of

    failed: dict[str, BaseException] = {}
    if not left:
        return failed
    rows = {name: (name.partition("/")[0], each.name) for name, each in plan.items()}
    logs = {name: (run / name, updates_of(each)) for name, each in left.items()}
    with LivesTable(rows, logs) as shown:

        def finished(name: str, error: BaseException | None) -> None:
            if error is not None:
                failed[name] = error
            shown.finish(name, error is None)

        jobs = {name: (each, run / name) for name, each in left.items()}
        run_all(_live_one, jobs, workers, finished)
    return failed


def _live_one(config: DictConfig, folder: Path, place: int) -> int | None:
    return live_on(config, folder, lambda task, update, accuracy: None)
