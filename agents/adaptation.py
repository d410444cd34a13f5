"""Local adaptation: for one answer, the weights move a little towards what is remembered nearby.

Memory-based parameter adaptation (Sprechmann et al. 2018, arXiv:1802.10542, equations 4 and 5),
for text by d'Autume et al. 2019 (arXiv:1906.01076, equation 3): from the weights `w`, some steps
down

    sum_k a_k * -log p(answer_k | story_k, w') + pull / 2 * |w' - w|^2

over the K neighbours that the episodic memory recalls, `a_k` their kernel weights. Then the weights
are as they were: nothing of it is kept. Letters: B rows, K neighbours.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stillknows.agents.controllers.tokenizer import PAD
from stillknows.memory import expect
from stillknows.memory.episodic import Recall

if TYPE_CHECKING:
    from stillknows.agents.agent import MemoryAgent
    from stillknows.agents.controllers.controller import Controller


class LocalAdaptation:
    """Adapts an agent to the neighbours of one question.

    Args:
        steps: of gradient descent.
        learning_rate: of each.
        pull: how strongly the weights are drawn back to where they were.

    Raises:
        ValueError: if a number is below 0, or there are no steps.
    """

    def __init__(self, steps: int = 5, learning_rate: float = 0.01, pull: float = 0.1) -> None:
        expect.whole(1, steps=steps)
        expect.number(0, learning_rate=learning_rate, pull=pull)
        self.steps, self.learning_rate, self.pull = steps, learning_rate, pull

    @contextmanager
    def adapted(self, agent: "MemoryAgent", recall: Recall, row: int) -> Iterator[None]:
        """Adapt to what was recalled for one row, for as long as this lasts."""
        own = [p for p in agent.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in own]
        try:
            for _ in range(self.steps):
                self._step(agent, own, before, recall, row)
            yield
        finally:
            with torch.no_grad():
                for weight, old in zip(own, before, strict=True):
                    weight.copy_(old)

    def _step(
        self,
        agent: "MemoryAgent",
        own: Sequence[nn.Parameter],
        before: Sequence[Tensor],
        recall: Recall,
        row: int,
    ) -> None:
        with torch.enable_grad():
            loss = neighbours_loss(agent, recall, row)
            gradients = torch.autograd.grad(loss, own, allow_unused=True)
        with torch.no_grad():
            for weight, old, gradient in zip(own, before, gradients, strict=True):
                down = self.pull * (weight - old)
                down = down if gradient is None else down + gradient
                weight.sub_(down, alpha=self.learning_rate)


def expect_movable(adaptation: LocalAdaptation | None, controller: "Controller") -> None:
    """Raise a ValueError if weights shall adapt and none of them moves an answer."""
    if adaptation is not None and controller.fixed:
        raise ValueError(
            "adaptation=local moves weights, and with controller.trained=frozen and "
            "controller.memory=none none moves an answer: give controller.trained=lora, "
            "controller.memory=soft_tokens or adaptation=none."
        )


def neighbours_loss(agent: "MemoryAgent", recall: Recall, row: int) -> Tensor:
    """Return the loss of a row's neighbours, in nats, weighted by the kernel."""
    store = agent.episodic_memory
    assert store is not None
    present_K = recall.present_BK[row]
    entries = store.entries(recall.slots_BK[row][present_K])
    stories = [
        tuple(agent.tokenizer.decode(tokens) for tokens in story if tokens[0] != PAD)
        for story in entries.story_BTL.tolist()
    ]
    thought = agent.rehearse(stories)
    loss_K = agent.surprise(thought, entries.answers_BA.long())[1]
    return (recall.weights_BK[row][present_K].detach() * loss_K).sum()
