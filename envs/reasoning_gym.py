"""Tasks of the package reasoning-gym as text tasks, with its own verifier (extra `text`).

A question is said in lower case, every sign and every digit a word of its own. The package's answer
is right, and so is any other that its verifier gives full marks. Items belong to training or to
examinations by what they ask, so no question is in both. Everything is fixed by seeds.
"""

import hashlib
import importlib
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import gymnasium
from gymnasium import spaces

from stillknows.envs.tasks import Task, suggest
from stillknows.envs.text import Answer

LONGEST = 4096
TEXT = spaces.Text(min_length=0, max_length=LONGEST, charset=string.printable)
FEEDBACK = "no . again : "
_WORD = re.compile(r"[a-z]+|\S")
_ITEMS = 2**30
_EXAMINED = 4  # one of so many items examines
_MOST_ITEMS = 1000  # that are looked at in search of one of a split
_SAMPLE = 128  # items whose words get tokens of their own


@dataclass(frozen=True)
class Verifier:
    """The package's own verifier of the answers to an item."""

    items: Any
    item: dict[str, Any]

    def __call__(self, answer: str) -> bool:
        """Return whether an answer, as it is said, gets full marks."""
        return bool(self.items.score_answer(unsay(answer), self.item) >= 1)


class ReasoningGym(gymnasium.Env[str, str]):
    """One of the package's tasks; an episode is one item.

    After a wrong answer the question is asked again, `attempts` times in all.

    Args:
        task: its name in the package, such as "chain_sum".
        settings: of the task.
        split: "train" or "exam".
        attempts: how often an item is asked, at most.

    Raises:
        ValueError: with one sentence, if the package is missing, has no such task, cannot make it
            with such settings, or makes another one each time.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        task: str,
        settings: Mapping[str, Any] | None = None,
        split: str = "train",
        attempts: int = 1,
    ) -> None:
        whole = isinstance(attempts, Integral) and not isinstance(attempts, bool)
        if split not in ("train", "exam") or not whole or attempts < 1:
            raise ValueError(
                f"split={split!r} is train or exam, attempts={attempts!r} a whole number from 1 on."
            )
        self.observation_space = self.action_space = TEXT
        self.items = _items(task, dict(settings or {}))
        self.task, self.split, self.attempts = task, split, attempts
        self.episode = -1
        self._question, self._answer, self._step = "", Answer("", ()), 0

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Words and signs of some items, sorted; what else is met is spelled."""
        said = [FEEDBACK, " ".join(string.digits)]
        for number in range(_SAMPLE):
            item = self.items[number]
            said += [say(item["question"]), say(item["answer"])]
        return tuple(sorted({word for text in said for word in text.split()}))

    def item(self, number: int) -> dict[str, Any]:
        """Return the first item of this split from a number on, as the package made it.

        Raises:
            ValueError: if so few are different that the split has none.
        """
        for ahead in range(_MOST_ITEMS):
            found: dict[str, Any] = self.items[number + ahead]
            if _examines(found["question"]) == (self.split == "exam"):
                return found
        raise ValueError(
            f"{_MOST_ITEMS} items of {self.task} in a row held none of the {self.split} split: "
            "with these settings too few are different; let them vary more."
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Ask another item."""
        super().reset(seed=seed)
        following = self.episode + 1 if seed is None else 0
        self.episode = (options or {}).get("episode", following)
        item = self.item(int(self.np_random.integers(_ITEMS)))
        self._question, self._step = say(item["question"]), 0
        self._answer = Answer(say(item["answer"]), (), verify=Verifier(self.items, item))
        return self._question, self._info(self._question)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take an answer; ask again if it is wrong and there are attempts left.

        Raises:
            ResetNeeded: if no item is asked.
        """
        if not self._question:
            raise gymnasium.error.ResetNeeded("The episode has ended: call reset() for the next.")
        reward, told = self._answer.mark(action)
        self._step += 1
        over = reward == 1 or self._step == self.attempts
        observation = "" if over else FEEDBACK + self._question
        self._question = "" if over else self._question
        return observation, reward, over, False, self._info(observation) | told

    def _info(self, observation: str) -> dict[str, Any]:
        return {
            "question": bool(observation),
            "tree": observation,
            "episode": self.episode,
            "step": self._step,
        }


def reasoning_gym_tasks(
    tasks: Sequence[str],
    attempts: int = 1,
    own: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Task]:
    """Return tasks of reasoning-gym for a stream, in this order.

    Args:
        tasks: their names in the package.
        attempts: how often an item is asked, at most, in training and in examinations.
        own: settings of single tasks, by name.
    """
    for name in own or {}:
        if name not in tasks:
            raise ValueError(f"stream.tasks.own names {name}. {suggest(name, list(tasks))}")
    made = []
    for name in tasks:
        settings = dict((own or {}).get(name, {}))
        train = {"task": name, "settings": settings, "attempts": attempts}
        exam = {**train, "split": "exam"}
        source = "reasoning-gym, marked by its own verifier"
        made.append(Task(name, "stillknows/ReasoningGym-v0", train, exam, source=source))
    return made


def say(text: str) -> str:
    """Return a text in lower case, with words, signs and digits set apart by spaces."""
    return " ".join(_WORD.findall(text.lower()))


def unsay(text: str) -> str:
    """Return what was said with numbers put together, and signs where they are written."""
    joined = re.sub(r"(?<=\d) (?=\d)", "", text)
    joined = re.sub(r"(^|[^\d\s] )- (?=\d)", r"\1-", joined)
    joined = re.sub(r"(?<=\d) ([./]) (?=\d)", r"\1", joined)
    return re.sub(r" (?=[,.;:?!])", "", joined)


def _examines(question: str) -> bool:
    """Return whether items that ask this, as it is said, examine."""
    return hashlib.blake2b(say(question).encode(), digest_size=8).digest()[0] % _EXAMINED == 0


def _items(task: str, settings: dict[str, Any]) -> Any:
    """Return all items of a task, each made when it is asked for."""
    try:
        package = importlib.import_module("reasoning_gym")
    except ModuleNotFoundError:
        raise ValueError(f"{task} needs reasoning-gym: pip install 'stillknows[text]'.") from None
    known = sorted(importlib.import_module("reasoning_gym.factory").DATASETS)
    if task not in known:
        raise ValueError(f"reasoning-gym has no task '{task}'. {suggest(task, known)}")
    made = []
    for _ in range(2):
        try:
            made.append(package.create_dataset(task, seed=0, size=2 * _ITEMS, **settings))
            first = made[-1][0]
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(f"reasoning-gym cannot make {task} of {settings}: {error}.") from None
        if not isinstance(first["answer"], str):
            raise ValueError(f"{task} of reasoning-gym has no answers to learn from: leave it out.")
    if made[0][0] != made[1][0]:
        raise ValueError(f"{task} of reasoning-gym is another one each time: leave it out.")
    return made[0]
