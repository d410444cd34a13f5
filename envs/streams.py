"""Streams: tasks in an order, as Avalanche benchmarks.

An experience is a budget of episodes in one task (or, for the joint reference, in all of them).
Importing this module imports Avalanche, which takes seconds: import it when a life begins.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from avalanche.benchmarks import CLScenario
from avalanche.benchmarks.scenarios.generic_scenario import CLExperience, EagerCLStream

from stillknows.envs.tasks import Task


class EpisodeExperience(CLExperience):  # type: ignore[misc]
    """Some episodes of a life.

    Attributes:
        tasks: the tasks that take turns in it; one, but in the joint reference.
        numbers: the place of each in the stream.
        first_episodes: the number of the first episode of each.
        budgets: how many episodes of each are lived.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        numbers: Sequence[int],
        first_episodes: Sequence[int],
        budgets: Sequence[int],
    ) -> None:
        super().__init__(current_experience=None, origin_stream=None)
        self.tasks, self.numbers = tuple(tasks), tuple(numbers)
        self.first_episodes, self.budgets = tuple(first_episodes), tuple(budgets)
        self.task_labels = list(numbers)

    @property
    def episodes(self) -> int:
        """How many episodes it lasts."""
        return sum(self.budgets)

    def turns(self, rows: int) -> Iterator[tuple[int, int]]:
        """Yield for each batch of `rows` episodes whose turn it is and the first one's number.

        The task that has least of its budget behind it comes next, so all end together.
        """
        lived = [0] * len(self.tasks)
        while True:
            left = [
                turn for turn, budget in enumerate(self.budgets) if lived[turn] + rows <= budget
            ]
            if not left:
                return
            turn = min(left, key=lambda turn: (lived[turn] + rows) / self.budgets[turn])
            yield turn, self.first_episodes[turn] + lived[turn]
            lived[turn] += rows

    @property
    def task_label(self) -> int:
        """The place of its (first) task in the stream, for Avalanche's metrics."""
        return self.task_labels[0]


class ActingExperience(EpisodeExperience):
    """Some steps or episodes of a life in tasks that are acted in.

    Attributes:
        unit: what budgets count, `steps` or `episodes`.
        following: the task of the next experience and its place, None for the last.
    """

    def __init__(
        self,
        tasks: Sequence[Any],
        numbers: Sequence[int],
        budgets: Sequence[int],
        unit: str = "steps",
        following: tuple[Any, int] | None = None,
    ) -> None:
        super().__init__(tasks, numbers, [0] * len(tasks), budgets)
        self.unit, self.following = unit, following


def as_stream(name: str, experiences: Sequence[EpisodeExperience]) -> list[EpisodeExperience]:
    """Return experiences that know each other as a stream."""
    return list(EagerCLStream(name, experiences).exps)


def one_at_a_time(
    name: str, experiences: Iterable[EpisodeExperience]
) -> Iterator[EpisodeExperience]:
    """Yield experiences, each as a stream of its own: nothing holds those that are over."""
    for experience in experiences:
        yield from as_stream(name, [experience])


def make_benchmark(
    tasks: Sequence[Task], episodes: Sequence[int], joint: bool = False
) -> CLScenario:
    """Return a benchmark with `train_stream` and `test_stream`.

    Args:
        tasks: in the order of the life.
        episodes: budget of each task.
        joint: one experience with all tasks and the same budget in sum, as a reference.
    """
    starts = [sum(episodes[:number]) for number in range(len(tasks))]

    def one_by_one() -> list[EpisodeExperience]:
        return [
            EpisodeExperience([task], [number], [starts[number]], [episodes[number]])
            for number, task in enumerate(tasks)
        ]

    train = one_by_one()
    if joint:
        train = [EpisodeExperience(tasks, range(len(tasks)), starts, episodes)]
    return CLScenario([EagerCLStream("train", train), EagerCLStream("test", one_by_one())])
