"""What writes problems in sentences: a page to write on, and what every kind of problem has.

A kind of problem is a class of dials with a method `write(draw, page)` that tells statements and
asks questions. A page belongs to the examination by how it begins: by the statements told on it
before the first question, in whatever order, so that no question of the examination was asked in
training after the same statements. This file knows no kind of problem, no Gymnasium, and nothing of
who answers.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from numbers import Integral, Real
from random import Random
from typing import ClassVar, TypeVar

from stillknows.envs.text import Answer, Story, balanced_tree

T = TypeVar("T")
Ranges = Mapping[str, tuple[float, float]]
DIGITS = tuple("0123456789")
EXAM_SHARE = 10  # one page in so many belongs to the examination
MOST_DRAFTS = 1000


class Page:
    """A story while it is written.

    Args:
        episode: its number, for the supports.
    """

    def __init__(self, episode: int) -> None:
        self.episode = episode
        self._trees: list[str] = []
        self._answers: list[Answer | None] = []

    def tell(self, tree: str) -> int:
        """Tell a statement, in brackets or without, and return the step at which it is told."""
        self._trees.append(tree if "(" in tree else balanced_tree(tree))
        self._answers.append(None)
        return len(self._trees) - 1

    def ask(
        self,
        tree: str,
        target: str,
        steps: Iterable[int],
        verify: Callable[[str], bool] | None = None,
    ) -> None:
        """Ask a question.

        Args:
            tree: the question, in brackets or without.
            target: a right answer.
            steps: of the statements that it rests on, in the order of reasoning.
            verify: tells whether another answer is as right; None where only the target is.
        """
        self.tell(tree)
        supports = tuple((self.episode, step) for step in steps)
        self._answers[-1] = Answer(target, supports, verify=verify)

    def ask_carried(self, tree: str, target: str, supports: Iterable[tuple[int, int]]) -> None:
        """Ask a question that rests on earlier episodes: pairs of episode and step."""
        self.tell(tree)
        self._answers[-1] = Answer(target, tuple(supports), carried=True)

    def in_exam(self, beginning: int | None = None) -> bool:
        """Return whether what is told here before the first question is kept for the examination.

        Args:
            beginning: how many of these statements decide, the first; None: all.
        """
        told: list[str] = []
        for tree, answer in zip(self._trees, self._answers, strict=True):
            if answer is None:
                told.append(tree)
            elif told:
                break
        digest = blake2b("\n".join(sorted(told[:beginning])).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % EXAM_SHARE == 0

    def story(self) -> Story:
        """Return what was written."""
        sentences = tuple(re.sub("[()]", "", tree) for tree in self._trees)
        return Story(self.episode, sentences, tuple(self._trees), tuple(self._answers))


@dataclass(frozen=True, kw_only=True)
class Problems(ABC):
    """A kind of problem with its dials; a wrong dial is a ValueError that says what is right.

    Attributes:
        ranges: the least and the greatest value of each dial.
        said: templates and words of the kind; together they hold every word that it can say or
            expect.
    """

    ranges: ClassVar[Ranges] = {}
    said: ClassVar[Sequence[str]] = ()

    def __post_init__(self) -> None:
        """Raise a ValueError if a dial is out of range."""
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), self.ranges[field.name]
            whole = field.type is int
            kind = Integral if whole else Real
            right = isinstance(value, kind) and not isinstance(value, bool)
            if not right or not low <= value <= high:
                number = "a whole number" if whole else "a number"
                raise ValueError(f"{field.name}={value!r}: give {number} from {low} to {high}.")

    @property
    def least_told(self) -> int | None:
        """How many statements come before the first question at least; None: all that are told."""
        return None

    @abstractmethod
    def write(self, draw: Random, page: Page) -> None:
        """Write one story of either split."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word that it can say or expect, sorted."""
        text = " ".join(self.said)
        return tuple(sorted(set(re.sub(r"\{\w*\}|[()]", " ", text).split())))

    def story(self, key: int, episode: int, exam: bool, beginning: int | None = None) -> Story:
        """Return the story of a key, as `draft` finds it."""
        return draft(self.write, key, episode, exam, beginning)


def draft(
    write: Callable[[Random, Page], None],
    key: int,
    episode: int,
    exam: bool,
    beginning: int | None = None,
) -> Story:
    """Return the story of a key: the first that is drawn in the split.

    Args:
        write: draws a story of either split onto a page.
        key: decides what is drawn.
        episode: number of the story.
        exam: whether it is for the examination.
        beginning: how many statements decide that, see `Page.in_exam`.

    Raises:
        ValueError: if so few stories can be drawn that the split has none.
    """
    draw = Random(key)
    for _ in range(MOST_DRAFTS):
        page = Page(episode)
        write(draw, page)
        if page.in_exam(beginning) == exam:
            return page.story()
    raise ValueError(
        f"{MOST_DRAFTS} drafts held no story for {'the examination' if exam else 'training'}: "
        "with these dials there are too few different stories; let more be told."
    )


def pick_evenly(draw: Random, candidates: Sequence[T], answer: Callable[[T], object]) -> T:
    """Return a candidate, each possible answer as likely."""
    by_answer: dict[object, list[T]] = {}
    for candidate in candidates:
        by_answer.setdefault(answer(candidate), []).append(candidate)
    return draw.choice(by_answer[draw.choice(list(by_answer))])


def pick_questions(
    draw: Random, candidates: Sequence[T], count: int, answer: Callable[[T], object]
) -> list[T]:
    """Return different candidates, or all where there are no more than `count`."""
    left = list(candidates)
    picked: list[T] = []
    while left and len(picked) < count:
        picked.append(pick_evenly(draw, left, answer))
        left.remove(picked[-1])
    return picked
