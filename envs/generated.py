"""Generated problems as Gymnasium environments: tasks of reasoning, and one a field of application.

    gymnasium.make("stillknows/Kinship-v0", relations=4)
    gymnasium.make_vec("stillknows/Planning-v0", num_envs=8)

Each kind of problem is one file and writes its own stories (`kinds/writing.py`); this file
serves them and makes tasks of them. It knows nothing of who answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from stillknows.envs import GENERATED
from stillknows.envs.kinds.dialogue_state import DialogueState
from stillknows.envs.kinds.doors import ShortestWay, Traversal
from stillknows.envs.kinds.forecast import Forecast
from stillknows.envs.kinds.functions import Code, Induction
from stillknows.envs.kinds.kinship import Kinship
from stillknows.envs.kinds.planning import Planning
from stillknows.envs.kinds.programs import Programs
from stillknows.envs.kinds.reading import Reading
from stillknows.envs.kinds.relations import Relations
from stillknows.envs.kinds.succession import Succession
from stillknows.envs.kinds.summary import Summary
from stillknows.envs.kinds.topics import Topics
from stillknows.envs.kinds.writing import Problems
from stillknows.envs.tasks import Task, dials_of, suggest
from stillknows.envs.text import Story, StoryTask, StoryVectorEnv

PROBLEMS: dict[str, type[Problems]] = {
    "kinship": Kinship,
    "traversal": Traversal,
    "shortest_way": ShortestWay,
    "succession": Succession,
    "programs": Programs,
    "induction": Induction,
    "reading": Reading,
    "dialogue_state": DialogueState,
    "summary": Summary,
    "code": Code,
    "relations": Relations,
    "topics": Topics,
    "forecast": Forecast,
    "planning": Planning,
}
SPLITS = ("train", "exam")


def make_problems(task: str, **dials: Any) -> Problems:
    """Return a kind of problem by its name in `PROBLEMS`.

    Raises:
        ValueError: if the task or a dial is unknown, or a dial out of range.
    """
    if task not in PROBLEMS:
        raise ValueError(f"There is no generated task '{task}'. {suggest(task, list(PROBLEMS))}")
    known = [field.name for field in fields(PROBLEMS[task])]
    for name in dials:
        if name not in known:
            raise ValueError(f"The task {task} has no dial '{name}'. {suggest(name, known)}")
    return PROBLEMS[task](**dials)


class Generated(StoryTask):
    """Stories of one kind of problem.

    Args:
        task: a key of `PROBLEMS`.
        split: "train", or "exam": stories that begin as none of training does.
        beginning: how many statements that is, where training and examination tell different
            numbers of them before the first question; None: all of these.
        first_episode: the number of its first episode within the lifetime.
        stride: how far apart its episodes' numbers are.
        **dials: see the kind of problem.
    """

    def __init__(
        self,
        task: str,
        split: str = "train",
        first_episode: int = 0,
        stride: int = 1,
        beginning: int | None = None,
        **dials: Any,
    ) -> None:
        super().__init__(first_episode, stride)
        if beginning is not None and (not isinstance(beginning, int) or beginning < 1):
            raise ValueError(f"beginning={beginning!r}: give a whole number from 1 on, or None.")
        self.beginning = beginning
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: choose {' or '.join(SPLITS)}.")
        self.split, self.problems = split, make_problems(task, **dials)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word that either split can say or expect, sorted."""
        return self.problems.vocabulary

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        """Return the story of an episode."""
        return self.problems.story(key, episode, self.split == "exam", self.beginning)


class GeneratedVectorEnv(StoryVectorEnv):
    """A batch of one kind of problem, row by row the same episodes as the plain environment.

    Args:
        task: a key of `PROBLEMS`.
        num_envs: how many rows (B).
        **settings: of `Generated`, without `stride`.
    """

    def __init__(self, task: str, num_envs: int = 1, **settings: Any) -> None:
        super().__init__(num_envs, Generated(task, **settings))


def generated_tasks(
    tasks: Sequence[str],
    exam: Mapping[str, Any] | None = None,
    own: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Task]:
    """Return generated tasks for a stream.

    Args:
        tasks: keys of `PROBLEMS`, in the order of the stream.
        exam: dials that are different in examinations.
        own: dials of single tasks, by name.

    Raises:
        ValueError: if a task or a dial is unknown, or a dial out of range.
    """
    ids = {task: id for id, task in GENERATED.items()}
    own, exam = dials_of("own", own), dials_of("exam", exam)
    apart = {task: dials_of(f"own.{task}", own.get(task)) for task in (*tasks, *own)}
    for task, dials in apart.items():
        make_problems(task, **dials)
    made = []
    for task in tasks:
        train = dict(apart[task])
        examined = {**train, **exam}
        told = [make_problems(task, **dials).least_told for dials in (train, examined)]
        least = [each for each in told if each is not None]
        if len(set(least)) > 1:
            train["beginning"] = examined["beginning"] = min(least)
        made.append(Task(task, ids[task], train, {**examined, "split": "exam"}))
    return made
