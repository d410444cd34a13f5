"""The native file against PyTorch: the same bits whoever does it, and a way without it."""

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from natively import blunted, both, compiled, hidden, lopsided, points, search_alike

from stillknows.memory import native
from stillknows.memory.action_values import ActionValues
from stillknows.memory.episodic import Candidates
from stillknows.memory.interface import ADD
from stillknows.memory.knn import by_halves, nearest
from stillknows.memory.names import Names
from stillknows.memory.nec import NEC
from stillknows.memory.noise import mix, uniform
from stillknows.memory.policies.rules import EvictIdle, EvictOldest
from stillknows.memory.stores.store import COUNTERS
from stillknows.memory.table import Table


@compiled
@settings(max_examples=200)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["spread", "whole", "clumps", "walk", "tails", "small"]),
    st.sampled_from([1, 2, 3, 16, 17, 32, 40]),
    st.sampled_from([1, 7, 200, 1500]),
    st.sampled_from([1, 5, 16, 31, 32, 33, 64, 100, 600]),
    st.sampled_from([1, 2, 3, 10, 30]),
)
def test_the_nearest_are_the_same_to_the_last_bit(seed, kind, rows, entries, size, k):
    random = np.random.default_rng(seed)
    all_points = torch.from_numpy(points(random, kind, entries + rows, size))
    keys, filled = all_points[rows:], torch.from_numpy(random.random(entries) < 0.9)
    query = all_points[:rows] if seed % 2 else keys[torch.arange(rows) % entries] + 0.0
    search_alike(query, keys, filled, k)


@compiled
@settings(max_examples=25)
@given(
    st.integers(0, 10**6),
    st.sampled_from([16, 33, 64]),
    st.integers(1, 12),
    st.sampled_from([2, 32]),
)
def test_a_crowd_of_equal_keys_is_measured_one_by_one(seed, size, k, rows):
    random = torch.Generator().manual_seed(seed)
    few_5D = torch.randn(5, size, generator=random)  # each as many times as there is room, and more
    keys = few_5D.repeat(400, 1)[torch.randperm(2000, generator=random)]
    query = torch.randn(rows, size, generator=random)
    filled = torch.rand(2000, generator=random) < 0.9
    search_alike(query, keys, filled, k)


@compiled
@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([1, 3, 17, 32]))
def test_a_guess_from_some_of_the_keys_misses_nobody(seed, k, rows):
    """Stores so large for K that the edge is guessed: against distances in float64."""
    random = np.random.default_rng(seed)
    keys = points(random, ["spread", "walk"][seed % 2], 300 * k, 8)
    query = points(random, "spread", rows, 8)
    filled = torch.ones(len(keys), dtype=torch.bool)
    slots = search_alike(torch.from_numpy(query), torch.from_numpy(keys), filled, k)[1]
    wide = query[:, None].astype(np.float64) - keys
    assert slots.tolist() == np.square(wide).sum(axis=2).argsort(axis=1)[:, :k].tolist()


@compiled
def test_a_guess_that_lets_in_just_as_many_as_are_wanted_is_not_trusted():
    """Keys about an edge, closer together than rounded products can tell."""
    sampled = torch.arange(640) // 8 % 16 == 0
    sampled, others = (held.nonzero()[:, 0] for held in (sampled, ~sampled))
    everywhere = torch.ones(640, dtype=torch.bool)
    for seed in range(200):
        random = torch.Generator().manual_seed(seed)
        noise = torch.nn.functional.normalize(torch.randn(640, 64, generator=random))
        query = torch.nn.functional.normalize(torch.randn(64, generator=random), dim=0)
        keys = 0.1 * noise - 3 * query  # far, so that the centre is
        keys[sampled[:6]] = query + 0.01 * noise[:6]
        distance = 0.83 + 0.1 * torch.rand(8, 1, generator=random)
        keys[others[:8]] = query + distance.sqrt() * noise[16:24]
        asked = query.expand(3, -1).contiguous()
        search_alike(asked, keys, everywhere, 10)


@compiled
@pytest.mark.parametrize("made", [hidden, lopsided, blunted])
def test_nobody_is_missed_whose_rounded_product_says_least(made):
    for seed in range(20):
        random = np.random.default_rng(seed)
        query, keys, five = made(random)
        expected = sorted(np.square(query - keys).sum(axis=1).argsort()[:5].tolist())
        assert expected == sorted(five.tolist())
        asked = torch.tensor(np.repeat(query[None], 20, axis=0), dtype=torch.float32)
        asked[1:] += 0.01 * torch.tensor(random.normal(size=(19, 64)))
        held = torch.tensor(keys, dtype=torch.float32)
        everywhere = torch.ones(640, dtype=torch.bool)
        for some in (asked[:1], asked):
            found = search_alike(some, held, everywhere, 5)[1][0]
            assert sorted(found.tolist()) == expected


@compiled
def test_threads_find_what_one_does():
    random = torch.Generator().manual_seed(3)
    keys, query = (torch.randn(n, 64, generator=random) for n in (4000, 128))
    filled = torch.rand(4000, generator=random) < 0.9
    alone = nearest(query, keys, filled, 5)
    torch.set_num_threads(3)
    try:
        together = nearest(query, keys, filled, 5)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))


@given(st.integers(0, 10**6), st.integers(1, 70))
def test_a_sum_by_halves_is_one_in_loops(seed, size):
    numbers = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    held = [*numbers, *[np.float32(0)] * (2 ** max(0, size - 1).bit_length() - size)]
    while len(held) > 1:
        half = len(held) // 2
        held = [held[at] + held[at + half] for at in range(half)]
    assert by_halves(torch.from_numpy(numbers)).item() == held[0]


def tree(memory):
    """Return all that a memory knows as a flat list."""
    if isinstance(memory, ActionValues):
        return [part for store in memory.stores for part in tree(store)]
    snapshot = memory.snapshot()
    return [*snapshot["columns"].values(), *(torch.tensor(snapshot[name]) for name in COUNTERS)]


@compiled
@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["inverse_distance", "mean"]),
    st.sampled_from(["average", "max"]),
    st.sampled_from([EvictIdle, EvictOldest]),
)
def test_a_life_of_action_values_is_the_same_to_the_last_bit(seed, kernel, update, policy):
    """Reads that count and that do not, writes of known and unknown states, learning, copies."""

    def life():
        random = torch.Generator().manual_seed(seed)
        memory = ActionValues(
            3, 12, 5, neighbours=4, kernel=kernel, update=update, empty=-1.0, update_rate=0.3,
            learning_rate=0.01, policy=policy,
        )  # fmt: skip
        heard = []
        for step in range(12):
            rows = int(torch.randint(1, 9, (), generator=random))
            keys = torch.randn(rows, 5, generator=random)
            names = torch.randint(20, (rows,), generator=random)
            actions = torch.randint(3, (rows,), generator=random)
            heard.append(memory.values(keys, names))
            with memory.frozen():
                heard.append(memory.values(keys + 1, names))
            if step % 4 == 3:
                memory.replay(actions, keys, names).square().sum().backward()
                memory.descend()
                memory = copy.deepcopy(memory)
            memory.write(actions, keys, names, torch.randn(rows, generator=random))
        return heard + tree(memory)

    mine, theirs = both(life)
    assert all(torch.equal(one, two) for one, two in zip(mine, theirs, strict=True))


@compiled
def test_action_values_of_a_query_that_is_laid_out_otherwise_are_the_same():
    """Native code reads numbers one after the other; a query on its side is no such thing."""
    random = torch.Generator().manual_seed(0)
    memory, rows = ActionValues(2, 40, 5, neighbours=4), torch.arange(40)
    keys, returns = torch.randn(40, 5, generator=random), torch.randn(40, generator=random)
    memory.write(rows % 2, keys, rows, returns)
    query = torch.randn(5, 33, generator=random).T
    with memory.frozen():
        heard = memory.values(query, rows[:33])
        assert torch.equal(heard, memory.values(query.contiguous(), rows[:33]))
        assert torch.equal(heard, torch.cat([memory.values(row[None], rows[:1]) for row in query]))


@compiled
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=40),
    st.sampled_from([0.0, float("nan"), float("inf"), -float("inf")]),
    st.integers(0, 40),
)
def test_it_is_told_whether_numbers_are_finite(numbers, last, at):
    """Wherever one is not; and nothing is told of what is not read there."""
    numbers = torch.tensor([*numbers[:at], last, *numbers[at:]])
    assert native.is_finite(numbers) is bool(numbers.isfinite().all())
    assert native.is_finite(numbers.double()) is None
    assert native.is_finite(torch.ones(4, 4)[:, ::2]) is None


def candidates(random, rows):
    """Return rows whose numbers have other types and orders than the columns."""
    names = torch.from_numpy(random.integers(8, size=rows))
    return Candidates(
        key_BD=torch.from_numpy(random.normal(size=(4, rows)).astype(np.float32)).T,
        vector_BV=torch.from_numpy(random.normal(size=(rows, 2))),
        answers_BA=torch.from_numpy(random.integers(2, size=(rows, 1 + rows % 4))),
        story_BTL=torch.from_numpy(random.integers(9, size=(rows, 2, 3)).astype(np.int32)),
        hash_B=names,
        outcome_BF=torch.zeros(rows, 3),
        task_B=names % 3,
        episode_B=torch.arange(2 * rows)[::2],
        step_B=torch.full((rows,), 7),
    )


@compiled
@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(1, 9),
    st.sampled_from([EvictIdle, EvictOldest]),
    st.booleans(),
    st.sampled_from(["question", "text", "none"]),
    st.sampled_from([1, 2, 4]),
)
def test_a_life_of_writes_is_the_same_to_the_last_bit(
    seed, capacity, policy, refresh, identity, token_bytes
):
    """What became of each row, who holds what, holes that deletions leave, and all columns."""

    def life():
        random = np.random.default_rng(seed)
        memory = NEC(
            capacity, 4, 2, policy(refresh), answer_length=2, story_shape=(2, 3), neighbours=3,
            identity=identity, update_rate=0.4, token_bytes=token_bytes,
        )  # fmt: skip
        heard = []
        for step in range(10):
            rows = candidates(random, int(random.integers(1, capacity + 3)))
            heard.append(torch.tensor(memory.remember(rows)))
            heard.append(memory.recall(rows.key_BD[:2].contiguous()).namesakes_BK)
            heard.append(memory.find(torch.arange(9)))
            if step == 6:
                memory.delete([int(heard[-3][0, 1])])
                heard.append(torch.tensor(sorted(memory.holes)))
        return type(memory.names), heard + tree(memory)

    (mine, told), (theirs, expected) = both(life)
    assert (mine, theirs) == (Table, Names)
    assert all(torch.equal(one, two) for one, two in zip(told, expected, strict=True))


@compiled
@settings(max_examples=30)
@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 40), st.sampled_from([1, 500, 1500, 20000]))
def test_noise_is_the_same_to_the_last_bit(key, rows, size):
    keys_B, steps_B = mix(torch.full((rows,), key) + torch.arange(rows)), torch.arange(rows) % 3
    for steps in (steps_B, steps_B[:1]):
        mine, theirs = both(lambda steps=steps: uniform(keys_B, steps, size))
        assert torch.equal(mine, theirs)


@compiled
def test_who_left_within_the_step_is_added_again() -> None:
    def life():
        memory = NEC(2, 4, 2, EvictOldest(), answer_length=1, story_shape=(2, 3))
        rows = candidates(np.random.default_rng(0), 2)._replace(answers_BA=torch.ones(2, 1))
        memory.remember(rows._replace(hash_B=torch.tensor([1, 2])))
        told = memory.remember(rows._replace(hash_B=torch.tensor([3, 1])))
        return told, memory.find(torch.tensor([1, 2, 3])).tolist()

    # 3 takes the place of 1, so 1 takes that of 2.
    assert both(life) == (([(ADD, 2, 0), (ADD, 3, 1)], [1, -1, 0]),) * 2


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty cache folder that is looked into anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    yield tmp_path / "stillknows"
    native.library.cache_clear()


def test_without_a_compiler_or_by_wish_there_is_none(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert native.library() is None
    assert list(cache.iterdir()) == []
    native.library.cache_clear()
    monkeypatch.setenv("STILLKNOWS_NATIVE", "0")
    assert native.library() is None


def test_a_compiler_that_fails_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    assert native.library() is None
    assert list(cache.iterdir()) == []


def test_a_folder_that_others_write_to_is_not_trusted(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    assert native.library() is None
    assert list(cache.iterdir()) == []


@compiled
def test_several_processes_may_begin_at_once(cache: Path) -> None:
    code = "from stillknows.memory import native; assert native.library() is not None"
    run = [sys.executable, "-c", code]
    begun = [subprocess.Popen(run, env=dict(os.environ)) for _ in range(3)]
    assert [each.wait(timeout=120) for each in begun] == [0, 0, 0]
    assert [path.suffix for path in cache.iterdir()] == [".so"]
