"""Writes the episodes of the microworld's five tasks: dials in, a story with questions out.

This file knows no Gymnasium and keeps no state: `write_story` is a pure function of a key, the id
of the episode, the dials and how much of the life has been lived.
"""

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from random import Random
from typing import Any

from stillknows.envs import life, world
from stillknows.envs.dials import expect_kinds
from stillknows.envs.life import Life
from stillknows.envs.questions import TASKS, Candidate
from stillknows.envs.text import Answer, Story
from stillknows.envs.world import DIRECTIONS, NUMBERS, Names, World, plain

MOST_DRAFTS = 1000
EXAM_SHARE = 10  # one draft in so many belongs to the exam
CHAPTER = 32  # so many training episodes in a row are of one length: side by side, none waits
SPLITS = ("train", "exam")
NAMES = ("seen", "unseen")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dials:
    """What can be turned. A wrong value is a ValueError that says which values are right.

    Attributes:
        task: a key of `TASKS`.
        people, places, objects: how many there are.
        sentences: statements of a story.
        questions: how many are asked, evenly spaced; the last one ends the story.
        shortest: if above 0, training stories have from so many to `sentences` statements, each
            length as likely, and proportionally fewer questions. Exam stories are not shorter.
        short_episodes: how many of the task's training episodes, the first, may be shorter; 0: all.
        distractors: share of the statements (facts of the life apart) that change nothing.
        carry: share of the questions that ask for a fact told in an earlier episode. In training,
            half as many ask for the fact told in this episode. It needs `lifetime_facts`.
        lifetime_facts: how many facts of the task's kind the life has; one is told in each
            training episode, if `carry` is above 0.
        lag: a training episode `e` asks for facts told in episodes before `e - lag`, and not since.
        life: the seed of the life's facts.
        task_start: the id of the task's first training episode in this life.
        route_length: the longest route that is asked for.
        two_way: whether routes are asked against the direction in which their ways were told too.
        split: "train", or "exam": stories that begin as none of training does, and no facts told.
        names: "seen", or "unseen": exam stories are about people and objects (for routes also
            places) that never occur in training. Training stories ignore it.
        length_factor: exam stories are this many times as long. Training stories ignore it.
        begins: how many statements decide whether a story is of the examination, where both splits
            do not tell as many of them before the first question, and no more; 0: all of these.
    """

    task: str
    people: int = 4
    places: int = 6
    objects: int = 3
    sentences: int = 12
    questions: int = 3
    shortest: int = 0
    short_episodes: int = 0
    distractors: float = 0.2
    carry: float = 0.0
    lifetime_facts: int = 0
    lag: int = 64
    life: int = 0
    task_start: int = 0
    route_length: int = 2
    two_way: bool = False
    split: str = "train"
    names: str = "seen"
    length_factor: float = 1.0
    begins: int = 0

    def __post_init__(self) -> None:
        expect_kinds(self)
        self._check_values()
        self._check_life()

    def _check_values(self) -> None:
        choices = (("task", tuple(TASKS)), ("split", SPLITS), ("names", NAMES))
        for name, right in choices:
            if getattr(self, name) not in right:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not one of {', '.join(right)}."
                )
        ranges = (
            ("people", 1, len(world.PEOPLE)),
            ("places", 2, len(world.PLACES)),
            ("objects", 1, len(world.OBJECTS)),
            ("sentences", 1, 10**6),
            ("short_episodes", 0, 10**9),
            ("questions", 1, 1000),
            ("distractors", 0, 1),
            ("carry", 0, 1),
            ("lifetime_facts", 0, life.MOST_FACTS),
            ("lag", 0, 10**9),
            ("task_start", 0, 10**9),
            ("route_length", 1, len(world.PLACES)),
            ("length_factor", 1, 1000),
            ("begins", 0, 10**9),
        )
        for name, low, high in ranges:
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"{name}={getattr(self, name)} is out of range: it goes from {low} to {high}."
                )
        opening = TASKS[self.task].opening + self.tells
        if self.sentences < opening * self.questions:
            raise ValueError(
                f"{self.task} needs {opening} statements before each question: raise sentences "
                f"from {self.sentences} to at least {opening * self.questions}, or ask fewer "
                "questions."
            )
        if self.shortest and not opening <= self.shortest <= self.sentences:
            raise ValueError(
                f"shortest={self.shortest} is out of range: for {self.task} it is 0, or goes from "
                f"{opening} to sentences={self.sentences}."
            )
        if self.begins > self._deciding:
            raise ValueError(
                f"begins={self.begins}: stories tell {self._deciding} statements before the first "
                "question, and none that comes later may decide; give no more."
            )

    def _check_life(self) -> None:
        if self.carry and self.lifetime_facts < self.lag + 2:
            raise ValueError(
                f"with lifetime_facts={self.lifetime_facts} every fact is told again within "
                f"lag={self.lag} episodes, and none is left to carry: raise lifetime_facts to at "
                f"least {self.lag + 2} or lower lag."
            )

    @property
    def tells(self) -> bool:
        """Whether training episodes tell facts of the life."""
        return self.carry > 0 and self.lifetime_facts > 0

    def ends(self, episode: int) -> tuple[int, ...]:
        """Return after how many statements each question of an episode is asked."""
        sentences, questions = self.size(episode)
        return tuple(sentences * (number + 1) // questions for number in range(questions))

    def size(self, episode: int) -> tuple[int, int]:
        """Return how many statements and questions an episode has."""
        if self.split == "exam":
            return round(self.sentences * self.length_factor), self.questions
        if not self.shortest or 0 < self.short_episodes <= episode - self.task_start:
            return self.sentences, self.questions
        draw = Random(f"{self.life} tells {self.task} at length {episode // CHAPTER}")
        sentences = draw.randint(self.shortest, self.sentences)
        return sentences, max(1, sentences * self.questions // self.sentences)

    @cached_property
    def beginning(self) -> int:
        """How many statements, facts of the life apart, decide to which split a story belongs."""
        return self.begins or self._deciding

    @property
    def _deciding(self) -> int:
        return max(1, self._told_first - self.tells)

    @property
    def _told_first(self) -> int:
        """How many statements every episode tells before it asks."""
        return min(self.shortest or self.sentences, self.sentences // self.questions)

    @cached_property
    def cast(self) -> Names:
        """Who and what stories of this split are about."""
        unseen = self.split == "exam" and self.names == "unseen"
        new_places = unseen and self.task == "route"
        return Names(
            (world.UNSEEN_PEOPLE if unseen else world.PEOPLE)[: self.people],
            (world.UNSEEN_PLACES if new_places else world.PLACES)[: self.places],
            (world.UNSEEN_OBJECTS if unseen else world.OBJECTS)[: self.objects],
        )

    @cached_property
    def facts(self) -> Life:
        """The life's facts of this task's kind, told before the first question of an episode."""
        return Life(
            self.life,
            self.task,
            self.lifetime_facts,
            self.task_start,
            self._told_first,
            world.PLACES[: self.places],
            world.PEOPLE[: self.people],
        )


def make_dials(values: Mapping[str, Any]) -> Dials:
    """Return the dials with these values; a name that is no dial is a ValueError."""
    known = [field.name for field in dataclasses.fields(Dials)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
            raise ValueError(f"the microworld has no dial {name!r}: {hint}")
    return Dials(**values)


def write_story(key: int, episode: int, dials: Dials, lived: int = 0) -> Story:
    """Return the episode with this id: the same arguments give the same story.

    Args:
        key: any integer; it decides everything that the other arguments leave open.
        episode: the id of the episode within the lifetime.
        dials: see `Dials`.
        lived: for the exam, the id after the last training episode of the task that was lived;
            facts told in [task_start, lived) are asked for. Training stories ignore it.

    Raises:
        ValueError: if the dials leave so few stories that the split has none.
    """
    return _accepted(Random(key), episode, dials, lived)[0]


def continuations(
    key: int, episode: int, dials: Dials, after: int, seeds: Sequence[int], lived: int = 0
) -> list[Story]:
    """Return stories that begin as the one of `write_story` and go on in other ways.

    Args:
        key: of the story.
        episode: its id.
        dials: see `Dials`.
        after: how many of its statements (and the questions between them) are told as they were.
        seeds: each decides what comes then, as the microworld draws it.
        lived: as in `write_story`.
    """
    random = Random(key)
    begin = _accepted(random, episode, dials, lived)[1]
    stories = []
    for seed in seeds:
        random.setstate(begin)
        stories.append(_draft(random, episode, dials, lived, (after, seed))[0])
    return stories


def _accepted(random: Random, episode: int, dials: Dials, lived: int) -> tuple[Story, Any]:
    """Return the first draft that belongs to the split, and the random state it began with."""
    for _ in range(MOST_DRAFTS):
        begin = random.getstate()
        story, events = _draft(random, episode, dials, lived)
        if _in_exam(events[: dials.beginning]) == (dials.split == "exam"):
            return story, begin
    raise ValueError(
        f"{MOST_DRAFTS} drafts held no story of the {dials.split} split: with these dials there "
        "are too few different stories; raise sentences, people or places."
    )


def _in_exam(events: Sequence[str]) -> bool:
    digest = blake2b(" ".join(events).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % EXAM_SHARE == 0


def _draft(
    random: Random,
    episode: int,
    dials: Dials,
    lived: int,
    turn: tuple[int, int] | None = None,
) -> tuple[Story, list[str]]:
    """Return a story of either split, and its statements without the life's fact.

    A `turn` is after how many statements a seed decides what comes.
    """
    told = dials.facts.told_in(episode)[1] if dials.tells and dials.split == "train" else -1
    ends = dials.ends(episode)
    narrator = _Narrator(random, dials, ends[-1] - (told >= 0))
    trees: list[str] = []
    events: list[str] = []
    answers: list[Answer | None] = []
    start = 0
    for end in ends:
        for number in range(start, end):
            if number == told:
                trees.append(dials.facts.sentence(dials.facts.told_in(episode)[0]))
            else:
                events.append(narrator.tell(len(trees), end - number - (number < told)))
                trees.append(events[-1])
            if turn is not None and number + 1 == turn[0]:
                random.seed(turn[1])
        tree, answer = _ask_life(random, episode, dials, lived) or narrator.ask(episode)
        answers += [*(None for _ in range(start, end)), answer]
        trees.append(tree)
        start = end
    sentences = tuple(map(plain, trees))
    return Story(episode, sentences, tuple(trees), tuple(answers)), events


class _Narrator:
    """Decides what is told next and what is asked, so that there always is something to ask."""

    def __init__(self, random: Random, dials: Dials, statements: int) -> None:
        self.random = random
        self.task = TASKS[dials.task]
        self.longest = dials.route_length
        mapped = dials.task == "route"
        self.world = World(dials.cast, random, mapped, dials.two_way)
        self.statements = statements
        self.asides = round(dials.distractors * statements)
        self.asked: set[tuple[str, ...]] = set()

    def tell(self, step: int, left: int) -> str:
        """Return the tree of the next statement.

        An event makes the need for events at most 1 larger, so with 2 statements to spare any
        event may happen, with 1 an aside or an event that helps, with 0 only one that helps.

        Args:
            step: the step at which it is told.
            left: how many statements there are before the next question, this one included.
        """
        need = self.task.need(self.world)
        spare = left - need
        aside = spare > 0 and self.random.random() * self.statements < self.asides
        self.statements -= 1
        if aside:
            self.asides -= 1
            return self.world.aside()
        if need and spare < 2:
            return self.task.advance(self.world, step)
        event = self.world.pick(self.task.events)
        return event(self.world, step) or self.world.move(step)

    def ask(self, episode: int) -> tuple[str, Answer]:
        """Return a question about the world and let the story take a turn.

        What was asked before with the same answer is asked again only if nothing else can be; of
        the rest, each possible answer is as likely.
        """
        candidates = self.task.candidates(self.world, self.longest)
        new = [each for each in candidates if (each[0], *each[1]) not in self.asked]
        by_answer: dict[str, list[Candidate]] = {}
        for candidate in new or candidates:
            by_answer.setdefault(candidate[0], []).append(candidate)
        target, gaps, steps = self.world.pick(by_answer[self.world.pick(list(by_answer))])
        self.asked.add((target, *gaps))
        self.world.turn()
        supports = tuple((episode, step) for step in steps)
        return self.task.question.format(*gaps), Answer(target, supports)


def _ask_life(random: Random, episode: int, dials: Dials, lived: int) -> tuple[str, Answer] | None:
    """Return a question about a fact of the life, or None where the world is to be asked."""
    if not dials.tells:
        return None
    facts, chance = dials.facts, random.random()
    if chance < dials.carry:
        if dials.split == "exam":
            known = facts.known_before(lived, random)
        else:
            known = facts.known_before(episode - dials.lag, random, now=episode)
        carried = True
    elif chance < 1.5 * dials.carry and dials.split == "train":
        known = facts.told_in(episode)[0], episode
        carried = False
    else:
        known = None
    if known is None:
        return None
    fact, teller = known
    supports = ((teller, facts.told_in(teller)[1]),)
    return facts.question(fact), Answer(facts.answer(fact), supports, carried)


def vocabulary(dials: Dials) -> tuple[str, ...]:
    """Return, sorted, all words of all five tasks and both splits with these dials."""
    people, places, objects = dials.people, dials.places, dials.objects
    templates = [world.MOVE, world.HANDLE, world.GIVE, world.LIES, *world.ASIDES]
    templates += [task.question for task in TASKS.values()]
    words = [*world.MOVED, *world.TOOK, *world.DROPPED, *world.GAVE, *DIRECTIONS]
    words += [*world.PEOPLE[:people], *world.UNSEEN_PEOPLE[:people]]
    words += [*world.PLACES[:places], *world.UNSEEN_PLACES[:places]]
    words += [*world.OBJECTS[:objects], *world.UNSEEN_OBJECTS[:objects], *NUMBERS[: objects + 1]]
    if dials.tells:
        templates += [text for kind in life.KINDS.values() for text in (kind.told, kind.asked)]
        words += [*life.ADJECTIVES, *life.NOUNS, *life.AMOUNTS]
    for template in templates:
        words += re.findall(r"[a-z]+|[.?]", re.sub(r"\{\w*\}", "", template))
    return tuple(sorted(set(words)))
