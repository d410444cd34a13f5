"""Recall of what is stored, each entry asked without itself.

An entry that is asked its own question finds itself, at no distance and with the right answer:
who learns from that to trust the store trusts it too far wherever a question is new.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from stillknows.memory.episodic import Recall
from stillknows.memory.knn import inverse_distance_weights
from stillknows.memory.nec import NEC


@contextmanager
def without_own(store: NEC, slots_B: Tensor) -> Iterator[None]:
    """Let a store answer each row without one entry, and count no use, for as long as this lasts.

    The K nearest of all others answer, with the weights that they have among themselves.

    Args:
        store: who is asked.
        slots_B: of each row, the slot that does not answer, int64 `[B]`; -1 for none.
    """
    answering: Any = store
    plain = store.recall

    def recall(query_BD: Tensor) -> Recall:
        store.neighbours += 1
        try:
            with store.frozen():
                found = plain(query_BD)
        finally:
            store.neighbours -= 1
        return _left(found, slots_B.to(found.slots_BK.device), store)

    answering.recall = recall
    try:
        yield
    finally:
        del answering.recall


def _left(found: Recall, slots_B: Tensor, store: NEC) -> Recall:
    """Return what was found but for one slot a row, or but for the farthest where it is not."""
    own_BK = found.slots_BK == slots_B[:, None]
    order_BK = own_BK.long().argsort(dim=1, stable=True)[:, :-1]
    rows_B1 = order_BK.new_tensor(range(len(order_BK)))[:, None]
    kept = Recall(*(part[rows_B1, order_BK] for part in found))
    names_N = store.provenance("hash")
    namesake_BK = names_N[kept.slots_BK] == names_N[slots_B][:, None]
    own_BK = namesake_BK & kept.present_BK & (slots_B >= 0)[:, None]
    return kept._replace(
        weights_BK=inverse_distance_weights(kept.distance_BK, store.delta),
        namesakes_BK=kept.namesakes_BK - own_BK.to(kept.namesakes_BK),
    )
