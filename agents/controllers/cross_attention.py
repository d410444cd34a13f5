"""Gated cross-attention: a block of a language model meets what is remembered.

As in Flamingo (Alayrac et al. 2022, arXiv:2204.14198, section 2.2): the gate begins closed, so that
at first a pretrained model answers as it would alone. Letters: B rows, S tokens, M hidden size,
D size of an item, I items, H heads, E = M / H.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn


class GatedCrossAttention(nn.Module):
    """`x + tanh(a) W_o softmax(q.k / sqrt(E)) v`, `q = W_q norm(x)`, `[k; v] = W item`.

    Args:
        hidden: of the model (M).
        size: of an item (D).
        heads: attention heads (H); fewer where they do not divide M: the greatest number that
            divides both.

    Attributes:
        items_BID: what is remembered, `[B, I, D]`; None where nothing is to be met.
        last: how many positions, the last ones, meet it.
    """

    def __init__(self, hidden: int, size: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = math.gcd(heads, hidden)
        self.norm = nn.RMSNorm(hidden)
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.key_value = nn.Linear(size, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)
        self.gate = nn.Parameter(torch.zeros(()))
        self.items_BID: Tensor | None = None
        self.last = 0

    def forward(self, x_BSM: Tensor, items_BID: Tensor) -> Tensor:
        """Return the new `[B, S, M]`."""
        key_BIM, value_BIM = self.key_value(items_BID).chunk(2, dim=2)
        query, key, value = (
            z.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for z in (self.query(self.norm(x_BSM)), key_BIM, value_BIM)
        )
        read_BHSE = nn.functional.scaled_dot_product_attention(query, key, value)
        met_BSM: Tensor = self.out(read_BHSE.transpose(1, 2).flatten(2))
        return x_BSM + self.gate.tanh() * met_BSM

    def hook(self, block: nn.Module, inputs: Any, output: Any) -> Any:
        """Change what a block returns (a forward hook), where there is something to be met."""
        if self.items_BID is None:
            return output
        x_BSM = output[0] if isinstance(output, tuple) else output
        text_BSM, new_BSM = x_BSM[:, : -self.last], x_BSM[:, -self.last :]
        new_BSM = self(new_BSM.float(), self.items_BID).to(x_BSM.dtype)
        new_BSM = torch.cat([text_BSM, new_BSM], dim=1)
        return (new_BSM, *output[1:]) if isinstance(output, tuple) else new_BSM
