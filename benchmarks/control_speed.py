"""The memory's share of an environment step of Neural Episodic Control, beside brute force.

    OPENBLAS_NUM_THREADS=1 python benchmarks/control_speed.py     # 10^4 keys, 32 environments
    OPENBLAS_NUM_THREADS=1 python benchmarks/control_speed.py --envs 1 32   # also one alone

Four actions, keys of 64 numbers, k = 50: the values of all actions for every environment, and a
write of one return for each. Brute force is numpy: distances by one matrix product, argpartition,
the kernel on distances measured again, one action after another, for all environments at once
(`numpy`) or one after another (`numpy, one by one`); it writes into a ring. One thread, CPU clock,
contenders interleaved in one process, medians. Before timing, the values are compared. Prints a
Markdown table of microseconds for each environment and step.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from tqdm import tqdm

from stillknows.memory.action_values import ActionValues

ACTIONS, KEYS, SIZE, NEIGHBOURS, DELTA = 4, 10_000, 64, 50, 1e-3


class Brute:
    """Q by brute force: arrays of keys, their squared lengths, and values for each action."""

    def __init__(self, keys: np.ndarray, values: np.ndarray) -> None:
        self.keys, self.values, self.next = keys.copy(), values.copy(), np.zeros(ACTIONS, int)
        self.lengths = np.square(keys).sum(axis=2)

    def look(self, queries: np.ndarray) -> np.ndarray:
        """Return Q of each query and action."""
        columns = []
        for keys, lengths, values in zip(self.keys, self.lengths, self.values, strict=True):
            score = lengths - 2 * (queries @ keys.T)
            near = np.argpartition(score, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
            distance = np.square(queries[:, None] - keys[near]).sum(axis=2)
            kernel = 1 / (distance + DELTA)
            columns.append((kernel * values[near]).sum(axis=1) / kernel.sum(axis=1))
        return np.stack(columns, axis=1)

    def write(self, actions: np.ndarray, keys: np.ndarray, values: np.ndarray) -> None:
        """Put what is new over what is oldest."""
        for action, key, value in zip(actions, keys, values, strict=True):
            place = self.next[action] % self.keys.shape[1]
            self.keys[action, place], self.values[action, place] = key, value
            self.lengths[action, place] = key @ key
            self.next[action] += 1


def ours(keys: np.ndarray, values: np.ndarray) -> ActionValues:
    """Return action values that hold the keys; their names are -1 and below."""
    memory = ActionValues(ACTIONS, keys.shape[1], SIZE, neighbours=NEIGHBOURS, delta=DELTA)
    for action in range(ACTIONS):
        parts = torch.from_numpy(keys[action]), -1 - torch.arange(keys.shape[1])
        whole = torch.full((keys.shape[1],), action)
        memory.write(whole, *parts, torch.from_numpy(values[action]))
    return memory


def race(keys: int, envs: int, rounds: int) -> str:
    """Compare and race both; return a row of the table."""
    random = np.random.default_rng(0)
    mix = random.normal(size=(16, SIZE))

    def points(*shape: int) -> np.ndarray:
        noise = 0.5 * random.normal(size=(*shape, SIZE))
        return (random.normal(size=(*shape, 16)) @ mix + noise).astype(np.float32)

    held, values = points(ACTIONS, keys), random.random((ACTIONS, keys), dtype=np.float32)
    memory, batched, single = ours(held, values), Brute(held, values), Brute(held, values)

    def step_of(brute: Brute, rows: int) -> Callable[..., None]:
        def step(queries: np.ndarray, actions: np.ndarray, returns: np.ndarray, _: int) -> None:
            for first in range(0, envs, rows):
                brute.look(queries[first : first + rows])
            brute.write(actions, queries, returns)

        return step

    @torch.no_grad()
    def our_step(queries: np.ndarray, actions: np.ndarray, returns: np.ndarray, turn: int) -> None:
        query, names = torch.from_numpy(queries), turn * envs + torch.arange(envs)
        memory.values(query, names)
        memory.write(torch.from_numpy(actions), query, names, torch.from_numpy(returns))

    look = points(envs)
    with torch.no_grad():
        found = memory.values(torch.from_numpy(look), torch.arange(envs))
    np.testing.assert_allclose(found.numpy(), batched.look(look), atol=1e-4)
    steps = {
        "one by one": step_of(single, 1),
        "together": step_of(batched, envs),
        "ours": our_step,
    }
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        actions = random.integers(ACTIONS, size=envs)
        moment = points(envs), actions, random.random(envs, dtype=np.float32), turn
        for name, step in steps.items():
            begun = time.process_time()
            step(*moment)
            if turn >= 2:
                spent[name].append(1e6 * (time.process_time() - begun) / envs)
    alone, together, mine = (statistics.median(times) for times in spent.values())
    cells = f"{alone:.0f} | {together:.0f} | {mine:.0f}"
    return f"{keys:,} | {envs} | {cells} | {alone / mine:.1f} | {together / mine:.1f}"


def main() -> None:
    """Read the options and race."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keys", type=int, default=KEYS)
    parser.add_argument("--envs", type=int, nargs="+", default=[32])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    titles = "keys an action | environments | numpy, one by one, us | numpy, us | ours, us"
    print(f"| {titles} | times one by one | times |\n|{'---|' * 7}")
    for envs in tqdm(options.envs, disable=None):
        print(f"| {race(options.keys, envs, options.rounds)} |", flush=True)


if __name__ == "__main__":
    main()
