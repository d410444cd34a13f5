"""Kernels of `dnc_fused.py`: the temporal link of a DNC, forward and backward, in Triton.

A program takes a block of rows of one row's matrix. The equations are those of `links.ExactLink`.
Names: `d_` before a name is the gradient of it.

Letters: N slots, R read heads.
"""

import triton
import triton.language as tl


@triton.jit
def link_forward(
    link0_ptr, precedence0_ptr, written_ptr, read0_ptr, link_ptr, ahead_ptr, back_ptr,
    N: tl.constexpr, R: tl.constexpr, NP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Some rows of the link, `L w` for them, and their part of `L^T w`."""
    row, block = tl.program_id(1), tl.program_id(0)
    i, j = block * ROWS + tl.arange(0, ROWS), tl.arange(0, NP)
    both = (i < N)[:, None] & (j < N)[None, :]
    places = row.to(tl.int64) * N * N + i[:, None] * N + j[None, :]
    written_i = tl.load(written_ptr + row * N + i, mask=i < N, other=0.0)
    written_j = tl.load(written_ptr + row * N + j, mask=j < N, other=0.0)
    precedence = tl.load(precedence0_ptr + row * N + j, mask=j < N, other=0.0)
    link = tl.load(link0_ptr + places, mask=both, other=0.0)
    link = (1 - written_i[:, None] - written_j[None, :]) * link
    link += written_i[:, None] * precedence[None, :]
    link = tl.where(i[:, None] == j[None, :], 0.0, link)
    tl.store(link_ptr + places, link, mask=both)
    for r in range(R):
        head = row * R * N + r * N
        read_i = tl.load(read0_ptr + head + i, mask=i < N, other=0.0)
        read_j = tl.load(read0_ptr + head + j, mask=j < N, other=0.0)
        tl.store(ahead_ptr + head + i, tl.sum(link * read_j[None, :], axis=1), mask=i < N)
        part = (row * tl.num_programs(0) + block) * R * N + r * N
        tl.store(back_ptr + part + j, tl.sum(link * read_i[:, None], axis=0), mask=j < N)


@triton.jit
def link_backward(
    link0_ptr, link_ptr, precedence0_ptr, written_ptr, read0_ptr, d_ahead_ptr, d_back_ptr,
    d_link_ptr, d_written_ptr, d_read_ptr, parts_ptr,
    N: tl.constexpr, R: tl.constexpr, NP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Take `link_forward` back; `d_link` changes in place.

    What is summed over rows of the link is written whole, what is summed over columns in parts:
    of `d_written`, of `d_precedence`, and of `d_read` for each head.
    """
    row, block = tl.program_id(1), tl.program_id(0)
    i, j = block * ROWS + tl.arange(0, ROWS), tl.arange(0, NP)
    both = (i < N)[:, None] & (j < N)[None, :]
    places = row.to(tl.int64) * N * N + i[:, None] * N + j[None, :]
    written_i = tl.load(written_ptr + row * N + i, mask=i < N, other=0.0)
    written_j = tl.load(written_ptr + row * N + j, mask=j < N, other=0.0)
    precedence = tl.load(precedence0_ptr + row * N + j, mask=j < N, other=0.0)
    gradient = tl.load(d_link_ptr + places, mask=both, other=0.0)
    link = tl.load(link_ptr + places, mask=both, other=0.0)
    part = (row * tl.num_programs(0) + block) * (R + 2) * N
    for r in range(R):
        head = row * R * N + r * N
        read_i = tl.load(read0_ptr + head + i, mask=i < N, other=0.0)
        read_j = tl.load(read0_ptr + head + j, mask=j < N, other=0.0)
        d_ahead = tl.load(d_ahead_ptr + head + i, mask=i < N, other=0.0)
        d_back = tl.load(d_back_ptr + head + j, mask=j < N, other=0.0)
        gradient += d_ahead[:, None] * read_j[None, :] + read_i[:, None] * d_back[None, :]
        tl.store(d_read_ptr + head + i, tl.sum(link * d_back[None, :], axis=1), mask=i < N)
        column = tl.sum(link * d_ahead[:, None], axis=0)
        tl.store(parts_ptr + part + (2 + r) * N + j, column, mask=j < N)
    gradient = tl.where(both & (i[:, None] != j[None, :]), gradient, 0.0)
    link0 = tl.load(link0_ptr + places, mask=both, other=0.0)
    d_row = tl.sum(gradient * (precedence[None, :] - link0), axis=1)
    tl.store(d_written_ptr + row * N + i, d_row, mask=i < N)
    tl.store(parts_ptr + part + j, -tl.sum(gradient * link0, axis=0), mask=j < N)
    d_precedence = tl.sum(gradient * written_i[:, None], axis=0)
    tl.store(parts_ptr + part + N + j, d_precedence, mask=j < N)
    decay = 1 - written_i[:, None] - written_j[None, :]
    tl.store(d_link_ptr + places, gradient * decay, mask=both)
