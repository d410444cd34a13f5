"""On a GPU everything is as on the CPU, values and gradients, and the host is not made to wait.

    pytest -m gpu

Needs PyTorch alone (`pytest --noconftest -m gpu tests/test_gpu.py tests/test_gpu_stores.py
tests/test_nec_reads.py tests/test_utility.py` where the rest is not installed). Single precision is
held to double precision here: the norm of a difference to 1e-4 of the norm, that of gradients to
1e-3.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import expect_near, no_waiting
from torch import Tensor, nn

from stillknows.memory.checks.check import bench_of, check_memory, run_check
from stillknows.memory.checks.check_working import CHECKS as WORKING_CHECKS
from stillknows.memory.dnc import DNC
from stillknows.memory.gpu.graphed import Graphed, fastest
from stillknows.memory.interface import map_state
from stillknows.memory.links import ExactLink, FactoredLink, SparseLink
from stillknows.memory.memory_network import MemoryNetwork
from stillknows.memory.ntm import NTM
from stillknows.memory.policies.diversity import EvictAlike, MergeAlike
from stillknows.memory.policies.learned import RetentionPolicy
from stillknows.memory.policies.rules import (
    EvictOldest,
    EvictRead,
    Novelty,
    Reservoir,
)
from stillknows.memory.slots import Slots
from stillknows.memory.sparse_slots import SparseSlots

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
B, T, ITEM, N, W = 5, 14, 8, 6, 8

MEMORIES: dict[str, Callable[[], Any]] = {
    "dnc": lambda: DNC(ITEM, N, W, 2, 16),
    "dnc, plain link": lambda: DNC(ITEM, N, W, 2, 16, link=ExactLink(fused=False)),
    "dnc, all switches": lambda: DNC(
        ITEM, N, W, 2, 16, write_heads=2, masked=True, deallocate=True, sharp=True
    ),
    "dnc, sparse": lambda: DNC(ITEM, N, W, 2, 16, link=SparseLink(3)),
    "dnc, factored": lambda: DNC(ITEM, N, W, 2, 16, link=FactoredLink(8), feed_forward=True),
    "ntm": lambda: NTM(ITEM, N, W, 2, 2, learned_memory=True, hidden_size=16),
    "slots": lambda: Slots(N, ITEM, hops=2),
    "sparse slots": lambda: SparseSlots(N, ITEM, nearest=3, hops=2),
    "memory network": lambda: MemoryNetwork(N, ITEM, hops=2),
}
OWN = {"dnc", "dnc, plain link", "dnc, all switches", "dnc, sparse", "dnc, factored", "ntm"}


def memory_of(name: str) -> Any:
    torch.manual_seed(0)
    return MEMORIES[name]()


def parts_of(state: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_state(lambda part: found.append(part) or part, state)
    return found


def life(
    memory: nn.Module, policy: Any, device: str, dtype: torch.dtype, take: Any = None
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Return the outputs of T steps and the last state, and the gradients of items and weights."""
    memory.to(device, dtype)
    if isinstance(policy, nn.Module):
        policy.to(device, dtype)
    generator = torch.Generator().manual_seed(1)
    items_BTI = torch.randn(B, T, ITEM, generator=generator).to(device, dtype).requires_grad_()
    state = memory.initial_state(B, device, torch.arange(B).to(device))
    if isinstance(memory, DNC):  # slots that are used alike would be allocated as rounding has it
        memory_BNW = torch.randn(state.memory_BNW.shape, generator=generator)
        usage_BN = torch.rand(state.usage_BN.shape, generator=generator)
        state = state._replace(memory_BNW=memory_BNW.to(device), usage_BN=usage_BN.to(device))
    state = map_state(lambda x: x.to(dtype) if x.is_floating_point() else x, state)
    if take is None:
        values = []
        for item_BI in items_BTI.unbind(dim=1):
            state, read = memory.step(state, item_BI, policy)
            values.append(read.values_BRW[:, -1])
        values_BTW = torch.stack(values, dim=1)
    else:
        state, values_BTW = take(state, items_BTI)
    parts = [values_BTW, *parts_of(state)]
    floats = [part for part in parts if part.is_floating_point()]
    loss = sum((x * torch.randn(x.shape, generator=generator).to(x)).sum() for x in floats)
    leaves = [items_BTI, *(x for x in memory.parameters() if x.requires_grad)]
    return parts, list(torch.autograd.grad(loss, leaves, allow_unused=True))


POLICIES: dict[str, Callable[[], Any]] = {
    "oldest": EvictOldest,
    "read": EvictRead,
    "reservoir": Reservoir,
    "novelty": Novelty,
    "alike": EvictAlike,
    "merge": MergeAlike,
    "retention": lambda: RetentionPolicy(ITEM),
}
PAIRS = [
    *((name, None) for name in MEMORIES if name in OWN),
    *((name, policy) for name in ("dnc", "ntm") for policy in ("oldest", "reservoir", "merge")),
    *(("slots", policy) for policy in POLICIES),
    *((name, "oldest") for name in ("sparse slots", "memory network")),
]


def policy_of(name: str | None) -> Any:
    torch.manual_seed(2)
    return None if name is None else POLICIES[name]()


@pytest.mark.parametrize(("name", "policy"), PAIRS)
def test_a_working_memory_is_the_same(name: str, policy: str | None) -> None:
    here = life(memory_of(name).eval(), policy_of(policy), "cpu", torch.float64)
    there = life(memory_of(name).eval(), policy_of(policy), "cuda", torch.float32)
    for number, pair in enumerate(zip(there[0], here[0], strict=True)):
        assert pair[0].is_cuda
        expect_near(*pair, 1e-4, f"part {number}")
    for number, pair in enumerate(zip(there[1], here[1], strict=True)):
        expect_near(*pair, 1e-3, f"gradient {number}")


@pytest.mark.parametrize(("name", "policy"), PAIRS)
def test_a_step_and_its_gradient_ask_nothing_of_the_host(name: str, policy: str | None) -> None:
    memory, rule = memory_of(name).cuda(), policy_of(policy)
    if isinstance(rule, nn.Module):
        rule.cuda()
    items = torch.randn(3, B, ITEM, device="cuda", requires_grad=True)

    def steps() -> None:
        state, total = memory.initial_state(B, "cuda"), torch.zeros((), device="cuda")
        for item_BI in items.unbind(0):
            state, read = memory.step(state, item_BI, rule)
            total = total + read.values_BRW.sum()
        total.backward()

    steps()  # libraries begin
    with no_waiting():
        steps()


@pytest.mark.parametrize("name", MEMORIES)
def test_a_working_memory_passes_its_checks(name: str) -> None:
    assert "gpu" in check_memory(memory_of(name), steps=20)
    memory = memory_of(name).cuda()
    for check in set(WORKING_CHECKS) - {"long", "gpu"}:
        if check != "feedback" or hasattr(memory.initial_state(1), "reads_BRW"):
            run_check(check, WORKING_CHECKS[check], bench_of(memory, steps=20))


GRAPHED = [("dnc", None, True), ("ntm", None, True), ("dnc, factored", None, True)]
GRAPHED += [(name, None, False) for name in MEMORIES if name in OWN]
GRAPHED += [("slots", "reservoir", False), ("memory network", "oldest", False)]


@pytest.mark.parametrize(("name", "policy", "compiled"), GRAPHED)
def test_chunks_as_graphs_are_the_plain_steps(name: str, policy: Any, compiled: bool) -> None:
    memory, rule = memory_of(name).eval(), policy_of(policy)
    wanted = life(memory, rule, "cuda", torch.float32)
    if compiled:
        memory.step = torch.compile(memory.step)  # as `Solver` does
    fast = Graphed(memory, 5, rule, compiled)  # chunks of 5, 5 and 4
    for _ in range(2):  # the second time all is recorded
        found = life(memory, rule, "cuda", torch.float32, fast.outputs)
        for kind, bound in ((0, 1e-4), (1, 1e-3)):
            for number, pair in enumerate(zip(found[kind], wanted[kind], strict=True)):
                expect_near(*pair, bound, f"{('part', 'gradient')[kind]} {number}")
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("slots", "word", "heads"), [(6, 8, 2), (256, 64, 4), (300, 20, 1), (512, 64, 4)]
)
def test_the_fused_dnc_is_the_plain_one(slots: int, word: int, heads: int) -> None:
    from stillknows.memory.gpu.dnc_fused import FusedDNC

    torch.manual_seed(0)
    memory = DNC(ITEM, slots, word, heads, 24).cuda()
    fused = FusedDNC(memory)
    fast = Graphed(memory, 5, take=fused.take, compiled=False)
    wanted = life(memory, None, "cuda", torch.float32)
    for take in (fused.take, fast.outputs, fast.outputs):
        found = life(memory, None, "cuda", torch.float32, take)
        for kind, bound in ((0, 1e-4), (1, 1e-3)):
            for number, pair in enumerate(zip(found[kind], wanted[kind], strict=True)):
                expect_near(*pair, bound, f"{('part', 'gradient')[kind]} {number}")


def test_the_fastest_way_learns_and_is_examined() -> None:
    torch.manual_seed(0)
    memory = DNC(ITEM, 64, 32, 4, 128)
    fast = fastest(memory, 7)  # before its memory is on the GPU, as `Solver` does
    assert fast._take.__qualname__ == "FusedDNC.take"
    wanted = life(memory, None, "cuda", torch.float32)
    for _ in range(2):
        found = life(memory, None, "cuda", torch.float32, fast.outputs)
        with torch.no_grad():  # another batch in between, of another size
            items_BTI = torch.randn(3, 14, ITEM, device="cuda")
            state = memory.initial_state(3, "cuda")
            state = state._replace(usage_BN=torch.rand(3, 64, device="cuda"))
            plain, mine = (take(state, items_BTI)[1] for take in (memory.outputs, fast.outputs))
        expect_near(mine, plain, 1e-4, "examined")
        for kind, bound in ((0, 1e-4), (1, 1e-3)):
            for number, pair in enumerate(zip(found[kind], wanted[kind], strict=True)):
                expect_near(*pair, bound, f"{('part', 'gradient')[kind]} {number}")


def test_a_recorded_chunk_asks_nothing_of_the_host() -> None:
    memory = memory_of("dnc").cuda()
    fast = Graphed(memory, 4, compiled=False)
    items = torch.randn(B, 8, ITEM, device="cuda")

    def once() -> None:
        fast.outputs(memory.initial_state(B, "cuda"), items)[1].square().mean().backward()

    once()
    with no_waiting():
        once()
