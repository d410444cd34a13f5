"""What became of items, followed from outside, equals what the memories hold."""

from collections.abc import Sequence
from typing import Any

import hydra.utils
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.examinations.arms import set_aside
from stillknows.agents.examinations.trace import Holdings, Ledger, Shares, Tracer, names, placed
from stillknows.agents.teaching.trial import Watcher
from stillknows.agents.thought import identity
from stillknows.memory.episodic import Candidates
from stillknows.memory.interface import (
    ADD,
    MERGE,
    SKIP,
    UPDATE,
    Decision,
    Features,
    one_hot,
)
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictUniformly
from stillknows.memory.slots import Slots

TINY = ("debug=tiny", "stream.episodes=16", "stream.exam_episodes=8")


class Anything:
    """Does anything that can be done, drawn from the noise; some adds name no slot."""

    needs_similarity = False
    needs_noise = True

    def decide(self, features: Features) -> Decision:
        rows, slots = features.filled_BN.shape
        action_B = (features.noise_BM[:, -1] * 4).long()
        filled_BN, noise_BN = features.filled_BN, features.noise_BM[:, :-1]
        action_B = torch.where(filled_BN.any(dim=1), action_B, ADD)
        held_B = (noise_BN + filled_BN).argmax(dim=1)
        free_B = (~filled_BN).float().argmax(dim=1)
        onto_B = torch.where((noise_BN[:, 0] < 0.3) & filled_BN.any(dim=1), held_B, free_B)
        full_B = filled_BN.all(dim=1)
        onto_B = torch.where(noise_BN[:, -1] < 0.3, -1, onto_B)  # then the first free is taken
        slot_B = torch.where(action_B == ADD, torch.where(full_B, -1, onto_B), held_B)
        victim_B = torch.where((action_B == ADD) & full_B, held_B, -1)
        return Decision(
            one_hot(action_B, 4),
            one_hot(slot_B, slots),
            one_hot(victim_B, slots),
            torch.zeros(rows),
        )


@given(st.integers(0, 2**40), st.integers(1, 5), st.integers(1, 14))
@settings(max_examples=40)
def test_an_item_is_held_exactly_if_a_slot_is_this_item(key: int, slots: int, items: int) -> None:
    memory, watcher = Slots(slots, 4, hops=1, heads=1, recency=(0.0,)), Watcher(Anything())
    keys = torch.arange(3) + key
    items_BTW = torch.randn(3, items, 4, generator=torch.Generator().manual_seed(items))
    here_BT = torch.ones(3, items, dtype=torch.bool)
    with torch.no_grad():
        state = memory.initial_state(3, "cpu", keys)
        state = memory.write(state, items_BTW, here_BT, watcher)
    for row in range(3):
        trail = Holdings()
        for features, decision in zip(watcher.features, watcher.decisions, strict=True):
            trail.take(*(column.tolist()[row] for column in placed(features, decision)))
        for item in range(items):
            same_N = (state.values_BNW[row] == items_BTW[row, item]).all(dim=1)
            assert bool(same_N.any()) == (trail.fate(item) == "h"), (row, item)
        newest = {slot: birth for slot, birth in enumerate(state.birth_BN[row].tolist())}
        assert {s: held[-1] for s, held in trail.slots.items()} == {
            slot: birth for slot, birth in newest.items() if birth >= 0
        }


def test_what_became_of_items_by_hand() -> None:
    trail = Holdings()
    decisions = [
        (ADD, 0, False),  # 0: evicted by 4
        (ADD, 1, False),  # 1: overwritten by 2
        (UPDATE, 1, True),  # 2: merged with 3
        (MERGE, 1, True),  # 3: merged
        (ADD, 0, True),  # 4: held
        (SKIP, -1, True),  # 5: never written
        (ADD, -1, True),  # 6: found no place
        (ADD, 2, False),  # 7: overwritten by 8, though there was room
        (ADD, 2, False),
    ]
    for decision in decisions:
        trail.take(*decision)
    assert "".join(trail.fate(item) for item in range(9)) == "eooohnnoh"
    slots, weights = np.array([[0, 1, 2]]), np.array([[0.1, 0.1, 0.3]])
    shares = [[0, 0, 0.2, 0.2, 0.2, 0, 0, 0, 0.6]]
    np.testing.assert_allclose(trail.shares(slots, weights), shares)
    np.testing.assert_allclose(
        trail.shares(slots, np.diag([1.0, 0, 0])[:1]), [[0] * 4 + [1] + [0] * 4]
    )
    assert trail.looked_at(np.array([0, 1, 7])) == 2


def test_soft_writes_leave_the_product_of_what_the_later_ones_spared() -> None:
    draw = np.random.default_rng(0)
    weights = draw.uniform(0, 0.6, size=(5, 2, 6))  # five steps, two heads, six slots
    kept = [True, True, False, True, True]
    trail = Shares()
    for weight, keeps in zip(weights, kept, strict=True):
        trail.take(weight, keeps)
    write = 1 - (1 - weights[:, 0]) * (1 - weights[:, 1])
    expected = [
        write[t] * np.prod(1 - write[t + 1 :], axis=0) for t, keeps in enumerate(kept) if keeps
    ]
    np.testing.assert_allclose(trail.share_NT, np.array(expected).T)
    faint, wiped = Shares(), Shares()
    faint.take(np.full((1, 3), 0.01), True)
    assert faint.fate(0) == "n"
    wiped.take(np.array([[0.9, 0.0, 0.0]]), True)
    assert wiped.fate(0) == "h"
    wiped.take(np.array([[0.7, 0.1, 0.0]]), False)
    assert wiped.fate(0) == "o"
    assert wiped.shares(np.array([[0, 1, 2]]), np.array([[1.0, 0.0, 0.0]])).tolist() == [[1.0]]


@pytest.mark.parametrize("memory", ["dnc", "ntm"])
def test_soft_memories_are_overheard_step_by_step(memory: str) -> None:
    config = compose_config([*TINY, f"working_memory={memory}", "working_memory.think=2"])
    torch.manual_seed(0)
    tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    agent = build_agent(config, tasks).eval()
    tracer = Tracer(agent)
    assert tracer.exact is False
    stories = [
        ("mary went to the hall .", "john went to the garden .", "where is john ?"),
        ("", "mary took the ball .", "where is mary ?"),
    ]
    state = agent.initial_state(2)
    with torch.no_grad(), tracer.watching():
        for turn in range(3):
            heard = [story[turn] for story in stories]
            _, state, thought = agent.step(heard, [turn == 2] * 2, state)
        assert thought is not None
        tracer.follow(thought, [7, 8])
    assert "step" not in vars(agent.working_memory)
    trails = [tracer.trail(episode) for episode in (7, 8)]
    assert [trail.looked_at(np.array([0])) for trail in trails if trail is not None] == [2, 1]
    assert tracer.item(8, 0) == 0
    assert tracer.item(7, 2) is None  # the question
    alone = Tracer(agent)  # the longer story, told alone: rows do not mix
    state = agent.initial_state(1)
    with torch.no_grad(), alone.watching():
        for turn in range(3):
            _, state, thought = agent.step([stories[0][turn]], [turn == 2], state)
        assert thought is not None
        alone.follow(thought, [7])
    both, one = tracer.trail(7), alone.trail(7)
    assert isinstance(both, Shares)
    assert isinstance(one, Shares)
    shares = [np.sort(trail.share_NT, axis=0) for trail in (both, one)]  # equals may change places
    np.testing.assert_allclose(*shares, atol=1e-4)
    assert shares[0].sum() > 0.1
    write = [1 - np.prod(1 - weights, axis=0) for weights in stepped(agent, stories[0])]
    assert len(write) == 2 + 1 + 2  # two sentences, the question, two pauses
    left = [write[t] * np.prod(1 - np.array(write[t + 1 :]), axis=0) for t in (0, 1)]
    np.testing.assert_allclose(one.share_NT, np.array(left).T, atol=1e-5)


def stepped(agent: MemoryAgent, story: tuple[str, ...]) -> list[np.ndarray]:
    """Return the write weights of every step of a story, `[J, N]` each, taken one by one."""
    memory, weights = agent.working_memory, []
    with torch.no_grad():
        told_1TD, _ = agent._encode_statements([story[:-1]])
        _, _, query_1D = agent._encode_questions([story[-1:]])
        state = memory.initial_state(1, "cpu", torch.zeros(1, dtype=torch.int64))
        blank_1D = torch.zeros_like(query_1D)
        for item_1D in (*told_1TD.unbind(dim=1), query_1D, blank_1D, blank_1D):
            state, _ = memory.step(state, item_1D, agent.working_policy)
            name = next(f for f in state._fields if f.startswith("write_weights"))
            weights.append(getattr(state, name)[0].numpy())
    return weights


APART = (  # a row asks while the other still tells, and one tells nothing before it asks again
    ("mary went to the hall .", "where is mary ?", "john went to the hall .", "where is john ?"),
    ("john took the ball .", "mary went to the garden .", "", "where is mary ?"),
    ("where is john ?", "mary took the ball .", "where is john ?", "where is mary ?"),
)


@pytest.mark.parametrize("memory", ["dnc", "ntm", "slots"])
def test_rows_that_ask_at_different_times_are_followed_as_if_alone(memory: str) -> None:
    options = [f"working_memory={memory}", "working_memory.slots=2", "working_policy=evict_oldest"]
    config = compose_config([*TINY, *options])
    torch.manual_seed(0)
    tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    agent = build_agent(config, tasks).eval()
    together = followed(agent, APART)
    for row, story in enumerate(APART):
        (alone,), (steps,) = followed(agent, [story])
        beside = together[0][row]
        assert steps == together[1][row]
        assert len(steps) == sum(line.endswith(".") for line in story)
        fates = [[trail.fate(n) for n in range(len(steps))] for trail in (alone, beside)]
        assert fates[0] == fates[1]
        if isinstance(alone, Shares):
            np.testing.assert_allclose(alone.share_NT, beside.share_NT, atol=1e-4)
        else:
            assert alone.slots == beside.slots


def followed(
    agent: MemoryAgent, stories: Sequence[tuple[str, ...]]
) -> tuple[list[Any], list[list[int]]]:
    """Return what became of the items of each story, told side by side, and their steps."""
    tracer, rows = Tracer(agent), range(len(stories))
    state = agent.initial_state(len(stories))
    with torch.no_grad(), tracer.watching():
        for heard in zip(*stories, strict=True):
            asked = [line.endswith("?") for line in heard]
            _, state, thought = agent.step(heard, asked, state)
            if thought is not None:
                tracer.follow(thought, thought.rows)
    told = [[step for step in range(4) if tracer.item(row, step) is not None] for row in rows]
    return [tracer.trail(row) for row in rows], told


class Restless(EvictUniformly):
    """Updates a slot that holds another question, now and then."""

    def decide(self, features: Features) -> Decision:
        decision = super().decide(features)
        slots = features.filled_BN.shape[1]
        moves_B = (features.noise_BM[:, -1] < 0.3) & features.filled_BN.all(dim=1)
        skips_B = features.noise_BM[:, -1] > 0.9
        slot_B = features.noise_BM[:, :-1].argmin(dim=1)
        action_B = torch.where(moves_B, UPDATE, decision.action_B4.argmax(dim=1))
        action_B = torch.where(skips_B, SKIP, action_B)
        return Decision(
            one_hot(action_B, 4),
            torch.where(moves_B[:, None], one_hot(slot_B, slots), decision.slot_BN),
            decision.victim_BN * (~moves_B & ~skips_B)[:, None],
            decision.log_prob_B,
        )


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_the_ledger_knows_what_a_store_holds_and_has_lost(key: int) -> None:
    store = NEC(4, 2, 0, Restless(), story_shape=(1, 1), identity="question", key=key)
    draw = np.random.default_rng(key)
    events: list[dict[str, Any]] = []
    texts = [f"what is {number} ?" for number in range(9)]
    offered: set[str] = set()
    for _ in range(12):
        chosen = [texts[n] for n in draw.integers(9, size=3)]
        hash_B = torch.tensor([identity(text) for text in chosen])
        zeros = torch.zeros(3, dtype=torch.int64)
        written = store.remember(
            Candidates(
                torch.tensor(draw.normal(size=(3, 2)), dtype=torch.float32),
                torch.zeros(3, 0),
                draw_answers(draw),
                torch.zeros(3, 1, 1),
                hash_B,
                torch.zeros(3, 3),
                zeros,
                zeros,
                zeros,
            )
        )
        events.append(
            {
                "event": "update",
                "actions": "".join("saum"[each.action] for each in written),
                "written": [each.entry for each in written],
                "evicted": [each.evicted for each in written],
                "names": names(written, hash_B.tolist()),
            }
        )
        offered |= {t for t, each in zip(chosen, written, strict=True) if each.action != SKIP}
    ledger = Ledger(events)
    for text in texts:
        held = int(store.find(torch.tensor([identity(text)]))) >= 0
        fate = ledger.fate(text)
        assert held == (fate == "h")
        assert (text in offered) == (fate != "n")


def draw_answers(draw: np.random.Generator) -> torch.Tensor:
    return torch.tensor(draw.integers(1, 3, size=(3, 1)))


def test_the_ledger_by_hand() -> None:
    one, two, three = (identity(text) >> 23 for text in ("one ?", "two ?", "three ?"))
    events = [
        {"event": "examination"},
        update("aa", [0, 1], [-1, -1], [one, two]),
        update("as", [2, -1], [0, -1], [three, 0]),
        update("u", [1], [-1], [three]),
    ]
    ledger = Ledger(events)
    assert [ledger.fate(text) for text in ("one ?", "two ?", "three ?", "four ?")] == list("eohn")
    assert Ledger(events[:1]).fate("one ?") == "?"  # an older log does not tell


def update(
    actions: str, written: list[int], evicted: list[int], names: list[int]
) -> dict[str, Any]:
    columns = {"actions": actions, "written": written, "evicted": evicted, "names": names}
    return {"event": "update", **columns}


def test_what_is_set_aside_comes_back_in_its_order() -> None:
    config = compose_config([*TINY, "working_policy=actor"])
    tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    agent = build_agent(config, tasks)
    before, policy = list(agent.state_dict()), agent.working_policy
    with set_aside(agent, working_policy=EvictUniformly(), working_memory=None):
        assert agent.working_memory is None
        assert list(agent.state_dict()) != before
    assert list(agent.state_dict()) == before
    assert agent.working_policy is policy
