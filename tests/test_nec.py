"""The lifelong store against a plain model of it, and its corners: one step, one slot, one life."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.memory.episodic import Candidates, Departures, Recall, p_store
from stillknows.memory.interface import ADD, MERGE, SKIP, UPDATE, Decision, Features, one_hot
from stillknows.memory.nec import NEC
from stillknows.memory.policies.learned import UtilityPolicy
from stillknows.memory.policies.rules import (
    EvictIdle,
    EvictOldest,
    EvictRare,
    EvictUniformly,
    Novelty,
)
from stillknows.memory.stores.store import COUNTERS

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("either")


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


pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(5, 7)), min_size=1, max_size=5)


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


def test_least_recently_read_leaves_first():
    memory = store(Leave("idle_BN"), capacity=3, neighbours=1)
    for number in range(3):
        memory.remember(offer((number, number + 5), seed=number))
    memory.recall(memory.columns["keys_ND"][:1])  # the oldest is read
    (written,) = memory.remember(offer((9, 9)))
    assert written.evicted == 1
    (written,) = memory.remember(offer((10, 10)))
    assert written.evicted in (0, 2)  # both idle since the same step


def test_a_policy_sees_time_use_and_likeness_and_no_provenance():
    policy = Say(ADD)
    memory = store(policy, capacity=3, neighbours=1, key=7)
    first = offer((1, 5), seed=1)
    memory.remember(first)
    memory.remember(offer((2, 6), seed=2))
    memory.recall(first.key_BD)
    candidates = offer((3, 7), (4, 8), seed=3)
    memory.remember(candidates)
    features = policy.features
    assert features is not None
    assert features.age_BN.tolist() == [[2, 1, 0]] * 2
    assert features.idle_BN.tolist() == [[1, 1, 0]] * 2
    assert features.usage_BN.tolist() == [[1, 0, 0]] * 2
    assert features.seen_B.tolist() == [2, 3]
    assert features.filled_BN.tolist() == [[True, True, False]] * 2
    for row, key in enumerate(candidates.key_BD.numpy()):
        stored = first.key_BD[0].numpy()
        cosine = key @ stored / np.linalg.norm(key) / np.linalg.norm(stored)
        assert features.similarity_BN[row, 0].item() == pytest.approx(cosine, rel=1e-5)
    assert (features.similarity_BN[:, 2] == 0).all()
    other = Say(ADD)
    memory = store(other, capacity=3, key=7)
    moved = candidates._replace(task_B=candidates.task_B + 5, episode_B=candidates.episode_B * 2)
    memory.seen = 2
    memory.remember(moved)
    assert other.features is not None
    assert torch.equal(other.features.noise_BM, features.noise_BM)


@pytest.mark.parametrize("policy", [EvictOldest(), EvictUniformly(), UtilityPolicy()])
def test_no_row_is_no_write(policy):
    memory = store(policy)
    for rows in (0, 2, 0):
        before = memory.operation, memory.clock, memory.seen
        candidates = Candidates(*(part[:rows] for part in offer((1, 5), (2, 6))))
        assert len(memory.remember(candidates)) == rows
        after = tuple(number + bool(rows) for number in before[:2])
        assert (memory.operation, memory.clock, memory.seen) == (*after, before[2] + rows)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_keys_of_any_float_are_compared_with_those_that_are_held(kind):
    memory, plain = store(Novelty()), store(Novelty())
    for seed in range(3):
        candidates = offer((seed, 5), seed=seed // 2)
        candidates = candidates._replace(key_BD=candidates.key_BD.to(kind))
        written = memory.remember(candidates)
        assert written == plain.remember(candidates._replace(key_BD=candidates.key_BD.float()))
        assert written[0].action == (SKIP if seed == 1 else ADD)
    assert torch.equal(memory.columns["keys_ND"], plain.columns["keys_ND"])


def test_no_history_is_kept_with_an_entry():
    memory = store(Leave())
    candidates = offer((1, 5), (2, 6))
    memory.remember(candidates._replace(key_BD=candidates.key_BD.requires_grad_()))
    assert not any(column.requires_grad for column in memory.columns.values())


def test_text_names_story_and_answer_together():
    memory = store(Leave(), capacity=8, identity="text")
    first, second = offer((1, 5)), offer((1, 6))
    actions = [memory.remember(one)[0].action for one in (first, second, first, second)]
    assert actions == [ADD, ADD, UPDATE, UPDATE]
    assert len(memory) == 2


def test_the_gradient_of_the_weights_reaches_the_query():
    memory = store(Leave(), capacity=6, neighbours=3, delta=0.1)
    memory.remember(offer(*((n, n + 5) for n in range(5))))
    query = torch.randn(2, 4, generator=torch.Generator().manual_seed(5)).double()
    with memory.frozen():
        assert torch.autograd.gradcheck(
            lambda q: memory.recall(q).weights_BK, query.requires_grad_()
        )


def test_a_recall_brings_what_was_stored_and_blanks_for_the_rest():
    memory = store(Leave(), capacity=6, neighbours=4)
    candidates = offer((1, 5), (2, 6))
    memory.remember(candidates)
    recall = memory.recall(candidates.key_BD[1:])
    assert recall.slots_BK.tolist() == [[1, 0, -1, -1]]
    assert recall.answers_BKA.tolist() == [[[6, 1], [5, 1], [0, 0], [0, 0]]]
    assert torch.equal(recall.vectors_BKV[0, 0], candidates.vector_BV[1])
    assert (recall.vectors_BKV[0, 2:] == 0).all()
    assert recall.present_BK.tolist() == [[True, True, False, False]]
    assert recall.weights_BK.sum().item() == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 3))
def test_p_store_is_a_count_in_loops(seed, position):
    random = np.random.default_rng(seed)
    answers = random.integers(0, 4, (3, 6, 3))
    weights = random.random((3, 6))
    present = random.random((3, 6)) < 0.8
    prefix = random.integers(1, 4, (3, position))
    recall = Recall(
        torch.zeros(3, 6, dtype=torch.int64),
        torch.from_numpy(weights * present),
        torch.zeros(3, 6),
        torch.from_numpy(answers),
        torch.zeros(3, 6, 1),
        torch.from_numpy(present),
        torch.from_numpy(present).long(),
    )
    probabilities, supported = p_store(recall, torch.from_numpy(prefix), position, 5)
    for row in range(3):
        share: Counter[int] = Counter()
        for k in range(6 if position < 3 else 0):
            begins = list(answers[row, k, :position]) == list(prefix[row])
            if present[row, k] and begins and answers[row, k, position]:
                share[int(answers[row, k, position])] += weights[row, k]
        assert bool(supported[row]) == bool(share)
        total = sum(share.values()) or 1
        expected = [share[token] / total for token in range(5)]
        np.testing.assert_allclose(probabilities[row].numpy(), expected, rtol=1e-6, atol=1e-12)


def test_the_gradient_of_p_store_reaches_the_weights():
    memory = store(Leave(), capacity=6, neighbours=4, delta=0.1)
    memory.remember(offer((1, 5), (2, 6), (3, 5), (4, 7)))
    query = torch.randn(2, 4, generator=torch.Generator().manual_seed(6)).double()

    def probabilities(query_BD):
        return p_store(memory.recall(query_BD), torch.zeros(2, 0, dtype=torch.int64), 0, 9)[0]

    with memory.frozen():
        assert torch.autograd.gradcheck(probabilities, query.requires_grad_())


def test_a_snapshot_is_a_copy_and_fits_only_a_store_like_its_own():
    memory = store(Leave())
    memory.remember(offer((1, 5), (2, 6)))
    snapshot = memory.snapshot()
    before = {name: column.clone() for name, column in snapshot["columns"].items()}
    memory.remember(offer((3, 7), seed=4))
    memory.recall(torch.zeros(1, 4))
    assert all(torch.equal(before[name], snapshot["columns"][name]) for name in before)
    memory.restore(snapshot)
    memory.remember(offer((4, 8), seed=5))
    assert all(torch.equal(before[name], snapshot["columns"][name]) for name in before)
    with pytest.raises(ValueError, match="other sizes"):
        store(Leave(), capacity=5).restore(snapshot)


def test_a_snapshot_of_longer_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="other sizes"):
        NEC(4, 4, 3, EvictOldest()).restore(NEC(4, 4, 3, EvictOldest(), token_bytes=4).snapshot())


def test_a_store_without_keys_is_not_read() -> None:
    with pytest.raises(ValueError, match="no keys"):
        NEC(4, 0, 3, EvictOldest()).recall(torch.zeros(1, 4))


def test_rekey_measures_the_neighbours_that_stay():
    memory = store(Leave(), capacity=8, neighbours=2)
    candidates = offer(*((n, n + 1) for n in range(4)))
    memory.remember(
        candidates._replace(key_BD=torch.tensor([0.0, 1, 10, 11])[:, None].expand(-1, 4))
    )
    # From the pairs {0, 1} and {2, 3} to the pairs {0, 2} and {1, 3}: of two neighbours, oneself
    # stays and the other does not.
    places = torch.tensor([0.0, 10, 1, 11])
    overlap = memory.rekey(lambda story_BTL: places[story_BTL[:, 0, 0]][:, None].expand(-1, 4))
    assert overlap == pytest.approx(0.5)
    assert memory.columns["keys_ND"][:4, 0].tolist() == places.tolist()


def test_rekey_keeps_no_gradient_and_refuses_what_is_no_key():
    memory, encode = store(Leave()), torch.nn.Linear(2, 4)
    memory.remember(offer((1, 5), (2, 6)))
    memory.rekey(lambda story_BTL: encode(story_BTL[:, 0].float()).double())
    assert not memory.columns["keys_ND"].requires_grad
    before = memory.snapshot()["columns"]["keys_ND"]
    for fault, words in (
        (torch.full((2, 4), torch.nan), "The key is NaN or infinite, and the store is left as it"),
        (torch.zeros(2, 1), "The key has 1 numbers where this store keeps 4"),
    ):
        with pytest.raises(ValueError, match=words):
            memory.rekey(lambda story_BTL, fault=fault: fault)
    with memory.frozen(), pytest.raises(RuntimeError, match="an examination changes no key"):
        memory.rekey(lambda story_BTL: torch.zeros(2, 4))
    assert torch.equal(memory.columns["keys_ND"], before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"capacity": 0}, "capacity=0 should be a whole number, at least 1"),
        ({"identity": "name"}, "choose one"),
    ],
)
def test_wrong_options_say_the_way_out(options, words):
    with pytest.raises(ValueError, match=words):
        store(Leave(), **options)


def test_what_is_recalled_is_the_mean_by_the_kernel_of_the_nearest():
    memory = store(Leave(), capacity=8, neighbours=3)
    memory.remember(offer(*((number, number) for number in range(6)), seed=1))
    query = torch.randn(2, 4, generator=torch.Generator().manual_seed(2))
    keys, vectors = (memory.columns[n][:6].double().numpy() for n in ("keys_ND", "vectors_NV"))
    for row, found in zip(query.double().numpy(), memory.recall(query).mean(), strict=True):
        distance = ((row - keys) ** 2).sum(axis=1)
        nearest = distance.argsort()[:3]
        weights = 1 / (distance[nearest] + memory.delta)
        expected = weights @ vectors[nearest] / weights.sum()
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_store_is_the_same_on_a_gpu():
    here, there = store(Leave(), neighbours=3), store(Leave(), neighbours=3, device="cuda")
    for number in range(6):
        candidates = offer((number, 5), (1, 6), seed=number)
        on_gpu = {"key_BD": candidates.key_BD.cuda(), "vector_BV": candidates.vector_BV.cuda()}
        assert here.remember(candidates) == there.remember(candidates._replace(**on_gpu))
    query = torch.randn(2, 4)
    mine, theirs = here.recall(query), there.recall(query.cuda())
    assert mine.slots_BK.tolist() == theirs.slots_BK.tolist()
    torch.testing.assert_close(mine.weights_BK, theirs.weights_BK.cpu())


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
