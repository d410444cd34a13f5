"""A long short-term memory as the controller (Hochreiter and Schmidhuber 1997).

It reads a sentence word by word, hears the soft token, and speaks on from where it is. Letters:
B rows, L tokens, D hidden size, A tokens of an answer so far, S = A + 1.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from stillknows.agents.controllers.controller import Cache, WordController
from stillknows.agents.controllers.tokenizer import PAD
from stillknows.memory import expect


class LSTM(WordController):
    """An LSTM over words; forget gates begin open.

    Args:
        vocabulary: number of tokens (V).
        width: hidden size (D).
        layers: how many stand on each other.
    """

    def __init__(self, vocabulary: int, width: int = 64, layers: int = 1) -> None:
        super().__init__(vocabulary, width)
        expect.whole(1, layers=layers)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        for layer in range(layers):
            bias = getattr(self.lstm, f"bias_hh_l{layer}")
            nn.init.ones_(bias[width : 2 * width].detach())  # gates: input, forget, cell, output

    def encode(self, tokens_BL: Tensor, own_BL: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Read texts; the cache holds hidden and cell after the last word, `[B, D]` each."""
        present_BL = tokens_BL != PAD
        lengths = present_BL.sum(dim=1).clamp(min=1).cpu()
        packed = pack_padded_sequence(
            self.embedding(tokens_BL), lengths, batch_first=True, enforce_sorted=False
        )
        hidden, (last_KBD, cell_KBD) = self.lstm(packed)
        hidden_BLD, _ = pad_packed_sequence(
            hidden, batch_first=True, total_length=tokens_BL.shape[1]
        )
        own_BL = present_BL if own_BL is None else own_BL
        return self._as_vector(hidden_BLD, own_BL), list(zip(last_KBD, cell_KBD, strict=True))

    def answer_logits(
        self, fused_BD: Tensor, text_BL: Tensor, cache: Cache, answer_BA: Tensor
    ) -> Tensor:
        """Score the next tokens, `[B, A + 1, V]`."""
        x_BSD = torch.cat([fused_BD[:, None], self.embedding(answer_BA)], dim=1)
        hidden_KBD, cell_KBD = (torch.stack(parts) for parts in zip(*cache, strict=True))
        hidden_BSD, _ = self.lstm(x_BSD, (hidden_KBD, cell_KBD))
        return self._as_logits(hidden_BSD)
