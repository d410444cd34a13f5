"""Writes into a full lifelong store beside a dict with an OrderedDict that does the same.

    python benchmarks/store.py                # 10^4 and 10^6 entries
    python benchmarks/store.py --keys 10000   # a short look

A batch has 32 keys of 128 numbers, a fifth of them held already: what is held moves its value to
the new one by the update rate and takes the key, what is not takes the place of the least recently
used. One thread, CPU clock, contenders interleaved in one process. After the race both sides hold
the same values under the same names. Prints a Markdown table of microseconds a key: medians, and
means beside them, because ours sorts now and then who leaves next, 64 batches or a 64th of the
entries at a time.
"""

import argparse
import statistics
import time
from collections import OrderedDict

import numpy as np
import torch
from tqdm import tqdm

from stillknows.memory.action_values import ActionValues
from stillknows.memory.nec import NEC

BATCH, SIZE, REPEATS, RATE = 32, 128, 6, 0.1


class Dictionary:
    """The rival: names to rows, in the order of use, and arrays of keys and values."""

    def __init__(self, capacity: int) -> None:
        self.rows: OrderedDict[int, int] = OrderedDict()
        self.keys = np.zeros((capacity, SIZE), dtype=np.float32)
        self.values = np.zeros(capacity, dtype=np.float32)

    def write(self, keys: np.ndarray, names: np.ndarray, values: np.ndarray) -> None:
        """Update what is held, and put the rest where the least recently used were."""
        places, kept, capacity = self.rows, [], len(self.keys)
        for name in names.tolist():
            place = places.get(name)
            if place is not None:
                places.move_to_end(name)
            else:
                full = len(places) == capacity
                place = places.popitem(last=False)[1] if full else len(places)
                places[name] = place
                self.values[place] = np.nan
            kept.append(place)
        held = self.values[kept]
        self.keys[kept] = keys
        self.values[kept] = np.where(np.isnan(held), values, held + RATE * (values - held))


class Stream:
    """Batches of keys, names and values: new names but for a fifth that was written lately."""

    def __init__(self, capacity: int) -> None:
        self.random, self.capacity, self.next = np.random.default_rng(0), capacity, 0

    def batch(self, rows: int, repeats: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return `rows` different names, `repeats` of them among the youngest half."""
        new = np.arange(self.next, self.next + rows - repeats)
        back = 1 + self.random.choice(self.capacity // 2, size=repeats, replace=False)
        names = self.random.permutation(np.concatenate([new, self.next - back]))
        self.next += rows - repeats
        keys = self.random.normal(size=(rows, SIZE)).astype(np.float32)
        return keys, names * 2654435761 % (1 << 61), self.random.random(rows, dtype=np.float32)


def write(memory: ActionValues, keys: np.ndarray, names: np.ndarray, values: np.ndarray) -> None:
    """Write a batch of returns of the one action."""
    action = torch.zeros(len(keys), dtype=torch.int64)
    memory.write(action, *map(torch.from_numpy, (keys, names, values)))


def same(rival: Dictionary, store: NEC) -> bool:
    """Return whether both hold the same values under the same names."""
    names, values = store.provenance("hash").tolist(), store.columns["vectors_NV"][:, 0].numpy()
    places = [rival.rows.get(name, -1) for name in names]
    return min(places) >= 0 and np.allclose(rival.values[places], values, atol=1e-6)


def row(capacity: int, rounds: int) -> str:
    """Fill both, race them, compare them; return a row of the table."""
    memory, rival = ActionValues(1, capacity, SIZE, update_rate=RATE), Dictionary(capacity)
    stream, spent = Stream(capacity), {"rival": [], "ours": []}
    for _ in range(0, capacity, 2000):
        batch = stream.batch(2000)
        write(memory, *batch)
        rival.write(*batch)
    for turn in range(rounds + 3):
        batch = stream.batch(BATCH, REPEATS)
        begun = time.process_time()
        rival.write(*batch)
        between = time.process_time()
        write(memory, *batch)
        ended = time.process_time()
        if turn >= 3:
            spent["rival"].append((between - begun) * 1e6 / BATCH)
            spent["ours"].append((ended - between) * 1e6 / BATCH)
    assert same(rival, memory.stores[0]), "the two hold different values"
    theirs, ours = (statistics.median(spent[name]) for name in ("rival", "ours"))
    means = f"{statistics.mean(spent['rival']):.2f} | {statistics.mean(spent['ours']):.2f}"
    return f"{capacity:,} | {theirs:.2f} | {ours:.2f} | {theirs / ours:.2f} | {means}"


def main() -> None:
    """Read the options and race."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keys", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    titles = "entries | dict and OrderedDict, us | ours, us | times | mean, us | ours, mean, us"
    print(f"| {titles} |\n|{'---|' * 6}")
    for keys in tqdm(options.keys, disable=None):
        print(f"| {row(keys, options.rounds)} |", flush=True)


if __name__ == "__main__":
    main()
