"""What the checks of lifelong stores share: rows to offer, queries, a store with something in it.

Letters as in `episodic.py`; N entries.
"""

from typing import Any

import torch
from torch import Tensor

from stillknows.memory.checks.check_bench import Bench
from stillknows.memory.episodic import PROVENANCE, Candidates

ROWS = 6


def has_keys(store: Any) -> bool:
    """Return whether a store has keys, and so is read."""
    return bool(store.columns["keys_ND"].shape[1])


def candidates(bench: Bench, rows: int = ROWS, seed: int = 0) -> Candidates:
    """Return rows as wide as the columns of the store, named by their number and the seed."""
    widths = {name: column.shape[1:] for name, column in bench.memory.columns.items()}
    row_B = torch.arange(rows, device=bench.device)

    def tokens(name: str) -> Tensor:
        return (bench.draw(rows, *widths[name], seed=seed).abs() * 4).long().clamp(max=8) + 1

    return Candidates(
        key_BD=bench.draw(rows, *widths["keys_ND"], seed=seed),
        vector_BV=bench.draw(rows, *widths["vectors_NV"], seed=seed + 1),
        answers_BA=tokens("answers_NA"),
        story_BTL=tokens("story_NTL"),
        hash_B=row_B + 1_000_000 * seed,
        outcome_BF=bench.draw(rows, 3, seed=seed).abs(),
        task_B=torch.full_like(row_B, 7),
        episode_B=row_B + seed,
        step_B=row_B,
    )


def queries(bench: Bench) -> Tensor:
    """Return as many keys to ask for, `[B, D]`."""
    return bench.draw(ROWS, bench.memory.columns["keys_ND"].shape[1], seed=100)


def fill(bench: Bench) -> Any:
    """Return the store after twelve candidates, half of them offered again, and reads between."""
    for seed in (0, 1, 0):
        bench.memory.remember(candidates(bench, seed=seed))
        if seed == 1:
            use(bench, bench.memory)  # what is kept of keys for a read is of before
    return bench.memory


def use(bench: Bench, store: Any) -> None:
    """Read a store through every door that it has."""
    store.sample(3, 0)
    if has_keys(store):
        store.recall(queries(bench))


def last_use(store: Any) -> Tensor:
    """Return when each entry was used last, int64 `[N]`."""
    last_use_N: Tensor = store.columns["provenance_NC"][:, PROVENANCE.index("last_use")]
    return last_use_N
