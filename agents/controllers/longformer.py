"""Longformer as the controller (Beltagy, Peters and Cohan 2020, arXiv:2004.05150).

Each token attends to its neighbours within `reach` (half of the paper's window w) and to a few
global tokens; a global token attends to all, by projections of its own, which begin as copies of
the others. Attention is causal or bidirectional; its cost is linear in the length. The soft token
and the answer are global: what speaks sees the whole text. Positions are rotary.

Letters: B rows, L tokens, D hidden size, H heads, E = D / H, G global tokens, N blocks of r tokens,
K keys of a block, A tokens of an answer so far, S = A + 1.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from stillknows.agents.controllers.block import PreNormBlock, expect_heads
from stillknows.agents.controllers.controller import Cache, WordController
from stillknows.agents.controllers.tokenizer import PAD
from stillknows.memory import expect


def sliding_attention(
    qkv_pBHLE: Tensor, present_BL: Tensor, global_BL: Tensor, reach: int, causal: bool
) -> Tensor:
    """Attend to what is within `reach` and to the global tokens, `[B, H, L, E]`.

    Args:
        qkv_pBHLE: queries, keys and values, `[3, B, H, L, E]`.
        present_BL: False where a token is padding; bool.
        global_BL: which tokens all others may attend to; bool.
        reach: tokens to each side (r).
        causal: whether tokens attend to none after them.
    """
    length, size = qkv_pBHLE.shape[3:]
    blocks = -(-length // reach)
    behind = 0 if causal else reach
    padded = nn.functional.pad(qkv_pBHLE, (0, 0, reach, blocks * reach - length + behind))
    query, key, value = padded
    queries_BHNrE = query[:, :, reach : (blocks + 1) * reach].unflatten(2, (blocks, reach))
    width = 2 * reach + behind
    keys_BHNEK, values_BHNEK = (z.unfold(2, width, reach) for z in (key, value))
    scores_BHNrK = queries_BHNrE @ keys_BHNEK / math.sqrt(size)
    local_BNK = (
        nn.functional.pad(present_BL & ~global_BL, (reach, blocks * reach - length + behind))
    ).unfold(1, width, reach)
    here_r, there_K = (torch.arange(n, device=key.device) for n in (reach, width))
    distance_rK = here_r[:, None] + reach - there_K[None, :]
    near_rK = (distance_rK >= (0 if causal else -reach)) & (distance_rK <= reach)
    seen_BNrK = local_BNK[:, :, None] & near_rK
    scores_BHNrK = scores_BHNrK.masked_fill(~seen_BNrK[:, None], -torch.inf)
    scores_BHNrG, values_BHGE = _global_scores(
        queries_BHNrE, qkv_pBHLE, present_BL & global_BL, causal
    )
    scores = torch.cat([scores_BHNrK, scores_BHNrG / math.sqrt(size)], dim=4)
    alone_BHNr1 = (scores == -torch.inf).all(dim=4, keepdim=True)  # padding: reads nothing
    weights = scores.masked_fill(alone_BHNr1, 0.0).softmax(dim=4).masked_fill(alone_BHNr1, 0.0)
    read_BHNrE = weights[..., :width] @ values_BHNEK.transpose(3, 4)
    read_BHNrE = read_BHNrE + weights[..., width:] @ values_BHGE[:, :, None]
    read_BHLE: Tensor = read_BHNrE.flatten(2, 3)[:, :, :length]
    return read_BHLE


def _global_scores(
    queries_BHNrE: Tensor, qkv_pBHLE: Tensor, global_BL: Tensor, causal: bool
) -> tuple[Tensor, Tensor]:
    """Return scores of all tokens for the global ones `[B, H, N, r, G]`, and these' values."""
    place_BG = _places(global_BL)
    taken_BG = global_BL.gather(1, place_BG)
    _, _, heads, _, size = qkv_pBHLE.shape
    index_BHGE = place_BG[:, None, :, None].expand(-1, heads, -1, size)
    key_BHGE, value_BHGE = (z.gather(2, index_BHGE) for z in qkv_pBHLE[1:])
    scores_BHNrG = queries_BHNrE @ key_BHGE[:, :, None].transpose(3, 4)
    seen_BNrG = taken_BG[:, None, None]
    if causal:
        blocks, reach = queries_BHNrE.shape[2:4]
        here_Nr1 = torch.arange(blocks * reach, device=key_BHGE.device).view(blocks, reach, 1)
        seen_BNrG = seen_BNrG & (place_BG[:, None, None] <= here_Nr1)
    return scores_BHNrG.masked_fill(~seen_BNrG[:, None], -torch.inf), value_BHGE


def _places(global_BL: Tensor) -> Tensor:
    """Return where the global tokens stand, `[B, G]`; rows that have fewer name others behind."""
    most = int(global_BL.sum(dim=1).max())
    return global_BL.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]


class LongformerBlock(PreNormBlock):
    """A block of sliding and global attention.

    Args:
        width: hidden size (D).
        heads: attention heads (H).
        reach: tokens to each side that attention reaches.
        causal: whether tokens attend to none after them.
    """

    query_key_value: nn.Linear
    global_query_key_value: nn.Linear

    def __init__(self, width: int, heads: int, reach: int, causal: bool) -> None:
        super().__init__(width, heads, query_key_value=3 * width, global_query_key_value=3 * width)
        self.reach, self.causal = reach, causal
        self.global_query_key_value.load_state_dict(self.query_key_value.state_dict())

    def forward(self, x_BLD: Tensor, present_BL: Tensor, global_BL: Tensor) -> Tensor:
        """Return the new `[B, L, D]`."""
        normed_BLD = self.norm_attention(x_BLD)
        at_1L = torch.arange(x_BLD.shape[1], device=x_BLD.device)[None]
        qkv = torch.stack(self.turned(self.query_key_value, normed_BLD, at_1L))
        read_BHLE = sliding_attention(qkv, present_BL, global_BL, self.reach, self.causal)
        if global_BL.any():
            whole = self.turned(self.global_query_key_value, normed_BLD, at_1L)
            read_BHLE = self._read_globally(whole, read_BHLE, present_BL, global_BL)
        return self.add(x_BLD, read_BHLE)

    def speak(self, x_BSD: Tensor, past_BLD: Tensor, present_BL: Tensor) -> Tensor:
        """Return the new `[B, S, D]` of global tokens after a text; causal among themselves."""
        length, steps = present_BL.shape[1], x_BSD.shape[1]
        normed = self.norm_attention(torch.cat([past_BLD, x_BSD], dim=1))
        at_BL = torch.arange(length, device=x_BSD.device).expand(len(x_BSD), -1)
        at_BS = present_BL.sum(dim=1, keepdim=True) + torch.arange(steps, device=x_BSD.device)
        at_BC = torch.cat([at_BL, at_BS], dim=1)
        query, key, value = self.turned(self.global_query_key_value, normed, at_BC)
        own_SS = torch.ones(steps, steps, dtype=torch.bool, device=x_BSD.device).tril()
        mask_BSC = torch.cat(
            [present_BL[:, None].expand(-1, steps, -1), own_SS.expand(len(x_BSD), -1, -1)], dim=2
        )
        read = nn.functional.scaled_dot_product_attention(
            query[:, :, length:], key, value, attn_mask=mask_BSC[:, None]
        )
        return self.add(x_BSD, read)

    def _read_globally(
        self,
        parts: tuple[Tensor, Tensor, Tensor],
        read_BHLE: Tensor,
        present_BL: Tensor,
        global_BL: Tensor,
    ) -> Tensor:
        """Let the global tokens attend to all, by projections of their own."""
        query, key, value = parts
        place_BG = _places(global_BL)
        index_BHGE = place_BG[:, None, :, None].expand(-1, self.heads, -1, query.shape[3])
        seen_BGL = present_BL[:, None].expand(-1, place_BG.shape[1], -1)
        if self.causal:
            at_L = torch.arange(present_BL.shape[1], device=query.device)
            seen_BGL = seen_BGL & (at_L <= place_BG[..., None])
        whole_BHGE = nn.functional.scaled_dot_product_attention(
            query.gather(2, index_BHGE), key, value, attn_mask=seen_BGL[:, None]
        )
        all_BHLE = read_BHLE.scatter(2, index_BHGE, whole_BHGE.to(read_BHLE.dtype))
        return torch.where(global_BL[:, None, :, None], all_BHLE, read_BHLE)


class Longformer(WordController):
    """A transformer over words whose cost is linear in the length.

    Args:
        vocabulary: number of tokens (V).
        width: hidden size (D), a multiple of twice the heads.
        layers: blocks.
        heads: attention heads (H).
        reach: tokens to each side that attention reaches, half of the paper's window.
        causal: whether tokens attend to none after them.

    Raises:
        ValueError: if the width is no multiple of twice the heads, or nothing is in reach.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 64,
        layers: int = 1,
        heads: int = 4,
        reach: int = 32,
        causal: bool = True,
    ) -> None:
        super().__init__(vocabulary, width)
        expect.whole(1, layers=layers, heads=heads, reach=reach)
        expect_heads(width, heads)
        self.blocks = nn.ModuleList(
            LongformerBlock(width, heads, reach, causal) for _ in range(layers)
        )

    def read(self, tokens_BL: Tensor, global_BL: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Read texts.

        Args:
            tokens_BL: `PAD` behind, int64 `[B, L]`.
            global_BL: which tokens attend to all and are attended to by all, bool.

        Returns:
            The last layer's hidden states `[B, L, D]` and the input of each layer.
        """
        x_BLD, inputs = self.embedding(tokens_BL), []
        for block in self.blocks:
            inputs.append(x_BLD)
            x_BLD = block(x_BLD, tokens_BL != PAD, global_BL)
        return x_BLD, inputs

    def encode(self, tokens_BL: Tensor, own_BL: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Read texts; of more than one sentence, the last's tokens are global.

        The cache holds each layer's input.
        """
        present_BL = tokens_BL != PAD
        global_BL = torch.zeros_like(present_BL) if own_BL is None else own_BL
        hidden_BLD, inputs = self.read(tokens_BL, global_BL)
        vector_BD = self._as_vector(hidden_BLD, present_BL if own_BL is None else own_BL)
        return vector_BD, [(x_BLD, present_BL) for x_BLD in inputs]

    def answer_logits(
        self, fused_BD: Tensor, text_BL: Tensor, cache: Cache, answer_BA: Tensor
    ) -> Tensor:
        """Score the next tokens, `[B, A + 1, V]`."""
        x_BSD = torch.cat([fused_BD[:, None], self.embedding(answer_BA)], dim=1)
        for block, (past_BLD, present_BL) in zip(self.blocks, cache, strict=True):
            x_BSD = cast(LongformerBlock, block).speak(x_BSD, past_BLD, present_BL)
        return self._as_logits(x_BSD)
