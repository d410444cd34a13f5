"""Whether a working policy is as it was after it has decided.

An examination may change nothing, and asks the policy all the same: what a working policy keeps
from one decision to the next would stop a life at the first examination in which it changes.
"""

from typing import Any

import torch
from torch import nn

from stillknows.memory.checks.check_bench import expect
from stillknows.memory.checks.notes import Note, changed, note_parts, random_states
from stillknows.memory.interface import Policy

_MOST = 256  # slots that are filled


def expect_stateless(memory: Any, policy: Policy, width: int) -> None:
    """Expect that a policy is as it was after it has filled a memory; neither is in training then.

    Args:
        memory: a working memory; stays as it is.
        policy: decides about random items, two more than there are slots, and at most 258.
        width: of an item (W).

    Raises:
        MemoryFault: if it is not, with the name of what has changed.
        ValueError: from the policy or the memory, if a decision cannot be done.
    """
    owner = getattr(policy, "policy", policy)
    name = type(owner).__name__
    kept, drawn = _note(owner), random_states(torch.device("cpu"))
    _fill(memory, policy, width)
    changes = dict.fromkeys(map(_attribute, changed(kept, _note(owner))))
    expect(
        not changes,
        f"{name} keeps {', '.join(changes)} from one decision to the next, and an "
        "examination may change nothing: let it decide from its features alone (seen_B counts the "
        "candidates), or be an nn.Module that changes only while it is in training.",
    )
    draws = changed(drawn, random_states(torch.device("cpu")))
    expect(
        not draws,
        f"{name} changes {', '.join(draws)} when it decides, and an examination may change "
        "nothing: let it take its random numbers from features.noise_BM.",
    )


def _note(owner: Any) -> Note:
    noted: Note = {}
    note_parts(noted, "", owner, whole=False)
    return noted


def _attribute(name: str) -> str:
    """Return the attribute that something noted stands in, in quotation marks."""
    return f"'{name.removeprefix(': ').removeprefix('_buffers ').split()[0]}'"


@torch.no_grad()
def _fill(memory: Any, policy: Any, width: int) -> None:
    """Offer a memory more than it has slots for, as in an examination."""
    parts = [part for part in (memory, policy) if isinstance(part, nn.Module)]
    training = [part.training for part in parts]
    source = torch.Generator().manual_seed(0)
    items = min(getattr(memory, "slots", 0), _MOST) + 2
    items_1TW = torch.randn(1, items + 1, width, generator=source)
    present_1T = torch.ones(1, items + 1, dtype=torch.bool)
    try:
        for part in parts:
            part.eval()
        memory.sequence(memory.initial_state(1), items_1TW, present_1T, policy)
    finally:
        for part, was in zip(parts, training, strict=True):
            part.train(was)
