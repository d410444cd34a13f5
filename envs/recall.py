"""Key-value recall in sentences: codes of people, told once, asked for many sentences later.

    gymnasium.make("stillknows/KeyValueRecall-v0", distance=100)
    gymnasium.make_vec("stillknows/KeyValueRecall-v0", num_envs=8)

A story tells the codes of some people, then so many sentences that are about the same people and
change nothing, then asks for every code, in any order. Some codes may be told anew: the last
counts. This file knows neither how stories are served (`stillknows.envs.text`), nor who answers.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from stillknows.envs.tasks import Task, suggest
from stillknows.envs.text import Answer, Story, StoryTask, StoryVectorEnv, balanced_tree

ID = "stillknows/KeyValueRecall-v0"
_PEOPLE = (
    "ada ben cleo dora emil finn gina hugo iris jack kate liam mona nils olga paul "
    "rosa sven tara vito"
)
_CODES = (
    "amber birch coral delta ember frost grove heron ivory jade lemon maple nickel onyx "
    "pearl quartz raven sable tulip violet"
)
PEOPLE, CODES = tuple(_PEOPLE.split()), tuple(_CODES.split())
DOINGS = ("saw", "drew", "bought", "lost", "cleaned", "found")
THINGS = ("chair", "kettle", "mirror", "pencil", "ribbon", "spoon", "ticket", "window")


@dataclass(frozen=True)
class Dials:
    """How a story is told.

    Attributes:
        facts: people whose code is told, 1 to 20.
        updates: how many of them are told a new code, right after all have one; at most `facts`.
        distance: sentences from the last code to the first question, 0 or more.
        shortest: the least distance; below `distance`, each story draws one of either, every
            order of magnitude as likely.
    """

    facts: int = 4
    updates: int = 0
    distance: int = 10
    shortest: int | None = None

    def __post_init__(self) -> None:
        """Raise a ValueError if a dial is out of range."""
        if not 1 <= self.facts <= len(PEOPLE):
            raise ValueError(f"facts={self.facts}: choose 1 to {len(PEOPLE)}.")
        if not 0 <= self.updates <= self.facts:
            raise ValueError(f"updates={self.updates}: choose 0 to facts={self.facts}.")
        least = self.distance if self.shortest is None else self.shortest
        if not 0 <= least <= self.distance:
            raise ValueError(
                f"shortest={self.shortest} and distance={self.distance}: both are 0 or more, and "
                "shortest is not the longer."
            )


class KeyValueRecall(StoryTask):
    """Codes of people, told once, asked for many sentences later.

    Args:
        first_episode: the number of its first episode within the lifetime.
        stride: how far apart its episodes' numbers are.
        **dials: of `Dials`.
    """

    def __init__(self, first_episode: int = 0, stride: int = 1, **dials: Any) -> None:
        super().__init__(first_episode, stride)
        self.dials = make_dials(dials)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word that it can say or expect, sorted."""
        words = {"the", "code", "of", "is", "what", "a", ".", "?"}
        return tuple(sorted(words.union(PEOPLE, CODES, DOINGS, THINGS)))

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        """Return the story of an episode."""
        draw = np.random.default_rng(key)
        told = self._told(draw)
        sentences = [f"the code of {person} is {code} ." for person, code in told]
        sentences += _idle(draw, self._distance(draw))
        last = {person: (code, step) for step, (person, code) in enumerate(told)}
        asked = [list(last)[place] for place in draw.permutation(len(last))]
        answers: list[Answer | None] = [None] * len(sentences)
        answers += [Answer(last[p][0], ((episode, last[p][1]),)) for p in asked]
        sentences += [f"what is the code of {person} ?" for person in asked]
        trees = tuple(map(balanced_tree, sentences))
        return Story(episode, tuple(sentences), trees, tuple(answers))

    def _told(self, draw: np.random.Generator) -> list[tuple[str, str]]:
        """Return people with their codes, in the order of telling; nobody shares a code."""
        dials = self.dials
        people = [PEOPLE[n] for n in draw.permutation(len(PEOPLE))[: dials.facts]]
        codes = [CODES[n] for n in draw.permutation(len(CODES))]
        again = [people[n] for n in draw.permutation(dials.facts)[: dials.updates]]
        others = [codes[(dials.facts + n) % len(codes)] for n in range(dials.updates)]
        return [*zip(people, codes, strict=False), *zip(again, others, strict=True)]

    def _distance(self, draw: np.random.Generator) -> int:
        most, least = self.dials.distance, self.dials.shortest
        if least is None or least == most:
            return most
        low, high = np.log([least + 1, most + 2])
        return int(np.exp(draw.uniform(low, high))) - 1


class KeyValueRecallVectorEnv(StoryVectorEnv):
    """A batch of key-value recall.

    Args:
        num_envs: how many rows (B).
        **settings: of `KeyValueRecall`, without `stride`.
    """

    def __init__(self, num_envs: int = 1, **settings: Any) -> None:
        super().__init__(num_envs, KeyValueRecall(**settings))


def make_dials(dials: dict[str, Any]) -> Dials:
    """Return dials by their names.

    Raises:
        ValueError: if one is unknown or out of range.
    """
    known = [field.name for field in fields(Dials)]
    for name in dials:
        if name not in known:
            raise ValueError(f"Key-value recall has no dial '{name}'. {suggest(name, known)}")
    return Dials(**dials)


def recall_tasks(distances: list[int], trained: int | list[int], **dials: Any) -> list[Task]:
    """Return one task a distance of the examination.

    Args:
        distances: of the examinations.
        trained: the longest distance in training, of all tasks, or one a task; shorter ones are
            drawn as well.
        **dials: of `Dials`, in training and examinations.

    Raises:
        ValueError: if a dial is unknown or out of range, or there are fewer `trained` than tasks.
    """
    longest = [trained] * len(distances) if isinstance(trained, int) else trained
    if len(longest) != len(distances):
        raise ValueError(f"trained={trained} for distances={distances}: give one, or one each.")
    tasks = []
    for distance, most in zip(distances, longest, strict=True):
        train = {**dials, "distance": most, "shortest": 0}
        exam = {**dials, "distance": distance}
        make_dials(train)
        make_dials(exam)
        tasks.append(Task(f"recall_{distance}", ID, train, exam))
    return tasks


def _idle(draw: np.random.Generator, count: int) -> list[str]:
    """Return sentences that change nothing."""
    lists = (PEOPLE, DOINGS, THINGS)
    columns = [draw.integers(len(words), size=count).tolist() for words in lists]
    return [f"{PEOPLE[p]} {DOINGS[d]} a {THINGS[t]} ." for p, d, t in zip(*columns, strict=True)]
