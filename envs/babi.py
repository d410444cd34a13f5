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
from stillknows.envs.text import Answer, Story, StoryTask, StoryVectorEnv, balanced_tree

TASKS = tuple(f"qa{number}" for number in range(1, 21))
SPLITS = {"train": "train", "exam": "test"}
SIZES = ("en-10k", "en")
ARCHIVE = "tasks_1-20_v1-2.tar.gz (Weston et al. 2015, the bAbI tasks)"
_WORD = re.compile(r"[a-z0-9'-]+|[.?,]")


class BabiTask(StoryTask):
    """One of the twenty tasks.

    In training a reset draws any story; in the examination it takes the next one (reset option
    `episode`, the first story of a reset with a seed is `first_episode`), and begins again after
    the last.

    A training story that also stands in the test file, questions included, is left out: of the
    public `en-10k` 1,480 of 10,000 in qa4, none elsewhere. A question after the same sentences
    can still be in both where stories are longer than it: 203 of 1,000 in the exam of qa20, 152
    in that of qa17, at most 25 elsewhere.

    Args:
        task: "qa1" to "qa20", or 1 to 20.
        directory: the folder with `en-10k/` or `en/` in it.
        split: "train" or "exam" (the test file).
        size: "en-10k" or "en". Where the training file of `en-10k` is missing, those of `en` and
            `en-valid-10k` are read together; `source` says which files were read.
        first_episode: the number of its first episode within the lifetime.
        stride: how far apart its episodes' numbers are.

    Raises:
        ValueError: if the task, the split or the size is unknown, or if the files are not there,
            not in the format, or hold no training story that is not in the test file.
    """

    def __init__(
        self,
        task: str | int,
        directory: str,
        split: str = "train",
        size: str = "en-10k",
        first_episode: int = 0,
        stride: int = 1,
    ) -> None:
        super().__init__(first_episode, stride)
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: choose train or exam.")
        if size not in SIZES:
            raise ValueError(f"size={size!r}: choose {' or '.join(SIZES)}.")
        self.task, self.split = _name(task), split
        self._files = {each: _files(directory, size, self.task, each) for each in SPLITS}
        self.source = self._files[split]
        self.stories = _read(self.source)
        if split == "train":
            examined = {sentences for sentences, _ in _read(self._files["exam"])}
            self.stories = tuple(story for story in self.stories if story[0] not in examined)
        if not self.stories:
            raise ValueError(
                f"Every story of {self.source[0]} is in the test file too, so that none is left to "
                f"train on: unpack {ARCHIVE} again."
            )

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word of the task's training and test files, sorted."""
        words: set[str] = set()
        for files in self._files.values():
            for sentences, answers in _read(files):
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


def babi_tasks(directory: str, tasks: Sequence[str | int], size: str = "en-10k") -> list[Task]:
    """Return bAbI tasks for a stream, in this order.

    Args:
        directory: the folder with `en-10k/` or `en/` in it.
        tasks: any of "qa1" to "qa20", or of 1 to 20.
        size: "en-10k" or "en".

    Raises:
        ValueError: if a task is unknown or its files are not there.
    """
    return [_task({"task": _name(task), "directory": directory, "size": size}) for task in tasks]


def _task(train: dict[str, Any]) -> Task:
    exam = {**train, "split": "exam"}
    sources = [BabiTask(**arguments).source for arguments in (train, exam)]
    read = " and ".join(f"{path.parent.name}/{path.name}" for path in sources[0])
    return Task(
        train["task"],
        "stillknows/Babi-v0",
        train,
        exam,
        exam_stories=len(_read(sources[1])),
        source=f"trained on {read}, examined on {sources[1][0].name}",
    )


Parsed = tuple[tuple[str, ...], tuple[tuple[str, tuple[int, ...]] | None, ...]]


def _name(task: str | int) -> str:
    """Return "qa1" for "qa1" and for 1."""
    name = f"qa{task}" if isinstance(task, int) else task
    if name not in TASKS:
        raise ValueError(f"bAbI has no task '{task}'. {suggest(name, TASKS)}")
    return name


def _files(directory: str, size: str, task: str, split: str) -> tuple[Path, ...]:
    """Return the files of a split."""
    if not directory:
        raise ValueError(
            f"stream.directory is not given: unpack {ARCHIVE} and name the folder with en-10k/."
        )
    root = Path(directory).expanduser()
    found = tuple(sorted((root / size).glob(f"{task}_*_{SPLITS[split]}.txt")))
    if not found and split == "train" and size == "en-10k":
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
        try:
            stories.extend(map(_parse, _split(path.read_text(encoding="utf-8"))))
        except ValueError as error:
            raise ValueError(
                f"{path} is not a file of bAbI's ({error}): unpack {ARCHIVE} again."
            ) from error
    return tuple(stories)


def _split(text: str) -> list[list[str]]:
    """Return the lines of each story without their numbers; the number 1 begins a story."""
    stories: list[list[str]] = []
    for line in filter(str.strip, text.splitlines()):
        number, _, rest = line.partition(" ")
        if number == "1":
            stories.append([])
        if not stories or number != str(len(stories[-1]) + 1):
            raise ValueError(f"the line {line[:40]!r} is out of number")
        stories[-1].append(rest)
    if not stories:
        raise ValueError("it is empty")
    return stories


def _parse(lines: Sequence[str]) -> Parsed:
    """Return one story; the number of a line is its step plus one."""
    sentences: list[str] = []
    answers: list[tuple[str, tuple[int, ...]] | None] = []
    for step, line in enumerate(lines):
        text, *rest = line.split("\t")
        sentences.append(" ".join(_WORD.findall(text.lower())))
        if not rest:
            answers.append(None)
            continue
        supports = tuple(int(number) - 1 for number in " ".join(rest[1:]).split())
        if not all(0 <= support < step for support in supports):
            raise ValueError(f"a support of {text.strip()!r} does not come before it")
        answers.append((" ".join(rest[0].lower().split(",")), supports))
    if answers[-1] is None:
        raise ValueError(f"a story ends with {lines[-1]!r}, which asks nothing")
    return tuple(sentences), tuple(answers)
