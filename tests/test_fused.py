"""Decisions in native code against arrays and against float64: numbers, ties, what is no number."""

import ctypes
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sanitized import expect_sound

from stillknows.memory import native
from stillknows.memory.interface import ADD, Decision, Features
from stillknows.memory.policies.acting import Desk
from stillknows.memory.policies.choosing import Terms, choose
from stillknows.memory.policies.offline import OfflinePolicy
from stillknows.memory.policies.scorer import Scorer

pytestmark = pytest.mark.skipif(native.library() is None, reason="needs a C++ compiler")

UNIT = 2.0**-23  # in the last place, of a number in [1, 2)


def in_arrays(work: Any) -> Any:
    """Return what work returns without native code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: None)
        return work()


def function(name: str, x: np.ndarray) -> np.ndarray:
    """Return what a function of native code makes of numbers, and check that it has no bounds."""
    filled = np.pad(x.astype(np.float32), (0, -len(x) % 16))
    out = np.empty_like(filled)
    call = getattr(native.library(), name)
    call.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    call(filled.ctypes.data, len(filled), out.ctypes.data)
    return out[: len(x)]


def units_off(told: np.ndarray, exact: np.ndarray) -> float:
    """Return the largest error in units in the last place."""
    return float((np.abs(told - exact) / np.spacing(np.abs(exact).astype(np.float32))).max())


def test_exponentials_and_error_functions_are_exact_to_a_few_units() -> None:
    random = np.random.default_rng(0)
    x = np.concatenate([np.linspace(-80, 88, 200_001), random.normal(size=50_000), [0.0, -0.0]])
    x = x.astype(np.float32)
    assert units_off(function("exponentials", x), np.exp(x.astype(np.float64))) <= 2
    x = np.concatenate([np.linspace(-6, 6, 200_001), 10.0 ** random.uniform(-30, 0, 50_000)])
    x = x.astype(np.float32)
    exact = torch.special.erf(torch.from_numpy(x).double()).numpy()
    assert units_off(function("error_functions", x), exact) <= 8


def test_functions_at_the_ends_and_of_what_is_no_number() -> None:
    ends = np.array([-np.inf, -1e9, -80.0, 0.0, np.nan], np.float32)
    told = function("exponentials", ends)
    np.testing.assert_allclose(told[:4], [math.exp(-80)] * 3 + [1], rtol=2 * UNIT)
    odd = np.array([0x7FC12345, 0xFFC00001], np.uint32).view(np.float32)  # NaN with a load
    assert np.isnan([told[4], *function("exponentials", odd)]).all()
    told = function("error_functions", np.array([-np.inf, -9.0, 9.0, np.inf, np.nan]))
    np.testing.assert_allclose(told[:4], [-1, -1, 1, 1], rtol=2 * UNIT)
    assert np.isnan(told[4])


def scorer(seed: int, width: int, hidden: int, outputs: int, scale: float = 0.3) -> Scorer:
    torch.manual_seed(seed)
    made = Scorer(width, hidden, outputs)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return made


def pool(seed: int, rows: int, slots: int, items: int, width: int) -> tuple[torch.Tensor, Features]:
    """Return contents, and features of candidates where any slots hold any of them."""
    random = np.random.default_rng(seed)
    contents = random.normal(size=(rows, slots + items, width))
    contents[:, -1] = contents[:, 0] * random.choice([1.0, 2.0, -1.0])
    number = int(random.integers(items))
    place = np.stack([random.permutation(slots + number)[:slots] for _ in range(rows)])
    filled = random.random((rows, slots)) < random.choice([0.0, 0.5, 1.0])
    contents[np.arange(rows)[:, None], place] *= filled[..., None]  # what is empty is nothing
    place = np.concatenate([place, np.full((rows, 1), slots + number)], axis=1)
    age = random.choice([1.0, 3.0, 40.0, 255.0, 256.0, 3000.0, 2.5], size=filled.shape) * filled
    zeros_BN = torch.zeros(rows, slots)
    features = Features(
        *(torch.zeros(rows, width), zeros_BN, zeros_BN, torch.tensor(age).float(), zeros_BN),
        *(torch.tensor(filled), torch.zeros(rows), torch.zeros(rows, slots + 1), torch.zeros(rows)),
        place_BM=torch.tensor(place),
    )
    return torch.tensor(contents).float(), features


@torch.no_grad()
def noted(made: Scorer, contents: torch.Tensor) -> tuple[Desk, Desk]:
    """Return desks in native code and in arrays."""
    desks = made.note(contents), in_arrays(lambda: made.note(contents))
    assert [type(desk).__name__ for desk in desks] == ["NativeDesk", "ArrayDesk"]
    return desks


SIZES = st.sampled_from([1, 2, 4, 5, 6, 7, 8, 15, 16, 17, 32, 33, 47, 64])


@settings(max_examples=60)
@given(
    st.integers(0, 10**6), SIZES, SIZES, st.sampled_from([1, 3, 8, 17, 40]),
    st.sampled_from([1, 6, 64]), st.sampled_from([1, 8, 16, 24, 32, 100]),
    st.sampled_from([1, 2, 6]), st.sampled_from([0.3, 4.0]),
)  # fmt: skip
def test_numbers_are_those_of_arrays(
    seed: int,
    rows: int,
    slots: int,
    items: int,
    width: int,
    hidden: int,
    outputs: int,
    scale: float,
) -> None:
    contents, features = pool(seed, rows, slots, items, width)
    mine, theirs = (
        desk.scores(features)
        for desk in noted(scorer(seed, width, hidden, outputs, scale), contents)
    )
    loose = 1 if scale < 1 else 100  # large logits make much of little
    size = float(theirs.abs().max())
    torch.testing.assert_close(mine, theirs, rtol=1e-5 * loose, atol=1e-5 * loose * max(1, size))


@torch.no_grad()
def test_a_row_is_worked_out_alike_alone_and_among_others_and_again() -> None:
    contents, features = pool(1, 13, 9, 8, 64)
    made = scorer(1, 64, 32, 2)
    together, again = (made.note(contents).scores(features) for _ in range(2))
    assert torch.equal(together, again)
    for row in range(13):
        parts = [features.filled_BN, features.age_BN, features.place_BM]
        filled, age, place = (part[row : row + 1] for part in parts)
        own = features._replace(filled_BN=filled, age_BN=age, place_BM=place)
        alone = made.note(contents[row : row + 1]).scores(own)
        assert torch.equal(alone[:, 0], together[:, row])


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_no_number_reaches_all_of_its_row_and_no_other(broken: float) -> None:
    contents, features = pool(7, 3, 14, 4, 6)
    made = scorer(7, 6, 8, 2)
    sound = noted(made, contents)[0].scores(features)
    contents[1, int(features.place_BM[1].min()), 3] = broken  # nobody attends to the oldest
    for desk in noted(made, contents):
        told = desk.scores(features)
        assert told[:, 1].isnan().all()
        torch.testing.assert_close(told[:, ::2], sound[:, ::2])


@torch.no_grad()
@pytest.mark.parametrize(("place", "row"), [(-1, 0), (9, 1), (99, 1), (0, 1)])
def test_places_that_cannot_be_are_refused(place: int, row: int) -> None:
    contents, features = pool(0, 2, 4, 5, 6)
    features.place_BM[:] = torch.arange(5)
    features.place_BM[row, 4] = place
    with pytest.raises(ValueError, match=rf"place_BM of row {row} is \[0, 1, 2, 3, {place}\]"):
        scorer(0, 6, 8, 1).note(contents).scores(features)


NUMBERS = [0.0, 1.0, 1.0, -1.0, 0.5, 0.5, 1e-9, 1 - 1e-9, 0.25, math.inf, -math.inf, math.nan]
TERMS = st.builds(
    Terms, st.sampled_from([None, 0.0, 0.5, -math.inf]), st.booleans(), st.booleans(),
    st.sampled_from([0.0, 1e-6]),
)  # fmt: skip


def equal(one: Decision, other: Decision) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


@settings(max_examples=200)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 6), TERMS)
def test_who_stays_is_the_same_to_the_last_bit(
    seed: int, rows: int, slots: int, terms: Terms
) -> None:
    random = np.random.default_rng(seed)
    some = NUMBERS[: random.choice([4, 9, 11, 12])]  # none, or one, that is no number or has no end
    worth, number = (
        torch.tensor(random.choice(some, (rows, columns))).float() for columns in (slots + 1, 2)
    )
    filled = torch.tensor(random.random((rows, slots)) < random.choice([0.0, 0.8, 1.0]))
    mine = choose(filled, worth, number, terms)
    equal(mine, in_arrays(lambda: choose(filled, worth, number, terms)))
    strided = choose(filled, worth.T.contiguous().T, number[:, 1:].expand(-1, 3), terms)
    equal(mine, strided)


@torch.no_grad()
def test_thousands_of_decisions_differ_only_where_two_are_worth_the_same() -> None:
    """Of equals to five digits it may be either; of all others it is the same."""
    made, differing = scorer(5, 16, 32, 1), 0
    for seed in range(64):
        contents, features = pool(seed, 64, 1 + seed % 20, 6, 16)
        worths = [desk.scores(features)[0] for desk in noted(made, contents)]
        terms = Terms(threshold=0.0 if seed % 2 else None)
        decisions = [choose(features.filled_BN, worth, worth, terms) for worth in worths]
        differs_B = torch.stack(
            [(one != two).any(dim=1) for one, two in zip(*(d[:3] for d in decisions), strict=True)]
        ).any(dim=0)
        for row in differs_B.nonzero()[:, 0]:
            held = [
                *worths[1][row][:-1][features.filled_BN[row]],
                worths[1][row, -1],
                torch.zeros(()),
            ]
            gaps = torch.stack(held).sort().values.diff()
            assert float(gaps.min()) < 1e-5
        differing += int(differs_B.sum())
    assert differing < 8  # of 4,096


@settings(max_examples=40)
@given(st.integers(0, 10**6), SIZES, SIZES, st.sampled_from([1, 16, 32, 50]))
def test_the_use_that_is_expected_is_that_of_arrays(
    seed: int, rows: int, slots: int, hidden: int
) -> None:
    torch.manual_seed(seed)
    policy = OfflinePolicy(hidden)
    _, features = pool(seed, rows, slots, 3, 2)
    features = features._replace(
        similarity_BN=(2 * torch.rand(rows, slots) - 1) * features.filled_BN,
        idle_BN=features.age_BN // 2,
        usage_BN=3 * torch.rand(rows, slots).T.contiguous().T,
    )
    exact = policy.double().expected_use(Features(*map(wide, features))).detach().numpy()
    policy.float()
    mine, theirs = policy._acted(features), in_arrays(lambda: policy._acted(features))
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mine, exact, rtol=2e-5, atol=2e-5)


def wide(part: Any) -> Any:
    return part.double() if isinstance(part, torch.Tensor) and part.is_floating_point() else part


def test_likeness_that_is_no_number_is_met_as_in_arrays() -> None:
    policy = OfflinePolicy()
    _, features = pool(3, 3, 4, 3, 2)
    similarity = torch.rand(3, 4)
    similarity[1, 2] = math.nan
    features = features._replace(similarity_BN=similarity, filled_BN=torch.ones(3, 4) > 0)
    mine, theirs = policy._acted(features), in_arrays(lambda: policy._acted(features))
    assert mine[1].isnan().all()
    torch.testing.assert_close(mine, theirs, equal_nan=True)
    assert not policy.decide(features).action_B4[1, ADD]


DRIVER = """
import ctypes, itertools, sys
import numpy as np
library, random = ctypes.CDLL(sys.argv[1]), np.random.default_rng(0)
library.score.restype = ctypes.c_int64

def call(name, *given):
    kinds = {int: ctypes.c_int64, float: ctypes.c_double}
    return getattr(library, name)(*(
        kinds[type(each)](each) if type(each) in kinds
        else ctypes.c_void_p(each.ctypes.data) if isinstance(each, np.ndarray) else each
        for each in given
    ))

def floats(*shape):
    return random.normal(size=shape).astype(np.float32)

def addresses(*arrays):
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))

sizes = itertools.product((1, 4, 15, 16, 17, 32, 64), (1, 7, 64), (1, 6), (17, 64), (8, 48))
for N, B, items, W, H in sizes:
    P, M, O = N + items, N + 1, 1 + N % 2
    packed = floats(W * H + H + 2 * H * H + 2 * H + 12 * H + H * H + H + O * H + O + O + 1)
    packed[-1] = 1
    contents, noted, alike = floats(B, P, W), floats(B, P, 3 * H), floats(B, P, -(-P // 8) * 8)
    place = np.stack([random.permutation(P)[:M] for _ in range(B)]).astype(np.int64)
    age, use, score = floats(B, N) ** 2 * 100, floats(B, N) ** 2, floats(O, B, M)
    filled = (random.random((B, N)) < (0, 0.5, 1)[(N + B) % 3]).astype(np.uint8)
    call("note", packed, W, H, O, contents, B, P, noted, alike)
    asked = packed, W, H, O, noted, alike, B, P, N, place, age, filled, score
    assert call("score", *asked) == -1
    assert np.isfinite(score).all()
    place[B - 1, N] = (-1, P, place[B - 1, 0])[N % 3]
    assert call("score", *asked) == B - 1
    odd = H - 5
    layers = floats(odd, 7), floats(odd), floats(odd, odd), floats(odd), floats(1, odd), floats(1)
    past = addresses(age, use, use)
    call("expect_use", addresses(*layers), odd, B, N, filled, age, past, floats(B, M))
    told = floats(B, 4), floats(B, N), floats(B, N), floats(B)
    call("choose", B, N, filled, age, N, use, N, 0.5, 1e-6, int(random.integers(16)), *told)
print("sound")
"""


def test_no_number_is_read_or_written_beyond_an_array(tmp_path: Path) -> None:
    """Under AddressSanitizer: from 1 slot to 64, of 1 row to 64, nothing held or all."""
    expect_sound(DRIVER, native.SOURCES[1:], tmp_path)
