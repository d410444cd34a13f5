"""Decisions that cannot be: one sentence with the policy's name, and the memory as before."""

from collections.abc import Callable

import pytest
import torch

from stillknows.memory.dnc import DNC
from stillknows.memory.episodic import Candidates
from stillknows.memory.interface import ADD, MERGE, UPDATE, Decision, Features, one_hot
from stillknows.memory.nec import NEC
from stillknows.memory.ntm import NTM
from stillknows.memory.policies.rules import EvictIdle, EvictUniformly
from stillknows.memory.slots import Slots


class Wrong:
    """Decides well until candidate 4, then as a fault says."""

    def __init__(self, fault: Callable[[Decision, Features], Decision]) -> None:
        self.fault, self.good = fault, EvictUniformly()

    def decide(self, features: Features) -> Decision:
        decision = self.good.decide(features)
        if int(features.seen_B.max()) < 4:
            return decision
        return self.fault(decision, features)


def all_rows(decision: Decision, action: int) -> torch.Tensor:
    return one_hot(torch.full((len(decision.action_B4),), action), 4)


def not_a_number(decision: Decision, _: Features) -> Decision:
    return decision._replace(action_B4=decision.action_B4 * torch.nan)


def below_zero(decision: Decision, _: Features) -> Decision:
    return decision._replace(victim_BN=decision.victim_BN - 1)


def evicts_nobody(decision: Decision, features: Features) -> Decision:
    empty_BN = (~features.filled_BN).float()
    return decision._replace(victim_BN=empty_BN, slot_BN=torch.zeros_like(empty_BN))


def updates_nothing(decision: Decision, features: Features) -> Decision:
    empty_BN = (~features.filled_BN).float()
    return decision._replace(action_B4=all_rows(decision, UPDATE), slot_BN=empty_BN)


def merges_nothing(decision: Decision, features: Features) -> Decision:
    return updates_nothing(decision, features)._replace(action_B4=all_rows(decision, MERGE))


def one_too_many(decision: Decision, _: Features) -> Decision:
    return decision._replace(slot_BN=torch.nn.functional.pad(decision.slot_BN, (0, 1), value=1.0))


FAULTS = [
    (not_a_number, "NaN, infinite or below 0"),
    (below_zero, "NaN, infinite or below 0"),
    (evicts_nobody, "lets an empty slot leave"),
    (updates_nothing, "updates or merges an empty slot"),
    (merges_nothing, "updates or merges an empty slot"),
    (one_too_many, "names slots or actions that are not there"),
]


@pytest.mark.parametrize(("fault", "words"), FAULTS)
def test_slots_refuse_what_cannot_be(fault: Callable[..., Decision], words: str) -> None:
    refused(Slots(8, 4, hops=1, heads=1, recency=(0.0,)), fault, words)


@pytest.mark.parametrize(("fault", "words"), [FAULTS[0], FAULTS[1], FAULTS[-1]])
@pytest.mark.parametrize("kind", [DNC, NTM])
def test_soft_memories_refuse_what_cannot_be(
    kind: type[DNC] | type[NTM], fault: Callable[..., Decision], words: str
) -> None:
    refused(kind(4, 8, 4, 1), fault, words)


def refused(memory: Slots | DNC | NTM, fault: Callable[..., Decision], words: str) -> None:
    items, here = torch.randn(2, 6, 4), torch.ones(2, 6, dtype=torch.bool)
    state, _ = memory.sequence(memory.initial_state(2), items[:, :3], here[:, :3], EvictUniformly())
    before = [part.clone() for part in state if isinstance(part, torch.Tensor)]
    with pytest.raises(ValueError, match=f"^Wrong .*{words}"):
        memory.sequence(state, items, here, Wrong(fault))
    after = [part for part in state if isinstance(part, torch.Tensor)]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def candidates(first: int, rows: int) -> Candidates:
    whole = torch.arange(first, first + rows)
    return Candidates(
        torch.randn(rows, 3, generator=torch.Generator().manual_seed(first)),
        torch.zeros(rows, 2),
        whole[:, None] + 1,
        torch.ones(rows, 1, 2, dtype=torch.int64),
        whole,
        torch.zeros(rows, 3),
        *(whole,) * 3,
    )


@pytest.mark.parametrize(("fault", "words"), FAULTS)
def test_a_store_refuses_what_cannot_be_and_holds_what_it_held(
    fault: Callable[..., Decision], words: str
) -> None:
    store = NEC(
        capacity=6,
        key_size=3,
        vector_size=2,
        answer_length=1,
        story_shape=(1, 2),
        policy=Wrong(fault),
        neighbours=2,
    )
    store.remember(candidates(0, 4))
    before = store.snapshot()
    with pytest.raises(ValueError, match=f"^Wrong .*{words}"):
        store.remember(candidates(4, 4))
    after = store.snapshot()
    for name, column in before["columns"].items():
        assert torch.equal(column, after["columns"][name])
    assert {k: v for k, v in before.items() if k != "columns"} == {
        k: v for k, v in after.items() if k != "columns"
    }
    store.policy = EvictUniformly()
    assert [each.action for each in store.remember(candidates(4, 4))] == [ADD] * 4


WIDER = {name: (2, 3) for name in ("hash_B", "task_B", "episode_B", "step_B")}
WIDER |= {"key_BD": (2,), "vector_BV": (2,), "answers_BA": (2,), "story_BTL": (2, 2)}


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("name", [*WIDER, "outcome_BF", "task_B "])
def test_a_store_refuses_parts_of_another_shape(name: str) -> None:
    """Natively as without: where a row would be read, there is one."""
    store = NEC(6, 3, 2, EvictIdle(), answer_length=1, story_shape=(1, 2))
    good, shape = candidates(0, 2), WIDER.get(name, (2, 0 if name == "task_B " else 2))
    wrong = good._replace(**{name.strip(): torch.ones(shape).to(getattr(good, name.strip()))})
    with pytest.raises(ValueError, match=r"dimensions, the rows first|outcome has 2 numbers"):
        store.remember(wrong)
    assert len(store) == 0
    if name == "key_BD":
        with pytest.raises(ValueError, match="The query has the shape"):
            store.recall(torch.ones(3))


@pytest.mark.usefixtures("either")
def test_a_store_refuses_tokens_of_an_answer_that_it_cannot_keep() -> None:
    store = NEC(6, 3, 2, EvictIdle(), answer_length=1, story_shape=(1, 2))
    good = candidates(0, 2)
    with pytest.raises(ValueError, match="The answer has a token 1099511627776 where this store"):
        store.remember(good._replace(answers_BA=good.answers_BA * 0 + 2**40))
    assert len(store) == 0


def test_keys_are_made_anew_for_every_entry_or_none() -> None:
    store = NEC(6, 3, 2, EvictIdle(), answer_length=1, story_shape=(1, 2))
    assert store.rekey(lambda story_BTL: torch.zeros(len(story_BTL), 3)) == 1.0
    store.remember(candidates(0, 2))
    before = store.columns["keys_ND"].clone()
    with pytest.raises(ValueError, match="encode returned 1 keys of 2 stories"):
        store.rekey(lambda story_BTL: torch.zeros(1, 3))
    assert torch.equal(store.columns["keys_ND"], before)


@pytest.mark.parametrize("room", [8e3, "8MB", 0])
def test_room_in_bytes_is_a_whole_number(room: object) -> None:
    with pytest.raises(ValueError, match=f"bytes={room} should be a whole number"):
        NEC.within(room, key_size=3, vector_size=2, policy=EvictIdle())


def test_the_sentence_names_the_candidate() -> None:
    memory = Slots(8, 4, hops=1, heads=1, recency=(0.0,))
    with pytest.raises(ValueError, match="at candidate 4: the memory is left as it was"):
        memory.write(
            memory.initial_state(2),
            torch.randn(2, 6, 4),
            torch.ones(2, 6, dtype=torch.bool),
            Wrong(evicts_nobody),
        )
