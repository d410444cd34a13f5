"""The arms of an examination: the same agent and questions, and one thing about memory changed.

An arm is counterfactual: nothing of it stays. `exam_arms=[…]` chooses those of the last
examination of a life. The store is frozen in every arm, `agent` included: an examination writes
nothing into it.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stillknows.agents.agent import MemoryAgent
from stillknows.memory import noise
from stillknows.memory.interface import ADD, SKIP, Decision, Features, Policy, Read, one_hot
from stillknows.memory.knn import Lengths
from stillknows.memory.policies.rules import WriteNothing
from stillknows.memory.rounded import Rounded

Change = Callable[[MemoryAgent], AbstractContextManager[Any]]


class Arm(NamedTuple):
    """One arm.

    Attributes:
        means: what it is, for reports.
        change: of the agent, for as long as it is examined.
        deaf: whether it hears the questions only.
        told: whose supports are forced into the read: of questions about their own `episode`,
            about the `life`, or both.
        store: whether it is about the store, and left away where nothing is recalled.
        working: whether it is about the working memory, and left away where there is none.
    """

    means: str
    change: Change = nullcontext
    deaf: bool = False
    told: tuple[str, ...] = ()
    store: bool = False
    working: bool = False


@contextmanager
def set_aside(agent: MemoryAgent, **parts: Any) -> Iterator[None]:
    """Give an agent other parts for as long as this lasts.

    Args:
        agent: whose parts.
        **parts: by the names of its attributes.
    """
    before = {name: getattr(agent, name) for name in parts}
    modules = dict(agent._modules)
    for name, part in parts.items():
        setattr(agent, name, part)
    try:
        yield
    finally:
        for name, part in before.items():
            setattr(agent, name, part)
        agent._modules.clear()  # in the order they had: sums over all weights round as before
        agent._modules.update(modules)


class WhileThereIsRoom:
    """Writes until the memory is full, and from then on nothing."""

    needs_similarity = needs_noise = False

    def decide(self, features: Features) -> Decision:
        """Return one-hot decisions."""
        slots = features.filled_BN.shape[1]
        full_B = features.filled_BN.all(dim=1)
        free_B = (~features.filled_BN).float().argmax(dim=1)
        return Decision(
            one_hot(torch.where(full_B, SKIP, ADD), 4),
            one_hot(torch.where(full_B, -1, free_B), slots),
            torch.zeros_like(features.usage_BN),
            torch.zeros_like(features.usage_BN[:, 0]),
        )


class Shuffled(nn.Module):
    """A working memory that is given the items of each stretch in another order.

    Args:
        memory: whose order is lost; the episode's key draws the other one, or the row does, where
            the state has none.
    """

    def __init__(self, memory: Any) -> None:
        super().__init__()
        self.memory = memory

    def __getattr__(self, name: str) -> Any:
        """Answer as the memory does, but without `write`: a stretch ends at its row's question."""
        if name == "write":
            raise AttributeError(name)
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("memory"), name)

    def sequence(
        self, state: Any, items_BTW: Tensor, present_BT: Tensor, policy: Policy
    ) -> tuple[Any, Read]:
        """Take the items, the last (the query) in its place."""
        rows_B = torch.arange(len(items_BTW), device=items_BTW.device)
        key_B = getattr(state, "key_B", rows_B)  # a memory without noise may keep neither
        step_B = getattr(state, "step_B", torch.zeros_like(rows_B))
        draw_BT = noise.uniform(key_B, step_B, items_BTW.shape[1] - 1)
        order_BT = (draw_BT + (~present_BT[:, :-1])).argsort(dim=1, stable=True)
        last_B1 = torch.full_like(order_BT[:, :1], items_BTW.shape[1] - 1)
        order_BT = torch.cat([order_BT, last_B1], dim=1)
        items_BTW = items_BTW.gather(1, order_BT[..., None].expand_as(items_BTW))
        taken: tuple[Any, Read] = self.memory.sequence(state, items_BTW, present_BT, policy)
        return taken


def _shuffled_store(agent: MemoryAgent) -> AbstractContextManager[None]:
    """Let every key of the store stand before the answer and the vector of another entry."""
    store: Any = agent.episodic_memory
    copied, (slots_S, others_S) = copy.copy(store), _others(store)
    moved = {name: store.columns[name].clone() for name in ("answers_NA", "vectors_NV")}
    for name, column in moved.items():
        column[slots_S] = store.columns[name][others_S]
    copied.columns = {**store.columns, **moved}
    return set_aside(agent, episodic_memory=copied)


def _misleading(agent: MemoryAgent) -> AbstractContextManager[None]:
    """Add to a copy of the store, near every entry, one with the answer and vector of another."""
    store: Any = agent.episodic_memory
    copied, (slots_S, others_S) = copy.copy(store), _others(store)
    vars(copied).pop("provenance", None)  # the guard's, of the store itself
    columns = {name: column[: store.size] for name, column in store.columns.items()}
    planted = {name: column[others_S] for name, column in columns.items()}
    near_SD = torch.lerp(columns["keys_ND"][slots_S], planted["keys_ND"], NEAR)
    planted["keys_ND"] = nn.functional.normalize(near_SD, dim=1)
    copied.columns = {name: torch.cat([columns[name], planted[name]]) for name in columns}
    copied.capacity = copied.size = store.size + len(slots_S)
    copied._lengths, copied.rounded = Lengths(), Rounded()
    copied.names = SimpleNamespace(count_at=lambda _, names: store.names.count(names))  # no slots
    return set_aside(agent, episodic_memory=copied)


def _others(store: Any) -> tuple[Tensor, Tensor]:
    """Return the slots of all entries, and for each that of another (its own if it is alone)."""
    slots_S = store.columns["filled_N"].nonzero()[:, 0]
    key = torch.tensor([0])
    order_S = noise.uniform(key, key, len(slots_S))[0].argsort(stable=True)
    another_S = torch.empty_like(order_S).scatter(0, order_S, order_S.roll(-1))
    return slots_S, slots_S[another_S.to(slots_S.device)]


def _no_recall(agent: MemoryAgent) -> AbstractContextManager[None]:
    return set_aside(agent, recall=False)


def _no_working(agent: MemoryAgent) -> AbstractContextManager[None]:
    return set_aside(agent, working_memory=None)


def _empty_working(agent: MemoryAgent) -> AbstractContextManager[None]:
    return set_aside(agent, working_policy=WriteNothing())


def _frozen_working(agent: MemoryAgent) -> AbstractContextManager[None]:
    return set_aside(agent, working_policy=WhileThereIsRoom())


@contextmanager
def _shuffled_working(agent: MemoryAgent) -> Iterator[None]:
    with set_aside(agent, working_memory=Shuffled(agent.working_memory)):
        yield


@contextmanager
def _no_memory(agent: MemoryAgent) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(_no_recall(agent))
        stack.enter_context(_no_working(agent))
        yield


ARMS = {
    "agent": Arm("as it is: memories on"),
    "no_recall": Arm("without its episodic memory (off)", _no_recall, store=True),
    "no_story": Arm("hearing the questions only", deaf=True),
    "no_working": Arm("without its working memory (off)", _no_working, working=True),
    "no_memory": Arm("without both memories", _no_memory, working=True),
    "empty_working": Arm(
        "its working memory is emptied before every read", _empty_working, working=True
    ),
    "frozen_working": Arm(
        "its working memory takes what comes first, and is frozen once it is full",
        _frozen_working,
        working=True,
    ),
    "shuffled_working": Arm(
        "its working memory is told the sentences before a question in another order",
        _shuffled_working,
        working=True,
    ),
    "shuffled_store": Arm(
        "the keys of its store stand before the answers and vectors of other entries",
        _shuffled_store,
        store=True,
    ),
    "misleading": Arm(
        "near every entry of its store there is one with the answer and vector of another entry",
        _misleading,
        store=True,
    ),
    "clairvoyant": Arm(
        "every read holds the supports of its question, freshly written, and nothing else",
        told=("episode", "life"),
    ),
    "clairvoyant_working": Arm(
        "the same for the working memory alone: questions about their own episode",
        told=("episode",),
        working=True,
    ),
    "clairvoyant_store": Arm(
        "the same for the store alone: questions about earlier episodes",
        told=("life",),
        store=True,
    ),
}
NEAR = 0.1  # of the way to another key, where a misleading entry stands


def chosen(names: Sequence[str], agent: MemoryAgent) -> list[str]:
    """Return those of some arms that can be with an agent, `agent` first.

    Raises:
        ValueError: if there is no such arm.
    """
    for name in names:
        if name not in ARMS:
            raise ValueError(f"exam_arms has no arm '{name}': there are {', '.join(ARMS)}.")
    others = [name for name in dict.fromkeys(names) if name != "agent"]
    able = [
        name
        for name in others
        if (agent.recall or not ARMS[name].store)
        and (agent.working_memory is not None or not ARMS[name].working)
    ]
    return ["agent", *able]
