"""Speed and memory of the DNC, forward and backward, beside the `dnc` package and a plain loop.

    python benchmarks/dnc_speed.py                               # S, M and L beside the package
    python benchmarks/dnc_speed.py --scaling --out links.png     # cost against slots, a figure

Needs `pip install dnc==1.1.0`. One thread, CPU clock, float32; contenders are interleaved in one
process and medians taken. The package has no read feedback, so its work is a little less than ours.
The allocator is set alike for all (`GLIBC_TUNABLES`, by starting anew): where a matrix of links
takes more than 32 MB, that alone is worth 3.7 times to the package. Before timing, the fused link
is held to the plain one, values and gradients. Prints Markdown: milliseconds a time step with
quartiles, how many times faster than the package, and megabytes that a step keeps for the gradient
(for the checkpointed one all states that are kept, and one chunk that is taken again).
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from stillknows.memory.dnc import DNC
from stillknows.memory.interface import map_state
from stillknows.memory.links import ExactLink, FactoredLink, Link, SparseLink

TUNABLES = "glibc.malloc.mmap_threshold=2147483648:glibc.malloc.trim_threshold=8589934592"
INPUTS, CHUNK = 32, 8
MOST_EXACT = 4096  # slots of which a matrix of links fits


class Size(NamedTuple):
    """Batch, time steps, slots, word size, read heads, hidden size of the LSTM."""

    batch: int
    steps: int
    slots: int
    word_size: int
    read_heads: int
    hidden: int


SIZES = {
    "S": Size(16, 32, 64, 32, 4, 128),
    "M": Size(16, 64, 256, 64, 4, 256),
    "L": Size(32, 32, 512, 64, 4, 256),
}


class Contender(NamedTuple):
    """What is timed: outputs of a batch, the weights, and how many bytes are kept."""

    outputs: Callable[[Tensor], Tensor]
    weights: Sequence[nn.Parameter]
    checkpointed: DNC | None = None


def ours(size: Size, link: Link | None = None, compiled: bool = False, checkpoint: int = 0):
    """Return a contender of this project."""
    torch.manual_seed(0)
    dnc = DNC(INPUTS, size.slots, size.word_size, size.read_heads, size.hidden, link=link)
    weights = list(dnc.parameters())
    if compiled:
        dnc.step = torch.compile(dnc.step)  # type: ignore[method-assign]

    def outputs(items_BTI: Tensor) -> Tensor:
        return dnc.outputs(dnc.initial_state(size.batch), items_BTI, checkpoint=checkpoint)[1]

    return Contender(outputs, weights, dnc if checkpoint else None)


def package(size: Size) -> Contender:
    """Return the rival."""
    import dnc as package_of_dnc

    torch.manual_seed(0)
    rival = package_of_dnc.DNC(
        INPUTS,
        size.hidden,
        num_hidden_layers=1,
        nr_cells=size.slots,
        cell_size=size.word_size,
        read_heads=size.read_heads,
    )
    return Contender(lambda items_BTI: rival(items_BTI)[0], list(rival.parameters()))


def step(contender: Contender, items_BTI: Tensor) -> float:
    """Go forward and backward once; return CPU seconds."""
    for weight in contender.weights:
        weight.grad = None
    begun = time.process_time()
    contender.outputs(items_BTI).square().mean().backward()
    return time.process_time() - begun


def kept_bytes(contender: Contender, items_BTI: Tensor, size: Size) -> float:
    """Return bytes that one time step keeps for the gradient, weights left out."""
    if contender.checkpointed is not None:
        return _checkpointed_bytes(contender.checkpointed, items_BTI, size) / size.steps
    weights = {weight.untyped_storage().data_ptr() for weight in contender.weights}
    found: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        alive.append(storage)
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        contender.outputs(items_BTI)
    return sum(found.values()) / size.steps


def _checkpointed_bytes(dnc: DNC, items_BTI: Tensor, size: Size) -> float:
    """Return the bytes of all states that are kept, and of one chunk."""
    sizes: list[int] = []
    map_state(lambda part: sizes.append(part.nbytes) or part, dnc.initial_state(size.batch))
    chunk = Contender(
        lambda items: dnc.outputs(dnc.initial_state(size.batch), items[:, :CHUNK])[1],
        list(dnc.parameters()),
    )
    a_chunk = kept_bytes(chunk, items_BTI, size) * size.steps
    return sum(sizes) * size.steps / CHUNK + a_chunk


def check_equal(size: Size) -> None:
    """Hold the fused link to the plain one."""
    items_BTI = torch.randn(size.batch, size.steps, INPUTS)
    found = []
    for contender in (ours(size), ours(size, ExactLink(fused=False))):
        outputs = contender.outputs(items_BTI)
        outputs.square().mean().backward()
        found.append([outputs, *(weight.grad for weight in contender.weights)])
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-3, atol=1e-5)


def race(contenders: dict[str, Contender], size: Size, rounds: int) -> dict[str, list[float]]:
    """Time all contenders in turns after a warm-up; return milliseconds a time step."""
    items_BTI = torch.randn(size.batch, size.steps, INPUTS)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in tqdm(range(-2, rounds), disable=None):
        for name, contender in contenders.items():
            seconds = step(contender, items_BTI)
            if turn >= 0:
                times[name].append(1000 * seconds / size.steps)
    return times


def report(name: str, size: Size, rounds: int) -> None:
    """Print the table of a size."""
    check_equal(size)
    contenders = {
        "dnc 1.1.0": package(size),
        "plain loop": ours(size, ExactLink(fused=False)),
        "exact": ours(size),
        "exact, compiled": ours(size, compiled=True),
        f"exact, checkpoint every {CHUNK}": ours(size, checkpoint=CHUNK),
        "sparse, K = 8": ours(size, SparseLink(8)),
        "factored, H = 64": ours(size, FactoredLink(64)),
        "factored, H = 64, compiled": ours(size, FactoredLink(64), compiled=True),
    }
    times = race(contenders, size, rounds)
    items_BTI = torch.randn(size.batch, size.steps, INPUTS)
    base = kept_bytes(contenders["dnc 1.1.0"], items_BTI, size)
    print(f"\n**{name}**: {', '.join(f'{k} {v}' for k, v in size._asdict().items())}\n")
    print("| | ms a step | quartiles | times faster | MB kept a step | share |")
    print("|---|---|---|---|---|---|")
    for contender, spent in times.items():
        low, middle, high = statistics.quantiles(spent, n=4)
        ratio = statistics.median(times["dnc 1.1.0"]) / middle
        kept = "–", "–"
        if "compiled" not in contender:
            one = kept_bytes(contenders[contender], items_BTI, size)
            kept = f"{one / 1e6:.2f}", f"{one / base:.2f}"
        print(
            f"| {contender} | {middle:.2f} | {low:.2f} to {high:.2f} | {ratio:.2f} "
            f"| {kept[0]} | {kept[1]} |"
        )


def scaling(rounds: int, out: str | None) -> None:
    """Print the cost of a step against the number of slots, and draw it."""
    print("| slots | exact, ms | sparse, K = 8, ms | factored, H = 64, ms |\n|---|---|---|---|")
    costs: dict[str, dict[int, float]] = {"exact": {}, "sparse": {}, "factored": {}}
    for slots in (64, 256, 1024, 4096, 16384):
        size = Size(4, 8, slots, 32, 4, 128)
        contenders = {"sparse": ours(size, SparseLink(8)), "factored": ours(size, FactoredLink(64))}
        if slots <= MOST_EXACT:
            contenders["exact"] = ours(size)
        for name, spent in race(contenders, size, rounds).items():
            costs[name][slots] = statistics.median(spent)
        cells = [f"{cost[slots]:.2f}" if slots in cost else "–" for cost in costs.values()]
        print(f"| {slots:,} | {' | '.join(cells)} |", flush=True)
    if out:
        draw(costs, out)


def draw(costs: dict[str, dict[int, float]], out: str) -> None:
    """Draw milliseconds a step against the number of slots."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axis = figure.subplots()
    for name, cost in costs.items():
        axis.loglog(list(cost), list(cost.values()), marker="o", markersize=4, label=name)
    axis.set(xlabel="slots", ylabel="milliseconds a step", title="DNC, forward and backward")
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    figure.savefig(out, dpi=120)


def main() -> None:
    """Read the options, set the allocator, and race."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", default="S,M,L", help="which of S, M, L")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--out", help="where the figure of --scaling goes")
    options = parser.parse_args()
    if os.environ.get("GLIBC_TUNABLES") != TUNABLES:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, [sys.executable, *sys.argv])
    torch.set_num_threads(1)
    if options.scaling:
        return scaling(options.rounds, options.out)
    for name in options.sizes.split(","):
        report(name, SIZES[name], options.rounds)


if __name__ == "__main__":
    main()
