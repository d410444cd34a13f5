"""What `gpu.py` measures: DNC chunks, exact neighbours, the lifelong store.

A part gets ready, yields once, measures, and yields what it found: Markdown and numbers.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from gpu_times import (
    COUNTED,
    Work,
    ceilings,
    counts,
    graphed,
    quartiles,
    race,
    slowest,
)
from torch import Tensor

from stillknows.memory.dnc import DNC
from stillknows.memory.episodic import Candidates
from stillknows.memory.gpu.dnc_fused import FusedDNC
from stillknows.memory.gpu.graphed import Graphed, fastest
from stillknows.memory.interface import map_state
from stillknows.memory.knn import nearest, nearest_of_each
from stillknows.memory.links import ExactLink
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictIdle, EvictOldest

INPUTS, NEIGHBOURS, BATCH, KEY = 32, 50, 32, 64
Part = Iterator[dict[str, Any] | None]


class Size(NamedTuple):
    """Batch, time steps, slots, word size, read heads, hidden size of the LSTM."""

    batch: int
    steps: int
    slots: int
    word_size: int
    read_heads: int
    hidden: int


SIZES = {
    "G": Size(32, 32, 256, 64, 4, 256),
    "S": Size(16, 32, 64, 32, 4, 128),
    "M": Size(16, 64, 256, 64, 4, 256),
    "L": Size(32, 32, 512, 64, 4, 256),
}


def floor_of(size: Size, card: dict[str, float]) -> dict[str, float]:
    """Return the least milliseconds of a step, forward and backward.

    Bytes: what the gradient needs of links and memory is written once and read once. Operations:
    of a product three times its forward (two thirds of them in the backward).
    """
    batch, _, slots, word, reads, hidden = size
    kept = 4 * batch * slots * (slots + word)
    seen = INPUTS + reads * word
    asked = reads * (word + 5) + 3 * word + 3
    products = (seen + hidden) * 4 * hidden + hidden * (asked + word) + reads * word * word
    memory = slots * word * (2 * reads + 3) + slots * slots * (2 * reads + 2)
    return {
        "bytes": 1000 * 2 * kept / card["copied, bytes/s"],
        "operations": 1000 * 3 * 2 * batch * (products + memory) / card["float32, operations/s"],
    }


def dnc(size: Size, rounds: int) -> Part:
    """Race a DNC: the plain loop, one compiled step, and chunks as graphs."""
    torch.manual_seed(0)
    items_BTI = torch.randn(size.batch, size.steps, INPUTS, device="cuda")
    plain, exact = (_dnc_of(size, fused) for fused in (False, True))
    bare = Graphed(exact, size.steps, compiled=False)
    fast = Graphed(exact, size.steps)
    fused = fastest(exact, size.steps)
    contenders = {
        "plain loop": _lap(plain, plain.outputs, items_BTI),
        "links' gradient by hand": _lap(exact, exact.outputs, items_BTI),
        "compiled step": _lap(exact, _compiled(fast), items_BTI),
        "graphs": _lap(exact, bare.outputs, items_BTI),
        "graphs of the compiled step": _lap(exact, fast.outputs, items_BTI),
        "fused kernels": _lap(exact, FusedDNC(exact).take, items_BTI),
        "graphs of the fused kernels": _lap(exact, fused.outputs, items_BTI),
    }
    outcomes = {}
    for name, work in contenders.items():
        begun = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begun
        owner = plain if name == "plain loop" else exact
        outcomes[name] = [weight.grad.clone() for weight in owner.parameters()]
        print(f"{name}: ready after {seconds:.1f} s", file=sys.stderr, flush=True)
    yield None
    card = ceilings()
    for name, gradients in outcomes.items():
        for mine, theirs in zip(gradients, outcomes["plain loop"], strict=True):
            apart = float((mine - theirs).norm() / theirs.norm())
            assert apart < 1e-3, f"{name}: a gradient is {apart:.2g} of its norm from the plain"
    times = race(contenders, rounds)
    yield _dnc_table(size, card, times, {})
    found = {name: counts(work) for name, work in contenders.items()}
    result = _dnc_table(size, card, times, found)
    for name in ("graphs of the compiled step", "graphs of the fused kernels"):
        result["markdown"] += [
            "",
            f"Of {name}, by kernel: " + "; ".join(slowest(contenders[name])),
        ]
    yield result


def _dnc_of(size: Size, fused: bool) -> DNC:
    torch.manual_seed(0)
    _, _, slots, word, reads, hidden = size
    return DNC(INPUTS, slots, word, reads, hidden, link=ExactLink(fused)).cuda()


def _compiled(fast: Graphed) -> Callable[..., Any]:
    """Return the loop over the compiled step, from a state like those inside a chunk."""

    def outputs(state: Any, items_BTI: Tensor) -> tuple[Any, Tensor]:
        state = map_state(lambda x: x.requires_grad_(x.is_floating_point()), state)
        values = []
        for item_BI in items_BTI.unbind(dim=1):
            state, value_BW = fast.step(state, item_BI)
            values.append(value_BW)
        return state, torch.stack(values, dim=1)

    return outputs


def _lap(memory: DNC, outputs: Callable[..., Any], items_BTI: Tensor) -> Work:
    """Return a forward and backward from a memory in use, whose slots no rounding reorders."""
    torch.manual_seed(1)
    start = memory.initial_state(len(items_BTI), "cuda")
    memory_BNW, usage_BN = torch.randn_like(start.memory_BNW), torch.rand_like(start.usage_BN)

    def lap() -> None:
        memory.zero_grad()
        state = memory.initial_state(len(items_BTI), "cuda")
        state = state._replace(memory_BNW=memory_BNW.clone(), usage_BN=usage_BN.clone())
        outputs(state, items_BTI)[1].square().mean().backward()

    return lap


def _dnc_table(
    size: Size, card: dict[str, float], times: dict[str, list[float]], found: dict[str, Any]
) -> dict[str, Any]:
    least = floor_of(size, card)
    text = ", ".join(f"{name} {value}" for name, value in size._asdict().items())
    lines = [
        f"**DNC**: {text}; floor of a step {1000 * least['bytes']:.1f} us by bytes, "
        f"{1000 * least['operations']:.1f} us by operations\n",
        "| | us a step | quartiles | times faster | of the floor | kernels a step | waits |",
        "|---|---|---|---|---|---|---|",
    ]
    base = statistics.median(times["plain loop"])
    for name, spent in times.items():
        low, middle, high = (1000 * part / size.steps for part in quartiles(spent))
        over = middle / 1000 / max(least.values())
        seen = found.get(name)
        cells = f"{seen['kernels'] / size.steps:.0f} | {seen['waits']}" if seen else "– | –"
        lines.append(
            f"| {name} | {middle:.0f} | {low:.0f} to {high:.0f} "
            f"| {base * 1000 / size.steps / middle:.1f} | {over:.1f} | {cells} |"
        )
    return {"markdown": lines, "times": times, "counts": found, "card": card, "floor": least}


def knn(stores: int, entries: int, rounds: int) -> Part:
    """Race exact neighbours of a batch in several stores."""
    torch.manual_seed(0)
    keys = [torch.randn(entries, KEY, device="cuda") for _ in range(stores)]
    filled = [torch.ones(entries, dtype=torch.bool, device="cuda") for _ in keys]
    lengths = [each.square().sum(dim=1) for each in keys]
    query_BD = torch.randn(BATCH, KEY, device="cuda")

    def plain() -> None:
        for keys_ND, length_N in zip(keys, lengths, strict=True):
            torch.addmm(length_N, query_BD, keys_ND.T, alpha=-2).topk(NEIGHBOURS, largest=False)

    def together() -> object:
        return nearest_of_each(query_BD, keys, filled, NEIGHBOURS)

    def one_by_one() -> None:
        for keys_ND, filled_N in zip(keys, filled, strict=True):
            nearest(query_BD, keys_ND, filled_N, NEIGHBOURS)

    with torch.no_grad():
        contenders = {
            "product and topk": plain,
            "ours, a store at a time": one_by_one,
            "ours, all stores at once": together,
            "ours, all at once, as a graph": graphed(together),
        }
        yield None
        _expect_neighbours(query_BD, keys, together())
        card = ceilings()
        times = race(contenders, rounds)
        kernels = slowest(together)
    size = stores * entries * KEY * 4
    least = 1000 * size / card["read, bytes/s"]
    rate = 1000 * 2 * BATCH * stores * entries * KEY / card["float32, operations/s"]
    lines = [
        f"**Neighbours**: {stores} stores of {entries:,} keys of {KEY} numbers, k = {NEIGHBOURS}, "
        f"batch {BATCH}; to read {size / 1e9:.2f} GB once takes {least:.3f} ms, the product in "
        f"float32 {rate:.3f} ms\n",
        "| | ms | quartiles | times the reading |",
        "|---|---|---|---|",
    ]
    for name, spent in times.items():
        low, middle, high = quartiles(spent)
        lines.append(f"| {name} | {middle:.3f} | {low:.3f} to {high:.3f} | {middle / least:.2f} |")
    lines += ["", "Of all stores at once, by kernel: " + "; ".join(kernels)]
    yield {"markdown": lines, "times": times, "card": card, "floor": least}


def _expect_neighbours(query_BD: Tensor, keys: list[Tensor], found: Any) -> None:
    """Hold two stores to double precision by direct differences."""
    for store in (0, len(keys) - 1):
        distance_BN = torch.stack(
            [(keys[store] - one).double().square().sum(1) for one in query_BD]
        )
        wanted_BK, slot_BK = distance_BN.topk(NEIGHBOURS, largest=False)
        apart = float((found[0][store] - wanted_BK).abs().max() / wanted_BK.max())
        same = float((found[1][store] == slot_BK).double().mean())
        assert apart < 1e-5, f"a distance is {apart:.2g} away"
        assert same > 0.999, f"{same:.4f} of the neighbours are the same"


def store(sizes: tuple[int, ...], rounds: int) -> Part:
    """Time what a step asks of the lifelong store: a recall and a write of a batch."""
    stores = {
        (rule, size): _full(rule(), size) for size in sizes for rule in (EvictIdle, EvictOldest)
    }
    query_BD = torch.randn(BATCH, KEY, device="cuda")
    yield None
    card = ceilings()
    lines = [
        f"**The lifelong store**: a batch of {BATCH}, keys of {KEY} numbers, k = {NEIGHBOURS}; "
        "full, so that each write makes room\n",
        "| entries | who leaves | recall, us | quartiles | keys read once, us | write, us "
        "| quartiles | recall: kernels, waits, to the host | write: kernels, waits, to the host |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found = {}
    for (rule, size), nec in stores.items():
        offers = iter([_offer(size + 1 + turn) for turn in range(rounds + 8)])
        works = {
            "recall": lambda nec=nec: nec.recall(query_BD),
            "write": lambda nec=nec, offers=offers: nec.remember(next(offers)),
        }
        with torch.no_grad():
            times = race(works, rounds)
            seen = {name: counts(work) for name, work in works.items()}
        least = 1e6 * size * KEY * 4 / card["read, bytes/s"]
        cells = [f"{size:,}", rule.__name__]
        for name, spent in times.items():
            low, middle, high = (1000 * part for part in quartiles(spent))
            cells += [f"{middle:.0f}", f"{low:.0f} to {high:.0f}"]
            cells += [f"{least:.1f}"] if name == "recall" else []
        cells += [" / ".join(str(one[c]) for c in COUNTED[:3]) for one in seen.values()]
        lines.append(f"| {' | '.join(cells)} |")
        assert all(column.is_cuda for column in nec.columns.values())
        found[f"{rule.__name__} {size}"] = {"times": times, "counts": seen}
    yield {"markdown": lines, "stores": found, "card": card}


def _full(policy: Any, entries: int) -> NEC:
    """Return a store that is full."""
    nec = NEC(
        entries,
        KEY,
        1,
        policy,
        answer_length=1,
        story_shape=(0, 0),
        neighbours=NEIGHBOURS,
        device="cuda",
    )
    for first in range(0, entries, 10_000):
        nec.remember(_offer(first, min(10_000, entries - first)))
    return nec


def _offer(first: int, rows: int = BATCH) -> Candidates:
    """Return candidates with new names, keys on the GPU, and what the host knows on the host."""
    name_B = torch.arange(first, first + rows) + (1 << 20) * (rows == BATCH) * first
    return Candidates(
        key_BD=torch.randn(rows, KEY, device="cuda"),
        vector_BV=torch.randn(rows, 1, device="cuda"),
        answers_BA=torch.ones(rows, 1, dtype=torch.int64),
        story_BTL=torch.zeros(rows, 0, 0, dtype=torch.int64),
        hash_B=name_B,
        outcome_BF=torch.zeros(rows, 3),
        task_B=name_B,
        episode_B=name_B,
        step_B=name_B,
    )


def part_of(name: str, rounds: int) -> Part:
    """Return a part by its name."""
    if name.startswith("dnc-"):
        return dnc(SIZES[name.removeprefix("dnc-")], rounds)
    if name == "knn":
        return knn(18, 500_000, rounds)
    return store((10_000, 100_000, 500_000), rounds)
