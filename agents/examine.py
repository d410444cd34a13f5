"""Examinations: what an agent knows, asked without leaving a trace.

The working memory starts fresh in each episode, the episodic memory is frozen, no weight moves
and no random state is used. The agent sees neither rewards nor targets.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.episode import live
from stillknows.agents.remembering import Marked
from stillknows.agents.thought import Thought
from stillknows.envs.tasks import Task, make

ARMS = ("agent", "no_recall", "no_story")
_EXAM_SEED = 1 << 40  # far from every seed of training


class Result(NamedTuple):
    """Marks of an examination, one entry a question, in the order they were asked.

    `by_token` is the share of the answer's tokens that are right, each in its place.
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
        self._by_token.extend(map(self._share, marked.answers, marked.targets))
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
) -> Result:
    """Examine an agent in one task.

    Args:
        agent: who is examined.
        task: its `exam` environment asks.
        number: the task's place in the stream.
        episodes: how many stories.
        rows: how many are told side by side; changes no answer.
        seed: of the lifetime; the same examination has the same questions every time.
        options: of the environments' reset.
        arm: `agent`; `no_recall`, the same without its episodic memory; `no_story`, the same but
            for hearing the questions only.
    """
    examiner = Examiner(agent)
    recall, training = agent.recall, agent.training
    store = agent.episodic_memory
    agent.recall = recall and arm != "no_recall"
    agent.eval()
    try:
        with nullcontext() if store is None else store.frozen():
            for first in range(0, episodes, rows):
                envs = make(task, min(rows, episodes - first), task.exam)
                live(
                    agent,
                    envs,
                    examiner,
                    task=number,
                    seed=_EXAM_SEED + seed * 1_000_003 + first,
                    options={**(options or {}), "episode": first},
                    deaf=arm == "no_story",
                )
                envs.close()
    finally:
        agent.recall = recall
        agent.train(training)
    return examiner.result()
