"""Fusing what was read in the episode and recalled from the life with what was seen.

Letters: B rows, D hidden size, R reads, W word size of a read, V size of a recalled vector.
"""

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """`x = seen + W_r read`, `fused = x + g * W_v recalled`, `g = sigmoid(U [x; W_v recalled])`.

    Args:
        width: hidden size (D).
        read: numbers in all reads together (R W), 0 without a working memory.
        recalled: size of a recalled vector (V), 0 without recall.
    """

    def __init__(self, width: int, read: int, recalled: int) -> None:
        super().__init__()
        self.read = nn.Linear(read, width, bias=False) if read else None
        self.recalled = nn.Linear(recalled, width, bias=False) if recalled else None
        self.gate = nn.Linear(2 * width, width) if recalled else None
        if self.recalled is not None:
            nn.init.zeros_(self.recalled.weight)  # at first the life says nothing

    def forward(
        self, seen_BD: Tensor, read_BRW: Tensor | None, recalled_BV: Tensor | None
    ) -> Tensor:
        """Return `[B, D]`; what was not read or recalled adds nothing."""
        x_BD = seen_BD
        if self.read is not None and read_BRW is not None:
            x_BD = x_BD + self.read(read_BRW.flatten(1))
        if self.recalled is None or self.gate is None or recalled_BV is None:
            return x_BD
        recalled_BD = self.recalled(recalled_BV)
        gate_BD = torch.sigmoid(self.gate(torch.cat([x_BD, recalled_BD], dim=1)))
        fused_BD: Tensor = x_BD + gate_BD * recalled_BD
        return fused_BD


class Concatenation(nn.Module):
    """`fused = seen + W [read; recalled]`.

    Args:
        width: hidden size (D).
        read: numbers in all reads together (R W), 0 without a working memory.
        recalled: size of a recalled vector (V), 0 without recall.
    """

    def __init__(self, width: int, read: int, recalled: int) -> None:
        super().__init__()
        self.sizes = (read, recalled)
        self.project = nn.Linear(read + recalled, width, bias=False) if read + recalled else None

    def forward(
        self, seen_BD: Tensor, read_BRW: Tensor | None, recalled_BV: Tensor | None
    ) -> Tensor:
        """Return `[B, D]`; what was not read or recalled counts as zeros."""
        if self.project is None:
            return seen_BD
        parts = [
            seen_BD.new_zeros(len(seen_BD), size) if part is None else part.flatten(1)
            for part, size in zip((read_BRW, recalled_BV), self.sizes, strict=True)
        ]
        projected_BD: Tensor = self.project(torch.cat(parts, dim=1))
        return seen_BD + projected_BD
