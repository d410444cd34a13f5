"""Learning a small policy from logs of memory operations alone, without agent or environment.

Each decision of a log becomes an example for everything that is held and for what is offered: its
numbers, and how much of the use to come falls on it. Contexts come from driving another policy over
the log, one that evicts uniformly, so that anything may be held at any time.

Letters: B stories, T statements, Q questions, N slots, M = N + 1.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stillknows.agents.persistence.container import read_tree, write_tree
from stillknows.agents.progress import Bar
from stillknows.agents.teaching.operations import Operations, replay
from stillknows.memory.interface import Features
from stillknows.memory.policies.offline import OfflinePolicy
from stillknows.memory.policies.rules import EvictUniformly

SCHEMA = "stillknows offline policy 1"


class _Explorer(EvictUniformly):
    """Evicts uniformly, and wants to see what the learner will look at."""

    needs_similarity = True


class Examples(NamedTuple):
    """What is held or offered at decisions, one row each: numbers `[X, F]`, use to come `[X]`."""

    numbers_XF: Tensor
    use_X: Tensor


@torch.no_grad()
def examples_of(operations: Operations, slots: int | None = None) -> Examples:
    """Return the examples in a log, for a budget (None: as it was).

    The use to come is a share: the weights of the questions after the decision, over their number.
    """
    features = replay(operations, _Explorer(), slots).features
    numbers, uses = [], []
    for each in features:
        use_BM, here_BM = _to_come(operations, each)
        numbers.append(OfflinePolicy.numbers(each)[here_BM])
        uses.append(use_BM[here_BM])
    return Examples(torch.cat(numbers), torch.cat(uses))


def _to_come(operations: Operations, features: Features) -> tuple[Tensor, Tensor]:
    """Return the use to come of each slot and the candidate, and which are there, `[B, M]`."""
    time_B, steps = features.seen_B, operations.present_BT.shape[1]
    later_BQ = operations.after_BQ > time_B[:, None]
    asked_BQ = later_BQ & ~operations.loss_BQ.isnan()
    use_BT = (operations.use_BQT * asked_BQ[..., None]).sum(dim=1)
    use_BT = use_BT / asked_BQ.sum(dim=1, keepdim=True).clamp(min=1)
    born_BN = (time_B[:, None] - features.age_BN.long()).clamp(0, steps - 1)
    item_BM = torch.cat([born_BN, time_B[:, None].clamp(max=steps - 1)], dim=1)
    here_BM = nn.functional.pad(features.filled_BN, (0, 1), value=True)
    here_BM = here_BM & (time_B < operations.present_BT.sum(dim=1))[:, None]
    return use_BT.gather(1, item_BM), here_BM


def offline_policy(weights: str | None = None) -> OfflinePolicy:
    """Return a policy with the weights in a file; None: as it begins.

    Raises:
        ValueError: with one sentence, if the file is not there, broken, or something else.
    """
    policy = OfflinePolicy()
    if weights is not None:
        try:
            policy.load_state_dict(read_tree(Path(weights), SCHEMA))
        except (RuntimeError, TypeError, AttributeError):
            raise ValueError(f"{weights} holds the weights of another network.") from None
    return policy


def save_policy(policy: OfflinePolicy, path: Path) -> None:
    """Write the weights of a policy into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tree(path, dict(policy.state_dict()), SCHEMA)


def learn_offline(
    policy: OfflinePolicy,
    logs: Sequence[Operations],
    *,
    slots: Sequence[int | None] = (None,),
    epochs: int = 4,
    batch: int = 4096,
    learning_rate: float = 3e-3,
    seed: int = 0,
    bar: Bar | None = None,
) -> float:
    """Train a policy in place; return the mean cross-entropy of the last epoch, in nats.

    Args:
        policy: who learns.
        logs: of memory operations.
        slots: budgets in which contexts are drawn; None: that of the log.
        epochs: passes over all examples.
        batch: examples of an update.
        learning_rate: of Adam; it falls to a tenth along half a cosine.
        seed: of the order.
        bar: shows how far it is.
    """
    parts = [examples_of(log, budget) for log in logs for budget in slots]
    numbers_XF, use_X = (torch.cat(columns) for columns in zip(*parts, strict=True))
    draw = torch.Generator().manual_seed(seed)
    updates = epochs * -(-len(use_X) // batch)
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates, learning_rate / 10)
    losses: list[float] = []
    for epoch in range(epochs):
        losses.clear()
        for chosen in torch.split(torch.randperm(len(use_X), generator=draw), batch):
            logit = policy.network(numbers_XF[chosen])[:, 0]
            loss = nn.functional.binary_cross_entropy_with_logits(logit, use_X[chosen].clamp(0, 1))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if bar is not None:
            bar("offline policy", epoch + 1, losses[-1])
    return sum(losses) / len(losses)
