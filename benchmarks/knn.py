"""Exact nearest neighbours beside faiss `IndexFlatL2` and a plain product with topk.

    python benchmarks/knn.py                          # 10^4 to 10^6 keys
    python benchmarks/knn.py --keys 10000 --sizes 64  # a short look

Needs `pip install faiss-cpu`. k = 50, one thread, CPU clock, float32, contenders interleaved in one
process, medians. Keys and queries are 16 latent dimensions and noise. Before timing, the neighbours
of ours and of faiss are compared. Both hold the keys in memory of their own; ours is given
what a store holds of them as long as they stay: all in bytes or, without the native file, their
squared lengths. Prints a Markdown table of milliseconds a batch, and how many times faster than
faiss ours and the plain search are; `STILLKNOWS_NATIVE=0` shows ours without the native file.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stillknows.memory import native
from stillknows.memory.knn import nearest, squared_lengths
from stillknows.memory.rounded import InBytes, Rounded

NEIGHBOURS, BATCHES = 50, (1, 32, 256)


def data(keys: int, size: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Return keys and queries."""
    random = np.random.default_rng(0)
    latent = random.normal(size=(keys + queries, 16)) @ random.normal(size=(16, size))
    points = (latent + 0.5 * random.normal(size=latent.shape)).astype(np.float32)
    return points[:keys], points[keys:]


def plain(query_BD: Tensor, keys_ND: Tensor, length_N: Tensor) -> Tensor:
    """Return slots by one product and topk, the distances not measured again."""
    score_BN = torch.addmm(length_N, query_BD, keys_ND.T, alpha=-2)
    return score_BN.topk(NEIGHBOURS, largest=False).indices


def in_bytes(keys: Tensor, filled: Tensor) -> InBytes | None:
    """Return what a store keeps of its keys, where native code searches."""
    searched = native.searches(keys[:1], [keys])
    return Rounded().of({"keys_ND": keys, "filled_N": filled}, len(keys)) if searched else None


def race(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-1, rounds):
        for name, contender in contenders.items():
            begun = time.process_time()
            contender()
            if turn >= 0:
                times[name].append(1000 * (time.process_time() - begun))
    return {name: statistics.median(spent) for name, spent in times.items()}


def row(index: faiss.IndexFlatL2, keys: Tensor, queries: np.ndarray, rounds: int) -> str:
    """Compare and race one batch; return its row of the table."""
    query, filled = torch.from_numpy(queries), torch.ones(len(keys), dtype=torch.bool)
    kept = squared_lengths(keys, filled), in_bytes(keys, filled)
    theirs = index.search(queries, NEIGHBOURS)[1]
    found = nearest(query, keys, filled, NEIGHBOURS, *kept)[1].numpy()
    same = np.mean([len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(theirs, found, strict=True)])
    assert same > 0.999, f"{same:.4f} of the neighbours are those of faiss"
    spent = race(
        {
            "faiss": lambda: index.search(queries, NEIGHBOURS),
            "ours": lambda: nearest(query, keys, filled, NEIGHBOURS, *kept),
            "plain": lambda: plain(query, keys, kept[0]),
        },
        rounds,
    )
    cells = [f"{value:.2f}" for value in spent.values()]
    ratios = [f"{spent['faiss'] / spent[name]:.2f}" for name in ("ours", "plain")]
    return " | ".join([f"{len(keys):,}", str(keys.shape[1]), str(len(queries)), *cells, *ratios])


def main() -> None:
    """Read the options, build the indices, and race."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keys", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    print("| keys | size | batch | faiss, ms | ours, ms | plain, ms | ours, times | plain, times |")
    print("|---|---|---|---|---|---|---|---|")
    for keys in tqdm(options.keys, disable=None):
        for size in options.sizes:
            held, queries = data(keys, size, max(BATCHES))
            index = faiss.IndexFlatL2(size)
            index.add(held)
            for batch in BATCHES:
                line = row(index, torch.tensor(held), queries[:batch], options.rounds)
                print(f"| {line} |", flush=True)


if __name__ == "__main__":
    main()
