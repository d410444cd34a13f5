"""`stillknows train`: live every arm with every seed, each in a process of its own, then report."""

import difflib
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from stillknows.agents.progress import Bar
from stillknows.envs.tasks import suggest


def train(overrides: Sequence[str]) -> Path:
    """Live the lifetimes that a configuration asks for and write their report.

    Args:
        overrides: Hydra overrides of `stillknows.configs.train`.

    Returns:
        The folder of the run.

    Raises:
        ValueError: with one sentence, for any option, value, device or folder that cannot be.
    """
    config = compose_config(overrides)
    for name in ("arms", "seeds"):
        if not OmegaConf.is_list(config[name]) or not len(config[name]):
            raise ValueError(f"{name}={config[name]} should be a list, such as {name}=[…].")
    lives = [_one_life(overrides, str(arm), seed) for arm in config.arms for seed in config.seeds]
    for each in lives:
        _check(each)
    if len(set(map(_folder, lives))) < len(lives):
        raise ValueError(f"arms={config.arms} with seeds={config.seeds} name a life twice.")
    run = _new_folder(config)
    _live_all(lives, run, config.workers or _cores())
    from stillknows.agents.report import write_report

    print(write_report([run], run))
    print(f"Written to {run / 'report.md'}; TensorBoard: tensorboard --logdir {run}")
    return run


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Return the configuration of one lifetime.

    Raises:
        ValueError: with one sentence, if an override is wrong.
    """
    try:
        with initialize_config_module("stillknows.configs", version_base="1.3"):
            config, plain = compose("train", list(overrides)), compose("train")
    except MissingConfigException as error:
        group, _, wrong = str(error.missing_cfg_file or "").strip("/").rpartition("/")
        raise ValueError(
            f"There is no {group} '{wrong}'. {suggest(wrong, _choices(group))}"
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(
            f"The options do not fit: {_first_sentence(error)}{_near(error)}"
        ) from error
    for override in overrides:
        name, _, value = override.partition("=")
        _expect_number(name, value, *(OmegaConf.select(c, name) for c in (plain, config)))
    return config


def _one_life(overrides: Sequence[str], arm: str, seed: int) -> DictConfig:
    """Return the configuration of an arm: one of `configs/arm`, and options that are its own."""
    name, *options = arm.split()
    config = compose_config([*overrides, f"arm={name}", *options, f"seed={seed}"])
    config.name = arm
    return config


def _expect_number(name: str, value: str, usual: Any, given: Any) -> None:
    """Raise a ValueError if an option that is a number was given something else."""
    if isinstance(usual, int | float) and not isinstance(given, int | float):
        raise ValueError(f"{name}={value} should be a number, such as {usual}.")


def _near(error: BaseException) -> str:
    """Return a suggestion for the misspelled option that an error names, if it names one."""
    found = re.search(r"Could not override '(?:.*\.)?([^'.]+)'", str(error))
    if found is None:
        return ""
    with initialize_config_module("stillknows.configs", version_base="1.3"):
        known = _names(compose("train"))
    return f" {suggest(found[1], known)}" if difflib.get_close_matches(found[1], known) else ""


def _names(config: DictConfig) -> list[str]:
    """Return the names of all options, at every depth, without repeats."""
    names: dict[str, None] = {}
    for name in config:
        names[str(name)] = None
        inner = config._get_node(name)
        if isinstance(inner, DictConfig) and not inner._is_none():
            names.update(dict.fromkeys(_names(inner)))
    return list(names)


def _check(config: DictConfig) -> None:
    """Build everything once, so that what cannot be is said before anything is lived."""
    import hydra.utils

    from stillknows.agents.lifetime import build_agent, episodes_of, exam_episodes_of
    from stillknows.envs.tasks import make

    numbers = {"rows": config.rows, "seed": config.seed}
    for name, value in numbers.items():
        if not isinstance(value, int) or value < (name != "seed"):
            raise ValueError(f"{name}={value} should be a whole number, at least 1.")
    try:
        device = torch.device(config.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={config.device} is not there; choose device=cpu or see that CUDA works."
        ) from error
    if not episodes_of(config):
        raise ValueError(f"The stream {config.stream.name} has no tasks: name some.")
    try:
        tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
        for task in tasks:
            make(task, 1, task.train).close()
        exam_episodes_of(config, tasks)
        agent = build_agent(config, tasks)
        hydra.utils.instantiate(config.learner, agent, seed=config.seed)
    except (InstantiationException, OmegaConfBaseException) as error:
        raise ValueError(cause(error)) from error


def _live_all(lives: Sequence[DictConfig], run: Path, workers: int) -> None:
    """Live every life, at most `workers` at a time, each with one thread."""
    context = multiprocessing.get_context("spawn")
    lock = context.RLock()
    with ProcessPoolExecutor(
        min(workers, len(lives)), context, initializer=_begin_process, initargs=(lock,)
    ) as pool:
        futures = {
            pool.submit(_live_one, config, run / _folder(config), place): config
            for place, config in enumerate(lives)
        }
        for future in as_completed(futures):
            future.result()
            if not sys.stderr.isatty():
                print(
                    f"lived: {futures[future].name}, seed {futures[future].seed}", file=sys.stderr
                )


def _folder(config: DictConfig) -> str:
    return f"{re.sub(r'[^A-Za-z0-9._]+', '-', config.name)}-seed{config.seed}"


def _begin_process(lock: Any) -> None:
    """Share the bars' lock, and end when the process that started this one has ended."""
    tqdm.set_lock(lock)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _live_one(config: DictConfig, folder: Path, place: int) -> None:
    from stillknows.agents.board import write_board
    from stillknows.agents.lifetime import episodes_of, live_lifetime

    torch.set_num_threads(1)
    bar = Bar(folder.name, sum(episodes_of(config)) // config.rows, place)
    live_lifetime(config, folder, bar)
    bar.close()
    write_board(folder)


def _new_folder(config: DictConfig) -> Path:
    """Return a folder that is not there yet: the one asked for, or the next number below runs/."""
    if config.run is not None:
        run = Path(config.run)
        if run.exists():
            raise ValueError(f"{run} exists already and is left as it is: choose another run=….")
        return run
    number = 1
    while (run := Path("runs") / f"{config.stream.name}-{number}").exists():
        number += 1
    return run


def _choices(group: str) -> list[str]:
    folder = files("stillknows.configs")
    for part in group.split("/"):
        folder = folder / part
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def cause(error: BaseException) -> str:
    """Return the first sentence of the mistake at the bottom of a chain of exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _first_sentence(error)


def _first_sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
