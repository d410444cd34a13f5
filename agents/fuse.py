"""Fusing what was recalled from a life with what was read in the episode.

Letters: B rows, D hidden size, V size of a recalled vector.
"""

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """`fused = read + g * W recalled`, `g = sigmoid(U [read; W recalled])`, one g a number.

    Args:
        width: hidden size (D).
        recalled: size of a recalled vector (V).
    """

    def __init__(self, width: int, recalled: int) -> None:
        super().__init__()
        self.recalled = nn.Linear(recalled, width, bias=False)
        self.gate = nn.Linear(2 * width, width)
        nn.init.constant_(self.gate.bias, -1.0)

    def forward(self, read_BD: Tensor, recalled_BV: Tensor | None) -> Tensor:
        """Return `[B, D]`; without a recalled vector, what was read."""
        if recalled_BV is None:
            return read_BD
        recalled_BD = self.recalled(recalled_BV)
        gate_BD = torch.sigmoid(self.gate(torch.cat([read_BD, recalled_BD], dim=1)))
        return read_BD + gate_BD * recalled_BD


class Concatenation(nn.Module):
    """`fused = read + W [read; recalled]`.

    Args:
        width: hidden size (D).
        recalled: size of a recalled vector (V).
    """

    def __init__(self, width: int, recalled: int) -> None:
        super().__init__()
        self.project = nn.Linear(width + recalled, width)
        nn.init.normal_(self.project.weight, std=0.02)

    def forward(self, read_BD: Tensor, recalled_BV: Tensor | None) -> Tensor:
        """Return `[B, D]`; without a recalled vector, what was read."""
        if recalled_BV is None:
            return read_BD
        return read_BD + self.project(torch.cat([read_BD, recalled_BV], dim=1))
