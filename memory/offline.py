"""A small policy that learns from a log of memory operations: what will be used, stays.

It sees no contents, only numbers of each slot: age, idleness, use so far, likeness to the
candidate, and whether it is the candidate; so it works with any encoder, in any budget. From a log
it learns to predict the use to come (`stillknows.agents.offline_learning`); the slot with the least
leaves.

Letters: B rows, N slots, M = N + 1 (the candidate is last).
"""

import torch
from torch import Tensor, nn

from stillknows.memory.interface import Decision, Features, written


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
        similarity_BN, filled_BN = features.similarity_BN, features.filled_BN
        nearest_B1 = similarity_BN.masked_fill(~filled_BN, -1.0).amax(dim=1, keepdim=True)
        past_3BN = torch.stack([features.age_BN, features.idle_BN, features.usage_BN]).log1p()
        past_3BM = nn.functional.pad(past_3BN, (0, 1))
        new_BM = torch.zeros_like(past_3BM[0])
        new_BM[:, -1] = 1
        columns = [
            *past_3BM,
            torch.cat([similarity_BN, nearest_B1], dim=1),
            nearest_B1.expand_as(new_BM),
            new_BM,
            filled_BN.float().mean(dim=1, keepdim=True).expand_as(new_BM),
        ]
        return torch.stack(columns, dim=2)

    def decide(self, features: Features) -> Decision:
        """Return one-hot decisions; among equals the candidate stays: it is the later word."""
        with torch.inference_mode():
            use_BM = self.expected_use(features)
        held_BN = use_BM[:, :-1].masked_fill(~features.filled_BN, torch.inf)
        full_B = features.filled_BN.all(dim=1)
        kept_B = ~full_B | (use_BM[:, -1] >= held_BN.amin(dim=1))
        return written(features, kept_B, -held_BN)
