"""Memories in databases, and their rows."""

from typing import Any

from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest


def new(capacity: int = 4, **options: Any) -> NEC:
    sizes = {"answer_length": 2, "story_shape": (2, 3), "neighbours": 1}
    return NEC(capacity, 4, 3, EvictOldest(), **(sizes | options))
