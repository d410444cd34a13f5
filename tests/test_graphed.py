"""Chunks as graphs, with a stand-in for the graphs where there is no GPU: the plain steps again."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillknows.memory.dnc import DNC
from stillknows.memory.gpu.graphed import Graphed, _take, fastest
from stillknows.memory.interface import map_state
from stillknows.memory.links import FactoredLink, SparseLink
from stillknows.memory.memory_network import MemoryNetwork
from stillknows.memory.ntm import NTM
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.slots import Slots

B, T, ITEM, N, W = 3, 7, 5, 6, 4


class Again:
    """A recording that does the work again, which writes into the same buffers as a graph does."""

    def __init__(self, work: Callable[[], None], pool: Any) -> None:
        self.replay = work
        work()


def memories() -> dict[str, tuple[nn.Module, Any]]:
    torch.manual_seed(0)
    made = {
        "dnc": DNC(ITEM, N, W, 2, 8),
        "dnc of three": DNC(
            ITEM, N, W, 2, 8, write_heads=2, masked=True, deallocate=True, sharp=True
        ),
        "dnc sparse": DNC(ITEM, N, W, 2, 8, link=SparseLink(3)),
        "dnc factored": DNC(ITEM, N, W, 2, 8, link=FactoredLink(4), feed_forward=True),
        "ntm": NTM(ITEM, N, W, 2, 2, learned_memory=True, hidden_size=8),
    }
    own = {name: (memory.double(), None) for name, memory in made.items()}
    slots = {
        "slots": (Slots(N, ITEM, hops=2, heads=1, recency=(0.5,)).double(), EvictOldest()),
        "memory network": (MemoryNetwork(N, ITEM, hops=2).double(), EvictOldest()),
    }
    return own | slots


NAMES = list(memories())


def begin(memory: Any) -> Any:
    """Return a state of float64 that a gradient can reach."""

    def wanted(part: Tensor) -> Tensor:
        return part.detach().double().requires_grad_() if part.is_floating_point() else part

    return map_state(wanted, memory.initial_state(B))


def gradients(take: Callable[..., Any], memory: nn.Module, seed: int) -> list[Tensor | None]:
    """Return what comes out, and the gradients of items, first state and weights."""
    torch.manual_seed(seed)
    items_BTI = torch.randn(B, T, ITEM, dtype=torch.float64, requires_grad=True)
    state, leaves = begin(memory), []
    map_state(lambda part: leaves.append(part) or part, state)
    after, values = take(state, items_BTI)
    parts: list[Tensor] = [values]
    map_state(lambda part: parts.append(part) or part, after)
    wanted = [items_BTI, *memory.parameters(), *(x for x in leaves if x.requires_grad)]
    floats = [part for part in parts if part.is_floating_point()]
    loss = sum((x * torch.randn_like(x)).sum() for x in floats)
    return [*parts, *torch.autograd.grad(loss, wanted, allow_unused=True)]


def same(mine: list[Tensor | None], theirs: list[Tensor | None], **rounding: float) -> None:
    for one, other in zip(mine, theirs, strict=True):
        zero = one is None or other is None
        assert not zero or all(x is None or not x.any() for x in (one, other))
        if not zero:
            torch.testing.assert_close(one, other, **rounding)


def plain(memory: Any, policy: Any) -> Callable[..., Any]:
    def take(state: Any, items_BTI: Tensor) -> tuple[Any, Tensor]:
        values = []
        for item_BI in items_BTI.unbind(dim=1):
            state, read = memory.step(state, item_BI, policy)
            values.append(read.values_BRW[:, -1])
        return state, torch.stack(values, dim=1)

    return take


@pytest.mark.parametrize("name", NAMES)
def test_chunks_are_the_plain_steps(name: str) -> None:
    memory, policy = memories()[name]
    fast = Graphed(memory, 3, policy, compiled=False, record=Again)  # chunks of 3, 3 and 1
    for seed in (0, 1):  # the second time all is recorded already
        wanted = gradients(plain(memory, policy), memory, seed)
        same(gradients(fast.outputs, memory, seed), wanted, rtol=1e-12, atol=1e-12)


def test_without_a_gpu_the_plain_steps_are_taken() -> None:
    memory, _ = memories()["dnc"]
    wanted = gradients(plain(memory, None), memory, 0)
    same(gradients(Graphed(memory, 3).outputs, memory, 0), wanted, rtol=0, atol=0)


def test_what_comes_out_stays_as_it_was() -> None:
    memory, _ = memories()["dnc"]
    fast = Graphed(memory, 4, compiled=False, record=Again)
    items = torch.randn(2, B, T, ITEM, dtype=torch.float64)
    with torch.no_grad():
        state, values = fast.outputs(begin(memory), items[0])
        kept = map_state(Tensor.clone, state), values.clone()
        fast.outputs(begin(memory), items[1])
    assert torch.equal(values, kept[1])
    assert torch.equal(state.memory_BNW, kept[0].memory_BNW)


def test_weights_may_change_in_place_and_may_move() -> None:
    memory, _ = memories()["ntm"]
    fast = Graphed(memory, 4, compiled=False, record=Again)
    gradients(fast.outputs, memory, 0)
    with torch.no_grad():
        for weight in memory.parameters():
            weight.mul_(1.5)
    same(gradients(fast.outputs, memory, 0), gradients(plain(memory, None), memory, 0))
    memory.output.weight = nn.Parameter(memory.output.weight.detach() + 1)
    same(gradients(fast.outputs, memory, 0), gradients(plain(memory, None), memory, 0))


def test_what_comes_after_a_linear_start_is_recorded_anew() -> None:
    memory = MemoryNetwork(N, ITEM, hops=2, linear_start=True).double()
    recorded: list[Again] = []

    def record(work: Callable[[], None], pool: Any) -> Again:
        recorded.append(Again(work, pool))
        return recorded[-1]

    fast = Graphed(memory, 4, EvictOldest(), compiled=False, record=record)
    for ended in (False, True):
        if ended:
            memory.end_linear_start()
        before = len(recorded)
        gradients(fast.outputs, memory, 0)
        assert len(recorded) > before


@pytest.mark.parametrize("between", ["another batch", "the same gradient"])
def test_a_gradient_that_is_gone_says_so(between: str) -> None:
    memory, _ = memories()["dnc"]
    fast = Graphed(memory, 4, compiled=False, record=Again)
    items = torch.randn(B, T, ITEM, dtype=torch.float64)
    loss = fast.outputs(begin(memory), items)[1].sum()
    if between == "another batch":
        fast.outputs(begin(memory), items)
    else:
        loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="Call backward right after outputs"):
        loss.backward()


def test_a_chunk_has_at_least_one_step() -> None:
    with pytest.raises(ValueError, match="steps=0"):
        Graphed(memories()["dnc"][0], 0)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at it
def test_the_fastest_way_is_the_plain_steps_too() -> None:
    policy = EvictOldest()
    for name in ("dnc of three", "ntm"):  # no kernels of their own
        assert fastest(memories()[name][0]).step.__name__ == "_compiled_step"
    for rule in (None, policy):  # double precision, or a policy: none either
        assert fastest(memories()["dnc"][0], 3, rule).step.__name__ == "_compiled_step"
    memory, _ = memories()["ntm"]
    wanted = gradients(plain(memory, None), memory, 0)
    memory.step = torch.compile(memory.step, backend="aot_eager")  # as `Solver` does
    fast = fastest(memory, 3)
    assert fast.steps == 3
    same(gradients(partial(_take, _eagerly(fast)), memory, 0), wanted, rtol=1e-12, atol=1e-12)
    torch.compiler.reset()


def _eagerly(fast: Graphed) -> Callable[..., Any]:
    """Return the compiled step, compiled without a compiler of C++."""
    fast._flat = torch.compile(fast._flat_step, dynamic=False, backend="aot_eager")
    return fast.step
