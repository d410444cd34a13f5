"""Remembering: what an agent keeps of answers that were marked, and what its neighbours were worth.

Whoever learns remembers as well (`stillknows.agents.learner`); an agent whose weights stay as they
are can live on and remember alone, with `Remembering` as the listener of `live`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.controllers.tokenizer import PAD, Tokenizer
from stillknows.agents.thought import Thought, identity, told_again
from stillknows.memory.episodic import Candidates, Written


class Marked(NamedTuple):
    """What is known of the questions asked at one step, one entry a row of the thought.

    `supports` are pairs of episode and step; they reach the report, and no agent and no policy.
    `verify` tells where answers besides the target are right.
    """

    targets: tuple[str, ...]
    rewards: tuple[float, ...]
    carried: tuple[bool, ...]
    episodes: tuple[int, ...]
    steps: tuple[int, ...]
    task: int
    answers: tuple[str, ...] = ()
    supports: tuple[tuple[tuple[int, int], ...], ...] = ()
    verify: tuple[Callable[[str], bool] | None, ...] = ()

    def right(self, number: int, answer: str) -> bool:
        """Return whether an answer to one of the questions is right."""
        verify = self.verify[number] if self.verify else None
        return answer == self.targets[number] or (verify is not None and bool(verify(answer)))


class Remembering:
    """Keeps the episodic memory of an agent; without one it does nothing.

    Args:
        agent: whose memory it is; its weights stay as they are.
    """

    def __init__(self, agent: MemoryAgent) -> None:
        self.agent = agent
        self._written: list[Written] = []
        self._names: list[int] = []

    @torch.no_grad()
    def mark(self, thought: Thought, marked: Marked) -> None:
        """Take the marks of a step's answers."""
        target_BA = self.agent.answer_tokens(marked.targets)
        self.take(thought, marked, target_BA, *self.agent.surprise(thought, target_BA))

    @torch.no_grad()
    def take(
        self,
        thought: Thought,
        marked: Marked,
        target_BA: Tensor,
        mixture_B: Tensor,
        controller_B: Tensor,
    ) -> None:
        """Take the marks of a step's answers, whose losses are known.

        Args:
            thought: how the answers came about.
            marked: what was right.
            target_BA: the same as tokens.
            mixture_B: -log p of the right answers, in nats.
            controller_B: the same without what was recalled.
        """
        memory = self.agent.episodic_memory
        if memory is None:
            return
        self._credit(thought, (-mixture_B).exp() - (-controller_B).exp())
        offered = candidates(self.agent, thought, target_BA, mixture_B, marked)
        self._written.extend(memory.remember(offered))
        self._names.extend(offered.hash_B.tolist())

    def learn(self) -> None:
        """Let the policy of the memory learn, if it does; once after each batch of episodes."""
        policy = None if self.agent.episodic_memory is None else self.agent.episodic_memory.policy
        if policy is not None and hasattr(policy, "learn"):
            policy.learn()

    @property
    def pending(self) -> tuple[Written, ...]:
        """What became of all candidates since `written` was last asked."""
        return tuple(self._written)

    def written(self) -> tuple[Written, ...]:
        """Return what became of all candidates since this was last asked."""
        written, self._written = tuple(self._written), []
        return written

    def names(self) -> tuple[int, ...]:
        """Return the names of the questions of all candidates since this was last asked."""
        names, self._names = tuple(self._names), []
        return names

    def _credit(self, thought: Thought, gain_B: Tensor) -> None:
        """Tell the policy what each neighbour was worth: its weight times what p gained."""
        policy: Any = getattr(self.agent.episodic_memory, "policy", None)
        if thought.recall is None or not hasattr(policy, "observe_credit"):
            return
        recall, there_BK = thought.recall, thought.recall.present_BK
        credit_BK = recall.weights_BK * gain_B[:, None]
        policy.observe_credit(
            recall.slots_BK[there_BK], credit_BK[there_BK], recall.weights_BK[there_BK]
        )


def candidates(
    agent: MemoryAgent, thought: Thought, target_BA: Tensor, loss_B: Tensor, marked: Marked
) -> Candidates:
    """Return what an agent with an episodic memory may remember of answers that were marked.

    Args:
        agent: who answered.
        thought: how.
        target_BA: tokens of the right answers.
        loss_B: of the answers, in nats, without gradient.
        marked: what else is known of them.
    """
    assert agent.episodic_memory is not None
    rewards_B = torch.tensor(marked.rewards, device=loss_B.device)
    shape = agent.episodic_memory.story_shape
    return Candidates(
        key_BD=thought.key_BD,
        vector_BV=thought.fused_BD.detach(),
        answers_BA=target_BA,
        story_BTL=story_tokens(agent.tokenizer, told_again(agent, thought), shape),
        hash_B=torch.tensor([identity(story[-1]) for story in thought.stories]),
        outcome_BF=torch.stack([loss_B, rewards_B, 1 - rewards_B], dim=1),
        task_B=torch.full((len(thought.rows),), marked.task),
        episode_B=torch.tensor(marked.episodes),
        step_B=torch.tensor(marked.steps),
    )


def story_tokens(
    tokenizer: Tokenizer, stories: Sequence[Sequence[str]], shape: Sequence[int]
) -> Tensor:
    """Return the newest T sentences of each story, question last, `[B, T, L]` of shape (T, L)."""
    steps, length = shape
    texts = dict.fromkeys(text for story in stories for text in story[-steps:])
    number = {text: row for row, text in enumerate(texts, start=1)}
    blank = [PAD] * length
    lines_UL = torch.tensor([blank, *((tokenizer.encode(text) + blank)[:length] for text in texts)])
    rows = [[number[text] for text in story[-steps:]] for story in stories]
    return lines_UL[torch.tensor([row + [0] * (steps - len(row)) for row in rows])]
