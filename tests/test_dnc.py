"""The DNC against an independent re-computation in numpy loops, and its invariants."""

import numpy as np
import pytest
import torch

from stillknows.memory.dnc import DNC
from stillknows.memory.interface import SKIP, UPDATE, Decision, detach, map_state, reset_rows
from stillknows.memory.rules import EvictOldest

B, N, W, R, INPUT, HIDDEN = 2, 5, 3, 2, 4, 6


@pytest.fixture
def dnc() -> DNC:
    torch.manual_seed(0)
    memory = DNC(INPUT, N, W, R, HIDDEN).double()
    for p in memory.parameters():
        p.data.mul_(3)
    return memory


def fresh(dnc: DNC, batch: int = B):
    return map_state(lambda z: z.double() if z.is_floating_point() else z, dnc.initial_state(batch))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def cosine_softmax(memory, key, strength):
    scores = [
        strength
        * (key @ row)
        / (np.sqrt((key**2).sum() + 1e-6) * np.sqrt((row**2).sum() + 1e-6) + 1e-6)
        for row in memory
    ]
    return softmax(np.array(scores))


class Oracle:
    """One row of a DNC in plain loops, from the paper's Methods."""

    def __init__(self, dnc: DNC) -> None:
        self.p = {k: v.detach().numpy() for k, v in dnc.named_parameters()}
        self.M, self.u = np.zeros((N, W)), np.zeros(N)
        self.L, self.pr = np.zeros((N, N)), np.zeros(N)
        self.ww, self.wr, self.r = np.zeros(N), np.zeros((R, N)), np.zeros((R, W))
        self.h, self.c = np.zeros(HIDDEN), np.zeros(HIDDEN)

    def control(self, x):
        p = self.p
        z = (
            p["controller.cell.weight_ih"] @ np.concatenate([x, self.r.ravel()])
            + p["controller.cell.bias_ih"]
            + p["controller.cell.weight_hh"] @ self.h
            + p["controller.cell.bias_hh"]
        )
        i, f, g, o = np.split(z, 4)
        self.c = sigmoid(f) * self.c + sigmoid(i) * np.tanh(g)
        self.h = sigmoid(o) * np.tanh(self.c)
        return p["interface.weight"] @ self.h + p["interface.bias"]

    def step(self, x):
        xi = self.control(x)
        cuts = np.cumsum([R * W, R, W, 1, W, W, R, 1, 1])
        rk, rs, wk, ws, e, v, free, ga, gw, modes = np.split(xi, cuts)
        rk, modes, plus = rk.reshape(R, W), modes.reshape(R, 3), lambda z: 1 + np.log1p(np.exp(z))
        psi = np.ones(N)
        for head in range(R):
            psi *= 1 - sigmoid(free[head]) * self.wr[head]
        self.u = (self.u + self.ww - self.u * self.ww) * psi
        scaled = 1e-6 + (1 - 1e-6) * self.u
        a, product = np.zeros(N), 1.0
        for slot in np.argsort(scaled, kind="stable"):
            a[slot] = (1 - scaled[slot]) * product
            product *= scaled[slot]
        c = cosine_softmax(self.M, wk, plus(ws)[0])
        w = sigmoid(gw) * (sigmoid(ga) * a + (1 - sigmoid(ga)) * c)
        M, L = self.M.copy(), self.L.copy()
        for i in range(N):
            for k in range(W):
                M[i, k] = self.M[i, k] * (1 - w[i] * sigmoid(e[k])) + w[i] * v[k]
            for j in range(N):
                L[i, j] = 0 if i == j else (1 - w[i] - w[j]) * self.L[i, j] + w[i] * self.pr[j]
        self.M, self.L, self.ww = M, L, w
        self.pr = (1 - w.sum()) * self.pr + w
        for head in range(R):
            pi = softmax(modes[head])
            content = cosine_softmax(M, rk[head], plus(rs[head]))
            forward, backward = L @ self.wr[head], L.T @ self.wr[head]
            self.wr[head] = pi[0] * backward + pi[1] * content + pi[2] * forward
            self.r[head] = self.wr[head] @ M
        p = self.p
        return p["output.weight"] @ self.h + p["read_output.weight"] @ self.r.ravel()


def test_equals_the_papers_equations(dnc: DNC) -> None:
    items = torch.randn(B, 7, INPUT, dtype=torch.float64)
    state, oracles = fresh(dnc), [Oracle(dnc) for _ in range(B)]
    for t in range(7):
        state, read = dnc.step(state, items[:, t])
        for row, oracle in enumerate(oracles):
            y = oracle.step(items[row, t].numpy())
            np.testing.assert_allclose(read.values_BRW[row, -1].detach(), y, atol=1e-10)
            np.testing.assert_allclose(read.values_BRW[row, :R].detach(), oracle.r, atol=1e-10)
            np.testing.assert_allclose(state.link_BNN[row].detach(), oracle.L, atol=1e-10)
            np.testing.assert_allclose(state.usage_BN[row].detach(), oracle.u, atol=1e-10)


def test_invariants(dnc: DNC) -> None:
    state = fresh(dnc)
    for _ in range(12):
        state, read = dnc.step(state, 3 * torch.randn(B, INPUT, dtype=torch.float64))
        link = state.link_BNN
        assert (link >= -1e-12).all()
        assert (link.sum(1) <= 1 + 1e-9).all()
        assert (link.sum(2) <= 1 + 1e-9).all()
        assert link.diagonal(dim1=1, dim2=2).abs().max() == 0
        assert ((state.usage_BN >= 0) & (state.usage_BN <= 1)).all()
        assert (read.weights_BRK.sum(-1) <= 1 + 1e-9).all()


def test_reads_reach_the_controller(dnc: DNC) -> None:
    state, item = fresh(dnc), torch.randn(B, INPUT, dtype=torch.float64)
    other = state._replace(reads_BRW=state.reads_BRW + 1)
    one, _ = dnc.step(state, item)
    two, _ = dnc.step(other, item)
    assert (one.controller.hidden_BH - two.controller.hidden_BH).abs().min() > 1e-6


def test_gradients_are_right_and_finite(dnc: DNC) -> None:
    items = torch.randn(1, 3, INPUT, dtype=torch.float64, requires_grad=True)
    here = torch.ones(1, 3, dtype=torch.bool)

    def run(x):
        return dnc.sequence(fresh(dnc, 1), x, here)[1].values_BRW

    assert torch.autograd.gradcheck(run, (items,), atol=1e-5)
    run(items).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in dnc.parameters())


def test_a_step_leaves_its_input_as_it_was(dnc: DNC) -> None:
    state, _ = dnc.step(fresh(dnc), torch.randn(B, INPUT, dtype=torch.float64))
    before = [z.clone() for z in _leaves(state)]
    dnc.step(state, torch.randn(B, INPUT, dtype=torch.float64), EvictOldest())
    assert all(torch.equal(a, b) for a, b in zip(before, _leaves(state), strict=True))


def test_absent_items_change_nothing_and_rows_do_not_meet(dnc: DNC) -> None:
    items = torch.randn(B, 4, INPUT, dtype=torch.float64)
    here = torch.tensor([[True, False, True, True], [True, True, True, True]])
    state, read = dnc.sequence(fresh(dnc), items, here)
    alone, read_alone = fresh(dnc, 1), None
    for t in (0, 2, 3):
        alone, read_alone = dnc.step(alone, items[:1, t])
    torch.testing.assert_close(read.values_BRW[:1], read_alone.values_BRW)
    torch.testing.assert_close(state.memory_BNW[:1], alone.memory_BNW)


def test_a_policy_multiplies_the_gates(dnc: DNC) -> None:
    class Says:
        def __init__(self, action: int) -> None:
            self.action = action

        def decide(self, features) -> Decision:
            rows, slots = features.filled_BN.shape
            action, slot = torch.zeros(rows, 4).double(), torch.zeros(rows, slots).double()
            action[:, self.action], slot[:, 2] = 1, 1
            return Decision(action, slot, torch.zeros_like(slot), torch.zeros(rows))

    item = torch.randn(B, INPUT, dtype=torch.float64)
    skipped, _ = dnc.step(fresh(dnc), item, Says(SKIP))
    assert skipped.memory_BNW.abs().max() == 0
    updated, _ = dnc.step(fresh(dnc), item, Says(UPDATE))
    assert updated.write_weights_BN[:, [0, 1, 3, 4]].abs().max() == 0
    assert (updated.write_weights_BN[:, 2] > 0).all()


def test_detach_and_reset_rows(dnc: DNC) -> None:
    state, _ = dnc.step(fresh(dnc), torch.randn(B, INPUT, dtype=torch.float64))
    assert state.memory_BNW.requires_grad
    assert not any(z.requires_grad for z in _leaves(detach(state)))
    mixed = reset_rows(state, fresh(dnc), torch.tensor([True, False]))
    assert mixed.memory_BNW[0].abs().max() == 0
    assert torch.equal(mixed.controller.cell_BH[1], state.controller.cell_BH[1])


def _leaves(state) -> list[torch.Tensor]:
    found = []
    map_state(lambda z: found.append(z) or z, state)
    return found
