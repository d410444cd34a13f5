"""A DNC that begins near an associative memory: where it begins, and that a query only reads."""

import numpy as np
import pytest
import torch
from torch import Tensor

from stillknows.memory.dnc import DNC
from stillknows.memory.policies.rules import EvictOldest, WriteNothing
from stillknows.memory.recurrent import LSTMController, NormalisedController

B, N, W, R, INPUT, HIDDEN = 3, 8, 6, 2, 5, 7


def build(**settings: bool | int) -> DNC:
    torch.manual_seed(0)
    return DNC(INPUT, slots=N, word_size=W, read_heads=R, hidden_size=HIDDEN, **settings)


def said(seed: int = 0) -> Tensor:
    return torch.randn(16, HIDDEN, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_it_begins_near_an_associative_memory(heads: int, masked: bool) -> None:
    dnc = build(associative_start=True, write_heads=heads, masked=masked)
    with torch.no_grad():
        parts = dnc._parse(dnc.interface(said()))
        for head in range(R):  # what would be written is what is looked for
            written_BW = parts.write_BJW[:, head % heads]
            torch.testing.assert_close(parts.read_keys_BRW[:, head], written_BW)
        assert parts.write_gates_BJ.mean() > 0.8
        assert parts.allocation_gates_BJ.mean() > 0.8
        assert parts.free_gates_BR.mean() < 0.2
        assert parts.read_modes_BRP[:, :, heads].mean() > (0.7 if heads == 1 else 0.6)
        assert parts.read_strengths_BR.mean() > 4.5
        plain = build(write_heads=heads, masked=masked)
        others = plain._parse(plain.interface(said()))
    torch.testing.assert_close(parts.erase_BJW, others.erase_BJW)
    torch.testing.assert_close(parts.write_strengths_BJ, others.write_strengths_BJ)
    torch.testing.assert_close(parts.write_keys_BJW, others.write_keys_BJW)


def test_what_was_told_is_found_at_once_where_a_plain_one_finds_it_seldom() -> None:
    items_BTI = torch.randn(64, N - 2, INPUT, generator=torch.Generator().manual_seed(1))
    here_BT = torch.ones(64, N - 1, dtype=torch.bool)
    which_B = torch.arange(64) % (N - 2)
    query_B1I = items_BTI[torch.arange(64), which_B][:, None]
    found = []
    for associative in (True, False):
        right, settings = 0.0, {"associative_start": associative, "normalised": True}
        for seed in range(5):
            torch.manual_seed(seed)
            dnc = DNC(INPUT, N, W, R, HIDDEN, feed_forward=True, query_writes=False, **settings)
            with torch.no_grad():
                empty = dnc.initial_state(64)
                _, read = dnc.sequence(empty, torch.cat([items_BTI, query_B1I], 1), here_BT)
                state, slots = empty, []
                for t in range(N - 2):
                    state, _ = dnc.step(state, items_BTI[:, t])
                    slots.append(state.write_weights_BJN[:, 0].argmax(dim=1))
            written_B = torch.stack(slots, dim=1)[torch.arange(64), which_B]
            right += float((read.weights_BRK[:, 0].argmax(dim=1) == written_B).float().mean()) / 5
        found.append(right)
    assert found[0] > 0.6
    assert found[1] < 0.4


@pytest.mark.parametrize("think", [0, 2])
@pytest.mark.parametrize("policy", [None, EvictOldest()])
def test_a_query_reads_and_writes_nothing(think: int, policy: EvictOldest | None) -> None:
    dnc = build(query_writes=False, think=think)
    items_BTI = torch.randn(B, 5, INPUT)
    here_BT = torch.ones(B, 5, dtype=torch.bool)
    with torch.no_grad():
        state = dnc.initial_state(B)
        after, read = dnc.sequence(state, items_BTI, here_BT, policy)
        for t in range(4):
            state, _ = dnc.step(state, items_BTI[:, t], policy)
        told = state.memory_BNW
        for item_BI in (items_BTI[:, 4], *[torch.zeros(B, INPUT)] * think):
            state, expected = dnc.step(state, item_BI, WriteNothing())
    assert torch.equal(after.memory_BNW, told)
    assert not after.write_weights_BJN.any()
    torch.testing.assert_close(tuple(read), tuple(expected))
    dnc.query_writes = True
    with torch.no_grad():
        wrote, _ = dnc.sequence(dnc.initial_state(B), items_BTI, here_BT, policy)
    assert (wrote.memory_BNW - told).abs().max() > 1e-3


def test_a_normalised_controller_is_one_between_two_layer_normalisations() -> None:
    torch.manual_seed(0)
    controller = NormalisedController(INPUT, LSTMController(INPUT, HIDDEN)).double()
    with torch.no_grad():
        for weight in controller.parameters():
            weight.normal_()
    p = {name: part.detach().numpy() for name, part in controller.named_parameters()}

    def norm(x, name):
        centred = x - x.mean()
        return (
            centred / np.sqrt((centred**2).mean() + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]
        )

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    x = torch.randn(4, 1, INPUT, dtype=torch.float64)
    state = torch.zeros(2, 1, HIDDEN, dtype=torch.float64)
    now = type(controller.initial_state(1, "cpu"))(*state)
    h, c = np.zeros(HIDDEN), np.zeros(HIDDEN)
    for item in x:
        out, now = controller(item, now)
        cell = "controller.cell."
        z = p[cell + "weight_ih"] @ norm(item[0].numpy(), "seen") + p[cell + "bias_ih"]
        i, f, g, o = np.split(z + p[cell + "weight_hh"] @ h + p[cell + "bias_hh"], 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(out[0].detach().numpy(), norm(h, "said"), atol=1e-12)
