"""The paper's DNC in a few kernels a step, forward and backward: `dnc.py` again, for a GPU.

It takes whole chunks: what items alone give is multiplied at once, each step is two products and
four kernels (`dnc_kernels.py`, `link_kernels.py`, `lstm_kernels.py`), and the gradients of the
weights are taken for all steps together.
It is the exact DNC with one write head, no switch and the LSTM of its own; `fits` says so. Values
and gradients are those of `dnc.py` but for rounding. Of the host it asks nothing, so that `Graphed`
takes it:

    fast = Graphed(dnc, 32, take=FusedDNC(dnc).take, compiled=False)

Letters as in `dnc.py`, and X numbers of the interface vector, Z = R W + H what is fed back, C steps
of a chunk, N' rows of a block of the link.
"""

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from stillknows.memory.dnc import DNC, DNCState
from stillknows.memory.gpu import dnc_kernels as kernels
from stillknows.memory.gpu import link_kernels, lstm_kernels
from stillknows.memory.links import ExactLink, ExactState
from stillknows.memory.recurrent import LSTMController, LSTMState

_NUMBERS = 8192  # of a link that one program takes at once
_MEMORY = 1 << 15  # numbers of a memory that one program holds at most


class FusedDNC:
    """Takes items as a DNC does, with its weights.

    Args:
        dnc: on a GPU; it stays as it is.

    Raises:
        ValueError: if this DNC is another than the kernels know.
    """

    def __init__(self, dnc: DNC) -> None:
        if not fits(dnc):
            raise ValueError(
                "The kernels know the DNC with one write head, an exact link, no switch, the LSTM "
                f"of its own and up to {_MEMORY} numbers a memory: take this one step by step."
            )
        self.dnc = dnc

    def take(self, state: DNCState, items_BTI: Tensor) -> tuple[DNCState, Tensor]:
        """Take T items; return the state after the last and every output, `[B, T, W]`.

        It is `dnc.outputs` without a policy.
        """
        dnc, cell = self.dnc, self.dnc.controller.cell
        parts = (
            *(state.memory_BNW, state.usage_BN, state.write_weights_BJN[:, 0]),
            *(state.read_weights_BRN, state.link.precedence_BJN[:, 0]),
            *(state.link.link_BJNN[:, 0], state.controller.cell_BH),
            *(state.reads_BRW.flatten(1), state.controller.hidden_BH),
        )
        counted = state.birth_BN, state.last_read_BN, state.step_B
        weights = (
            *(cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh),
            *(dnc.interface.weight, dnc.interface.bias),
        )
        batch, steps, size = items_BTI.shape
        sizes = Sizes(
            batch, steps, size, dnc.slots, dnc.word_size, dnc.read_heads, cell.hidden_size
        )
        fed_TBZ, *after = _Chunk.apply(sizes, items_BTI, *parts, *weights, *counted)
        reads_TBV, hidden_TBH = torch.split(fed_TBZ, [sizes.read_size, sizes.hidden], dim=2)
        outputs_TBW = dnc.output(hidden_TBH) + dnc.read_output(reads_TBV)
        memory, usage, written, read, precedence, link, cell_BH, *counts = after
        birth, last, step, left, added = counts
        return (
            DNCState(
                memory_BNW=memory,
                usage_BN=usage,
                link=ExactState(link[:, None], precedence[:, None]),
                write_weights_BJN=written[:, None],
                read_weights_BRN=read,
                reads_BRW=reads_TBV[-1].view(-1, dnc.read_heads, dnc.word_size),
                controller=LSTMState(hidden_TBH[-1], cell_BH),
                birth_BN=birth,
                last_read_BN=last,
                uses_BN=state.uses_BN * left + added,
                step_B=step,
                key_B=state.key_B,
            ),
            outputs_TBW.transpose(0, 1),
        )


def fits(dnc: DNC) -> bool:
    """Return whether a DNC is one that the kernels know."""
    own = type(dnc.link) is ExactLink and type(dnc.controller) is LSTMController
    small = math.prod(map(triton.next_power_of_2, (dnc.slots, dnc.word_size))) <= _MEMORY
    plain = dnc.write_heads == 1 and not (dnc.masked or dnc.deallocate or dnc.sharp)
    return own and small and plain and dnc.output.weight.dtype == torch.float32


class Sizes(NamedTuple):
    """B, T, I, N, W, R and H of a chunk."""

    batch: int
    steps: int
    items: int
    slots: int
    word: int
    heads: int
    hidden: int

    @property
    def read_size(self) -> int:
        """Numbers that are read in a step."""
        return self.heads * self.word

    @property
    def asked(self) -> int:
        """Numbers of the interface vector, X."""
        return self.heads * (self.word + 5) + 3 * self.word + 3

    @property
    def rows(self) -> int:
        """Rows of the link in a block."""
        return max(1, min(64, _NUMBERS // self.padded[0]))

    @property
    def blocks(self) -> int:
        """Blocks of the link."""
        return triton.cdiv(self.slots, self.rows)  # type: ignore[no-any-return]

    @property
    def padded(self) -> tuple[int, int]:
        """N and W as powers of two."""
        return triton.next_power_of_2(self.slots), triton.next_power_of_2(self.word)

    @property
    def of_link(self) -> dict[str, int]:
        """What the kernels of the link are compiled for."""
        own = {"N": self.slots, "R": self.heads, "NP": self.padded[0], "ROWS": self.rows}
        return {**own, "num_warps": 4}

    @property
    def of_row(self) -> dict[str, int]:
        """What the kernels of a row of the batch are compiled for."""
        slots, word = self.padded
        own = {"N": self.slots, "W": self.word, "R": self.heads, "X": self.asked}
        return {**own, "NP": slots, "WP": word, "num_warps": 4 if self.few else 8}

    @property
    def of_write(self) -> dict[str, int]:
        """What the kernel of a write is compiled for."""
        return {**self.of_row, "PAIRS": 16, "num_warps": 4 if self.few else 16}

    @property
    def few(self) -> bool:
        """Whether a memory is small."""
        return math.prod(self.padded) <= 4096

    @property
    def of_cell(self) -> dict[str, int]:
        """What the kernels of the LSTM are compiled for."""
        return {"H": self.hidden, "HP": triton.next_power_of_2(self.hidden)}


class _Kept(NamedTuple):
    """What a chunk keeps for its gradient; those of T + 1 begin with the state before it."""

    memory: Tensor  # [T + 1, B, N, W]
    usage: Tensor  # [T + 1, B, N]
    written: Tensor  # [T + 1, B, N]
    read: Tensor  # [T + 1, B, R, N]
    precedence: Tensor  # [T + 1, B, N]
    link: Tensor  # [T + 1, B, N, N]
    cell: Tensor  # [T + 1, B, H]
    fed: Tensor  # [T + 1, B, Z]
    gates: Tensor  # [T, B, 4 H]
    asked: Tensor  # [T, B, X]
    before: Tensor  # [T, B, N]
    found: Tensor  # [T, B, N]
    content: Tensor  # [T, B, R, N]
    ahead: Tensor  # [T, B, R, N]
    back: Tensor  # [T, B, R, N]


def _room(sizes: Sizes, parts: tuple[Tensor, ...], gates_TBG: Tensor) -> _Kept:
    """Return room for a chunk, with the state before it in its place."""
    batch, steps, _, slots, _, heads, _ = sizes
    kept = [gates_TBG.new_empty(steps + 1, *part.shape) for part in parts]
    for room, part in zip(kept, parts, strict=True):
        room[0] = part
    plain, by_head = (steps, batch, slots), (steps, batch, heads, slots)
    shapes = (steps, batch, sizes.asked), plain, plain, by_head, by_head, by_head
    return _Kept._make([*kept, gates_TBG, *(gates_TBG.new_empty(shape) for shape in shapes)])


class _Chunk(torch.autograd.Function):
    """T steps: what is fed back after each, and the state after the last."""

    @staticmethod
    def forward(ctx: Any, sizes: Sizes, items_BTI: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        parts, weights, counts = tensors[:9], tensors[9:15], tensors[15:]
        input_GI, hidden_GH, input_bias, hidden_bias, asked_XH, asked_bias = weights
        fed_GV = input_GI[:, sizes.items :]
        fed_GZ = torch.cat([fed_GV, hidden_GH], dim=1)
        item_GI = input_GI[:, : sizes.items]
        items_TBI = items_BTI.transpose(0, 1).contiguous()
        gates_TBG = items_TBI @ item_GI.T + (input_bias + hidden_bias)
        *state, reads_BV, hidden_BH = parts
        fed_BZ = torch.cat([reads_BV, hidden_BH], dim=1)
        kept = _room(sizes, (*state, fed_BZ), gates_TBG)
        parts_BPRN = fed_BZ.new_empty(sizes.batch, sizes.blocks, sizes.heads, sizes.slots)
        birth_BN, last_BN, step_B = (count.clone() for count in counts)
        for t in range(sizes.steps):
            gates_TBG[t].addmm_(kept.fed[t], fed_GZ.T)
            hidden_BH = kept.fed[t + 1][:, sizes.read_size :]
            _grow(sizes, kept, t, hidden_BH)
            torch.addmm(asked_bias, hidden_BH, asked_XH.T, out=kept.asked[t])
            _step(sizes, kept, t, parts_BPRN, (birth_BN, last_BN, step_B))
            step_B += 1
        ctx.sizes, ctx.kept = sizes, kept
        ctx.save_for_backward(items_TBI, item_GI, fed_GZ, asked_XH)
        counts = birth_BN, last_BN, step_B, *_uses(kept)
        ctx.mark_non_differentiable(*counts)
        last = [part[-1].clone() for part in kept[:7]]
        return kept.fed[1:].clone(), *last, *counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_fed_TBZ: Tensor, *d_after: Tensor) -> tuple[Tensor | None, ...]:
        sizes, kept = ctx.sizes, ctx.kept
        items_TBI, item_GI, fed_GZ, asked_XH = ctx.saved_tensors
        carried = [part.clone(memory_format=torch.contiguous_format) for part in d_after[:7]]
        d_cell_BH, d_gates_TBG = carried[6], torch.empty_like(kept.gates)
        d_asked_TBX, pieces = torch.empty_like(kept.asked), _pieces(sizes, d_fed_TBZ)
        d_fed_BZ = d_fed_TBZ[-1]
        for t in reversed(range(sizes.steps)):
            _step_back(sizes, kept, t, d_fed_BZ, carried, d_asked_TBX[t], pieces)
            d_hidden_BH = torch.addmm(d_fed_BZ[:, sizes.read_size :], d_asked_TBX[t], asked_XH)
            lstm_kernels.lstm_backward[(sizes.batch,)](
                *(kept.gates[t], kept.cell[t], kept.cell[t + 1], d_hidden_BH, d_cell_BH),
                d_gates_TBG[t],
                **sizes.of_cell,
            )
            above = d_fed_TBZ[t - 1] if t else torch.zeros_like(d_fed_BZ)
            d_fed_BZ = torch.addmm(above, d_gates_TBG[t], fed_GZ)
        d_gates_SG, d_asked_SX = d_gates_TBG.flatten(0, 1), d_asked_TBX.flatten(0, 1)
        d_fed_GZ = d_gates_SG.T @ kept.fed[:-1].flatten(0, 1)
        d_item_GI = d_gates_SG.T @ items_TBI.flatten(0, 1)
        d_fed_GV, d_hidden_GH = torch.split(d_fed_GZ, [sizes.read_size, sizes.hidden], dim=1)
        d_bias = d_gates_SG.sum(dim=0)
        d_asked_XH = d_asked_SX.T @ kept.fed[1:, :, sizes.read_size :].flatten(0, 1)
        d_reads_BV, d_hidden_BH = torch.split(d_fed_BZ, [sizes.read_size, sizes.hidden], dim=1)
        d_items_BTI = (d_gates_TBG @ item_GI).transpose(0, 1)
        d_weights = (torch.cat([d_item_GI, d_fed_GV], dim=1), d_hidden_GH, d_bias, d_bias.clone())
        d_asked = d_asked_XH, d_asked_SX.sum(dim=0)
        d_state = *carried, d_reads_BV, d_hidden_BH
        return None, d_items_BTI, *d_state, *d_weights, *d_asked, None, None, None


def _uses(kept: _Kept) -> tuple[Tensor, Tensor]:
    """Return what share of `uses_BN` the writes of a chunk leave, and what its reads add."""
    left_TBN = (1 - kept.written[1:]).flip(0).cumprod(dim=0).flip(0)  # by a write and all later
    later_TBN = torch.cat([left_TBN[1:], torch.ones_like(left_TBN[:1])])
    return left_TBN[0].clone(), (kept.read[1:].sum(dim=2) * later_TBN).sum(dim=0)


def _grow(sizes: Sizes, kept: _Kept, t: int, hidden_BH: Tensor) -> None:
    """Take a step of the LSTM."""
    lstm_kernels.lstm_forward[(sizes.batch,)](
        kept.gates[t],
        kept.cell[t],
        kept.cell[t + 1],
        hidden_BH,
        hidden_BH.stride(0),
        **sizes.of_cell,
    )


def _step(
    sizes: Sizes, kept: _Kept, t: int, parts_BPRN: Tensor, counts: tuple[Tensor, ...]
) -> None:
    """Write, link and read; counts change in place."""
    birth_BN, last_BN, step_B = counts
    kernels.write_forward[(sizes.batch,)](
        *(kept.asked[t], kept.memory[t], kept.usage[t], kept.written[t], kept.read[t]),
        *(kept.precedence[t], kept.memory[t + 1], kept.usage[t + 1], kept.written[t + 1]),
        *(kept.precedence[t + 1], kept.before[t], kept.found[t], kept.content[t]),
        **sizes.of_write,
    )
    link_kernels.link_forward[(sizes.blocks, sizes.batch)](
        *(kept.link[t], kept.precedence[t], kept.written[t + 1], kept.read[t]),
        *(kept.link[t + 1], kept.ahead[t], parts_BPRN),
        **sizes.of_link,
    )
    kernels.read_forward[(sizes.batch,)](
        *(kept.asked[t], kept.memory[t + 1], kept.written[t + 1], kept.content[t]),
        *(kept.ahead[t], parts_BPRN, birth_BN, last_BN, step_B, kept.back[t]),
        *(kept.read[t + 1], kept.fed[t + 1], birth_BN, last_BN),
        *(kept.fed.stride(1), sizes.blocks),
        **sizes.of_row,
    )


def _pieces(sizes: Sizes, like: Tensor) -> dict[str, Tensor]:
    """Return room for what goes between the kernels of a step."""
    batch, blocks, heads, slots = sizes.batch, sizes.blocks, sizes.heads, sizes.slots
    by_head, plain = (batch, heads, slots), (batch, slots)
    shapes = {"ahead": by_head, "back": by_head, "head": by_head, "row": plain, "scratch": plain}
    return {
        "parts": like.new_empty(batch, blocks, heads + 2, slots),
        **{name: like.new_empty(shape) for name, shape in shapes.items()},
    }


def _step_back(
    sizes: Sizes,
    kept: _Kept,
    t: int,
    d_fed_BZ: Tensor,
    carried: list[Tensor],
    d_asked_BX: Tensor,
    pieces: dict[str, Tensor],
) -> None:
    """Take `_step` back; `carried`, gradients of the state, changes in place."""
    d_memory, d_usage, d_written, d_read, d_precedence, d_link, _ = carried
    kernels.read_backward[(sizes.batch,)](
        *(kept.asked[t], kept.memory[t + 1], kept.read[t + 1], kept.content[t]),
        *(kept.ahead[t], kept.back[t], d_fed_BZ, d_read, d_memory, d_asked_BX),
        *(pieces["ahead"], pieces["back"], d_fed_BZ.stride(0)),
        **sizes.of_row,
    )
    link_kernels.link_backward[(sizes.blocks, sizes.batch)](
        *(kept.link[t], kept.link[t + 1], kept.precedence[t], kept.written[t + 1], kept.read[t]),
        *(pieces["ahead"], pieces["back"], d_link, pieces["row"], pieces["head"]),
        pieces["parts"],
        **sizes.of_link,
    )
    kernels.write_backward[(sizes.batch,)](
        *(kept.asked[t], kept.memory[t], kept.usage[t], kept.written[t], kept.read[t]),
        *(kept.precedence[t], kept.usage[t + 1], kept.written[t + 1], kept.before[t]),
        *(kept.found[t], pieces["row"], pieces["head"], pieces["parts"]),
        *(d_memory, d_usage, d_written, d_read, d_precedence, d_asked_BX, pieces["scratch"]),
        sizes.blocks,
        PAIRS=16,
        **sizes.of_row,
    )
