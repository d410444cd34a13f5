"""Text tasks: what every environment that tells stories and asks questions agrees on.

An observation is one sentence; words are lower-case and separated by single spaces, the final
`.` or `?` is a word of its own. An action is the whole answer, ignored at statements. The answer
to the last question ends the episode, and the observation is then "".

`info` always says `question` (does the current observation ask?), `tree` (the bracketed tree of
the current sentence), `episode` (its number within the lifetime) and `step` (the index of the
current observation). After an answer it also says `target`, `supports` (pairs of episode and
step, in the order of reasoning) and `carried` (do the supports lie in earlier episodes?), and
where other answers are right as well, `verify`, which tells of any whether it is.
The reward is 1 exactly when the answer equals the target, or is as right by the answer's own check
(another shortest way, another program that does the same), else 0.

This file knows nothing of the worlds that stories are about.
"""

import string
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from numbers import Integral
from operator import attrgetter
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from stillknows.envs.turns import Info, Sheet, Turns

CHARACTERS = frozenset(string.ascii_lowercase + string.digits + " .?,'-")
LONGEST_TEXT = 256
_KEYS = 2**63  # a story's key is drawn below this

_AHEAD = 64  # keys of a row that are drawn at once


class Answer(NamedTuple):
    """What is right at a question, and why.

    Attributes:
        target: one right answer.
        supports: pairs of episode and step, in the order of reasoning.
        carried: whether they lie in earlier episodes.
        verify: tells whether another answer is as right; None where only the target is.
    """

    target: str
    supports: tuple[tuple[int, int], ...]
    carried: bool = False
    verify: Callable[[str], bool] | None = None

    def mark(self, action: str) -> tuple[float, Info]:
        """Return the reward of an action, and what is told after it."""
        right = action == self.target or (self.verify is not None and self.verify(action))
        told = {"target": self.target, "supports": self.supports, "carried": self.carried}
        return float(right), told if self.verify is None else {**told, "verify": self.verify}


class Story(NamedTuple):
    """One episode; `answers` has an entry for each sentence, None at statements."""

    episode: int
    sentences: tuple[str, ...]
    trees: tuple[str, ...]
    answers: tuple[Answer | None, ...]

    def info(self, step: int) -> Info:
        """Return what is known at observation `step`, whatever was answered before."""
        over = step >= len(self.sentences)
        return {
            "question": not over and self.answers[step] is not None,
            "tree": "" if over else self.trees[step],
            "episode": self.episode,
            "step": step,
        }

    def mark(self, step: int, action: str) -> tuple[float, Info]:
        """Return the reward of an action at `step`, and what is told after an answer."""
        answer = self.answers[step]
        return (0.0, {}) if answer is None else answer.mark(action)


def text_space() -> spaces.Text:
    """Return the space of sentences and of answers."""
    return spaces.Text(min_length=0, max_length=LONGEST_TEXT, charset=CHARACTERS)


@lru_cache(maxsize=4096)
def balanced_tree(sentence: str) -> str:
    """Return the balanced binary tree over the words of a sentence, bracketed."""

    def join(words: Sequence[str]) -> str:
        if len(words) < 2:
            return words[0] if words else ""
        half = (len(words) + 1) // 2
        return f"({join(words[:half])} {join(words[half:])})"

    return join(sentence.split())


class StoryTask(gymnasium.Env[str, str]):
    """An environment whose episodes are stories: pure functions of a key and a number.

    Each reset takes the next number. A reset with a seed begins again at `first_episode`, so that
    a seed fixes all that follows; the reset option "episode" sets the number.

    Args:
        first_episode: the number of its first episode within the lifetime.
        stride: how far apart its episodes' numbers are (the number of rows lived together).
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, first_episode: int = 0, stride: int = 1) -> None:
        self.observation_space = text_space()
        self.action_space = text_space()
        self.first_episode, self.stride = first_episode, stride
        self._next = first_episode
        self._story: Story | None = None
        self._step = 0

    @property
    @abstractmethod
    def vocabulary(self) -> tuple[str, ...]:
        """Every word that any split of the task can say or expect, sorted."""

    @abstractmethod
    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        """Return the story of an episode."""

    def tell_rows(self, keys_B: np.ndarray, episodes_B: np.ndarray, options: Info) -> Sheet:
        """Return the stories of some episodes side by side."""
        pairs = zip(keys_B.tolist(), episodes_B.tolist(), strict=True)
        return sheet_of([self.tell(key, episode, options) for key, episode in pairs])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Begin the next story, or the one with the number `options["episode"]`."""
        super().reset(seed=seed)
        options = options or {}
        episode = number_of(options, self._next if seed is None else self.first_episode)
        self._story = self.tell(int(self.np_random.integers(_KEYS)), episode, options)
        self._next = episode + self.stride
        self._step = 0
        return self._story.sentences[0], self._story.info(0)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Take an answer (ignored at statements) and tell the next sentence."""
        if self._story is None or self._step >= len(self._story.sentences):
            raise gymnasium.error.ResetNeeded("The story has ended: call reset() for the next.")
        reward, marked = self._story.mark(self._step, action)
        self._step += 1
        ended = self._step == len(self._story.sentences)
        observation = "" if ended else self._story.sentences[self._step]
        return observation, reward, ended, False, self._story.info(self._step) | marked


class RowsTask(StoryTask):
    """A task that writes the stories of many rows at once; one story is a batch of one row."""

    @abstractmethod
    def tell_rows(self, keys_B: np.ndarray, episodes_B: np.ndarray, options: Info) -> Sheet:
        """Return the stories of some episodes side by side."""

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        """Return the story of an episode."""
        return story_of(self.tell_rows(np.array([key]), np.array([episode]), options), 0)


class StoryVectorEnv(VectorEnv[tuple[str, ...], tuple[str, ...], np.ndarray]):
    """B stories told side by side, written at reset and served by index.

    Row b tells what a plain environment would that was reset with `seed + b`, `first_episode + b`
    and a stride of B, except that a row which comes to its next question before the others says ""
    until all ask theirs: who answers can think of all rows together. Rows that have ended say ""
    until all are reset together. The reset option "episode" sets the number of row 0.

    Args:
        num_envs: how many rows (B).
        task: the plain environment that writes the stories.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, num_envs: int, task: StoryTask) -> None:
        self.num_envs, self.task = num_envs, task
        self.single_observation_space = task.observation_space
        self.single_action_space = task.action_space
        self.observation_space = spaces.Tuple((task.observation_space,) * num_envs)
        self.action_space = spaces.Tuple((task.action_space,) * num_envs)
        self._keys: _Keys | None = None
        self._next = task.first_episode
        self._turns: Turns | None = None
        self._turn = 0

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word that any split of the task can say or expect, sorted."""
        return self.task.vocabulary

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], Info]:
        """Begin the next story in every row."""
        expect_all(options)
        options = options or {}
        if seed is not None or self._keys is None:
            seeds = row_seeds(seed, self.num_envs)
            self._keys = _Keys([gymnasium.utils.seeding.np_random(each)[0] for each in seeds])
        first = number_of(options, self._next if seed is None else self.task.first_episode)
        episodes_B = np.arange(first, first + self.num_envs)
        self._turns = Turns(self.task.tell_rows(self._keys.next(), episodes_B, options))
        self._next, self._turn = first + self.num_envs, 0
        return self._turns.observations[0], self._turns.info(0)

    def step(
        self, actions: Sequence[str]
    ) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray, Info]:
        """Take one answer a row (ignored at statements) and tell the next sentences."""
        turns = self._turns
        if turns is None or len(actions) != self.num_envs:
            raise ValueError(
                f"There are {len(actions)} answers for {self.num_envs if turns else 0} stories "
                f"under way: call reset() first, then give one answer for each of {self.num_envs} "
                "rows."
            )
        rewards, told = turns.mark(self._turn, actions)
        self._turn = min(self._turn + 1, len(turns) - 1)
        ended = turns.ended_TB[self._turn]
        infos = {**turns.info(self._turn), **told}
        never = np.zeros(self.num_envs, dtype=bool)
        return turns.observations[self._turn], rewards, ended, never, infos


class _Keys:
    """Draws the next key of every row, many at a time: the same as one at a time, but sooner."""

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self._generators = generators
        self._ahead: Iterator[np.ndarray] = iter(())

    def next(self) -> np.ndarray:
        """Return a key for each row, int64 `[B]`."""
        keys_B = next(self._ahead, None)
        if keys_B is None:
            drawn = [generator.integers(_KEYS, size=_AHEAD) for generator in self._generators]
            self._ahead = iter(np.stack(drawn, axis=1))
            keys_B = next(self._ahead)
        return keys_B


def sheet_of(stories: Sequence[Story]) -> Sheet:
    """Return stories side by side."""
    lengths = [len(story.sentences) for story in stories]
    answers = [[answer for answer in story.answers if answer] for story in stories]
    sentences, trees = (
        np.array([*(said for story in stories for said in column(story)), ""], dtype=object)
        for column in (attrgetter("sentences"), attrgetter("trees"))
    )
    first_B1 = np.cumsum([0, *lengths[:-1]])[:, None]
    lines_BS = first_B1 + np.arange(max(lengths))
    asked_BS = np.zeros(lines_BS.shape, dtype=bool)
    shape = len(stories), max(map(len, answers))
    told = {name: np.full(shape, None, dtype=object) for name in Answer._fields}
    for row, story in enumerate(stories):
        asked_BS[row, : lengths[row]] = [answer is not None for answer in story.answers]
        for number, answer in enumerate(answers[row]):
            for name, value in zip(Answer._fields, answer, strict=True):
                told[name][row, number] = value
    told["carried"] = told["carried"].astype(bool)
    episodes_B = np.array([story.episode for story in stories])
    lines = lines_BS, sentences, trees
    return Sheet(*lines, asked_BS, np.array(lengths), episodes_B, *told.values())


def story_of(sheet: Sheet, row: int) -> Story:
    """Return the story of one row."""
    end = sheet.lengths_B[row]
    columns = (sheet.targets_BQ, sheet.supports_BQ, sheet.carried_BQ)
    answers = map(Answer, *(column_BQ[row].tolist() for column_BQ in columns))
    asked = sheet.asked_BS[row, :end].tolist()
    lines = sheet.lines_BS[row, :end]
    return Story(
        int(sheet.episodes_B[row]),
        tuple(sheet.sentences[lines].tolist()),
        tuple(sheet.trees[lines].tolist()),
        tuple(next(answers) if ask else None for ask in asked),
    )


def asked_of(observations: Sequence[str], info: Info) -> np.ndarray:
    """Return which rows ask, bool `[B]`: as `info` says, by the question mark where it does not."""
    marks_B = np.array([text.endswith("?") for text in observations])
    if "question" not in info:
        return marks_B
    told_B = np.asarray(info.get("_question", np.ones(len(marks_B), dtype=bool)), dtype=bool)
    return np.where(told_B, np.asarray(info["question"], dtype=bool), marks_B)


def expect_all(options: Info | None) -> None:
    """Raise a ValueError if Gymnasium's reset option `reset_mask` names some of the rows alone."""
    if not np.all((options or {}).get("reset_mask", True)):
        raise ValueError("Rows are reset together, when all have ended: leave out reset_mask.")


def number_of(options: Info, following: int) -> int:
    """Return the number of an episode, the reset option "episode", or the following one.

    Raises:
        ValueError: if it is no whole number from 0 on.
    """
    number = options.get("episode", following)
    if not isinstance(number, Integral) or isinstance(number, bool) or number < 0:
        raise ValueError(f"episode={number!r}: give a whole number from 0 on.")
    return int(number)


def row_seeds(seed: int | list[int | None] | None, rows: int) -> list[int | None]:
    """Return a seed for each row: those given, or the one given and those after it."""
    if isinstance(seed, list):
        if len(seed) != rows:
            raise ValueError(f"There are {len(seed)} seeds for {rows} rows: give one a row.")
        return seed
    return [None if seed is None else seed + row for row in range(rows)]
