"""Rules of variety: against plain loops, and by what they keep of clusters."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillknows.memory.policies.diversity import EvictAlike, MergeAlike
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.slots import Slots


def stream(seed: int, items: int, clusters: int = 3) -> tuple[torch.Tensor, list[int]]:
    """Return items `[1, T, 4]` of some clusters, little noise, and which each is of."""
    draw = np.random.default_rng(seed)
    which = draw.integers(clusters, size=items).tolist()
    vectors = np.eye(4)[which] + 0.05 * draw.standard_normal((items, 4))
    return torch.tensor(vectors, dtype=torch.float32)[None], which


def kept(policy: object, items: torch.Tensor, slots: int) -> tuple[Slots, list[int], torch.Tensor]:
    torch.manual_seed(0)
    memory = Slots(slots, 4, hops=1, heads=1, recency=(0.0,))
    here = torch.ones(items.shape[:2], dtype=torch.bool)
    state = memory.write(memory.initial_state(len(items)), items, here, policy)
    return memory, state.birth_BN[0].tolist(), state.values_BNW


@given(seed=st.integers(0, 10**6), slots=st.integers(1, 5))
def test_of_the_two_most_alike_the_older_leaves(seed: int, slots: int) -> None:
    items, _ = stream(seed, 10)
    vectors = items[0].numpy().astype(np.float64)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    held: list[int] = []
    for item in range(10):
        if len(held) == slots:
            pool = [*held, item]
            alike = [max(vectors[i] @ vectors[j] for j in pool if j > i) for i in held]
            held.remove(held[int(np.argmax(alike))])
        held.append(item)
    assert sorted(kept(EvictAlike(), items, slots)[1]) == sorted(held)


@given(seed=st.integers(0, 10**6))
def test_each_cluster_keeps_its_latest_word(seed: int) -> None:
    items, which = stream(seed, 30)
    if len(set(which)) < 3:
        return
    latest = {cluster: item for item, cluster in enumerate(which)}
    assert sorted(kept(EvictAlike(), items, 3)[1]) == sorted(latest.values())
    by_age = kept(EvictOldest(), items, 3)[1]
    assert sorted(by_age) == [27, 28, 29]


@given(seed=st.integers(0, 10**6), slots=st.integers(1, 4))
def test_a_merge_moves_the_nearest_halfway(seed: int, slots: int) -> None:
    items, _ = stream(seed, 9)
    vectors = items[0].numpy().astype(np.float64)
    centres = [vectors[n].copy() for n in range(slots)]
    for vector in vectors[slots:]:
        cosines = [c @ vector / np.linalg.norm(c) / np.linalg.norm(vector) for c in centres]
        near = int(np.argmax(cosines))
        centres[near] = (centres[near] + vector) / 2
    values = kept(MergeAlike(), items, slots)[2][0].numpy()
    np.testing.assert_allclose(values, np.array(centres), atol=1e-5)
