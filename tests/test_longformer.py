"""Longformer: one query at a time in plain numpy, full attention in a wide window, linear cost."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from stillknows.agents.controllers.longformer import Longformer, LongformerBlock
from stillknows.agents.controllers.tokenizer import PAD


def make(reach: int, causal: bool) -> LongformerBlock:
    torch.manual_seed(0)
    block = LongformerBlock(8, 2, reach, causal).double()
    torch.nn.init.normal_(block.out.weight)
    torch.nn.init.normal_(block.global_query_key_value.weight)
    torch.nn.init.zeros_(block.network[2].weight)
    torch.nn.init.zeros_(block.network[2].bias)
    return block


def turned(x, position):
    """Rotary positions of one head's vector."""
    half = len(x) // 2
    angle = position * 1000.0 ** (-np.arange(half) / half)
    a, b = x[:half], x[half:]
    return np.concatenate(
        [a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)]
    )


def by_hand(block: LongformerBlock, x, present, whole):
    """One row; local tokens attend by the local projections, global ones by the global."""
    p = {name: value.detach().numpy() for name, value in block.named_parameters()}
    size = 8 // block.heads
    eps = np.finfo(np.float64).eps
    normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * p["norm_attention.weight"]
    new = np.zeros_like(x)
    for i in range(len(x)):
        kind = "global_query_key_value" if whole[i] else "query_key_value"
        q, k, v = np.split(normed @ p[f"{kind}.weight"].T, 3, axis=1)
        near = [
            j
            for j in range(len(x))
            if present[j]
            and (j <= i or not block.causal)
            and (whole[i] or whole[j] or abs(i - j) <= block.reach)
        ]
        for head in range(block.heads if near else 0):  # what is padding reads nothing
            part = slice(head * size, (head + 1) * size)
            query = turned(q[i, part], i)
            scores = np.array([query @ turned(k[j, part], j) for j in near]) / np.sqrt(size)
            weights = np.exp(scores - scores.max())
            new[i, part] = weights / weights.sum() @ v[near, part]
    return x + new @ p["out.weight"].T


@given(
    length=st.integers(1, 11),
    reach=st.integers(1, 6),
    causal=st.booleans(),
    blank=st.integers(0, 3),
    whole=st.sets(st.integers(0, 10), max_size=3),
)
def test_attention_is_the_papers(length, reach, causal, blank, whole):
    block = make(reach, causal)
    present = np.arange(length) < max(1, length - blank)
    every = np.array([at in whole for at in range(length)]) & present
    x = torch.randn(1, length, 8, dtype=torch.float64)
    ours = block(x, torch.tensor(present)[None], torch.tensor(every)[None])[0]
    expected = by_hand(block, x[0].numpy(), present, every)
    np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
def test_a_window_over_the_whole_text_is_full_attention(causal):
    block = make(reach=20, causal=causal)
    x = torch.randn(3, 13, 8, dtype=torch.float64)
    present = torch.ones(3, 13, dtype=torch.bool)
    ours = block(x, present, torch.zeros_like(present))
    at = torch.arange(13)[None]
    query, key, value = block.turned(block.query_key_value, block.norm_attention(x), at)
    full = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
    torch.testing.assert_close(ours, block.add(x, full))


def test_what_is_out_of_reach_changes_nothing_and_a_global_token_reaches_all():
    block = make(reach=2, causal=False)
    x = torch.randn(1, 12, 8, dtype=torch.float64)
    present = torch.ones(1, 12, dtype=torch.bool)
    whole = torch.zeros_like(present)
    far = x.clone()
    far[0, 9] += 1
    before, after = block(x, present, whole), block(far, present, whole)
    torch.testing.assert_close(before[0, :7], after[0, :7], rtol=0, atol=0)
    whole[0, 9] = True
    before, after = block(x, present, whole), block(far, present, whole)
    assert ((before - after).abs().amax(dim=2) > 1e-6).all()


def test_rows_may_have_different_global_tokens():
    block = make(reach=2, causal=False)
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    present = torch.ones(2, 9, dtype=torch.bool)
    whole = torch.zeros_like(present)
    whole[0, [1, 7]] = True
    together = block(x, present, whole)
    for row in range(2):
        part = slice(row, row + 1)
        torch.testing.assert_close(together[part], block(x[part], present[part], whole[part]))


@pytest.mark.parametrize("causal", [True, False])
def test_the_cost_is_linear_in_the_length(causal):
    block = make(reach=8, causal=causal).float()

    def operations(length: int) -> int:
        present = torch.ones(1, length, dtype=torch.bool)
        whole = torch.zeros_like(present)
        whole[0, :2] = True
        with FlopCounterMode(display=False) as counter:
            block(torch.randn(1, length, 8), present, whole)
        return counter.get_total_flops()

    assert operations(512) == 2 * operations(256) == 4 * operations(128)


def test_gradients_are_right():
    block = make(reach=2, causal=False)
    present = torch.tensor([[True] * 5, [True, True, True, False, False]])
    whole = torch.tensor([[False, True, False, False, False], [False] * 5])
    x = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *_: block(x, present, whole), (x, *block.parameters())
    )


def test_a_text_with_global_tokens_is_read_to_the_end():
    torch.manual_seed(0)
    model = Longformer(30, width=16, layers=2, heads=2, reach=3, causal=False)
    tokens = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [5, 6, 7, PAD, PAD, PAD, PAD]])
    whole = torch.zeros_like(tokens, dtype=torch.bool)
    whole[:, 0] = True
    hidden, inputs = model.read(tokens, whole)
    assert hidden.shape == (2, 7, 16)
    assert len(inputs) == 2
    alone, _ = model.read(tokens[1:, :3], whole[1:, :3])
    torch.testing.assert_close(hidden[1:, :3], alone)


def test_wrong_sizes_are_told():
    with pytest.raises(ValueError, match="no multiple of 2 x heads=3"):
        Longformer(30, width=8, heads=3)
    with pytest.raises(ValueError, match="=0 should be a whole number, at least 1"):
        Longformer(30, reach=0)
