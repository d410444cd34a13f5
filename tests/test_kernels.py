"""Kernels for a GPU, on the CPU by Triton's interpreter, beside double precision and plain steps.

Triton decides when it is imported, so the tests run in a process of their own.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from stillknows.memory.dnc import DNC
from stillknows.memory.interface import map_state
from stillknows.memory.links import SparseLink

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
inside = pytest.mark.skipif(not INTERPRETED, reason="runs in a process with Triton's interpreter")
pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_kernels_by_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def brute(query: Tensor, keys: Tensor, filled: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    distance_BN = (query.double()[:, None] - keys.double()).square().sum(-1)
    distance_BN = distance_BN.masked_fill(~filled, torch.inf)
    distance_BK, slot_BK = (part[:, :neighbours] for part in distance_BN.sort(dim=1, stable=True))
    return distance_BK, slot_BK.masked_fill(distance_BK.isinf(), -1)


@inside
@pytest.mark.parametrize(
    ("queries", "entries", "size", "neighbours"),
    [(3, 700, 5, 4), (17, 600, 70, 2), (2, 300, 270, 3), (1, 40, 4, 7), (2, 5, 3, 8)],
)
def test_neighbours_are_exact(queries: int, entries: int, size: int, neighbours: int) -> None:
    from stillknows.memory.gpu.knn_kernels import nearest_of_each

    random = torch.Generator().manual_seed(0)
    alike = torch.randint(0, 2, (entries // 2 + 1, size), generator=random).float()
    keys = [torch.randn(entries, size, generator=random), alike]
    filled = [torch.rand(len(each), generator=random) < 0.9 for each in keys]
    query = torch.randn(queries, size, generator=random)
    query[-1], filled[1][0] = keys[1][0], True
    distances, slots = nearest_of_each(query, keys, filled, neighbours)
    for distance, slot, *store in zip(distances, slots, keys, filled, strict=True):
        wanted, at = brute(query, *store, neighbours)
        kept = at.shape[1]
        assert torch.equal(slot[:, :kept], at)
        torch.testing.assert_close(distance[:, :kept].double(), wanted, rtol=1e-5, atol=1e-6)
        assert (slot[:, kept:] == -1).all()
        assert distance[:, kept:].isinf().all()
    assert float(distances[1][-1, 0]) == 0


@pytest.mark.skipif(INTERPRETED, reason="compiles")
@pytest.mark.parametrize(
    ("capability", "shared"), [(80, 163 << 10), (90, 227 << 10), (120, 99 << 10)]
)
@pytest.mark.parametrize(("size", "queries"), [(3, 1), (64, 32), (100, 33), (128, 9), (300, 200)])
def test_the_screening_fits_a_chip(capability: int, shared: int, size: int, queries: int) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from stillknows.memory.gpu import knn_kernels

    kinds = {name: "*fp32" for name in ("query_ptr", "lowest_ptr", "coarse_ptr")}
    kinds |= {"table_ptr": "*i64", "queries": "i32", "groups": "i32", "tiles": "i32"}
    chosen = knn_kernels._tiling(size, queries, shared)
    fixed = {"D": size, "GROUP": 16, "SPAN": 8, "PRECISION": "tf32", **chosen}
    kinds |= dict.fromkeys(fixed, "constexpr")
    source = ASTSource(knn_kernels._lowest_scores_kernel, kinds, fixed)
    made = compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})
    assert made.metadata.shared <= shared
    assert ("wgmma" in made.asm["ptx"]) == (capability == 90)


class Again:
    """Stands in for a graph, as in `test_graphed.py`."""

    def __init__(self, work: Any, pool: Any) -> None:
        self.replay = work
        work()


def used(dnc: DNC, batch: int, random: torch.Generator) -> Any:
    """Return a state whose every number is in use."""
    slots, heads = dnc.slots, dnc.read_heads

    def small(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=random) / slots

    state = dnc.initial_state(batch)
    link = state.link._replace(link_BJNN=small(1, slots, slots), precedence_BJN=small(1, slots))
    link.link_BJNN.diagonal(dim1=-2, dim2=-1).zero_()
    hidden, cell = (torch.randn(part.shape, generator=random) for part in state.controller)
    return state._replace(
        memory_BNW=torch.randn(state.memory_BNW.shape, generator=random) / 2,
        usage_BN=torch.rand(batch, slots, generator=random),
        uses_BN=3 * torch.rand(batch, slots, generator=random),
        link=link,
        write_weights_BJN=small(1, slots),
        read_weights_BRN=small(heads, slots),
        reads_BRW=torch.randn(state.reads_BRW.shape, generator=random),
        controller=state.controller._replace(hidden_BH=hidden.tanh(), cell_BH=cell),
    )


def unused(dnc: DNC, batch: int, random: torch.Generator) -> Any:
    """Return a state in which many slots are used as much as each other."""
    state = used(dnc, batch, random)
    usage_BN = torch.randint(1, 4, (batch, dnc.slots), generator=random) / 4
    nothing = {name: getattr(state, name) * 0 for name in ("write_weights_BJN", "read_weights_BRN")}
    return state._replace(usage_BN=usage_BN, **nothing)


def outcome(dnc: DNC, take: Any, state: Any, items: Tensor) -> list[Tensor]:
    """Return outputs, the state after, and all gradients."""
    leaves = [items.clone().requires_grad_()]

    def leaf(part: Tensor) -> Tensor:
        part = part.clone()
        if part.is_floating_point():
            leaves.append(part.requires_grad_())
        return part

    after, values = take(map_state(leaf, state), leaves[0])
    parts = [values]
    map_state(lambda part: parts.append(part) or part, after)
    random = torch.Generator().manual_seed(9)
    ways = [torch.randn(part.shape, generator=random) for part in parts]
    loss = sum((x * way).sum() for x, way in zip(parts, ways, strict=True) if x.requires_grad)
    return [*parts, *torch.autograd.grad(loss, [*leaves, *dnc.parameters()])]


@inside
@pytest.mark.parametrize("states", [used, unused])
@pytest.mark.parametrize(("slots", "word", "heads"), [(10, 6, 2), (16, 8, 3), (7, 3, 1)])
def test_the_fused_dnc_is_the_plain_one(slots: int, word: int, heads: int, states: Any) -> None:
    from stillknows.memory.gpu.dnc_fused import FusedDNC
    from stillknows.memory.gpu.graphed import Graphed

    torch.manual_seed(0)
    dnc, random = DNC(5, slots, word, heads, 12), torch.Generator().manual_seed(1)
    items, state = torch.randn(2, 3, 5, generator=random), states(dnc, 2, random)
    wanted = outcome(dnc, dnc.outputs, state, items)
    fused = FusedDNC(dnc)
    chunks = Graphed(dnc, 2, take=fused.take, compiled=False, record=Again)
    for take in (fused.take, chunks.outputs):
        for mine, theirs in zip(outcome(dnc, take, state, items), wanted, strict=True):
            apart = (mine.double() - theirs.double()).norm()
            assert apart <= 1e-5 * theirs.double().norm()


@inside
def test_another_dnc_is_refused() -> None:
    from stillknows.memory.gpu.dnc_fused import FusedDNC
    from stillknows.memory.gpu.graphed import fastest

    others: list[dict[str, Any]] = [{"sharp": True}, {"write_heads": 2}, {"link": SparseLink(2)}]
    others += [{"feed_forward": True}, {"slots": 20_000}]
    for other in others:
        dnc = DNC(**{"input_size": 5, "slots": 4, "word_size": 3, "read_heads": 2, **other})
        with pytest.raises(ValueError, match="take this one step by step"):
            FusedDNC(dnc)
        assert fastest(dnc)._take.func.__name__ == "_take"
    kernels = fastest(DNC(5, 4, 3, 2, 8))._take
    assert kernels.__qualname__ == "FusedDNC.take"
