"""Writes the episodes of the algorithmic tasks: dials and a key in, arrays out.

Bits are shown, and then they are asked for while nothing is shown: who answers must have kept them
(Graves, Wayne, Danihelka 2014, arXiv:1410.5401, section 4). A series of copies asks for a memory
that is used again (Graves et al. 2016, Nature 538:471, Extended Data Figure 1).

    generate(Copy(max_length=10), keys_B)

The graph tasks are in `stillknows.envs.graphs`. This file knows no Gymnasium (see
`stillknows.envs.algorithmic`) and nothing of who answers.
Letters: B rows, T steps, I inputs, O outputs, L vectors of a sequence, V vectors of an item,
S steps in which something is shown.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar, NamedTuple

import numpy as np

KEYS = 2**63  # keys of episodes are drawn below this


class Episode(NamedTuple):
    """One episode.

    Attributes:
        inputs_TI: what is shown, float32 `[T, I]`.
        targets_TO: the right bits, int8 `[T, O]`, 0 where none are asked for.
        marked_T: where bits are asked for, bool `[T]`.
    """

    inputs_TI: np.ndarray
    targets_TO: np.ndarray
    marked_T: np.ndarray


class Batch(NamedTuple):
    """Episodes side by side; steps after a row's last are 0 and not marked.

    Attributes:
        inputs_BTI: what is shown, float32 `[B, T, I]`.
        targets_BTO: the right bits, int8 `[B, T, O]`, 0 where none are asked for.
        marked_BT: where bits are asked for, bool `[B, T]`.
        lengths_B: steps of each row's episode, int64 `[B]`.
    """

    inputs_BTI: np.ndarray
    targets_BTO: np.ndarray
    marked_BT: np.ndarray
    lengths_B: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Problem(ABC):
    """A kind of episode with its dials; a wrong dial is a ValueError that says what is right."""

    _least: ClassVar[Mapping[str, int]] = {}  # of every other dial: 1

    def __post_init__(self) -> None:
        dials = dataclasses.asdict(self)
        for name, value in dials.items():
            least = self._least.get(name, 1)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value!r}: give a whole number of at least {least}.")
        for name in dials:
            high = name.replace("min_", "max_")
            if dials[name] > dials[high]:
                raise ValueError(
                    f"{name}={dials[name]} is above {high}={dials[high]}: lower one or raise the "
                    "other."
                )

    @property
    @abstractmethod
    def input_size(self) -> int:
        """Numbers that are shown at a step (I)."""

    @property
    @abstractmethod
    def output_size(self) -> int:
        """Bits that are asked for at a step (O)."""

    @property
    def group_size(self) -> int | None:
        """Outputs of a group, where they come in groups with exactly one 1 among what is asked for.

        A softmax a group then serves a learner; None where every bit is on its own.
        """
        return None

    def share_right(self, bits_XO: np.ndarray, targets_XO: np.ndarray) -> np.ndarray:
        """Return the share of the groups, or of the bits, that are right, `[..]` for `[.., O]`."""
        size = self.group_size or 1
        right = (bits_XO == targets_XO).reshape(*targets_XO.shape[:-1], -1, size)
        share: np.ndarray = right.all(axis=-1).mean(axis=-1)
        return share

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the largest number that is shown on each channel, float32 `[I]` each."""
        return np.zeros(self.input_size, np.float32), np.ones(self.input_size, np.float32)

    @abstractmethod
    def write(self, generator: np.random.Generator) -> Episode:
        """Draw an episode."""

    def episode(self, key: int) -> Episode:
        """Return the episode of a key, a whole number from 0 to `KEYS` - 1."""
        return self.write(np.random.default_rng(key))


@dataclass(frozen=True, kw_only=True)
class VectorProblem(Problem):
    """A problem that shows vectors of random bits and asks for them.

    Attributes:
        bits: of one vector.
    """

    bits: int = 8

    @property
    def output_size(self) -> int:
        """Bits of a vector."""
        return self.bits


@dataclass(frozen=True, kw_only=True)
class Copy(VectorProblem):
    """A sequence of vectors, a flag, and the same sequence is asked for (section 4.1).

    Inputs: bits, flag. With several sequences, each is asked for before the next is shown.

    Attributes:
        min_length, max_length: vectors of a sequence, each number as likely.
        sequences: how many, one after another.
    """

    min_length: int = 1
    max_length: int = 20
    sequences: int = 1

    @property
    def input_size(self) -> int:
        """Bits and flag."""
        return self.bits + 1

    def write(self, generator: np.random.Generator) -> Episode:
        """Draw the lengths and the vectors."""
        return _follow([self._sequence(generator) for _ in range(self.sequences)])

    def _sequence(self, generator: np.random.Generator) -> Episode:
        vectors_LO = _sequence(generator, self.min_length, self.max_length, self.bits)
        shown_SI = _shown(vectors_LO, self.input_size, after=1)
        shown_SI[-1, self.bits] = 1
        return _ask(shown_SI, vectors_LO)


@dataclass(frozen=True, kw_only=True)
class RepeatCopy(VectorProblem):
    """A sequence, how often it is asked for, and last an end marker is asked for (section 4.2).

    Inputs: bits, flag, count. The count is `(repeats - mean) / deviation` of whole numbers that
    are uniform from 1 to `normal_repeats`, whatever `min_repeats` and `max_repeats` are, so that
    it means the same wherever one learns and is examined. It comes with a flag, as a count at the
    mean is 0. Outputs: bits, end marker.

    Attributes:
        min_length, max_length: vectors of the sequence, each number as likely.
        min_repeats, max_repeats: how often it is asked for, each number as likely.
        normal_repeats: see above.
    """

    _least: ClassVar[Mapping[str, int]] = {"normal_repeats": 2}

    min_length: int = 1
    max_length: int = 10
    min_repeats: int = 1
    max_repeats: int = 10
    normal_repeats: int = 10

    @property
    def input_size(self) -> int:
        """Bits, flag and count."""
        return self.bits + 2

    @property
    def output_size(self) -> int:
        """Bits and end marker."""
        return self.bits + 1

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the largest number on each channel."""
        low_I, high_I = super().bounds
        low_I[-1] = min(0.0, self.count(self.min_repeats))
        high_I[-1] = max(0.0, self.count(self.max_repeats))
        return low_I, high_I

    def count(self, repeats: int) -> float:
        """Return what is shown on the count channel."""
        deviation = math.sqrt((self.normal_repeats**2 - 1) / 12)
        return (repeats - (self.normal_repeats + 1) / 2) / deviation

    def write(self, generator: np.random.Generator) -> Episode:
        """Draw the length, the vectors and the number of repeats."""
        vectors_LO = _sequence(generator, self.min_length, self.max_length, self.bits)
        repeats = int(generator.integers(self.min_repeats, self.max_repeats + 1))
        shown_SI = _shown(vectors_LO, self.input_size, after=1)
        shown_SI[-1, self.bits :] = 1, self.count(repeats)
        answer_LO = np.pad(np.tile(vectors_LO, (repeats, 1)), ((0, 1), (0, 1)))
        answer_LO[-1, -1] = 1
        return _ask(shown_SI, answer_LO)


@dataclass(frozen=True, kw_only=True)
class AssociativeRecall(VectorProblem):
    """Items in a row, then one of them: the item that followed it is asked for (section 4.3).

    Inputs: bits, item flag, query flag. Each item comes after an item flag; the query stands
    between two query flags. The items of an episode are all different, and the query is any but
    the last.

    Attributes:
        vectors: of one item (V).
        min_items, max_items: how many items, each number as likely.
    """

    _least: ClassVar[Mapping[str, int]] = {"min_items": 2, "max_items": 2}

    bits: int = 6
    vectors: int = 3
    min_items: int = 2
    max_items: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_items > 2 ** (self.bits * self.vectors):
            raise ValueError(
                f"max_items={self.max_items}: there are only {2 ** (self.bits * self.vectors)} "
                f"different items of {self.vectors} x {self.bits} bits; ask for fewer, or for "
                "longer items."
            )

    @property
    def input_size(self) -> int:
        """Bits, item flag and query flag."""
        return self.bits + 2

    def write(self, generator: np.random.Generator) -> Episode:
        """Draw the number of items, the items and the query."""
        count = int(generator.integers(self.min_items, self.max_items + 1))
        items = self._items(generator, count)
        query = int(generator.integers(count - 1))
        parts = [_shown(item_VO, self.input_size, before=1) for item_VO in items]
        for part in parts:
            part[0, self.bits] = 1
        asked_SI = _shown(items[query], self.input_size, before=1, after=1)
        asked_SI[[0, -1], self.bits + 1] = 1
        return _ask(np.concatenate([*parts, asked_SI]), items[query + 1])

    def _items(self, generator: np.random.Generator, count: int) -> list[np.ndarray]:
        """Draw different items, each `[V, O]`."""
        items: dict[bytes, np.ndarray] = {}
        while len(items) < count:
            item_VO = _vectors(generator, self.vectors, self.bits)
            items.setdefault(item_VO.tobytes(), item_VO)
        return list(items.values())


def generate(problem: Problem, keys_B: Iterable[int], spare: int = 0) -> Batch:
    """Return the episodes of some keys side by side.

    An environment that is reset with a seed serves the episode whose key is the first
    `integers(KEYS)` of the generator that Gymnasium makes of the seed.

    Args:
        problem: what kind of episodes.
        keys_B: one a row.
        spare: steps of zeros after the longest row.

    Raises:
        ValueError: if there is no key.
    """
    episodes = [problem.episode(int(key)) for key in keys_B]
    if not episodes:
        raise ValueError("A batch of no episodes has no length: give at least one key.")
    inputs, targets, marked = (_pad(parts, spare) for parts in zip(*episodes, strict=True))
    return Batch(inputs, targets, marked, np.array([len(each.marked_T) for each in episodes]))


def _pad(parts: Sequence[np.ndarray], spare: int) -> np.ndarray:
    """Return arrays `[T, ..]` of different lengths as one, `[B, T, ..]`, with zeros at the end."""
    steps = max(map(len, parts)) + spare
    padded = np.zeros((len(parts), steps, *parts[0].shape[1:]), parts[0].dtype)
    for row, part in enumerate(parts):
        padded[row, : len(part)] = part
    return padded


def _vectors(generator: np.random.Generator, length: int, bits: int) -> np.ndarray:
    return generator.integers(2, size=(length, bits), dtype=np.int8)


def _sequence(generator: np.random.Generator, low: int, high: int, bits: int) -> np.ndarray:
    return _vectors(generator, int(generator.integers(low, high + 1)), bits)


def _shown(vectors_LO: np.ndarray, channels: int, before: int = 0, after: int = 0) -> np.ndarray:
    """Return vectors on the first of some channels, with empty steps before and after."""
    rest = channels - vectors_LO.shape[1]
    return np.pad(vectors_LO.astype(np.float32), ((before, after), (0, rest)))


def _ask(shown_SI: np.ndarray, answer_LO: np.ndarray) -> Episode:
    """Return the episode that shows something, and then shows nothing and asks for the answer."""
    shown, asked = len(shown_SI), len(answer_LO)
    return Episode(
        inputs_TI=np.pad(shown_SI, ((0, asked), (0, 0))),
        targets_TO=np.pad(answer_LO, ((shown, 0), (0, 0))),
        marked_T=np.arange(shown + asked) >= shown,
    )


def _follow(episodes: Sequence[Episode]) -> Episode:
    """Return the episode that is these, one after another."""
    return Episode(*(np.concatenate(parts) for parts in zip(*episodes, strict=True)))
