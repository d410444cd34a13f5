"""Keys in bytes between searches: whatever changes keys, a search finds what it would without."""

import copy
import pickle

import pytest
import torch
from candidates import rows
from hypothesis import given, settings
from hypothesis import strategies as st
from natively import compiled

from stillknows.memory import native
from stillknows.memory.action_values import ActionValues
from stillknows.memory.knn import nearest
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictIdle, Reservoir
from stillknows.memory.rounded import Rounded

torch.set_num_threads(1)
in_bytes = pytest.mark.skipif(
    not native.longest_rounded(), reason="keys are not kept in bytes here"
)


def source(seed):
    return torch.Generator().manual_seed(seed)


def some(count, seed=0):
    return rows(*[(seed % 999 + row, row) for row in range(count)], seed=seed)


def write(memory, seed):
    memory.remember(some(1 + seed % 13, seed))


def rekey(memory, seed):
    keys = torch.randn(memory.capacity, 4, generator=source(seed))
    memory.rekey(lambda story_BTL: keys[: len(story_BTL)])


def delete(memory, seed):
    memory.delete(memory.provenance("id")[:seed:3].tolist())


def come_back(memory, seed):
    snapshot = memory.snapshot()
    write(memory, seed)
    memory.restore(snapshot)


def set_by_hand(memory, seed):
    memory.columns["keys_ND"][seed % 50] = torch.randn(4, generator=source(seed))


def behind_a_write(memory, seed):
    """A key that no write changed, and then a write."""
    set_by_hand(memory, seed + 1)
    write(memory, seed)


WAYS = [write, write, write, rekey, delete, come_back, set_by_hand, behind_a_write]


@settings(max_examples=80)
@given(st.integers(0, 10**6), st.sampled_from([EvictIdle, Reservoir]), st.booleans())
def test_whatever_changes_keys_a_search_finds_what_it_would_without(seed, policy, asks):
    memory = NEC(50, 4, 3, policy(), answer_length=1, story_shape=(2, 3), identity="none")
    for step in range(25):
        number = seed + 31 * step
        WAYS[number % len(WAYS)](memory, number)
        if asks or step % 5 == 4:
            query = torch.randn([1, 2, 5, 33][number % 4], 4, generator=source(number))
            keys, filled = memory.columns["keys_ND"], memory.columns["filled_N"]
            found, expected = memory.nearest(query, 3), nearest(query, keys, filled, 3)
            assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_steps_of_the_gradient_are_followed():
    memory = ActionValues(2, 60, 5, neighbours=4, learning_rate=0.5)
    keys, names = torch.randn(50, 5, generator=source(1)), torch.arange(50)
    memory.write(names % 2, keys, names, torch.rand(50, generator=source(2)))
    for step in range(6):
        query = torch.randn(7, 5, generator=source(step + 3))
        memory.values(query, names[:7] - 50)
        memory.replay(names[:7] % 2, query, names[:7] - 50).square().sum().backward()
        before = [store.columns["keys_ND"].clone() for store in memory.stores]
        memory.descend()
        for store, then in zip(memory.stores, before, strict=True):
            assert not torch.equal(store.columns["keys_ND"], then)
        values = memory.values(query, names[:7] - 50)
        assert torch.equal(values, copy.deepcopy(memory).values(query, names[:7] - 50))


@compiled
@in_bytes
def test_only_what_has_changed_is_put_into_bytes_again(monkeypatch):
    asked = []
    put = native.round_rows

    def told(keys_ND, filled_N, room, slots):
        asked.append(None if slots is None else len(slots))
        put(keys_ND, filled_N, room, slots)

    monkeypatch.setattr(native, "round_rows", told)
    memory = NEC(200, 4, 3, EvictIdle(), answer_length=1, story_shape=(2, 3))
    query = torch.randn(2, 4, generator=source(0))
    for count in (100, 7, 5):
        memory.remember(some(count))
        memory.nearest(query, 3)
    memory.nearest(query, 3)
    memory.columns["keys_ND"][3] = 0.0  # nobody says so
    memory.nearest(query, 3)
    for _ in range(12):  # more changes than the centre is trusted for
        memory.remember(some(11))
        memory.nearest(query, 3)
    assert asked == [None, 7, 5, 0, None, *[11] * 9, None, 11, 11]


def test_a_copy_begins_anew():
    kept = Rounded()
    columns = {"keys_ND": torch.randn(9, 3), "filled_N": torch.ones(9, dtype=torch.bool)}
    kept.of(columns, 9)
    for twin in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
        assert vars(twin) == vars(Rounded())


def test_keys_that_are_none_or_too_long_are_not_kept():
    for size in (0, native.longest_rounded() + 1):
        columns = {"keys_ND": torch.zeros(2, size), "filled_N": torch.ones(2, dtype=torch.bool)}
        assert Rounded().of(columns, 2) is None


@in_bytes
def test_what_changes_while_nobody_reads_is_not_noted_without_end():
    store = NEC(20, 4, 3, EvictIdle(), story_shape=(2, 3))
    store.rounded.of(store.columns, 20)
    for seed in range(30):
        write(store, seed)
        assert len(store.rounded._changed) <= 20
    query = torch.randn(3, 4, generator=source(1))
    got = store.nearest(query, 5)
    wanted = nearest(query, store.columns["keys_ND"], store.columns["filled_N"], 5)
    assert all(torch.equal(one, two) for one, two in zip(got, wanted, strict=True))
