"""A small policy that learns from a log of memory operations: what will be used, stays.

It sees no contents, only numbers of each slot: age, idleness, use so far, likeness to the
candidate, and whether it is the candidate; so it works with any encoder, in any budget. From a log
it learns to predict the use to come (`offline_learning.py` of agents/); the slot with the least
leaves.

Letters: B rows, N slots, M = N + 1 (the candidate is last).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stillknows.memory import native
from stillknows.memory.interface import Decision, Features, written
from stillknows.memory.policies.acting import on_cpu, through
from stillknows.memory.policies.choosing import Terms, choose
from stillknows.memory.policies.fused import expected_use


class OfflinePolicy(nn.Module):
    """Predicts the use to come of each slot, and of the candidate.

    Args:
        hidden: width of its network.
    """

    needs_similarity = fills_room = True
    needs_noise = False

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(7, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, 1),
        )

    def expected_use(self, features: Features) -> Tensor:
        """Return the logit of the use to come of each slot and, last, the candidate, `[B, M]`."""
        uses_BM: Tensor = self.network(self.numbers(features))[..., 0]
        return uses_BM

    @staticmethod
    def numbers(features: Features) -> Tensor:
        """Return what the network sees, `[B, M, 7]`."""
        rows, slots = features.filled_BN.shape
        seen_7BM = features.age_BN.new_zeros(7, rows, slots + 1)
        _see(torch, seen_7BM, *_looked_at(features))
        return seen_7BM.permute(1, 2, 0)

    def _acted(self, features: Features) -> Tensor:
        """Return the expected use without a gradient, on a CPU."""
        if native.library() is not None:
            return expected_use(self.network, features)
        rows, slots = features.filled_BN.shape
        seen_7BM = np.zeros((7, rows, slots + 1), np.float32)
        _see(np, seen_7BM, *(part.numpy() for part in _looked_at(features)))
        use_X = through(self.network, seen_7BM.reshape(7, -1))
        return torch.from_numpy(use_X.reshape(rows, slots + 1))

    def decide(self, features: Features) -> Decision:
        """Return one-hot decisions; among equals the candidate stays: it is the later word."""
        if on_cpu(features.age_BN):
            use_BM = self._acted(features)
            return choose(features.filled_BN, use_BM, use_BM, Terms())
        with torch.inference_mode():
            use_BM = self.expected_use(features)
        held_BN = use_BM[:, :-1].masked_fill(~features.filled_BN, torch.inf)
        full_B = features.filled_BN.all(dim=1)
        kept_B = ~full_B | (use_BM[:, -1] >= held_BN.amin(dim=1))
        return written(features, kept_B, -held_BN)


def _looked_at(features: Features) -> tuple[Tensor, ...]:
    past = features.age_BN, features.idle_BN, features.usage_BN
    return features.filled_BN, features.similarity_BN, *past


def _see(of: Any, seen_7BM: Any, filled_BN: Any, similarity_BN: Any, *past_BN: Any) -> None:
    """Put what the network sees: in tensors, where they are `of` torch, or in numpy's arrays.

    It is the past (logarithms), likeness to the candidate, and that of the nearest, whether it is
    the candidate, and how full the memory is.
    """
    alike_BN = of.where(filled_BN, similarity_BN, -1.0)
    nearest_B1 = of.amax(alike_BN, axis=1, keepdims=True)
    seen_7BM[:3, :, :-1] = of.log1p(of.stack(past_BN))
    seen_7BM[3, :, :-1], seen_7BM[3, :, -1:], seen_7BM[4] = similarity_BN, nearest_B1, nearest_B1
    seen_7BM[5, :, -1] = 1
    seen_7BM[6] = (filled_BN.sum(1) / filled_BN.shape[1])[:, None]
