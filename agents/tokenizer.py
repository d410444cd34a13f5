"""A word tokenizer with letters to fall back on, built once from what a stream may say.

A word of the vocabulary is one token; any other word is spelled letter by letter, so no text
meets an undefined answer. It knows nothing of stories or tasks.
"""

import string
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

PAD, END, OPEN, CLOSE, OTHER = range(5)
_SPECIAL = ("<pad>", "<end>", "<spell>", "</spell>", "<?>")
_LETTERS = tuple(f"'{letter}" for letter in string.ascii_lowercase + string.digits)
LEFT, RIGHT = (len(_SPECIAL) + len(_LETTERS) + side for side in range(2))  # of those with brackets


class WordTokenizer:
    """Turns text into token ids and back.

    Args:
        vocabulary: the words that get a token of their own; order does not matter.
        brackets: whether "(" and ")" are the tokens `LEFT` and `RIGHT`, for trees.
    """

    def __init__(self, vocabulary: Iterable[str], brackets: bool = False) -> None:
        first = ("(", ")") if brackets else ()
        self.vocabulary = tuple(sorted({*vocabulary}))
        self.words = (*_SPECIAL, *_LETTERS, *first, *(w for w in self.vocabulary if w not in first))
        self.ids = {word: number for number, word in enumerate(self.words)}
        self._known: dict[str, list[int]] = {}

    def __len__(self) -> int:
        """Return how many tokens there are."""
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text: words are separated by white space."""
        if text not in self._known:
            self._known[text] = [token for word in text.split() for token in self._word(word)]
        return self._known[text]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, up to the first end."""
        words, spelled = [], None
        for token in tokens:
            if token == END:
                break
            if token == OPEN:
                spelled = ""
            elif token == CLOSE:
                words.append(spelled or "")
                spelled = None
            elif spelled is not None:
                spelled += self.words[token].lstrip("'")
            elif token != PAD:
                words.append(self.words[token])
        return " ".join(words)

    def batch(self, texts: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """Return int64 `[B, L]`, padded behind; L is the longest text's length, at least 1."""
        return pad([self.encode(text) for text in texts], device)

    def _word(self, word: str) -> list[int]:
        if word in self.ids:
            return [self.ids[word]]
        return [OPEN, *(self.ids.get(f"'{letter}", OTHER) for letter in word), CLOSE]


def pad(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor:
    """Return int64 `[B, L]` with `PAD` behind every row; L is at least 1."""
    length = max(1, max((len(row) for row in rows), default=1))
    padded = [[*row, *[PAD] * (length - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device=device).reshape(-1, length)
