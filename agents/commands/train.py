"""`stillknows train`: live every arm with every seed, each in a process of its own, then report."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import hydra.utils
from hydra.errors import InstantiationException
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
from stillknows.agents.persistence.resuming import (
    folder_name,
    goes_on,
    has_ended,
    resumed,
    write_plan,
)
from stillknows.agents.persistence.stopping import Stop, Stopped
from stillknows.agents.persistence.trouble import through_of
from stillknows.agents.progress import Bar, Progress


def train(overrides: Sequence[str]) -> Path:
    """Live the lifetimes that a configuration asks for and write their report.

    Args:
        overrides: Hydra overrides of `stillknows.configs.train`, or `resume=RUN` to go on with a
            run, and options that change nothing that is lived.

    Returns:
        The folder of the run.

    Raises:
        ValueError: with one sentence, for any option, value, device or folder that cannot be.
        OSError: with one sentence, if something cannot be written, or a process was killed.
        Stopped: if the run was asked to stop.
    """
    if any(each.startswith("resume=") for each in overrides):
        run, lives, workers = resumed(overrides)
        for each in lives.values():
            check_life(each)
    else:
        config = compose_config(overrides)
        lives, workers = lives_of(overrides), config.workers
        run = new_folder(config, config.stream.name)
        write_plan(run, lives)
    with goes_on(run):
        run_all(_live_one, {name: (c, run / name) for name, c in lives.items()}, workers)
    from stillknows.agents.reports.report import write_report

    print(write_report([run], run))
    print(f"Written to {run / 'report.md'}; TensorBoard: tensorboard --logdir {run}")
    return run


def lives_of(overrides: Sequence[str]) -> dict[str, DictConfig]:
    """Return the configuration of every life that a configuration asks for, by its folder's name.

    Raises:
        ValueError: with one sentence, for any option that cannot be.
    """
    lives = plan_lives(compose_config(overrides), overrides)
    for each in lives.values():
        check_life(each)
    return lives


def plan_lives(config: DictConfig, overrides: Sequence[str]) -> dict[str, DictConfig]:
    """Return the configuration of every arm with every seed and order, by its folder's name.

    Args:
        config: its `arms`, `seeds` and `orders` are lived.
        overrides: of each of them.

    Raises:
        ValueError: if one of these is no list, or a life is named twice.
    """
    from stillknows.agents.acting.control_life import is_acting
    from stillknows.agents.lifetime import episodes_of
    from stillknows.agents.persistence.memory_places import expect_apart

    expect_lists(config, "arms", "seeds", "orders")
    expect_workers(config)
    lives = []
    expect_many(overrides)
    for arm in map(str, config.arms):
        composed = one_life(overrides, arm)
        for seed, order in product(config.seeds, config.orders):
            lives.append(composed.copy())
            lives[-1].seed, lives[-1].order = seed, order
    for each in lives:
        expect_whole(each, "rows", "seed", "order")
        if not (is_acting(each) or episodes_of(each)):
            raise ValueError(
                f"The stream {each.stream.name} has no tasks: name some{_where_named(each)}."
            )
    named = {folder_name(each): each for each in lives}
    if len(named) < len(lives):
        raise ValueError(
            f"arms={config.arms} with seeds={config.seeds} and orders={config.orders} name a life "
            "twice."
        )
    expect_apart(named)
    return named


def expect_many(overrides: Sequence[str]) -> None:
    """Raise a ValueError if an option is of one life, where a list names those of all."""
    lists = {"arm": "arms", "seed": "seeds", "order": "orders", "name": "arms"}
    for each in overrides:
        key, _, value = each.lstrip("+").partition("=")
        if key in lists:
            raise ValueError(f"{each} is of one life: give {lists[key]}=[{value}].")


def _where_named(config: DictConfig) -> str:
    """Return the option that names the tasks of a stream, with a comma before it, if one does."""
    if "ids" in config.stream:
        return ", stream.ids=[…]"
    if OmegaConf.is_missing(config.stream.tasks, "benchmark"):
        return ", +stream.tasks.benchmark._target_=… stream.tasks.count=…"
    named = [key for key in ("tasks", "ids", "distances") if key in config.stream.tasks]
    return f", stream.tasks.{named[0]}=[…]" if named else ""


def one_life(overrides: Sequence[str], arm: str, seed: int = 0) -> DictConfig:
    """Return the configuration of an arm: one of `configs/arm`, and options that are its own."""
    name, *options = arm.split()
    config = compose_config([*overrides, f"arm={name}", *options, f"seed={seed}"])
    config.name = arm
    return config


def check_life(config: DictConfig) -> None:
    """Build everything once, so that what cannot be is said before anything is lived.

    Raises:
        ValueError: with one sentence, if something cannot be.
    """
    from stillknows.agents.acting.control_life import acting_tasks, check_acting, is_acting
    from stillknows.agents.assembly import build_agent, expect_stateless_policy
    from stillknows.agents.lifetime import (
        exam_episodes_of,
        inquiry_of,
        operations_of,
        tasks_of,
    )
    from stillknows.agents.persistence.checkpoint import expect_keepable, intervals_of
    from stillknows.agents.persistence.keeping import KeptAgent
    from stillknows.agents.persistence.memory_places import expect_place
    from stillknows.agents.plugins import expect_classes, keepable, plugins_of
    from stillknows.agents.reports.log import part_of
    from stillknows.agents.reports.protocol import protocol_of
    from stillknows.envs.tasks import make

    expect_device(config)
    expect_place(config)
    through_of(config, Stop())
    part_of(config)
    protocol_of(config)
    expect_classes(config.plugins)
    try:
        expect_targets(config)
        if is_acting(config):
            check_acting(config, acting_tasks(config))
            expect_stateless_policy(config)
            return
        if "text" in config.learner:
            raise ValueError(f"stream={config.stream.name} asks questions: learner=questions.")
        _expect_interim(config)
        tasks = tasks_of(config)
        for task in tasks:
            make(task, 1, task.train).close()
        exam_episodes_of(config, tasks)
        agent = build_agent(config, tasks)
        expect_stateless_policy(config)
        learner = hydra.utils.instantiate(config.learner, agent, seed=config.seed)
        operations_of(config, agent, Path())
        inquiry_of(config, agent, Path(), tasks)
        plugins = plugins_of(config.plugins)
        learner.begin(1)
        if intervals_of(config)[0]:
            kept = {type(each).__name__: keepable(each) for each in plugins}
            expect_keepable(kept)
            expect_keepable({"agent": KeptAgent(agent), "learner": learner})
    except (InstantiationException, OmegaConfBaseException) as error:
        raise ValueError(cause(error)) from error


def live_on(config: DictConfig, folder: Path, progress: Progress) -> int | None:
    """Live on to the end of a life that has not ended; return the signal that stopped it."""
    from stillknows.agents.lifetime import live_lifetime
    from stillknows.agents.reports.board import write_board

    try:
        if not has_ended(folder):
            live_lifetime(config, folder, progress, resume=True)
    except Stopped as stop:
        return stop.number
    write_board(folder)
    return None


def _live_one(config: DictConfig, folder: Path, place: int) -> int | None:
    from stillknows.agents.lifetime import updates_of

    bar = Bar(folder.name, updates_of(config), place)
    try:
        return live_on(config, folder, bar)
    finally:
        bar.close()


def _expect_interim(config: DictConfig) -> None:
    every, stories = (config.stream.get(n, 0) for n in ("exam_every", "interim_episodes"))
    if not isinstance(every, int) or every < 0:
        raise ValueError(f"stream.exam_every={every} should be a number of updates; 0: none.")
    if every and (not isinstance(stories, int) or stories < 1):
        raise ValueError(f"stream.interim_episodes={stories} should be at least 1.")
