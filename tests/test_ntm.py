"""The NTM against an independent re-computation in numpy loops, its invariants, and a copy task."""

import hydra.utils
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ntms import (
    HIDDEN,
    INPUT,
    B,
    N,
    R,
    Says,
    V,
    W,
    build,
    fresh,
    ntm,  # noqa: F401
    random_items,
)
from torch import Tensor, nn

from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.envs.tasks import make
from stillknows.memory.interface import (
    detach,
    map_state,
    reset_rows,
)
from stillknows.memory.ntm import NTM, NTMState, sharpen, shift
from stillknows.memory.policies.rules import EvictOldest


def leaves(state: NTMState) -> list[Tensor]:
    found: list[Tensor] = []
    map_state(lambda z: found.append(z) or z, state)
    return found


# --- The paper's equations ---------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


class Oracle:
    """One row of an NTM in plain loops, from the paper's section 3."""

    def __init__(self, ntm: NTM, feed_forward: bool, shifts: int) -> None:
        self.p = {k: v.detach().numpy() for k, v in ntm.named_parameters()}
        self.feed_forward, self.shifts = feed_forward, shifts
        self.M = self.p["initial_memory"].copy()
        first = np.eye(N)[0]
        self.wr, self.ww = [first] * R, [first] * V
        self.r = np.zeros((R, W))
        self.h, self.c = np.zeros(HIDDEN), np.zeros(HIDDEN)

    def control(self, x):
        p, x = self.p, np.concatenate([x, self.r.ravel()])
        if self.feed_forward:
            self.h = np.tanh(p["controller.layer.weight"] @ x + p["controller.layer.bias"])
            return
        z = (
            p["controller.cell.weight_ih"] @ x
            + p["controller.cell.bias_ih"]
            + p["controller.cell.weight_hh"] @ self.h
            + p["controller.cell.bias_hh"]
        )
        i, f, g, o = np.split(z, 4)
        self.c = sigmoid(f) * self.c + sigmoid(i) * np.tanh(g)
        self.h = sigmoid(o) * np.tanh(self.c)

    def address(self, asked, M, before):
        key, strength, gate, shifts, gamma = np.split(asked, [W, W + 1, W + 2, W + 2 + self.shifts])
        strength, gamma = np.log1p(np.exp(strength[0])), 1 + np.log1p(np.exp(gamma[0]))
        content = np.zeros(N)
        for i in range(N):  # equations 5 and 6
            lengths = [np.sqrt((v**2).sum() + 1e-6) for v in (key, M[i])]
            content[i] = strength * (key @ M[i]) / (lengths[0] * lengths[1] + 1e-6)
        gate = sigmoid(gate[0])
        mixed = gate * softmax(content) + (1 - gate) * before  # 7
        chance, moved = softmax(shifts), np.zeros(N)
        s = dict(zip(range(-(self.shifts // 2), self.shifts // 2 + 1), chance, strict=True))
        for j in range(N):  # 8
            for by, share in s.items():
                moved[(j + by) % N] += mixed[j] * share
        return moved**gamma / (moved**gamma).sum()  # 9

    def step(self, x):
        self.control(x)
        p, address = self.p, W + 3 + self.shifts
        asked = p["write_interface.weight"] @ self.h + p["write_interface.bias"]
        asked = asked.reshape(V, address + 2 * W)
        self.ww = [self.address(asked[v, :address], self.M, self.ww[v]) for v in range(V)]
        for i in range(N):  # what heads erase, in any order, and then what they add
            for v in range(V):
                erase = sigmoid(asked[v, address : address + W])
                self.M[i] = self.M[i] * (1 - self.ww[v][i] * erase)  # 3
            for v in range(V):
                self.M[i] += self.ww[v][i] * asked[v, address + W :]  # 4
        asked = p["read_interface.weight"] @ self.h + p["read_interface.bias"]
        asked = asked.reshape(R, address)
        self.wr = [self.address(asked[r], self.M, self.wr[r]) for r in range(R)]
        for r in range(R):
            self.r[r] = sum(self.wr[r][i] * self.M[i] for i in range(N))  # 2
        return p["output.weight"] @ self.h + p["read_output.weight"] @ self.r.ravel()


@pytest.mark.parametrize("policy", [None, EvictOldest()])
@pytest.mark.parametrize("feed_forward", [False, True])
@pytest.mark.parametrize("shifts", [1, 3, 5])
def test_equals_the_papers_equations(feed_forward: bool, shifts: int, policy) -> None:
    ntm = build(shifts, feed_forward=feed_forward)
    items, state = random_items(9), fresh(ntm)
    oracles = [Oracle(ntm, feed_forward, shifts) for _ in range(B)]
    for t in range(9):
        state, read = ntm.step(state, items[:, t], policy)
        for row, oracle in enumerate(oracles):
            expected = (oracle.step(items[row, t].numpy()), oracle.r, oracle.M, oracle.wr)
            found = (
                read.values_BRW[row, -1],
                read.values_BRW[row, :R],
                state.memory_BNW[row],
                read.weights_BRK[row, :R],
            )
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a.detach(), b, rtol=0, atol=1e-10)


def test_gradients_are_right() -> None:
    ntm = build(learned_memory=True)
    here = torch.ones(1, 3, dtype=torch.bool)
    items = random_items(3, 1).requires_grad_()
    names = ("initial_memory", "write_interface.bias", "read_interface.bias", "output.weight")
    some = [parameter for name, parameter in ntm.named_parameters() if name in names]

    def run(items, *_):
        return ntm.sequence(fresh(ntm, 1), items, here)[1].values_BRW

    assert torch.autograd.gradcheck(run, (items, *some), atol=1e-5)


# --- Invariants --------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [None, Says(skip=0.3, update=0.2, add=0.5, victim=0.5)])
def test_where_heads_point_is_a_distribution(ntm: NTM, policy) -> None:
    state = fresh(ntm)
    for item in (3 * random_items(12)).unbind(dim=1):
        state, read = ntm.step(state, item, policy)
        for weights in (state.write_weights_BVN, state.read_weights_BRN, read.weights_BRK):
            assert (weights >= 0).all()
            torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        shared = read.weights_BRK[:, :R] @ state.memory_BNW
        torch.testing.assert_close(read.values_BRW[:, :R], shared)
        assert torch.equal(read.slots_BRK[1, R], torch.arange(N))


@given(st.integers(1, 9), st.integers(0, 8), st.sampled_from([1, 3, 5]), st.data())
def test_a_shift_moves_the_focus_in_a_circle(slots: int, at: int, shifts: int, data) -> None:
    at, farthest = at % slots, shifts // 2
    by = data.draw(st.integers(-farthest, farthest))
    weights, chance = torch.zeros(1, 1, slots), torch.zeros(1, 1, shifts)
    weights[..., at], chance[..., by + farthest] = 1, 1
    moved = shift(weights, chance)
    assert moved[0, 0, (at + by) % slots] == 1
    assert moved.sum() == 1


@given(st.lists(st.floats(1e-3, 1), min_size=2, max_size=6), st.floats(1, 8), st.floats(1.5, 4))
def test_sharper_is_more_at_the_top(numbers: list[float], low: float, factor: float) -> None:
    weights = torch.tensor(numbers, dtype=torch.float64)[None, None]
    weights = weights / weights.sum()

    def sharp(gamma: float) -> Tensor:
        return sharpen(weights, torch.tensor([[gamma]], dtype=torch.float64))

    torch.testing.assert_close(sharp(1.0), weights)
    torch.testing.assert_close(sharp(low), weights**low / (weights**low).sum())
    assert sharp(factor * low).amax() >= sharp(low).amax() - 1e-12


def test_a_weight_of_nothing_has_a_finite_gradient() -> None:
    weights = torch.tensor([[[1.0, 0.0, 0.0]]], requires_grad=True)
    gamma = torch.tensor([[20.0]], requires_grad=True)
    sharp = sharpen(weights, gamma)
    assert torch.equal(sharp.detach(), weights.detach())
    sharp[..., 1].sum().backward()
    assert weights.grad is not None
    assert gamma.grad is not None
    assert weights.grad.isfinite().all()
    assert gamma.grad.isfinite().all()


@pytest.mark.parametrize("feed_forward", [False, True])
@pytest.mark.parametrize("start", [0.0, 1e-6])
def test_an_empty_memory_has_finite_gradients(start: float, feed_forward: bool) -> None:
    torch.manual_seed(0)
    ntm = NTM(INPUT, N, W, R, V, learned_memory=True, feed_forward=feed_forward)
    assert torch.equal(ntm.initial_memory, torch.full((N, W), 1e-6))
    nn.init.constant_(ntm.initial_memory, start)
    here = torch.ones(B, 6, dtype=torch.bool)
    state, read = ntm.sequence(ntm.initial_state(B), torch.randn(B, 6, INPUT), here)
    read.values_BRW.square().sum().backward()
    for parameter in ntm.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0
    assert state.memory_BNW[0].std(dim=0).min() > 0  # the slots do not stay the same


def test_a_start_that_learns_does_not_move_a_state_that_is_kept() -> None:
    ntm = build(learned_memory=True)
    state, before = detach(ntm.initial_state(2)), ntm.initial_memory.detach().clone()
    with torch.no_grad():
        ntm.initial_memory.add_(1)
    assert torch.equal(state.memory_BNW, before.expand(2, -1, -1))


def test_a_constant_start_is_not_learned() -> None:
    ntm = NTM(INPUT, N, W)
    assert not ntm.initial_memory.requires_grad
    assert (ntm.initial_state(B).memory_BNW == 1e-6).all()


def test_reads_reach_the_controller(ntm: NTM) -> None:
    state, item = fresh(ntm), random_items(1)[:, 0]
    one, _ = ntm.step(state, item)
    two, _ = ntm.step(state._replace(reads_BRW=state.reads_BRW + 1), item)
    assert (one.controller.hidden_BH - two.controller.hidden_BH).abs().min() > 1e-6


def test_any_controller_serves() -> None:
    class Linear(nn.Module):
        output_size = HIDDEN

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(INPUT + R * W, HIDDEN)

        def initial_state(self, batch: int, device: torch.device | str) -> Tensor:
            return torch.zeros(batch, device=device)

        def forward(self, input_BI: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(input_BI), state + 1

    ntm = NTM(INPUT, N, W, R, controller=Linear())
    state, read = ntm.sequence(
        ntm.initial_state(B), torch.randn(B, 3, INPUT), torch.ones(B, 3, dtype=torch.bool)
    )
    assert state.controller.tolist() == [3, 3]
    assert read.values_BRW.isfinite().all()


# --- State is a value --------------------------------------------------------------------------


def test_a_step_leaves_its_input_as_it_was(ntm: NTM) -> None:
    for state in (fresh(ntm), ntm.step(fresh(ntm), random_items(1)[:, 0])[0]):
        before = [z.clone() for z in leaves(state)]
        ntm.step(state, random_items(1)[:, 0], Says(skip=0.5, add=0.5, victim=1))
        assert all(torch.equal(a, b) for a, b in zip(before, leaves(state), strict=True))


def test_rows_of_a_batch_do_not_meet(ntm: NTM) -> None:
    items, here = random_items(5, 4), torch.rand(4, 5) < 0.8
    order = torch.tensor([2, 0, 3, 1])
    state, read = ntm.sequence(fresh(ntm, 4), items, here, EvictOldest())
    other, again = ntm.sequence(fresh(ntm, 4), items[order], here[order], EvictOldest())
    torch.testing.assert_close(read.values_BRW[order], again.values_BRW)
    for a, b in zip(leaves(state), leaves(other), strict=True):
        torch.testing.assert_close(a[order], b)


def test_a_sequence_is_its_steps_and_absent_items_change_nothing(ntm: NTM) -> None:
    items = random_items(4)
    here = torch.tensor([[True, False, True, True], [True, True, True, True]])
    state, read = ntm.sequence(fresh(ntm), items, here, EvictOldest())
    for row, steps in enumerate([(0, 2, 3), (0, 1, 2, 3)]):
        alone, own = fresh(ntm, 1), None
        for t in steps:
            alone, own = ntm.step(alone, items[row : row + 1, t], EvictOldest())
        assert own is not None
        torch.testing.assert_close(read.values_BRW[row : row + 1], own.values_BRW)
        for a, b in zip(leaves(state), leaves(alone), strict=True):
            torch.testing.assert_close(a[row : row + 1], b)


def test_detach_and_reset_rows(ntm: NTM) -> None:
    state, _ = ntm.step(fresh(ntm), random_items(1)[:, 0])
    assert state.memory_BNW.requires_grad
    assert not any(z.requires_grad for z in leaves(detach(state)))
    mixed = reset_rows(state, fresh(ntm), torch.tensor([True, False]))
    assert torch.equal(mixed.memory_BNW[0], ntm.initial_memory)
    assert torch.equal(mixed.controller.cell_BH[1], state.controller.cell_BH[1])


# --- Wrong input -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["input_size", "slots", "word_size", "read_heads", "write_heads"])
def test_a_size_below_one_is_refused(name: str) -> None:
    sizes = {"input_size": 3, "slots": 3, "word_size": 3, "read_heads": 1, "write_heads": 1}
    with pytest.raises(ValueError, match=f"{name}=0 should be a whole number, at least 1"):
        NTM(**(sizes | {name: 0}))


@pytest.mark.parametrize("shifts", [2, 4])
def test_an_even_number_of_shifts_is_refused(shifts: int) -> None:
    with pytest.raises(ValueError, match="give an odd number"):
        NTM(INPUT, N, W, shifts=shifts)


def test_items_of_another_width_and_none_are_refused(ntm: NTM) -> None:
    with pytest.raises(ValueError, match="input_size=4"):
        ntm.step(fresh(ntm), torch.zeros(B, INPUT + 1).double())
    with pytest.raises(ValueError, match="give at least one"):
        ntm.sequence(fresh(ntm), torch.zeros(B, 0, INPUT), torch.zeros(B, 0, dtype=torch.bool))


# --- It learns, and an agent runs with it ------------------------------------------------------


def test_it_learns_to_copy() -> None:
    """Copy 2 to 4 vectors of 4 bits; chance is log 2 a bit, and only the memory can hold them."""
    torch.manual_seed(0)
    bits, ntm = 4, NTM(6, slots=8, word_size=8, hidden_size=32, feed_forward=True)
    optimizer = torch.optim.Adam([p for p in ntm.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for update in range(140):
        length = 2 + update % 3
        vectors = torch.randint(2, (16, length, bits)).float()
        items = torch.zeros(16, 2 * length + 1, bits + 2)
        items[:, :length, :bits] = vectors
        items[:, length, bits] = 1
        items[:, length + 1 :, bits + 1] = 1
        state, answers = ntm.initial_state(16), []
        for item in items.unbind(dim=1):
            state, read = ntm.step(state, item)
            answers.append(read.values_BRW[:, -1, :bits])
        logits = torch.stack(answers[length + 1 :], dim=1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, vectors)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(ntm.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-15:]) < 0.5 * np.log(2)


def test_an_agent_runs_with_it() -> None:
    config = compose_config(
        ["debug=tiny", "stream.episodes=16", "stream.exam_episodes=8", "working_memory=ntm"]
    )
    torch.manual_seed(0)
    tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    agent = build_agent(config, tasks)
    learner = hydra.utils.instantiate(config.learner, agent, seed=0)
    learner.begin(1)
    before = {n: p.detach().clone() for n, p in agent.working_memory.named_parameters()}
    live(agent, make(tasks[0], 8, tasks[0].train), learner, task=0, seed=0, options={"episode": 0})
    learner.update()
    for name, parameter in agent.working_memory.named_parameters():
        assert parameter.isfinite().all()
        assert parameter.grad is None or parameter.grad.isfinite().all()
        moved = not torch.equal(parameter, before[name])
        assert moved == parameter.requires_grad, name
