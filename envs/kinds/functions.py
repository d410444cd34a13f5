"""Functions of lists: examples are told; to apply the function to another list, or to write it.

Functions are made of the words of `WORDS`, done one after another. *Induction* asks what the
function makes of another list, once all functions that fit the examples agree about it. *Code*
asks for words that make the function: any that give what was told of every example are right, and
that is found out by running them here (nothing is ever given to Python to run).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from random import Random
from typing import ClassVar

from stillknows.envs.kinds.writing import DIGITS, Page, Problems, Ranges

List = tuple[int, ...]
WORDS: Mapping[str, Callable[[List], List]] = {
    "reverse": lambda items: items[::-1],
    "sort": lambda items: tuple(sorted(items)),
    "rotate": lambda items: (*items[1:], *items[:1]),
    "raise": lambda items: tuple((item + 1) % 10 for item in items),
    "double": lambda items: tuple(2 * item % 10 for item in items),
    "mirror": lambda items: tuple(9 - item for item in items),
    "behead": lambda items: items[1:],
    "sum": lambda items: (sum(items) % 10,),
    "largest": lambda items: (max(items, default=0),),
}
MOST_WORDS = 4  # of an answer that is a program
_TOLD = "(f (of ({given})) (is ({made})) .)"
_APPLY = "(what (is (f (of ({given})))) ?)"
_WRITE = "(which words make f ?)"

Example = tuple[List, List]
Program = tuple[str, ...]


def run(program: Sequence[str], items: List) -> List:
    """Return what words make of a list, one word after another."""
    for word in program:
        items = WORDS[word](items)
    return items


@dataclass(frozen=True)
class Makes:
    """Tells whether a program gives what was told of every example."""

    examples: tuple[Example, ...]

    def __call__(self, answer: str) -> bool:
        """Return whether the answer is a program of a few known words that fits."""
        program = answer.split()
        known = len(program) <= MOST_WORDS and all(word in WORDS for word in program)
        return bool(program) and known and fits(program, self.examples)


def fits(program: Sequence[str], examples: Sequence[Example]) -> bool:
    """Return whether a program makes of every example what was told."""
    return all(run(program, given) == made for given, made in examples)


@lru_cache(maxsize=8)
def programs(most: int) -> tuple[Program, ...]:
    """Return all programs of at most so many words, shorter ones first, then by the alphabet."""
    return tuple(
        program for words in range(1, most + 1) for program in product(sorted(WORDS), repeat=words)
    )


@dataclass(frozen=True, kw_only=True)
class Functions(Problems):
    """A function that is known by examples.

    Attributes:
        words: that make the function, at most.
        length: of the lists.
        examples: that are told.
    """

    ranges: ClassVar[Ranges] = {"words": (1, 3), "length": (2, 4), "examples": (1, 12)}
    said: ClassVar[Sequence[str]] = (_TOLD, _APPLY, _WRITE, *WORDS, *DIGITS)

    words: int = 1
    length: int = 3
    examples: int = 3

    def _draw(self, draw: Random) -> tuple[Example, ...]:
        """Return examples of a function that leaves something of every list."""
        made: list[List] = [()]
        while not all(made):
            program = [draw.choice(sorted(WORDS)) for _ in range(draw.randint(1, self.words))]
            lists = [self._list(draw) for _ in range(self.examples)]
            made = [run(program, items) for items in lists]
        return tuple(zip(lists, made, strict=True))

    def _list(self, draw: Random) -> List:
        return tuple(draw.randrange(10) for _ in range(self.length))


@dataclass(frozen=True, kw_only=True)
class Induction(Functions):
    """What the function makes of another list.

    Attributes:
        questions: asked at the end, about different lists.
        others: see `Functions`.
    """

    ranges: ClassVar[Ranges] = {**Functions.ranges, "questions": (1, 8)}

    questions: int = 2

    def write(self, draw: Random, page: Page) -> None:
        """Tell examples, then ask about lists on which all functions that fit agree."""
        clear: dict[List, List] = {}
        while len(clear) < self.questions:
            examples = self._draw(draw)
            lists = [self._list(draw) for _ in range(2 * self.questions)]
            clear = {items: made for items in lists if (made := self._agreed(examples, items))}
        steps = _tell(page, examples)
        for items in list(clear)[: self.questions]:
            needed = [steps[n] for n in self._needed(examples, items)]
            page.ask(_APPLY.format(given=_text(items)), _text(clear[items]), needed)

    def _agreed(self, examples: Sequence[Example], items: List) -> List:
        """Return what every function that fits makes of a list, nothing if they differ."""
        fitting = (program for program in programs(self.words) if fits(program, examples))
        made = {run(program, items) for program in fitting}
        return made.pop() if len(made) == 1 else ()

    def _needed(self, examples: Sequence[Example], items: List) -> list[int]:
        """Return the numbers of examples that suffice, none of which can be left out."""
        needed = list(range(len(examples)))
        for number in list(needed):
            rest = [n for n in needed if n != number]
            if rest and self._agreed([examples[n] for n in rest], items):
                needed = rest
        return needed


@dataclass(frozen=True, kw_only=True)
class Code(Functions):
    """Words that make the function. Dials: see `Functions`."""

    words: int = 2

    def write(self, draw: Random, page: Page) -> None:
        """Tell examples, then ask for a program."""
        examples = self._draw(draw)
        target = next(program for program in programs(self.words) if fits(program, examples))
        page.ask(_WRITE, " ".join(target), _tell(page, examples), Makes(examples))


def _tell(page: Page, examples: Sequence[Example]) -> list[int]:
    """Tell examples and return the steps at which they are told."""
    trees = [_TOLD.format(given=_text(given), made=_text(made)) for given, made in examples]
    return [page.tell(tree) for tree in trees]


def _text(items: List) -> str:
    return " ".join(map(str, items))
