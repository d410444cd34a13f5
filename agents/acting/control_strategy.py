"""A lifetime with tasks that are acted in: the same loop, log and examinations as with questions.

Importing this module imports Avalanche. A text task of the stream is lived by the memory agent as
ever (`strategy.py`), every other one by a control learner. Neither is told which task it is in.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from avalanche.core import BaseSGDPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates.base import BaseTemplate
from avalanche.training.utils import trigger_plugins as trigger
from torch import Tensor

from stillknows.agents.acting.control_examination import Examined, examine_control, score
from stillknows.agents.acting.control_learner import ControlLearner, Hooks, Lived
from stillknows.agents.acting.players import Player, RandomPlayer
from stillknows.agents.acting.rollout import Stage
from stillknows.agents.agent import MemoryAgent
from stillknows.agents.examinations.inquiry import Inquiry
from stillknows.agents.learner import QuestionLearner
from stillknows.agents.reports.log import LifetimeLog
from stillknows.agents.strategy import Lifetime, Position, Progress, expect_nothing_kept
from stillknows.envs.control import ControlTask, Fault, spaces_of
from stillknows.envs.streams import ActingExperience, EpisodeExperience, one_at_a_time

_COLUMNS = ("entries", "rehearsed_loss")  # of an update, whatever is lived


class ControlLifetime(Lifetime):
    """Trains a control learner, and a memory agent where there are text tasks, and examines both.

    Args:
        control: who acts and learns.
        log: takes every event.
        rows: episodes side by side in training (B).
        exam_episodes: of the examination in each task.
        seed: of everything that happens in this life.
        agent: who answers, if there are text tasks.
        learner: how it learns.
        inquiry: holds its last examination.
        plugins: Avalanche plugins.
        progress: hears of every update: task, updates so far, score of late.
        retries: how many episodes in a row may break.
        blur: share of an experience, its last, in which batches of the next task are mixed in,
            ever more of them.
        sampled: whether actions are drawn in examinations; else they are the likeliest.
        alone: whether every experience begins as the first one did, and nothing lives on.
    """

    def __init__(
        self,
        *,
        control: ControlLearner,
        log: LifetimeLog,
        rows: int,
        exam_episodes: Sequence[int],
        seed: int,
        agent: MemoryAgent | None = None,
        learner: QuestionLearner | None = None,
        inquiry: Inquiry | None = None,
        plugins: Sequence[BaseSGDPlugin] = (),
        progress: Progress = lambda name, update, late: None,
        retries: int = 3,
        blur: float = 0.0,
        sampled: bool = False,
        alone: bool = False,
    ) -> None:
        expect_fitting(plugins, agent is None and control.optimizer is not None, alone)
        if agent is not None and learner is not None and inquiry is not None:
            super().__init__(
                agent=agent, learner=learner, log=log, rows=rows, exam_episodes=exam_episodes,
                seed=seed, progress=progress, inquiry=inquiry, plugins=plugins,
            )  # fmt: skip
        else:
            clocked = [*plugins, Clock()]
            BaseTemplate.__init__(self, model=control.agent, device="cpu", plugins=clocked)
            self.clock, self.optimizer = self.plugins[-1], control.optimizer
            self.log, self.rows, self.exam_episodes, self.seed = log, rows, exam_episodes, seed
            self.progress, self.train_mb_size, self.train_epochs = progress, rows, 1
            self._criterion, self.lived, self._late, self.best = None, 0, 0.0, -1.0
            self.position, self._mean, self.loss = Position(), 0.0, torch.zeros(())
            self.fresh = None
            self.passed = lambda whole=False, best=False: None
        self.control, self.retries, self.blur, self.sampled = control, retries, blur, sampled
        self.newborn = copy.deepcopy(control.state()) if alone else None
        self.steps = 0
        self._done: list[int] = []  # of each task of the experience that is lived
        self._stages: dict[int, Stage] = {}
        self._kept: dict[int, Any] = {}  # where stages stood that are not set up yet
        self._floors: dict[int, float] = {}
        self._signatures: dict[int, str] = {}

    def live(
        self,
        train_stream: Iterable[EpisodeExperience],
        test_stream: Sequence[EpisodeExperience],
    ) -> None:
        """Live on to the end: examine, then for each experience train on it and examine again.

        `passed` hears of every boundary, as in a life of questions.

        Args:
            train_stream: one after the other, perhaps without end; none is held when it is over.
            test_stream: the examinations, one a task.
        """
        if self.position.phase == "examination" and not self.position.experience:
            self._hold(test_stream, last=False)
        stream = enumerate(_with_last(one_at_a_time("train", train_stream)), start=1)
        for number, (experience, last) in stream:
            behind, phase = self.position[:2]
            if number > behind and phase == "training":
                self.train(experience)
                self.passed(whole=True)
            if number == self.position.experience and self.position.phase == "examination":
                self._hold(test_stream, last)

    def state(self) -> dict[str, Any]:
        """Return where the life stands, what its plugins know, and where each stage stands."""
        stages = {n: each.state(self.control.pack) for n, each in self._stages.items()}
        acting = {
            "steps": self.steps,
            "done": list(self._done),
            "stages": {**self._kept, **stages},
            "floors": dict(self._floors),
        }
        return {**super().state(), "acting": acting}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` was asked of; who learns is restored before."""
        super().restore(state)
        acting = state["acting"]
        self.steps, self._done = acting["steps"], list(acting["done"])
        self._kept, self._floors = dict(acting["stages"]), dict(acting["floors"])
        self._stages = {}

    def _weights(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    def surprises(self, batches: int) -> Any:
        """Yield `-log p` of what is done in the experience that ends, a row at a time."""
        learner: Any = self.control
        task, number = self.experience.tasks[0], self.experience.numbers[0]
        seed = (self.seed * 1_000_003 + self.clock.train_exp_counter) * 1_009 + 1_008
        stage = Stage(task, 1, seed, self.retries)
        yield from learner.surprises(self._meet(task, number), stage, batches)
        stage.close()

    def _train_exp(self, experience: EpisodeExperience, eval_streams: Any, **_: Any) -> None:
        """Live the experience: in turns, so many steps in a task and what is learned from them."""
        if not isinstance(experience, ActingExperience):
            super()._train_exp(experience, eval_streams)
            return
        each = self.rows * getattr(self.control, "horizon", 1)
        self.dataloader = range(-(-sum(experience.budgets) // each))
        if not self.position.updates:
            trigger(self, "before_training_epoch")
            self._done, self._late = [0] * len(experience.tasks), 0.0
            if self.newborn is not None and self.clock.train_exp_counter:
                self.control.restore(copy.deepcopy(self.newborn))
            self.control.begin()
        while (turn := next_turn(self._done, experience.budgets)) is not None:
            trigger(self, "before_training_iteration")
            share = self._done[turn] / experience.budgets[turn]
            task, number = self._now(experience, turn, share)
            lived = self._update(task, number, share)
            totals = [each.total for each in lived.ended] if number in self._floors else []
            scores = [self._score(task, number, total) for total in totals]
            self._late = float(np.mean(scores)) if scores else self._late
            self._tell(number, scores or [self._late])
            trigger(self, "after_training_iteration")
            update = self.position.updates
            self._write_lived(experience, task, number, update, lived)
            by_steps = experience.units[turn] == "steps"
            self._done[turn] += lived.steps if by_steps else len(lived.ended)
            self.position = self.position._replace(updates=update + 1)
            self.passed()
        for stage in self._stages.values():
            stage.close()
        self._stages, self._kept = {}, {}
        trigger(self, "after_training_epoch")

    def _eval_exp(self, **_: Any) -> None:
        """Examine in one task, with no trace."""
        experience = self.experience
        task, number = experience.tasks[0], experience.numbers[0]
        if not isinstance(task, ControlTask):
            super()._eval_exp()
            return
        if (number, "agent") in {examined[:2] for examined in self.position.examined}:
            return
        if number not in self._floors:
            self._write_floor(task, number)
        player = self.control.player(self._meet(task, number), self.sampled, self.seed)
        found = self._examine(player, task, number)
        scores = [self._score(task, number, total) for total in found.returns]
        self.log.append(
            "examination",
            after=self.clock.train_exp_counter,
            task=number,
            name=task.name,
            arm="agent",
            episodes=list(range(len(scores))),
            steps=found.lengths,
            correct=found.successes,
            carried=[0] * len(found.successes),
            by_token=[],
            scores=scores,
            returns=found.returns,
            lengths=found.lengths,
            trust=getattr(player, "trust", 0.0),
        )
        self._tell_examined(number, 0.0, scores, found.successes)
        examined = (*self.position.examined, (number, "agent", float(np.mean(scores))))
        self.position = self.position._replace(examined=examined)
        self.passed()

    def _now(self, experience: ActingExperience, turn: int, share: float) -> tuple[Any, int]:
        """Return the task of this turn; near a boundary it may be the next one already."""
        if experience.following is not None and share > 1 - self.blur:
            rising = (share - (1 - self.blur)) / self.blur
            draw = np.random.default_rng([self.seed, self.clock.train_iterations]).random()
            if draw < rising:
                return experience.following
        return experience.tasks[turn], experience.numbers[turn]

    def _update(self, task: ControlTask, number: int, share: float) -> Lived:
        """Live some steps in a task and learn; keep what broke in the log, come what may."""
        signature = self._meet(task, number)
        stage = self._stage(task, number)
        try:
            lived = self.control.update(signature, stage, share, self._hooks())
        finally:
            self._write_faults(task, number, stage.take_faults(), "training")
        self._write_faults(task, number, lived.faults, "training")
        return lived

    def _stage(self, task: ControlTask, number: int) -> Stage:
        """Return the stage of a task in this experience, set up where it stood."""
        if number not in self._stages:
            seed = (self.seed * 1_000_003 + self.clock.train_exp_counter) * 1_009 + number
            stage = self._stages[number] = Stage(task, self.rows, seed, self.retries)
            if number in self._kept:
                stage.restore(self._kept.pop(number), lambda t: self.control.unpack(t, self.rows))
        return self._stages[number]

    def _hooks(self) -> Hooks:
        return Hooks(
            self._add_penalties,
            self._after_backward,
            lambda: trigger(self, "after_update"),
        )

    def _meet(self, task: ControlTask, number: int) -> str:
        """Return the name of a task's pair of spaces."""
        if number not in self._signatures:
            self._signatures[number] = self.control.meet(*spaces_of(task))
        return self._signatures[number]

    def _examine(self, player: Player, task: ControlTask, number: int) -> Examined:
        try:
            found = examine_control(
                player,
                task,
                episodes=self.exam_episodes[number],
                rows=self.rows,
                seed=self.seed,
                retries=self.retries,
            )
        except ValueError as error:
            self._write_faults(task, number, [Fault(-1, -1, str(error))], "examination")
            raise
        self._write_faults(task, number, found.faults, "examination")
        return found

    def _write_floor(self, task: ControlTask, number: int) -> None:
        """Measure what random actions return, and write it beside the reference."""
        player = RandomPlayer(spaces_of(task)[1], self.seed)
        returns = self._examine(player, task, number).returns
        self._floors[number] = floor = float(np.mean(returns))
        if floor >= task.reference:
            raise ValueError(
                f"{task.name}: random actions return {floor:g} already, and the return that scores "
                f"1 is {task.reference:g}: give a higher one by stream.tasks.references, or make "
                "the task harder, for instance by fewer steps (max_episode_steps)."
            )
        self.log.append(
            "floor",
            task=number,
            name=task.name,
            random=0.0,
            random_return=floor,
            reference_return=task.reference,
        )

    def _score(self, task: ControlTask, number: int, total: float) -> float:
        return score(total, self._floors[number], task.reference)

    def _write_faults(
        self, task: ControlTask, number: int, faults: Sequence[Fault], where: str
    ) -> None:
        for fault in faults:
            self.log.append(
                "fault",
                task=number,
                name=task.name,
                where=where,
                episode=fault.number,
                step=fault.step,
                reason=fault.reason,
            )

    def _write_lived(
        self,
        experience: ActingExperience,
        task: ControlTask,
        number: int,
        update: int,
        lived: Lived,
    ) -> None:
        self.steps += lived.steps
        self.log.append(
            "update",
            experience=self.clock.train_exp_counter,
            update=update,
            task=number,
            rehearsed_loss=lived.numbers.get("rehearsed_loss", 0.0),
            accuracy=self._late,
            trust=0.0,
            entries=self.control.entries,
            actions="".join("saum"[each.action] for each in lived.written),
            written=[each.entry for each in lived.written],
            evicted=[each.evicted for each in lived.written],
            steps=lived.steps,
            returns=[each.total for each in lived.ended],
            lengths=[each.length for each in lived.ended],
            **{name: x for name, x in lived.numbers.items() if name not in _COLUMNS},
        )
        name = task.name if len(experience.tasks) == 1 else "all tasks"
        self.progress(name, self.clock.train_iterations, self._late)


def next_turn(done: Sequence[int], budgets: Sequence[int]) -> int | None:
    """Return the task that has least of its budget behind it, None when all have all of it."""
    shares = [lived / budget for lived, budget in zip(done, budgets, strict=True)]
    turn = int(np.argmin(shares))
    return turn if shares[turn] < 1 else None


def _with_last(
    experiences: Iterator[EpisodeExperience],
) -> Iterator[tuple[EpisodeExperience, bool]]:
    """Yield each experience, and whether it is the last."""
    coming = next(experiences, None)
    while coming is not None:
        now, coming = coming, next(experiences, None)
        yield now, coming is None


def expect_fitting(plugins: Sequence[BaseSGDPlugin], moved: bool, alone: bool) -> None:
    """Raise a ValueError if plugins do not go with a life that is acted in.

    Args:
        plugins: Avalanche's.
        moved: whether one agent acts there, moved by one optimiser.
        alone: whether every experience begins as the first one did.
    """
    if alone:
        expect_nothing_kept(plugins)
    if not moved and not all(isinstance(each, EvaluationPlugin) for each in plugins):
        raise ValueError(
            "Avalanche's plugins need one agent with one optimiser: leave them away, or live in "
            "control tasks alone with learner=recurrent_ppo."
        )
