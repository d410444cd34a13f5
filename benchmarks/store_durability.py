"""Whether a memory in SQLite keeps what it acknowledged, when its process is killed at any moment.

    python benchmarks/store_durability.py --rounds 200

In every round a process remembers on and on, and says the number of each operation once the store
has taken it; it is killed (SIGKILL) after a random time, often in the middle of a transaction. Then
the memory is opened again: everything acknowledged has to be there, whole, at most one operation
more, equal to what a memory in tensors holds after as many. The next round goes on with the file.
"""

import argparse
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path

import torch
from tqdm import trange

from stillknows.memory.episodic import Candidates
from stillknows.memory.nec import NEC
from stillknows.memory.rules import EvictIdle
from stillknows.memory.sqlite import SQLite

_ROWS = 8


def new_memory() -> NEC:
    """Return the memory of all rounds, empty."""
    return NEC(64, 16, 8, EvictIdle(), answer_length=2, story_shape=(4, 6), neighbours=4)


def live_on(memory: NEC) -> int:
    """Read and remember once more; return the number of the operation.

    What is read and remembered depends on the candidates seen, so that a life that was cut goes on
    as it would have.
    """
    random = torch.Generator().manual_seed(memory.seen)
    memory.recall(torch.randn(4, 16, generator=random))
    whole = torch.arange(memory.seen, memory.seen + _ROWS)
    memory.remember(
        Candidates(
            key_BD=torch.randn(_ROWS, 16, generator=random),
            vector_BV=torch.randn(_ROWS, 8, generator=random),
            answers_BA=torch.randint(1, 99, (_ROWS, 2), generator=random),
            story_BTL=torch.randint(1, 99, (_ROWS, 4, 6), generator=random),
            hash_B=whole % 97,
            outcome_BF=torch.zeros(_ROWS, 3),
            task_B=whole * 0,
            episode_B=whole // 24,
            step_B=whole % 24,
        )
    )
    return memory.operation


def write_until_killed(path: Path, pipe: int) -> None:
    """Live on, and say each operation that was taken."""
    memory = new_memory()
    memory.keep_in(SQLite(path))
    while True:
        os.write(pipe, b"%d\n" % live_on(memory))


def expect_kept(path: Path, acknowledged: int, plain: NEC) -> int:
    """Open what a killed process left; return how many operations it holds.

    Args:
        path: of the file.
        acknowledged: the last operation that it said was taken.
        plain: the same life in tensors, so far; it is lived on.

    Raises:
        AssertionError: if anything acknowledged is missing, or what is there is not whole.
    """
    memory = new_memory()
    memory.keep_in(SQLite(path))
    kept = memory.operation
    assert acknowledged <= kept <= acknowledged + 1, (acknowledged, kept)
    while plain.operation < kept:
        live_on(plain)
    for name, column in memory.columns.items():
        assert torch.equal(column, plain.columns[name]), name
    assert memory.names == plain.names
    memory.store.close()
    return kept


def one_round(path: Path, seconds: float) -> int:
    """Let a process live until it is killed after so many seconds; return what was acknowledged."""
    reading, writing = os.pipe()
    process = multiprocessing.get_context("fork").Process(
        target=write_until_killed, args=(path, writing)
    )
    process.start()
    os.close(writing)
    said = os.read(reading, 1 << 16)
    time.sleep(seconds)
    process.kill()
    process.join()
    while more := os.read(reading, 1 << 16):
        said += more
    os.close(reading)
    return int(said[: said.rindex(b"\n")].split(b"\n")[-1])


def main() -> None:
    """Kill, look and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    times, more, plain = random.Random(given.seed), 0, new_memory()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.sqlite"
        for _ in trange(given.rounds, disable=None):
            acknowledged = one_round(path, times.uniform(0, 0.3))
            kept = expect_kept(path, acknowledged, plain)
            more += kept > acknowledged
    print(
        f"{given.rounds} processes killed, {kept} operations; everything acknowledged was there, "
        f"whole; in {more} rounds the one that was not acknowledged yet was there too"
    )


if __name__ == "__main__":
    main()
