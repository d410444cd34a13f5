"""Learning an algorithmic task with a memory alone: lessons, updates, examinations.

A solver is a memory that owns its recurrence (an NTM, a DNC) and one layer that says the bits of
an answer. It learns lessons in order, the next when the last is known, and keeps repeating earlier
ones (Graves et al. 2016, Nature 538:471, Methods, curriculum). This file knows nothing of
configurations and of files.

Letters: B episodes side by side, T steps, I inputs, O outputs, P steps that ask for an answer.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from stillknows.agents.optimizer import Optimizers, clip_gradient, height
from stillknows.envs.problems import KEYS, Problem, generate
from stillknows.memory.gpu.graphed import fastest
from stillknows.memory.recurrent import Recurrent

_CHUNK = 16  # steps of a CUDA graph
_LATE = 0.05  # weight of the newest batch in the share that is known of late


class Solver(nn.Module):
    """A memory that reads inputs and says how likely each output is.

    Args:
        memory: takes `input_size` numbers a step; its last read, the output, has `word_size`.
        problem: whose outputs are asked for.
        compiled: whether a step of the memory is compiled, which needs a C++ compiler and a minute;
            on a GPU chunks of steps are CUDA graphs as well, with kernels of their own if there are
            some for this memory.
    """

    def __init__(self, memory: Recurrent, problem: Problem, compiled: bool = False) -> None:
        super().__init__()
        self.memory, self.group_size = memory, problem.group_size
        self.head = nn.Linear(memory.word_size, problem.output_size)
        self._graphed = fastest(memory, _CHUNK) if compiled else None
        if compiled:
            memory.step = torch.compile(memory.step)  # type: ignore[method-assign]

    def forward(self, inputs_BTI: Tensor) -> Tensor:
        """Return a logit for each output, `[B, T, O]`."""
        state = self.memory.initial_state(len(inputs_BTI), inputs_BTI.device)
        if self._graphed is not None and inputs_BTI.is_cuda:
            steps = inputs_BTI.shape[1]
            whole_BTI = nn.functional.pad(inputs_BTI, (0, 0, 0, -steps % _CHUNK))  # of equal chunks
            values_BTW = self._graphed.outputs(state, whole_BTI)[1][:, :steps]
        else:
            values_BTW = self.memory.outputs(state, inputs_BTI)[1]
        logits_BTO: Tensor = self.head(values_BTW)
        return logits_BTO

    def loss(self, logits_PO: Tensor, targets_PO: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats, of bits, or of groups of bits."""
        if self.group_size is None:
            return binary_cross_entropy_with_logits(logits_PO, targets_PO)
        groups_G = logits_PO.reshape(-1, self.group_size)
        return cross_entropy(groups_G, targets_PO.reshape(groups_G.shape).argmax(dim=1))

    def answers(self, logits_PO: Tensor) -> Tensor:
        """Return the likeliest bits, `[P, O]`, 0 or 1."""
        if self.group_size is None:
            return (logits_PO > 0).to(logits_PO.dtype)
        groups = logits_PO.reshape(*logits_PO.shape[:-1], -1, self.group_size)
        best = nn.functional.one_hot(groups.argmax(dim=-1), self.group_size)
        return best.flatten(-2).to(logits_PO.dtype)


class Marks(NamedTuple):
    """What an examination found: means over its episodes.

    Attributes:
        bits: that were asked for.
        wrong_bits: how many of them were wrong.
        all_right: share of episodes without a wrong bit.
    """

    bits: float
    wrong_bits: float
    all_right: float


class Report(NamedTuple):
    """What one update did.

    Attributes:
        lesson: which was taken, and the newest there is.
        newest: the newest lesson.
        loss: cross-entropy in nats.
        known: share of the newest lesson's episodes that are all right of late.
    """

    lesson: int
    newest: int
    loss: float
    known: float


class Curriculum:
    """Lessons in order.

    Args:
        lessons: problems, easier ones first.
        pass_mark: share of episodes without a wrong bit, of late, at which the next lesson begins.
        earlier: share of batches that are of an earlier lesson, any of them as likely.
        seed: of the episodes.
    """

    def __init__(
        self, lessons: Sequence[Problem], pass_mark: float, earlier: float, seed: int
    ) -> None:
        self.lessons, self.pass_mark, self.earlier = lessons, pass_mark, earlier
        self.generator = np.random.default_rng(seed)
        self.newest, self.known = 0, 0.0

    def draw(self, episodes: int) -> tuple[int, tuple[Tensor, Tensor, Tensor]]:
        """Return the number of a lesson and a batch of it: inputs, targets, marks."""
        lesson = self.newest
        if lesson and self.generator.random() < self.earlier:
            lesson = int(self.generator.integers(lesson))
        keys = self.generator.integers(KEYS, size=episodes)
        return lesson, _tensors(self.lessons[lesson], keys)

    def mark(self, lesson: int, all_right: float) -> None:
        """Hear which share of a batch was all right; begin the next lesson when it is time."""
        if lesson != self.newest:
            return
        self.known += _LATE * (all_right - self.known)
        if self.known >= self.pass_mark and self.newest + 1 < len(self.lessons):
            self.newest, self.known = self.newest + 1, 0.0

    def state(self) -> dict[str, Any]:
        """Return where it stands, as a tree."""
        drawn = self.generator.bit_generator.state
        return {"generator": drawn, "newest": self.newest, "known": self.known}

    def restore(self, state: dict[str, Any]) -> None:
        """Stand where `state` said."""
        self.generator.bit_generator.state = state["generator"]
        self.newest, self.known = int(state["newest"]), float(state["known"])


class Learning:
    """A solver that learns its lessons: all that another update depends on.

    The learning rate rises and falls once, with the updates or with the time, whichever is nearer
    to its end.

    Args:
        solver: who learns, on the device it is on.
        curriculum: what.
        optimizer: of its weights.
        updates: how many, at most.
        batch: episodes of an update.
        clip: largest norm of the gradient.
        warmup: updates over which the learning rate rises.

    Attributes:
        done: how many updates there were.
    """

    def __init__(
        self,
        solver: Solver,
        curriculum: Curriculum,
        optimizer: Optimizers,
        *,
        updates: int,
        batch: int,
        clip: float,
        warmup: int = 20,
    ) -> None:
        self.solver, self.curriculum, self.optimizer = solver, curriculum, optimizer
        self.updates, self.batch, self.clip, self.warmup = updates, batch, clip, warmup
        self.done = 0

    def update(self, share: float = 0.0) -> Report:
        """Learn from one batch.

        Args:
            share: of the time there is, what has passed.

        Raises:
            ValueError: if a gradient is NaN or infinite.
        """
        solver, device = self.solver, self.solver.head.weight.device
        lesson, tensors = self.curriculum.draw(self.batch)
        inputs, targets, marked = (tensor.to(device) for tensor in tensors)
        logits = solver(inputs)
        loss = solver.loss(logits[marked], targets[marked])
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip_gradient(solver.parameters(), self.clip)
        planned = height(self.done, self.updates, self.warmup)
        self.optimizer.set_height(min(planned, height(share, 1, warmup=0)))
        self.optimizer.step()
        right_B = _wrong_bits(solver, logits, targets, marked).eq(0)
        self.curriculum.mark(lesson, float(right_B.float().mean()))
        self.done += 1
        return Report(lesson, self.curriculum.newest, loss.item(), self.curriculum.known)

    def state(self) -> dict[str, Any]:
        """Return all that another update depends on, as a tree of tensors and numbers."""
        return {
            "solver": dict(self.solver.state_dict()),
            "curriculum": self.curriculum.state(),
            "optimizer": self.optimizer.state_dict(),
            "done": self.done,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` was asked of; solver, lessons and optimiser are built alike."""
        self.solver.load_state_dict(state["solver"])
        self.curriculum.restore(state["curriculum"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = int(state["done"])


def learn(
    learning: Learning,
    hear: Callable[[int, Report], None] = lambda update, report: None,
    spent: Callable[[], float] = lambda: 0.0,
) -> int:
    """Train a solver in place; return how many updates it had.

    Args:
        learning: who learns what.
        hear: is told of every update.
        spent: says which share of the time there is has passed; at 1 no update begins.

    Raises:
        ValueError: if a gradient is NaN or infinite.
    """
    while learning.done < learning.updates and (share := spent()) < 1:
        hear(learning.done, learning.update(share))
    return learning.done


@torch.no_grad()
def examine(solver: Solver, problem: Problem, episodes: int, batch: int, seed: int = 0) -> Marks:
    """Return how a solver does on some episodes, which a seed and a problem determine."""
    keys = np.random.default_rng([KEYS, seed]).integers(KEYS, size=episodes)
    device = solver.head.weight.device
    wrong, bits = [], 0
    for first in range(0, episodes, batch):
        inputs, targets, marked = (
            tensor.to(device) for tensor in _tensors(problem, keys[first : first + batch])
        )
        wrong.append(_wrong_bits(solver, solver(inputs), targets, marked))
        bits += int(marked.sum()) * problem.output_size
    wrong_B = torch.cat(wrong)
    return Marks(bits / episodes, float(wrong_B.mean()), float(wrong_B.eq(0).float().mean()))


def _wrong_bits(solver: Solver, logits: Tensor, targets: Tensor, marked: Tensor) -> Tensor:
    """Return how many bits of each episode are wrong, as floats, `[B]`."""
    wrong_BTO = (solver.answers(logits) != targets) & marked[..., None]
    return wrong_BTO.sum(dim=(1, 2)).float()


def _tensors(problem: Problem, keys: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs `[B, T, I]`, targets `[B, T, O]` and marks `[B, T]` of some episodes."""
    batch = generate(problem, keys)
    inputs, targets = torch.from_numpy(batch.inputs_BTI), torch.from_numpy(batch.targets_BTO)
    return inputs, targets.float(), torch.from_numpy(batch.marked_BT)
