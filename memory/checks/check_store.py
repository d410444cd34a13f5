"""The checks of lifelong stores, by name. Each is told what to look at when it fails.

They know what `episodic.py` says of a store: its columns, and the doors `remember`, `recall`,
`rekey`, `sample`, `entries`, `snapshot`, `restore`, `frozen` and `len`. A store without keys
(`key_size` 0) is not read, and what its policy refuses is not missed. Letters as in
`episodic.py`; N entries.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stillknows.memory.checks.check_bench import (
    Bench,
    expect,
    expect_finite,
    expect_near,
    expect_same,
    expect_weights,
    kind,
)
from stillknows.memory.episodic import PROVENANCE, TOKENS, Candidates, blank_columns
from stillknows.memory.interface import ACTIONS, ADD, SKIP

_ROWS = 6
_READING = ("recall", "weights", "rows", "rekey", "gradient")


def applies(name: str, memory: Any) -> bool:
    """Return whether a check of this name says something about a store."""
    return name not in _READING or _has_keys(memory)


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
    if not _has_keys(store):
        return
    recall = store.recall(_queries(bench))
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
    expect(len(written) == _ROWS, f"remember returned {len(written)} results for {_ROWS} rows.")
    ids = store.columns["provenance_NC"][:, PROVENANCE.index("id")].tolist()
    for row, (action, entry, _) in enumerate(written):
        expect(action in range(len(ACTIONS)), f"remember returned the action {action}.")
        expect((action == SKIP) == (entry == -1), f"action {action} came with the id {entry}.")
        if action == ADD and entry in ids:
            _expect_holds(store, ids.index(entry), rows, row)


def check_recall(bench: Bench) -> None:
    """A recall gives filled slots, nearest first, with their squared distances and contents."""
    store = _fill(bench)
    columns = {name: column.clone() for name, column in store.columns.items()}
    query_BD = _queries(bench)
    recall = store.recall(query_BD)
    present_BK = recall.present_BK
    at_BK = recall.slots_BK.clamp(min=0)
    expect(bool(((recall.slots_BK >= 0) == present_BK).all()), "absent slots are not -1.")
    expect(bool(columns["filled_N"][at_BK[present_BK]].all()), "slots_BK names an empty slot.")
    held = min(int(columns["filled_N"].sum()), present_BK.shape[1])
    expect(bool((present_BK.sum(dim=1) == held).all()), f"there are not {held} neighbours a row.")
    wanted_BN = (query_BD[:, None] - columns["keys_ND"]).square().sum(dim=2)
    wanted_BN = wanted_BN.masked_fill(~columns["filled_N"], torch.inf)
    nearest_BK = wanted_BN.sort(dim=1).values[:, :held]
    expect_near(
        {
            "distance_BK": recall.distance_BK[:, :held],
            "vectors_BKV": recall.vectors_BKV[present_BK],
            "answers_BKA": recall.answers_BKA[present_BK],
        },
        {
            "distance_BK": nearest_BK,
            "vectors_BKV": columns["vectors_NV"][at_BK[present_BK]],
            "answers_BKA": columns["answers_NA"][at_BK[present_BK]],
        },
        "of a recall is not that of the nearest entries; look at the order and at the squares.",
    )


def check_weights(bench: Bench) -> None:
    """The weights of a recall are not negative, sum to at most 1, and are 0 for what is absent."""
    recall = _fill(bench).recall(_queries(bench))
    expect_weights(recall.weights_BK, "of a recall")
    absent = recall.weights_BK[~recall.present_BK]
    expect(not absent.any(), "an absent neighbour has a weight; give it 0.")


def check_rows(bench: Bench) -> None:
    """What a query recalls does not depend on the queries beside it."""
    store, some = _fill(bench), [3, 0]
    with store.frozen():
        whole, few = store.recall(_queries(bench)), store.recall(_queries(bench)[some])
    expect_near(
        few._asdict(),
        {name: part[some] for name, part in whole._asdict().items()},
        "of a recall depends on the queries beside it; look at what mixes the first dimension.",
    )


def check_rekey(bench: Bench) -> None:
    """`rekey` computes the keys again from the stories, and changes nothing else."""
    store = _fill(bench)
    before = {name: column.clone() for name, column in store.columns.items()}
    width = before["keys_ND"].shape[1]

    def encode(story_BTL: Tensor) -> Tensor:
        tokens_BS = story_BTL.flatten(1).float()
        return (tokens_BS @ bench.draw(tokens_BS.shape[1], width)).sin()

    share = store.rekey(encode)
    expect(0 <= share <= 1, f"rekey returned {share}, which is no share of neighbours that stay.")
    wanted_ND = torch.where(
        before["filled_N"][:, None], encode(before["story_NTL"].long()), before["keys_ND"]
    )
    expect_near(
        store.columns,
        {**before, "keys_ND": wanted_ND},
        "is not as expected after rekey; it encodes the stories of filled entries, and no more.",
    )


def check_sample(bench: Bench) -> None:
    """A sample is of different filled slots, and the same for the same key."""
    store = _fill(bench)
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
    store = _fill(bench)
    taken, twin = store.snapshot(), copy.deepcopy(store)
    kept = _flat(copy.deepcopy(taken))
    store.remember(candidates(bench, seed=2))
    _use(bench, store)
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
    store = _fill(bench)
    before = _flat(copy.deepcopy(store.snapshot()))
    with store.frozen():
        _use(bench, store)
        expect(_refuses(store, candidates(bench, seed=2)), "remember did not raise while frozen.")
    expect_same(
        _flat(store.snapshot()), before, "changed while the store was frozen; touch nothing there."
    )
    expect(not _refuses(store, candidates(bench, seed=2)), "remember raised after frozen() ended.")


def check_capacity(bench: Bench) -> None:
    """However much is offered, no more is held than there is room for."""
    store, rows = bench.memory, min(64, bench.memory.capacity + 1)
    shapes = {name: column.shape for name, column in store.columns.items()}
    for seed in range(store.capacity // rows + 2):
        store.remember(candidates(bench, rows, seed=seed))
        held = max(len(store), int(store.columns["filled_N"].sum()))
        expect(held <= store.capacity, f"{held} entries where capacity={store.capacity}.")
    after = {name: column.shape for name, column in store.columns.items()}
    expect(after == shapes, "columns changed their shapes; evict instead of growing.")


def check_gradient(bench: Bench) -> None:
    """The gradient of a recall to its query is finite, all keys and vectors being zero."""
    store, rows = bench.memory, candidates(bench)
    store.remember(rows._replace(key_BD=rows.key_BD * 0, vector_BV=rows.vector_BV * 0))
    query_BD = torch.zeros_like(_queries(bench)).requires_grad_()
    with torch.enable_grad():
        recall = store.recall(query_BD)
        weights_BK = recall.weights_BK * torch.arange(recall.weights_BK.shape[1]).to(query_BD)
        (gradient,) = torch.autograd.grad(weights_BK.sum(), query_BD)
    expect_finite(
        {"the gradient of a query": gradient},
        "at distance 0; look at square roots and divisions in the kernel.",
    )


def check_long(bench: Bench) -> None:
    """A long run stays finite."""
    store, queries = bench.memory, _queries(bench)
    for step in range(bench.steps):
        store.remember(candidates(bench, 1, seed=step))
        if _has_keys(store):
            recall = store.recall(queries[:1])
            read = {"weights_BK": recall.weights_BK, "vectors_BKV": recall.vectors_BKV}
            expect_finite(read, f"after {step + 1} steps; look at what only grows.")
    expect_finite(store.columns, f"after {bench.steps} steps; look at what only grows.")


def check_gpu(bench: Bench) -> None:
    """A snapshot that is restored on the GPU recalls the same, and remembers there."""
    store = _fill(bench)
    there = bench._replace(memory=copy.deepcopy(store), device=torch.device("cuda"))
    taken = store.snapshot()
    columns = {name: column.to("cuda") for name, column in taken["columns"].items()}
    there.memory.restore({**taken, "columns": columns})
    for each in (there, bench):
        each.memory.remember(candidates(each, seed=2))
    gpu, here = (each.memory.columns for each in (there, bench))
    expect_near(gpu, here, "differs on the GPU; look for tensors that stay on the CPU.")
    if _has_keys(store):
        gpu, here = (each.memory.recall(_queries(each))._asdict() for each in (there, bench))
        expect_near(gpu, here, "of a recall differs on the GPU.")


CHECKS: dict[str, Callable[[Bench], None]] = {
    "columns": check_columns,
    "empty": check_empty,
    "remember": check_remember,
    "recall": check_recall,
    "weights": check_weights,
    "rows": check_rows,
    "rekey": check_rekey,
    "sample": check_sample,
    "snapshot": check_snapshot,
    "frozen": check_frozen,
    "capacity": check_capacity,
    "gradient": check_gradient,
    "long": check_long,
    "gpu": check_gpu,
}


def _has_keys(store: Any) -> bool:
    return bool(store.columns["keys_ND"].shape[1])


def candidates(bench: Bench, rows: int = _ROWS, seed: int = 0) -> Candidates:
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


def _queries(bench: Bench) -> Tensor:
    return bench.draw(_ROWS, bench.memory.columns["keys_ND"].shape[1], seed=100)


def _fill(bench: Bench) -> Any:
    """Return the store after twelve candidates, half of them offered again."""
    for seed in (0, 1, 0):
        bench.memory.remember(candidates(bench, seed=seed))
    return bench.memory


def _use(bench: Bench, store: Any) -> None:
    """Read a store through every door that it has."""
    store.sample(3, 0)
    if _has_keys(store):
        store.recall(_queries(bench))


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
