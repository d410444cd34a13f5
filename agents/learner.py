"""Learning to answer: cross-entropy on the target, rehearsal, and remembering what was marked.

One update is one batch of episodes: every question adds its loss while the episodes are lived
(the memory's state keeps its history until then), rehearsed questions add theirs, and the
optimiser moves once. What is rehearsed is older than the experience, since what belongs to it is
lived anyway (in the first experience, anything), and no fact where the store can recall it. The
learner knows nothing of streams. A batch may be learned from in parts, so that its history need not
be kept whole: of some rows each (`accumulate`), or of some steps each (`horizon`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.baselines.again import Asked
from stillknows.agents.controllers.tokenizer import PAD
from stillknows.agents.optimizer import (
    Optimizers,
    build_optimizer,
    build_schedules,
    clip_gradient,
    height,
)
from stillknows.agents.own_entry import without_own
from stillknows.agents.remembering import Marked, Remembering
from stillknows.agents.teaching.lived import Lived
from stillknows.agents.teaching.policy_learning import Teacher
from stillknows.agents.teaching.trial import Trial
from stillknows.agents.thought import Thought, score
from stillknows.envs.text import Story
from stillknows.memory import expect
from stillknows.memory.episodic import Entries, Written
from stillknows.memory.interface import fills_room
from stillknows.memory.nec import NEC
from stillknows.memory.slots import Slots

_COUNTERS = ("updates", "begun", "planned", "_lived_before")


class Update(NamedTuple):
    """What one update did: losses in nats a question, accuracy, trust in the store, decisions.

    `names` are those of the questions that `written` tells of (`thought.identity`), `rewards` those
    of all answers.
    """

    loss: float
    rehearsed_loss: float
    accuracy: float
    trust: float
    written: tuple[Written, ...]
    names: tuple[int, ...] = ()
    rewards: tuple[float, ...] = ()


class Rehearsed(NamedTuple):
    """The entries (ids) that an update rehearses, and how they were answered again."""

    entries: list[int]
    asked: Asked


class QuestionLearner:
    """Trains an agent on questions and keeps its episodic memory.

    Args:
        agent: who learns.
        learning_rate: of AdamW, at the highest.
        matrix_rate: of Muon, for the matrices, at the highest; 0 leaves them to AdamW.
        warmup: updates over which the learning rate rises from 0 when an experience begins.
        fall: share of an experience, its last, in which the learning rate falls, along half a
            cosine; until then it stays at the highest.
        rest: share of the learning rate that is left when the experience ends.
        weight_decay: of matrices.
        clip: largest norm of the gradient.
        rehearse: how many questions are rehearsed in an update; 0 for none.
        recall_rehearsed: whether the store is asked as well when they are, each question without
            its own entry, so that what is done with recall is rehearsed too.
        write_cost: price, in nats (or in rewards, for a policy that learns from these), of writing
            everything into the working memory; only policies that learn feel it.
        rekey_every: updates between two renewals of the episodic memory's keys.
        horizon: steps of an episode through which gradients go back, at most (truncated
            back-propagation through time, Williams and Peng 1990); None for all.
        linear_start: updates after which a Memory Network that began without its softmax gets it.
        accumulate: into how many parts the rows of a batch are cut; the gradient is that of the
            whole batch, but that later parts recall what earlier ones have written.
        optimizer: makes an optimiser of parameters, instead of Muon and AdamW.
        schedule: makes a schedule of PyTorch of an optimiser, anew in each experience, instead of
            the rise and fall; see `optimizer.build_schedules`.
        seed: of the choice of what is rehearsed.
    """

    def __init__(
        self,
        agent: MemoryAgent,
        *,
        learning_rate: float = 4e-3,
        matrix_rate: float = 6e-3,
        warmup: int = 20,
        fall: float = 1.0,
        rest: float = 0.1,
        weight_decay: float = 0.01,
        clip: float = 1.0,
        rehearse: int = 32,
        recall_rehearsed: bool = False,
        write_cost: float = 0.0,
        rekey_every: int = 50,
        linear_start: int = 400,
        horizon: int | None = None,
        accumulate: int = 1,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        schedule: Callable[..., LRScheduler] | None = None,
        seed: int = 0,
    ) -> None:
        self.agent, self.clip, self.remembering = agent, clip, Remembering(agent)
        self.horizon, self.accumulate, self.schedule = horizon, accumulate, schedule
        expect.whole(1, rekey_every=rekey_every, accumulate=accumulate)
        if horizon is not None:
            expect.whole(1, horizon=horizon)
        expect.whole(0, warmup=warmup, rehearse=rehearse, linear_start=linear_start)
        expect.number(0, write_cost=write_cost)
        expect.number(0, 1, fall=fall, rest=rest)
        expect.above(0, clip=clip)
        for name, maker in (("optimizer", optimizer), ("schedule", schedule)):
            if maker is not None and not callable(maker):
                raise ValueError(f"{name}={maker} should be a class: {name}={{_target_: …}}.")
        self.rehearse = rehearse if agent.episodic_memory is not None else 0
        self.write_cost, self.rekey_every, self.seed = write_cost, rekey_every, seed
        self.linear_start, self.recall_rehearsed = linear_start, recall_rehearsed
        if optimizer is None:
            self.optimizer = build_optimizer(agent, learning_rate, matrix_rate, weight_decay)
        else:
            self.optimizer = Optimizers(
                optimizer([p for p in agent.parameters() if p.requires_grad])
            )
        self.teacher = _teacher_of(agent, write_cost, seed)
        self.rehearsed: Rehearsed | None = None  # in the update that is under way
        self._lived = Lived()
        self.stories: list[Story] = []  # of the last update, if `keeps_stories`
        self.keeps_stories = self.teacher is not None
        self._schedules: list[LRScheduler] = []
        self.warmup, self.fall, self.rest = warmup, fall, rest
        self.updates = self.begun = 0
        self.planned = 1
        self._lived_before = 0
        self._forget_batch()

    def begin(self, updates: int) -> None:
        """Begin an experience of so many updates: the learning rate rises and falls once."""
        self.begun, self.planned = self.updates, updates
        memory = self.agent.episodic_memory
        self._lived_before = 0 if memory is None else memory.seen
        if self.schedule is not None:
            self._schedules = build_schedules(self.optimizer, self.schedule, updates)

    def state(self) -> dict[str, Any]:
        """Return what it knows between two updates, when nothing of a batch is under way."""
        return {
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "optimizer": self.optimizer.state_dict(),
            "schedules": [schedule.state_dict() for schedule in self._schedules],
            "teacher": None if self.teacher is None else self.teacher.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` was asked of; the agent is restored apart from it."""
        for name in _COUNTERS:
            setattr(self, name, int(state["counters"][name]))
        if self.schedule is not None and state["schedules"]:
            self._schedules = build_schedules(self.optimizer, self.schedule, self.planned)
            for schedule, kept in zip(self._schedules, state["schedules"], strict=True):
                schedule.load_state_dict(kept)
        self.optimizer.load_state_dict(state["optimizer"])  # last: a schedule has set its rates
        if self.teacher is not None:
            self.teacher.restore(state["teacher"])

    def mark(self, thought: Thought, marked: Marked) -> None:
        """Take the marks of a step's answers: add to the loss, remember the outcome."""
        target_BA = self.agent.answer_tokens(marked.targets)
        asked = Asked.of(self.agent, thought, target_BA)
        self.asked.append(asked)
        self._losses.append(asked.loss_B)
        self._writes.append(thought.writes_B)
        self._rewards.extend(marked.rewards)
        self._trusts.append(thought.trust_B.detach())
        if self.keeps_stories:
            where = marked.targets, marked.carried, marked.episodes
            self._lived.hear(thought.stories, *where)
        controller_B = score(asked.logs_BSV, target_BA)
        self.remembering.take(thought, marked, target_BA, asked.loss_B, controller_B)

    def update(
        self,
        before_backward: Callable[[Tensor], Tensor] = lambda loss: loss,
        after_backward: Callable[[], None] = lambda: None,
    ) -> Update:
        """Rehearse, move the weights once, and begin the next batch.

        Args:
            before_backward: may add to the loss (penalties do).
            after_backward: may change the gradients (projections do).

        Raises:
            ValueError: if nothing was asked since the last update, or the gradient is no number.
        """
        if not self._rewards:
            raise ValueError(
                "A batch of episodes asked nothing, so that there is nothing to learn from: let "
                "info['question'] be True where an answer is wanted, or take more rows."
            )
        if self._parts:
            self.part()
        loss, total = self._of_batch()
        rehearsed = self._rehearse()
        total = before_backward(total if rehearsed is None else total + rehearsed)
        if total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]
        after_backward()
        self._move()
        self._finish()
        report = Update(
            loss=loss.item(),
            rehearsed_loss=0.0 if rehearsed is None else rehearsed.item(),
            accuracy=sum(self._rewards) / len(self._rewards),
            trust=torch.cat(self._trusts).mean().item(),
            written=self.remembering.written(),
            names=self.remembering.names(),
            rewards=tuple(self._rewards),
        )
        self._forget_batch()
        return report

    def part(self) -> None:
        """Go back through what was lived since the last part, and let its history go."""
        if not self._losses:
            return
        if not self._parts:
            self.optimizer.zero_grad()
        loss_B, writes_B = torch.cat(self._losses), torch.cat(self._writes)
        (loss_B + self.write_cost * writes_B).sum().backward()  # type: ignore[no-untyped-call]
        self._parts.append((loss_B.detach().mean(), len(loss_B)))
        self._losses.clear()
        self._writes.clear()

    def _of_batch(self) -> tuple[Tensor, Tensor]:
        """Return the mean loss of the questions, and what is still to be gone back through.

        After parts that is nothing: their gradients become those of the mean over all questions.
        """
        if not self._parts:
            self.optimizer.zero_grad()
            loss = torch.cat(self._losses).mean()
            return loss, loss + self.write_cost * torch.cat(self._writes).mean()
        questions = sum(count for _, count in self._parts)
        for parameter in self.agent.parameters():
            if parameter.grad is not None:
                parameter.grad /= questions
        loss = torch.stack([part * (count / questions) for part, count in self._parts]).sum()
        return loss, torch.zeros_like(loss)

    def _move(self) -> None:
        """Move the weights once, along a clipped gradient."""
        if not self._schedules:
            done = self.updates - self.begun
            self.optimizer.set_height(height(done, self.planned, self.warmup, self.fall, self.rest))
        clip_gradient(self.agent.parameters(), self.clip)
        self.optimizer.step()
        for schedule in self._schedules:
            schedule.step()

    def rekey(self) -> float:
        """Renew the keys of the episodic memory; return the share of neighbours that stay."""
        memory = self.agent.episodic_memory
        if memory is None or not len(memory):
            return 1.0
        return memory.rekey(self._keys_of)

    def _finish(self) -> None:
        self.updates, memory = self.updates + 1, self.agent.working_memory
        if self.updates == self.linear_start and hasattr(memory, "end_linear_start"):
            memory.end_linear_start()
        self.agent.follow()
        self.remembering.learn()
        self.stories = self._lived.take()
        if self.teacher is not None and self._crowded():
            trial = Trial(self.agent, self.teacher.told(self.stories))
            self.teacher.update(trial, self.agent.working_memory.slots)
        if self.agent.recall and self.updates % self.rekey_every == 0:
            self.rekey()

    def _crowded(self) -> bool:
        """Return whether the working policy had anything to decide about these stories."""
        told = max((story.answers.count(None) for story in self.stories), default=0)
        slots: int = self.agent.working_memory.slots
        return told > slots or (told > 0 and not fills_room(self.agent.working_policy))

    def _rehearse(self) -> Tensor | None:
        """Return the mean loss of questions drawn from the episodic memory, None without."""
        memory = self.agent.episodic_memory
        if memory is None or not self.rehearse or not len(memory):
            return None
        key = self.seed * 2**32 + self.updates
        slots = memory.sample(
            self.rehearse, key, before=self._lived_before, facts=not self.agent.recall
        )
        entries = memory.entries(slots)
        thought = self._think_again(memory, slots, entries)
        asked = Asked.of(self.agent, thought, entries.answers_BA.long())
        self.rehearsed = Rehearsed(memory.provenance("id")[slots].tolist(), asked)
        return asked.loss_B.mean()

    def _think_again(self, memory: NEC, slots: Tensor, entries: Entries) -> Thought:
        """Think of stored questions, each without its own entry where the others are recalled."""
        key_B = memory.provenance("episode")[slots]
        if not (self.recall_rehearsed and self.agent.recall):
            return self.agent(entries.story_BTL, key_B)  # type: ignore[no-any-return]
        with without_own(memory, slots):
            return self.agent(entries.story_BTL, key_B, recall=True)  # type: ignore[no-any-return]

    def _keys_of(self, story_BTL: Tensor) -> Tensor:
        """Return the keys of stored stories: of their last sentences, the questions."""
        lines_BT = (story_BTL != PAD).any(dim=2).sum(dim=1) - 1
        rows = torch.arange(len(story_BTL), device=story_BTL.device)
        return self.agent.key(story_BTL[rows, lines_BT].long())

    def _forget_batch(self) -> None:
        self.asked: list[Asked] = []  # this batch's questions
        self.rehearsed = None
        self._losses: list[Tensor] = []
        self._parts: list[tuple[Tensor, int]] = []
        self._writes: list[Tensor] = []
        self._rewards: list[float] = []
        self._trusts: list[Tensor] = []


def _teacher_of(agent: MemoryAgent, write_cost: float, seed: int) -> Teacher | None:
    """Return what teaches the policy of the working memory, None where the loss does.

    Raises:
        ValueError: if the memory is not of slots, before which such a policy learns.
    """
    policy = agent.working_policy
    if getattr(policy, "learns_by", "loss") == "loss":
        return None
    if not isinstance(agent.working_memory, Slots):
        raise ValueError(
            f"{type(policy).__name__} learns before a working memory of slots: choose "
            "working_memory=slots, or working_policy=retention or a rule."
        )
    rate = 1e-3  # more slowly than before a reader that stays as it is
    width = agent.controller.width
    return Teacher(policy, width, learning_rate=rate, write_cost=write_cost, seed=seed)
