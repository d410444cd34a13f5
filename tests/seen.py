"""What policies are shown."""

import torch
from torch import Tensor

from stillknows.memory.interface import Features
from stillknows.memory.noise import uniform

N, W = 4, 3


def features(filled_BN: Tensor, **changes: Tensor) -> Features:
    rows, slots = filled_BN.shape
    nothing_BN = torch.zeros(rows, slots)
    base = Features(
        candidate_BW=torch.zeros(rows, W),
        similarity_BN=nothing_BN,
        usage_BN=nothing_BN,
        age_BN=nothing_BN,
        idle_BN=nothing_BN,
        filled_BN=filled_BN,
        seen_B=torch.zeros(rows, dtype=torch.int64),
        noise_BM=uniform(torch.arange(rows), torch.zeros(rows).long(), slots + 1),
        known_B=torch.full((rows,), -1),
        namesakes_BM=torch.nn.functional.pad(filled_BN.long(), (0, 1)),
    )
    return base._replace(**changes)


def full(rows: int = 1, slots: int = N) -> Tensor:
    return torch.ones(rows, slots, dtype=torch.bool)
