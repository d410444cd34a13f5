"""Kernels of `dnc_fused.py`: an LSTM between its products, forward and backward, in Triton.

One program takes a row of the batch. Names: `d_` before a name is the gradient of it.
"""

import triton
import triton.language as tl


@triton.jit
def lstm_forward(
    gates_ptr, cell0_ptr, cell_ptr, hidden_ptr, hidden_stride, H: tl.constexpr, HP: tl.constexpr
):
    """Squash the gates in place; new cell and hidden state."""
    row, h = tl.program_id(0), tl.arange(0, HP)
    inside, gates = h < H, gates_ptr + row * 4 * H + h
    enter = tl.sigmoid(tl.load(gates, mask=inside, other=0.0))
    keep = tl.sigmoid(tl.load(gates + H, mask=inside, other=0.0))
    new = 2 * tl.sigmoid(2 * tl.load(gates + 2 * H, mask=inside, other=0.0)) - 1
    show = tl.sigmoid(tl.load(gates + 3 * H, mask=inside, other=0.0))
    cell = keep * tl.load(cell0_ptr + row * H + h, mask=inside, other=0.0) + enter * new
    tl.store(gates, enter, mask=inside)
    tl.store(gates + H, keep, mask=inside)
    tl.store(gates + 2 * H, new, mask=inside)
    tl.store(gates + 3 * H, show, mask=inside)
    tl.store(cell_ptr + row * H + h, cell, mask=inside)
    hidden = show * (2 * tl.sigmoid(2 * cell) - 1)
    tl.store(hidden_ptr + row * hidden_stride + h, hidden, mask=inside)


@triton.jit
def lstm_backward(
    gates_ptr, cell0_ptr, cell_ptr, d_hidden_ptr, d_cell_ptr, d_gates_ptr,
    H: tl.constexpr, HP: tl.constexpr,
):  # fmt: skip
    """Take `lstm_forward` back; `d_cell` changes in place."""
    row, h = tl.program_id(0), tl.arange(0, HP)
    inside, gates = h < H, gates_ptr + row * 4 * H + h
    enter = tl.load(gates, mask=inside, other=0.0)
    keep = tl.load(gates + H, mask=inside, other=0.0)
    new = tl.load(gates + 2 * H, mask=inside, other=0.0)
    show = tl.load(gates + 3 * H, mask=inside, other=0.0)
    cell0 = tl.load(cell0_ptr + row * H + h, mask=inside, other=0.0)
    shown = 2 * tl.sigmoid(2 * tl.load(cell_ptr + row * H + h, mask=inside, other=0.0)) - 1
    d_hidden = tl.load(d_hidden_ptr + row * H + h, mask=inside, other=0.0)
    d_cell = tl.load(d_cell_ptr + row * H + h, mask=inside, other=0.0)
    d_cell += d_hidden * show * (1 - shown * shown)
    d_gates = d_gates_ptr + row * 4 * H + h
    tl.store(d_gates, d_cell * new * enter * (1 - enter), mask=inside)
    tl.store(d_gates + H, d_cell * cell0 * keep * (1 - keep), mask=inside)
    tl.store(d_gates + 2 * H, d_cell * enter * (1 - new * new), mask=inside)
    tl.store(d_gates + 3 * H, d_hidden * shown * show * (1 - show), mask=inside)
    tl.store(d_cell_ptr + row * H + h, d_cell * keep, mask=inside)
