"""One lifetime from a configuration: build the agent, live through the stream, write the log.

The order is the whole protocol: examine on all tasks, then for each task train on it and examine
on all again. In the protocol `scratch` an agent that has lived nothing begins every task.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra.utils
from omegaconf import DictConfig, OmegaConf

from stillknows.agents.acting.control_life import (
    is_acting,
    live_control_lifetime,
    planned_updates,
)
from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.examinations.examine import exam_seed
from stillknows.agents.examinations.inquiry import Inquiry
from stillknows.agents.examinations.plasticity import reference_sentences
from stillknows.agents.learner import QuestionLearner
from stillknows.agents.persistence.checkpoint import Checkpoints
from stillknows.agents.persistence.keeping import KeptAgent, save_agent
from stillknows.agents.persistence.memory_files import AGENT
from stillknows.agents.persistence.memory_places import begin_anew, kept_memory
from stillknows.agents.persistence.state import Resumable, seed_all
from stillknows.agents.persistence.stopping import Stop
from stillknows.agents.persistence.trouble import through_of
from stillknows.agents.plugins import opened
from stillknows.agents.progress import Progress
from stillknows.agents.reports.log import SCHEMA, LifetimeLog, part_of, versions
from stillknows.agents.reports.log_parts import size
from stillknows.agents.reports.protocol import fingerprint, protocol_of, setting_of
from stillknows.agents.teaching.operations import OperationsLog
from stillknows.envs.measures.floors import hear, last_mentioned_answer, majority_answer
from stillknows.envs.order import arrange, expect_distinct, places_of, returning, task_order
from stillknows.envs.tasks import Task, make
from stillknows.envs.text import balanced_tree
from stillknows.memory import expect
from stillknows.memory.stores.store import Through, at_once

if TYPE_CHECKING:
    from stillknows.agents.strategy import Lifetime


def episodes_of(config: DictConfig) -> list[int]:
    """Return the budget of each task in episodes, in the order in which they are lived.

    It is `stream.episodes`, one number or one a task.

    Raises:
        ValueError: if there are not as many budgets as tasks, or one is less than a batch.
    """
    named = (config.stream.tasks.get(key) for key in ("tasks", "ids", "distances", "count"))
    tasks = next((names for names in named if names is not None), ())
    count = tasks if isinstance(tasks, int) else len(tasks)
    given = config.stream.episodes
    budgets: list[Any] = [given] * count if isinstance(given, int | float) else list(given)
    if len(budgets) != count:
        raise ValueError(
            f"stream.episodes={given} has {len(budgets)} budgets for {count} tasks: give one "
            "number for all, or one for each."
        )
    if not all(isinstance(budget, int) and budget >= config.rows for budget in budgets):
        raise ValueError(
            f"stream.episodes={given}: a task needs a whole number of episodes, at least one batch "
            f"of rows={config.rows}."
        )
    return [budgets[number] for number in _arranged(config, count)]


def whole_batches(budget: int, config: DictConfig) -> int:
    """Return how many episodes of a budget are lived: what fills no batch is not."""
    return budget // int(config.rows) * int(config.rows)


def updates_of(config: DictConfig) -> int:
    """Return how many updates a life will have; with control tasks, about how many."""
    if is_acting(config):
        return planned_updates(config)
    return sum(budget // config.rows for budget in episodes_of(config))


def tasks_of(config: DictConfig) -> list[Task]:
    """Return the tasks of a stream as they are lived, those that return under names of their own.

    Raises:
        ValueError: if there is none, a name comes twice, or they do not have this order.
    """
    tasks: list[Task] = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    expect_distinct(tasks)
    if config.get("order", 0) and any(task.needs for task in tasks):
        raise ValueError(
            f"order={config.order}: later tasks of this stream need what earlier ones told; leave "
            "orders=[0] and draw another stream with stream.tasks.life=NUMBER."
        )
    return returning([tasks[number] for number in _arranged(config, len(tasks))])


def _arranged(config: DictConfig, count: int) -> list[int]:
    """Return the numbers of the tasks as they are lived."""
    return arrange(task_order(count, config.get("order", 0)), *_arrangement(config))


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
    if asked is not None:
        expect.whole(1, **{"stream.exam_episodes": asked})
    limits = [asked if task.exam_stories is None else task.exam_stories for task in tasks]
    return [limit if asked is None else min(asked, limit) for limit in limits]


def live_lifetime(
    config: DictConfig, folder: Path, progress: Progress, resume: bool = False
) -> None:
    """Live one lifetime and write its log into `folder`.

    Args:
        config: composed from `stillknows.configs`.
        folder: where `log.jsonl` goes; must not hold one, unless to resume.
        progress: hears how far the life is.
        resume: whether to go on from the newest whole checkpoint in the folder, or from the
            beginning if none was written.

    Raises:
        Stopped: if it was asked to stop, and is saved.
        ValueError: with one sentence, if something cannot be kept, or no checkpoint is whole.
        OSError: with one sentence, if the disk is full or the folder cannot be written.
    """
    if is_acting(config):
        live_control_lifetime(config, folder, progress, resume)
        return
    with begun(config, folder, progress, resume) as (strategy, benchmark):
        strategy.live(benchmark.train_stream, benchmark.test_stream)


@contextmanager
def begun(
    config: DictConfig,
    folder: Path,
    progress: Progress = lambda *_: None,
    resume: bool = False,
    plugins: Sequence[Any] = (),
) -> Iterator[tuple["Lifetime", Any]]:
    """Begin a lifetime of questions for whoever lives it; when they have, its end is written.

    Args:
        config: composed from `stillknows.configs`.
        folder: as in `live_lifetime`, like the next two.
        progress: hears how far the life is.
        resume: whether to go on.
        plugins: Avalanche's, besides those of the configuration.

    Yields:
        The strategy, and its benchmark with `train_stream` and `test_stream`.

    Raises:
        Stopped: as `live_lifetime` does, and the same errors.
    """
    from stillknows.agents.strategy import Lifetime  # Avalanche takes seconds to import

    tasks = tasks_of(config)
    agent, learner = born(config, tasks)
    stop = Stop()
    through = through_of(config, stop)
    operations = operations_of(config, agent, folder, through)
    inquiry = inquiry_of(config, agent, folder, tasks, through)
    cut = resume and size(folder) > 0  # who has written nothing yet begins, though it may go on
    store = kept_memory(agent.episodic_memory, config, folder, cut, through)
    log = LifetimeLog(folder, resume, part_of(config), through)
    with closing(log), stop, store, opened(config.plugins, folder) as own:
        plugins = [*plugins, *own]
        strategy = Lifetime(
            agent=agent,
            learner=learner,
            log=log,
            inquiry=inquiry,
            plugins=plugins,
            progress=progress,
            lived=operations.after,
            **_settings(config, tasks),
        )
        parts: dict[str, Resumable] = {"agent": KeptAgent(agent), "learner": learner}
        parts |= {"strategy": strategy, "operations": operations, "log": log}
        checkpoints = Checkpoints(folder, config, parts, stop, through)
        if not (resume and checkpoints.restore_newest()):
            if cut:
                begin_anew(agent.episodic_memory, config)
            log.restore()
            log.append("lifetime", **_describe(config, tasks, agent, plugins))
            inquiry.lived(0)
        strategy.passed = checkpoints.passed
        yield strategy, _benchmark(config, tasks)
        _write_floors(log, tasks, config)
        log.append("end", **_account(agent, plugins, strategy.clock.train_iterations))
        through(lambda: _keep(config, strategy, folder / AGENT))
        log.append("clock", seconds=checkpoints.lived)


def _keep(config: DictConfig, strategy: "Lifetime", path: Path) -> None:
    """Keep the agent, where that is wished and one agent has lived all tasks."""
    if config.keep and strategy.fresh is None:
        save_agent(strategy.agent, path)


def _benchmark(config: DictConfig, tasks: Sequence[Task]) -> Any:
    from stillknows.envs.streams import make_benchmark

    return make_benchmark(tasks, episodes_of(config), joint=config.stream.joint)


def _settings(config: DictConfig, tasks: Sequence[Task]) -> dict[str, Any]:
    """Return what a configuration says of batches and examinations."""
    return {
        "rows": config.rows,
        "seed": config.seed,
        "alone": protocol_of(config) == "scratch",
        "exam_episodes": exam_episodes_of(config, tasks),
        "exam_every": config.stream.get("exam_every", 0),
        "interim_episodes": config.stream.get("interim_episodes", 0),
        "reference": reference_sentences(tasks, config.seed),
    }


def _account(agent: MemoryAgent, plugins: Sequence[Any], updates: int) -> dict[str, int]:
    """Return what a life came to, in numbers."""
    kept = [agent.episodic_memory, *plugins]
    return {
        "updates": updates,
        "parameters": sum(p.numel() for p in agent.parameters() if p.requires_grad),
        "memory_bytes": sum(getattr(part, "nbytes", 0) for part in kept),
    }


def born(config: DictConfig, tasks: Sequence[Task]) -> tuple[MemoryAgent, QuestionLearner]:
    """Return the agent of a configuration before it has lived, and who teaches it."""
    seed_all(config.seed)
    agent = build_agent(config, tasks)
    learner: QuestionLearner = hydra.utils.instantiate(config.learner, agent, seed=config.seed)
    learner.keeps_stories |= bool(config.operations)
    return agent, learner


def operations_of(
    config: DictConfig, agent: MemoryAgent, folder: Path, through: Through = at_once
) -> OperationsLog:
    """Return what logs the operations of the working memory.

    Raises:
        ValueError: if an option of it cannot be.
    """
    keep = config.get("operations_keep")
    return OperationsLog(folder, config.operations, agent, keep, through)


def inquiry_of(
    config: DictConfig,
    agent: MemoryAgent,
    folder: Path,
    tasks: Sequence[Task],
    through: Through = at_once,
) -> Inquiry:
    """Return what a life is asked in the end, and what is kept for it.

    Raises:
        ValueError: if an option of it cannot be.
    """
    return Inquiry(
        agent,
        folder,
        1 if config.stream.joint else len(tasks),
        arms=config.get("exam_arms", ("agent", "no_recall", "no_story")),
        anatomy=config.get("anatomy", False),
        generalisation=config.get("generalisation", ()),
        through=through,
    )


def _describe(
    config: DictConfig, tasks: Sequence[Task], agent: MemoryAgent, plugins: Sequence[Any]
) -> dict[str, Any]:
    setting = setting_of(config, SCHEMA, plugins)
    order = config.get("order", 0)
    alike = [(task.id, task.train) for task in tasks]
    count = len(tasks) // config.stream.get("cycles", 1)
    return {
        "schema": SCHEMA,
        "name": config.name,
        "seed": config.seed,
        "order": order,
        "places": places_of(_arranged(config, count), arrange(range(count), *_arrangement(config))),
        "tasks": [task.name for task in tasks],
        "repeats": [alike.index(each) for each in alike],
        "sources": [_source(task, agent.controller.hears_trees) for task in tasks],
        "needs": [task.needs for task in tasks],
        "gives": [task.gives for task in tasks],
        "protocol": setting["protocol"],
        "setting": setting,
        "fingerprint": fingerprint(setting),
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
        place = {"task_start": start, "lived": start + whole_batches(budgets[number], config)}
        write_floor(log, task, number, episodes, config.seed, place)


def write_floor(
    log: LifetimeLog, task: Task, number: int, episodes: int, seed: int, place: dict[str, int]
) -> None:
    """Write what the simplest answers would score in a task's examination, on its own questions.

    Args:
        log: takes the event.
        task: of questions.
        number: its place in the stream.
        episodes: of the examination.
        seed: of the lifetime.
        place: `task_start` and `lived` of the reset options.
    """
    heard = hear(task, task.train, episodes, seed=seed, options=place)
    asked = hear(task, task.exam, episodes, seed=exam_seed(seed), options={**place, "episode": 0})
    answers = [question.target for question in heard]
    log.append(
        "floor",
        task=number,
        name=task.name,
        majority=majority_answer(answers, asked),
        last_mentioned=last_mentioned_answer(answers, asked),
    )
