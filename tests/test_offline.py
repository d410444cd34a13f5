"""A policy learned from a log of operations alone: examples by hand, and what it keeps."""

from pathlib import Path
from typing import Any

import pytest
import torch

from stillknows.agents.persistence.container import write_tree
from stillknows.agents.teaching.offline_learning import (
    SCHEMA,
    examples_of,
    learn_offline,
    offline_policy,
)
from stillknows.agents.teaching.operations import Operations, replay
from stillknows.memory.policies.offline import OfflinePolicy
from stillknows.memory.policies.rules import EvictOldest, EvictUniformly


def log_of(stories: int, items: int, seed: int) -> Operations:
    """Return a log in which a statement loses its use when the same is said of it anew.

    Statement n is about `kind[n]` of three; a question at the end uses the latest of each.
    """
    draw = torch.Generator().manual_seed(seed)
    kind_BT = torch.randint(3, (stories, items), generator=draw)
    items_BTW = torch.eye(3)[kind_BT] + 0.1 * torch.randn(stories, items, 3, generator=draw)
    latest_BT = torch.tensor(
        [[float(k not in row[n + 1 :]) for n, k in enumerate(row)] for row in kind_BT.tolist()]
    )
    use_BQT = (latest_BT / latest_BT.sum(dim=1, keepdim=True))[:, None]
    return Operations(
        policy="nobody",
        slots=3,
        key_B=torch.arange(stories) + 1000 * seed,
        items_BTW=items_BTW,
        present_BT=torch.ones(stories, items, dtype=torch.bool),
        after_BQ=torch.full((stories, 1), items),
        action_BT=torch.zeros(stories, items, dtype=torch.int64),
        leaver_BT=torch.full((stories, items), -1),
        read_BQT=torch.full((stories, 1, items), -1.0),
        use_BQT=use_BQT,
        loss_BQ=torch.zeros(stories, 1),
    )


def test_examples_are_what_is_held_and_what_is_offered_with_the_use_to_come() -> None:
    log = log_of(1, 6, seed=0)
    found = examples_of(log, slots=2)
    seen = replay(log, EvictUniformly(), slots=2).features
    assert len(found.use_X) == sum(int(each.filled_BN.sum()) + 1 for each in seen) == 1 + 2 + 3 * 4
    row = 0
    for number, features in enumerate(seen):
        held = (number - features.age_BN[0, features.filled_BN[0]]).long().tolist()
        for item in [*held, number]:
            assert float(found.use_X[row]) == pytest.approx(float(log.use_BQT[0, 0, item]))
            row += 1


def test_it_learns_that_the_later_word_counts_and_nothing_of_contents() -> None:
    torch.manual_seed(0)
    policy = OfflinePolicy()
    learn_offline(policy, [log_of(200, 12, seed=n) for n in range(3)], epochs=6, batch=512)
    exam = log_of(100, 12, seed=77)
    kept = replay(exam, policy).kept
    for rule in (EvictOldest(), EvictUniformly()):
        assert kept > replay(exam, rule).kept + 0.1
    turned = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5)))[0]
    other = exam._replace(items_BTW=exam.items_BTW @ turned)
    assert replay(other, policy).kept == pytest.approx(kept, abs=0.02)


def test_learning_is_the_same_for_the_same_seed() -> None:
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        losses.append(learn_offline(OfflinePolicy(), [log_of(20, 6, seed=1)], epochs=2, batch=64))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("tree", [[1], {"network.0.weight": 3}, None, {1: 2}])
def test_a_file_without_the_weights_of_a_policy_is_refused(tree: Any, tmp_path: Path) -> None:
    write_tree(tmp_path / "policy.safetensors", tree, SCHEMA)
    with pytest.raises(ValueError, match="holds the weights of another network"):
        offline_policy(str(tmp_path / "policy.safetensors"))
