"""A lifetime with control tasks, from a configuration: `stillknows train stream=control`.

Its stream says how many steps each task is lived in (`stream.steps`), which no other stream does.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import hydra.utils
from omegaconf import DictConfig, OmegaConf

from stillknows.agents.acting.acting_arms import acting_plugins, expect_experience, lifelong
from stillknows.agents.acting.control_learner import ControlLearner
from stillknows.agents.acting.experience import Experience
from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import expect_whole
from stillknows.agents.learner import QuestionLearner
from stillknows.agents.persistence.checkpoint import Checkpoints
from stillknows.agents.persistence.container import write_tree
from stillknows.agents.persistence.keeping import KeptAgent
from stillknows.agents.persistence.memory_files import AGENT
from stillknows.agents.persistence.state import seed_all
from stillknows.agents.persistence.stopping import Stop
from stillknows.agents.persistence.trouble import through_of
from stillknows.agents.plugins import opened, plugins_of
from stillknows.agents.progress import Progress
from stillknows.agents.reports.log import SCHEMA, LifetimeLog, part_of, versions
from stillknows.agents.reports.protocol import protocol_of
from stillknows.envs.control import ControlTask, spaces_of
from stillknows.envs.order import places
from stillknows.envs.tasks import Task
from stillknows.memory import expect

KEPT = "stillknows control 1"

# Plugins that learn from questions that were asked, or tell who is asked.
_ASKING = [
    f"stillknows.agents.baselines.{name}"
    for name in ("penalties.MAS", "penalties.LwF", "gradient_memory.AGEM", "gradient_memory.GEM",
                 "packnet.PackNet")
]  # fmt: skip


class Budget(NamedTuple):
    """How long a task is lived in: so many `steps` of all rows together, or `episodes`."""

    amount: int
    unit: str


def is_acting(config: DictConfig) -> bool:
    """Return whether a configuration's stream has control tasks."""
    return "steps" in config.stream


def acting_tasks(config: DictConfig) -> list[Task | ControlTask]:
    """Return the tasks of a configuration's stream."""
    tasks: list[Task | ControlTask] = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    return tasks


def budgets_of(config: DictConfig, tasks: Sequence[Task | ControlTask]) -> list[Budget]:
    """Return the budget of each task: `stream.episodes` where it is given, else `stream.steps`.

    Raises:
        ValueError: if there are not as many as tasks, one is below 1, or a text task has none in
            episodes.
    """
    steps = _one_each("steps", config.stream.steps, len(tasks))
    episodes = _one_each("episodes", config.stream.episodes, len(tasks))
    budgets = []
    for task, step, episode in zip(tasks, steps, episodes, strict=True):
        if isinstance(task, Task) and (episode is None or episode < config.rows):
            raise ValueError(
                f"{task.name} is a task of questions: give its budget in episodes, at least "
                f"rows={config.rows}, by stream.episodes."
            )
        budget = Budget(step, "steps") if episode is None else Budget(episode, "episodes")
        if not isinstance(budget.amount, int) or budget.amount < 1:
            raise ValueError(
                f"{task.name} has no budget: give stream.steps or stream.episodes, at least 1."
            )
        budgets.append(budget)
    return budgets


def planned_updates(config: DictConfig) -> int:
    """Return about how many updates there will be, for a bar of progress."""
    tasks = acting_tasks(config)
    budgets = budgets_of(config, tasks)
    each = {"steps": config.rows * config.learner.get("horizon", 1), "episodes": config.rows}
    lived = places(_order(config), len(tasks), config.seed, config.stream.experiences)
    return sum(-(-budgets[place].amount // each[budgets[place].unit]) for place in lived)


def check_acting(config: DictConfig, tasks: Sequence[Task | ControlTask]) -> None:
    """Build everything once, so that what cannot be is said before anything is lived.

    Raises:
        ValueError: with one sentence.
    """
    if not tasks:
        raise ValueError(
            f"The stream {config.stream.name} has no tasks: name some, stream.tasks.ids=[…]."
        )
    expect_whole(config, "stream.exam_episodes")
    expect.whole(0, **{"stream.retries": config.stream.retries})
    if config.get("order", 0):
        raise ValueError("Among control tasks, stream.order arranges them: leave orders=[0].")
    if config.anatomy:
        raise ValueError("anatomy=true swaps the memories of questions: not among control tasks.")
    budgets_of(config, tasks)
    texts = [task for task in tasks if isinstance(task, Task)]
    _check_order(config, len(tasks), texts)
    if not 0 <= config.stream.blur <= 1:
        raise ValueError(f"stream.blur={config.stream.blur}: give a share between 0 and 1.")
    if texts and config.get("protocol") == "scratch":
        raise ValueError(
            f"{texts[0].name} is a task of questions: among control tasks it is not lived alone."
        )
    expect_experience(config, texts)
    foreign = [str(each["_target_"]) for each in config.plugins if each["_target_"] in _ASKING]
    if foreign:
        raise ValueError(
            f"arm={config.arm} keeps what belongs to questions ({foreign[0]}): among control tasks "
            "arms=[none,both,recall,rehearse,replay,clear,l2,si,ewc,joint,scratch]."
        )
    learner = build_control(config, tasks)
    _build_text(config, texts)
    if plugins := plugins_of(acting_plugins(config)):
        from stillknows.agents.acting.control_strategy import expect_fitting  # Avalanche is there

        moved = not texts and learner.optimizer is not None
        expect_fitting(plugins, moved, protocol_of(config) == "scratch")


def _check_order(config: DictConfig, tasks: int, texts: Sequence[Task]) -> None:
    """Raise a ValueError if the order has no end, or a text task is lived twice or jointly."""
    if not isinstance(_order(config), list | str | None):
        raise ValueError(
            f"stream.order={config.stream.order} should be shuffled, endless or places, such as "
            "[0,1,0]."
        )
    if config.stream.order == "endless" and config.stream.experiences is None:
        raise ValueError("stream.order=endless needs an end: stream.experiences=N.")
    lived = list(places(_order(config), tasks, config.seed, config.stream.experiences))
    if not lived:
        raise ValueError("The stream has no experiences: give stream.order a task.")
    if texts and (config.stream.joint or len(set(lived)) < len(lived)):
        raise ValueError(
            f"{texts[0].name} is a task of questions: among control tasks it is lived once, and "
            "not jointly."
        )


def build_control(config: DictConfig, tasks: Sequence[Task | ControlTask]) -> ControlLearner:
    """Return the control learner of a configuration, which has met the spaces of its tasks."""
    new = hydra.utils.instantiate
    options = {name: part for name, part in config.learner.items() if name != "text"}
    options |= lifelong(config)
    if issubclass(hydra.utils.get_class(options["_target_"]), QuestionLearner):
        raise ValueError(
            "This learner learns to answer, not to act: learner=recurrent_ppo or learner=nec."
        )
    memory = config.working_memory
    learner: ControlLearner = new(
        options,
        width=config.controller.width,
        memory=new(memory) if memory else None,
        policy=new(config.working_policy) if memory else None,
        seed=config.seed,
        device=config.device,
    )
    for task in tasks:
        if isinstance(task, ControlTask):
            learner.meet(*spaces_of(task))
    experience: Experience | None = getattr(learner, "experience", None)
    if experience is not None:
        experience.open()
    return learner


def live_control_lifetime(
    config: DictConfig, folder: Path, progress: Progress, resume: bool = False
) -> None:
    """Live one lifetime with control tasks and write its log into `folder`.

    Args:
        config: composed from `stillknows.configs`, with `stream=control`.
        folder: where `log.jsonl` goes; must not hold one, unless to resume.
        progress: hears how far the life is.
        resume: whether to go on from the newest whole checkpoint in the folder, or from the
            beginning if none was written.

    Raises:
        Stopped: if it was asked to stop, and is saved.
        ValueError: if an environment breaks too often; what was lived is in the log by then, and
            the agent in its file.
    """
    from stillknows.agents.acting.control_strategy import ControlLifetime  # Avalanche takes seconds
    from stillknows.agents.lifetime import inquiry_of

    seed_all(config.seed)
    tasks = acting_tasks(config)
    learner = build_control(config, tasks)
    texts = [task for task in tasks if isinstance(task, Task)]
    agent, text_learner = _build_text(config, texts)
    stop = Stop()
    through = through_of(config, stop)
    log = LifetimeLog(folder, resume, part_of(config), through)
    with closing(log), stop, opened(acting_plugins(config), folder) as plugins:
        strategy = ControlLifetime(
            control=learner,
            agent=agent,
            learner=text_learner,
            inquiry=None if agent is None else inquiry_of(config, agent, folder, texts, through),
            log=log,
            rows=config.rows,
            exam_episodes=_exam_episodes(config, tasks),
            seed=config.seed,
            plugins=plugins,
            alone=protocol_of(config) == "scratch",
            progress=progress,
            retries=config.stream.retries,
            blur=config.stream.blur,
            sampled=config.stream.sampled,
        )
        asked = {"agent": KeptAgent(agent), "learner": text_learner} if agent is not None else {}
        parts: dict[str, Any] = {**asked, "control": learner, "strategy": strategy, "log": log}
        checkpoints = Checkpoints(folder, config, parts, stop, through)
        if not (resume and checkpoints.restore_newest()):
            log.restore()
            log.append("lifetime", **_describe(config, tasks, learner))
        strategy.passed = checkpoints.passed
        try:
            strategy.live(_experiences(config, tasks), _exams(config, tasks))
            _write_text_floors(config, tasks, log)
        except ValueError:
            _write_end(config, folder, strategy, log)
            raise
        _write_end(config, folder, strategy, log)
        log.append("clock", seconds=checkpoints.lived)


def _experiences(config: DictConfig, tasks: Sequence[Any]) -> Iterator[Any]:
    """Yield the experiences of the life, one when the last is over."""
    from stillknows.envs.streams import ActingExperience

    budgets = budgets_of(config, tasks)
    if config.stream.joint:
        amounts, units = zip(*budgets, strict=True)
        yield ActingExperience(tasks, range(len(tasks)), amounts, units)
        return
    visits = list(_visits(config, tasks))
    for number, (place, start) in enumerate(visits):
        following = None
        for coming, _ in visits[number + 1 : number + 2]:
            if isinstance(tasks[coming], ControlTask):
                following = (tasks[coming], coming)
        yield _experience(tasks[place], place, budgets[place], start, following)


def _experience(
    task: Task | ControlTask, place: int, budget: Budget, start: int, following: Any
) -> Any:
    from stillknows.envs.streams import ActingExperience, EpisodeExperience

    if isinstance(task, Task):
        return EpisodeExperience([task], [place], [start], [budget.amount])
    return ActingExperience([task], [place], [budget.amount], [budget.unit], following)


def _exams(config: DictConfig, tasks: Sequence[Task | ControlTask]) -> list[Any]:
    from stillknows.envs.streams import as_stream

    lived = zip(
        tasks, range(len(tasks)), budgets_of(config, tasks), _starts(config, tasks), strict=True
    )
    return as_stream("test", [_experience(*each, None) for each in lived])


def _visits(config: DictConfig, tasks: Sequence[Task | ControlTask]) -> Iterator[tuple[int, int]]:
    """Yield the task of each experience, and how many episodes of text tasks lie behind it."""
    behind, budgets = 0, budgets_of(config, tasks)
    for place in places(_order(config), len(tasks), config.seed, config.stream.experiences):
        yield place, behind
        behind += budgets[place].amount if isinstance(tasks[place], Task) else 0


def _starts(config: DictConfig, tasks: Sequence[Task | ControlTask]) -> list[int]:
    """Return how many episodes of text tasks lie behind each task when it first begins."""
    first = dict(reversed(list(_visits(config, tasks))))
    return [first.get(place, 0) for place in range(len(tasks))]


def _build_text(
    config: DictConfig, tasks: Sequence[Task]
) -> tuple[MemoryAgent | None, QuestionLearner | None]:
    """Return who answers and how it learns, if anything is asked."""
    if not tasks:
        return None, None
    if config.learner.get("text") is None:
        raise ValueError(f"{tasks[0].name} is a task of questions: give learner.text.")
    agent = build_agent(config, tasks)
    return agent, hydra.utils.instantiate(config.learner.text, agent, seed=config.seed)


def _exam_episodes(config: DictConfig, tasks: Sequence[Task | ControlTask]) -> list[int]:
    return [
        config.stream.exam_episodes
        if task.exam_stories is None
        else min(config.stream.exam_episodes, task.exam_stories)
        for task in tasks
    ]


def _write_text_floors(
    config: DictConfig, tasks: Sequence[Task | ControlTask], log: LifetimeLog
) -> None:
    from stillknows.agents.lifetime import whole_batches, write_floor

    budgets, starts = budgets_of(config, tasks), _starts(config, tasks)
    for number, episodes in enumerate(_exam_episodes(config, tasks)):
        task, start = tasks[number], starts[number]
        if isinstance(task, Task):
            lived = start + whole_batches(budgets[number].amount, config)
            place = {"task_start": start, "lived": lived}
            write_floor(log, task, number, episodes, config.seed, place)


def _write_end(config: DictConfig, folder: Path, strategy: Any, log: LifetimeLog) -> None:
    """Write what a life came to, and who acts into its file."""
    log.append("end", **_account(strategy))
    if config.keep:
        kept = {"config": _plain(config), "learner": strategy.control.state()}
        write_tree(folder / AGENT, kept, KEPT)


def _account(strategy: Any) -> dict[str, Any]:
    """Return what a life came to."""
    models = {id(p): p for p in strategy.control.agent.parameters() if p.requires_grad}
    models |= {id(p): p for p in strategy.model.parameters() if p.requires_grad}
    kept = [strategy.control, getattr(strategy.model, "episodic_memory", None), *strategy.plugins]
    return {
        "updates": strategy.clock.train_iterations,
        "steps": strategy.steps,
        "parameters": sum(p.numel() for p in models.values()),
        "memory_bytes": sum(getattr(part, "nbytes", 0) for part in kept),
    }


def _describe(
    config: DictConfig, tasks: Sequence[Task | ControlTask], learner: ControlLearner
) -> dict[str, Any]:
    protocol = protocol_of(config)
    if learner.told_boundaries and protocol == "identity hidden":
        protocol = "boundaries told"
    return {
        "schema": SCHEMA,
        "name": config.name,
        "seed": config.seed,
        "tasks": [task.name for task in tasks],
        "sources": [task.source for task in tasks],
        "protocol": protocol,
        "config": _plain(config),
        "versions": versions(),
    }


def _one_each(name: str, given: Any, tasks: int) -> list[Any]:
    """Return an option that is one for all tasks or a list of one each, as a list."""
    listed = list(given) if OmegaConf.is_list(given) else [given]
    listed = listed * tasks if len(listed) == 1 else listed
    if len(listed) != tasks:
        raise ValueError(
            f"stream.{name}={given} has {len(listed)} entries for {tasks} tasks: give one for all, "
            "or one for each."
        )
    return listed


def _order(config: DictConfig) -> Any:
    """Return `stream.order`, a list of it if it is one."""
    order = config.stream.order
    return list(order) if OmegaConf.is_list(order) else order


def _plain(config: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return dict(plain)
