"""The lifelong store under a budget: what policies keep of a five-task stream, before one reader.

A reader learns all five tasks at once, with room for everything and facts of another life, and then
stays as it is. With each policy and capacity it lives through the five tasks, one after another,
and only remembers what was marked; a quarter of its questions ask for facts that hold for the
whole life. At the end it is examined on all tasks, and scored by the questions for facts of its
life. `benchmarks/memory_control.py` prints this beside the policies of a working memory.
"""

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import hydra.utils
import torch

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.agents.remembering import Remembering
from stillknows.envs.tasks import Task, make
from stillknows.memory.nec import NEC
from stillknows.memory.policies.learned import UtilityPolicy
from stillknows.memory.policies.rules import (
    EvictIdle,
    EvictOldest,
    EvictRare,
    EvictRead,
    EvictUniformly,
    KeepFacts,
    Novelty,
    Reservoir,
    Surprise,
    WriteNothing,
)

TASKS = ("where_person", "where_object", "where_object_before", "count_objects", "route")
FACTS = 48  # of each task
WORLD = {"people": 3, "places": 5, "objects": 2, "sentences": 12, "questions": 3}
LIFE = {"carry": 0.25, "lifetime_facts": FACTS, "lag": 32}
ROWS, EPISODES, EXAMINED = 32, 384, 64  # side by side; of each task; in the end
LIVE = FACTS * len(TASKS)

RULES: dict[str, Callable[[], Any]] = {
    "random": partial(EvictUniformly, refresh=False),
    "first in, first out": EvictOldest,
    "least recently used": EvictIdle,
    "least frequently used": EvictRare,
    "what was read (DNC)": EvictRead,
    "uniformly, facts refreshed": EvictUniformly,
    "reservoir": Reservoir,
    "surprise": Surprise,
    "novelty": partial(Novelty, 0.999),
    "value, without a network": partial(UtilityPolicy, hidden=0, floor=-1.0),
    "facts": KeepFacts,
    "never write": WriteNothing,
}
LEARNED: dict[str, Callable[[], Any]] = {"utility": UtilityPolicy}


def tasks_of(seed: int, life: int) -> tuple[Any, list[Task]]:
    """Return the configuration of the stream, and its tasks with the facts of a life."""
    dials = {**WORLD, **LIFE, "life": life}
    names = f"stream.tasks.tasks=[{','.join(TASKS)}]"
    settings = [f"++stream.tasks.{name}={value}" for name, value in dials.items()]
    whole = ["arm=recall", "episodic_policy=reservoir", f"seed={seed}"]
    config = compose_config([*whole, names, *settings])
    return config, hydra.utils.instantiate(config.stream.tasks, _convert_="all")


def place(number: int, episode: int) -> dict[str, int]:
    """Return the options of a reset: where an episode of a task stands in the life."""
    start = number * EPISODES
    return {"episode": start + episode, "task_start": start, "lived": start + EPISODES}


def reader_of(seed: int, updates: int) -> MemoryAgent:
    """Return an agent that learned all tasks in turns, and to trust what it recalls."""
    config, tasks = tasks_of(seed, life=seed)
    torch.manual_seed(seed)
    agent = build_agent(config, tasks)
    learner = hydra.utils.instantiate(config.learner, agent, seed=seed)
    learner.begin(updates)
    envs = [make(task, ROWS, task.train) for task in tasks]
    for update in range(updates):
        number = update % len(tasks)
        where = place(number, ROWS * (update // len(tasks)))
        live(agent, envs[number], learner, task=number, seed=seed * 10**6 + update, options=where)
        learner.update()
    return agent.eval()


class Life:
    """A reader that lives through the stream once for each policy and capacity."""

    def __init__(self, reader: MemoryAgent, tasks: Sequence[Task], seed: int) -> None:
        self.reader, self.tasks, self.seed = copy.copy(reader), tasks, seed

    def answers(self, policy: Any, capacity: int) -> list[tuple[str, float]]:
        """Return the questions of the last examinations, and which were answered rightly."""
        old, reader = self.reader.episodic_memory, self.reader
        assert old is not None
        width = reader.controller.width
        settings = {"neighbours": old.neighbours, "delta": old.delta, "story_shape": (1, 12)}
        reader.episodic_memory = NEC(capacity, width, width, policy, key=self.seed, **settings)
        remembering = Remembering(reader)
        for number, task in enumerate(self.tasks):
            envs = make(task, ROWS, task.train)
            for episode in range(0, EPISODES, ROWS):
                self._live(envs, remembering, number, episode)
                remembering.learn()
        return [pair for number in range(len(self.tasks)) for pair in self._examined(number)]

    def _examined(self, number: int) -> list[tuple[str, float]]:
        task, told = self.tasks[number], Told()
        envs = make(task, ROWS, {**task.exam, "carry": 1.0})
        assert self.reader.episodic_memory is not None
        with self.reader.episodic_memory.frozen():
            for episode in range(0, EXAMINED, ROWS):
                self._live(envs, told, number, episode)
        return told.answers

    @torch.no_grad()
    def _live(self, envs: Any, listener: Any, number: int, episode: int) -> None:
        where = place(number, episode)
        seed = (self.seed + 1) * 10**7 + where["episode"]
        live(self.reader, envs, listener, task=number, seed=seed, options=where)


class Told:
    """Listens to the marks of an examination."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, float]] = []

    def mark(self, thought: Any, marked: Any) -> None:
        """Take the marks of a step."""
        questions = [story[-1] for story in thought.stories]
        self.answers.extend(zip(questions, marked.rewards, strict=True))


def references(
    everything: Sequence[tuple[str, float]], nothing: Sequence[tuple[str, float]], capacity: int
) -> dict[str, float]:
    """Return what can be reached by so many entries, from a life with all and one with none.

    The clairvoyant holds the facts that gain most in the examination. The best causal policy knows
    which questions are facts of the life, of which each is as likely to be asked for.
    """
    gains: Counter[str] = Counter()
    for (question, right), (_, without) in zip(everything, nothing, strict=True):
        gains[question] += right - without
    floor, count = sum(right for _, right in nothing), len(nothing)
    best = sum(gain for _, gain in gains.most_common(capacity) if gain > 0)
    held = min(1.0, capacity / LIVE)
    return {
        "best causal": (floor + held * sum(gains.values())) / count,
        "clairvoyant": (floor + best) / count,
    }


def life(seed: int, multiples: Sequence[float], updates: int) -> dict[str, dict[str, float]]:
    """Return what every policy scores before the reader of one seed, by multiple."""
    torch.set_num_threads(1)
    reader = reader_of(seed, updates + updates // 2)
    one = Life(reader, tasks_of(seed, life=10_000 + seed)[1], seed)
    everything, nothing = one.answers(EvictOldest(), 20_000), one.answers(WriteNothing(), 1)
    scores: dict[str, dict[str, float]] = {}
    for multiple in multiples:
        capacity, at = math.ceil(multiple * LIVE), str(multiple)
        for who, score in references(everything, nothing, capacity).items():
            scores.setdefault(who, {})[at] = score
        for who, make_policy in (LEARNED | RULES).items():
            torch.manual_seed(seed)
            answers = one.answers(make_policy(), capacity)
            scores.setdefault(who, {})[at] = sum(right for _, right in answers) / len(answers)
    return scores
