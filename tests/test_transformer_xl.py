"""Transformer-XL: the paper's equations in plain numpy, and segments against one reading."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillknows.agents.controllers.tokenizer import PAD
from stillknows.agents.controllers.transformer_xl import RelativeBlock, TransformerXL, sinusoids


def make(layers=2, memory_length=6) -> TransformerXL:
    torch.manual_seed(0)
    model = TransformerXL(30, width=8, layers=layers, heads=2, memory_length=memory_length).double()
    for block in model.blocks:
        torch.nn.init.normal_(block.content_bias)
        torch.nn.init.normal_(block.position_bias)
        torch.nn.init.normal_(block.out.weight)
    return model


def norm(x, weight):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + np.finfo(np.float64).eps) * weight


def attention_by_hand(block: RelativeBlock, x, memory):
    """One row of section 3.3, one query and one key at a time."""
    p = {name: value.detach().numpy() for name, value in block.named_parameters()}
    width, heads = x.shape[1], block.heads
    size = width // heads
    context = norm(np.concatenate([memory, x]), p["norm_attention.weight"])
    keys, values = np.split(context @ p["key_value.weight"].T, 2, axis=1)
    new = np.zeros_like(x)
    for i in range(len(x)):
        at = len(memory) + i
        query = p["query.weight"] @ context[at]
        reach = range(max(0, at - block.memory_length), at + 1)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            u, v = p["content_bias"][head, 0], p["position_bias"][head, 0]
            scores = []
            for j in reach:
                d = at - j
                rates = 10000.0 ** (-np.arange(0, width, 2) / width)
                r = p["position.weight"] @ np.concatenate([np.sin(d * rates), np.cos(d * rates)])
                q, k, r = query[part], keys[j, part], r[part]
                scores.append((q @ k + q @ r + u @ k + v @ r) / np.sqrt(size))
            weights = np.exp(scores - np.max(scores))
            weights /= weights.sum()
            new[i, part] = weights @ values[list(reach), part]
    return x + new @ p["out.weight"].T


@given(st.integers(0, 5), st.integers(1, 5), st.integers(1, 8))
def test_attention_is_the_papers(known, steps, memory_length):
    torch.manual_seed(known + 10 * steps)
    block = RelativeBlock(8, 2, memory_length).double()
    for name in ("content_bias", "position_bias"):
        torch.nn.init.normal_(getattr(block, name))
    torch.nn.init.normal_(block.out.weight)
    torch.nn.init.zeros_(block.network[2].weight)
    torch.nn.init.zeros_(block.network[2].bias)
    x, memory = torch.randn(1, steps, 8).double(), torch.randn(1, known, 8).double()
    present = torch.ones(1, known + steps, dtype=torch.bool)
    ours = block(x, memory, present)[0].detach().numpy()
    by_hand = attention_by_hand(block, x[0].numpy(), memory[0].numpy())
    np.testing.assert_allclose(ours, by_hand, rtol=0, atol=1e-10)


def test_sinusoids_have_their_frequencies():
    table = sinusoids(3, torch.zeros(1, 1, 4))
    torch.testing.assert_close(table[0], torch.tensor([0.0, 0.0, 1.0, 1.0]))
    torch.testing.assert_close(table[2, 1], torch.tensor(2 * 0.01).sin())


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(1, 12))
def test_segments_equal_one_reading(lengths, memory_length):
    """Within what attention reaches, recurrence is recomputation, however the text is cut."""
    model = make(memory_length=memory_length)
    tokens = torch.randint(1, 30, (2, sum(lengths)), generator=torch.Generator().manual_seed(1))
    whole, _ = model.read(tokens, model.initial_memory(2))
    memory, parts = model.initial_memory(2), []
    for segment in tokens.split(lengths, dim=1):
        hidden, memory = model.read(segment, memory)
        assert memory.present_BM.shape[1] <= memory_length
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-10, atol=1e-10)


def test_rows_of_different_lengths_remember_their_own():
    model = make(memory_length=5)
    first = torch.tensor([[5, 6, PAD, PAD], [7, 8, 9, 10]])
    second = torch.tensor([[11, 12, 13], [14, PAD, PAD]])
    _, memory = model.read(first, model.initial_memory(2))
    together, memory = model.read(second, memory)
    for row, (a, b) in enumerate((([5, 6], [11, 12, 13]), ([7, 8, 9, 10], [14]))):
        alone, _ = model.read(torch.tensor([a + b]), model.initial_memory(1))
        torch.testing.assert_close(together[row, : len(b)], alone[0, len(a) :])
        assert memory.present_BM[row].sum() == min(5, len(a + b))


@given(st.integers(1, 20), st.integers(0, 6), st.integers(1, 5))
def test_a_long_text_is_encoded_segment_by_segment(length, blank, memory_length):
    model = make(memory_length=memory_length)
    tokens = torch.randint(1, 30, (2, length), generator=torch.Generator().manual_seed(2))
    tokens[1, max(1, length - blank) :] = PAD
    last = (tokens != PAD) & (torch.cat([tokens[:, 1:], tokens[:, :1] * 0], dim=1) == PAD)
    vectors, cache = model.encode(tokens, last)
    fused, answer = torch.randn(2, 8).double(), torch.tensor([[4, 9], [7, 2]])
    logits = model.answer_logits(fused, tokens, cache, answer)
    for row, size in enumerate((tokens != PAD).sum(dim=1).tolist()):
        text = tokens[row : row + 1, :size]
        whole, memory = model.read(text, model.initial_memory(1))
        torch.testing.assert_close(vectors[row], model.norm_sentence(whole[0, -1]))
        spoken = torch.cat([fused[row][None, None], model.embedding(answer[row])[None]], dim=1)
        said = model._read(spoken, torch.ones(1, 3, dtype=torch.bool), memory)[1]
        torch.testing.assert_close(logits[row], model._as_logits(said)[0])


def test_no_gradient_reaches_the_memory_but_the_vectors_depend_on_it():
    model = make()
    _, memory = model.read(torch.tensor([[5, 6, 7]]), model.initial_memory(1))
    assert not any(part.requires_grad for part in memory.hidden_BMD)
    changed = memory._replace(hidden_BMD=tuple(part + 1 for part in memory.hidden_BMD))
    ours, other = (model.read(torch.tensor([[8]]), each)[0] for each in (memory, changed))
    assert (ours - other).abs().max() > 1e-3


def test_gradients_are_right():
    model = make(layers=1)
    _, memory = model.read(torch.tensor([[5, 6, 7], [8, PAD, PAD]]), model.initial_memory(2))
    present = torch.cat([memory.present_BM, torch.tensor([[True, True], [True, False]])], dim=1)
    x = torch.randn(2, 2, 8, dtype=torch.float64, requires_grad=True)
    block, past = model.blocks[0], memory.hidden_BMD[0]
    assert torch.autograd.gradcheck(lambda x, *_: block(x, past, present), (x, *block.parameters()))


def test_wrong_sizes_are_told():
    with pytest.raises(ValueError, match="no multiple of heads=3"):
        TransformerXL(30, width=8, heads=3)
    with pytest.raises(ValueError, match="=0 should be a whole number, at least 1"):
        TransformerXL(30, memory_length=0)
