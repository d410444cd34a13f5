"""Tokenizers, and the one of words with letters to fall back on, built once from a stream.

A word of the vocabulary is one token; any other word is spelled letter by letter, so no text
meets an undefined answer. A letter without a token (é, Ж, 中) is spelled by its number in Unicode:
`<spell> z o <spell> e 9 </spell> </spell>`. It knows nothing of stories or tasks.
"""

import string
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

PAD, END, OPEN, CLOSE, OTHER = range(5)
_SPECIAL = ("<pad>", "<end>", "<spell>", "</spell>", "<?>")
_LETTERS = tuple(f"'{letter}" for letter in string.ascii_lowercase + string.digits)
_NO_TEXT = ("Cc", "Cs")  # control characters, and halves of a pair
LEFT, RIGHT = (len(_SPECIAL) + len(_LETTERS) + side for side in range(2))  # of those with brackets


class Tokenizer:
    """Text to token ids and back; `PAD` and `END` are the first two ids, whatever follows."""

    def __init__(self) -> None:
        self._known: dict[str, list[int]] = {}

    def __len__(self) -> int:
        """Return how many tokens there are."""
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        if text not in self._known:
            self._known[text] = self._encode(text)
        return self._known[text]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, up to the first end."""
        raise NotImplementedError

    def answer(self, text: str) -> list[int]:
        """Return the token ids of an answer."""
        return self.encode(text)

    def prompt(self, lines: Sequence[str]) -> tuple[list[int], list[bool]]:
        """Return the tokens of lines, the question last, and which of them are the question's."""
        tokens = [self.encode(line) for line in lines]
        own = [number == len(lines) for number, line in enumerate(tokens, start=1) for _ in line]
        return [token for line in tokens for token in line], own

    def plain(self, text: str) -> str:
        """Return a text that a person wrote as the stream would write it, "" if nothing is left."""
        raise NotImplementedError

    def kept(self) -> dict[str, Any]:
        """Return what it can be made of again."""
        raise NotImplementedError

    def batch(self, texts: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """Return int64 `[B, L]`, padded behind; L is the longest text's length, at least 1."""
        return pad([self.encode(text) for text in texts], device)

    def _encode(self, text: str) -> list[int]:
        raise NotImplementedError


class WordTokenizer(Tokenizer):
    """Turns text into token ids and back.

    Args:
        vocabulary: the words that get a token of their own; order does not matter.
        brackets: whether "(" and ")" are the tokens `LEFT` and `RIGHT`, for trees.
    """

    def __init__(self, vocabulary: Iterable[str], brackets: bool = False) -> None:
        super().__init__()
        self.brackets = brackets
        first = ("(", ")") if brackets else ()
        self.vocabulary = tuple(sorted({*vocabulary}))
        self.words = (*_SPECIAL, *_LETTERS, *first, *(w for w in self.vocabulary if w not in first))
        self.ids = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        """Return how many tokens there are."""
        return len(self.words)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, up to the first end; of a word cut off, what is there."""
        stack: list[list[str]] = [[]]  # words, the letters of an open one, the digits of a letter
        for token in tokens:
            if token == END:
                break
            if token == OPEN and len(stack) < 3:
                stack.append([])
            elif token == CLOSE:
                _close(stack)
            elif token != PAD:
                word = self.words[token]
                stack[-1].append(word if len(stack) == 1 else word.removeprefix("'"))
        if len(stack) == 3:
            stack[2] = []  # a part of a number is the number of another letter
        while len(stack) > 1:
            _close(stack)
        return " ".join(filter(None, stack[0]))

    def plain(self, text: str) -> str:
        """Return the words and marks of a text in lower case, set apart by spaces.

        Letters and digits of any script, ' and - are of words; punctuation and symbols stand alone;
        control characters count as spaces. Since trees have brackets of their own, those of a text
        become full-width ones then.
        """
        text = unicodedata.normalize("NFC", text.lower())
        if self.brackets:
            text = text.replace("(", "\uff08").replace(")", "\uff09")
        return " ".join("".join(map(_set_apart, text)).split())

    def kept(self) -> dict[str, Any]:
        """Return the arguments it was built from."""
        return {"vocabulary": self.vocabulary, "brackets": self.brackets}

    def _encode(self, text: str) -> list[int]:
        return [token for word in text.split() for token in self._word(word)]

    def _word(self, word: str) -> list[int]:
        known = self.ids.get(word, OTHER)
        if known > OTHER:  # else it may look like a special token, and is none
            return [known]
        return [OPEN, *(token for letter in word for token in self._letter(letter)), CLOSE]

    def _letter(self, letter: str) -> list[int]:
        if f"'{letter}" in _LETTERS:
            return [self.ids[f"'{letter}"]]
        return [OPEN, *(self.ids[f"'{digit}"] for digit in f"{ord(letter):x}"), CLOSE]


def _set_apart(letter: str) -> str:
    """Return a mark between spaces, a space for what is no text, and what is of a word as it is."""
    if unicodedata.category(letter) in _NO_TEXT:
        return " "
    mark = unicodedata.category(letter)[0] in "PS" and letter not in "'-"
    return f" {letter} " if mark else letter


def _close(stack: list[list[str]]) -> None:
    """Put what is spelled in its place: a letter into its word, or a word behind the others."""
    if len(stack) > 1:
        spelled = "".join(stack.pop())
        stack[-1].append(spelled if len(stack) == 1 else _of_number(spelled))


def _of_number(digits: str) -> str:
    """Return the letter of a number in Unicode, `<?>` where there is none."""
    try:
        letter = chr(int(digits, 16))
    except (ValueError, OverflowError):
        return _SPECIAL[OTHER]
    return _SPECIAL[OTHER] if unicodedata.category(letter) in _NO_TEXT else letter


def pad(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor:
    """Return int64 `[B, L]` with `PAD` behind every row; L is at least 1."""
    length = max(1, max((len(row) for row in rows), default=1))
    padded = [[*row, *[PAD] * (length - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device=device).reshape(-1, length)
