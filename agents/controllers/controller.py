"""What every controller is: a language model that reads a text and speaks one answer.

A text is one sentence, or the last few of a story (`agent.context`); what was read earlier reaches
the answer only through memory, as one soft token between the text and the answer. A controller
knows nothing of memories or environments. Letters: B rows, L tokens, D hidden size, A tokens of an
answer so far, V tokens of the vocabulary.
"""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from stillknows.agents.controllers.tokenizer import PAD, Tokenizer, WordTokenizer
from stillknows.memory import expect

Cache = list[tuple[Tensor, Tensor]]  # two tensors a layer, rows first


class Controller(nn.Module):
    """A language model: text in, one answer out.

    Args:
        width: numbers of a vector (D).

    Attributes:
        hears_trees: whether it hears the bracketed trees of sentences instead of their words.
        fixed: whether its answers to a text depend on nothing that learns.
    """

    hears_trees = False
    fixed = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    @classmethod
    def tokenizer(cls, vocabulary: Iterable[str], **settings: Any) -> Tokenizer:
        """Return the tokenizer it reads with.

        Args:
            vocabulary: the words that the stream may say.
            settings: the controller's own.
        """
        return WordTokenizer(vocabulary, brackets=cls.hears_trees)

    def encode(self, tokens_BL: Tensor, own_BL: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Read texts.

        Args:
            tokens_BL: token ids, `PAD` behind, int64 `[B, L]`.
            own_BL: which tokens are of the last sentence, where there are more; bool. None: all.

        Returns:
            The (last) sentence as a vector (mean over its tokens, then normed), `[B, D]`, and what
            the answer goes on from.
        """
        raise NotImplementedError

    def answer_logits(
        self, fused_BD: Tensor, text_BL: Tensor, cache: Cache, answer_BA: Tensor
    ) -> Tensor:
        """Score the next token after the text, the soft token and each prefix of an answer.

        Args:
            fused_BD: what is seen and remembered, the soft token, `[B, D]`.
            text_BL: the text's tokens, `[B, L]` (for what is padding).
            cache: what `encode` returned for them.
            answer_BA: the answer so far, int64 `[B, A]`, A may be 0.

        Returns:
            Logits `[B, A + 1, V]`.
        """
        raise NotImplementedError

    def next_logits(
        self, fused_BD: Tensor, text_BL: Tensor, cache: Cache, answer_BA: Tensor, spoken: Any
    ) -> tuple[Tensor, Any]:
        """Score what follows an answer so far, while it grows token by token; without a gradient.

        Args:
            fused_BD: as in `answer_logits`, like the next three.
            text_BL: the text's tokens.
            cache: what `encode` returned for them.
            answer_BA: the answer so far.
            spoken: what the call before returned, for the answer without its last token; None at
                the first.

        Returns:
            Logits `[B, V]`, and what the next call goes on from. Here that is nothing: a short
            answer is read again.
        """
        return self.answer_logits(fused_BD, text_BL, cache, answer_BA)[:, -1], None


class WordController(Controller):
    """Words in, words out, with tied embeddings, trained from scratch.

    Args:
        vocabulary: number of tokens (V).
        width: hidden size (D).
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        expect.whole(1, width=width)
        super().__init__(width)
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.norm_sentence, self.norm_answer = nn.RMSNorm(width), nn.RMSNorm(width)
        self.sharpness = nn.Parameter(torch.tensor(3.0 / math.sqrt(width)))

    def _as_vector(self, hidden_BLD: Tensor, present_BL: Tensor) -> Tensor:
        """Return the normed mean over the tokens that are there, `[B, D]`."""
        weight_BL = present_BL / present_BL.sum(1, keepdim=True).clamp(min=1)
        mean_BD = (hidden_BLD * weight_BL[..., None]).sum(1).to(self.norm_sentence.weight.dtype)
        vector_BD: Tensor = self.norm_sentence(mean_BD)
        return vector_BD

    def _as_logits(self, hidden_BSD: Tensor) -> Tensor:
        normed_BSD = self.norm_answer(hidden_BSD.to(self.norm_answer.weight.dtype))
        logits_BSV: Tensor = normed_BSD @ self.embedding.weight.T
        return logits_BSV * self.sharpness


def follower(controller: Controller) -> Controller:
    """Return a copy of a controller that does not learn; what never learns it shares with it.

    The rest of it is float32 at least: small steps are less than the rounding of bfloat16.
    """
    shared = {id(p): p for p in controller.parameters() if not p.requires_grad}
    copied = copy.deepcopy(controller, shared)
    for part in copied.parameters():
        if part.requires_grad:
            part.data = part.data.to(torch.promote_types(part.dtype, torch.float32))
    return copied.requires_grad_(False)


@torch.no_grad()
def follow(slow: Controller, fast: Controller, share: float) -> None:
    """Move a follower by a share of the way to whom it follows."""
    for mine, current in zip(slow.parameters(), fast.parameters(), strict=True):
        if mine is not current:
            mine.lerp_(current.to(mine.dtype), share)
