"""Policies that say what is to be done, and what is offered to a store of episodic control."""

import torch
from hypothesis import strategies as st

from stillknows.memory.episodic import Candidates
from stillknows.memory.interface import ADD, UPDATE, Decision, Features, one_hot
from stillknows.memory.nec import NEC


class Leave:
    """Adds what is new and refreshes what is known; whose feature is highest leaves."""

    needs_similarity = False

    def __init__(self, feature: str = "age_BN") -> None:
        self.feature = feature

    def decide(self, features: Features) -> Decision:
        slots = features.filled_BN.shape[1]
        known_B = features.known_B
        full_B = features.filled_BN.all(dim=1)
        victim_B = getattr(features, self.feature).argmax(dim=1)
        free_B = (~features.filled_BN).float().argmax(dim=1)
        slot_B = torch.where(known_B >= 0, known_B, torch.where(full_B, -1, free_B))
        victim_B = torch.where((known_B < 0) & full_B, victim_B, -1)
        action_B = torch.where(known_B >= 0, UPDATE, ADD)
        log_prob_B = torch.zeros(len(known_B))
        return Decision(
            one_hot(action_B, 4), one_hot(slot_B, slots), one_hot(victim_B, slots), log_prob_B
        )


class Say:
    """Says what it is told: the same action at the same slot for every candidate."""

    def __init__(self, action: int = ADD, slot: int = 0) -> None:
        self.action, self.slot = action, slot
        self.features: Features | None = None

    def decide(self, features: Features) -> Decision:
        self.features = features
        rows, slots = features.filled_BN.shape
        every_B = torch.ones(rows, dtype=torch.int64)
        slot_BN = one_hot(every_B * self.slot, slots)
        nothing_B = torch.zeros(rows)
        return Decision(
            one_hot(every_B * self.action, 4), slot_BN, torch.zeros_like(slot_BN), nothing_B
        )


def offer(*pairs: tuple[int, int], seed: int = 0, step: int = 0) -> Candidates:
    """Return candidates: (name of the question, answer) a row, with random keys and vectors."""
    random = torch.Generator().manual_seed(seed)
    names, answers = (torch.tensor(column) for column in zip(*pairs, strict=True))
    rows = len(pairs)
    return Candidates(
        key_BD=torch.randn(rows, 4, generator=random),
        vector_BV=torch.randn(rows, 3, generator=random),
        answers_BA=torch.stack([answers, torch.ones_like(answers)], dim=1),
        story_BTL=torch.stack([names, answers], dim=1)[:, None],
        hash_B=names,
        outcome_BF=torch.zeros(rows, 3),
        task_B=names % 3,
        episode_B=torch.arange(rows) + 100,
        step_B=torch.full((rows,), step),
    )


def store(policy, capacity: int = 4, **options) -> NEC:
    return NEC(capacity, 4, 3, policy, answer_length=2, story_shape=(1, 2), **options)


pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(5, 7)), min_size=1, max_size=5)
