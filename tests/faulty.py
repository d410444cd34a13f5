"""Memories that are right but for one thing."""

from typing import Any

import torch

from stillknows.memory.dnc import DNC
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.slots import Slots

STEPS = 150  # of the long run


# --- One fault for each check ------------------------------------------------------------------


def slots(**changes: Any) -> Slots:
    """Return a small Slots with some methods replaced."""
    torch.manual_seed(0)
    return type("Broken", (Slots,), changes)(4, 8, hops=2, heads=2, recency=(1.0, 0.0))


def dnc(**changes: Any) -> DNC:
    torch.manual_seed(0)
    return type("Broken", (DNC,), changes)(8, slots=4, word_size=8, read_heads=2, hidden_size=8)


def nec(**changes: Any) -> NEC:
    return type("Broken", (NEC,), changes)(
        5, 4, 3, EvictOldest(), answer_length=2, story_shape=(2, 3), neighbours=3
    )
