"""What the blocks of transformers share: heads, rotary positions, norms before, a network after.

Letters: B rows, L tokens, D hidden size, H heads, E = D / H.
"""

import torch
from torch import Tensor, nn


def rotate(x_pBHLE: Tensor, position_BL: Tensor) -> Tensor:
    """Turn each pair of numbers by its position (int64 `[B, L]`) times its frequency.

    Rotary positions (Su et al. 2021, RoFormer, arXiv:2104.09864) of base 1,000; the first axis
    holds what is turned alike: queries and keys.
    """
    half = x_pBHLE.shape[4] // 2
    exact = torch.promote_types(x_pBHLE.dtype, torch.float32)
    frequency = 1000.0 ** (-torch.arange(half, device=x_pBHLE.device, dtype=exact) / half)
    angle_B1LE = position_BL[:, None, :, None] * frequency
    cos, sin = angle_B1LE.cos().to(x_pBHLE), angle_B1LE.sin().to(x_pBHLE)
    a, b = x_pBHLE.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def expect_heads(width: int, heads: int) -> None:
    """Raise a ValueError if heads do not share a width whose numbers are turned in pairs."""
    if width % (2 * heads):
        raise ValueError(f"width={width} is no multiple of 2 x heads={heads}; change one.")


class PreNormBlock(nn.Module):
    """A block without its attention: `x + W_o read`, then `x + network(norm(x))`.

    Args:
        width: hidden size (D).
        heads: attention heads (H).
        **projections: names of linear maps of the normed input, and how many numbers they give.
    """

    def __init__(self, width: int, heads: int, **projections: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_network = nn.RMSNorm(width), nn.RMSNorm(width)
        for name, size in projections.items():
            setattr(self, name, nn.Linear(width, size, bias=False))
        self.out = nn.Linear(width, width, bias=False)
        self.network = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        nn.init.normal_(self.out.weight, std=0.02)

    def add(self, x_BLD: Tensor, read_BHLE: Tensor) -> Tensor:
        """Return the block's output `[B, L, D]` from its input and what attention read."""
        x_BLD = x_BLD + self.out(read_BHLE.transpose(1, 2).reshape(x_BLD.shape))
        hidden_BLD: Tensor = x_BLD + self.network(self.norm_network(x_BLD))
        return hidden_BLD

    def split(self, z_BLD: Tensor) -> Tensor:
        """Return `[B, H, L, E]`."""
        batch, length, width = z_BLD.shape
        return z_BLD.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)

    def turned(
        self, linear: nn.Linear, normed_BLD: Tensor, position_BL: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, `[B, H, L, E]` each, the first two turned."""
        batch, length, _ = normed_BLD.shape
        parts = linear(normed_BLD).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key = rotate(parts[:2], position_BL)
        return query, key, parts[2]
