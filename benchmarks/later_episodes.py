"""A life that goes on: codes that one episode told, asked for in another, so many sentences later.

An agent with a lifelong store lives on as it is: its weights stay, and it remembers what is marked
(`stillknows.agents.remembering`). Some episodes tell codes that hold for its life, four each, and
ask for them at once; then come other stories, of which each tells a code of the life of its own and
asks for such codes too, so that the store has much to write and someone must leave. When exactly so
many sentences lie between the last of four codes and the first question for them, they are asked
for in an episode that does not tell them. That is an examination, and leaves no trace.
`benchmarks/long_context.py` prints this beside stories that tell and ask in one episode.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.episode import live
from stillknows.agents.examinations.examine import examine
from stillknows.agents.remembering import Remembering
from stillknows.envs.life import MOST_FACTS
from stillknows.envs.recall import ID
from stillknows.envs.tasks import Task, make

TRAINED = 100  # codes of the life that training tells: `lifetime_facts` of the experiment
CODES = 4  # that a story tells, and asks for
FILLER = 32  # sentences of a story in between
_LIFE = {"facts": CODES, "lifetime_facts": MOST_FACTS, "lag": 0}
_TOLD = {**_LIFE, "lasting": CODES, "distance": 0}
_BETWEEN = {**_LIFE, "lasting": 1, "carry": 0.25, "distance": FILLER - 2 * CODES}


class Due(NamedTuple):
    """What is to be asked for.

    Attributes:
        at: how many sentences are heard before the first question.
        distance: sentences between the last code and that.
        episode: which told the codes.
        begun: CPU seconds of the life before that episode.
    """

    at: int
    distance: int
    episode: int
    begun: float


class Asked(NamedTuple):
    """How four codes were asked for.

    Attributes:
        distance: sentences since they were told.
        correct: marks of the answers.
        without: marks of the answers of the same agent with its recall off.
        seconds: CPU time from the first sentence of the episode that told them, all in between
            included, to the last answer.
        asking: of that the time of the last episode.
    """

    distance: int
    correct: list[int]
    without: list[int]
    seconds: float
    asking: float


class LaterEpisodes:
    """The life of one agent beyond its training.

    Args:
        agent: who lives; its store changes.
        life: the seed of its life's codes.
        distances: of the questions, each at least 2 x `CODES`.
        stories: how many episodes tell codes that are asked for later.
    """

    def __init__(
        self, agent: MemoryAgent, life: int, distances: Sequence[int], stories: int
    ) -> None:
        if min(distances) < 2 * CODES:
            raise ValueError(f"distances={distances}: another episode takes {2 * CODES} or more.")
        self.agent, self.life, self.distances, self.stories = agent, life, distances, stories
        self.remembering = Remembering(agent)
        self.heard, self.seconds = 0, 0.0
        self.due: list[Due] = []
        self.asked: list[Asked] = []

    def run(self) -> list[Asked]:
        """Live until all is asked for; return how it was answered."""
        first = TRAINED // CODES
        for episode in range(first, first + self.stories):
            self._ask_before(2 * CODES)
            begun = self.seconds
            self._hear(_TOLD, episode, 2 * CODES, begins=episode)
            told = self.heard - CODES
            self.due += [Due(told + each, each, episode, begun) for each in self.distances]
        begins = (first + self.stories) * CODES  # from here on, one code an episode
        for episode in range(begins, MOST_FACTS):
            self._ask_before(FILLER)
            if not self.due:
                return self.asked
            self._hear(_BETWEEN, episode, FILLER, begins)
        raise ValueError(
            f"distances={self.distances}: a life has {MOST_FACTS} codes, of which each story of "
            f"{FILLER} sentences tells one, and they end before the last question."
        )

    def _ask_before(self, length: int) -> None:
        """Ask for what would be asked for too late after another episode of so many sentences."""
        for due in sorted(self.due):
            if due.at - self.heard - length < CODES:
                self._ask(due)
                self.due.remove(due)

    @torch.no_grad()
    def _hear(self, dials: dict[str, Any], episode: int, length: int, begins: int) -> None:
        """Live an episode.

        Args:
            dials: of the episode.
            episode: its number in the life.
            length: its sentences.
            begins: the first episode whose codes of the life it may ask for.
        """
        begun, before = time.process_time(), self.heard
        task = _task(self.life, dials)
        envs = make(task, 1, task.train)
        options = {"episode": episode, "task_start": begins}
        seed = (self.life + 1) * 10**7 + episode
        self.heard += live(self.agent, envs, self.remembering, task=0, seed=seed, options=options)
        self.remembering.learn()
        envs.close()
        assert self.heard - before == length
        self.seconds += time.process_time() - begun

    def _ask(self, due: Due) -> None:
        """Ask in an episode that tells other codes and what changes nothing, up to the distance."""
        idle = due.at - self.heard - CODES
        task = _task(self.life, {**_TOLD, "carry": 1.0, "distance": idle, "split": "exam"})
        marks = {}
        for arm in ("no_recall", "agent"):
            begun = time.process_time()
            result = examine(
                self.agent,
                task,
                number=0,
                episodes=1,
                rows=1,
                seed=(self.life * 1000 + due.episode) * 10**5 + due.distance,
                options={"task_start": due.episode, "lived": due.episode + 1},
                arm=arm,
            )
            asking = time.process_time() - begun
            marks[arm] = result.correct
        spent = self.seconds - due.begun + asking
        self.asked.append(Asked(due.distance, marks["agent"], marks["no_recall"], spent, asking))


def _task(life: int, dials: dict[str, Any]) -> Task:
    settings = {**dials, "life": life}
    return Task("later", ID, settings, settings)
