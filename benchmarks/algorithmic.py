"""NTM and DNC on the algorithmic tasks: wrong bits at the trained length and at twice that.

    python benchmarks/algorithmic.py --memory ntm --task copy --seeds 3
    python benchmarks/algorithmic.py --memory dnc --task copy_series --updates 100  # a short look

Training and sizes follow the NTM's paper: RMSprop with momentum 0.9 and a learning rate of 1e-4,
every number of the gradient clipped to 10, 100 hidden units, 128 slots of 20 numbers; an LSTM
controller and one head, for associative recall a feed-forward one and four heads (Graves, Wayne,
Danihelka 2014, arXiv:1410.5401, section 4.6). Other than there, an update sees a batch. The series
of copies has 10 slots for its 50 vectors, and a feed-forward controller, which itself keeps nothing
(Graves et al. 2016, Extended Data Figure 1). Prints one Markdown table: the bits of an episode, how
many of them are wrong, and the share of episodes without a wrong bit; intervals are over seeds.
"""

import argparse
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from stillknows.envs.intervals import interval
from stillknows.envs.problems import KEYS, AssociativeRecall, Copy, Problem, RepeatCopy, generate
from stillknows.memory.dnc import DNC
from stillknows.memory.ntm import NTM
from stillknows.memory.recurrent import FeedForwardController, LSTMController, Recurrent

CLIP = 10.0


@dataclass(frozen=True)
class Setting:
    """A task: what is learned, what is examined, and with which memory.

    Attributes:
        problem: the episodes of training.
        exams: a name for each problem that is examined.
        updates: of training, where `--updates` says nothing.
        heads: read heads, and of the NTM also write heads.
        slots: N.
        feed_forward: whether the controller is one layer instead of an LSTM.
    """

    problem: Problem
    exams: dict[str, Problem]
    updates: int
    heads: int = 1
    slots: int = 128
    feed_forward: bool = False


SETTINGS = {
    "copy": Setting(
        Copy(),
        {f"{n} vectors": Copy(min_length=n, max_length=n) for n in (20, 40)},
        updates=50_000,
    ),
    "repeat_copy": Setting(
        RepeatCopy(),
        {f"{n} vectors": RepeatCopy(min_length=n, max_length=n) for n in (10, 20)},
        updates=50_000,
    ),
    "associative_recall": Setting(
        AssociativeRecall(),
        {f"{n} items": AssociativeRecall(min_items=n, max_items=n) for n in (6, 12)},
        updates=50_000,
        heads=4,
        feed_forward=True,
    ),
    "copy_series": Setting(
        Copy(min_length=5, max_length=5, sequences=10),
        {f"{5 * n} vectors": Copy(min_length=5, max_length=5, sequences=n) for n in (10, 20)},
        updates=20_000,
        slots=10,
        feed_forward=True,
    ),
}


class Marks(NamedTuple):
    """What an examination found: means over its episodes, and the share without a wrong bit."""

    bits: float
    wrong_bits: float
    all_right: float


class Solver(nn.Module):
    """A memory that reads inputs and says how likely each output bit is."""

    def __init__(self, memory: Recurrent, word_size: int, output_size: int) -> None:
        super().__init__()
        self.memory, self.head = memory, nn.Linear(word_size, output_size)

    def forward(self, inputs_BTI: Tensor) -> Tensor:
        """Return a logit for each output bit, `[B, T, O]`."""
        state = self.memory.initial_state(len(inputs_BTI), inputs_BTI.device)
        outputs = []
        for input_BI in inputs_BTI.unbind(dim=1):
            state, read = self.memory.step(state, input_BI)
            outputs.append(read.values_BRW[:, -1])
        return self.head(torch.stack(outputs, dim=1))


def build(memory: str, setting: Setting, hidden_size: int = 100, word_size: int = 20) -> Solver:
    """Return an untrained solver with `memory`, "ntm" or "dnc"."""
    inputs, heads = setting.problem.input_size, setting.heads
    controller_of = FeedForwardController if setting.feed_forward else LSTMController
    controller = controller_of(inputs + heads * word_size, hidden_size)
    if memory == "ntm":
        built = NTM(inputs, setting.slots, word_size, heads, heads, controller=controller)
    else:
        built = DNC(inputs, setting.slots, word_size, heads, controller=controller)
    return Solver(built, word_size, setting.problem.output_size)


def batches(problem: Problem, size: int, seed: int, device: str) -> Iterable[tuple[Tensor, ...]]:
    """Yield inputs `[B, T, I]`, targets `[B, T, O]` and marks `[B, T]` without end."""
    generator = np.random.default_rng(seed)
    while True:
        batch = generate(problem, generator.integers(KEYS, size=size))
        inputs, targets, marked, _ = (torch.from_numpy(part).to(device) for part in batch)
        yield inputs, targets.float(), marked


def train(solver: Solver, problem: Problem, seed: int, asked: argparse.Namespace) -> None:
    """Train a solver in place, by the cross-entropy of the bits that are asked for."""
    learned = [p for p in solver.parameters() if p.requires_grad]
    optimizer = torch.optim.RMSprop(learned, lr=asked.learning_rate, alpha=0.95, momentum=0.9)
    updates = tqdm(range(asked.updates), desc=f"seed {seed}", position=seed, disable=None)
    for update, (inputs, targets, marked) in zip(
        updates, batches(problem, asked.batch, seed, asked.device), strict=False
    ):
        loss = binary_cross_entropy_with_logits(solver(inputs)[marked], targets[marked])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(learned, CLIP)
        optimizer.step()
        if update % 100 == 0:
            updates.set_postfix(bits=f"{loss.item() / np.log(2):.4f}")


@torch.no_grad()
def examine(solver: Solver, problem: Problem, episodes: int, device: str) -> Marks:
    """Return how a solver does on some episodes, the same for every solver."""
    inputs, targets, marked = next(iter(batches(problem, episodes, KEYS, device)))
    wrong_BTO = ((solver(inputs) > 0) != targets.bool()) & marked[..., None]
    wrong_B = wrong_BTO.sum(dim=(1, 2)).float()
    return Marks(
        bits=marked.sum().item() * targets.shape[2] / episodes,
        wrong_bits=wrong_B.mean().item(),
        all_right=(wrong_B == 0).float().mean().item(),
    )


def life(seed: int, asked: argparse.Namespace) -> list[Marks]:
    """Return the marks of one seed, an examination each."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    setting = SETTINGS[asked.task]
    solver = build(asked.memory, setting).to(asked.device)
    train(solver, setting.problem, seed, asked)
    return [examine(solver, exam, asked.examples, asked.device) for exam in setting.exams.values()]


def table(lives: list[list[Marks]], asked: argparse.Namespace) -> str:
    """Return a Markdown table with a row an examination."""
    lines = [
        "| task | memory | updates | seeds | examined on | bits | of them wrong | all right |",
        "|---|---|---|---|---|---|---|---|",
    ]
    who = f"{asked.task} | {asked.memory} | {asked.updates} | {asked.seeds}"
    for exam, marks in zip(SETTINGS[asked.task].exams, zip(*lives, strict=True), strict=True):
        wrong = interval([mark.wrong_bits for mark in marks])
        right = interval([mark.all_right for mark in marks])
        lines.append(f"| {who} | {exam} | {marks[0].bits:.0f} | {wrong} | {right} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Train and examine one solver a seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", choices=("ntm", "dnc"), default="ntm")
    parser.add_argument("--task", choices=sorted(SETTINGS), default="copy")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, help="other than the task's own")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--examples", type=int, default=200, help="episodes of an examination")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="seeds that run at the same time")
    asked = parser.parse_args(arguments)
    if asked.updates is None:
        asked.updates = SETTINGS[asked.task].updates
    if asked.workers == 1:
        lives = [life(seed, asked) for seed in range(asked.seeds)]
    else:
        with ProcessPoolExecutor(asked.workers) as pool:
            lives = list(pool.map(partial(life, asked=asked), range(asked.seeds)))
    print(table(lives, asked))


if __name__ == "__main__":
    main()
