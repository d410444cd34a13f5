"""Streams whose tasks are made of the same parts: skills and facts that earlier tasks gave.

A skill is a word of the functions of lists (`WORDS` of `kinds/functions.py`), a fact is a list
that somebody has for the whole life. A story tells lists of people who are met only once, and asks
what words make of a list, so that the skills can be learned. The facts that a task brings up are
told in each of its stories; those that it takes from earlier tasks are not told again and must be
remembered. A fact that is told anew is told with another list, and only facts that no task had to
remember before are, so that every question has one answer, whenever it is asked.

    stillknows train stream=compositional stream.tasks.count=20 stream.tasks.overlap=0.8
"""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from random import Random
from typing import Any, NamedTuple

from stillknows.envs.kinds.functions import WORDS, run
from stillknows.envs.kinds.writing import DIGITS, Page, draft
from stillknows.envs.life import ADJECTIVES, NOUNS
from stillknows.envs.order import returning
from stillknows.envs.tasks import Task, suggest
from stillknows.envs.text import Story, StoryTask, StoryVectorEnv
from stillknows.envs.world import words

ID = "stillknows/Composed-v0"
LENGTH = 3  # of a list
MOST_QUESTIONS = 100  # of a story
_MOST_EPISODES = 10**9  # of a task
STRANGERS = words("agnes bruno celia dario edith fabio gerda heiko")
_TOLD = "((the list) (of {who}) (is ({items})) .)"
_ASKED = "(what (is ({program}) (of {who})) ?)"


class Recalled(NamedTuple):
    """A fact of an earlier task: the list, and where that task, the last to tell it, did so first.

    It tells it in each of its episodes, at the same step.
    """

    items: str
    episode: int
    step: int


class Composed(StoryTask):
    """One task of a compositional stream.

    Args:
        skills: words that its questions use, one or more of them at a time.
        told: lists of people that its stories tell, by name, in this order.
        recalled: lists of people that earlier tasks told, by name: list, episode and step.
        local: people of each story who are met only there.
        questions: asked at the end; about facts and about strangers in turn.
        split: "train", or "exam": stories that begin as none of training does.
        first_episode: the number of its first episode within the lifetime.
        stride: how far apart its episodes' numbers are.

    Raises:
        ValueError: if a skill is unknown, a list holds no digits or too few for the skills to leave
            anything of it, or one of the others is out of range.
    """

    def __init__(
        self,
        skills: Sequence[str],
        told: Mapping[str, str],
        recalled: Mapping[str, Sequence[Any]],
        local: int = 1,
        questions: int = 2,
        split: str = "train",
        first_episode: int = 0,
        stride: int = 1,
    ) -> None:
        super().__init__(first_episode, stride)
        for skill in skills:
            if skill not in WORDS:
                raise ValueError(f"There is no skill '{skill}'. {suggest(skill, list(WORDS))}")
        if split not in ("train", "exam"):
            raise ValueError(f"split={split!r}: choose train or exam.")
        _expect("skills", len(skills), 1, len(WORDS))
        _expect("local", local, 1, len(STRANGERS))
        _expect("questions", questions, 1, MOST_QUESTIONS)
        self.skills, self.told = tuple(skills), dict(told)
        self.recalled = {name: Recalled(*fact) for name, fact in recalled.items()}
        for name, items in {**told, **{n: fact.items for n, fact in self.recalled.items()}}.items():
            _expect_list(name, items, 1 + (set(skills) == {"behead"}))
        self.local, self.questions, self.split = local, questions, split

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word that any task of such a stream can say or expect, sorted."""
        said = "the list of is . what ?".split()  # noqa: SIM905 (a sentence)
        return tuple(sorted({*said, *WORDS, *DIGITS, *STRANGERS, *ADJECTIVES, *NOUNS}))

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        """Return the story of an episode."""
        return draft(self._write, key, episode, self.split == "exam")

    def _write(self, draw: Random, page: Page) -> None:
        """Tell the facts of the task and of strangers, then ask about both in turn."""
        steps = {name: page.tell(_tells(name, items)) for name, items in self.told.items()}
        strangers = {name: _list(draw) for name in draw.sample(STRANGERS, self.local)}
        steps |= {name: page.tell(_tells(name, items)) for name, items in strangers.items()}
        known = self.told | {name: fact.items for name, fact in self.recalled.items()}
        groups = [group for group in (list(known), list(strangers)) if group]
        first = draw.randrange(2)
        for number in range(first, first + self.questions):
            name = draw.choice(groups[number % len(groups)])
            program, made = self._apply(draw, (strangers | known)[name])
            asked = _ASKED.format(program=" ".join(program), who=name)
            if name in steps:
                page.ask(asked, made, [steps[name]])
            else:
                page.ask_carried(asked, made, [self.recalled[name][1:]])

    def _apply(self, draw: Random, items: str) -> tuple[list[str], str]:
        """Return some of the skills in an order that leaves something of a list, and what."""
        made: tuple[int, ...] = ()
        while not made:
            program = draw.sample(self.skills, draw.randint(1, len(self.skills)))
            made = run(program, tuple(map(int, items.split())))
        return program, " ".join(map(str, made))


class ComposedVectorEnv(StoryVectorEnv):
    """A batch of one compositional task, row by row the same episodes as the plain environment.

    Args:
        num_envs: how many rows (B).
        **settings: of `Composed`, without `stride`.
    """

    def __init__(self, num_envs: int = 1, **settings: Any) -> None:
        super().__init__(num_envs, Composed(**settings))


class Plan(NamedTuple):
    """What a task is made of: skills, people whose facts it tells, and whose it takes."""

    name: str
    skills: tuple[str, ...]
    told: tuple[str, ...]
    recalled: tuple[str, ...]


class Fact(NamedTuple):
    """Whose list is what by now, who told it (place in the stream, step), and was it remembered?"""

    items: str
    giver: int
    step: int
    remembered: bool = False


class Planner:
    """Draws the tasks of a stream one after another, and knows what they gave so far.

    Args:
        draw: decides.
        overlap, contradiction, returns: see `compositional_tasks`.
    """

    def __init__(self, draw: Random, overlap: float, contradiction: float, returns: float) -> None:
        self.draw = draw
        self.overlap, self.contradiction, self.returns = overlap, contradiction, returns
        self.plans: list[Plan] = []
        self.lists: list[dict[str, str]] = []  # what each plan told or recalled
        self.facts: dict[str, Fact] = {}
        names = [f"the {adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS]
        self._names = draw.sample(names, len(names))
        self._skills = draw.sample(sorted(WORDS), len(WORDS))

    def next(self, skills: int, facts: int) -> tuple[Plan, dict[str, Fact]]:
        """Return the next task, and the facts that it tells or recalls as they are for it."""
        last = self.plans[-1].name if self.plans else ""
        still = [
            plan
            for plan, lists in zip(self.plans, self.lists, strict=True)
            if plan.name != last and self._hold(lists)
        ]
        if still and self.draw.random() < self.returns:
            plan = self.draw.choice(still)
            lists = {name: self.facts[name].items for name in plan.told}
        else:
            plan, lists = self._new(skills, facts)
        known = {name: self.facts[name] for name in plan.recalled}
        for step, (name, items) in enumerate(lists.items()):
            remembered = name in self.facts and self.facts[name].remembered
            self.facts[name] = Fact(items, len(self.plans), step, remembered)
        for name in plan.recalled:
            self.facts[name] = self.facts[name]._replace(remembered=True)
        now = {name: self.facts[name] for name in plan.told} | known
        self.plans.append(plan)
        self.lists.append({name: fact.items for name, fact in now.items()})
        return plan, now

    def _hold(self, lists: Mapping[str, str]) -> bool:
        """Return whether what a task told or recalled is still so."""
        return all(self.facts[name].items == items for name, items in lists.items())

    def _new(self, skills: int, facts: int) -> tuple[Plan, dict[str, str]]:
        """Return a task of new and earlier parts, and the facts that it tells."""
        met = sorted({skill for plan in self.plans for skill in plan.skills})
        chosen: list[str] = []
        for _ in range(skills):
            old = [skill for skill in met if skill not in chosen]
            new = [skill for skill in self._skills if skill not in (*met, *chosen)]
            again = bool(old) and (not new or self.draw.random() < self.overlap)
            chosen.append(self.draw.choice(old) if again else new[0])
        told: dict[str, str] = {}
        recalled: list[str] = []
        for _ in range(facts):
            earlier = [name for name in self.facts if name not in (*told, *recalled)]
            if not earlier or self.draw.random() >= self.overlap:
                told[self._names.pop()] = _list(self.draw)
                continue
            name = self.draw.choice(earlier)
            if not self.facts[name].remembered and self.draw.random() < self.contradiction:
                told[name] = _other(self.draw, self.facts[name].items)
            else:
                recalled.append(name)
        name = f"composed_{len(self.plans) + 1}"
        return Plan(name, tuple(chosen), tuple(told), tuple(recalled)), told


def compositional_tasks(
    count: int,
    episodes: int | Sequence[int],
    skills: int = 2,
    facts: int = 2,
    overlap: float = 0.5,
    contradiction: float = 0.0,
    returns: float = 0.0,
    local: int = 1,
    questions: int = 2,
    life: int = 0,
) -> list[Task]:
    """Return a stream in which later tasks need what earlier ones gave.

    Args:
        count: how many tasks.
        episodes: of training, of each task or one a task; they say where a fact was told.
        skills: of each task, 1 to 9; there are nine, so in the end all come from earlier tasks.
        facts: of each task.
        overlap: how likely a skill or a fact is one of earlier tasks, if there are any.
        contradiction: how likely such a fact is told anew, with another list, instead of not at
            all. A fact that a task had to remember keeps its list.
        returns: how likely a task is an earlier one again, of those whose facts still hold, but
            for the task just before.
        local: strangers of each story, whose lists it tells.
        questions: of each story.
        life: the seed of all that is drawn here.

    Raises:
        ValueError: if a dial is out of range.
    """
    most = len(ADJECTIVES) * len(NOUNS)
    _expect("count", count, 1, most)
    _expect("skills", skills, 1, len(WORDS))
    _expect("facts", facts, 0, most // count)
    _expect("local", local, 1, len(STRANGERS))
    _expect("questions", questions, 1, MOST_QUESTIONS)
    shares = {"overlap": overlap, "contradiction": contradiction, "returns": returns}
    for name, share in shares.items():
        _expect(name, share, 0, 1, Real)
    starts = _starts(episodes, count)
    planner = Planner(Random(f"{life} composes"), overlap, contradiction, returns)
    tasks = []
    for _ in range(count):
        plan, now = planner.next(skills, facts)
        train = {
            "skills": plan.skills,
            "told": {name: now[name].items for name in plan.told},
            "recalled": {
                name: (now[name].items, starts[now[name].giver], now[name].step)
                for name in plan.recalled
            },
            "local": local,
            "questions": questions,
        }
        tasks.append(_task(plan, now, train))
    return returning(tasks)


def _starts(episodes: int | Sequence[int], count: int) -> list[int]:
    """Return the number of each task's first episode."""
    budgets = list(episodes) if isinstance(episodes, Sequence) else [episodes] * count
    if len(budgets) != count:
        raise ValueError(f"episodes={episodes} for count={count} tasks: give one, or one each.")
    for budget in budgets:
        _expect("episodes", budget, 1, _MOST_EPISODES)
    return [sum(budgets[:number]) for number in range(count)]


def _task(plan: Plan, now: Mapping[str, Fact], train: dict[str, Any]) -> Task:
    skills = tuple(f"skill {skill}" for skill in plan.skills)
    told, recalled = (
        tuple(f"{name} has {now[name].items}" for name in names)
        for names in (plan.told, plan.recalled)
    )
    exam = {**train, "split": "exam"}
    return Task(plan.name, ID, train, exam, needs=skills + told + recalled, gives=skills + told)


def _tells(name: str, items: str) -> str:
    return _TOLD.format(who=name, items=items)


def _list(draw: Random) -> str:
    return " ".join(str(draw.randrange(10)) for _ in range(LENGTH))


def _other(draw: Random, items: str) -> str:
    """Return another list than this."""
    while (other := _list(draw)) == items:
        pass
    return other


def _expect_list(name: str, items: str, least: int) -> None:
    numbers = items.split()
    if not set(numbers) <= set(DIGITS) or len(numbers) < least:
        raise ValueError(
            f"{name} has the list {items!r}: give at least {least} digits, as '1 2 3'."
        )


def _expect(name: str, value: Any, low: float, high: float, kind: type = Integral) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is no {'whole ' * (kind is Integral)}number: give one.")
    if not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{name}={value} is out of range: it goes from {low} to {high}.")
