"""Traces: which item each slot and entry came from, and what became of every item.

Nothing of this burdens a memory. For slots, the decisions of the working policy are watched and
followed outside of it, exactly. For memories that write everywhere a little (DNC, NTM), the write
weights are followed, approximately: a write of weight w is taken to replace the share w of a slot.
For the lifelong store, the log says which question was added, refreshed or lost when.

Letters: B rows, N slots, T items, J write heads, R reads.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.examinations.arms import set_aside
from stillknows.agents.reports.log import Event
from stillknows.agents.teaching.trial import Watcher
from stillknows.agents.thought import Thought, identity
from stillknows.memory.episodic import Written
from stillknows.memory.interface import ADD, MERGE, SKIP, Decision, Features
from stillknows.memory.slots import resolve

HELD, NEVER, EVICTED, OVERWRITTEN, UNKNOWN = "h", "n", "e", "o", "?"
LEAST = 0.05  # of a slot: a soft write below it counts as none
LOST = 0.5  # of what was softly written: what is left below it counts as overwritten


class Share(NamedTuple):
    """How much of a read the supports got.

    Attributes:
        got: their largest share of any read, 0 to 1.
        even: what they would get, were the read spread evenly over what it looked at.
    """

    got: float
    even: float

    @property
    def enough(self) -> bool:
        """Whether it is no less than an even share, and not nothing."""
        return self.got > 0 and self.got >= self.even - 1e-6


class Trail(Protocol):
    """What became of the items of one row."""

    def fate(self, item: int) -> str:
        """Return one of HELD, NEVER, EVICTED, OVERWRITTEN."""
        ...

    def shares(self, slots_RK: np.ndarray, weights_RK: np.ndarray) -> np.ndarray:
        """Return the share that each item has in each read, `[R, T]`."""
        ...

    def looked_at(self, slots_K: np.ndarray) -> int:
        """Return how many things a read looked at."""
        ...


class Holdings:
    """Which items each slot of one row holds: discrete slots, exactly."""

    def __init__(self) -> None:
        self.slots: dict[int, tuple[int, ...]] = {}
        self._fates: list[str] = []

    def take(self, action: int, slot: int, roomless: bool) -> None:
        """Follow the decision about the next item.

        Args:
            action: SKIP, ADD, UPDATE or MERGE.
            slot: where, -1 for nowhere.
            roomless: whether every slot was filled, so that an add lets somebody leave.
        """
        item = len(self._fates)
        if action == SKIP or slot < 0:
            self._fates.append(NEVER)
            return
        met = self.slots.get(slot, ())
        merged = action == MERGE and bool(met)
        self._fates.append(OVERWRITTEN if merged else HELD)
        for old in met:
            if self._fates[old] == HELD:
                self._fates[old] = EVICTED if action == ADD and roomless else OVERWRITTEN
        self.slots[slot] = (*met, item) if merged else (item,)

    def fate(self, item: int) -> str:
        """Return what became of an item."""
        return self._fates[item]

    def shares(self, slots_RK: np.ndarray, weights_RK: np.ndarray) -> np.ndarray:
        """Return the weight of each item's slot, over all weight on slots that hold something."""
        filled = np.isin(slots_RK, list(self.slots))
        weights_RK = weights_RK * filled
        total_R = weights_RK.sum(axis=1)
        found_RT = np.zeros((len(slots_RK), len(self._fates)))
        for slot, items in self.slots.items():
            found_RT[:, list(items)] += (weights_RK * (slots_RK == slot)).sum(axis=1)[:, None]
        return found_RT / np.where(total_R > 0, total_R, 1)[:, None]

    def looked_at(self, slots_K: np.ndarray) -> int:
        """Return how many of the slots hold something."""
        return int(np.isin(slots_K, list(self.slots)).sum())


class Shares:
    """Which share of each slot of one row came from which item: soft writes, approximately."""

    def __init__(self) -> None:
        self.share_NT = np.zeros((0, 0))
        self._written: list[float] = []  # of each item, without the questions

    def take(self, weights_JN: np.ndarray, kept: bool) -> None:
        """Follow the write of the next item.

        Args:
            weights_JN: of each head, as it was written.
            kept: whether it is an item; otherwise a question or a pause, which is nobody's.
        """
        weight_N = 1 - np.prod(1 - weights_JN, axis=0)
        if not len(self.share_NT):
            self.share_NT = np.zeros((len(weight_N), 0))
        self.share_NT = self.share_NT * (1 - weight_N)[:, None]
        if kept:
            self.share_NT = np.concatenate([self.share_NT, weight_N[:, None]], axis=1)
            self._written.append(float(weight_N.sum()))

    def fate(self, item: int) -> str:
        """Return what became of an item; who was evicted counts as overwritten."""
        if self._written[item] < LEAST:
            return NEVER
        left = float(self.share_NT[:, item].sum())
        return HELD if left >= LOST * self._written[item] else OVERWRITTEN

    def shares(self, slots_RK: np.ndarray, weights_RK: np.ndarray) -> np.ndarray:
        """Return what each item's shares of the slots read add up to, of all items'."""
        found_RT = np.einsum("rk,rkt->rt", weights_RK, self.share_NT[slots_RK])
        total_R = found_RT.sum(axis=1)
        shares_RT: np.ndarray = found_RT / np.where(total_R > 0, total_R, 1)[:, None]
        return shares_RT

    def looked_at(self, slots_K: np.ndarray) -> int:
        """Return how many items there are."""
        return len(self._written)


class Told(NamedTuple):
    """What one row was told: the step of each item, and what became of them."""

    steps: list[int]
    trail: Holdings | Shares


class Tracer:
    """Follows what the working memory of an agent does in the episodes of an examination.

    Args:
        agent: who is examined.

    Attributes:
        exact: whether its slots are discrete; None where nothing can be followed.
    """

    def __init__(self, agent: MemoryAgent) -> None:
        self.agent = agent
        memory: Any = agent.working_memory
        self.exact: bool | None = None
        if memory is None or getattr(memory, "holds_items", False):
            self.exact = True
        elif hasattr(memory, "initial_state"):
            state = memory.initial_state(1, agent.device)
            self.exact = False if _write_weights(state) is not None else None
        self._watcher = Watcher(agent.working_policy)
        self._states: list[Any] = []
        self._rows: dict[int, Told] = {}  # of the episodes under way
        self._trails: dict[int, Holdings | Shares] = {}
        self._item: dict[tuple[int, int], int] = {}  # (episode, step) to item

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the agent's memory for as long as this lasts."""
        policy, memory = self.agent.working_policy, self.agent.working_memory
        training = getattr(policy, "training", False)
        if isinstance(policy, torch.nn.Module):
            policy.eval()
        try:
            if self.exact is False:
                with _overheard(memory, self._states):
                    yield
            else:
                with set_aside(self.agent, working_policy=self._watcher):
                    yield
        finally:
            if isinstance(policy, torch.nn.Module):
                policy.train(training)

    def follow(self, thought: Thought, episodes: Sequence[int]) -> None:
        """Take what happened on the way to a thought, of rows in these episodes.

        A memory that can `write` took what the other rows had heard as well: whose episodes these
        are is known once they ask.
        """
        before, together = thought.before, hasattr(self.agent.working_memory, "write")
        assert before is not None
        waiting = before.waiting(thought.rows, everyone=together)
        rows = range(len(waiting)) if together else thought.rows
        if self.exact is not None:
            for row in rows:
                if not before.items[row]:
                    self._rows[row] = Told([], Holdings() if self.exact else Shares())
                first = before.written[row]
                self._rows[row].steps.extend(range(first, first + len(waiting[row])))
            counts = list(map(len, waiting))
            if self.exact:
                self._follow_decisions(rows, counts)
            else:
                self._follow_states(rows, thought.rows, counts)
            for row, episode in zip(thought.rows, episodes, strict=True):
                steps, self._trails[episode] = self._rows[row]
                self._item.update(((episode, step), n) for n, step in enumerate(steps))
        self.forget()

    def forget(self) -> None:
        """Let what was watched since the last thought go: it was no part of the episodes."""
        self._watcher.features.clear()
        self._watcher.decisions.clear()
        self._states.clear()

    def trail(self, episode: int) -> Holdings | Shares | None:
        """Return what became of the items of an episode so far; None where it is not known."""
        return self._trails.get(episode)

    def fate(self, episode: int, step: int) -> str:
        """Return what became of a sentence."""
        if self.exact is None:
            return UNKNOWN
        if self.agent.working_memory is None:
            return NEVER
        item = self._item.get((episode, step))
        return UNKNOWN if item is None else self._trails[episode].fate(item)

    def item(self, episode: int, step: int) -> int | None:
        """Return the number of a sentence among the items of its episode."""
        return self._item.get((episode, step))

    def share(self, thought: Thought, number: int, episode: int, steps: Iterable[int]) -> Share:
        """Return how much of the read the sentences told at some steps got."""
        trail = self.trail(episode)
        items = [self._item[episode, step] for step in steps if (episode, step) in self._item]
        if thought.read is None or trail is None or not items:
            return Share(0.0, 1.0)
        slots_RK, weights_RK = read_of(thought, number)
        shares_RT = trail.shares(slots_RK, weights_RK)
        looked_at = max(1, trail.looked_at(slots_RK[0]))
        return Share(float(shares_RT[:, items].sum(axis=1).max()), len(items) / looked_at)

    def _follow_decisions(self, rows: Sequence[int], counts: Sequence[int]) -> None:
        watched = zip(self._watcher.features, self._watcher.decisions, strict=True)
        for turn, (features, decision) in enumerate(watched):
            if turn >= max(counts):
                break  # an answer that adapts thinks again
            columns = [column.tolist() for column in placed(features, decision)]
            for place, row in enumerate(rows):
                if turn < counts[row]:
                    trail = self._rows[row].trail
                    assert isinstance(trail, Holdings)
                    trail.take(*(column[place] for column in columns))

    def _follow_states(
        self, rows: Sequence[int], asked: Sequence[int], counts: Sequence[int]
    ) -> None:
        most, think = max(counts), int(getattr(self.agent.working_memory, "think", 0))
        for turn, state in enumerate(self._states[: most + 1 + think]):
            weights_BJN = _write_weights(state).cpu().numpy()  # type: ignore[union-attr]
            for place, row in enumerate(rows if turn < most else asked):
                if turn < counts[row] or turn >= most:
                    trail = self._rows[row].trail
                    assert isinstance(trail, Shares)
                    trail.take(weights_BJN[place], turn < most)


def placed(features: Features, decision: Decision) -> tuple[Tensor, Tensor, Tensor]:
    """Return what comes of decisions in a memory of slots: action, slot (-1: none), was it full."""
    target_BN, _, _ = resolve(decision, features)
    slot_B = target_BN.long().argmax(dim=1).masked_fill(~target_BN.any(dim=1), -1)
    return decision.action_B4.argmax(dim=1), slot_B, features.filled_BN.all(dim=1)


def read_of(thought: Thought, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return slots and weights of one row's reads, `[R, K]` each."""
    assert thought.read is not None
    read = thought.read
    return (
        read.slots_BRK[number].cpu().numpy(),
        read.weights_BRK[number].detach().float().clamp(min=0).cpu().numpy(),
    )


def _write_weights(state: Any) -> Tensor | None:
    """Return the weights of the last write, `[B, J, N]`, of memories whose state has them."""
    for name in ("write_weights_BJN", "write_weights_BVN"):
        if hasattr(state, name):
            weights: Tensor = getattr(state, name)
            return weights
    return None


@contextmanager
def _overheard(memory: Any, states: list[Any]) -> Iterator[None]:
    """Keep the state after every step of a memory that takes its items one by one."""
    plain = memory.step

    def step(*given: Any) -> Any:
        after, read = plain(*given)
        states.append(after)
        return after, read

    vars(memory)["step"] = step
    try:
        yield
    finally:
        del vars(memory)["step"]


class Ledger:
    """What became of every question that was ever offered to the lifelong store, from the log.

    Args:
        events: of the life so far.

    Attributes:
        known: whether the log names the questions.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self._name: dict[int, int] = {}  # of each entry that is there
        self._entries: defaultdict[int, set[int]] = defaultdict(set)
        self._lost: dict[int, str] = {}
        self.known = False
        for event in events:
            if event["event"] == "update" and "names" in event:
                self.known = True
                columns = (event[column] for column in ("actions", "written", "evicted", "names"))
                for row in zip(*columns, strict=True):
                    self._take(*row)

    def fate(self, text: str) -> str:
        """Return what became of a question."""
        name = short(identity(text))
        if not self.known:
            return UNKNOWN
        if self._entries.get(name):
            return HELD
        return self._lost.get(name, NEVER)

    def _take(self, action: str, entry: int, evicted: int, name: int) -> None:
        if evicted >= 0:
            self._lose(evicted, EVICTED)
        if action == "s":
            return
        if action in "um" and self._name.get(entry) != name:
            self._lose(entry, OVERWRITTEN)
        self._name[entry] = name
        self._entries[name].add(entry)

    def _lose(self, entry: int, how: str) -> None:
        name = self._name.pop(entry, None)
        if name is not None:
            self._entries[name].discard(entry)
            self._lost[name] = how


def short(name: int) -> int:
    """Return 40 bits of the name of a question, for the log."""
    return name >> 23


def names(written: Sequence[Written], names: Sequence[int]) -> list[int]:
    """Return what a log calls the questions that were written; 0 where nothing was."""
    pairs = zip(written, names, strict=True)
    return [0 if each.action == SKIP else short(name) for each, name in pairs]
