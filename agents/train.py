"""`stillknows train`: live every arm with every seed, each in a process of its own, then report."""

import re
from collections.abc import Sequence
from pathlib import Path

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from stillknows.agents.configuration import (
    cause,
    compose_config,
    expect_device,
    expect_lists,
    expect_whole,
    new_folder,
)
from stillknows.agents.processes import run_all
from stillknows.agents.progress import Bar


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
    expect_lists(config, "arms", "seeds")
    lives = [_one_life(overrides, str(arm), seed) for arm in config.arms for seed in config.seeds]
    for each in lives:
        _check(each)
    if len(set(map(_folder, lives))) < len(lives):
        raise ValueError(f"arms={config.arms} with seeds={config.seeds} name a life twice.")
    run = new_folder(config, config.stream.name)
    run_all(_live_one, {_folder(c): (c, run / _folder(c)) for c in lives}, config.workers)
    from stillknows.agents.report import write_report

    print(write_report([run], run))
    print(f"Written to {run / 'report.md'}; TensorBoard: tensorboard --logdir {run}")
    return run


def _one_life(overrides: Sequence[str], arm: str, seed: int) -> DictConfig:
    """Return the configuration of an arm: one of `configs/arm`, and options that are its own."""
    name, *options = arm.split()
    config = compose_config([*overrides, f"arm={name}", *options, f"seed={seed}"])
    config.name = arm
    return config


def _check(config: DictConfig) -> None:
    """Build everything once, so that what cannot be is said before anything is lived."""
    from stillknows.agents.assembly import build_agent
    from stillknows.agents.lifetime import episodes_of, exam_episodes_of, tasks_of
    from stillknows.agents.operations import OperationsLog
    from stillknows.envs.tasks import make

    expect_whole(config, "rows", "seed")
    expect_device(config)
    if not episodes_of(config):
        raise ValueError(f"The stream {config.stream.name} has no tasks: name some.")
    try:
        tasks = tasks_of(config)
        for task in tasks:
            make(task, 1, task.train).close()
        exam_episodes_of(config, tasks)
        agent = build_agent(config, tasks)
        hydra.utils.instantiate(config.learner, agent, seed=config.seed)
        OperationsLog(Path(), config.operations, agent)
    except (InstantiationException, OmegaConfBaseException) as error:
        raise ValueError(cause(error)) from error


def _folder(config: DictConfig) -> str:
    return f"{re.sub(r'[^A-Za-z0-9._]+', '-', config.name)}-seed{config.seed}"


def _live_one(config: DictConfig, folder: Path, place: int) -> None:
    from stillknows.agents.board import write_board
    from stillknows.agents.lifetime import episodes_of, live_lifetime

    bar = Bar(folder.name, sum(episodes_of(config)) // config.rows, place)
    live_lifetime(config, folder, bar)
    bar.close()
    write_board(folder)
