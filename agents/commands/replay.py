"""`stillknows replay`: drive memory policies over a log of memory operations."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf.errors import OmegaConfBaseException

from stillknows.agents.configuration import cause, compose_config
from stillknows.agents.persistence.keeping import load_agent
from stillknows.agents.progress import Bar
from stillknows.agents.reports.report import table
from stillknows.agents.teaching.offline_learning import learn_offline, save_policy
from stillknows.agents.teaching.operations import (
    Operations,
    find_operations,
    load_operations,
    replay,
)
from stillknows.memory import expect
from stillknows.memory.policies.offline import OfflinePolicy
from stillknows.memory.policies.rules import EvictOldest

_POLICIES = ("working_policy=", "working_policy._target_=")  # overrides that choose one


def replay_runs(
    runs: Sequence[Path],
    overrides: Sequence[str],
    slots: int | None = None,
    learn: Path | None = None,
    allow: Sequence[str] = (),
) -> str:
    """Return a table of what each policy keeps of the use that is to come.

    Args:
        runs: folders with logs of operations at or below them, or such files.
        overrides: `working_policy=NAME` (or the file of a kept agent, for its own) or
            `working_policy._target_=MODULE.CLASS`, any number of them, each a policy of its own;
            all other overrides are for all of them.
        slots: the budget; None: as it was.
        learn: a file for a small policy that learns from the first half of the logs; all are then
            compared on the second.
        allow: modules besides this project's whose classes the file of an agent may name.

    Raises:
        ValueError: with one sentence, if there are no logs, or a policy cannot be built or driven.
    """
    if slots is not None:
        expect.whole(1, slots=slots)
    logs = [load_operations(path) for path in find_operations(runs)]
    if len({log.items_BTW.shape[2] for log in logs}) > 1:
        raise ValueError("The logs are of agents of different widths: replay them apart.")
    chosen = [each for each in overrides if each.startswith(_POLICIES)]
    others, width = [each for each in overrides if each not in chosen], logs[0].items_BTW.shape[2]
    policies = {each.partition("=")[2]: _policy(each, others, width, allow) for each in chosen}
    if learn is not None:
        half = len(logs) // 2
        if not half:
            raise ValueError("There is one log: to learn from the first half, there must be two.")
        policies["offline"] = _learned(logs[:half], slots, learn)
        logs = logs[half:]
    elif not policies:
        policies["evict_oldest"] = EvictOldest()
    wrote = " and ".join(dict.fromkeys(log.policy for log in logs))
    rows = [] if slots else [_row(f"{wrote}, as it was", map(_as_it_was, logs), logs, None)]
    for name, policy in policies.items():
        kept = [replay(log, policy, slots).kept for log in logs]
        rows.append(_row(name, kept, logs, slots))
    return table(["policy", "statements", "slots", "share of the use that is kept"], rows)


def _learned(logs: Sequence[Operations], slots: int | None, path: Path) -> OfflinePolicy:
    """Return a small policy that learned from logs, and keep it in a file."""
    torch.manual_seed(0)
    policy, bar = OfflinePolicy(), Bar("learning", 4)
    learn_offline(policy, logs, slots=[slots], bar=bar)
    bar.close()
    save_policy(policy, path)
    return policy


def _policy(chosen: str, others: Sequence[str], width: int, allow: Sequence[str]) -> Any:
    """Return the policy that an override names, for vectors of some width.

    Raises:
        ValueError: if it cannot be built, or looks at vectors of another width.
    """
    name = chosen.partition("=")[2]
    if not name.endswith(".safetensors"):
        policy = _build([chosen, *others, f"controller.width={width}"])
        return policy.eval() if isinstance(policy, torch.nn.Module) else policy
    agent = load_agent(Path(name), allow=allow)
    policy, own = agent.working_policy, agent.controller.width
    if not isinstance(policy, torch.nn.Module):
        return policy
    if own != width and not isinstance(policy, OfflinePolicy):  # which sees no contents
        raise ValueError(
            f"The policy of {name} looks at vectors of {own} numbers, and the logs hold some of "
            f"{width}: replay what an agent of its own width wrote, or choose a rule."
        )
    return policy.eval()


def _as_it_was(log: Operations) -> float:
    held_BQT = log.read_BQT >= 0
    return float((log.use_BQT * held_BQT).sum() / log.use_BQT.sum().clamp(min=1e-9))


def _row(
    name: str, kept: Iterable[float], logs: Sequence[Operations], slots: int | None
) -> list[str]:
    weights = [float(log.use_BQT.sum()) for log in logs]
    share = sum(k * w for k, w in zip(kept, weights, strict=True)) / max(sum(weights), 1e-9)
    statements = sum(int(log.present_BT.sum()) for log in logs)
    budgets = dict.fromkeys([slots] if slots else (log.slots for log in logs))
    return [name, f"{statements:,}", ", ".join(map(str, budgets)), f"{share:.3f}"]


def _build(overrides: Sequence[str]) -> Any:
    config = compose_config(overrides)
    torch.manual_seed(config.seed)
    try:
        return instantiate(config.working_policy)
    except (InstantiationException, OmegaConfBaseException) as error:
        raise ValueError(cause(error)) from error
