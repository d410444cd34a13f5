"""Sparse slots: however many are held, a read looks only at the K most like its query.

The sparse reads of Sparse Access Memory (Rae et al. 2016, arXiv:1610.09027, section 3.1) for the
slots of `slots.py`: written as there, read with the same hops among the K that are chosen, so that
the hops cost the same for a hundred slots and for a hundred thousand, and only one product with
the query grows. The choice is by the cosine of the query to each slot, in a space that is learned
and begins as that of the items; it is exact, not by an index. What is chosen counts with its
relevance, `r = sigmoid(beta cos + b)`, which multiplies the strength it was written with; through
it, the gradient of the answer's loss reaches the choice. In training the choice is perturbed, so
that what is passed over now can still prove its worth.

This file knows nothing of sentences, questions or tasks.
"""

from typing import Any

import torch
from torch import Tensor, nn

from stillknows.memory import expect, noise
from stillknows.memory.slots import Slots, SlotsState, fullest


class SparseSlots(Slots):
    """A working memory of `slots` vectors, of which a read takes the `nearest` to its query.

    Args:
        slots: how many it holds (N). No parameter depends on it: it may be set anew later.
        word_size: the width of an item (W).
        nearest: how many take part in a read (K).
        exploration: scale of the logistic noise on cosines in training, from the state's key.
        **settings: `hops`, `heads`, `recency` and `tied`, of `Slots`.

    Raises:
        ValueError: if `nearest` is not at least 1, or for what `Slots` raises it.
    """

    def __init__(
        self,
        slots: int,
        word_size: int,
        nearest: int = 16,
        exploration: float = 0.2,
        **settings: Any,
    ) -> None:
        expect.whole(1, slots=slots, nearest=nearest)
        expect.number(0, exploration=exploration)
        super().__init__(nearest, word_size, **settings)
        self.slots, self.nearest, self.exploration = slots, nearest, exploration
        self.asked = nn.Linear(word_size, word_size, bias=False)
        self.told = nn.Linear(word_size, word_size, bias=False)
        for linear in (self.asked, self.told):
            nn.init.eye_(linear.weight)
        self.sharpness = nn.Parameter(torch.tensor(4.0))
        self.offset = nn.Parameter(torch.tensor(0.0))

    def _taking_part(self, state: SlotsState, query_BW: Tensor) -> tuple[Tensor, Tensor]:
        filled_BN = state.birth_BN >= 0
        taken = min(self.nearest, fullest(filled_BN))
        query_B1W = nn.functional.normalize(self.asked(query_BW), dim=1)[:, None]
        with torch.no_grad():
            cosine_BN = self._cosine(query_B1W, state.values_BNW)
            if self.training:
                noise_BN = noise.uniform(noise.mix(state.key_B), state.step_B, self.slots)
                cosine_BN = cosine_BN + self.exploration * noise_BN.logit(eps=1e-6)
            cosine_BN = cosine_BN.masked_fill(~filled_BN, -torch.inf)
            chosen_BK = cosine_BN.sort(dim=1, descending=True, stable=True).indices[:, :taken]
            in_time_BK = state.birth_BN.gather(1, chosen_BK).argsort(dim=1, stable=True)
            order_BK = chosen_BK.gather(1, in_time_BK)
        index_BKW = order_BK[..., None].expand(-1, -1, self.word_size)
        cosine_BK = self._cosine(query_B1W, state.values_BNW.gather(1, index_BKW))
        relevance_BK = torch.sigmoid(self.sharpness * cosine_BK + self.offset)
        return order_BK, state.strength_BN.gather(1, order_BK) * relevance_BK

    def _cosine(self, query_B1W: Tensor, values_BNW: Tensor) -> Tensor:
        """Return the cosine of each vector to the query of its row, `[B, N]`; 0 for a zero."""
        told_BNW = nn.functional.normalize(self.told(values_BNW), dim=2)
        return (told_BNW * query_B1W).sum(dim=2)
