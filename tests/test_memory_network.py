"""The Memory Network against an independent re-computation in numpy loops, and its invariants."""

import hydra.utils
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.envs.tasks import make
from stillknows.memory.interface import Policy, map_state
from stillknows.memory.memory_network import MemoryNetwork, position_encoding
from stillknows.memory.policies.learned import RetentionPolicy
from stillknows.memory.policies.rules import EvictOldest, EvictUniformly, Reservoir, WriteNothing
from stillknows.memory.slots import SlotsState

B, N, W, K = 3, 4, 5, 3
TYINGS = ("adjacent", "layer-wise")


def build(tying: str = "adjacent", seed: int = 0, **options: float) -> MemoryNetwork:
    """Return one in float64 whose weights are large enough for sharp attention."""
    torch.manual_seed(seed)
    memory = MemoryNetwork(N, W, K, tying=tying, **options).double()
    for parameter in memory.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return memory.eval()


def fresh(memory: MemoryNetwork, batch: int = B) -> SlotsState:
    state = memory.initial_state(batch, key_B=torch.arange(batch) + 7)
    return map_state(lambda z: z.double() if z.is_floating_point() else z, state)


def random_items(steps: int, batch: int = B, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, steps, W, dtype=torch.float64, generator=generator)


def all_here(items: Tensor) -> Tensor:
    return torch.ones(items.shape[:2], dtype=torch.bool)


def answer(memory: MemoryNetwork, items: Tensor, policy: Policy | None = None) -> Tensor:
    """Return u after each hop, `[B, K, W]`."""
    here = all_here(items)
    read = memory.sequence(fresh(memory, len(items)), items, here, policy or EvictOldest())[1]
    return read.values_BRW


# --- The paper's equations ---------------------------------------------------------------------


@pytest.mark.parametrize(("length", "width"), [(1, 3), (6, 4), (7, 1)])
def test_position_encoding_is_the_formula(length: int, width: int) -> None:
    found = position_encoding(length, width)
    assert found.shape == (length, width)
    for j in range(1, length + 1):
        for k in range(1, width + 1):
            expected = (1 - j / length) - (k / width) * (1 - 2 * j / length)
            assert float(found[j - 1, k - 1]) == pytest.approx(expected, abs=1e-6)


def oracle(memory: MemoryNetwork, tying: str, held, strength, ages, query, linear=False):
    """One row in plain loops from sections 2 and 4.1; `held` are items, `ages` their rows of T."""
    p = {name: z.detach().numpy() for name, z in memory.named_parameters()}
    E, T = [p[f"embeddings.{s}.weight"] for s in range(len(memory.embeddings))], p["times"]
    if tying == "adjacent":  # A^1 = B, and A^(k+1) = C^k
        A, C, TA, TC = E[:-1], E[1:], T[:-1], T[1:]
        u, H = E[0] @ query, np.eye(W)
    else:
        A, C, TA, TC = [E[0]] * K, [E[1]] * K, [T[0]] * K, [T[1]] * K
        u, H = p["question.weight"] @ query, p["recurrence.weight"]
    reads, attention = [], []
    for k in range(K):
        scores = [u @ (A[k] @ x + TA[k][age]) for x, age in zip(held, ages, strict=True)]  # u^T m_i
        parts = scores if linear else [np.exp(s) for s in scores]
        parts = [s * part for s, part in zip(strength, parts, strict=True)]
        total = 1.0 if linear else sum(parts)
        o = np.zeros(W)
        for x, age, part in zip(held, ages, parts, strict=True):
            o = o + part / total * (C[k] @ x + TC[k][age])  # equation 2
        u = H @ u + o
        reads.append(u)
        attention.append([part / total for part in parts])
    return np.array(reads), np.array(attention)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("tying", TYINGS)
@pytest.mark.parametrize("steps", [1, 3, 11])
def test_reads_are_the_papers(tying: str, linear: bool, steps: int) -> None:
    memory = build(tying, linear_start=linear)
    items = random_items(steps, seed=steps)
    read = memory.sequence(fresh(memory), items, all_here(items), EvictOldest())[1]
    for row in range(B):
        held = items[row, :-1].numpy()[-N:]  # first in, first out
        ages = range(len(held))[::-1]
        ones = [1.0] * len(held)
        reads, attention = oracle(memory, tying, held, ones, ages, items[row, -1].numpy(), linear)
        np.testing.assert_allclose(read.values_BRW[row].detach(), reads, rtol=1e-10, atol=1e-10)
        slots = [(steps - 1 - len(held) + i) % N for i in range(len(held))]
        found = read.weights_BRK[row].detach().numpy()
        np.testing.assert_allclose(found[:, slots], attention, rtol=1e-10, atol=1e-10)
        assert found.sum() == pytest.approx(attention.sum())


@pytest.mark.parametrize("linear", [False, True])
@settings(max_examples=20)
@given(st.integers(0, 999))
def test_reads_are_the_papers_whoever_leaves(linear: bool, seed: int) -> None:
    """Random evictions leave gaps: the age is the place among what is held."""
    memory, items = build(seed=seed, linear_start=linear), random_items(10, 1, seed)
    state = memory.write(fresh(memory, 1), items[:, :-1], all_here(items[:, :-1]), Reservoir())
    strength = torch.rand(1, N, dtype=torch.float64) * 0.9 + 0.1
    _, read = memory.read(state._replace(strength_BN=strength), items[:, -1])
    births = state.birth_BN[0].tolist()
    held = [items[0, birth].numpy() for birth in births]
    ages = [sum(other > birth for other in births) for birth in births]
    reads, attention = oracle(
        memory, "adjacent", held, strength[0].tolist(), ages, items[0, -1].numpy(), linear
    )
    np.testing.assert_allclose(read.values_BRW[0].detach(), reads, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(read.weights_BRK[0].detach(), attention, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("tying", TYINGS)
def test_gradients_are_differences(tying: str, linear: bool) -> None:
    torch.manual_seed(0)
    memory = MemoryNetwork(2, 3, 2, tying=tying, linear_start=linear).double()
    items = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    start = fresh(memory, 1)

    def run(items: Tensor, *_: Tensor) -> Tensor:
        return memory.sequence(start, items, all_here(items), EvictOldest())[1].values_BRW

    assert torch.autograd.gradcheck(run, (items, *memory.parameters()))


# --- Time, linear start, empty memories --------------------------------------------------------


def test_the_order_of_items_matters_through_the_temporal_encoding_alone() -> None:
    memory, items = build(), random_items(4)
    turned = items[:, [2, 0, 1, 3]]
    assert (answer(memory, items) - answer(memory, turned)).abs().min() > 1e-4
    with torch.no_grad():
        memory.times.zero_()
    torch.testing.assert_close(answer(memory, items), answer(memory, turned))


@pytest.mark.parametrize("tying", TYINGS)
def test_a_linear_start_has_no_softmax_until_it_ends(tying: str) -> None:
    """Without the softmax the first o is linear in the query, in any range; with it, bounded."""
    memory, items = build(tying, linear_start=True), random_items(5)
    state = memory.write(fresh(memory), items, all_here(items), EvictOldest())
    query = random_items(1, seed=1)[:, 0]
    once, thrice = (memory.read(state, times * query)[1] for times in (1, 3))
    torch.testing.assert_close(3 * once.weights_BRK[:, 0], thrice.weights_BRK[:, 0])
    torch.testing.assert_close(3 * once.values_BRW[:, 0], thrice.values_BRW[:, 0])
    assert once.weights_BRK.min() < 0
    counted = memory.read(state, query)[0].usage_BN
    torch.testing.assert_close(counted, once.weights_BRK.clamp(0, 1).mean(dim=1).detach())
    memory.end_linear_start()
    ended = memory.read(state, query)[1]
    torch.testing.assert_close(
        ended.weights_BRK[:, 0], torch.softmax(once.weights_BRK[:, 0], dim=1)
    )
    torch.testing.assert_close(ended.weights_BRK.sum(dim=2), torch.ones(B, K).double())


def test_a_saved_memory_goes_on_as_it_was() -> None:
    memory, items = build("layer-wise", linear_start=True), random_items(4)
    other = build("layer-wise", seed=1)
    other.load_state_dict(memory.state_dict())
    assert other.linear_start
    assert torch.equal(answer(other, items), answer(memory, items))
    memory.end_linear_start()
    other.load_state_dict(memory.state_dict())
    assert not other.linear_start


def test_empty_memories_age_what_is_held_in_training_only() -> None:
    memory, items = build(empty_share=1.0), random_items(3)
    state = memory.write(fresh(memory), items[:, :-1], all_here(items[:, :-1]), EvictOldest())
    quiet = memory.read(state, items[:, -1])[1].values_BRW
    memory.train()
    noisy = memory.read(state, items[:, -1])[1].values_BRW
    for row in range(B):  # one empty memory on the newer side of each: rows 1 and 3 of T
        held, query = items[row, :-1].numpy(), items[row, -1].numpy()
        for found, ages in ((quiet, [1, 0]), (noisy, [3, 1])):
            expected, _ = oracle(memory, "adjacent", held, [1.0, 1.0], ages, query)
            np.testing.assert_allclose(found[row].detach(), expected, atol=1e-10)
    memory.empty_share = 0.0
    assert torch.equal(memory.read(state, items[:, -1])[1].values_BRW, quiet)


def test_a_tenth_is_empty_and_the_oldest_share_the_last_age() -> None:
    memory = MemoryNetwork(20, 2)
    births = torch.stack([torch.randperm(20) for _ in range(400)])
    state = memory.initial_state(400, key_B=torch.arange(400))._replace(birth_BN=births)
    ages = memory._ages(state).gather(1, births.argsort(dim=1, descending=True))
    steps = ages.diff(dim=1)[:, :12]
    assert set(steps.flatten().tolist()) == {1, 2}
    assert float((steps == 2).float().mean()) == pytest.approx(0.1, abs=0.02)
    assert float((ages[:, 0] == 1).float().mean()) == pytest.approx(0.1, abs=0.05)
    assert int(ages.max()) == 19
    in_order = memory._ages(state._replace(birth_BN=births.sort(dim=1).values))
    assert torch.equal(in_order.flip(1), ages)  # a memory's empty one is its own, in any slot
    assert not torch.equal(memory._ages(state._replace(key_B=state.key_B + 1)), ages)


# --- A working memory like any other -----------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_rows_and_their_order_do_not_matter(training: bool) -> None:
    memory, items = build(empty_share=0.5).train(training), random_items(9, 4)
    keys, turned = torch.tensor([5, 6, 7, 8]), torch.tensor([2, 0, 3, 1])
    states = [fresh(memory, 4)._replace(key_B=keys), fresh(memory, 4)._replace(key_B=keys[turned])]
    after, read = memory.sequence(states[0], items, all_here(items), EvictUniformly())
    mixed, other = memory.sequence(states[1], items[turned], all_here(items), EvictUniformly())
    torch.testing.assert_close(read.values_BRW[turned], other.values_BRW)
    for a, b in zip(after, mixed, strict=True):
        torch.testing.assert_close(a[turned], b)


@pytest.mark.parametrize("training", [False, True])
def test_step_by_step_is_a_sequence_and_absent_items_count_for_nothing(training: bool) -> None:
    memory, items = build(empty_share=0.5).train(training), random_items(8)
    here = all_here(items)
    here[1, 2] = here[2, 5] = False
    start = fresh(memory)
    once = memory.sequence(start, items, here, EvictOldest())[1]
    for row in range(B):
        state = map_state(lambda z, row=row: z[row : row + 1], start)
        for t in here[row].nonzero()[:, 0].tolist():
            state, read = memory.step(state, items[row : row + 1, t], EvictOldest())
        torch.testing.assert_close(read.values_BRW[0], once.values_BRW[row])


def test_the_input_state_stays_as_it_was() -> None:
    memory, items = build(), random_items(6)
    state = memory.write(fresh(memory), items, all_here(items), EvictOldest())
    before = [z.clone() for z in state]
    memory.step(state, items[:, 0], EvictOldest())
    memory.sequence(state, items, all_here(items), EvictOldest())
    assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))


@pytest.mark.parametrize("policy", [EvictOldest(), EvictUniformly(), Reservoir()])
def test_no_more_is_held_than_fits_and_all_weight_is_on_it(policy: Policy) -> None:
    memory, items = build(), random_items(13)
    held = []
    state = fresh(memory)
    for t in range(13):
        state, read = memory.step(state, items[:, t], policy)
        held.append((state.birth_BN >= 0).sum(dim=1).tolist())
        assert torch.equal(read.slots_BRK, torch.arange(N).expand(B, K, N))
        total = read.weights_BRK.sum(dim=2)
        torch.testing.assert_close(total, torch.full_like(total, float(t > 0)))
    assert held == [[min(t + 1, N)] * B for t in range(13)]


@pytest.mark.parametrize("tying", TYINGS)
@pytest.mark.parametrize("linear", [False, True])
def test_an_empty_memory_answers_with_the_query_alone(tying: str, linear: bool) -> None:
    memory, items = build(tying, linear_start=linear), random_items(3).requires_grad_()
    read = memory.sequence(fresh(memory), items, all_here(items), WriteNothing())[1]
    query = items[:, -1]
    if tying == "adjacent":
        expected = (query @ memory.embeddings[0].weight.T)[:, None].expand(-1, K, -1)
    else:
        u = query @ memory.question.weight.T
        hops = [torch.matrix_power(memory.recurrence.weight, k + 1) for k in range(K)]
        expected = torch.stack([u @ hop.T for hop in hops], dim=1)
    torch.testing.assert_close(read.values_BRW, expected)
    assert read.weights_BRK.abs().max() == 0
    read.values_BRW.square().sum().backward()
    assert items.grad is not None
    assert items.grad.isfinite().all()


def test_the_gradient_reaches_a_policy_through_strength() -> None:
    """Refused or unlikely items weigh less, and the loss moves what a policy thinks of them."""
    memory, items = build(), random_items(7)
    policy = RetentionPolicy(W).double().eval()
    answer(memory, items, policy).square().sum().backward()
    for parameter in policy.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 1e-6
    state = memory.write(fresh(memory), items, all_here(items), EvictOldest())
    weak = state._replace(strength_BN=torch.tensor([0.1, 1.0, 1.0, 1.0]).double().expand(B, N))
    strong, less = (memory.read(s, items[:, 0])[1].weights_BRK[:, 0] for s in (state, weak))
    odds = less[:, 0] / less[:, 1] / (strong[:, 0] / strong[:, 1])
    torch.testing.assert_close(odds, torch.full_like(odds, 0.1))


def test_a_strength_of_nothing_has_a_finite_gradient() -> None:
    memory, items = build(), random_items(2)
    state = memory.write(fresh(memory), items, all_here(items), EvictOldest())
    strength = torch.zeros(B, N, dtype=torch.float64, requires_grad=True)
    read = memory.read(state._replace(strength_BN=strength), items[:, 0])[1]
    equals = memory.read(state, items[:, 0])[1]
    torch.testing.assert_close(read.weights_BRK, equals.weights_BRK)  # none is less than another
    read.values_BRW.sum().backward()
    assert strength.grad is not None
    assert strength.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 0}, "slots=0 should be a whole number, at least 1."),
        ({"hops": 0}, "hops=0 should be a whole number, at least 1."),
        ({"tying": "none"}, "tying='none': choose adjacent or layer-wise."),
        ({"empty_share": 1.5}, "empty_share=1.5: give a share between 0 and 1."),
    ],
)
def test_what_cannot_be_is_said(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryNetwork(**{"slots": N, "word_size": W, **options})


def test_a_vector_of_another_width_is_refused() -> None:
    memory, wide = MemoryNetwork(N, W), torch.zeros(B, 2, W + 1)
    for take in (
        lambda: memory.step(memory.initial_state(B), wide[:, 0], EvictOldest()),
        lambda: memory.sequence(memory.initial_state(B), wide, all_here(wide), EvictOldest()),
    ):
        with pytest.raises(ValueError, match=r"6 numbers .* \(MemoryNetwork\) with word_size=5"):
            take()


# --- In an agent -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("tying=layer-wise", "linear_start=true", "slots=4")])
def test_an_agent_learns_with_it(options: tuple[str, ...]) -> None:
    chosen = [f"working_memory.{option}" for option in options]
    config = compose_config(["working_memory=memory_network", "debug=tiny", *chosen])
    torch.manual_seed(0)
    task = hydra.utils.instantiate(config.stream.tasks, _convert_="all")[0]
    agent = build_agent(config, [task])
    assert isinstance(agent.working_memory, MemoryNetwork)
    learner = hydra.utils.instantiate(config.learner, agent, seed=0)
    learner.begin(1)
    live(agent, make(task, 8, task.train), learner, task=0, seed=0, options={"episode": 0})
    assert np.isfinite(learner.update().loss)
    for name, parameter in agent.working_memory.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0, name


def test_the_linear_start_ends_when_the_learner_has_made_so_many_updates() -> None:
    chosen = ["working_memory.linear_start=true", "learner.linear_start=2"]
    config = compose_config(["working_memory=memory_network", "debug=tiny", *chosen])
    task = hydra.utils.instantiate(config.stream.tasks, _convert_="all")[0]
    agent = build_agent(config, [task])
    learner = hydra.utils.instantiate(config.learner, agent, seed=0)
    learner.begin(3)
    linear = []
    for update in range(3):
        options = {"episode": 8 * update}
        live(agent, make(task, 8, task.train), learner, task=0, seed=update, options=options)
        linear.append(agent.working_memory.linear_start)
        learner.update()
    assert linear == [True, True, False]
