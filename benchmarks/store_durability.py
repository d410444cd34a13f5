"""Whether a memory keeps what it acknowledged, when its process or its server is killed.

    python benchmarks/store_durability.py --rounds 200
    python benchmarks/store_durability.py --server --rounds 20     # PostgreSQL's

In every round a process remembers on and on, and says the number of each operation once the store
has taken it; it is killed (SIGKILL) after a random time, often in the middle of a transaction. Then
the memory is opened again: everything acknowledged has to be there, whole, at most one operation
more, equal to what a memory in tensors holds after as many. The next round goes on with the file.

With `--server`, four processes write to one memory in PostgreSQL, and in every round the server
with all its processes is killed (SIGKILL) at a random moment and started again. They wait for it
and go on. In the end all four have to see the same memory, with every entry that was acknowledged,
once.
"""

import argparse
import multiprocessing
import os
import random
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import trange

from stillknows.memory.episodic import Candidates
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictIdle
from stillknows.memory.stores.sqlite import SQLite

_ROWS, _WRITERS, _MOST = 8, 4, 5000
T = TypeVar("T")


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


def until_done(work: Callable[[], T], /) -> T:
    """Do work again and again until the server lets it be done."""
    while True:
        try:
            return work()
        except OSError:
            time.sleep(0.05)


def share(name: str, writer: int, pipe: int, done: Any, together: Any) -> None:
    """Write to a memory that others write to, say what was taken, and in the end what is there."""
    from stillknows.memory.stores.postgres import PostgreSQL

    memory = NEC(_WRITERS * _MOST, 4, 0, EvictIdle(), answer_length=1, story_shape=(1, 2))
    store = until_done(lambda: PostgreSQL(name))
    until_done(lambda: memory.keep_in(store))
    store.through = until_done
    together.wait()
    for number in range(_MOST):
        question = torch.tensor([_MOST * writer + number])
        blank = question[:, None] * torch.ones(4)
        where = (question, question, question)
        row = Candidates(blank, blank[:, :0], question[:, None], blank[:, None, :2] % 999, question,
                         torch.zeros(1, 3), *where)  # fmt: skip
        (written,) = memory.remember(row)
        os.write(pipe, b"%d %d %d\n" % (int(question), written.entry, memory.operation))
        if done.is_set():
            break
    together.wait()
    memory.follow()
    questions, ids = (memory.provenance(name)[: len(memory)].tolist() for name in ("hash", "id"))
    held = zip(questions, ids, strict=True)
    os.write(pipe, b"%d %d %d\n" % (-1, memory.seen, hash(frozenset(held)) % 2**40))
    memory.store.close()


def kill_server(server: Any, rounds: int, longest: float, times: random.Random) -> tuple[int, int]:
    """Kill a server while four processes write to it; return how many entries and operations.

    Args:
        server: of `postgres_server.py`, running, which libpq's variables lead to.
        rounds: how often it is killed.
        longest: seconds between a start and the next kill, at most.
        times: draws the moments.

    Raises:
        AssertionError: if anything acknowledged is missing, there twice, or not seen by all.
    """
    context, name = multiprocessing.get_context("fork"), f"shared-{uuid.uuid4().hex[:8]}"
    done, together = context.Event(), context.Barrier(_WRITERS + 1)
    reading, writing = os.pipe()
    processes = [
        context.Process(target=share, args=(name, writer, writing, done, together))
        for writer in range(_WRITERS)
    ]
    for process in processes:
        process.start()
    together.wait()
    said = b""
    os.set_blocking(reading, False)
    for _ in trange(rounds, disable=None):
        time.sleep(times.uniform(0.05, longest))
        server.kill()
        server.start()
        said += _read(reading)
    done.set()
    together.wait()
    for process in processes:
        process.join()
    said += _read(reading)
    for end in (reading, writing):
        os.close(end)
    lines = [tuple(map(int, line.split())) for line in said.splitlines()]
    ends = {line[1:] for line in lines if line[0] < 0}
    taken = [line for line in lines if line[0] >= 0]
    assert len(ends) == 1, f"the four see different memories: {ends}"
    ((seen, mark),) = ends
    whole = frozenset((question, entry) for question, entry, _ in taken)
    assert hash(whole) % 2**40 == mark, "what is there is not what was acknowledged"
    assert seen == len(taken) == len(whole), (seen, len(taken), len(whole))
    operations = {operation for *_, operation in taken}
    assert len(operations) == len(taken), "two were given one number"
    return seen, max(operations)


def _read(pipe: int) -> bytes:
    """Return what is in a pipe now."""
    said = b""
    try:
        while more := os.read(pipe, 1 << 16):
            said += more
    except BlockingIOError:
        pass
    return said


def kill_servers(rounds: int, times: random.Random) -> None:
    """Kill a server that is made for it, and say what was left."""
    from postgres_server import Server

    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = Server(Path(folder))
        os.environ.update(server.variables)
        server.start()
        try:
            entries, operations = kill_server(server, rounds, 1.5, times)
        finally:
            server.stop()
    print(
        f"{rounds} times the server was killed and started again while {_WRITERS} processes wrote "
        f"{entries} entries in {operations} operations; all of them see every entry that was "
        "acknowledged, once"
    )


def main() -> None:
    """Kill, look and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--server", action="store_true", help="kill a PostgreSQL server")
    given = parser.parse_args()
    torch.set_num_threads(1)
    times, more, plain = random.Random(given.seed), 0, new_memory()
    if given.server:
        kill_servers(given.rounds, times)
        return
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
