"""Temporal links: the sparse and the factored one against loops, and against the exact one."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stillknows.memory.dnc import DNC
from stillknows.memory.links import ExactLink, ExactState, FactoredLink, Link, SparseLink

B, J, N, R = 2, 2, 6, 3


def soft_writes(steps: int, seed: int = 0, sharpness: float = 1.0) -> Tensor:
    """Return write weights that sum to less than 1, `[T, B, J, N]`."""
    source = torch.Generator().manual_seed(seed)
    scores = sharpness * torch.randn(steps, B, J, N, generator=source).double()
    gates = torch.rand(steps, B, J, 1, generator=source).double()
    return torch.softmax(scores, dim=-1) * gates


def one_slot_writes(steps: int, seed: int = 0) -> Tensor:
    """Return writes to one slot each, some of them weak or none, `[T, B, J, N]`."""
    source = torch.Generator().manual_seed(seed)
    slots = torch.randint(N, (steps, B, J), generator=source)
    gates = torch.rand(steps, B, J, 1, generator=source).double().round(decimals=1)
    return torch.nn.functional.one_hot(slots, N) * gates


def matrix(link: Link, writes: Tensor) -> np.ndarray:
    """Return L after writes, `[B, J, N, N]`, by following from every slot; `b` is its transpose."""
    state = link.initial_state(B, J, N)
    state = type(state)(*(z.double() if z.is_floating_point() else z for z in state))
    every = torch.eye(N).double().expand(B, -1, -1)
    for weights in writes:
        state, forward, backward = link.step(state, weights, every)
    np.testing.assert_allclose(backward.transpose(2, 3), forward, atol=1e-12)
    return forward.transpose(2, 3).numpy()


def in_loops(writes: Tensor, decay, keep: int = N) -> np.ndarray:
    """Return L by its recurrence, only the `keep` strongest links of a slot kept."""
    L, p = np.zeros((B, J, N, N)), np.zeros((B, J, N))
    for w in writes.numpy():
        for at in np.ndindex(B, J):
            first = set(np.argsort(-p[at], kind="stable")[:keep])
            old = L[at].copy()
            for i in range(N):
                for j in range(N):
                    L[at][i, j] = decay(w[at][i], w[at][j]) * old[i, j]
                    L[at][i, j] += w[at][i] * p[at][j] * (j in first)
                L[at][i, i] = 0
                L[at][i, np.argsort(-L[at][i])[keep:]] = 0
            p[at] = (1 - w[at].sum()) * p[at] + w[at]
    return L


def as_in_the_paper(wi: float, wj: float) -> float:
    return 1 - wi - wj


def as_a_product(wi: float, wj: float) -> float:
    return (1 - wi) * (1 - wj)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_every_link_equals_its_recurrence_in_loops(seed: int, steps: int) -> None:
    writes = soft_writes(steps, seed)
    for link, decay, keep in (
        (ExactLink(), as_in_the_paper, N),
        (ExactLink(fused=False), as_in_the_paper, N),
        (SparseLink(N + 3), as_in_the_paper, N),
        (SparseLink(2), as_in_the_paper, 2),
        (FactoredLink(12), as_a_product, N),
    ):
        expected = in_loops(writes, decay, keep)
        np.testing.assert_allclose(matrix(link, writes), expected, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_where_a_write_goes_to_one_slot_the_factored_link_is_exact(seed: int) -> None:
    writes = one_slot_writes(10, seed)
    np.testing.assert_allclose(
        matrix(FactoredLink(10), writes), matrix(ExactLink(), writes), atol=1e-12
    )


def test_a_history_of_as_many_writes_as_slots_lasts_for_ever() -> None:
    """A whole write wipes what its slot was linked to, so no more than N pairs are alive."""
    slots = torch.randint(N, (200, B, J), generator=torch.Generator().manual_seed(0))
    writes = torch.nn.functional.one_hot(slots, N).double()
    np.testing.assert_allclose(
        matrix(FactoredLink(N + 1), writes), matrix(ExactLink(), writes), atol=1e-12
    )


@pytest.mark.parametrize("link", [SparseLink(3), FactoredLink(12)])
def test_what_is_dropped_is_little_where_writes_are_sharp(link: Link) -> None:
    writes = soft_writes(30, sharpness=8.0)
    true, found = matrix(ExactLink(), writes), matrix(link, writes)
    assert np.abs(true).max() > 0.3
    assert np.abs(found - true).max() < 0.15
    assert (found >= -1e-12).all()
    assert (found.sum(3) <= 1 + 1e-9).all()
    assert np.abs(np.diagonal(found, axis1=2, axis2=3)).max() < 1e-12


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="links=0 should be a whole number, at least 1"):
        SparseLink(0)
    with pytest.raises(ValueError, match="history=0 should be a whole number, at least 1"):
        FactoredLink(0)


def test_mixed_precision_has_a_gradient_and_keeps_the_matrix_in_float32() -> None:
    writes, reads = soft_writes(3).float().requires_grad_(), torch.full((B, R, N), 1 / N)
    state, link = ExactLink().initial_state(B, J, N), ExactLink()
    with torch.autocast("cpu", torch.bfloat16):
        for write in writes:
            state, forward, backward = link.step(state, write, reads)
    assert state.link_BJNN.dtype == torch.float32
    (forward.float() + backward.float()).square().sum().backward()
    assert writes.grad.isfinite().all()
    assert writes.grad.any()


def test_sharp_reads_by_a_factored_link_stay_numbers() -> None:
    """Rounding leaves less than 0 of a slot's own share, of which there is no power."""
    for seed in range(4):
        torch.manual_seed(seed)
        dnc = DNC(6, 3, 8, 2, 32, link=FactoredLink(64), sharp=True)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            for weight in dnc.parameters():
                weight.mul_(4)
            _, strength, _, erase, *_, allocation, written, modes = torch.split(
                dnc.interface.bias, list(dnc.sizes)
            )[:10]
            for part in (strength, erase):
                part.add_(20)  # what is written is kept apart, and replaces what was there
            allocation.sub_(4)
            written.add_(6)
            modes.view(2, -1)[:, 1] -= 12  # reads go by the links
            state = dnc.initial_state(4)
            for item in 2 * torch.randn(40, 4, 6):
                state, read = dnc.step(state, item)
                assert read.values_BRW.isfinite().all()


def test_the_fused_step_has_the_gradients_of_the_plain_one() -> None:
    writes, source = soft_writes(5), torch.Generator().manual_seed(1)
    reads = torch.softmax(torch.randn(5, B, R, N, generator=source).double(), dim=-1)
    weights = torch.randn(5, 2, B, J, R, N, generator=source).double()
    found = []
    for link in (ExactLink(), ExactLink(fused=False)):
        inputs = writes.clone().requires_grad_(), reads.clone().requires_grad_()
        state, total = link.initial_state(B, J, N), torch.zeros(())
        state = type(state)(*(z.double() for z in state))
        for t in range(5):
            state, forward, backward = link.step(state, inputs[0][t], inputs[1][t])
            total = total + (weights[t] * torch.stack([forward, backward])).sum()
        total = total + state.link_BJNN.square().sum()
        found.append((total.detach(), *torch.autograd.grad(total, inputs)))
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-10, atol=1e-12)


def test_a_compiler_keeps_the_gradient_of_the_fused_step() -> None:
    random = torch.Generator().manual_seed(0)
    shapes = (B, 1, N, N), (B, 1, N), (B, 1, N), (B, 1, R, N)

    def numbers(shape: tuple[int, ...]) -> Tensor:
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    link, before, weights, read = (numbers(shape) for shape in shapes)
    leaves = [part.requires_grad_() for part in (link, before, weights / N, read)]
    ways = [numbers(shape) for shape in (shapes[0], shapes[3], shapes[3])]

    def step(*parts: Tensor) -> tuple[Tensor, ...]:
        state, *found = ExactLink().step(ExactState(*parts[:2]), parts[2], parts[3][:, 0])
        return state.link_BJNN, *found

    def gradients(take: Callable[..., tuple[Tensor, ...]]) -> list[Tensor]:
        loss = sum((x * way).sum() for x, way in zip(take(*leaves), ways, strict=True))
        return list(torch.autograd.grad(loss, leaves))

    compiled = torch.compile(step, backend="aot_eager", dynamic=False)
    for mine, theirs in zip(gradients(compiled), gradients(step), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    torch.compiler.reset()
