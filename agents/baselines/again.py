"""Questions as a baseline meets them: what was asked, and tasks lived once more without learning.

Letters: B rows, S places in an answer, A tokens of an answer, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.controllers.tokenizer import PAD
from stillknows.agents.episode import live
from stillknows.agents.remembering import Marked
from stillknows.agents.thought import Thought, score, told_again
from stillknows.envs.tasks import make

if TYPE_CHECKING:
    from stillknows.agents.strategy import Lifetime


class Asked(NamedTuple):
    """Questions of one step and how they were answered.

    Attributes:
        stories: what to hear to be asked the same again, the question last.
        target_BA: tokens of the right answers.
        logs_BSV: log-probabilities of each next token, of the controller, with their history.
        loss_B: -log p of the right answers, in nats, of controller and store mixed.
        key_B: names of their episodes for the noise of the working memory; None without one.
    """

    stories: tuple[tuple[str, ...], ...]
    target_BA: Tensor
    logs_BSV: Tensor
    loss_B: Tensor
    key_B: Tensor | None

    @classmethod
    def of(cls, agent: MemoryAgent, thought: Thought, target_BA: Tensor) -> Asked:
        """Return questions as an agent thought of them."""
        mixture_BSV, logs_BSV = agent.log_probabilities(thought, target_BA[:, :-1])
        told, loss_B = told_again(agent, thought), score(mixture_BSV, target_BA)
        return cls(told, target_BA, logs_BSV, loss_B, _keys(thought))

    @property
    def present(self) -> Tensor:
        """Which places of the answers count, `[B, S]`."""
        return self.target_BA != PAD


def _keys(thought: Thought) -> Tensor | None:
    """Return what names the episode of each question for the noise of the working memory."""
    key_B: Tensor | None = getattr(getattr(thought.before, "working", None), "key_B", None)
    return None if key_B is None else key_B[list(thought.rows)]


class _Listener:
    """Keeps what is asked."""

    def __init__(self, agent: MemoryAgent) -> None:
        self.agent = agent
        self.asked: list[Asked] = []

    def mark(self, thought: Thought, marked: Marked) -> None:
        """Take the marks of a step's answers."""
        target_BA = self.agent.answer_tokens(marked.targets)
        self.asked.append(Asked.of(self.agent, thought, target_BA))


def live_again(strategy: Lifetime, episodes: int) -> Iterator[list[Asked]]:
    """Yield the questions of episodes of the experience that ends, the newest first, one by one.

    Nothing is learned or remembered. Of several tasks each has its turn; where fewer episodes were
    lived, they come again.

    Args:
        strategy: whose experience it is.
        episodes: how many.
    """
    experience, store = strategy.experience, strategy.agent.episodic_memory
    lived = _lived(strategy)
    for number in range(episodes):
        place, turn = divmod(number, len(experience.tasks))
        task, start = experience.tasks[turn], experience.first_episodes[turn]
        envs = make(task, 1, task.train)
        listener = _Listener(strategy.agent)
        seed, episode = lived[turn][-1 - place % len(lived[turn])]
        options = {"episode": episode, "task_start": start}
        with nullcontext() if store is None else store.frozen():
            live(strategy.agent, envs, listener, task=0, seed=seed, options=options)
        envs.close()
        yield listener.asked


def _lived(strategy: Lifetime) -> list[list[tuple[int, int]]]:
    """Return seed and number of every episode that was lived in each task of the experience."""
    rows, turns = strategy.rows, list(strategy.experience.turns(strategy.rows))
    begun = strategy.clock.train_iterations - len(turns)
    lived: list[list[tuple[int, int]]] = [[] for _ in strategy.experience.tasks]
    for update, (turn, episode) in enumerate(turns, start=begun):
        seed = strategy.seed * 1_000_003 + update * rows
        lived[turn].extend((seed + row, episode + row) for row in range(rows))
    return lived
