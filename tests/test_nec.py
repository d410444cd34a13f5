"""The lifelong store against a plain model of it, and its corners: one step, one slot, one life."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from offers import Leave, Say, offer, pairs, store

from stillknows.memory.episodic import Candidates, Departures
from stillknows.memory.interface import ADD, MERGE, SKIP, UPDATE, Decision, Features, one_hot
from stillknows.memory.nec import NEC
from stillknows.memory.policies.learned import UtilityPolicy
from stillknows.memory.policies.rules import (
    EvictIdle,
    EvictOldest,
    EvictRare,
    EvictUniformly,
)
from stillknows.memory.stores.store import COUNTERS

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("either")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"key_BD": torch.full((2, 4), torch.nan)}, "The key is NaN or infinite"),
        ({"key_BD": torch.full((2, 4), 1e39, dtype=torch.float64)}, "The key is NaN or infinite"),
        ({"key_BD": torch.ones(1, 4)}, "a row in every part: there are {'key_BD': 1"),
        ({"episode_B": torch.tensor([7])}, "a row in every part"),
        ({"key_BD": torch.zeros(2, 5)}, "The key has 5 numbers where this store keeps 4"),
        ({"story_BTL": torch.ones(2, 2, 1)}, r"The story has the shape \[2, 1\] where .* \[1, 2\]"),
        ({"story_BTL": torch.ones(2, 1, 1)}, r"The story has the shape \[1, 1\] where .* \[1, 2\]"),
        ({"story_BTL": torch.ones(2, 1, 3)}, r"The story has the shape \[1, 3\] where .* \[1, 2\]"),
        ({"vector_BV": torch.full((2, 3), torch.inf)}, "The vector is NaN or infinite"),
        ({"outcome_BF": torch.full((2, 3), torch.nan)}, "The outcome is NaN or infinite"),
        ({"story_BTL": torch.tensor([[[9, 32768]]] * 2)}, "token 32768 where .* -32768 to 32767"),
    ],
)
@pytest.mark.parametrize("policy", [Leave(), EvictOldest()])
def test_what_is_no_number_is_refused_and_the_store_is_as_before(policy, changes: dict, words: str):
    memory = store(policy)
    memory.remember(offer((1, 5), (2, 6)))
    before = memory.snapshot()
    with pytest.raises(ValueError, match=words):
        memory.remember(offer((3, 7), (4, 8))._replace(**changes))
    after = memory.snapshot()
    assert all(torch.equal(before["columns"][n], after["columns"][n]) for n in before["columns"])
    assert {n: before[n] for n in COUNTERS} == {n: after[n] for n in COUNTERS}
    for query in (torch.full((1, 4), torch.nan), torch.zeros(1, 3)):
        with pytest.raises(ValueError, match="The query"):
            memory.recall(query)
    assert memory.find(torch.tensor([3])).tolist() == [-1]


def consistent(memory: NEC) -> bool:
    """Return whether a store that is rebuilt from the columns knows the same names."""
    again = store(memory.policy, memory.capacity, identity=memory.identity)
    again.restore(memory.snapshot())
    return again.names == memory.names


@settings(max_examples=60, deadline=None)
@given(st.lists(pairs, min_size=1, max_size=12), st.integers(1, 6))
def test_agrees_with_a_plain_model_one_candidate_at_a_time(steps, capacity):
    """First in, first out: a list of [name, answer, id], where facts that hold are refreshed."""
    memory, model, entries = store(Leave("age_BN"), capacity), [], 0
    for pair in (pair for step in steps for pair in step):
        (written,) = memory.remember(offer(pair))
        same = [entry for entry in model if entry[0] == pair[0]]
        if same and all(entry[1] == pair[1] for entry in same):
            assert written == (UPDATE, max(entry[2] for entry in same), -1)
            continue
        gone = model.pop(0)[2] if len(model) == capacity else -1
        model.append([*pair, entries])
        assert written == (ADD, entries, gone)
        entries += 1
    filled = memory.columns["filled_N"]
    held = zip(
        memory.provenance("hash")[filled].tolist(),
        memory.columns["answers_NA"][filled, 0].tolist(),
        memory.provenance("id")[filled].tolist(),
        strict=True,
    )
    assert sorted(held) == sorted(map(tuple, model))
    assert consistent(memory)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(pairs, min_size=1, max_size=8),
    st.integers(1, 4),
    st.sampled_from(["age_BN", "idle_BN", "usage_BN"]),
    st.sampled_from(["question", "text", "none"]),
)
def test_many_rows_a_step_keep_the_books(steps, capacity, feature, identity):
    memory, alive = store(Leave(feature), capacity, identity=identity), set()
    for number, step in enumerate(steps):
        for written in memory.remember(offer(*step, seed=number)):
            alive.discard(written.evicted)
            assert written.action in (ADD, UPDATE, SKIP)
            if written.action == ADD:
                assert written.entry not in alive
                alive.add(written.entry)
            elif written.action == UPDATE:
                assert written.entry in alive
        filled = memory.columns["filled_N"]
        assert set(memory.provenance("id")[filled].tolist()) == alive
        assert len(memory) == len(alive) <= capacity
        assert consistent(memory)
        # What a slot holds is one candidate as a whole, not the parts of two.
        story = memory.columns["story_NTL"][filled, 0].long()
        assert torch.equal(story[:, 1], memory.columns["answers_NA"][filled, 0].long())
        assert torch.equal(story[:, 0] % 3, memory.provenance("task")[filled])
        if identity != "text":
            assert torch.equal(story[:, 0], memory.provenance("hash")[filled])


class AskedIdle(EvictIdle):
    """The rule as the store asks any policy."""


class AskedOldest(EvictOldest):
    """The rule as the store asks any policy."""


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(pairs, st.booleans(), st.booleans(), st.integers(-9, 9)), min_size=1, max_size=12
    ),
    st.integers(1, 9),
    st.sampled_from([(EvictIdle, AskedIdle), (EvictOldest, AskedOldest)]),
    st.sampled_from(["question", "text", "none"]),
    st.booleans(),
)
def test_what_an_orderly_rule_decides_is_what_it_says_when_asked(
    steps, capacity, rules, identity, refresh
):
    known, asked = (
        store(rule(refresh), capacity, identity=identity, neighbours=2, update_rate=0.5)
        for rule in rules
    )
    for number, (step, look, back, gone) in enumerate(steps):
        candidates = offer(*step, seed=number, step=number)
        assert known.remember(candidates) == asked.remember(candidates)
        for memory in (known, asked):
            if look:
                memory.recall(offer((0, 0), (0, 0), seed=number + 50).key_BD)
            if back:
                snapshot = memory.snapshot()
                memory.remember(offer((9, 9), (8, 8)))
                memory.restore(snapshot)
            memory.delete([gone])
        assert known.names == asked.names
        mine, theirs = known.snapshot(), asked.snapshot()
        assert all(torch.equal(mine["columns"][n], theirs["columns"][n]) for n in mine["columns"])
        assert {n: mine[n] for n in COUNTERS} == {n: theirs[n] for n in COUNTERS}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 300))
def test_departures_are_a_sort_of_the_ranks_as_they_grow(seed, entries):
    random = np.random.default_rng(seed)
    departures, ranks = Departures(), torch.from_numpy(random.integers(0, 5, entries))
    for clock in range(5, 30):
        count = int(random.integers(0, min(entries, 12) + 1))
        first = departures.first(count, ranks)
        assert torch.equal(first, ranks.sort(stable=True).indices[:count])
        ranks[first] = clock
        ranks[torch.from_numpy(random.integers(0, entries, random.integers(0, 6)))] = clock


def test_the_last_of_several_rows_at_one_slot_stays():
    memory = store(Leave(), capacity=1)
    candidates = offer((1, 5), (2, 6), (3, 7))
    written = memory.remember(candidates)
    assert written == [(ADD, 0, -1), (ADD, 1, 0), (ADD, 2, 1)]
    assert memory.provenance("id").tolist() == [2]
    assert memory.columns["answers_NA"].tolist() == [[7, 1]]
    assert torch.equal(memory.columns["keys_ND"][0], candidates.key_BD[2])
    assert memory.provenance("episode").tolist() == [102]


def test_a_fact_whose_slot_was_taken_within_the_step_is_added_again():
    memory = store(Leave(), capacity=2)
    memory.remember(offer((1, 5)))
    memory.remember(offer((2, 6)))
    new, refreshed = memory.remember(offer((3, 7), (1, 5)))  # 3 takes the place of 1
    assert new == (ADD, 2, 0)
    assert refreshed.action == ADD
    assert 1 in memory.provenance("hash").tolist()


class Obey(Say):
    """Does at its slot what the reward of the candidate names."""

    def decide(self, features: Features) -> Decision:
        assert features.outcome_BF is not None
        decision = super().decide(features)
        return decision._replace(action_B4=one_hot(features.outcome_BF[:, 1].long(), 4))


def test_nothing_updates_an_entry_of_its_own_step():
    memory = store(Obey(), capacity=2)

    def told(*actions: int) -> torch.Tensor:
        return one_hot(torch.ones(2, dtype=torch.int64), 3) * torch.tensor(actions)[:, None]

    memory.remember(offer((1, 5), (2, 6))._replace(outcome_BF=told(ADD, ADD)))
    candidates = offer((3, 7), (4, 8))._replace(outcome_BF=told(ADD, UPDATE))
    assert memory.remember(candidates) == [(ADD, 2, 0), (SKIP, -1, -1)]
    assert torch.equal(memory.columns["keys_ND"][0], candidates.key_BD[0])


def test_an_update_of_any_slot_renames_it():
    policy = Say(ADD)
    memory = store(policy, capacity=3)
    memory.remember(offer((1, 5)))
    policy.action = UPDATE
    candidates = offer((2, 6), seed=3)
    assert memory.remember(candidates) == [(UPDATE, 0, -1)]
    assert torch.equal(memory.columns["keys_ND"][0], candidates.key_BD[0])
    assert memory.provenance("hash").tolist() == [2, -1, -1]
    assert consistent(memory)
    memory.remember(offer((1, 5)))
    assert policy.features is not None
    assert policy.features.known_B.tolist() == [-1]  # nothing is left under the first name


def test_a_merge_is_halfway_and_an_update_of_nothing_is_refused():
    policy = Say(UPDATE, slot=1)
    memory = store(policy, capacity=3)
    with pytest.raises(ValueError, match="Say updates or merges an empty slot, at candidate 0"):
        memory.remember(offer((1, 5)))
    assert len(memory) == 0
    policy.action, policy.slot = ADD, 0
    first, second = offer((1, 5), seed=1), offer((2, 6), seed=2)
    memory.remember(first)
    policy.action = MERGE
    memory.remember(second)
    torch.testing.assert_close(
        memory.columns["keys_ND"][0], (first.key_BD[0] + second.key_BD[0]) / 2
    )
    assert memory.columns["answers_NA"][0].tolist() == [6, 1]


def test_a_known_state_moves_its_return_by_alpha_and_takes_the_new_key():
    memory = store(Leave(), capacity=2, update_rate=0.25)
    candidates = [offer((1, 0), seed=seed) for seed in range(3)]
    expected = candidates[0].vector_BV[0].clone()
    for candidate in candidates:
        memory.remember(candidate)
        expected += 0.25 * (candidate.vector_BV[0] - expected)
        torch.testing.assert_close(memory.columns["vectors_NV"][0], expected)
        assert torch.equal(memory.columns["keys_ND"][0], candidate.key_BD[0])
    memory.remember(offer((2, 0), seed=7))
    memory.remember(offer((3, 0), seed=8))  # an add owes nothing to who was there before
    assert torch.equal(memory.columns["vectors_NV"][0], offer((3, 0), seed=8).vector_BV[0])


@pytest.mark.parametrize("policy", [EvictOldest(), EvictUniformly(), UtilityPolicy()])
def test_no_row_is_no_write(policy):
    memory = store(policy)
    for rows in (0, 2, 0):
        before = memory.operation, memory.clock, memory.seen
        candidates = Candidates(*(part[:rows] for part in offer((1, 5), (2, 6))))
        assert len(memory.remember(candidates)) == rows
        after = tuple(number + bool(rows) for number in before[:2])
        assert (memory.operation, memory.clock, memory.seen) == (*after, before[2] + rows)


def test_no_history_is_kept_with_an_entry():
    memory = store(Leave())
    candidates = offer((1, 5), (2, 6))
    memory.remember(candidates._replace(key_BD=candidates.key_BD.requires_grad_()))
    assert not any(column.requires_grad for column in memory.columns.values())


@pytest.mark.parametrize("policy", [EvictOldest(), EvictUniformly()])
def test_a_step_adds_no_more_than_its_budget(policy):
    memory = store(policy, capacity=3, writes=2)
    first = memory.remember(offer((1, 5), (2, 6), (3, 7), (1, 5)))
    assert [each.action for each in first] == [ADD, ADD, SKIP, SKIP]
    second = memory.remember(offer((1, 5), (4, 8), (5, 9), (6, 9)))  # a refresh adds nothing
    assert [each.action for each in second] == [UPDATE, ADD, ADD, SKIP]
    assert len(memory) == 3
    assert consistent(memory)
    with pytest.raises(ValueError, match="writes=0 should be a whole number, at least 1"):
        store(policy, capacity=3, writes=0)


@pytest.mark.parametrize("policy", [EvictOldest(), EvictUniformly(), EvictRare()])
def test_a_budget_counts_what_leaves_within_its_step(policy):
    memory = store(policy, capacity=1, writes=2)
    written = memory.remember(offer((1, 5), (2, 6), (3, 7), (4, 8)))
    assert [each.action for each in written] == [ADD, ADD, SKIP, SKIP]
    assert memory.provenance("id").tolist() == [1]


@pytest.mark.parametrize("policy", [EvictOldest(), EvictRare()])
def test_what_was_deleted_is_filled_first(policy):
    memory = store(policy, capacity=5)
    memory.remember(offer(*((name, 5) for name in range(3))))
    memory.delete([0, 1])
    memory.remember(offer((7, 5), (8, 5), (9, 5)))
    assert memory.provenance("id").tolist() == [3, 4, 2, 5, -1]
    assert memory.holes == set()
