"""One lifetime from a configuration: build the agent, live through the stream, write the log.

The order is the whole protocol: examine on all tasks, then for each task train on it and examine
on all again.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import hydra.utils
import torch
from omegaconf import DictConfig, OmegaConf

from stillknows.agents.assembly import build_agent
from stillknows.agents.keeping import save_agent
from stillknows.agents.learner import QuestionLearner
from stillknows.agents.log import SCHEMA, LifetimeLog, versions
from stillknows.agents.operations import OperationsLog
from stillknows.agents.progress import Progress
from stillknows.envs.floors import hear, last_mentioned_answer, majority_answer
from stillknows.envs.order import arrange, expect_distinct, returning
from stillknows.envs.tasks import Task, make
from stillknows.envs.text import balanced_tree

AGENT = "agent.safetensors"


def episodes_of(config: DictConfig) -> list[int]:
    """Return the budget of each task in episodes: `stream.episodes`, one number or one a task.

    Raises:
        ValueError: if there are not as many budgets as tasks, or one is less than a batch.
    """
    named = (config.stream.tasks.get(key) for key in ("tasks", "ids", "distances", "count"))
    tasks = next((names for names in named if names is not None), ())
    count = tasks if isinstance(tasks, int) else len(tasks)
    given = config.stream.episodes
    budgets = [given] * count if isinstance(given, int) else list(given)
    if len(budgets) != count:
        raise ValueError(
            f"stream.episodes={given} has {len(budgets)} budgets for {count} tasks: give one "
            "number for all, or one for each."
        )
    if not all(isinstance(budget, int) and budget >= config.rows for budget in budgets):
        raise ValueError(
            f"stream.episodes={given}: a task needs at least one batch of rows={config.rows}."
        )
    return arrange(budgets, *_arrangement(config))


def tasks_of(config: DictConfig) -> list[Task]:
    """Return the tasks of a stream in their order, those that return under names of their own.

    Raises:
        ValueError: if there is none, or a name comes twice.
    """
    tasks: list[Task] = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    expect_distinct(tasks)
    return returning(arrange(tasks, *_arrangement(config)))


def _arrangement(config: DictConfig) -> tuple[Any, Any]:
    return config.stream.get("cycles", 1), config.stream.get("order_seed")


def exam_episodes_of(config: DictConfig, tasks: Sequence[Task]) -> list[int]:
    """Return how many stories each task's examination has, never one twice.

    Raises:
        ValueError: if `stream.exam_episodes` is not a number where the stories never end.
    """
    asked = config.stream.exam_episodes
    endless = [task.name for task in tasks if task.exam_stories is None]
    if asked is None and endless:
        raise ValueError(
            f"stream.exam_episodes=null asks for every story, and those of {endless[0]} never end: "
            "give a number."
        )
    limits = [asked if task.exam_stories is None else task.exam_stories for task in tasks]
    return [limit if asked is None else min(asked, limit) for limit in limits]


def live_lifetime(config: DictConfig, folder: Path, progress: Progress) -> None:
    """Live one lifetime and write its log into `folder`.

    Args:
        config: composed from `stillknows.configs`.
        folder: where `log.jsonl` goes; must not hold one.
        progress: hears how far the life is.
    """
    from stillknows.agents.strategy import Lifetime  # Avalanche takes seconds to import
    from stillknows.envs.streams import make_benchmark

    begun = time.monotonic()
    torch.manual_seed(config.seed)
    tasks = tasks_of(config)
    agent = build_agent(config, tasks)
    learner: QuestionLearner = hydra.utils.instantiate(config.learner, agent, seed=config.seed)
    operations = OperationsLog(folder, config.operations, agent)
    learner.keeps_stories |= bool(config.operations)
    with closing(LifetimeLog(folder)) as log:
        log.append("lifetime", **_describe(config, tasks, agent.controller.hears_trees))
        strategy = Lifetime(
            agent=agent,
            learner=learner,
            log=log,
            rows=config.rows,
            exam_episodes=exam_episodes_of(config, tasks),
            seed=config.seed,
            plugins=hydra.utils.instantiate(config.plugins, _convert_="all"),
            progress=progress,
            lived=operations.after,
        )
        benchmark = make_benchmark(tasks, episodes_of(config), joint=config.stream.joint)
        strategy.eval(benchmark.test_stream)
        for number, experience in enumerate(benchmark.train_stream, start=1):
            strategy.train(experience, eval_streams=[])
            strategy.finished = number == len(benchmark.train_stream)
            strategy.eval(benchmark.test_stream)
        _write_floors(log, tasks, config)
        store = agent.episodic_memory
        log.append(
            "end",
            updates=learner.updates,
            parameters=sum(p.numel() for p in agent.parameters() if p.requires_grad),
            memory_bytes=0 if store is None else store.nbytes,
        )
        if config.keep:
            save_agent(agent, folder / AGENT)
        log.append("clock", seconds=time.monotonic() - begun)


def _describe(config: DictConfig, tasks: Sequence[Task], hears_trees: bool) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "name": config.name,
        "seed": config.seed,
        "tasks": [task.name for task in tasks],
        "sources": [_source(task, hears_trees) for task in tasks],
        "needs": [task.needs for task in tasks],
        "gives": [task.gives for task in tasks],
        "protocol": "joint" if config.stream.joint else "identity hidden",
        "config": OmegaConf.to_container(config, resolve=True),
        "versions": versions(),
    }


def _source(task: Task, hears_trees: bool) -> str:
    """Return where a task's stories come from and, if they are read as trees, whose these are."""
    if not hears_trees:
        return task.source
    envs = make(task, 1, task.train)
    observations, info = envs.reset(seed=0)
    tree = info["tree"][0] if "tree" in info else ""
    envs.close()
    own = "(" in tree and tree != balanced_tree(observations[0])
    trees = "read as trees that the task gives" if own else "read as balanced binary trees"
    return "; ".join(filter(None, (task.source, trees)))


def _write_floors(log: LifetimeLog, tasks: Sequence[Task], config: DictConfig) -> None:
    """Write what the simplest answers would score in each examination."""
    budgets = episodes_of(config)
    for number, (task, episodes) in enumerate(
        zip(tasks, exam_episodes_of(config, tasks), strict=True)
    ):
        start = sum(budgets[:number])
        place = {"task_start": start, "lived": start + budgets[number]}
        heard = hear(task, task.train, episodes, seed=config.seed, options=place)
        asked = hear(task, task.exam, episodes, seed=config.seed, options=place)
        answers = [question.target for question in heard]
        log.append(
            "floor",
            task=number,
            name=task.name,
            majority=majority_answer(answers, asked),
            last_mentioned=last_mentioned_answer(answers, asked),
        )
