"""The microworld as Gymnasium environments: five tasks, one episode at a time or in a batch.

This file knows neither how stories are written (`stillknows.envs.stories`, many at a time
`stillknows.envs.native_stories`), nor how they are served (`stillknows.envs.text`), nor who
answers.

    gymnasium.make("stillknows/WherePerson-v0", sentences=20)
    gymnasium.make_vec("stillknows/WherePerson-v0", num_envs=8)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stillknows.envs import MICROWORLD
from stillknows.envs.native_stories import writer_of
from stillknows.envs.stories import Dials, make_dials, vocabulary, write_story
from stillknows.envs.tasks import Task, dials_of, suggest
from stillknows.envs.text import Story, StoryTask, StoryVectorEnv
from stillknows.envs.turns import Info, Sheet

_FIXED = ("task", "split")  # by a stream


class Microworld(StoryTask):
    """One of the five tasks.

    Args:
        task: a key of `stillknows.envs.stories.TASKS`.
        first_episode: the number of its first episode within the lifetime.
        stride: how far apart its episodes' numbers are.
        lived: for the exam, the number after the task's last training episode that was lived: only
            facts told before it are asked for. The reset option "lived" replaces it.
        **dials: see `stillknows.envs.stories.Dials`; `task_start` is `first_episode` if not given.
    """

    def __init__(
        self, task: str, first_episode: int = 0, stride: int = 1, lived: int = 0, **dials: Any
    ) -> None:
        super().__init__(first_episode, stride)
        self.lived = lived
        self.dials = make_dials({"task_start": first_episode, **dials, "task": task})
        self._placed = self.dials  # with the task_start that was last asked for

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word that any of the five tasks can say or expect in either split, sorted."""
        return vocabulary(self.dials)

    def tell(self, key: int, episode: int, options: Info) -> Story:
        """Return the story of an episode; `options` may give "lived" and "task_start"."""
        return write_story(key, episode, self._place(options), options.get("lived", self.lived))

    def tell_rows(self, keys_B: np.ndarray, episodes_B: np.ndarray, options: Info) -> Sheet:
        """Return the stories of some episodes side by side."""
        writer = writer_of(self._place(options))
        if writer is None:
            return super().tell_rows(keys_B, episodes_B, options)
        return writer.write(keys_B, episodes_B, options.get("lived", self.lived))

    def _place(self, options: Info) -> Dials:
        """Return the dials, in which the task starts where the options say."""
        start = options.get("task_start", self.dials.task_start)
        if start != self._placed.task_start:
            self._placed = replace(self.dials, task_start=start)
        return self._placed


class MicroworldVectorEnv(StoryVectorEnv):
    """A batch of one task; all rows ask and end at the same steps.

    Args:
        task: a key of `stillknows.envs.stories.TASKS`.
        num_envs: how many rows (B); row `b` tells the episodes `first_episode + b + B * i`.
        **settings: of `Microworld`, without `stride`.
    """

    def __init__(self, task: str, num_envs: int = 1, **settings: Any) -> None:
        super().__init__(num_envs, Microworld(task, **settings))


def microworld_tasks(
    tasks: Sequence[str],
    exam: Mapping[str, Any] | None = None,
    own: Mapping[str, Mapping[str, Any]] | None = None,
    **dials: Any,
) -> list[Task]:
    """Return tasks of the microworld for a stream.

    Args:
        tasks: keys of `stillknows.envs.stories.TASKS`, in the order of the stream.
        exam: dials that are different in examinations.
        own: dials that are different in one task, by its name.
        **dials: of `stillknows.envs.stories.Dials`, in training and examinations.

    Raises:
        ValueError: if a task or a dial is unknown, or a dial out of range, or `task` or `split`.
    """
    ids = {task: id for id, task in MICROWORLD.items()}
    own = dials_of("own", own)
    for task in (*tasks, *own):
        if task not in ids:
            raise ValueError(f"The microworld has no task '{task}'. {suggest(task, list(ids))}")
    apart = {task: dials_of(f"own.{task}", own.get(task), _FIXED) for task in (*tasks, *own)}
    shared, exam = dials_of("dials", dials, _FIXED), dials_of("exam", exam, _FIXED)
    made = []
    for task in tasks:
        train = {**shared, **apart[task]}
        examined = {**train, **exam, "split": "exam"}
        begin = {make_dials({**each, "task": task}).beginning for each in (train, examined)}
        if len(begin) > 1:
            train["begins"] = examined["begins"] = min(begin)
        made.append(Task(task, ids[task], train, examined))
    return made
