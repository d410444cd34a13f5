"""The DNC against an independent re-computation in numpy loops, and its invariants."""

import numpy as np
import pytest
import torch

from stillknows.memory.dnc import DNC
from stillknows.memory.interface import SKIP, UPDATE, Decision, detach, map_state, reset_rows
from stillknows.memory.links import ExactLink, FactoredLink, Link, SparseLink
from stillknows.memory.ntm import NTM
from stillknows.memory.policies.rules import EvictOldest, EvictRead

B, N, W, R, INPUT, HIDDEN = 2, 5, 3, 2, 4, 6


@pytest.fixture
def dnc() -> DNC:
    return build()


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
    """One row of a DNC in plain loops: the paper's Methods, and the switches of its successors."""

    def __init__(self, dnc: DNC) -> None:
        self.p = {k: v.detach().numpy() for k, v in dnc.named_parameters()}
        self.dnc, self.J = dnc, dnc.write_heads
        self.M, self.u = np.zeros((N, W)), np.zeros(N)
        self.L, self.pr = np.zeros((self.J, N, N)), np.zeros((self.J, N))
        self.ww, self.wr, self.r = np.zeros((self.J, N)), np.zeros((R, N)), np.zeros((R, W))
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

    def cut(self, xi):
        """Take the parts of the interface vector off its front, in order."""
        J, place = self.J, 0
        parts = {}
        shapes = {"rk": (R, W), "rs": (R,), "wk": (J, W), "ws": (J,), "e": (J, W), "v": (J, W)}
        shapes |= {"free": (R,), "ga": (J,), "gw": (J,), "modes": (R, 1 + 2 * J)}
        if self.dnc.masked:
            shapes |= {"rm": (R, W), "wm": (J, W)}
        if self.dnc.sharp:
            shapes |= {"sharp": (R, 2 * J)}
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            parts[name] = xi[place : place + size].reshape(shape)
            place += size
        assert place == len(xi)
        return parts

    def mask(self, parts, name, head):
        if not self.dnc.masked:
            return np.ones(W)
        least = self.dnc.least_mask
        return least + (1 - least) * sigmoid(parts[name][head])

    def find(self, memory, key, strength, mask):
        return cosine_softmax(memory * mask, key * mask, 1 + np.log1p(np.exp(strength)))

    def write(self, x):
        p, J = x, self.J
        psi = np.ones(N)
        for head in range(R):
            psi *= 1 - sigmoid(p["free"][head]) * self.wr[head]
        written = 1 - np.prod(1 - self.ww, axis=0)
        self.u = (self.u + written - self.u * written) * psi
        usage, w = self.u.copy(), np.zeros((J, N))
        for head in range(J):
            scaled = 1e-6 + (1 - 1e-6) * usage
            a, product = np.zeros(N), 1.0
            for slot in np.argsort(scaled, kind="stable"):
                a[slot] = (1 - scaled[slot]) * product
                product *= scaled[slot]
            ga, gw = sigmoid(p["ga"][head]), sigmoid(p["gw"][head])
            c = self.find(self.M, p["wk"][head], p["ws"][head], self.mask(p, "wm", head))
            w[head] = gw * (ga * a + (1 - ga) * c)
            usage = usage + (1 - usage) * ga * gw * a
        M = self.M * psi[:, None] if self.dnc.deallocate else self.M.copy()
        for head in range(J):
            M = M * (1 - np.outer(w[head], sigmoid(p["e"][head])))
        self.M = M + sum(np.outer(w[head], p["v"][head]) for head in range(J))
        L = np.zeros_like(self.L)
        for head in range(J):
            for i in range(N):
                for j in range(N):
                    if i != j:
                        L[head, i, j] = (1 - w[head, i] - w[head, j]) * self.L[head, i, j]
                        L[head, i, j] += w[head, i] * self.pr[head, j]
            self.pr[head] = (1 - w[head].sum()) * self.pr[head] + w[head]
        self.L, self.ww = L, w

    def sharpened(self, weights, strength):
        if not self.dnc.sharp:
            return weights
        weights = weights + 1e-6
        powers = (weights / weights.max()) ** (1 + np.log1p(np.exp(strength)))
        return powers / powers.sum()

    def step(self, x):
        parts = self.cut(self.control(x))
        self.write(parts)
        J, before = self.J, self.wr.copy()
        for head in range(R):
            pi = softmax(parts["modes"][head])
            mask = self.mask(parts, "rm", head)
            content = self.find(self.M, parts["rk"][head], parts["rs"][head], mask)
            self.wr[head] = pi[J] * content
            for j in range(J):
                sharp = parts["sharp"][head] if self.dnc.sharp else np.zeros(2 * J)
                backward = self.sharpened(self.L[j].T @ before[head], sharp[j])
                forward = self.sharpened(self.L[j] @ before[head], sharp[J + j])
                self.wr[head] += pi[j] * backward + pi[J + 1 + j] * forward
            self.r[head] = self.wr[head] @ self.M
        p = self.p
        return p["output.weight"] @ self.h + p["read_output.weight"] @ self.r.ravel()


SWITCHES = (
    {},
    {"masked": True, "least_mask": 0.1},
    {"deallocate": True},
    {"sharp": True},
    {"write_heads": 3},
    {"write_heads": 2, "masked": True, "deallocate": True, "sharp": True},
)


def build(**switches) -> DNC:
    torch.manual_seed(0)
    memory = DNC(INPUT, N, W, R, HIDDEN, **switches).double()
    for p in memory.parameters():
        p.data.mul_(3)
    return memory


@pytest.mark.parametrize("switches", SWITCHES)
def test_equals_the_papers_equations(switches: dict) -> None:
    dnc = build(**switches)
    items = torch.randn(B, 9, INPUT, dtype=torch.float64)
    state, oracles = fresh(dnc), [Oracle(dnc) for _ in range(B)]
    for t in range(9):
        state, read = dnc.step(state, items[:, t])
        for row, oracle in enumerate(oracles):
            y = oracle.step(items[row, t].numpy())
            np.testing.assert_allclose(read.values_BRW[row, -1].detach(), y, atol=1e-10)
            np.testing.assert_allclose(read.values_BRW[row, :R].detach(), oracle.r, atol=1e-10)
            np.testing.assert_allclose(state.link.link_BJNN[row].detach(), oracle.L, atol=1e-10)
            np.testing.assert_allclose(state.usage_BN[row].detach(), oracle.u, atol=1e-10)
            np.testing.assert_allclose(state.memory_BNW[row].detach(), oracle.M, atol=1e-10)


def test_invariants(dnc: DNC) -> None:
    state = fresh(dnc)
    for _ in range(12):
        state, read = dnc.step(state, 3 * torch.randn(B, INPUT, dtype=torch.float64))
        link = state.link.link_BJNN[:, 0]
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


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("link", [ExactLink(), SparseLink(2), FactoredLink(2)])
def test_gradients_are_right_and_finite(switches: dict, link: Link) -> None:
    dnc = build(**switches, link=link)
    items = torch.randn(1, 3, INPUT, dtype=torch.float64, requires_grad=True)
    here = torch.ones(1, 3, dtype=torch.bool)

    def run(x):
        return dnc.sequence(fresh(dnc, 1), x, here)[1].values_BRW

    assert torch.autograd.gradcheck(run, (items,), atol=1e-5)
    run(items).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in dnc.parameters())


@pytest.mark.parametrize("checkpoint", [1, 3, 100])
def test_steps_taken_again_give_the_same_outputs_and_gradients(dnc: DNC, checkpoint: int) -> None:
    items = torch.randn(B, 7, INPUT, dtype=torch.float64, requires_grad=True)
    found = []
    for chunk in (0, checkpoint):
        dnc.zero_grad()
        state, outputs = dnc.outputs(fresh(dnc), items, checkpoint=chunk)
        (gradient,) = torch.autograd.grad(outputs.square().sum(), items, retain_graph=True)
        outputs.square().sum().backward()
        found.append([outputs, state.memory_BNW, gradient, *(p.grad for p in dnc.parameters())])
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(kept, again)
    steps, state = [], fresh(dnc)
    for item in items.unbind(1):
        state, read = dnc.step(state, item)
        steps.append(read.values_BRW[:, -1])
    assert torch.equal(torch.stack(steps, 1), found[0][0])


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
    assert updated.write_weights_BJN[:, 0, [0, 1, 3, 4]].abs().max() == 0
    assert (updated.write_weights_BJN[:, 0, 2] > 0).all()


@pytest.mark.parametrize("heads", [1, 2])
def test_a_policy_is_told_how_much_of_a_slot_was_read_since_it_was_written(heads: int) -> None:
    """Not the usage of the equations, which falls as what was read is freed."""

    class Reads(EvictRead):
        def decide(self, features) -> Decision:
            self.seen, self.said = features, super().decide(features)
            return self.said

    torch.manual_seed(0)
    dnc, policy = DNC(INPUT, N, W, R, HIDDEN, write_heads=heads, associative_start=True), Reads()
    state, uses = dnc.initial_state(B), np.zeros((B, N))
    full = 0
    for _ in range(40):
        state, _ = dnc.step(state, torch.randn(B, INPUT), policy)
        np.testing.assert_allclose(policy.seen.usage_BN, uses, rtol=1e-4, atol=1e-5)
        for row in range(B):
            if policy.seen.filled_BN[row].all() and policy.said.victim_BN[row].any():
                full += 1
                assert policy.said.victim_BN[row].argmax() == uses[row].argmax()
        writes, reads = (
            part.detach().numpy() for part in (state.write_weights_BJN, state.read_weights_BRN)
        )
        for head in range(heads):
            uses = uses * (1 - writes[:, head])
        uses = uses + reads.sum(axis=1)
    assert full > 10


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


@pytest.mark.parametrize("kind", [DNC, NTM])
def test_thinking_is_blank_items_before_the_read(kind: type[DNC] | type[NTM]) -> None:
    torch.manual_seed(0)
    memory = kind(5, slots=6, word_size=4, read_heads=2, hidden_size=7, think=2)
    items, here = torch.randn(3, 4, 5), torch.ones(3, 4, dtype=torch.bool)
    after, read = memory.sequence(memory.initial_state(3), items, here)
    memory.think = 0
    blank, more = torch.zeros(3, 2, 5), torch.ones(3, 6, dtype=torch.bool)
    expected, also = memory.sequence(memory.initial_state(3), torch.cat([items, blank], 1), more)
    torch.testing.assert_close(tuple(read), tuple(also))
    torch.testing.assert_close(after.memory_BNW, expected.memory_BNW)
    at_once = memory.sequence(memory.initial_state(3), items, here)[1]
    assert not torch.equal(read.values_BRW, at_once.values_BRW)
