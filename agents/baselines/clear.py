"""CLEAR: rehearsal beside cloning of one's own earlier answers (Rolnick et al. 2019).

Importing this module imports Avalanche.
"""

from typing import Any

import torch
from avalanche.core import BaseSGDPlugin
from torch import Tensor

from stillknows.agents.baselines.penalties import divergence
from stillknows.agents.strategy import Lifetime


class CLEAR(BaseSGDPlugin):  # type: ignore[misc]
    """Keeps with every entry of the store how the agent answered, and holds rehearsed ones to it.

    Adds `cloning · KL(then || now)` of the answers' tokens, where `then` is what the agent gave
    when the entry was written. Rehearsal itself is the learner's. There are no values to clone.

    Args:
        cloning: weight of the cloning; 0.01 in the paper, beside a loss of reinforcement.
    """

    def __init__(self, cloning: float = 1.0) -> None:
        super().__init__()
        self.cloning = cloning
        self.then: dict[int, Tensor] = {}  # by entry: log-probabilities [S, V], half precision

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept beside the store."""
        return sum(logs.nbytes for logs in self.then.values())

    def before_training(self, strategy: Lifetime, **_: Any) -> None:
        """Refuse an agent without anything to rehearse.

        Raises:
            ValueError: if there is no store or nothing is rehearsed, or batches are cut.
        """
        if not strategy.learner.rehearse:
            raise ValueError("CLEAR rehearses: give it a store, such as arm=replay.")

    def before_backward(self, strategy: Lifetime, **_: Any) -> None:
        """Add the cloning, and keep how what was just written is answered."""
        learner = strategy.learner
        if learner.rehearsed is not None:
            ids, now = learner.rehearsed
            rows = [row for row, entry in enumerate(ids) if entry in self.then]
            if rows:
                then_BSV = torch.stack([self.then[ids[row]] for row in rows]).float()
                apart_B = divergence(then_BSV, now.logs_BSV[rows], now.present[rows])
                strategy.loss = strategy.loss + self.cloning * apart_B.mean()
        self._keep(strategy)

    def _keep(self, strategy: Lifetime) -> None:
        logs = [logs_SV for asked in strategy.learner.asked for logs_SV in asked.logs_BSV.detach()]
        length = strategy.agent.answer_length
        for logs_SV, written in zip(logs, strategy.learner.remembering.pending, strict=True):
            if written.entry >= 0:
                places = logs_SV[:length]
                blank = (0, 0, 0, length - len(places))
                self.then[written.entry] = torch.nn.functional.pad(places, blank).half()
            self.then.pop(written.evicted, None)
