"""Key-value recall in sentences: codes of people, told once, asked for many sentences later.

    gymnasium.make("stillknows/KeyValueRecall-v0", distance=100)
    gymnasium.make_vec("stillknows/KeyValueRecall-v0", num_envs=8)

A story tells the codes of some people, then so many sentences that are about the same people and
change nothing, then asks for every code, in any order. What strains a memory can be turned up: some
codes are told anew (the last counts), some are for today only and end when a new day begins, some
are to be forgotten, and of some a rumour says something else, which does not count. Who has no code
any more has "none". This file knows neither how stories are served (`stillknows.envs.text`), nor
who answers.
"""

from collections.abc import Mapping
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
STRESSES: dict[str, dict[str, int]] = {
    "contradictions": {"updates": 4},
    "deletions": {"forgotten": 2},
    "expiry": {"expiring": 2},
    "rumours": {"rumours": 4},
    "distractors_50": {"distance": 4},
    "distractors_90": {"distance": 36},
    "distractors_99": {"distance": 396},
}
DOINGS = ("saw", "drew", "bought", "lost", "cleaned", "found")
_STRAINS = "today new day begins forget rumour says none"
Known = tuple[str, tuple[int, ...]]  # a code, and the steps that say so
THINGS = ("chair", "kettle", "mirror", "pencil", "ribbon", "spoon", "ticket", "window")


@dataclass(frozen=True)
class Dials:
    """How a story is told.

    Attributes:
        facts: people whose code is told, 1 to 20.
        updates: how many of them are told a new code, right after all have one; at most `facts`.
        expiring: how many of the codes told first are for today only; a new day then begins after
            all was told.
        forgotten: how many codes are to be forgotten, after all was told.
        rumours: of how many people something false is said, after all was told.
        distance: sentences from the last code to the first question, 0 or more.
        shortest: the least distance; below `distance`, each story draws one of either, every
            order of magnitude as likely.
    """

    facts: int = 4
    updates: int = 0
    expiring: int = 0
    forgotten: int = 0
    rumours: int = 0
    distance: int = 10
    shortest: int | None = None

    def __post_init__(self) -> None:
        """Raise a ValueError if a dial is out of range."""
        if not 1 <= self.facts <= len(PEOPLE):
            raise ValueError(f"facts={self.facts}: choose 1 to {len(PEOPLE)}.")
        for name in ("updates", "expiring", "forgotten", "rumours"):
            if not 0 <= getattr(self, name) <= self.facts:
                raise ValueError(f"{name}={getattr(self, name)}: choose 0 to facts={self.facts}.")
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
        if self.dials.expiring or self.dials.forgotten or self.dials.rumours:
            words.update(_STRAINS.split())
        return tuple(sorted(words.union(PEOPLE, CODES, DOINGS, THINGS)))

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        """Return the story of an episode."""
        draw = np.random.default_rng(key)
        sentences, known = self._tell_codes(draw)
        sentences += _idle(draw, self._distance(draw))
        asked = [list(known)[place] for place in draw.permutation(len(known))]
        answers: list[Answer | None] = [None] * len(sentences)
        for person in asked:
            code, steps = known[person]
            answers.append(Answer(code, tuple((episode, step) for step in steps)))
        sentences += [f"what is the code of {person} ?" for person in asked]
        trees = tuple(map(balanced_tree, sentences))
        return Story(episode, tuple(sentences), trees, tuple(answers))

    def _tell_codes(self, draw: np.random.Generator) -> tuple[list[str], dict[str, Known]]:
        """Return what is told of codes, and what holds then: of each person a code, and why."""
        dials, told = self.dials, self._told(draw)
        sentences, known = [], {}
        for step, (person, code) in enumerate(told):
            today = step < dials.expiring
            sentences.append(f"{'today ' * today}the code of {person} is {code} .")
            known[person] = (code, (step,), today)
        people = list(known)
        claims = [f"rumour says the code of {p} is {c} ." for p, c in self._rumours(draw, known)]
        orders: list[str] = []
        if dials.forgotten:
            orders = [people[n] for n in draw.permutation(len(people))[: dials.forgotten]]
        later = [*claims, *(f"forget the code of {person} ." for person in orders)]
        first = len(sentences)
        placed = draw.permutation(len(later)).tolist() if later else []
        sentences += [later[n] for n in placed]
        for person, number in zip(orders, range(len(claims), len(later)), strict=True):
            known[person] = ("none", (first + placed.index(number),), False)
        if dials.expiring:
            sentences.append("a new day begins .")
        return sentences, {
            person: ("none", (*steps, len(sentences) - 1)) if today else (code, steps)
            for person, (code, steps, today) in known.items()
        }

    def _rumours(
        self, draw: np.random.Generator, known: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Return people, and codes that nobody has."""
        if not self.dials.rumours:
            return []
        taken = {code for code, *_ in known.values()}
        free = [code for code in CODES if code not in taken] or list(CODES)
        codes = [free[n] for n in draw.permutation(len(free))]
        people = [list(known)[n] for n in draw.permutation(len(known))[: self.dials.rumours]]
        return [(person, codes[n % len(codes)]) for n, person in enumerate(people)]

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


def stress_tasks(tasks: list[str], **dials: Any) -> list[Task]:
    """Return tasks that strain a memory, each in a way of its own.

    Args:
        tasks: keys of `STRESSES`; with `_again` behind it, a task returns.
        **dials: of `Dials`, of all tasks.

    Raises:
        ValueError: if a task or a dial is unknown, or a dial out of range.
    """
    made = []
    for name in tasks:
        stress = name.removesuffix("_again")
        if stress not in STRESSES:
            raise ValueError(f"There is no stress '{name}'. {suggest(stress, list(STRESSES))}")
        own = {**dials, **STRESSES[stress]}
        make_dials(own)
        made.append(Task(name, ID, own, own))
    return made


def _idle(draw: np.random.Generator, count: int) -> list[str]:
    """Return sentences that change nothing."""
    lists = (PEOPLE, DOINGS, THINGS)
    columns = [draw.integers(len(words), size=count).tolist() for words in lists]
    return [f"{PEOPLE[p]} {DOINGS[d]} a {THINGS[t]} ." for p, d, t in zip(*columns, strict=True)]
