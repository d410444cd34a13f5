"""A critic of the worth of what is held: what is worth least leaves.

The worth of an item is what the answers to come lose without it, over random sets of what else is
kept (a Banzhaf value; leaving one out alone would give nothing to either of two duplicates). Who
trains it measures that and moves `worth` towards it (`stillknows.agents.teaching.policy_learning`).

Letters: B rows, N slots, M = N + 1 (the candidate is last), W word size.
"""

import torch
from torch import Tensor, nn

from stillknows.memory import expect
from stillknows.memory.interface import Decision, Features, written
from stillknows.memory.policies.acting import Desk
from stillknows.memory.policies.choosing import Terms, choose
from stillknows.memory.policies.scorer import Noted, Scorer


class CriticPolicy(nn.Module):
    """Keeps what is worth most.

    Args:
        word_size: width of a candidate (W).
        hidden: width of its network.
        threshold: worth below which nothing is written even if there is room.
        exploration: scale of the noise on worths while it is taught (`explores`).
    """

    needs_similarity = False
    needs_content = True
    learns_by = "worth"
    explores = False

    def __init__(
        self,
        word_size: int,
        hidden: int = 32,
        threshold: float = -float("inf"),
        exploration: float = 0.3,
    ) -> None:
        super().__init__()
        expect.number(0, exploration=exploration)
        self.scorer = Scorer(word_size, hidden)
        self.threshold, self.exploration = threshold, exploration

    @property
    def needs_noise(self) -> bool:
        """Whether there is noise on worths."""
        return self.explores

    @property
    def fills_room(self) -> bool:
        """Whether it need not be asked while there is room."""
        return self.threshold == -float("inf")

    @torch.inference_mode()
    def note(self, content_BPW: Tensor) -> Noted | Desk:
        """Return what its network makes of contents."""
        return self.scorer.note(content_BPW)

    def worth(self, features: Features) -> Tensor:
        """Return the worth of each slot and, last, of the candidate, `[B, M]`."""
        worth_BM: Tensor = self.scorer(features)[..., 0]
        return worth_BM

    def decide(self, features: Features) -> Decision:
        """Return one-hot decisions; among equals the candidate stays: it is the later word."""
        if isinstance(features.noted, Desk) and not self.explores:
            worth_BM = features.noted.scores(features)[0]
            return choose(features.filled_BN, worth_BM, worth_BM, Terms(self.threshold))
        with torch.inference_mode():
            worth_BM = self.worth(features)
        if self.explores:
            noise_BM = features.noise_BM.logit(eps=1e-6)
            worth_BM = worth_BM + self.exploration * noise_BM
        held_BN = worth_BM[:, :-1].masked_fill(~features.filled_BN, torch.inf)
        full_B = features.filled_BN.all(dim=1)
        kept_B = ~full_B | (worth_BM[:, -1] >= held_BN.amin(dim=1))
        kept_B = kept_B & (worth_BM[:, -1] > self.threshold)
        return written(features, kept_B, -held_BN)
