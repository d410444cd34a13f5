"""The checks of how a lifelong store is read, by name: of stores with keys alone.

Letters as in `episodic.py`; N entries.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from stillknows.memory.checks.check_bench import (
    Bench,
    expect,
    expect_finite,
    expect_near,
    expect_weights,
)
from stillknows.memory.checks.store_bench import ROWS, candidates, fill, last_use, queries
from stillknows.memory.episodic import PROVENANCE


def check_recall(bench: Bench) -> None:
    """A recall gives filled slots, nearest first, with their squared distances and contents."""
    store = fill(bench)
    columns = {name: column.clone() for name, column in store.columns.items()}
    query_BD = queries(bench)
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
    names_N = columns["provenance_NC"][:, PROVENANCE.index("hash")]
    alike_BKN = (names_N[at_BK][..., None] == names_N) & columns["filled_N"]
    expect(
        bool((recall.namesakes_BK == alike_BKN.sum(dim=2) * present_BK).all()),
        "namesakes_BK does not count the entries with the neighbour's question; 0 where absent.",
    )


def check_use(bench: Bench) -> None:
    """A recall counts as use of what was read, and of nothing else."""
    store = fill(bench)
    uses_N, last_N = store.columns["uses_N"].clone(), last_use(store).clone()
    recall = store.recall(queries(bench))
    read_N = torch.zeros_like(store.columns["filled_N"])
    read_N[recall.slots_BK[recall.present_BK]] = True
    more_N, now_N = store.columns["uses_N"] - uses_N, last_use(store)
    expect(bool((more_N >= 0).all() and (now_N >= last_N).all()), "use of an entry went back.")
    alike_N = (more_N == 0) & (now_N == last_N)
    expect(bool(alike_N[~read_N].all()), "what was not read counts as used.")
    if read_N.any():
        total = float(more_N.sum())
        expect(0 < total <= 1.01 * ROWS, f"uses_N grew by {total:.4g} in {ROWS} reads.")
        newest = now_N[store.columns["filled_N"]].max()
        expect(bool((now_N[read_N] == newest).all()), "what was read is not what was used last.")


def check_weights(bench: Bench) -> None:
    """The weights of a recall are not negative, sum to at most 1, and are 0 for what is absent."""
    recall = fill(bench).recall(queries(bench))
    expect_weights(recall.weights_BK, "of a recall")
    absent = recall.weights_BK[~recall.present_BK]
    expect(not absent.any(), "an absent neighbour has a weight; give it 0.")


def check_rows(bench: Bench) -> None:
    """What a query recalls does not depend on the queries beside it."""
    store, some = fill(bench), [3, 0]
    with store.frozen():
        whole, few = store.recall(queries(bench)), store.recall(queries(bench)[some])
    expect_near(
        few._asdict(),
        {name: part[some] for name, part in whole._asdict().items()},
        "of a recall depends on the queries beside it; look at what mixes the first dimension.",
    )


def check_rekey(bench: Bench) -> None:
    """`rekey` computes the keys again from the stories, and changes nothing else."""
    store = fill(bench)
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


def check_gradient(bench: Bench) -> None:
    """The gradient of a recall to its query is finite, all keys and vectors being zero."""
    store, rows = bench.memory, candidates(bench)
    store.remember(rows._replace(key_BD=rows.key_BD * 0, vector_BV=rows.vector_BV * 0))
    query_BD = torch.zeros_like(queries(bench)).requires_grad_()
    with torch.enable_grad():
        recall = store.recall(query_BD)
        weights_BK = recall.weights_BK * torch.arange(recall.weights_BK.shape[1]).to(query_BD)
        (gradient,) = torch.autograd.grad(weights_BK.sum(), query_BD)
    expect_finite(
        {"the gradient of a query": gradient},
        "at distance 0; look at square roots and divisions in the kernel.",
    )


READING: dict[str, Callable[[Bench], None]] = {
    "recall": check_recall,
    "use": check_use,
    "weights": check_weights,
    "rows": check_rows,
    "rekey": check_rekey,
    "gradient": check_gradient,
}
