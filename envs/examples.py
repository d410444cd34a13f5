"""Classification as text tasks: examples of arrays, each a question with the name of a class.

An array is said as a word for each of its numbers, a level between the least and the greatest there
are ("~00" to "~ff"), so whatever keeps sentences keeps examples, and says them again exactly. Level
words sort behind all others. Every experience of an Avalanche benchmark, or of anything with a
`train_stream` and a `test_stream` like it, becomes a task; this file does not import Avalanche.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from stillknows.envs.tasks import Task
from stillknows.envs.text import CHARACTERS, Answer, Story, StoryTask, StoryVectorEnv

MARK = "~"
QUESTION = "what is {} ?"
_MOST_LEVELS = 256


class Palette(NamedTuple):
    """How arrays are said.

    Attributes:
        shape: of an array.
        levels: how many different numbers can be told apart, at most 256.
        low: what is said as the first level.
        high: what is said as the last.
    """

    shape: tuple[int, ...]
    levels: int
    low: float
    high: float

    @property
    def words(self) -> tuple[str, ...]:
        """The word of each level, in order and in alphabetical order."""
        return level_words(self.levels)

    def quantised(self, array: np.ndarray) -> np.ndarray:
        """Return the nearest levels, uint8, flat; what lies beyond low and high is clipped."""
        share = (np.asarray(array, np.float64).ravel() - self.low) / (self.high - self.low)
        return np.rint(np.clip(share, 0, 1) * (self.levels - 1)).astype(np.uint8)


@lru_cache
def level_words(levels: int) -> tuple[str, ...]:
    """Return the words of so many levels."""
    return tuple(f"{MARK}{level:02x}" for level in range(levels))


class Examples:
    """Examples of an experience: flat levels and the names of classes. They are never changed.

    Args:
        palette: how they are said.
        levels_EN: uint8 `[E, N]`.
        names: the class of each example, one word or more.
    """

    def __init__(self, palette: Palette, levels_EN: np.ndarray, names: Sequence[str]) -> None:
        self.palette, self.levels_EN, self.names = palette, levels_EN, tuple(names)

    def __len__(self) -> int:
        """Return how many there are (E)."""
        return len(self.names)

    def __deepcopy__(self, memo: Any) -> "Examples":
        """Return the same: environments that are made again and again share them."""
        return self

    def question(self, number: int) -> str:
        """Return the question for the class of an example."""
        words = self.palette.words
        return QUESTION.format(" ".join([words[level] for level in self.levels_EN[number]]))


class ExampleTask(StoryTask):
    """Asks for the classes of examples, some in an episode.

    Training takes each example once in an epoch, in an order that the life and the epoch draw; the
    number of an episode since the task began (reset option `task_start`) says which. Examinations
    ask for each example in turn.

    Args:
        examples: what is asked.
        together: every class and array that the stream knows; for the vocabulary.
        per_episode: questions of an episode.
        shuffled: whether the order is drawn, as in training.
        life: whose order it is.
        first_episode: the number of its first episode within the lifetime.
        stride: how far apart its episodes' numbers are.
    """

    def __init__(
        self,
        examples: Examples,
        together: Sequence[str],
        per_episode: int = 1,
        shuffled: bool = False,
        life: int = 0,
        first_episode: int = 0,
        stride: int = 1,
    ) -> None:
        super().__init__(first_episode, stride)
        longest = len(examples.question(0)) + 64
        space = spaces.Text(min_length=0, max_length=longest, charset=CHARACTERS | {MARK})
        self.observation_space = self.action_space = space
        self.examples, self.together = examples, tuple(together)
        self.per_episode, self.shuffled, self.life = per_episode, shuffled, life

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word of questions, classes and levels, sorted."""
        spoken = [*QUESTION.replace("{}", "").split(), *" ".join(self.together).split()]
        return tuple(sorted({*spoken, *self.examples.palette.words}))

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        """Return the story of an episode."""
        start = options.get("task_start", 0)
        since = episode - start if self.shuffled and episode >= start else episode
        numbers = self._numbers(since * self.per_episode)
        sentences = tuple(self.examples.question(number) for number in numbers)
        answers = tuple(Answer(self.examples.names[number], ()) for number in numbers)
        return Story(episode, sentences, sentences, answers)

    def _numbers(self, first: int) -> list[int]:
        """Return which examples an episode asks for; none twice in an examination."""
        size = len(self.examples)
        if not self.shuffled:
            start = first % (size + -size % self.per_episode)
            return list(range(start, min(start + self.per_episode, size)))
        places = [divmod(first + ahead, size) for ahead in range(self.per_episode)]
        return [int(_order(size, self.life, epoch)[place]) for epoch, place in places]


class ExampleVectorEnv(StoryVectorEnv):
    """Rows of `ExampleTask`.

    Args:
        num_envs: how many rows (B).
        **settings: of `ExampleTask`, without `stride`.
    """

    def __init__(self, num_envs: int = 1, **settings: Any) -> None:
        super().__init__(num_envs, ExampleTask(**settings))


@lru_cache(maxsize=64)
def _order(size: int, life: int, epoch: int) -> np.ndarray:
    """Return the order of the examples in an epoch."""
    return np.random.default_rng([size, life, epoch]).permutation(size)


def avalanche_tasks(
    benchmark: Any,
    count: int,
    levels: int = 256,
    per_episode: int = 1,
    words: Sequence[str] | None = None,
    life: int = 0,
) -> list[Task]:
    """Return the experiences of a classification benchmark as tasks.

    Arrays are taken as the datasets give them when they evaluate, so without augmentation.

    Args:
        benchmark: with `train_stream` and `test_stream`, whose experiences have a `dataset` of
            arrays or images and labels.
        count: how many of its experiences are lived, the first ones.
        levels: how many different numbers of an array can be told apart, at most 256.
        per_episode: questions of an episode.
        words: the name of each class, lower-case; its number without.
        life: whose order of examples it is.

    Raises:
        ValueError: if it has not so many experiences, an examination is missing, an example is no
            array of finite numbers, shapes differ, or a class has no name.
    """
    streams = _streams(benchmark, count)
    whole = isinstance(levels, Integral) and isinstance(per_episode, Integral)
    if not whole or not 2 <= levels <= _MOST_LEVELS or per_episode < 1:
        raise ValueError(
            f"stream.tasks.levels={levels} and per_episode={per_episode}: give 2 to "
            f"{_MOST_LEVELS} levels and at least 1 question an episode."
        )
    read = {name: [_read(each.dataset) for each in streams[name]] for name in streams}
    palette = _palette([arrays for arrays, _ in (*read["train"], *read["test"])], levels)
    known = sorted({label for _, labels in (*read["train"], *read["test"]) for label in labels})
    named = {label: _name(label, words) for label in known}
    made = {
        name: [
            Examples(palette, np.stack([palette.quantised(each) for each in arrays]),
                     [named[label] for label in labels])
            for arrays, labels in read[name]
        ]
        for name in read
    }  # fmt: skip
    shared = {"together": tuple(named.values()), "per_episode": per_episode}
    titles = _titles([examples.names for examples in made["train"]])
    return [
        Task(
            title,
            "stillknows/Examples-v0",
            {"examples": train, **shared, "shuffled": True, "life": life},
            {"examples": test, **shared},
            exam_stories=math.ceil(len(test) / per_episode),
            source=f"trained on {len(train)} examples, examined on {len(test)} others",
        )
        for title, train, test in zip(titles, made["train"], made["test"], strict=True)
    ]


def palette_of(tasks: Sequence[Task]) -> Palette | None:
    """Return how the tasks of a stream say arrays, None if they do not.

    Raises:
        ValueError: if they do it differently.
    """
    shown = [task.train["examples"].palette for task in tasks if "examples" in task.train]
    if len({palette[:2] for palette in shown}) > 1:
        raise ValueError("The tasks of this stream show arrays of different shapes or levels.")
    return shown[0] if shown else None


def _streams(benchmark: Any, count: int) -> dict[str, list[Any]]:
    """Return the first experiences of both streams."""
    streams = {}
    for name in ("train", "test"):
        stream = getattr(benchmark, f"{name}_stream", None)
        if stream is None:
            raise ValueError(
                f"{type(benchmark).__name__} has no {name}_stream: stream.tasks.benchmark should "
                "make a benchmark of Avalanche's."
            )
        there = list(stream)
        if not isinstance(count, int) or not 1 <= count <= len(there):
            raise ValueError(
                f"stream.tasks.count={count}: the {name} stream of this benchmark has "
                f"{len(there)} experiences, and each that is lived needs one there."
            )
        streams[name] = there[:count]
    return streams


def _read(dataset: Any) -> tuple[list[np.ndarray], list[int]]:
    """Return the arrays and labels of a dataset."""
    dataset = dataset.eval() if hasattr(dataset, "eval") else dataset
    arrays, labels = [], []
    for number in range(len(dataset)):
        array, label = dataset[number][:2]
        try:
            arrays.append(np.asarray(array, dtype=np.float32))
            labels.append(int(label))
            if labels[-1] != float(label):
                raise ValueError(f"{label} is not whole")
        except (TypeError, ValueError):
            raise ValueError(
                f"Example {number} of the benchmark is no array of numbers with a whole number as "
                "its label: this stream is for classification."
            ) from None
        if not np.isfinite(arrays[-1]).all():
            raise ValueError(f"Example {number} of the benchmark has a number that is not finite.")
    if not arrays:
        raise ValueError("An experience of the benchmark has no examples.")
    return arrays, labels


def _palette(arrays: Sequence[Sequence[np.ndarray]], levels: int) -> Palette:
    """Return how to say the arrays of a benchmark."""
    shapes = {array.shape for each in arrays for array in each}
    if len(shapes) > 1:
        raise ValueError(
            f"The examples of the benchmark have shapes {sorted(shapes)[:3]}: resize them to one."
        )
    low = min(float(array.min()) for each in arrays for array in each)
    high = max(float(array.max()) for each in arrays for array in each)
    return Palette(shapes.pop(), levels, low, high if high > low else low + 1)


def _name(label: int, words: Sequence[str] | None) -> str:
    if words is None:
        return str(label)
    name = " ".join(words[label].split()) if 0 <= label < len(words) else ""
    if not name or not set(name) <= CHARACTERS:
        raise ValueError(
            f"stream.tasks.words has no name for class {label}: give lower-case words for all."
        )
    return name


def _titles(names: Sequence[Sequence[str]]) -> list[str]:
    """Return names of tasks: their classes, where these are few and tell them apart."""
    classes = [tuple(dict.fromkeys(sorted(each))) for each in names]
    if len(set(classes)) == len(classes) and max(map(len, classes)) <= 4:
        return [" ".join(each) for each in classes]
    return [f"experience {number}" for number in range(len(names))]
