"""Text tasks: what every environment that tells stories and asks questions agrees on.

An observation is one sentence; words are lower-case and separated by single spaces, the final
`.` or `?` is a word of its own. An action is the whole answer, ignored at statements. The answer
to the last question ends the episode, and the observation is then "".

`info` always says `question` (does the current observation ask?), `tree` (the bracketed tree of
the current sentence), `episode` (its number within the lifetime) and `step` (the index of the
current observation). After an answer it also says `target`, `supports` (pairs of episode and
step, in the order of reasoning) and `carried` (do the supports lie in earlier episodes?).
The reward is 1 exactly when the answer equals the target, or is as right by the answer's own check
(another shortest way, another program that does the same), else 0.

This file knows nothing of the worlds that stories are about.
"""

import string
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

CHARACTERS = frozenset(string.ascii_lowercase + string.digits + " .?,'-")
LONGEST_TEXT = 256
_KEYS = 2**63  # a story's key is drawn below this
_COLUMNS = (((bool, np.bool_), bool), ((int, np.integer), int), ((float, np.floating), float))

Info = dict[str, Any]


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
        return float(right), told


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

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Begin the next story, or the one with the number `options["episode"]`."""
        super().reset(seed=seed)
        options = options or {}
        episode = options.get("episode", self._next if seed is None else self.first_episode)
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
        self._generators: list[np.random.Generator] = []
        self._next = task.first_episode
        self._stories: list[Story] = []
        self._turns: list[_Turn] = []
        self._turn = 0

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word that any split of the task can say or expect, sorted."""
        return self.task.vocabulary

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], Info]:
        """Begin the next story in every row."""
        options = options or {}
        if seed is not None or not self._generators:
            self._generators = [
                gymnasium.utils.seeding.np_random(each)[0]
                for each in row_seeds(seed, self.num_envs)
            ]
        first = options.get("episode", self._next if seed is None else self.task.first_episode)
        self._stories = [
            self.task.tell(int(generator.integers(_KEYS)), first + row, options)
            for row, generator in enumerate(self._generators)
        ]
        self._next = first + self.num_envs
        self._turns, self._turn = _turns(self._stories), 0
        return self._turns[0].observations, dict(self._turns[0].info)

    def step(
        self, actions: Sequence[str]
    ) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray, Info]:
        """Take one answer a row (ignored at statements) and tell the next sentences."""
        if len(actions) != len(self._stories):
            raise ValueError(
                f"There are {len(actions)} answers for {len(self._stories)} stories under way: "
                f"call reset() first, then give one answer for each of {self.num_envs} rows."
            )
        marks = [
            (0.0, {}) if step is None else story.mark(step, action)
            for story, step, action in zip(
                self._stories, self._turns[self._turn].steps, actions, strict=True
            )
        ]
        self._turn = min(self._turn + 1, len(self._turns) - 1)
        turn = self._turns[self._turn]
        rewards = np.array([reward for reward, _ in marks])
        infos = {**turn.info, **gather([marked for _, marked in marks])}
        return turn.observations, rewards, turn.ended, np.zeros_like(turn.ended), infos


class _Turn(NamedTuple):
    """What all rows say at once.

    Attributes:
        observations: one a row.
        steps: the step of each row's story that it tells, None if it waits or is over.
        ended: which rows are over.
        info: what is known of each row, whatever was answered before.
    """

    observations: tuple[str, ...]
    steps: tuple[int | None, ...]
    ended: np.ndarray
    info: Info


def _turns(stories: Sequence[Story]) -> list[_Turn]:
    """Return the turns in which rows tell their stories together, and last that all are over."""
    rows: list[list[int | None]] = [[] for _ in stories]
    for stretches in zip_longest(*map(_stretches, stories), fillvalue=range(0)):
        longest = max(map(len, stretches))
        for row, stretch in zip(rows, stretches, strict=True):
            waits = [None] * (longest - len(stretch))
            row += [*stretch[:-1], *waits, stretch[-1]] if stretch else []
    coming = [_coming(row, len(story.sentences)) for row, story in zip(rows, stories, strict=True)]
    together = [*zip_longest(*rows), (None,) * len(rows)]  # None also for rows that are over
    return [
        _turn(stories, steps, [row[min(turn, len(row) - 1)] for row in coming])
        for turn, steps in enumerate(together)
    ]


def _turn(stories: Sequence[Story], steps: Sequence[int | None], coming: Sequence[int]) -> _Turn:
    """Return one turn; a row that waits is known by the step it tells next, `coming`."""
    told = list(zip(stories, steps, strict=True))
    known = {
        "question": np.array([s is not None and story.answers[s] is not None for story, s in told]),
        "tree": np.array(["" if s is None else story.trees[s] for story, s in told], dtype=object),
        "episode": np.array([story.episode for story in stories]),
        "step": np.array(coming),
    }
    everyone = {f"_{name}": np.ones(len(told), dtype=bool) for name in known}
    return _Turn(
        observations=tuple("" if s is None else story.sentences[s] for story, s in told),
        steps=tuple(steps),
        ended=np.array(
            [next_ >= len(story.sentences) for story, next_ in zip(stories, coming, strict=True)]
        ),
        info={**known, **everyone},
    )


def _coming(row: Sequence[int | None], end: int) -> list[int]:
    """Return for each turn the step that is told then or, after a wait, next; last, the end."""
    coming = [end]
    for step in reversed(row):
        coming.append(coming[-1] if step is None else step)
    return coming[::-1]


def _stretches(story: Story) -> list[range]:
    """Return the steps of a story cut after each question."""
    ends = [step + 1 for step, answer in enumerate(story.answers) if answer is not None]
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


class TextVectorEnv(VectorEnv[tuple[str, ...], tuple[str, ...], np.ndarray]):
    """Any plain text environments side by side, for those without a vector of their own.

    Rows that have ended say "" until all are reset together, and stay terminated or truncated;
    reset seeds row b with `seed + b`.

    Args:
        envs: the environments, one a row.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, envs: Sequence[gymnasium.Env[str, str]]) -> None:
        self.envs, self.num_envs = list(envs), len(envs)
        self.single_observation_space = envs[0].observation_space
        self.single_action_space = envs[0].action_space
        self.observation_space = spaces.Tuple(tuple(env.observation_space for env in envs))
        self.action_space = spaces.Tuple(tuple(env.action_space for env in envs))
        self._terminated = np.ones(self.num_envs, dtype=bool)
        self._truncated = np.zeros(self.num_envs, dtype=bool)
        self._infos: list[Info] = [{}] * self.num_envs

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], Info]:
        """Begin an episode in every row."""
        seeds = row_seeds(seed, self.num_envs)
        pairs = [
            env.reset(seed=s, options=_for_row(options, row))
            for row, (env, s) in enumerate(zip(self.envs, seeds, strict=True))
        ]
        self._terminated = np.zeros(self.num_envs, dtype=bool)
        self._truncated = np.zeros(self.num_envs, dtype=bool)
        self._infos = [info for _, info in pairs]
        return tuple(observation for observation, _ in pairs), gather(self._infos)

    def step(
        self, actions: Sequence[str]
    ) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray, Info]:
        """Step every row that has not ended."""
        observations, rewards = [""] * self.num_envs, np.zeros(self.num_envs)
        infos = [{**info, "question": False} for info in self._infos]
        for row in np.flatnonzero(~(self._terminated | self._truncated)).tolist():
            observation, reward, ended, cut, info = self.envs[row].step(actions[row])
            over = ended or cut
            observations[row], rewards[row] = "" if over else observation, reward
            self._terminated[row], self._truncated[row] = ended, cut
            infos[row] = {**info, "question": False} if over else dict(info)
            self._infos[row] = {k: info[k] for k in ("episode", "step", "tree") if k in info}
        ends = self._terminated.copy(), self._truncated.copy()
        return tuple(observations), rewards, *ends, gather(infos)

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()


def gather(infos: Sequence[Info]) -> Info:
    """Join the infos of rows as Gymnasium does: an array a key, and a mask `_key` of who has it.

    Truth values and numbers become arrays of their kind, with False or 0 where a row has none;
    all else, what is of mixed kinds included, becomes an array of objects, with None.
    """
    joined: Info = {}
    for key in {key: None for info in infos for key in info}:
        present = [info[key] for info in infos if key in info]
        dtype: type = next((d for kind, d in _COLUMNS if _all_are(kind, present)), object)
        blank = None if dtype is object else 0
        column = (info.get(key, blank) for info in infos)
        joined[key] = np.fromiter(column, dtype=dtype, count=len(infos))
        joined[f"_{key}"] = np.array([key in info for info in infos])
    return joined


def _all_are(kind: tuple[type, ...], values: Sequence[Any]) -> bool:
    return all(isinstance(value, kind) for value in values)


def row_seeds(seed: int | list[int | None] | None, rows: int) -> list[int | None]:
    """Return a seed for each row: those given, or the one given and those after it."""
    if isinstance(seed, list):
        if len(seed) != rows:
            raise ValueError(f"There are {len(seed)} seeds for {rows} rows: give one a row.")
        return seed
    return [None if seed is None else seed + row for row in range(rows)]


def _for_row(options: Info | None, row: int) -> Info | None:
    """Return the reset options of one row: its episode comes `row` after that of row 0."""
    if options is None or "episode" not in options:
        return options
    return {**options, "episode": options["episode"] + row}
