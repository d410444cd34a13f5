"""Examinations: what an agent knows, asked without leaving a trace.

The working memory starts fresh in each episode, the episodic memory is frozen, no weight moves
and no random state is used. The agent sees neither rewards nor targets.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import torch

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.episode import live
from stillknows.agents.examinations.arms import ARMS
from stillknows.agents.examinations.forced import answer_forced, kinds, needed
from stillknows.agents.examinations.guard import Sealed, untouched
from stillknows.agents.remembering import Marked
from stillknows.agents.thought import Thought
from stillknows.envs.tasks import Task, make

_EXAM_SEED = 1 << 40  # far from every seed of training


class Result(NamedTuple):
    """Marks of an examination, one entry a question, in the order they were asked.

    `by_token` is the share of the answer's tokens that are right, each in its place; of an answer
    that is right, all are.
    """

    episodes: list[int]
    steps: list[int]
    correct: list[int]
    carried: list[int]
    by_token: list[float]
    loss: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return sum(self.correct) / max(1, len(self.correct))


class Examiner:
    """Listens to the marks and counts them.

    Args:
        agent: who is examined.
    """

    def __init__(self, agent: MemoryAgent) -> None:
        self.agent = agent
        self._rows: list[tuple[int, int, int, int]] = []
        self._losses: list[float] = []
        self._by_token: list[float] = []

    def mark(self, thought: Thought, marked: Marked) -> None:
        """Count the marks of one step."""
        target_BA = self.agent.answer_tokens(marked.targets)
        self._losses.extend(self.agent.surprise(thought, target_BA)[0].tolist())
        said = zip(marked.answers, marked.targets, marked.rewards, strict=True)
        self._by_token.extend(1.0 if r == 1.0 else self._share(a, target) for a, target, r in said)
        self._rows.extend(
            (episode, step, int(reward == 1.0), int(carried))
            for episode, step, reward, carried in zip(
                marked.episodes, marked.steps, marked.rewards, marked.carried, strict=True
            )
        )

    def result(self) -> Result:
        """Return all marks so far."""
        episodes, steps, correct, carried = ([row[i] for row in self._rows] for i in range(4))
        loss = sum(self._losses) / max(1, len(self._losses))
        return Result(episodes, steps, correct, carried, self._by_token, loss)

    def _share(self, answer: str, target: str) -> float:
        """Return the share of tokens that agree, of the longer of the two."""
        said, right = (self.agent.tokenizer.answer(text) for text in (answer, target))
        agreeing = sum(a == b for a, b in zip(said, right, strict=False))
        return round(agreeing / max(1, len(said), len(right)), 4)


class ToldExaminer(Examiner):
    """Counts what is answered when the supports of questions are forced into the read.

    Args:
        agent: who is examined.
        told: of which questions: about their own `episode`, about the `life`.
    """

    def __init__(self, agent: MemoryAgent, told: Sequence[str]) -> None:
        super().__init__(agent)
        self.told = told

    def mark(self, thought: Thought, marked: Marked) -> None:
        """Count the marks of one step; who stands on nothing that is told answers as before."""
        needs = {n: needed(thought, marked, n) for n in range(len(thought.rows))}
        for number, need in needs.items():
            if need is not None and ("life" if need.earlier else "episode") not in self.told:
                needs[number] = None
        alone = [n for n, need in needs.items() if need is None]
        if alone:
            answers, again = self.agent.again(thought, alone)
            super().mark(again, _picked(marked, alone, answers))
        told = [(n, need) for n, need in needs.items() if need is not None]
        for kind in kinds(thought, marked, told):
            answers, again = answer_forced(self.agent, thought, marked, kind)
            super().mark(again, _picked(marked, [n for n, _ in kind], answers))


def _picked(marked: Marked, numbers: Sequence[int], answers: Sequence[str]) -> Marked:
    """Return the marks of some questions, with other answers."""
    columns = {
        name: tuple(column[number] for number in numbers) if column else ()
        for name, column in marked._asdict().items()
        if name not in ("task", "answers", "rewards")
    }
    rewards = tuple(float(marked.right(n, a)) for n, a in zip(numbers, answers, strict=True))
    return Marked(**columns, rewards=rewards, task=marked.task, answers=tuple(answers))


@torch.no_grad()
def examine(
    agent: MemoryAgent,
    task: Task,
    *,
    number: int,
    episodes: int,
    rows: int,
    seed: int,
    options: Mapping[str, Any] | None = None,
    arm: str = "agent",
    examiner: Examiner | None = None,
    optimizer: Any = None,
    whole: bool = False,
) -> Result:
    """Examine an agent in one task.

    Args:
        agent: who is examined.
        task: its `exam` environment asks.
        number: the task's place in the stream; nobody who is examined may read it.
        episodes: how many stories.
        rows: how many are told side by side; changes no answer.
        seed: of the lifetime; the same examination has the same questions every time.
        options: of the environments' reset.
        arm: a key of `stillknows.agents.examinations.arms.ARMS`.
        examiner: who listens; None: one that counts.
        optimizer: of the agent's learner; guarded as the agent is.
        whole: guard all content, see `stillknows.agents.examinations.guard`.

    Raises:
        TrespassError: if the examination changed something, or the task was read.
    """
    if examiner is None:
        told = ARMS[arm].told
        examiner = ToldExaminer(agent, told) if told else Examiner(agent)
    with untouched(agent, optimizer, whole):
        training = agent.training
        agent.eval()
        try:
            with ARMS[arm].change(agent), _frozen(agent):
                _ask(agent, task, examiner, episodes, rows, seed, options, ARMS[arm].deaf)
        finally:
            agent.train(training)
    return examiner.result()


def exam_seed(seed: int) -> int:
    """Return the seed of the first story of the examinations of a lifetime."""
    return _EXAM_SEED + seed * 1_000_003


def _frozen(agent: MemoryAgent) -> AbstractContextManager[None]:
    return nullcontext() if agent.episodic_memory is None else agent.episodic_memory.frozen()


def _ask(
    agent: MemoryAgent,
    task: Task,
    examiner: Examiner,
    episodes: int,
    rows: int,
    seed: int,
    options: Mapping[str, Any] | None,
    deaf: bool,
) -> None:
    """Live the stories of an examination."""
    for first in range(0, episodes, rows):
        envs = make(task, min(rows, episodes - first), task.exam)
        live(
            agent,
            envs,
            examiner,
            task=cast(int, Sealed()),
            seed=exam_seed(seed) + first,
            options={**(options or {}), "episode": first},
            deaf=deaf,
        )
        envs.close()
