"""The log of memory operations: what was offered, what was decided, what was used later.

A batch of stories is one file (safetensors, no pickle): the vectors of the statements, every
decision with what became of it, what every reading took from what it held, and what it would have
taken from everything that was heard (the use). So any policy can be driven over the same log,
without the agent that wrote it: `stillknows replay RUN working_policy=NAME`.

Letters: B stories, T statements, Q questions, W numbers of a vector, N slots.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.persistence.container import read_tree, write_tree
from stillknows.agents.teaching.policy_learning import heard
from stillknows.agents.teaching.trial import Trial, Watcher, between
from stillknows.envs.text import Story
from stillknows.memory.interface import MERGE, SKIP, Decision, Features, Policy, Read
from stillknows.memory.slots import Slots, SlotsState, counted, resolve
from stillknows.memory.stores.store import Through, at_once

SCHEMA = "stillknows operations 1"
FOLDER = "operations"
_FREE = 1 << 28  # bytes that any file may ask for


class Operations(NamedTuple):
    """What a policy did with some stories.

    Attributes:
        policy: the name of its class.
        slots: its budget.
        key_B: numbers of the episodes, int64.
        items_BTW: the statements' vectors.
        present_BT: which are there; bool.
        after_BQ: how many statements came before each question, int64.
        action_BT: what was done with each statement: skip, add, update or merge; int64.
        leaver_BT: which statement left for it, -1 for none; int64.
        read_BQT: the weight with which each statement was read, -1 where it was not held.
        use_BQT: the same, were everything held that was heard.
        loss_BQ: -log p of the right answers, in nats, NaN where none was asked.
    """

    policy: str
    slots: int
    key_B: Tensor
    items_BTW: Tensor
    present_BT: Tensor
    after_BQ: Tensor
    action_BT: Tensor
    leaver_BT: Tensor
    read_BQT: Tensor
    use_BQT: Tensor
    loss_BQ: Tensor


class Replayed(NamedTuple):
    """What another policy does with the same statements.

    Attributes:
        action_BT: as in `Operations`.
        leaver_BT: as in `Operations`.
        held_BQT: which statements are held at each question; bool.
        kept: share of the use that is still held.
        features: that each statement was decided from, in order.
    """

    action_BT: Tensor
    leaver_BT: Tensor
    held_BQT: Tensor
    kept: float
    features: list[Features]


@torch.no_grad()
def record(trial: Trial, policy: Policy, slots: int) -> Operations:
    """Return what a policy does with the stories of a trial, and what reading took from it."""
    steps = trial.items_BTD.shape[1]
    uses, reads, losses = [], [], []
    for question in trial.questions:
        shadow, state = heard(trial, question)
        _, read = shadow.read(state, question.thought.fused_BD)
        weights_BK = read.weights_BRK.mean(dim=1)
        use_BN = torch.zeros_like(state.usage_BN).scatter(1, read.slots_BRK[:, 0], weights_BK)
        uses.append(use_BN[:, :steps])
    watcher = Watcher(policy)
    memory = trial.memory(slots)
    state = memory.initial_state(len(trial.stories), trial.items_BTD.device, trial.keys())
    before_B = torch.zeros_like(trial.questions[0].after_B)
    for question in trial.questions:
        state = memory.write(state, *trial.between(before_B, question.after_B), watcher)
        held, usage_BN = state.birth_BN, state.usage_BN
        state, loss_B, _ = trial.answered(memory, state, question)
        reads.append(_by_item(held, state.usage_BN - usage_BN, steps, fill=-1.0))
        losses.append(loss_B)
        before_B = torch.maximum(before_B, question.after_B)
    action_BT, leaver_BT = _done(watcher, trial.present_BT)
    return Operations(
        policy=type(policy).__name__,
        slots=slots,
        key_B=trial.keys(),
        items_BTW=trial.items_BTD,
        present_BT=trial.present_BT,
        after_BQ=torch.stack([question.after_B for question in trial.questions], dim=1),
        action_BT=action_BT,
        leaver_BT=leaver_BT,
        read_BQT=torch.stack(reads, dim=1),
        use_BQT=torch.stack(uses, dim=1),
        loss_BQ=torch.stack(losses, dim=1),
    )


@torch.no_grad()
def replay(operations: Operations, policy: Policy, slots: int | None = None) -> Replayed:
    """Drive a policy over a log.

    What it holds counts as read with the weight that was read then; what was not held then, with
    its use. So the policy that wrote the log decides again as it did.

    Args:
        operations: the log.
        policy: who decides.
        slots: its budget; None: as it was.
    """
    rows, steps, width = operations.items_BTW.shape
    memory = Slots(slots or operations.slots, width, hops=1, heads=1, recency=(0.0,))
    state = memory.initial_state(rows, operations.items_BTW.device, operations.key_B)
    watcher, held = Watcher(policy), []
    before_B = torch.zeros_like(operations.after_BQ[:, 0])
    for number in range(operations.after_BQ.shape[1]):
        after_B = operations.after_BQ[:, number]
        items_BSW, here_BS = between(operations.items_BTW, before_B, after_B)
        state = memory.write(state, items_BSW, here_BS, watcher)
        held_BT = _by_item(state.birth_BN, torch.ones_like(state.usage_BN), steps) > 0
        held.append(held_BT)
        read_BT, use_BT = operations.read_BQT[:, number], operations.use_BQT[:, number]
        state = _read(state, torch.where(read_BT >= 0, read_BT, use_BT))
        before_B = torch.maximum(before_B, after_B)
    held_BQT = torch.stack(held, dim=1)
    kept = (operations.use_BQT * held_BQT).sum() / operations.use_BQT.sum().clamp(min=1e-9)
    decisions = _done(watcher, operations.present_BT)
    return Replayed(*decisions, held_BQT, float(kept), watcher.features)


def save_operations(operations: Operations, path: Path) -> None:
    """Write a log of operations into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tree(path, operations._asdict(), SCHEMA)


def load_operations(path: Path) -> Operations:
    """Return the log in a file.

    Raises:
        ValueError: with one sentence, if it is not there, broken, or something else.
    """
    tree = read_tree(path, SCHEMA)
    try:
        operations = Operations(**tree)
        sound = _are_sound(operations, path.stat().st_size)
    except (TypeError, AttributeError, LookupError, ValueError):
        sound = False
    if not sound:
        raise ValueError(f"{path} holds no operations as they should be.")
    return operations


def _are_sound(operations: Operations, size: int) -> bool:
    """Return whether operations could have been written, and ask for little more than a file has.

    Args:
        operations: that were read.
        size: of the file, in bytes.
    """
    rows, steps, width = operations.items_BTW.shape
    wanted = {"B": rows, "T": steps, "W": width, "Q": operations.after_BQ.shape[1]}
    bounds = {"after_BQ": (0, steps), "action_BT": (SKIP, MERGE), "leaver_BT": (-1, steps - 1)}
    kinds = {"present_BT": torch.bool, **dict.fromkeys(("key_B", *bounds), torch.int64)}
    for name, part in operations._asdict().items():
        if name in ("policy", "slots"):
            continue
        fits = part.dtype == kinds[name] if name in kinds else part.is_floating_point()
        if not fits or part.shape != tuple(wanted[letter] for letter in name.rpartition("_")[2]):
            return False
    numbers = [(getattr(operations, name), *bound) for name, bound in bounds.items()]
    inside = all(bool(((part >= low) & (part <= high)).all()) for part, low, high in numbers)
    told = isinstance(operations.policy, str) and type(operations.slots) is int
    held = 4 * rows * operations.slots * width  # bytes
    return inside and told and wanted["Q"] > 0 and 0 < held <= 4 * size + _FREE


def find_operations(runs: Sequence[Path]) -> list[Path]:
    """Return the logs of operations at or below some folders, each once, in order.

    Raises:
        ValueError: if a folder has none, or no folder is given.
    """
    found: dict[Path, Path] = {}
    for run in runs:
        logs = [run] if run.is_file() else sorted(run.rglob(f"{FOLDER}/*.safetensors"))
        if not logs:
            raise ValueError(
                f"There are no memory operations in {run}: train with operations=N to log those of "
                "every Nth batch."
            )
        for log in logs:
            found.setdefault(log.resolve(), log)
    if not found:
        raise ValueError("Whose memory operations? Give a run of stillknows train operations=N.")
    return list(found.values())


class OperationsLog:
    """Writes the operations of some batches of a life into its folder, one file a batch.

    Args:
        folder: of the life.
        every: updates between two batches; 0: none is written.
        agent: who lives.
        keep: how many files stay, the newest; None: all.
        through: how a file is written where that may fail.

    Raises:
        ValueError: if its working memory is none of slots, or a number cannot be.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        agent: MemoryAgent,
        keep: int | None = None,
        through: Through = at_once,
    ) -> None:
        if keep is not None and (not isinstance(keep, int) or keep < 1):
            raise ValueError(f"operations_keep={keep} should be a whole number; null keeps all.")
        if not isinstance(every, int) or every < 0:
            raise ValueError(f"operations={every} should be a whole number; 0 logs none.")
        if every and not isinstance(agent.working_memory, Slots):
            raise ValueError(
                f"operations={every} logs what a working memory of slots does: choose "
                "working_memory=slots, or operations=0."
            )
        self.folder, self.every, self.agent = folder / FOLDER, every, agent
        self.keep, self.through = keep, through
        self.update = 0

    def state(self) -> dict[str, int]:
        """Return the last update that was heard of."""
        return {"update": self.update}

    def restore(self, state: Mapping[str, int]) -> None:
        """Keep aside what was written after an update, in `operations.cut`."""
        self.update = int(state["update"])
        aside = self.folder.with_name(f"{FOLDER}.cut")
        for path in self._files():
            if int(path.stem) > self.update:
                aside.mkdir(exist_ok=True)
                path.replace(aside / path.name)

    def after(self, update: int, stories: Sequence[Story]) -> None:
        """Take the stories that were lived before an update."""
        self.update = update
        if not self.every or update % self.every:
            return
        trial = Trial(self.agent, stories)
        slots = self.agent.working_memory.slots
        operations = record(trial, self.agent.working_policy, slots)
        path = self.folder / f"{update:07d}.safetensors"
        self.through(lambda: save_operations(operations, path))
        if self.keep is not None:
            for old in self._files()[: -self.keep]:
                old.unlink()

    def _files(self) -> list[Path]:
        """Return the files that are there, the oldest first."""
        found = self.folder.glob("*.safetensors")
        return sorted(path for path in found if path.stem.isdigit())


def _done(watcher: Watcher, present_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the action for each statement, and who left for it, int64 `[B, T]`.

    A row that has no statement at a step is asked nevertheless; its next one overwrites that.
    """
    count_B = present_BT.sum(dim=1)
    action_BT = torch.full(present_BT.shape, SKIP, device=present_BT.device)
    leaver_BT = torch.full(present_BT.shape, -1, device=present_BT.device)
    rows_B = torch.arange(len(count_B), device=count_B.device)
    for features, decision in zip(watcher.features, watcher.decisions, strict=True):
        action_B, leaver_B = _what(features, decision)
        here_B = features.seen_B < count_B
        at = rows_B[here_B], features.seen_B[here_B]
        action_BT[at], leaver_BT[at] = action_B[here_B], leaver_B[here_B]
    return action_BT, leaver_BT


def _what(features: Features, decision: Decision) -> tuple[Tensor, Tensor]:
    """Return what comes of a decision: the action, and which item leaves, or -1."""
    action_B = decision.action_B4.argmax(dim=1)
    target_BN, merge_B, _ = resolve(decision, features)
    placed_B, slot_B1 = target_BN.any(dim=1), target_BN.long().argmax(dim=1, keepdim=True)
    born_B = features.seen_B - features.age_BN.gather(1, slot_B1)[:, 0].long()
    leaves_B = placed_B & features.filled_BN.gather(1, slot_B1)[:, 0] & (merge_B == 0)
    return torch.where(placed_B, action_B, SKIP), torch.where(leaves_B, born_B, -1)


def _by_item(birth_BN: Tensor, number_BN: Tensor, steps: int, fill: float = 0.0) -> Tensor:
    """Return the number of the slot that holds each statement, `[B, T]`."""
    at_BN = torch.where(birth_BN >= 0, birth_BN, steps)
    items_BT = torch.full((len(birth_BN), steps + 1), fill, device=birth_BN.device)
    return items_BT.scatter(1, at_BN, number_BN)[:, :steps]


def _read(state: SlotsState, weight_BT: Tensor) -> SlotsState:
    """Return the state after a read that took so much of each statement that is held."""
    held_BN = state.birth_BN >= 0
    weight_BN = weight_BT.gather(1, state.birth_BN.clamp(min=0)) * held_BN
    slots_BN = torch.arange(held_BN.shape[1], device=held_BN.device).expand_as(weight_BN)
    values = torch.zeros(len(held_BN), 1, 1, device=held_BN.device)
    return counted(state, Read(values, slots_BN[:, None], weight_BN[:, None]))
