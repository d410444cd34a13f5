"""A small causal transformer as the controller.

Pre-norm blocks, rotary positions (Su et al. 2021, arXiv:2104.09864, equation 34), a key-value
cache that ends with the sentence. Letters: B rows, L tokens, D hidden size, H heads, E = D / H.
"""

import torch
from torch import Tensor, nn

from stillknows.agents.controllers.block import PreNormBlock, expect_heads
from stillknows.agents.controllers.controller import Cache, WordController
from stillknows.agents.controllers.tokenizer import PAD
from stillknows.memory import expect


class Block(PreNormBlock):
    """A block with a key-value cache.

    Args:
        width: hidden size (D).
        heads: attention heads (H).
    """

    query_key_value: nn.Linear

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, query_key_value=3 * width)

    def forward(
        self,
        x_BLD: Tensor,
        mask_BLC: Tensor,
        position_BL: Tensor,
        cache: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the new `[B, L, D]` and keys and values `[B, H, C, E]` of all so far."""
        normed_BLD = self.norm_attention(x_BLD)
        query, key, value = self.turned(self.query_key_value, normed_BLD, position_BL)
        if cache is not None:
            key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
        read = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask_BLC[:, None]
        )
        return self.add(x_BLD, read), (key, value)


class Transformer(WordController):
    """A causal transformer over words.

    Args:
        vocabulary: number of tokens (V).
        width: hidden size (D), a multiple of twice the heads.
        layers: blocks.
        heads: attention heads (H).
        longest: how many tokens a text may have.
        absolute: whether tokens know their number in the text as well, by a learned vector each,
            which helps to tell apart the words of one sentence; texts of many sentences are
            learned sooner without.

    Raises:
        ValueError: if the width is no multiple of twice the heads, or a text is longer.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 64,
        layers: int = 1,
        heads: int = 4,
        longest: int = 128,
        absolute: bool = True,
    ) -> None:
        super().__init__(vocabulary, width)
        expect.whole(1, layers=layers, heads=heads, longest=longest)
        expect_heads(width, heads)
        self.longest = longest
        self.positions = nn.Parameter(torch.randn(longest, width) * 0.5) if absolute else None
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def encode(self, tokens_BL: Tensor, own_BL: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Read texts; the cache holds keys and values, `[B, H, L, E]` each."""
        return self._read(self._embed(tokens_BL), tokens_BL != PAD if own_BL is None else own_BL)

    def _read(self, x_BLD: Tensor, own_BL: Tensor) -> tuple[Tensor, Cache]:
        """Read embedded texts; return vectors of their own tokens, and the cache."""
        length = x_BLD.shape[1]
        mask_LL = torch.ones(length, length, dtype=torch.bool, device=x_BLD.device).tril()
        mask_BLL = mask_LL.expand(len(x_BLD), -1, -1)
        position_1L = torch.arange(length, device=x_BLD.device)[None]
        cache: Cache = []
        for block in self.blocks:
            x_BLD, key_value = block(x_BLD, mask_BLL, position_1L, None)
            cache.append(key_value)
        return self._as_vector(x_BLD, own_BL), cache

    def answer_logits(
        self, fused_BD: Tensor, text_BL: Tensor, cache: Cache, answer_BA: Tensor
    ) -> Tensor:
        """Score the next tokens, `[B, A + 1, V]`; padding of the text is not attended to."""
        present_BL = text_BL != PAD
        x_BSD = torch.cat([fused_BD[:, None], self._placed(answer_BA)], dim=1)
        steps = x_BSD.shape[1]
        own_SS = torch.ones(steps, steps, dtype=torch.bool, device=x_BSD.device).tril()
        seen_BSL = present_BL[:, None].expand(-1, steps, -1)
        mask_BSC = torch.cat([seen_BSL, own_SS.expand(len(x_BSD), -1, -1)], dim=2)
        position_BS = present_BL.sum(1, keepdim=True) + torch.arange(steps, device=x_BSD.device)
        for block, past in zip(self.blocks, cache, strict=True):
            x_BSD, _ = block(x_BSD, mask_BSC, position_BS, past)
        return self._as_logits(x_BSD)

    def _embed(self, tokens_BL: Tensor) -> Tensor:
        if tokens_BL.shape[1] > self.longest:
            raise ValueError(
                f"A text has {tokens_BL.shape[1]} tokens, and this controller reads "
                f"{self.longest}: raise controller.longest, or lower agent.context."
            )
        return self._placed(tokens_BL)

    def _placed(self, tokens_BL: Tensor) -> Tensor:
        """Return embedded tokens, told apart by their numbers in the text or the answer."""
        embedded: Tensor = self.embedding(tokens_BL)
        if self.positions is None:
            return embedded
        if tokens_BL.shape[1] > self.longest:
            raise ValueError(
                f"An answer has {tokens_BL.shape[1]} tokens, and this controller says "
                f"{self.longest}: raise controller.longest, or lower agent.answer_length."
            )
        return embedded + self.positions[: tokens_BL.shape[1]]
