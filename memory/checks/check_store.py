"""The checks of lifelong stores, by name; those of reads are in `check_reading.py`.

Each is told what to look at when it fails. They know what `episodic.py` says of a store: its
columns, and the doors `remember`, `recall`, `rekey`, `sample`, `entries`, `snapshot`, `restore`,
`frozen` and `len`. A store without keys (`key_size` 0) is not read, and what its policy refuses is
not missed. Letters as in `episodic.py`; N entries.
"""

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from stillknows.memory.checks.check_bench import (
    Bench,
    MemoryFault,
    expect,
    expect_finite,
    expect_near,
    expect_same,
    kind,
)
from stillknows.memory.checks.check_reading import READING
from stillknows.memory.checks.store_bench import ROWS, candidates, fill, has_keys, queries, use
from stillknows.memory.episodic import PROVENANCE, TOKENS, Candidates, blank_columns
from stillknows.memory.interface import ACTIONS, ADD, SKIP


def applies(name: str, memory: Any) -> bool:
    """Return whether a check of this name says something about a store."""
    return name not in READING or has_keys(memory)


def check_columns(bench: Bench) -> None:
    """The columns are those of `blank_columns`, with as many rows as the store has room for."""
    store, columns = bench.memory, bench.memory.columns
    usual = blank_columns(1, 1, 1, 1, (1, 1), "cpu")
    missing = sorted(usual.keys() - columns.keys())
    expect(not missing, f"columns has no {', '.join(missing)}; begin with blank_columns.")
    for name, column in columns.items():
        expect(
            column.shape[0] == store.capacity,
            f"{name} is {kind(column)} where capacity={store.capacity}; give every entry a row.",
        )
        like = usual.get(name, column)
        dtypes = TOKENS.values() if name == "story_NTL" else (like.dtype,)
        expect(
            column.dtype in dtypes and column.dim() == like.dim(),
            f"{name} is {kind(column)}; look at blank_columns, which has {like.dtype}.",
        )
    expect(
        columns["provenance_NC"].shape[1] == len(PROVENANCE),
        f"provenance_NC is {kind(columns['provenance_NC'])}; look at PROVENANCE for its columns.",
    )


def check_empty(bench: Bench) -> None:
    """An empty store holds 0, samples nothing, and recalls K times nothing."""
    store = bench.memory
    expect(len(store) == 0, f"an empty store has len {len(store)}.")
    expect(len(store.sample(3, 0)) == 0, "an empty store samples entries.")
    if not has_keys(store):
        return
    recall = store.recall(queries(bench))
    nothing = {"slots_BK": -1, "distance_BK": torch.inf}
    for name, part in recall._asdict().items():
        default = nothing.get(name, 0)
        expect(
            bool((part == default).all()),
            f"{name} of an empty store is not all {default}; say that there are no neighbours.",
        )


def check_remember(bench: Bench) -> None:
    """`remember` says what became of each row, and an entry holds what was offered."""
    store, rows = bench.memory, candidates(bench)
    written = store.remember(rows)
    expect(len(written) == ROWS, f"remember returned {len(written)} results for {ROWS} rows.")
    ids = store.columns["provenance_NC"][:, PROVENANCE.index("id")].tolist()
    for row, (action, entry, _) in enumerate(written):
        expect(action in range(len(ACTIONS)), f"remember returned the action {action}.")
        expect((action == SKIP) == (entry == -1), f"action {action} came with the id {entry}.")
        if action == ADD and entry in ids:
            _expect_holds(store, ids.index(entry), rows, row)


def check_sample(bench: Bench) -> None:
    """A sample is of different filled slots, and the same for the same key."""
    store = fill(bench)
    held = int(store.columns["filled_N"].sum())
    for size in (1, 4, held + 1):
        drawn = store.sample(size, 5)
        expect(len(drawn.unique()) == len(drawn), "a sample names a slot twice.")
        expect(
            len(drawn) == min(size, held), f"a sample of {size} of {held} has {len(drawn)} slots."
        )
        expect(bool(store.columns["filled_N"][drawn].all()), "a sample names an empty slot.")
        again = store.sample(size, 5)
        expect(torch.equal(drawn, again), "a sample differs when drawn with the same key again.")
    store.remember(candidates(bench, 1, seed=3))  # younger than all
    birth_N = store.columns["provenance_NC"][:, PROVENANCE.index("birth")]
    births = birth_N[store.columns["filled_N"]]
    if len(births) and births.min() < births.max():
        drawn = store.sample(len(births), 5, before=int(births.max()))
        expect(bool((birth_N[drawn] < births.max()).all()), "a sample is born too late for before.")


def check_snapshot(bench: Bench) -> None:
    """`restore(snapshot())` is exact, and the store goes on as if nothing had been between."""
    store = fill(bench)
    taken, twin = store.snapshot(), copy.deepcopy(store)
    kept = _flat(copy.deepcopy(taken))
    store.remember(candidates(bench, seed=2))
    use(bench, store)
    sentence = "{}; a snapshot is a copy of everything, and restore makes another."
    expect_same(_flat(taken), kept, sentence.format("of a snapshot changed as the store went on"))
    store.restore(taken)
    expect_same(_flat(store.snapshot()), kept, sentence.format("differs after restore"))
    store.policy = copy.deepcopy(twin.policy)  # it is no part of the store, and is saved by itself
    later = candidates(bench, seed=1), candidates(bench, seed=3)
    outcomes = [[each.remember(rows) for rows in later] for each in (store, twin)]
    expect(
        outcomes[0] == outcomes[1],
        sentence.format("a restored store goes on in another way"),
    )
    expect_same(
        _flat(store.snapshot()), _flat(twin.snapshot()), sentence.format("differs later on")
    )
    expect_same(_flat(taken), kept, sentence.format("changed after it was restored"))


def check_frozen(bench: Bench) -> None:
    """While `frozen()` nothing changes and `remember` raises; after it, it does not."""
    store = fill(bench)
    before = _flat(copy.deepcopy(store.snapshot()))
    with store.frozen():
        use(bench, store)
        expect(_refuses(store, candidates(bench, seed=2)), "remember did not raise while frozen.")
        if has_keys(store):
            _try_to_rekey(store)
    expect_same(
        _flat(store.snapshot()), before, "changed while the store was frozen; touch nothing there."
    )
    with suppress(KeyError), store.frozen():
        raise KeyError
    expect(not _refuses(store, candidates(bench, seed=2)), "remember raised after frozen() ended.")


def check_refusal(bench: Bench) -> None:
    """What is NaN is refused with a ValueError, and the store is as it was."""
    if bench.device.type != "cpu":
        return  # a GPU would be waited for
    store = fill(bench)
    before = _flat(copy.deepcopy(store.snapshot()))
    rows = candidates(bench, seed=2)
    try:
        store.remember(rows._replace(outcome_BF=rows.outcome_BF * torch.nan))
    except ValueError:
        expect_same(_flat(store.snapshot()), before, "changed though the candidates were refused.")
    else:
        raise MemoryFault("remember took an outcome that is NaN; look at refusals.py.")


def check_capacity(bench: Bench) -> None:
    """However much is offered, no more is held than there is room for."""
    store, rows = bench.memory, min(64, bench.memory.capacity + 1)
    shapes = {name: column.shape for name, column in store.columns.items()}
    ever, there = set[int](), set[int]()
    for seed in range(store.capacity // rows + 2):
        written = store.remember(candidates(bench, rows, seed=seed))
        held = int(store.columns["filled_N"].sum())
        expect(held <= store.capacity, f"{held} entries where capacity={store.capacity}.")
        expect(len(store) == held, f"len is {len(store)} where {held} slots are filled.")
        for action, entry, evicted in written:
            expect(action != ADD or entry not in ever, f"the id {entry} was given twice.")
            if action == ADD:
                ever.add(entry)
                there.add(entry)
            there.discard(evicted)
    ids_N = store.columns["provenance_NC"][:, PROVENANCE.index("id")]
    same = there == set(ids_N[store.columns["filled_N"]].tolist())
    expect(same, "entries left that remember did not tell of as evicted, or stayed though it did.")
    after = {name: column.shape for name, column in store.columns.items()}
    expect(after == shapes, "columns changed their shapes; evict instead of growing.")


def check_long(bench: Bench) -> None:
    """A long run stays finite."""
    store, query_BD = bench.memory, queries(bench)[:1]
    for step in range(bench.steps):
        store.remember(candidates(bench, 1, seed=step))
        if has_keys(store):
            recall = store.recall(query_BD)
            read = {"weights_BK": recall.weights_BK, "vectors_BKV": recall.vectors_BKV}
            expect_finite(read, f"after {step + 1} steps; look at what only grows.")
    expect_finite(store.columns, f"after {bench.steps} steps; look at what only grows.")


def check_gpu(bench: Bench) -> None:
    """A snapshot that is restored on the GPU recalls the same, and remembers there."""
    store = fill(bench)
    there = bench._replace(memory=copy.deepcopy(store), device=torch.device("cuda"))
    taken = store.snapshot()
    columns = {name: column.to("cuda") for name, column in taken["columns"].items()}
    there.memory.restore({**taken, "columns": columns})
    for each in (there, bench):
        each.memory.remember(candidates(each, seed=2))
    gpu, here = (each.memory.columns for each in (there, bench))
    expect_near(gpu, here, "differs on the GPU; look for tensors that stay on the CPU.")
    if has_keys(store):
        gpu, here = (each.memory.recall(queries(each))._asdict() for each in (there, bench))
        expect_near(gpu, here, "of a recall differs on the GPU.")


CHECKS: dict[str, Callable[[Bench], None]] = {
    "columns": check_columns,
    "empty": check_empty,
    "remember": check_remember,
    **READING,
    "sample": check_sample,
    "snapshot": check_snapshot,
    "frozen": check_frozen,
    "refusal": check_refusal,
    "capacity": check_capacity,
    "long": check_long,
    "gpu": check_gpu,
}


def _try_to_rekey(store: Any) -> None:
    keys_ND = store.columns["keys_ND"]
    with suppress(RuntimeError):
        store.rekey(lambda story_BTL: keys_ND.new_zeros(len(story_BTL), keys_ND.shape[1]))


def _refuses(store: Any, rows: Candidates) -> bool:
    try:
        store.remember(rows)
    except RuntimeError:
        return True
    return False


def _expect_holds(store: Any, slot: int, rows: Candidates, row: int) -> None:
    """Expect the contents of a candidate in the columns of a slot."""
    contents = {
        "keys_ND": rows.key_BD,
        "vectors_NV": rows.vector_BV,
        "answers_NA": rows.answers_BA,
        "story_NTL": rows.story_BTL,
    }
    for name, part in contents.items():
        held = store.columns[name][slot]
        expect(torch.equal(held, part[row].to(held)), f"{name} of a new entry is not as offered.")
    drawn = store.entries(torch.tensor([slot], device=rows.key_BD.device))
    same = all(
        torch.equal(part[0], wanted[row].to(part))
        for part, wanted in ((drawn.story_BTL, rows.story_BTL), (drawn.answers_BA, rows.answers_BA))
    )
    expect(same, "entries of a new entry's slot are not its story and its answer.")
    origin = {"task": rows.task_B, "episode": rows.episode_B, "step": rows.step_B}
    for name, part in origin.items():
        held = store.columns["provenance_NC"][slot, PROVENANCE.index(name)]
        expect(int(held) == int(part[row]), f"the {name} of a new entry is not as offered.")


def _flat(part: Any, path: str = "the snapshot") -> dict[str, Tensor]:
    """Return all that a snapshot holds, by its path, numbers as tensors."""
    if isinstance(part, dict):
        found = (_flat(each, f"{path}[{name!r}]") for name, each in part.items())
        return {name: tensor for each in found for name, tensor in each.items()}
    return {path: part if isinstance(part, Tensor) else torch.tensor(part)}
