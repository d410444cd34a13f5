"""What writers of one memory do, one after the other."""

from collections.abc import Callable
from typing import Any

import torch
from candidates import rows
from torch import nn

from stillknows.memory.nec import NEC
from stillknows.memory.policies.learned import UtilityPolicy
from stillknows.memory.stores.store import COUNTERS, accounts_of


def same(first: NEC, second: NEC) -> None:
    """Assert that two memories hold the same, to the bit, and their policies too."""
    for name, column in first.columns.items():
        assert torch.equal(column, second.columns[name]), name
    for name, account in accounts_of(first).items():
        assert torch.equal(account, accounts_of(second)[name]), name
    assert all(getattr(first, name) == getattr(second, name) for name in COUNTERS)
    assert first.names == second.names
    assert first.holes == second.holes
    assert first.operation == second.operation


def same_policies(first: NEC, second: NEC) -> None:
    """Assert that two policies know the same, what is in no account too."""
    if isinstance(first.policy, nn.Module) and isinstance(second.policy, nn.Module):
        theirs = second.policy.state_dict()
        for name, part in first.policy.state_dict().items():
            assert not isinstance(part, torch.Tensor) or torch.equal(part, theirs[name]), name


def write(memory: NEC, number: int) -> Any:
    return memory.remember(rows((number % 3, 5 + number % 2), (10 + number % 5, 6), seed=number))


def read(memory: NEC, number: int) -> None:
    recall = memory.recall(torch.randn(2, 4, generator=torch.Generator().manual_seed(number)))
    if isinstance(memory.policy, UtilityPolicy):
        slots, weights = recall.slots_BK[recall.present_BK], recall.weights_BK[recall.present_BK]
        memory.policy.observe_credit(slots, weights / 3 - 0.1, weights)


def learn(memory: NEC, number: int) -> None:
    if isinstance(memory.policy, UtilityPolicy):
        memory.policy.learn()


def rekey(memory: NEC, number: int) -> Any:
    keys = torch.randn(memory.capacity, 4, generator=torch.Generator().manual_seed(number))
    return memory.rekey(lambda story_BTL: keys[: len(story_BTL)])


def delete(memory: NEC, number: int) -> Any:
    return memory.delete([number])


def rewind(memory: NEC, number: int) -> None:
    memory.rewind(max(0, memory.store._head().operation - 1 - number % 3))  # type: ignore[attr-defined]


def come_back(memory: NEC, number: int) -> None:
    snapshot = memory.snapshot()
    write(memory, number)
    memory.restore(snapshot)


ACTIONS: dict[str, Callable[[NEC, int], Any]] = {
    "write": write,
    "read": read,
    "learn": learn,
    "flush": lambda memory, number: memory.flush(),
    "rekey": rekey,
    "delete": delete,
    "rewind": rewind,
    "come back": come_back,
}
