"""A controller that sees: a transformer in whose sentences arrays stand, each as one token.

An array is said as a word for each of its numbers (`stillknows.envs.examples`); these are taken
together by the encoder that an observation of its shape has (`encoder.py`). Letters: B rows,
L tokens of a text, M of what is left with arrays as one, N numbers of an array, P arrays,
D hidden size.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from stillknows.agents.controllers.controller import Cache
from stillknows.agents.controllers.encoder import SpaceEncoder
from stillknows.agents.controllers.tokenizer import PAD, Tokenizer
from stillknows.agents.controllers.transformer import Transformer
from stillknows.envs.examples import MARK


class Seeing(Transformer):
    """A causal transformer over words and arrays.

    Args:
        vocabulary: number of tokens (V); the last of them are the levels of arrays.
        shape: of an array.
        levels: how many different numbers of an array can be told apart.
        width: hidden size (D).
        **settings: of `Transformer`.
    """

    def __init__(
        self, vocabulary: int, shape: Sequence[int], levels: int, width: int = 64, **settings: Any
    ) -> None:
        super().__init__(vocabulary, width, **settings)
        self.first = vocabulary - levels
        space = spaces.Box(0, levels - 1, tuple(shape), np.float32)
        self.size = spaces.flatdim(space)
        self.eye = SpaceEncoder(space, width)

    @classmethod
    def tokenizer(cls, vocabulary: Iterable[str], **settings: Any) -> Tokenizer:
        """Return the tokenizer of a stream's words; level words come last, as they sort last.

        Raises:
            ValueError: if the stream shows no arrays, or has words that sort behind them.
        """
        words = sorted(vocabulary)
        levels = settings.get("levels") or 0
        if not levels or not all(word.startswith(MARK) for word in words[-levels:]):
            raise ValueError(
                "controller=seeing reads arrays, and this stream shows none: choose another "
                "controller, or a stream of examples."
            )
        return super().tokenizer(words)

    def encode(self, tokens_BL: Tensor, own_BL: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Read texts; the cache holds keys and values, `[B, H, M, E]` each."""
        starts_BL = self._starts(tokens_BL)
        kept_BM, order_BM = self._together(tokens_BL, starts_BL)
        x_BMD = self._embed(kept_BM)
        if starts_BL.any():
            levels_PN = tokens_BL[tokens_BL >= self.first].view(-1, self.size) - self.first
            seen_PD = self.eye(levels_PN.to(self.embedding.weight.dtype)).to(x_BMD)
            shown_BM = kept_BM >= self.first
            places_BMD = torch.zeros_like(x_BMD).masked_scatter(shown_BM[..., None], seen_PD)
            x_BMD = torch.where(shown_BM[..., None], places_BMD + self._place(x_BMD), x_BMD)
        own_BM = kept_BM != PAD
        return self._read(x_BMD, own_BM if own_BL is None else own_BM & own_BL.gather(1, order_BM))

    def answer_logits(
        self, fused_BD: Tensor, text_BL: Tensor, cache: Cache, answer_BA: Tensor
    ) -> Tensor:
        """Score the next tokens, `[B, A + 1, V]`; padding of the text is not attended to."""
        kept_BM, _ = self._together(text_BL, self._starts(text_BL))
        kept_BM = torch.nn.functional.pad(kept_BM, (0, cache[0][0].shape[2] - kept_BM.shape[1]))
        return super().answer_logits(fused_BD, kept_BM, cache, answer_BA)

    def _starts(self, tokens_BL: Tensor) -> Tensor:
        """Return which tokens begin an array."""
        level_BL = tokens_BL >= self.first
        return level_BL & ((level_BL.cumsum(dim=1) - 1) % self.size == 0)

    def _together(self, tokens_BL: Tensor, starts_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens with arrays as one, and where each of them stood, `[B, M]`."""
        word_BL = (tokens_BL < self.first) & (tokens_BL != PAD)
        stays_BL = word_BL | starts_BL
        length = int(stays_BL.sum(dim=1).max())
        order_BM = (~stays_BL).long().argsort(dim=1, stable=True)[:, :length]
        kept_BM = tokens_BL.gather(1, order_BM) * stays_BL.gather(1, order_BM)
        return kept_BM, order_BM

    def _place(self, x_BMD: Tensor) -> Tensor:
        """Return what tells places in a text apart."""
        if self.positions is None:
            return torch.zeros_like(x_BMD[0])
        return self.positions[: x_BMD.shape[1]]
