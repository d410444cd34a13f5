"""Floors: what the simplest answers would score, beside every accuracy.

They read the questions of an examination and, at most, the distribution of training answers; they
learn nothing and remember nothing.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stillknows.envs.tasks import Task, make
from stillknows.envs.text import asked_of


class Heard(NamedTuple):
    """One question: the statements before it, the question itself and the right answer.

    `verify` tells where other answers are right as well.
    """

    story: tuple[str, ...]
    question: str
    target: str
    verify: Callable[[str], bool] | None = None

    def right(self, answer: str) -> bool:
        """Return whether an answer is right."""
        return answer == self.target or (self.verify is not None and bool(self.verify(answer)))


def hear(
    task: Task,
    arguments: Mapping[str, Any],
    episodes: int,
    *,
    seed: int,
    options: Mapping[str, Any] | None = None,
) -> list[Heard]:
    """Return the questions of some episodes of a task, answering nothing."""
    envs = make(task, episodes, arguments)
    observations, info = envs.reset(seed=seed, options=dict(options or {}))
    stories: list[list[str]] = [[] for _ in observations]
    heard = []
    ended = np.zeros(envs.num_envs, dtype=bool)
    while not ended.all():
        asked = observations
        for row in np.flatnonzero(~asked_of(observations, info)):
            stories[row].extend(filter(None, [observations[row]]))  # who waits says nothing
        observations, _, terminated, truncated, info = envs.step(("",) * envs.num_envs)
        ended = ended | terminated | truncated
        for row in np.flatnonzero(info.get("_target", [])):
            verify = info["verify"][row] if "verify" in info else None
            heard.append(Heard(tuple(stories[row]), asked[row], str(info["target"][row]), verify))
    envs.close()
    return heard


def majority_answer(train_answers: Sequence[str], exam: Sequence[Heard]) -> float:
    """Return the accuracy of always giving the most frequent answer of training."""
    answer = _majority(train_answers)
    return float(np.mean([question.right(answer) for question in exam]))


def last_mentioned_answer(train_answers: Sequence[str], exam: Sequence[Heard]) -> float:
    """Return the accuracy of giving the training answer that the story mentioned last.

    Of answers that end at the same word the longest counts; where the story mentions none, the
    most frequent answer of training does.
    """
    answers = sorted(set(train_answers), key=lambda answer: (len(answer.split()), answer))
    fallback = _majority(train_answers)
    guesses = [_last_mentioned(question.story, answers) or fallback for question in exam]
    return float(np.mean([question.right(g) for g, question in zip(guesses, exam, strict=True)]))


def _majority(answers: Sequence[str]) -> str:
    """Return the most frequent answer, of equals the first in the alphabet."""
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _last_mentioned(story: Sequence[str], answers: Sequence[str]) -> str | None:
    words = [word for sentence in story for word in sentence.split()]
    spans = [answer.split() for answer in answers]
    for end in range(len(words), 0, -1):
        for span in reversed(spans):
            if span and words[max(0, end - len(span)) : end] == span:
                return " ".join(span)
    return None
