"""Transformer-XL as the controller (Dai et al. 2019, "Transformer-XL", arXiv:1901.02860).

Attention by relative positions over the segment at hand and a memory of what the segments before
it looked like in each layer; no gradient reaches the memory. Unlike the paper's, layers norm their
input (pre-norm), and no token attends further back than `memory_length`, wherever its segment
began: so a text read in segments has the same vectors as one read at once.

Letters: B rows, L tokens of a segment, M of the memory, C = M + L, D hidden size, H heads,
E = D / H, A tokens of an answer so far, S = A + 1.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stillknows.agents.controllers.block import PreNormBlock
from stillknows.agents.controllers.controller import Cache, WordController
from stillknows.agents.controllers.tokenizer import PAD
from stillknows.memory import expect


class SegmentMemory(NamedTuple):
    """What earlier segments looked like: newest last, blank places first.

    Attributes:
        hidden_BMD: the input of each layer, one tensor a layer, `[B, M, D]`.
        present_BM: which places are taken, bool; of all layers.
    """

    hidden_BMD: tuple[Tensor, ...]
    present_BM: Tensor


def sinusoids(distances: int, like_BLD: Tensor) -> Tensor:
    """Return R_0 to R_(distances - 1), `[distances, D]`: sines, then cosines."""
    width = like_BLD.shape[2]
    even = torch.arange(0, width, 2, device=like_BLD.device, dtype=like_BLD.dtype)
    distance = torch.arange(distances, device=like_BLD.device, dtype=like_BLD.dtype)
    angle = distance[:, None] * 10000.0 ** (-even / width)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class RelativeBlock(PreNormBlock):
    """A block with the relative attention of section 3.3.

    Args:
        width: hidden size (D).
        heads: attention heads (H).
        memory_length: how many tokens back attention reaches (M).
    """

    query: nn.Linear
    key_value: nn.Linear  # W_k,E and W_v
    position: nn.Linear  # W_k,R

    def __init__(self, width: int, heads: int, memory_length: int) -> None:
        super().__init__(width, heads, query=width, key_value=2 * width, position=width)
        self.memory_length = memory_length
        self.content_bias = nn.Parameter(torch.zeros(heads, 1, width // heads))  # u
        self.position_bias = nn.Parameter(torch.zeros(heads, 1, width // heads))  # v

    def forward(self, x_BLD: Tensor, memory_BMD: Tensor, present_BC: Tensor) -> Tensor:
        """Return the new `[B, L, D]`; a token attends to itself and what is present before it.

        `A_ij = q_i.k_j + q_i.(W_kR R_(i-j)) + u.k_j + v.(W_kR R_(i-j))`, over sqrt(E).
        """
        steps, known = x_BLD.shape[1], present_BC.shape[1]
        context_BCD = self.norm_attention(torch.cat([memory_BMD, x_BLD], dim=1))
        query_BHLE = self.split(self.query(context_BCD[:, known - steps :]))
        key_BHCE, value_BHCE = map(self.split, self.key_value(context_BCD).chunk(2, dim=2))
        place_C = torch.arange(known, device=x_BLD.device)
        distance_LC = place_C[known - steps :, None] - place_C[None, :]
        relative_1HNE = self.split(self.position(sinusoids(known, x_BLD))[None])
        by_distance_BHLN = (query_BHLE + self.position_bias) @ relative_1HNE.transpose(2, 3)
        index_BHLC = distance_LC.clamp(min=0).expand(*by_distance_BHLN.shape[:3], -1)
        bias_BHLC = by_distance_BHLN.gather(3, index_BHLC) / math.sqrt(query_BHLE.shape[3])
        seen_LC = (distance_LC >= 0) & (distance_LC <= self.memory_length)
        seen_BLC = seen_LC & (present_BC[:, None] | (distance_LC == 0))
        read_BHLE = nn.functional.scaled_dot_product_attention(
            query_BHLE + self.content_bias,
            key_BHCE,
            value_BHCE,
            attn_mask=bias_BHLC.masked_fill(~seen_BLC[:, None], -torch.inf),
        )
        return self.add(x_BLD, read_BHLE)


class TransformerXL(WordController):
    """A causal transformer over words with segment recurrence.

    Args:
        vocabulary: number of tokens (V).
        width: hidden size (D), a multiple of the heads and even.
        layers: blocks.
        heads: attention heads (H).
        memory_length: how many tokens back attention reaches, and how many are remembered (M).

    Raises:
        ValueError: if the heads do not divide the width, it is odd, or the memory has no length.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 64,
        layers: int = 1,
        heads: int = 4,
        memory_length: int = 128,
    ) -> None:
        super().__init__(vocabulary, width)
        expect.whole(1, layers=layers, heads=heads, memory_length=memory_length)
        if width % heads or width % 2:
            raise ValueError(f"width={width} is odd or no multiple of heads={heads}; change one.")
        self.memory_length = memory_length
        self.blocks = nn.ModuleList(
            RelativeBlock(width, heads, memory_length) for _ in range(layers)
        )

    def initial_memory(self, batch: int) -> SegmentMemory:
        """Return an empty memory, of no places."""
        weight = self.embedding.weight
        blank_BMD = weight.new_zeros(batch, 0, self.width)
        return SegmentMemory((blank_BMD,) * len(self.blocks), blank_BMD[..., 0].bool())

    def read(self, tokens_BL: Tensor, memory: SegmentMemory) -> tuple[Tensor, SegmentMemory]:
        """Read the next segment of each row.

        Args:
            tokens_BL: `PAD` behind, int64 `[B, L]`.
            memory: of the segments before; blank where an episode begins.

        Returns:
            The last layer's hidden states `[B, L, D]`, and the memory of up to `memory_length`
            tokens, this segment's last, without their history.
        """
        segment, hidden_BLD = self._read(self.embedding(tokens_BL), tokens_BL != PAD, memory)
        present_BC = torch.cat([memory.present_BM, tokens_BL != PAD], dim=1)
        order_BC = present_BC.to(torch.int8).argsort(dim=1, stable=True)
        newest_BM = order_BC[:, -self.memory_length :]
        kept = [
            torch.cat([old, new], dim=1)
            .detach()
            .gather(1, newest_BM[..., None].expand(-1, -1, self.width))
            for old, new in zip(memory.hidden_BMD, segment, strict=True)
        ]
        return hidden_BLD, SegmentMemory(tuple(kept), present_BC.gather(1, newest_BM))

    def encode(self, tokens_BL: Tensor, own_BL: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Read texts, segment by segment from the end; only the last segment has a history.

        The cache holds each layer's input, the memory first.
        """
        own_BL = tokens_BL != PAD if own_BL is None else own_BL
        order_BL = (tokens_BL != PAD).to(torch.int8).argsort(dim=1, stable=True)  # blanks first
        tokens_BL, own_BL = tokens_BL.gather(1, order_BL), own_BL.gather(1, order_BL)
        memory, begin = self.initial_memory(len(tokens_BL)), 0
        rest = max(0, tokens_BL.shape[1] - self.memory_length)
        with torch.no_grad():
            for end in range(
                rest % self.memory_length or self.memory_length, rest + 1, self.memory_length
            ):
                _, memory = self.read(tokens_BL[:, begin:end], memory)
                begin = end
        last_BL = tokens_BL[:, -self.memory_length :]
        inputs, hidden_BLD = self._read(self.embedding(last_BL), last_BL != PAD, memory)
        vector_BD = self._as_vector(hidden_BLD, own_BL[:, -self.memory_length :])
        present_BC = torch.cat([memory.present_BM, last_BL != PAD], dim=1)
        known = zip(memory.hidden_BMD, inputs, strict=True)
        return vector_BD, [(torch.cat(parts, dim=1), present_BC) for parts in known]

    def answer_logits(
        self, fused_BD: Tensor, text_BL: Tensor, cache: Cache, answer_BA: Tensor
    ) -> Tensor:
        """Score the next tokens, `[B, A + 1, V]`: the next segment, the text its memory."""
        x_BSD = torch.cat([fused_BD[:, None], self.embedding(answer_BA)], dim=1)
        memory = SegmentMemory(tuple(x_BCD for x_BCD, _ in cache), cache[0][1])
        spoken_BS = torch.ones(x_BSD.shape[:2], dtype=torch.bool, device=x_BSD.device)
        return self._as_logits(self._read(x_BSD, spoken_BS, memory)[1])

    def _read(
        self, x_BLD: Tensor, present_BL: Tensor, memory: SegmentMemory
    ) -> tuple[list[Tensor], Tensor]:
        """Return the input of each layer, and the last layer's output."""
        present_BC = torch.cat([memory.present_BM, present_BL], dim=1)
        inputs: list[Tensor] = []
        for block, memory_BMD in zip(self.blocks, memory.hidden_BMD, strict=True):
            inputs.append(x_BLD)
            x_BLD = block(x_BLD, memory_BMD, present_BC)
        return inputs, x_BLD
