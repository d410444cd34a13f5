"""Nearest neighbours against a search in plain numpy, and the kernel against its formula."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.memory import knn
from stillknows.memory.knn import by_halves, inverse_distance_weights, nearest

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("either")


def by_hand(query, keys, filled, neighbours):
    """Search in plain loops: distances and slots of one query, missing ones infinite and -1."""
    found = sorted(
        (float(np.sum((query - keys[slot]) ** 2)), slot)
        for slot in range(len(keys))
        if filled[slot]
    )
    found = (found + [(np.inf, -1)] * neighbours)[:neighbours]
    return [distance for distance, _ in found], [slot for _, slot in found]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.integers(1, 30),
    st.integers(1, 4),
    st.integers(1, 9),
    st.sampled_from([{}, {"_CHUNK": 1}, {"_FEW": 0}, {"_CACHED": 0, "_PIECE": 4}]),
)
def test_agrees_with_brute_force_on_a_grid_full_of_ties(seed, rows, entries, size, k, sizes):
    random = np.random.default_rng(seed)
    # Whole numbers: distances are exact, and many are equal.
    query = random.integers(-2, 3, (rows, size)).astype(np.float32)
    keys = random.integers(-2, 3, (entries, size)).astype(np.float32)
    filled = random.random(entries) < 0.7
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sizes.items():
            patch.setattr(knn, name, value)
        distance, slot = nearest(*map(torch.from_numpy, (query, keys, filled)), k)
    for row in range(rows):
        expected_distance, expected_slot = by_hand(query[row], keys, filled, k)
        assert distance[row].tolist() == expected_distance
        assert slot[row].tolist() == expected_slot


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 10.0, 1000.0]))
def test_agrees_with_brute_force_far_from_the_origin(seed, offset):
    """The matrix product alone would mix up neighbours that lie far away and close together."""
    random = np.random.default_rng(seed)
    keys = (random.normal(size=(50, 8)) + offset).astype(np.float32)
    query = (keys[:3] + random.normal(size=(3, 8)) * 0.1).astype(np.float32)
    everywhere = torch.ones(50, dtype=torch.bool)
    distance, slot = nearest(torch.from_numpy(query), torch.from_numpy(keys), everywhere, 5)
    for row in range(3):
        wide = query[row].astype(np.float64), keys.astype(np.float64)
        expected_distance, expected_slot = by_hand(*wide, everywhere, 5)
        assert slot[row].tolist() == expected_slot
        np.testing.assert_allclose(distance[row].numpy(), expected_distance, rtol=1e-5)


def test_the_distance_of_a_stored_key_to_itself_is_zero():
    keys = torch.randn(20, 16, generator=torch.Generator().manual_seed(0)) * 100
    distance, slot = nearest(keys, keys, torch.ones(20, dtype=torch.bool), 3)
    assert slot[:, 0].tolist() == list(range(20))
    assert distance[:, 0].tolist() == [0.0] * 20
    assert (distance[:, 1] > 0).all()


def test_what_one_query_finds_does_not_depend_on_the_others():
    random = torch.Generator().manual_seed(1)
    keys = torch.randn(6, 24, generator=random).repeat(50, 1)  # every key fifty times
    query = torch.randn(17, 24, generator=random)
    filled = torch.rand(300, generator=random) < 0.8
    together = nearest(query, keys, filled, 8)
    for row in range(17):
        alone = nearest(query[row : row + 1], keys, filled, 8)
        assert torch.equal(alone[1][0], together[1][row])
        torch.testing.assert_close(alone[0][0], together[0][row])


@pytest.mark.parametrize("entries", [200, 5000])
def test_among_many_equal_keys_the_lowest_slots_win(entries):
    """More keys tie than are in reserve, in stores of one key a block and of several."""
    random = np.random.default_rng(entries)
    keys = random.integers(-1, 2, (entries, 2)).astype(np.float32)  # nine different keys
    filled = random.random(entries) < 0.9
    query = np.array([[0, 0], [1, 1], [0.5, -0.25]], dtype=np.float32)
    distance, slot = nearest(*map(torch.from_numpy, (query, keys, filled)), 6)
    for row in range(3):
        expected_distance, expected_slot = by_hand(query[row], keys, filled, 6)
        assert distance[row].tolist() == expected_distance
        assert slot[row].tolist() == expected_slot


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from([1, 3]), st.integers(1, 400), st.sampled_from([2, 4, 8])
)
def test_a_search_in_groups_finds_what_a_plain_one_does(seed, rows, entries, size):
    """Groups of keys whose lowest score alone is held, and gradients that reach the winners."""
    random = torch.Generator().manual_seed(seed)
    keys = torch.randn(entries, 5, generator=random).requires_grad_()
    query = torch.randn(rows, 5, generator=random).requires_grad_()
    filled = torch.rand(entries, generator=random) < 0.9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn, "_group_size", lambda queries, keys: size)
        patch.setattr(knn, "_CHUNK", 64)
        patch.setattr(knn, "_FEW", 0)
        distance, slot = nearest(query, keys, filled, 6)
    plain = (query[:, None] - keys).square().sum(-1).masked_fill(~filled, torch.inf)
    expected, order = plain.sort(dim=1, stable=True)
    there = expected[:, :6].isfinite()
    assert torch.equal(slot[:, : there.shape[1]], order[:, :6].masked_fill(~there, -1))
    assert (slot[:, there.shape[1] :] == -1).all()
    torch.testing.assert_close(distance[:, : there.shape[1]], expected[:, :6])
    found, wanted = distance[distance.isfinite()].sum(), expected[:, :6][there].sum()
    mine, theirs = (torch.autograd.grad(total, (query, keys)) for total in (found, wanted))
    torch.testing.assert_close(mine, theirs)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 700), st.integers(1, 40))
def test_the_lowest_are_those_of_topk(seed, rows, entries, count):
    score = torch.randn(entries, rows, generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn, "_FEW", 0)
        lowest, where = knn._lowest(score, count)
    expected = score.T.topk(min(count, entries), dim=1, largest=False)
    assert torch.equal(lowest, expected.values)
    assert torch.equal(where, expected.indices)


def test_no_keys_have_no_neighbours():
    nobody = torch.zeros(0, dtype=torch.bool)
    distance, slot = nearest(torch.ones(2, 3), torch.ones(0, 3), nobody, 4)
    assert slot.tolist() == [[-1] * 4] * 2
    assert distance.isinf().all()


def test_lengths_are_those_of_the_keys_after_any_change():
    lengths, keys = knn.Lengths(), torch.randn(5, 3)
    filled = torch.arange(5) < 4

    def agree(lengths, keys):
        return torch.equal(lengths.of(keys, filled), knn.squared_lengths(keys, filled))

    assert agree(lengths, keys)
    keys[:2][0] += 1  # through a view
    assert agree(lengths, keys)
    filled[4] = True
    assert agree(lengths, keys)
    copied_lengths, copied_keys = copy.deepcopy((lengths, keys))
    copied_keys += 1  # as many changes as the first ever had
    assert agree(copied_lengths, copied_keys)
    assert agree(lengths, keys.clone())


def test_no_queries_have_no_neighbours():
    keys, filled = torch.ones(5, 3), torch.ones(5, dtype=torch.bool)
    distance, slot = nearest(torch.ones(0, 3), keys, filled, 4)
    assert distance.shape == slot.shape == (0, 4)


def test_an_empty_memory_has_no_neighbours():
    distance, slot = nearest(
        torch.ones(2, 3), torch.ones(5, 3), torch.zeros(5, dtype=torch.bool), 4
    )
    assert torch.equal(slot, torch.full((2, 4), -1))
    assert distance.isinf().all()
    assert inverse_distance_weights(distance).tolist() == [[0.0] * 4] * 2


def test_the_kernel_is_one_over_distance_plus_delta():
    distance = torch.tensor([[0.0, 1.0, 3.0], [2.0, torch.inf, torch.inf]])
    weights = inverse_distance_weights(distance, 0.5)
    kernel = np.array([1 / 0.5, 1 / 1.5, 1 / 3.5])
    np.testing.assert_allclose(weights[0].numpy(), kernel / kernel.sum(), rtol=1e-6)
    assert weights[1].tolist() == [1.0, 0.0, 0.0]


def test_the_gradient_of_the_weights_is_that_of_differences():
    random = torch.Generator().manual_seed(2)
    keys = torch.randn(9, 3, generator=random).double()
    query = torch.randn(2, 3, generator=random).double().requires_grad_()
    filled = torch.arange(9) != 4

    def weights(query_BD, keys_ND):
        return inverse_distance_weights(nearest(query_BD, keys_ND, filled, 4)[0], 0.1)

    assert torch.autograd.gradcheck(weights, (query, keys.requires_grad_()))


def test_missing_neighbours_leave_finite_gradients():
    query = torch.ones(2, 3, requires_grad=True)
    filled = torch.tensor([True, False, False])
    weights = inverse_distance_weights(nearest(query, torch.zeros(3, 3), filled, 5)[0])
    weights.square().sum().backward()
    assert query.grad is not None
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("size", [1, 3, 20])
@pytest.mark.parametrize("scale", [1e-22, 1e-20, 1e-18])
def test_the_nearest_of_keys_whose_squares_are_denormal_are_exact(scale, size, either):
    """Ties among them are many: the lower slot wins."""
    random = np.random.default_rng(size)
    for _ in range(20):
        keys, query = (scale * random.normal(size=(n, size)) for n in (400, 5))
        keys, query = (torch.from_numpy(x.astype(np.float32)) for x in (keys, query))
        distance, slots = nearest(query, keys, torch.ones(400, dtype=torch.bool), 5)
        wanted = by_halves((query[:, None] - keys).square()).sort(dim=1, stable=True)
        assert torch.equal(distance, wanted.values[:, :5])
        assert torch.equal(slots, wanted.indices[:, :5])
