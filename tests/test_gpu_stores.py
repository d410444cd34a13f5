"""On a GPU stores and action values are as on the CPU, and the host is not made to wait."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import expect_near, no_waiting
from torch import Tensor

from stillknows.memory.action_values import ActionValues
from stillknows.memory.checks.check import bench_of, check_memory, run_check
from stillknows.memory.checks.check_store import CHECKS as STORE_CHECKS
from stillknows.memory.episodic import Candidates, p_store
from stillknows.memory.knn import nearest, nearest_of_each
from stillknows.memory.nec import NEC
from stillknows.memory.policies.learned import UtilityPolicy
from stillknows.memory.policies.rules import (
    Balanced,
    EvictIdle,
    EvictOldest,
    EvictRare,
    EvictRead,
    EvictUniformly,
    KeepFacts,
    Novelty,
    Reservoir,
    Surprise,
    WriteNothing,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def waits(work: Callable[[], object]) -> int:
    """Return how often the host waits for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(each.message) for each in caught)


def brute(query: Tensor, keys: Tensor, filled: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """Return the nearest by double precision, on the CPU."""
    query, keys, filled = (each.cpu() for each in (query, keys, filled))
    distances, slots = [], []
    for one in query.double():
        distance_N = (keys.double() - one).square().sum(1).masked_fill(~filled, torch.inf)
        distance_K, slot_K = (x[:neighbours] for x in distance_N.sort(stable=True))
        distances.append(distance_K)
        slots.append(slot_K.masked_fill(distance_K.isinf(), -1))
    return torch.stack(distances), torch.stack(slots)


@pytest.mark.parametrize(
    ("queries", "entries", "size", "neighbours"),
    [
        (32, 60_000, 64, 50),
        (1, 100_000, 128, 50),
        (33, 20_000, 256, 20),
        (40, 30_000, 100, 50),
        (4, 9000, 300, 9),
        (70, 5000, 3, 11),
        (3, 40, 20, 60),
        (2, 1, 4, 3),
    ],
)
def test_neighbours_are_exact(queries: int, entries: int, size: int, neighbours: int) -> None:
    keys = torch.randn(entries, size, device="cuda")
    query = torch.cat([torch.randn(queries, size, device="cuda"), keys[:1]])
    filled = torch.rand(entries, device="cuda") < 0.95
    filled[0] = True
    nearest(query, keys, filled, neighbours)  # compiled
    with no_waiting():
        distance, slot = nearest(query, keys, filled, neighbours)
    wanted, at = brute(query, keys, filled, min(neighbours, entries))
    kept = at.shape[1]
    expect_near(distance[:, :kept], wanted, 1e-5, "distance")
    assert (slot[:, kept:] == -1).all()
    assert float(distance[-1, 0]) == 0
    # where two differ, they are as far by single precision
    other = slot[:, :kept].cpu() != at
    rounding = (distance[:, :kept].cpu() - wanted)[other].abs()
    assert other.float().mean() < 1e-3
    assert (rounding <= 1e-4 * wanted[other].clamp(min=1)).all()


@pytest.mark.parametrize("size", [2, 5])
def test_among_equal_keys_the_lower_slots_win(size: int) -> None:
    keys = torch.randint(0, 2, (20_000, size), device="cuda").float()  # each thousands of times
    filled = torch.rand(len(keys), device="cuda") < 0.5
    query = torch.randint(0, 2, (4, size), device="cuda").float()
    with no_waiting():
        distance, slot = nearest(query, keys, filled, 20)
    wanted, at = brute(query, keys, filled, 20)
    assert torch.equal(slot.cpu(), at)
    assert torch.equal(distance.cpu().double(), wanted)


def test_neighbours_in_several_stores_and_their_gradient() -> None:
    keys = [torch.randn(n, 16, device="cuda") for n in (3000, 20_000, 5)]
    filled = [torch.rand(len(each), device="cuda") < 0.9 for each in keys]
    query = torch.randn(6, 16, device="cuda", requires_grad=True)
    distances, slots = nearest_of_each(query, keys, filled, 7)
    for distance, slot, *store in zip(distances, slots, keys, filled, strict=True):
        alone = nearest(query, *store, 7)
        assert torch.equal(slot, alone[1])
        assert torch.equal(distance, alone[0])
        finite = distance.isfinite()
        (mine,) = torch.autograd.grad(distance[finite].sum(), query, retain_graph=True)
        gathered = query[:, None] - store[0][slot.clamp(min=0)]
        expect_near(mine, (2 * gathered * finite[..., None]).sum(1), 1e-5, "gradient")


def offer(step: int, rows: int = 6) -> Candidates:
    """Return candidates on the host, some of them known."""
    random = torch.Generator().manual_seed(step)
    names = torch.randint(0, 30, (rows,), generator=random)
    answers = torch.randint(1, 4, (rows, 2), generator=random)
    return Candidates(
        key_BD=torch.randn(rows, 4, generator=random),
        vector_BV=torch.randn(rows, 3, generator=random),
        answers_BA=answers,
        story_BTL=torch.randint(1, 9, (rows, 2, 3), generator=random),
        hash_B=names,
        outcome_BF=torch.rand(rows, 3, generator=random),
        task_B=names % 3,
        episode_B=names * 0 + step,
        step_B=torch.arange(rows),
    )


def moved(candidates: Candidates) -> Candidates:
    key, vector = candidates.key_BD.cuda(), candidates.vector_BV.cuda()
    return candidates._replace(key_BD=key, vector_BV=vector)


def store_of(policy: Any, device: str, capacity: int = 20, **options: Any) -> NEC:
    settings = {"answer_length": 2, "story_shape": (2, 3), "neighbours": 3, **options}
    return NEC(capacity, 4, 3, policy, device=device, **settings)


RULES = [EvictOldest, EvictIdle, EvictRare, EvictRead, EvictUniformly, Reservoir, Balanced]
RULES += [KeepFacts, Surprise, Novelty, WriteNothing, UtilityPolicy]


@pytest.mark.parametrize("rule", RULES)
def test_the_store_and_its_policies_are_the_same(rule: Callable[[], Any]) -> None:
    torch.manual_seed(3)
    policy = rule()
    here, there = store_of(policy, "cpu"), store_of(copy.deepcopy(policy), "cuda")
    for step in range(12):
        candidates = offer(step)
        assert here.remember(candidates) == there.remember(moved(candidates)), f"step {step}"
        query = torch.randn(4, 4, generator=torch.Generator().manual_seed(step))
        mine, theirs = here.recall(query), there.recall(query.cuda())
        for name, part in theirs._asdict().items():
            assert part.is_cuda
            expect_near(part, getattr(mine, name), 1e-5, f"{name} at step {step}")
    for name, column in there.columns.items():
        assert column.is_cuda, name
        expect_near(column, here.columns[name], 1e-5, name)
    twin = store_of(copy.deepcopy(policy), "cuda")
    twin.restore(there.snapshot())
    query = torch.randn(4, 4)
    assert torch.equal(
        twin.recall(query.cuda()).namesakes_BK, here.recall(query).namesakes_BK.cuda()
    )


def test_the_store_asks_the_host_only_who_leaves() -> None:
    for rule in (EvictOldest, EvictIdle):
        store = store_of(rule(), "cuda", capacity=24)
        query = torch.randn(4, 4, device="cuda", requires_grad=True)
        outcome = []
        for step in range(12):
            candidates = moved(offer(step))
            full = len(store) > store.capacity - 6
            outcome.append((waits(lambda c=candidates, s=store: s.remember(c)), full))
            if step == 0:
                store.recall(query)
            with no_waiting():
                recall = store.recall(query)
                prefix = torch.zeros(4, 0, dtype=torch.int64, device="cuda")
                p_store(recall, prefix, 0, 9)[0].sum().backward()
        assert not any(count for count, full in outcome if not full), outcome
        asked = [count for count, full in outcome if full]
        assert min(asked) == 1, outcome
        assert max(asked) <= 3, outcome  # where the line is sorted anew


@pytest.mark.parametrize("rule", [EvictUniformly, EvictRare, Reservoir])
def test_a_policy_is_heard_by_one_question(rule: Callable[[], Any]) -> None:
    store = store_of(rule(), "cuda", capacity=200)
    store.remember(moved(offer(0)))
    assert waits(lambda: store.remember(moved(offer(1)))) <= 3  # two uploads of `moved`, one asked


def test_stores_pass_their_checks() -> None:
    for size in (4, 0):
        store = NEC(8, size, 3, EvictOldest(), answer_length=2, story_shape=(2, 3))
        assert "gpu" in check_memory(store, steps=20)
    store = store_of(EvictOldest(), "cuda", capacity=8)
    for check in set(STORE_CHECKS) - {"long", "gpu"}:
        run_check(check, STORE_CHECKS[check], bench_of(store, steps=20))


@pytest.mark.parametrize("options", [{}, {"kernel": "mean", "update": "max"}])
def test_action_values_are_the_same(options: dict[str, str]) -> None:
    shared = {"neighbours": 4, "learning_rate": 0.1, **options}
    here = ActionValues(3, 12, 4, **shared)
    there = ActionValues(3, 12, 4, **shared, device="cuda")
    random = torch.Generator().manual_seed(0)
    for step in range(9):
        action = torch.randint(0, 3, (8,), generator=random)
        key = torch.randn(8, 4, generator=random)
        name = torch.randint(0, 40, (8,), generator=random)
        value = torch.randn(8, generator=random)
        here.write(action, key, name, value)
        there.write(action, key.cuda(), name, value)
        query = torch.randn(5, 4, generator=random)
        names = torch.randint(0, 40, (5,), generator=random)
        mine = here.values(query, names)
        if step:
            with no_waiting() if not options else warnings.catch_warnings():
                theirs = there.values(query.cuda(non_blocking=True), names)
        else:
            theirs = there.values(query.cuda(), names)
        expect_near(theirs, mine, 1e-5, f"values at step {step}")
    asked = torch.randn(8, 4)
    results = []
    for memory, device in ((here, "cpu"), (there, "cuda")):
        query = asked.clone().to(device).requires_grad_()
        memory.replay(action.to(device), query, name.to(device)).square().sum().backward()
        memory.descend()
        results.append([query.grad, *(store.columns["keys_ND"] for store in memory.stores)])
    for mine, theirs in zip(*results, strict=True):
        expect_near(theirs, mine, 1e-4, "what was learned")
