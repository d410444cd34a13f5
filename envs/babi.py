"""The bAbI tasks from their files (Weston et al. 2015, arXiv:1502.05698), as text tasks.

The data is not part of this project: `directory` names a folder that holds `en-10k/` (or `en/`) of
the public archive `tasks_1-20_v1-2.tar.gz`. One observation is one line; a question line asks. The
trees are balanced binary trees over the words, since bAbI has none.
"""

import random
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from stillknows.envs.tasks import Task, suggest
from stillknows.envs.text import Answer, Story, StoryTask, StoryVectorEnv

TASKS = tuple(f"qa{number}" for number in range(1, 21))
SPLITS = {"train": "train", "exam": "test"}
ARCHIVE = "tasks_1-20_v1-2.tar.gz (Weston et al. 2015, the bAbI tasks)"
_WORD = re.compile(r"[a-z0-9'-]+|[.?,]")


class BabiTask(StoryTask):
    """One of the twenty tasks.

    In training a reset draws any story; in the examination it takes the next one (reset option
    `episode`, the first story of a reset with a seed is `first_episode`). A training story that
    also stands in the test file is left out.

    Args:
        task: "qa1" to "qa20".
        directory: the folder with `en-10k/` or `en/` in it.
        split: "train" or "exam" (the test file).
        size: "en-10k" or "en". Where the training file of `en-10k` is missing, those of `en` and
            `en-valid-10k` are read together; `source` says which files were read.
        first_episode: the number of its first episode within the lifetime.
        stride: how far apart its episodes' numbers are.

    Raises:
        ValueError: if the task is unknown or its files are not there.
    """

    def __init__(
        self,
        task: str,
        directory: str,
        split: str = "train",
        size: str = "en-10k",
        first_episode: int = 0,
        stride: int = 1,
    ) -> None:
        super().__init__(first_episode, stride)
        if task not in TASKS:
            raise ValueError(f"bAbI has no task '{task}'. {suggest(task, TASKS)}")
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: choose train or exam.")
        self.task, self.split = task, split
        self.source = _files(directory, size, task, split)
        stories = _read(self.source)
        if split == "train":
            examined = {sentences for sentences, _ in _read(_files(directory, size, task, "exam"))}
            stories = tuple(story for story in stories if story[0] not in examined)
        self.stories = stories
        self._directory, self._size = directory, size

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word of the task's training and test files, sorted."""
        words: set[str] = set()
        for split in SPLITS:
            for sentences, answers in _read(_files(self._directory, self._size, self.task, split)):
                words.update(word for sentence in sentences for word in sentence.split())
                words.update(word for answer in answers if answer for word in answer[0].split())
        return tuple(sorted(words))

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        """Return the story of an episode."""
        number = random.Random(key).randrange(len(self.stories))
        if self.split == "exam":
            number = episode % len(self.stories)
        sentences, answers = self.stories[number]
        marks = tuple(
            None if answer is None else Answer(answer[0], tuple((episode, s) for s in answer[1]))
            for answer in answers
        )
        return Story(episode, sentences, tuple(map(balanced_tree, sentences)), marks)


class BabiVectorEnv(StoryVectorEnv):
    """A batch of one bAbI task, row by row the same episodes as the plain environment.

    Args:
        num_envs: how many rows (B).
        **settings: of `BabiTask`, without `stride`.
    """

    def __init__(self, num_envs: int = 1, **settings: Any) -> None:
        super().__init__(num_envs, BabiTask(**settings))


def babi_tasks(directory: str, tasks: Sequence[str], size: str = "en-10k") -> list[Task]:
    """Return bAbI tasks for a stream, in this order.

    Args:
        directory: the folder with `en-10k/` or `en/` in it.
        tasks: any of "qa1" to "qa20".
        size: "en-10k" or "en".
    """
    return [
        Task(
            task,
            "stillknows/Babi-v0",
            {"task": task, "directory": directory, "size": size},
            {"task": task, "directory": directory, "size": size, "split": "exam"},
        )
        for task in tasks
    ]


@lru_cache(maxsize=4096)
def balanced_tree(sentence: str) -> str:
    """Return the balanced binary tree over the words of a sentence, bracketed."""

    def join(words: Sequence[str]) -> str:
        if len(words) < 2:
            return words[0] if words else ""
        half = (len(words) + 1) // 2
        return f"({join(words[:half])} {join(words[half:])})"

    return join(sentence.split())


Parsed = tuple[tuple[str, ...], tuple[tuple[str, tuple[int, ...]] | None, ...]]


def _files(directory: str, size: str, task: str, split: str) -> tuple[Path, ...]:
    """Return the files of a split."""
    if not directory:
        raise ValueError(
            f"stream.directory is not given: unpack {ARCHIVE} and name the folder with en-10k/."
        )
    root = Path(directory)
    found = tuple(sorted((root / size).glob(f"{task}_*_{SPLITS[split]}.txt")))
    if not found and split == "train":
        found = (
            *sorted((root / "en").glob(f"{task}_*_train.txt")),
            *sorted((root / "en-valid-10k").glob(f"{task}_valid.txt")),
        )
    if not found:
        raise ValueError(
            f"There is no {split} file of bAbI {task} in {root / size}: unpack {ARCHIVE} and give "
            "the folder that holds en-10k/ as stream.directory=FOLDER."
        )
    return found


@lru_cache(maxsize=64)
def _read(paths: tuple[Path, ...]) -> tuple[Parsed, ...]:
    """Return the stories of files: sentences, and answers with the steps of their supports."""
    stories: list[Parsed] = []
    for path in paths:
        lines: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.split(" ", 1)[0] == "1" and lines:
                stories.append(_parse(lines))
                lines = []
            lines.append(line)
        stories.append(_parse(lines))
    return tuple(stories)


def _parse(lines: Sequence[str]) -> Parsed:
    """Return one story; the number of a line is its step plus one."""
    sentences: list[str] = []
    answers: list[tuple[str, tuple[int, ...]] | None] = []
    for line in lines:
        text, *rest = line.split(" ", 1)[1].split("\t")
        sentences.append(" ".join(_WORD.findall(text.lower())))
        if not rest:
            answers.append(None)
            continue
        answer = " ".join(rest[0].lower().split(","))
        supports = rest[1].split() if len(rest) > 1 else []
        answers.append((answer, tuple(int(number) - 1 for number in supports)))
    return tuple(sentences), tuple(answers)
