"""Weights against the store: each swapped for its earlier self, and the examination held again.

After every experience the weights and the store are kept in files of the life's folder. In the end
each task is examined with the weights as they are now, as they were after its own training, or
before any, and with the store likewise (before any, it is empty): nine cells, of which one is the
examination itself. Keys belong to the weights: after a swap they are computed again from the text
of the entries, as at the end of each experience.

What was forgotten in a task, `A[then, then] - A[now, now]` (weights first, then the store), is the
sum of three parts:

    weights       A[then, then] - A[now, then]      the weights moved, the store stayed
    store         A[then, then] - A[then, now]      the store moved, the weights stayed
    interaction   A[now, then] + A[then, now] - A[then, then] - A[now, now]
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.examinations.arms import set_aside
from stillknows.agents.persistence.container import read_tree, write_tree
from stillknows.agents.persistence.keeping import weights_of

NOW, THEN, EMPTY = "now", "then", "empty"
TIMES = (NOW, THEN, EMPTY)
SCHEMA = "stillknows anatomy 1"
FOLDER = "anatomy"
MOST_BYTES = 2 * 2**30


class Parts(NamedTuple):
    """What was forgotten in a task, in accuracy, and its three parts."""

    forgotten: float
    weights: float
    store: float
    interaction: float


def arm(weights: str, store: str) -> str:
    """Return the name of a cell among the arms of an examination."""
    return f"weights_{weights}_store_{store}"


CELLS = {
    arm(weights, store): (weights, store)
    for weights in TIMES
    for store in TIMES
    if (weights, store) != (NOW, NOW)
}


def parts_of(accuracy: Mapping[tuple[str, str], float]) -> Parts:
    """Return what was forgotten, and how much lies in what.

    Args:
        accuracy: by when the weights are of, and when the store.
    """
    both_then, both_now = accuracy[THEN, THEN], accuracy[NOW, NOW]
    weights_moved, store_moved = accuracy[NOW, THEN], accuracy[THEN, NOW]
    return Parts(
        both_then - both_now,
        both_then - weights_moved,
        both_then - store_moved,
        weights_moved + store_moved - both_then - both_now,
    )


class Snapshots:
    """Weights and stores of an agent as they were after each experience, in a folder.

    Args:
        folder: of the life; `anatomy/` in it is made and grows with every experience by the bytes
            of weights and store.
        agent: whose.
        experiences: how many there will be.
        most_bytes: that all of them may take.

    Raises:
        ValueError: if they would take more.
    """

    def __init__(
        self, folder: Path, agent: MemoryAgent, experiences: int, most_bytes: int = MOST_BYTES
    ) -> None:
        self.folder, self.agent = folder / FOLDER, agent
        weights = sum(value.nbytes for value in weights_of(agent).values())
        store = 0 if agent.episodic_memory is None else agent.episodic_memory.nbytes
        needed = (experiences + 1) * (weights + store)
        if needed > most_bytes:
            raise ValueError(
                f"anatomy=true would keep {needed / 2**20:.0f} MiB of weights and stores, more "
                f"than {most_bytes / 2**20:.0f}: choose a smaller model or store, or anatomy=false."
            )

    def take(self, after: int) -> None:
        """Keep weights and store as they are after so many experiences."""
        self.folder.mkdir(parents=True, exist_ok=True)
        store = self.agent.episodic_memory
        tree = {
            "weights": weights_of(self.agent),
            "store": None if store is None else store.snapshot(),
        }
        write_tree(self._path(after), tree, SCHEMA)

    @contextmanager
    def swapped(
        self, weights: int | None, store: int | None, rekey: Callable[[], Any]
    ) -> Iterator[None]:
        """Put earlier weights and an earlier store in place for as long as this lasts.

        Args:
            weights: after how many experiences; None: as they are.
            store: after how many experiences, 0 for an empty one; None: as it is.
            rekey: computes the keys of the store again.

        Raises:
            ValueError: if there is no such snapshot.
        """
        agent, own = self.agent, self.agent.episodic_memory
        before = {name: value.clone() for name, value in weights_of(agent).items()}
        twin = None if own is None else own.fork()  # in tensors; its own store hears of nothing
        if twin is not None and store is not None:
            twin.restore(_on(self._read(store)["store"], agent.device))
        try:
            with set_aside(agent, episodic_memory=twin):
                if weights is not None:
                    _load(agent, self._read(weights)["weights"])
                if twin is not None and agent.recall:
                    rekey()
                yield
        finally:
            _load(agent, before)

    def _path(self, after: int) -> Path:
        return self.folder / f"after-{after}.safetensors"

    def _read(self, after: int) -> Any:
        return read_tree(self._path(after), SCHEMA)


def _load(agent: MemoryAgent, weights: Mapping[str, Tensor]) -> None:
    agent.load_state_dict({name: part.to(agent.device) for name, part in weights.items()}, False)


def _on(snapshot: dict[str, Any], device: torch.device) -> dict[str, Any]:
    columns = {name: column.to(device) for name, column in snapshot["columns"].items()}
    return {**snapshot, "columns": columns}
