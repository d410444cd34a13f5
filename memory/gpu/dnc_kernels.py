"""Kernels of `dnc_fused.py`: the memory of a step of the DNC, forward and backward, in Triton.

One program takes a row of the batch with all its slots; the link is in `link_kernels.py`, the
controller in `lstm_kernels.py`. The equations are those of `dnc.py` and `addressing.py`; allocation
compares every pair of slots instead of sorting, which gives the same order and the same weights.
Names: `d_` before a name is the gradient of it.

The interface vector is parsed here too: keys, strengths, write key, its strength, erase and write
vector, free gates, allocation gate, write gate, read modes.

Letters: B rows, N slots, W word size, R read heads, X numbers of the interface vector.
"""

import triton
import triton.language as tl

EPSILON = tl.constexpr(1e-6)
WEIGHTY = tl.constexpr(0.05)


@triton.jit
def _softplus(x):
    return tl.maximum(x, 0.0) + tl.log(1 + tl.exp(-tl.abs(x)))


@triton.jit
def _modes(xi, head, R: tl.constexpr, W: tl.constexpr):
    """Return the three read modes of a head: backward, content, forward."""
    at = xi + R * W + R + 3 * W + 1 + R + 2 + 3 * head
    back, content, ahead = tl.load(at), tl.load(at + 1), tl.load(at + 2)
    highest = tl.maximum(tl.maximum(back, content), ahead)
    back, content, ahead = (
        tl.exp(back - highest),
        tl.exp(content - highest),
        tl.exp(ahead - highest),
    )
    total = back + content + ahead
    return back / total, content / total, ahead / total


@triton.jit
def _cosine(memory, lengths, key):
    """Return the cosine of every slot to a key, and the length of the key."""
    length = tl.sqrt(tl.sum(key * key, axis=0) + EPSILON)
    product = tl.sum(memory * key[None, :], axis=1)
    return product / (length * lengths + EPSILON), length


@triton.jit
def _softmax(x, there):
    x = tl.where(there, x, -float("inf"))
    powers = tl.exp(x - tl.max(x, axis=0))
    return powers / tl.sum(powers, axis=0)


@triton.jit
def _content_backward(memory, lengths, key, strength, weights, d_weights):
    """Return gradients of what `softmax(strength cos(slot, key))` was made of.

    That of the memory is `d_product[:, None] * key + d_memory[:, None] * memory`.
    """
    cosine, length = _cosine(memory, lengths, key)
    d_logit = weights * (d_weights - tl.sum(weights * d_weights, axis=0))
    d_strength = tl.sum(d_logit * cosine, axis=0)
    below = length * lengths + EPSILON
    d_product = strength * d_logit / below
    d_below = -d_product * cosine
    d_length = tl.sum(d_below * lengths, axis=0)
    d_key = tl.sum(d_product[:, None] * memory, axis=0) + d_length / length * key
    return d_key, d_strength, d_product, d_below * length / lengths


@triton.jit
def _retention(
    xi, read0, i, there, N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, NP: tl.constexpr
):
    """Return how much of the usage of each slot stays, whatever the heads set free."""
    kept = tl.full((NP,), 1.0, tl.float32)
    for r in range(R):
        free = tl.sigmoid(tl.load(xi + R * W + R + 3 * W + 1 + r))
        kept *= 1 - free * tl.load(read0 + r * N + i, mask=there, other=0.0)
    return kept


@triton.jit
def _usage_before(usage, scaled, i, N: tl.constexpr, NP: tl.constexpr, PAIRS: tl.constexpr):
    """Return the product of the usages of all slots that are less used than a slot, for each."""
    logs = tl.zeros((NP,), tl.float32)
    for begin in range(0, N, PAIRS):
        j = begin + tl.arange(0, PAIRS)
        other = tl.load(usage + j, mask=j < N, other=float("inf"))
        other = EPSILON + (1 - EPSILON) * other
        earlier = (other[None, :] < scaled[:, None]) | (
            (other[None, :] == scaled[:, None]) & (j[None, :] < i[:, None])
        )
        logs += tl.sum(tl.where(earlier, tl.log(other)[None, :], 0.0), axis=1)
    return tl.exp(logs)


@triton.jit
def write_forward(
    xi_ptr, memory0_ptr, usage0_ptr, written0_ptr, read0_ptr, precedence0_ptr,
    memory_ptr, usage_ptr, written_ptr, precedence_ptr, before_ptr, found_ptr, content_ptr,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, X: tl.constexpr,
    NP: tl.constexpr, WP: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Usage, allocation, write and precedence; then the content part of the reads."""
    row = tl.program_id(0)
    xi = xi_ptr + row * X
    i, k = tl.arange(0, NP), tl.arange(0, WP)
    there, inside = i < N, k < W
    slots, words = row * N + i, row * N * W + i[:, None] * W + k[None, :]
    both = there[:, None] & inside[None, :]
    kept = _retention(xi, read0_ptr + row * R * N, i, there, N, W, R, NP)
    usage0 = tl.load(usage0_ptr + slots, mask=there, other=0.0)
    written0 = tl.load(written0_ptr + slots, mask=there, other=0.0)
    usage = (usage0 + written0 - usage0 * written0) * kept
    tl.store(usage_ptr + slots, usage, mask=there)
    tl.debug_barrier()

    memory = tl.load(memory0_ptr + words, mask=both, other=0.0)
    lengths = tl.sqrt(tl.sum(memory * memory, axis=1) + EPSILON)
    key = tl.load(xi + R * W + R + k, mask=inside, other=0.0)
    cosine, _ = _cosine(memory, lengths, key)
    found = _softmax((1 + _softplus(tl.load(xi + R * W + R + W))) * cosine, there)

    scaled = EPSILON + (1 - EPSILON) * usage
    before = _usage_before(usage_ptr + row * N, scaled, i, N, NP, PAIRS)
    allocate = tl.sigmoid(tl.load(xi + R * W + R + 3 * W + 1 + R))
    gate = tl.sigmoid(tl.load(xi + R * W + R + 3 * W + 1 + R + 1))
    written = gate * (allocate * (1 - scaled) * before + (1 - allocate) * found)
    written = tl.where(there, written, 0.0)
    tl.store(before_ptr + slots, before, mask=there)
    tl.store(found_ptr + slots, found, mask=there)
    tl.store(written_ptr + slots, written, mask=there)
    precedence0 = tl.load(precedence0_ptr + slots, mask=there, other=0.0)
    precedence = (1 - tl.sum(written, axis=0)) * precedence0 + written
    tl.store(precedence_ptr + slots, precedence, mask=there)

    erase = tl.sigmoid(tl.load(xi + R * W + R + W + 1 + k, mask=inside, other=0.0))
    vector = tl.load(xi + R * W + R + 2 * W + 1 + k, mask=inside, other=0.0)
    memory = memory * (1 - written[:, None] * erase[None, :]) + written[:, None] * vector[None, :]
    tl.store(memory_ptr + words, memory, mask=both)
    lengths = tl.sqrt(tl.sum(memory * memory, axis=1) + EPSILON)
    for r in range(R):
        key = tl.load(xi + r * W + k, mask=inside, other=0.0)
        cosine, _ = _cosine(memory, lengths, key)
        content = _softmax((1 + _softplus(tl.load(xi + R * W + r))) * cosine, there)
        tl.store(content_ptr + row * R * N + r * N + i, content, mask=there)


@triton.jit
def read_forward(
    xi_ptr, memory_ptr, written_ptr, content_ptr, ahead_ptr, parts_ptr, birth0_ptr, last0_ptr,
    step_ptr, back_ptr, read_ptr, values_ptr, birth_ptr, last_ptr,
    values_stride, blocks,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, X: tl.constexpr,
    NP: tl.constexpr, WP: tl.constexpr,
):  # fmt: skip
    """Read weights, what is read, and which slots were touched."""
    row = tl.program_id(0)
    i, k = tl.arange(0, NP), tl.arange(0, WP)
    there, inside = i < N, k < W
    words = row * N * W + i[:, None] * W + k[None, :]
    memory = tl.load(memory_ptr + words, mask=there[:, None] & inside[None, :], other=0.0)
    highest = tl.zeros((NP,), tl.float32)
    for r in range(R):
        head = row * R * N + r * N + i
        back = tl.zeros((NP,), tl.float32)
        for block in range(blocks):
            part = (row * blocks + block) * R * N + r * N + i
            back += tl.load(parts_ptr + part, mask=there, other=0.0)
        tl.store(back_ptr + head, back, mask=there)
        content = tl.load(content_ptr + head, mask=there, other=0.0)
        ahead = tl.load(ahead_ptr + head, mask=there, other=0.0)
        m_back, m_content, m_ahead = _modes(xi_ptr + row * X, r, R, W)
        read = m_back * back + m_content * content + m_ahead * ahead
        tl.store(read_ptr + head, read, mask=there)
        values = tl.sum(read[:, None] * memory, axis=0)
        tl.store(values_ptr + row * values_stride + r * W + k, values, mask=inside)
        highest = tl.maximum(highest, read)
    slots, step = row * N + i, tl.load(step_ptr + row)
    written = tl.load(written_ptr + slots, mask=there, other=0.0) > WEIGHTY
    birth = tl.load(birth0_ptr + slots, mask=there, other=0)
    last = tl.load(last0_ptr + slots, mask=there, other=0)
    tl.store(birth_ptr + slots, tl.where(written, step, birth), mask=there)
    tl.store(last_ptr + slots, tl.where(written | (highest > WEIGHTY), step, last), mask=there)


@triton.jit
def read_backward(
    xi_ptr, memory_ptr, read_ptr, content_ptr, ahead_ptr, back_ptr,
    d_values_ptr, d_read_ptr, d_memory_ptr, d_xi_ptr, d_ahead_ptr, d_back_ptr, values_stride,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, X: tl.constexpr,
    NP: tl.constexpr, WP: tl.constexpr,
):  # fmt: skip
    """Take `read_forward` and the content part back; `d_memory` changes in place."""
    row = tl.program_id(0)
    xi, d_xi = xi_ptr + row * X, d_xi_ptr + row * X
    i, k = tl.arange(0, NP), tl.arange(0, WP)
    there, inside = i < N, k < W
    words = row * N * W + i[:, None] * W + k[None, :]
    both = there[:, None] & inside[None, :]
    memory = tl.load(memory_ptr + words, mask=both, other=0.0)
    lengths = tl.sqrt(tl.sum(memory * memory, axis=1) + EPSILON)
    d_memory = tl.load(d_memory_ptr + words, mask=both, other=0.0)
    for r in range(R):
        head = row * R * N + r * N + i
        read = tl.load(read_ptr + head, mask=there, other=0.0)
        content = tl.load(content_ptr + head, mask=there, other=0.0)
        ahead = tl.load(ahead_ptr + head, mask=there, other=0.0)
        back = tl.load(back_ptr + head, mask=there, other=0.0)
        d_values = tl.load(d_values_ptr + row * values_stride + r * W + k, mask=inside, other=0.0)
        d_read = tl.load(d_read_ptr + head, mask=there, other=0.0)
        d_read += tl.sum(memory * d_values[None, :], axis=1)
        d_memory += read[:, None] * d_values[None, :]
        m_back, m_content, m_ahead = _modes(xi, r, R, W)
        d_back = tl.sum(d_read * back, axis=0)
        d_content = tl.sum(d_read * content, axis=0)
        d_ahead = tl.sum(d_read * ahead, axis=0)
        mean = m_back * d_back + m_content * d_content + m_ahead * d_ahead
        modes = d_xi + R * W + R + 3 * W + 1 + R + 2 + 3 * r
        tl.store(modes, m_back * (d_back - mean))
        tl.store(modes + 1, m_content * (d_content - mean))
        tl.store(modes + 2, m_ahead * (d_ahead - mean))
        tl.store(d_back_ptr + head, m_back * d_read, mask=there)
        tl.store(d_ahead_ptr + head, m_ahead * d_read, mask=there)
        key = tl.load(xi + r * W + k, mask=inside, other=0.0)
        raw = tl.load(xi + R * W + r)
        d_key, d_strength, d_product, d_own = _content_backward(
            memory, lengths, key, 1 + _softplus(raw), content, m_content * d_read
        )
        d_memory += d_product[:, None] * key[None, :] + d_own[:, None] * memory
        tl.store(d_xi + r * W + k, d_key, mask=inside)
        tl.store(d_xi + R * W + r, d_strength * tl.sigmoid(raw))
    tl.store(d_memory_ptr + words, d_memory, mask=both)


@triton.jit
def _column(
    parts_ptr, row, blocks, which, i, there, N: tl.constexpr, R: tl.constexpr, NP: tl.constexpr
):
    """Return a sum over columns, from its parts."""
    total = tl.zeros((NP,), tl.float32)
    for block in range(blocks):
        part = ((row * blocks + block) * (R + 2) + which) * N + i
        total += tl.load(parts_ptr + part, mask=there, other=0.0)
    return total


@triton.jit
def _sum_after(usage, sent, scaled, i, N: tl.constexpr, NP: tl.constexpr, PAIRS: tl.constexpr):
    """Return the sum of what is sent by all slots that are more used than a slot, for each."""
    later = tl.zeros((NP,), tl.float32)
    for begin in range(0, N, PAIRS):
        j = begin + tl.arange(0, PAIRS)
        other = tl.load(usage + j, mask=j < N, other=-1.0)
        other = EPSILON + (1 - EPSILON) * other
        after = (other[None, :] > scaled[:, None]) | (
            (other[None, :] == scaled[:, None]) & (j[None, :] > i[:, None])
        )
        arrived = tl.load(sent + j, mask=j < N, other=0.0)
        later += tl.sum(tl.where(after, arrived[None, :], 0.0), axis=1)
    return later


@triton.jit
def _heads_backward(
    xi, d_xi, read0_ptr, d_head_ptr, parts_ptr, d_read_ptr, d_kept, row, blocks, i, there,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, NP: tl.constexpr,
):  # fmt: skip
    """Take `_retention` back: the free gates, and the reads of the step before."""
    for r in tl.static_range(R):
        head = row * R * N + r * N + i
        others = tl.full((NP,), 1.0, tl.float32)
        for s in tl.static_range(R):
            if s != r:
                free = tl.sigmoid(tl.load(xi + R * W + R + 3 * W + 1 + s))
                read = tl.load(read0_ptr + row * R * N + s * N + i, mask=there, other=0.0)
                others *= 1 - free * read
        free = tl.sigmoid(tl.load(xi + R * W + R + 3 * W + 1 + r))
        read = tl.load(read0_ptr + head, mask=there, other=0.0)
        d_free = -tl.sum(tl.where(there, d_kept * others * read, 0.0), axis=0)
        tl.store(d_xi + R * W + R + 3 * W + 1 + r, d_free * free * (1 - free))
        d_read = tl.load(d_head_ptr + head, mask=there, other=0.0) - d_kept * others * free
        d_read += _column(parts_ptr, row, blocks, 2 + r, i, there, N, R, NP)
        tl.store(d_read_ptr + head, d_read, mask=there)


@triton.jit
def _written_backward(
    xi, d_xi, memory, d_memory, written, d_written, k, inside, W: tl.constexpr, R: tl.constexpr
):
    """Take the write back: erase and write vector; return gradients of the weights and memory."""
    erase = tl.sigmoid(tl.load(xi + R * W + R + W + 1 + k, mask=inside, other=0.0))
    vector = tl.load(xi + R * W + R + 2 * W + 1 + k, mask=inside, other=0.0)
    d_written += tl.sum(d_memory * (vector[None, :] - memory * erase[None, :]), axis=1)
    d_erase = -tl.sum(d_memory * memory * written[:, None], axis=0)
    tl.store(d_xi + R * W + R + W + 1 + k, d_erase * erase * (1 - erase), mask=inside)
    d_vector = tl.sum(d_memory * written[:, None], axis=0)
    tl.store(d_xi + R * W + R + 2 * W + 1 + k, d_vector, mask=inside)
    return d_written, d_memory * (1 - written[:, None] * erase[None, :])


@triton.jit
def _gates_backward(xi, d_xi, allocated, found, d_written, W: tl.constexpr, R: tl.constexpr):
    """Take the mixture of allocation and content back; return gradients of the two."""
    gates = R * W + R + 3 * W + 1 + R
    allocate, gate = tl.sigmoid(tl.load(xi + gates)), tl.sigmoid(tl.load(xi + gates + 1))
    d_gate = tl.sum(d_written * (allocate * allocated + (1 - allocate) * found), axis=0)
    d_mixed = gate * d_written
    d_allocate = tl.sum(d_mixed * (allocated - found), axis=0)
    tl.store(d_xi + gates, d_allocate * allocate * (1 - allocate))
    tl.store(d_xi + gates + 1, d_gate * gate * (1 - gate))
    return allocate * d_mixed, (1 - allocate) * d_mixed


@triton.jit
def _key_backward(
    xi, d_xi, memory, d_memory, found, d_found, k, inside, W: tl.constexpr, R: tl.constexpr
):
    """Take the content weights of the write back: key and strength; return that of the memory."""
    key = tl.load(xi + R * W + R + k, mask=inside, other=0.0)
    raw = tl.load(xi + R * W + R + W)
    lengths = tl.sqrt(tl.sum(memory * memory, axis=1) + EPSILON)
    d_key, d_strength, d_product, d_own = _content_backward(
        memory, lengths, key, 1 + _softplus(raw), found, d_found
    )
    tl.store(d_xi + R * W + R + k, d_key, mask=inside)
    tl.store(d_xi + R * W + R + W, d_strength * tl.sigmoid(raw))
    return d_memory + d_product[:, None] * key[None, :] + d_own[:, None] * memory


@triton.jit
def write_backward(
    xi_ptr, memory0_ptr, usage0_ptr, written0_ptr, read0_ptr, precedence0_ptr,
    usage_ptr, written_ptr, before_ptr, found_ptr, d_row_ptr, d_head_ptr, parts_ptr,
    d_memory_ptr, d_usage_ptr, d_written_ptr, d_read_ptr, d_precedence_ptr, d_xi_ptr, scratch_ptr,
    blocks, N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, X: tl.constexpr,
    NP: tl.constexpr, WP: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Take `write_forward` back, the content part left out.

    `d_memory`, `d_usage`, `d_written`, `d_precedence` and `d_read` change in place, from those of
    the state after the step to those of the state before it.
    """
    row = tl.program_id(0)
    xi, d_xi = xi_ptr + row * X, d_xi_ptr + row * X
    i, k = tl.arange(0, NP), tl.arange(0, WP)
    there, inside = i < N, k < W
    slots, words = row * N + i, row * N * W + i[:, None] * W + k[None, :]
    both = there[:, None] & inside[None, :]
    written = tl.load(written_ptr + slots, mask=there, other=0.0)
    precedence0 = tl.load(precedence0_ptr + slots, mask=there, other=0.0)
    d_precedence = tl.load(d_precedence_ptr + slots, mask=there, other=0.0)
    d_written = tl.load(d_written_ptr + slots, mask=there, other=0.0)
    d_written += tl.load(d_row_ptr + slots, mask=there, other=0.0)
    d_written += _column(parts_ptr, row, blocks, 0, i, there, N, R, NP)
    d_written += d_precedence - tl.sum(d_precedence * precedence0, axis=0)
    d_precedence = (1 - tl.sum(written, axis=0)) * d_precedence
    d_precedence += _column(parts_ptr, row, blocks, 1, i, there, N, R, NP)
    tl.store(d_precedence_ptr + slots, d_precedence, mask=there)

    memory = tl.load(memory0_ptr + words, mask=both, other=0.0)
    d_memory = tl.load(d_memory_ptr + words, mask=both, other=0.0)
    d_written, d_memory = _written_backward(
        xi, d_xi, memory, d_memory, written, d_written, k, inside, W, R
    )

    usage = tl.load(usage_ptr + slots, mask=there, other=1.0)
    scaled = EPSILON + (1 - EPSILON) * usage
    before = tl.load(before_ptr + slots, mask=there, other=0.0)
    found = tl.load(found_ptr + slots, mask=there, other=0.0)
    allocated, d_written = (1 - scaled) * before, tl.where(there, d_written, 0.0)
    d_allocated, d_found = _gates_backward(xi, d_xi, allocated, found, d_written, W, R)
    d_memory = _key_backward(xi, d_xi, memory, d_memory, found, d_found, k, inside, W, R)
    tl.store(d_memory_ptr + words, d_memory, mask=both)

    tl.store(scratch_ptr + slots, d_allocated * allocated, mask=there)
    tl.debug_barrier()
    later = _sum_after(usage_ptr + row * N, scratch_ptr + row * N, scaled, i, N, NP, PAIRS)
    d_scaled = later / scaled - d_allocated * before
    d_usage = tl.load(d_usage_ptr + slots, mask=there, other=0.0) + (1 - EPSILON) * d_scaled

    usage0 = tl.load(usage0_ptr + slots, mask=there, other=0.0)
    written0 = tl.load(written0_ptr + slots, mask=there, other=0.0)
    kept = _retention(xi, read0_ptr + row * R * N, i, there, N, W, R, NP)
    tl.store(d_usage_ptr + slots, d_usage * (1 - written0) * kept, mask=there)
    tl.store(d_written_ptr + slots, d_usage * (1 - usage0) * kept, mask=there)
    d_kept = d_usage * (usage0 + written0 - usage0 * written0)
    _heads_backward(
        xi, d_xi, read0_ptr, d_head_ptr, parts_ptr, d_read_ptr, d_kept, row, blocks, i, there,
        N, W, R, NP,
    )  # fmt: skip
