"""Fusing what was read in the episode and recalled from the life with what was seen.

Letters: B rows, D hidden size, R reads, W word size of a read, V size of a recalled vector, I items
that attention meets, H heads, E = D / H.
"""

import math

import torch
from torch import Tensor, nn

from stillknows.memory import expect


class Gate(nn.Module):
    """`x = seen + W_r read`, `fused = x + g * W_v recalled`, `g = sigmoid(U [x; W_v recalled])`.

    Args:
        width: hidden size (D).
        reads: how many reads there are (R), 0 without a working memory.
        word_size: numbers of each (W).
        recalled: size of a recalled vector (V), 0 without recall.
    """

    def __init__(self, width: int, reads: int, word_size: int, recalled: int) -> None:
        super().__init__()
        self.read = nn.Linear(reads * word_size, width, bias=False) if reads else None
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
        reads: how many reads there are (R), 0 without a working memory.
        word_size: numbers of each (W).
        recalled: size of a recalled vector (V), 0 without recall.
    """

    def __init__(self, width: int, reads: int, word_size: int, recalled: int) -> None:
        super().__init__()
        self.sizes = (reads * word_size, recalled)
        size = sum(self.sizes)
        self.project = nn.Linear(size, width, bias=False) if size else None

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


class CrossAttention(nn.Module):
    """`fused = seen + W_o softmax(q.k / sqrt(E)) v`, heads side by side.

    `q = W_q seen`; keys and values are of the reads (`K_r read`, `V_r read`), of what was recalled
    (`K_v recalled`, `V_v recalled`) and of what was seen itself, so that nothing need be read.

    Args:
        width: hidden size (D), a multiple of the heads.
        reads: how many reads there are (R), 0 without a working memory.
        word_size: numbers of each (W).
        recalled: size of a recalled vector (V), 0 without recall.
        heads: attention heads (H).

    Raises:
        ValueError: if the heads do not divide the width.
    """

    def __init__(
        self, width: int, reads: int, word_size: int, recalled: int, heads: int = 4
    ) -> None:
        super().__init__()
        expect.whole(1, heads=heads)
        if width % heads:
            raise ValueError(f"width={width} is no multiple of heads={heads}; change one.")
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.seen = nn.Linear(width, 2 * width, bias=False)
        self.read = nn.Linear(word_size, 2 * width, bias=False) if reads else None
        self.recalled = nn.Linear(recalled, 2 * width, bias=False) if recalled else None
        self.out = nn.Linear(width, width, bias=False)
        if self.recalled is not None:
            nn.init.zeros_(self.recalled.weight[width:].detach())  # at first the life says nothing

    def forward(
        self, seen_BD: Tensor, read_BRW: Tensor | None, recalled_BV: Tensor | None
    ) -> Tensor:
        """Return `[B, D]`; what was not read or recalled is not met."""
        items = [self.seen(seen_BD)[:, None]]
        if self.read is not None and read_BRW is not None:
            items.append(self.read(read_BRW))
        if self.recalled is not None and recalled_BV is not None:
            items.append(self.recalled(recalled_BV)[:, None])
        if len(items) == 1:
            return seen_BD
        keys_BID, values_BID = torch.cat(items, dim=1).chunk(2, dim=2)
        query_BH1E, keys_BHIE, values_BHIE = (
            z.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for z in (self.query(seen_BD)[:, None], keys_BID, values_BID)
        )
        scores_BH1I = query_BH1E @ keys_BHIE.transpose(2, 3) / math.sqrt(query_BH1E.shape[3])
        fused_BHE = (scores_BH1I.softmax(dim=3) @ values_BHIE)[:, :, 0]
        fused_BD: Tensor = seen_BD + self.out(fused_BHE.flatten(1))
        return fused_BD
