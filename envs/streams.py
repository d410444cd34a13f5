"""Streams: tasks in an order, as Avalanche benchmarks.

An experience is a budget of episodes in one task (or, for the joint reference, in all of them).
Benchmarks of handwritten digits, for whoever lives by examples, are made here as well.
Importing this module imports Avalanche, which takes seconds: import it when a life begins.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from avalanche.benchmarks import (
    CLScenario,
    benchmark_from_datasets,
    class_incremental_benchmark,
)
from avalanche.benchmarks.scenarios.generic_scenario import CLExperience, EagerCLStream
from avalanche.benchmarks.utils import as_classification_dataset
from torch.utils.data import Dataset, TensorDataset

from stillknows.envs.digits import Digits, digits, permuted, rotated
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

    def __getattr__(self, name: str) -> Any:
        """Refuse what an experience of episodes has not.

        Raises:
            ValueError: where a dataset is asked for.
            AttributeError: where anything else is.
        """
        if name == "dataset":
            raise ValueError(
                "A plugin asks for the dataset of an experience, and episodes have none: choose "
                "one of the baselines (arms=[replay,lwf,…]) in its place."
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")

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
        units: what the budget of each task counts, `steps` or `episodes`.
        following: the task of the next experience and its place, None for the last.
    """

    def __init__(
        self,
        tasks: Sequence[Any],
        numbers: Sequence[int],
        budgets: Sequence[int],
        units: Sequence[str] = ("steps",),
        following: tuple[Any, int] | None = None,
    ) -> None:
        super().__init__(tasks, numbers, [0] * len(tasks), budgets)
        self.units, self.following = tuple(units), following


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


def split_digits_benchmark(experiences: int = 5) -> CLScenario:
    """Return handwritten digits split by class, in the order of the classes (class-incremental).

    Args:
        experiences: 1, 2, 5 or 10, of as many classes each.

    Raises:
        ValueError: if ten classes cannot be split so.
    """
    if experiences not in (1, 2, 5, 10):
        raise ValueError(f"experiences={experiences}: ten digits split into 1, 2, 5 or 10.")
    streams = {name: _as_dataset(part) for name, part in digits().items()}
    return class_incremental_benchmark(
        streams, class_order=list(range(10)), num_experiences=experiences
    )


def permuted_digits_benchmark(experiences: int = 5, seed: int = 0) -> CLScenario:
    """Return handwritten digits with other orders of pixels (domain-incremental).

    Args:
        experiences: how many; the first has the pixels as they are.
        seed: of the orders.

    Raises:
        ValueError: if there is no experience.
    """
    _expect_some(experiences)
    orders = [0, *(1 + seed * 1_000_003 + number for number in range(experiences - 1))]
    return _in_domains([{n: permuted(p, order) for n, p in digits().items()} for order in orders])


def rotated_digits_benchmark(experiences: int = 5, degrees: float = 180.0) -> CLScenario:
    """Return handwritten digits turned ever more (domain-incremental).

    Args:
        experiences: how many; the first has the digits as they are.
        degrees: how far the last ones are turned.

    Raises:
        ValueError: if there is no experience.
    """
    _expect_some(experiences)
    angles = [degrees * number / max(1, experiences - 1) for number in range(experiences)]
    return _in_domains([{n: rotated(p, angle) for n, p in digits().items()} for angle in angles])


def _expect_some(experiences: int) -> None:
    if not isinstance(experiences, int) or experiences < 1:
        raise ValueError(f"experiences={experiences!r}: give a whole number from 1 on.")


def _in_domains(domains: Sequence[Mapping[str, Digits]]) -> CLScenario:
    """Return a benchmark of the same classes in several domains."""
    return benchmark_from_datasets(
        **{name: [_as_dataset(each[name]) for each in domains] for name in ("train", "test")}
    )


def _as_dataset(part: Digits) -> Any:
    """Return images `[1, 8, 8]` from 0 to 1 and labels as a dataset of Avalanche's."""
    images = torch.from_numpy(part.images)[:, None] / 16
    dataset = TensorDataset(images, torch.from_numpy(part.labels))
    return as_classification_dataset(_Labelled(dataset, part.labels.tolist()))


class _Labelled(Dataset[Any]):
    """A dataset with the attribute `targets` that Avalanche asks for."""

    def __init__(self, dataset: TensorDataset, targets: list[int]) -> None:
        self.dataset, self.targets = dataset, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        image, label = self.dataset[number]
        return image, int(label)
