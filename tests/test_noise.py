"""Noise: the published numbers of SplitMix64, and uniform whichever counter moves."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from stillknows.memory.noise import mix, uniform

WHOLE = st.integers(-(2**63), 2**63 - 1)
MASK = 2**64 - 1
MASK_32 = 2**32 - 1


def splitmix(x: int) -> int:
    """Return what SplitMix64 gives from state `x`, in whole numbers without a sign."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def whole(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def chi_square(x: torch.Tensor, bins: int = 16) -> float:
    counts = torch.histc(x.flatten(), bins, 0, 1)
    expected = x.numel() / bins
    return float(((counts - expected) ** 2 / expected).sum())


def test_mix_gives_the_published_numbers_of_splitmix64() -> None:
    golden = 0x9E3779B97F4A7C15 - 2**64
    state = whole(0, golden, golden * 2 + 2**64)
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [x % 2**64 for x in mix(state).tolist()] == published


@given(WHOLE)
def test_mix_agrees_with_whole_numbers_without_a_sign(x: int) -> None:
    assert mix(whole(x)).item() & MASK == splitmix(x & MASK)


@given(WHOLE, WHOLE, st.integers(0, 100))
def test_uniform_agrees_with_whole_numbers_without_a_sign(key: int, step: int, place: int) -> None:
    row = splitmix(splitmix(key & MASK) ^ (step & MASK))
    x = (row ^ splitmix(place)) & MASK_32
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & MASK_32
    x ^= row >> 32
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & MASK_32
    x ^= x >> 16
    assert uniform(whole(key), whole(step), place + 1)[0, place].item() == (x >> 8) / 2**24


def test_a_row_depends_on_its_own_counters_only() -> None:
    keys, steps = torch.arange(50), torch.arange(50) % 7
    drawn = uniform(keys, steps, 9)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(uniform(keys[order], steps[order], 9), drawn[order])
    assert torch.equal(uniform(keys[3:4], steps[3:4], 9), drawn[3:4])
    assert torch.equal(uniform(keys, steps, 4), drawn[:, :4])  # a size is a prefix of a larger one
    assert torch.equal(keys, torch.arange(50))


def test_uniform_whichever_counter_moves() -> None:
    many, none = torch.arange(20000), torch.zeros(20000, dtype=torch.int64)
    by_key, by_step = uniform(many, none, 1), uniform(none, many, 1)
    by_place = uniform(whole(7), whole(3), 20000)
    for drawn in (by_key, by_step, by_place):
        assert drawn.min() >= 0
        assert drawn.max() < 1
        assert chi_square(drawn) < 37.7  # 15 degrees of freedom, p = 0.001
    pairs = torch.stack([by_key[:, 0], by_step[:, 0], by_place[0]])
    lagged = torch.cat([pairs[:, 1:], pairs[:, :-1]])
    off = torch.corrcoef(lagged).fill_diagonal_(0)
    assert off.abs().max() < 0.03  # four standard deviations of independent numbers


def test_uniform_over_rows_and_places_together() -> None:
    drawn = uniform(torch.zeros(300, dtype=torch.int64), torch.arange(300), 300)
    assert chi_square(drawn) < 37.7
    winners = drawn.argmax(dim=1).float() / 300  # who is evicted, were these slots
    assert chi_square(winners) < 37.7
    off = torch.corrcoef(drawn).fill_diagonal_(0)
    assert off.abs().max() < 0.31  # 45,000 pairs of 300 numbers: 5.3 standard deviations


def test_no_two_counters_share_their_noise() -> None:
    keys, steps = torch.cartesian_prod(torch.arange(60), torch.arange(60)).unbind(dim=1)
    rows = {tuple(row) for row in uniform(keys, steps, 3).tolist()}
    assert len(rows) == 3600
