"""A lifetime as an Avalanche strategy: for each task train, then examine on all.

Importing this module imports Avalanche. The events of `BaseTemplate` are fired in the order that
Avalanche's regularising plugins rely on (EWC, SI and MAS add to `strategy.loss` before the
backward pass), and what its metrics read is there when they do: `mb_output` and `mb_y` say of every
question whether it was answered rightly, 1 or 0, and that it should be, 1. Task identity is hidden
from the agent.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from avalanche.core import BaseSGDPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates.base import BaseTemplate
from avalanche.training.utils import trigger_plugins as trigger
from torch import Tensor

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.episode import live
from stillknows.agents.examinations.examine import examine
from stillknows.agents.examinations.inquiry import Inquiry, Round
from stillknows.agents.examinations.plasticity import probe
from stillknows.agents.examinations.trace import names
from stillknows.agents.learner import QuestionLearner, Update
from stillknows.agents.persistence.keeping import KeptAgent
from stillknows.agents.persistence.state import Resumable, restore_to, state_of
from stillknows.agents.plugins import keepable
from stillknows.agents.reports.log import LifetimeLog
from stillknows.envs.streams import EpisodeExperience
from stillknows.envs.tasks import TextVector, make
from stillknows.envs.text import Story

Progress = Callable[[str, int, float], None]
_COUNTERS = ("lived", "_late", "best")


class Position(NamedTuple):
    """Where a life stands.

    Attributes:
        experience: how many experiences of training are behind.
        phase: `examination`, `training` or `end`.
        updates: of this training that are behind.
        examined: of this round of examinations what is behind: task, arm, accuracy.
    """

    experience: int = 0
    phase: str = "examination"
    updates: int = 0
    examined: tuple[tuple[int, str, float], ...] = ()


class Lifetime(BaseTemplate):  # type: ignore[misc]
    """Trains an agent on experiences made of episodes, examines it, and writes the log.

    Args:
        agent: who lives.
        learner: how it learns.
        log: takes every event.
        inquiry: holds the last examination.
        rows: episodes side by side in training (B).
        exam_episodes: stories of the examination in each task.
        seed: of everything that happens in this life.
        plugins: Avalanche plugins.
        progress: hears of every update: task, updates so far, accuracy of late.
        lived: hears of every update: updates so far, the stories before it (if the learner keeps
            them).
        exam_every: updates between two examinations of the task that is trained; 0: none.
        interim_episodes: stories of each of them.
        reference: sentences by whose activations plasticity is seen; none: it is not.
        alone: whether every experience begins as the first one did, and nothing lives on.
    """

    PLUGIN_CLASS = BaseSGDPlugin
    eval_every = 0  # what Avalanche's forward transfer asks for: examined before it has learned
    finished = False

    def __init__(
        self,
        *,
        agent: MemoryAgent,
        learner: QuestionLearner,
        log: LifetimeLog,
        inquiry: Inquiry,
        rows: int,
        exam_episodes: Sequence[int],
        seed: int,
        plugins: Sequence[BaseSGDPlugin] = (),
        progress: Progress = lambda name, update, accuracy: None,
        lived: Callable[[int, Sequence[Story]], None] = lambda update, stories: None,
        exam_every: int = 0,
        interim_episodes: int = 0,
        reference: Sequence[str] = (),
        alone: bool = False,
    ) -> None:
        if rows % learner.accumulate:
            raise ValueError(
                f"learner.accumulate={learner.accumulate} does not divide rows={rows}; change one."
            )
        if alone:
            expect_nothing_kept(plugins)
        super().__init__(model=agent, device=agent.device, plugins=[*plugins, Clock()])
        self.clock = self.plugins[-1]
        self.inquiry = inquiry
        self.log, self.rows, self.exam_episodes, self.seed = log, rows, exam_episodes, seed
        self.exam_every, self.interim_episodes = exam_every, interim_episodes
        self.reference, self.progress, self.hear_lived = reference, progress, lived
        self.agent, self.learner, self.optimizer = agent, learner, learner.optimizer
        self.parts: tuple[Resumable, ...] = (KeptAgent(agent), learner)
        self.fresh = copy.deepcopy([part.state() for part in self.parts]) if alone else None
        self.train_mb_size, self.train_epochs, self._criterion = rows, 1, None
        self.loss: Tensor = torch.zeros(())
        self.lived = 0
        self._late, self.best, self._mean = 0.0, -1.0, 0.0
        self.position = Position()
        self.passed: Callable[..., None] = lambda whole=False, best=False: None

    @property
    def evaluator(self) -> Any:
        """The plugin that holds Avalanche's metrics and loggers, None without one."""
        return next((p for p in self.plugins if isinstance(p, EvaluationPlugin)), None)

    def measured(self) -> dict[str, Any]:
        """Return the last value of each of Avalanche's metrics by its name."""
        return {} if self.evaluator is None else dict(self.evaluator.get_last_metrics())

    def train(self, experiences: Any, eval_streams: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Live one experience, or some; return the last value of each of Avalanche's metrics."""
        super().train(experiences, eval_streams=[], **kwargs)
        return self.measured()

    def eval(self, experiences: Any, **kwargs: Any) -> dict[str, Any]:
        """Hold a round of examinations; return the last value of each of Avalanche's metrics."""
        super().eval(experiences, **kwargs)
        scores = [found for _, arm, found in self.position.examined if arm == "agent"]
        self._mean = sum(scores) / max(1, len(scores))
        self.position = Position(self.position.experience, "training")
        return self.measured()

    def live(self, train_stream: Any, test_stream: Any) -> None:
        """Live on from where this life stands to its end: examine, then train and examine in turn.

        `passed` hears of every boundary: of an update, an examination in one task (with the life as
        it is then), and, as `whole`, of a training or a round of examinations.
        """
        while self.position.phase != "end":
            done, phase = self.position[:2]
            if phase == "training":
                self.train(train_stream[done])
                self.passed(whole=True)
            else:
                self._hold(test_stream, last=done == len(train_stream))

    def _hold(self, test_stream: Any, last: bool) -> None:
        """Hold what is left of a round of examinations."""
        examined = self.position.examined
        self.finished = last and self.fresh is None
        self.eval(test_stream[examined[-1][0] if examined else 0 :])
        best, self.best = self._mean > self.best, max(self.best, self._mean)
        self.position = self.position._replace(phase="end" if last else "training")
        self.passed(whole=True, best=best)

    def state(self) -> dict[str, Any]:
        """Return where the life stands, and what its plugins (the clock among them) know."""
        return {
            "position": self.position._asdict(),
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "plugins": [state_of(keepable(each), self._weights()) for each in self.plugins],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` was asked of; the agent is restored before."""
        place = state["position"]
        examined = tuple((int(task), str(arm), float(x)) for task, arm, x in place["examined"])
        self.position = Position(**{**place, "examined": examined})
        for name in _COUNTERS:
            setattr(self, name, state["counters"][name])
        for plugin, kept in zip(self.plugins, state["plugins"], strict=True):
            restore_to(keepable(plugin), kept, self._weights())

    def _weights(self) -> dict[str, Tensor]:
        return dict(self.agent.named_parameters())

    # What began before a checkpoint has told the plugins so, and they still know.

    def _before_training(self, **kwargs: Any) -> None:
        if not self.position.updates:
            super()._before_training(**kwargs)

    def _before_training_exp(self, **kwargs: Any) -> None:
        if not self.position.updates:
            super()._before_training_exp(**kwargs)

    def _after_training_exp(self, **kwargs: Any) -> None:
        super()._after_training_exp(**kwargs)
        self.position = Position(self.position.experience + 1)

    def _before_eval(self, **kwargs: Any) -> None:
        if not self.position.examined:
            super()._before_eval(**kwargs)

    def _before_eval_exp(self, **kwargs: Any) -> None:
        self.dataloader = range(1)  # the iterations, for bars of progress
        if self.experience.numbers[0] not in {task for task, *_ in self.position.examined}:
            super()._before_eval_exp(**kwargs)

    def _begin(self, behind: int) -> None:
        """Begin an experience; of lives alone, as an agent that has lived nothing."""
        if behind == 0:
            self._probe(0)
        elif self.fresh is not None:
            for part, state in zip(self.parts, copy.deepcopy(self.fresh), strict=True):
                part.restore(state)

    def _probe(self, after: int) -> None:
        """Write how plastic the agent is after so many experiences; it is the same afterwards."""
        if self.reference:
            self.log.append("plasticity", after=after, **probe(self.agent, self.reference))

    def _train_exp(self, experience: EpisodeExperience, eval_streams: Any, **_: Any) -> None:
        """Live the experience: in turns, a batch of episodes of each task and one update."""
        done, behind = self.position.updates, self.clock.train_exp_counter
        self.dataloader = range(sum(budget // self.rows for budget in experience.budgets))
        if not done:
            self._begin(behind)
            trigger(self, "before_training_epoch")
            self.learner.begin(len(self.dataloader))
        parts = self.learner.accumulate
        envs = [make(task, self.rows // parts, task.train) for task in experience.tasks]
        turns = enumerate(experience.turns(self.rows))
        for update, (turn, episode) in islice(turns, done, None):
            trigger(self, "before_training_iteration")
            place = {"episode": episode, "task_start": experience.first_episodes[turn]}
            steps = self._live(envs[turn], experience.numbers[turn], place)
            report = self.learner.update(self._add_penalties, self._after_backward)
            self._tell(experience.numbers[turn], [float(r == 1) for r in report.rewards])
            trigger(self, "after_update")
            trigger(self, "after_training_iteration")
            self._write(experience, turn, update, report, steps)
            if self.exam_every and (update + 1) % self.exam_every == 0:
                self._examine_meanwhile(experience, turn, update + 1, episode + self.rows)
            self.hear_lived(self.clock.train_iterations, self.learner.stories)
            self.position = self.position._replace(updates=update + 1)
            self.passed()
        for each in envs:
            each.close()
        self.lived = experience.first_episodes[0] + experience.episodes
        overlap = self.learner.rekey()
        self.log.append("rekey", experience=behind, overlap=overlap)
        self._probe(behind + 1)
        self.inquiry.lived(behind + 1)
        trigger(self, "after_training_epoch")

    def _live(self, envs: TextVector, number: int, place: dict[str, int]) -> int:
        """Live a batch of episodes, in parts if the learner wants them; return the steps."""
        trigger(self, "before_forward")
        steps, part = 0, envs.num_envs
        for first in range(0, self.rows, part):
            if first:
                self.learner.part()
            steps += live(
                self.agent,
                envs,
                self.learner,
                task=number,
                seed=self.seed * 1_000_003 + self.clock.train_iterations * self.rows + first,
                options={**place, "episode": place["episode"] + first},
            )
        trigger(self, "after_forward")
        return steps

    def _tell(self, number: int, scores: Sequence[float], right: Sequence[int] = ()) -> None:
        """Let Avalanche's metrics read how questions were answered, or how far acting got.

        Args:
            number: of the task.
            scores: of each question or episode.
            right: which of them are right; those with a score of 1 or more if it is not said.
        """
        right = list(right) or [int(score >= 1) for score in scores]
        self.mb_task_id, self.mb_scores = number, list(scores)
        self.mb_output, self.mb_y = torch.tensor(right), torch.ones(len(right), dtype=torch.int64)

    def _tell_examined(self, number: int, loss: float, *marks: Sequence[Any]) -> None:
        """Let them read the same of an examination, one iteration in all."""
        for event in ("before_eval_iteration", "before_eval_forward"):
            trigger(self, event)
        self.loss = torch.tensor(loss)
        self._tell(number, *marks)
        for event in ("after_eval_forward", "after_eval_iteration"):
            trigger(self, event)

    def _examine_meanwhile(
        self, experience: EpisodeExperience, turn: int, updates: int, lived: int
    ) -> None:
        """Examine in the task that is being trained, by the first stories of its examination."""
        task, number = experience.tasks[turn], experience.numbers[turn]
        result = examine(
            self.agent,
            task,
            number=number,
            episodes=min(self.interim_episodes, self.exam_episodes[number]),
            rows=self.rows,
            seed=self.seed,
            options={"lived": lived, "task_start": experience.first_episodes[turn]},
        )
        self.log.append(
            "interim",
            experience=self.clock.train_exp_counter,
            update=updates,
            task=number,
            name=task.name,
            loss=result.loss,
            correct=result.correct,
        )

    def _eval_exp(self, **_: Any) -> None:
        """Examine in one task; in the end in every way of the inquiry."""
        experience, after = self.experience, self.clock.train_exp_counter
        task, number = experience.tasks[0], experience.numbers[0]
        start = experience.first_episodes[0]
        known = min(self.lived, start + experience.episodes // self.rows * self.rows)
        behind = {(task, arm) for task, arm, _ in self.position.examined}
        settings = {
            "number": number,
            "episodes": self.exam_episodes[number],
            "rows": self.rows,
            "seed": self.seed,
            "options": {"lived": known, "task_start": start},
            "optimizer": self.optimizer,
        }
        rounds: Iterable[Round] = [("agent", partial(examine, self.agent, task, **settings))]
        if self.finished:
            rounds = self.inquiry.rounds(self.log, task, settings, after, self.learner.rekey)
        for arm, ask in rounds:
            if (number, arm) in behind:
                continue
            result = ask()
            place = {"after": after, "task": number, "name": task.name, "arm": arm}
            self.log.append("examination", **place, **result._asdict())
            if arm == "agent":
                self._tell_examined(number, result.loss, list(map(float, result.correct)))
            examined = (*self.position.examined, (number, arm, result.accuracy))
            self.position = self.position._replace(examined=examined)
            self.passed()

    def _add_penalties(self, loss: Tensor) -> Tensor:
        self.loss = loss
        trigger(self, "before_backward")
        return self.loss

    def _after_backward(self) -> None:
        for event in ("after_backward", "before_update"):
            trigger(self, event)

    def _write(
        self, experience: EpisodeExperience, turn: int, update: int, report: Update, steps: int
    ) -> None:
        store = self.agent.episodic_memory
        self._late = report.accuracy if update == 0 else 0.9 * self._late + 0.1 * report.accuracy
        self.log.append(
            "update",
            experience=self.clock.train_exp_counter,
            update=update,
            task=experience.numbers[turn],
            loss=report.loss,
            rehearsed_loss=report.rehearsed_loss,
            accuracy=report.accuracy,
            trust=report.trust,
            entries=0 if store is None else len(store),
            steps=steps,
            actions="".join("saum"[written.action] for written in report.written),
            written=[written.entry for written in report.written],
            evicted=[written.evicted for written in report.written],
            names=names(report.written, report.names),
        )
        name = experience.tasks[turn].name if len(experience.tasks) == 1 else "all tasks"
        self.progress(name, self.clock.train_iterations, self._late)


def expect_nothing_kept(plugins: Sequence[BaseSGDPlugin]) -> None:
    """Refuse what keeps something of earlier tasks: a fresh agent has lived none."""
    for plugin in plugins:
        if hasattr(plugin, "nbytes"):
            raise ValueError(
                f"protocol=scratch: {type(plugin).__name__} keeps something of earlier tasks, and "
                "who begins every task afresh has none; its reference is the arm scratch."
            )
