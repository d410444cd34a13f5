"""The Neural Turing Machine, with several heads of either kind and its read feedback.

Graves, Wayne, Danihelka 2014, arXiv:1410.5401; equations by their numbers. One step is: the
controller sees the item and what was read before; the write heads address the memory as the step
before left it, and erase and add in their order (3, 4); the read heads address and read the memory
so written (2). Letters: B rows, I input size, H controller output, N slots, W word size, R read
heads, V write heads, G heads of one kind, S shifts.

A policy takes part in what the write heads do, not in where they point: P(skip) takes that share
from erase and add, P(update) + P(merge) moves that share to `slot_BN`. An add always finds room,
where the heads point, so a `victim_BN` has its say without one only: the share P(skip) of it is
wiped. With the policy None, or one that adds everything, it is the paper's NTM.

This file knows nothing of sentences, questions or tasks.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from stillknows.memory import addressing, expect
from stillknows.memory.interface import SKIP, Decision, Features, Policy, Read, decided, typed_as
from stillknows.memory.recurrent import (
    WEIGHTY,
    Recurrent,
    default_controller,
    directed,
)

_START = 1e-6  # every number of the constant initial memory
_FLOOR = 1e-16  # the least weight that is sharpened: log of it is finite


class Heads(NamedTuple):
    """How heads of one kind address the memory.

    Attributes:
        keys_BGW: `k_t`, `[B, G, W]`.
        strengths_BG: `beta_t`, above 0, `[B, G]`.
        gates_BG: `g_t`, in (0, 1), the share of what was found by content, `[B, G]`.
        shifts_BGS: `s_t`, a distribution over shifts by -(S-1)/2 to (S-1)/2 slots, `[B, G, S]`.
        sharpness_BG: `gamma_t`, at least 1, `[B, G]`.
    """

    keys_BGW: Tensor
    strengths_BG: Tensor
    gates_BG: Tensor
    shifts_BGS: Tensor
    sharpness_BG: Tensor


def shift(weights_BGN: Tensor, shifts_BGS: Tensor) -> Tensor:
    """Return `w~(i) = sum_j w(j) s((i - j) mod N)`, `[B, G, N]` (equation 8).

    Args:
        weights_BGN: a weighting for each head, `[B, G, N]`.
        shifts_BGS: how much of it moves by -(S-1)/2, .., 0, .., (S-1)/2 slots, `[B, G, S]`, S odd.
    """
    farthest = shifts_BGS.shape[2] // 2
    moved = [weights_BGN.roll(by, dims=2) for by in range(-farthest, farthest + 1)]
    return (torch.stack(moved, dim=3) * shifts_BGS[:, :, None]).sum(dim=3)


def sharpen(weights_BGN: Tensor, sharpness_BG: Tensor) -> Tensor:
    """Return `w(i)^gamma / sum_j w(j)^gamma`, `[B, G, N]` (equation 9).

    Computed as `softmax(gamma log w)` with w at least 1e-16, so that a weight of 0 has a finite
    gradient.
    """
    logs_BGN = weights_BGN.clamp(min=_FLOOR).log()
    return torch.softmax(sharpness_BG[..., None] * logs_BGN, dim=2)


def focus(memory_BNW: Tensor, before_BGN: Tensor, heads: Heads) -> Tensor:
    """Return where heads point: by content, interpolated, shifted, sharpened (equations 5 to 9).

    Args:
        memory_BNW: the memory that is addressed, `[B, N, W]`.
        before_BGN: where the same heads pointed a step ago, `[B, G, N]`.
        heads: what the controller asks of them.

    Returns:
        Weightings `[B, G, N]`, non-negative, each of sum 1.
    """
    found_BGN = addressing.content_weights(memory_BNW, heads.keys_BGW, heads.strengths_BG)  # w^c
    gates_BG1 = heads.gates_BG[..., None]
    mixed_BGN = gates_BG1 * found_BGN + (1 - gates_BG1) * before_BGN  # w^g
    return sharpen(shift(mixed_BGN, heads.shifts_BGS), heads.sharpness_BG)


class NTMState(NamedTuple):
    """The whole of an NTM: memory, where its heads point, and the controller's state.

    Attributes:
        memory_BNW: the contents, `[B, N, W]`.
        write_weights_BVN: where each write head pointed at the last step, `[B, V, N]`.
        read_weights_BRN: where each read head did, `[B, R, N]`.
        reads_BRW: what was read at the last step, `[B, R, W]`.
        controller: its own state.
        usage_BN: read weights summed; a write takes its share away, `[B, N]`.
        strength_BN: the share of a slot that was ever written, between 0 and 1, `[B, N]`.
        birth_BN: the step of the last weighty write, -1 for none, int64 `[B, N]`.
        last_read_BN: the step of the last weighty write or read, int64 `[B, N]`.
        step_B: items taken so far, int64 `[B]`.
        key_B: names the episode for the noise of random policies, int64 `[B]`.
    """

    memory_BNW: Tensor
    write_weights_BVN: Tensor
    read_weights_BRN: Tensor
    reads_BRW: Tensor
    controller: Any
    usage_BN: Tensor
    strength_BN: Tensor
    birth_BN: Tensor
    last_read_BN: Tensor
    step_B: Tensor
    key_B: Tensor


class NTM(Recurrent):
    """An NTM with any number of heads.

    As a working memory its reads are the R read vectors and, last, the output
    `y_t = W_y h_t + W_r [r^1; ..; r^R]` (R + 1 reads of W numbers).

    All heads start at the first slot: were memory and weightings both the same for every slot,
    they would stay so. The memory starts as 1e-6 everywhere, which converges better than a
    learned or a random start (Collier and Beel 2018, arXiv:1807.08518).

    Args:
        input_size: width of an item.
        slots: N.
        word_size: W.
        read_heads: R.
        write_heads: V.
        shifts: how many shifts a head chooses from, odd: 3 for -1, 0 and 1.
        learned_memory: whether the initial memory is learned, from the same start.
        hidden_size: of the controller, where none is given.
        feed_forward: whether that is one layer instead of an LSTM.
        controller: any controller; its input is the item and all reads, `input_size + R W`.
        think: blank items after a sequence, before its read.

    Raises:
        ValueError: if a size is less than 1 or `shifts` is even.
    """

    def __init__(
        self,
        input_size: int,
        slots: int,
        word_size: int,
        read_heads: int = 1,
        write_heads: int = 1,
        *,
        shifts: int = 3,
        learned_memory: bool = False,
        hidden_size: int = 128,
        feed_forward: bool = False,
        controller: Any = None,
        think: int = 0,
    ) -> None:
        super().__init__()
        _check(
            input_size=input_size,
            hidden_size=hidden_size,
            slots=slots,
            word_size=word_size,
            read_heads=read_heads,
            write_heads=write_heads,
            shifts=shifts,
        )
        self.input_size, self.slots, self.word_size = input_size, slots, word_size
        self.think = think
        self.read_heads, self.write_heads, self.reads = read_heads, write_heads, read_heads + 1
        seen = input_size + read_heads * word_size
        self.controller: Any = controller or default_controller(seen, hidden_size, feed_forward)
        self.sizes = (word_size, 1, 1, shifts, 1)  # of what one head asks for
        asked, hidden = sum(self.sizes), self.controller.output_size
        self.read_interface = nn.Linear(hidden, read_heads * asked)
        self.write_interface = nn.Linear(hidden, write_heads * (asked + 2 * word_size))
        self.output = nn.Linear(hidden, word_size, bias=False)
        self.read_output = nn.Linear(read_heads * word_size, word_size, bias=False)
        start_NW = torch.full((slots, word_size), _START)
        self.initial_memory = nn.Parameter(start_NW, requires_grad=learned_memory)

    def initial_state(
        self, batch: int, device: torch.device | str = "cpu", key_B: Tensor | None = None
    ) -> NTMState:
        """Return the memory before the first item; `key_B` (int64 `[B]`) names the episodes."""
        slots_BN = torch.zeros(batch, self.slots, device=device)
        first_BN = torch.zeros(batch, self.slots, device=device)
        first_BN[:, 0] = 1
        never_BN = torch.full((batch, self.slots), -1, device=device)
        count_B = torch.zeros(batch, dtype=torch.int64, device=device)
        state = NTMState(
            memory_BNW=self.initial_memory.to(device).repeat(batch, 1, 1),  # no view of what learns
            write_weights_BVN=first_BN[:, None].expand(-1, self.write_heads, -1),
            read_weights_BRN=first_BN[:, None].expand(-1, self.read_heads, -1),
            reads_BRW=torch.zeros(batch, self.read_heads, self.word_size, device=device),
            controller=self.controller.initial_state(batch, device),
            usage_BN=slots_BN,
            strength_BN=slots_BN,
            birth_BN=never_BN,
            last_read_BN=never_BN,
            step_B=count_B,
            key_B=count_B if key_B is None else key_B.to(device),
        )
        return typed_as(self, state)

    def step(
        self, state: NTMState, item_BI: Tensor, policy: Policy | None = None
    ) -> tuple[NTMState, Read]:
        """Take one item: control, write, read, in the order of the paper.

        Args:
            state: of the step before; it stays as it was.
            item_BI: `[B, input_size]`.
            policy: what it decides scales the writes; None for the paper's NTM.

        Returns:
            The new state, and the reads with their weights on all N slots (K = N).

        Raises:
            ValueError: if the item has another width, or there are more or fewer than rows.
        """
        self._check_item(state, item_BI)
        seen_BI = torch.cat([item_BI, state.reads_BRW.flatten(1)], dim=1)
        hidden_BH, controller = self.controller(seen_BI, state.controller)
        state = self._write(state._replace(controller=controller), hidden_BH, policy)
        state = self._read(state, hidden_BH)
        output_BW = self.output(hidden_BH) + self.read_output(state.reads_BRW.flatten(1))
        return state, self._as_read(state, output_BW)

    def _heads(self, vector_BX: Tensor, heads: int) -> tuple[Heads, Tensor]:
        """Split and squash what the controller asks of heads; return the rest as it is."""
        vector_BGX = vector_BX.view(len(vector_BX), heads, -1)
        rest = vector_BGX.shape[2] - sum(self.sizes)
        keys, strengths, gates, shifts, sharpness, rest_BGX = torch.split(
            vector_BGX, [*self.sizes, rest], dim=2
        )
        asked = Heads(
            keys_BGW=keys,
            strengths_BG=softplus(strengths[..., 0]),
            gates_BG=torch.sigmoid(gates[..., 0]),
            shifts_BGS=torch.softmax(shifts, dim=2),
            sharpness_BG=addressing.oneplus(sharpness[..., 0]),
        )
        return asked, rest_BGX

    def _write(self, state: NTMState, hidden_BH: Tensor, policy: Policy | None) -> NTMState:
        """Address the memory of the step before with all write heads; erase, then add."""
        heads, vectors_BVX = self._heads(self.write_interface(hidden_BH), self.write_heads)
        erase_BVW, add_BVW = vectors_BVX.chunk(2, dim=2)
        decision = None
        if policy is not None:
            candidate_BW = add_BVW.mean(dim=1)
            decision = decided(policy, self._features(state, candidate_BW, policy), soft=True)
        weights_BVN = focus(state.memory_BNW, state.write_weights_BVN, heads)
        memory_BNW = state.memory_BNW
        if decision is not None:
            memory_BNW = memory_BNW * (1 - _wiped(decision))[..., None]
        done_BVN = directed(weights_BVN, decision)
        memory_BNW = addressing.erase_and_write(
            memory_BNW, done_BVN, torch.sigmoid(erase_BVW), add_BVW
        )
        state = _note_writes(state, done_BVN.detach(), decision)
        return state._replace(memory_BNW=memory_BNW, write_weights_BVN=weights_BVN)

    def _read(self, state: NTMState, hidden_BH: Tensor) -> NTMState:
        """Address and read the memory, note which slots were read, and let the clock go on."""
        heads, _ = self._heads(self.read_interface(hidden_BH), self.read_heads)
        weights_BRN = focus(state.memory_BNW, state.read_weights_BRN, heads)
        seen_BRN = weights_BRN.detach()
        read_BN = seen_BRN.amax(dim=1) > WEIGHTY
        return state._replace(
            read_weights_BRN=weights_BRN,
            reads_BRW=weights_BRN @ state.memory_BNW,
            usage_BN=state.usage_BN + seen_BRN.sum(dim=1),
            last_read_BN=torch.where(read_BN, state.step_B[:, None], state.last_read_BN),
            step_B=state.step_B + 1,
        )

    def _features(self, state: NTMState, candidate_BW: Tensor, policy: Policy) -> Features:
        """Describe the slots to a policy; the candidate is the mean of what the heads would add."""
        return self._describe(state, candidate_BW, state.usage_BN, state.strength_BN, policy)


def _check(shifts: int, **sizes: int) -> None:
    """Raise a ValueError if a size is less than 1 or the number of shifts is even."""
    expect.whole(1, shifts=shifts, **sizes)
    if shifts % 2 == 0:
        raise ValueError(
            f"shifts={shifts}: as many go back as forth, so give an odd number, such as 3."
        )


def _wiped(decision: Decision) -> Tensor:
    """Return the share of each slot that leaves without an add, `[B, N]`."""
    return decision.action_B4[:, SKIP, None] * decision.victim_BN


def _note_writes(state: NTMState, done_BVN: Tensor, decision: Decision | None) -> NTMState:
    """Note which slots were wiped and written; what was read of them before counts less."""
    usage_BN, strength_BN, birth_BN = state.usage_BN, state.strength_BN, state.birth_BN
    if decision is not None:
        kept_BN = 1 - _wiped(decision).detach()
        usage_BN, strength_BN = usage_BN * kept_BN, strength_BN * kept_BN
        birth_BN = torch.where(kept_BN > WEIGHTY, birth_BN, -1)
    unwritten_BN = (1 - done_BVN).prod(dim=1)
    weighty_BN = unwritten_BN < 1 - WEIGHTY
    step_B1 = state.step_B[:, None]
    return state._replace(
        usage_BN=usage_BN * unwritten_BN,
        strength_BN=1 - (1 - strength_BN) * unwritten_BN,
        birth_BN=torch.where(weighty_BN, step_B1, birth_BN),
        last_read_BN=torch.where(weighty_BN, step_B1, state.last_read_BN),
    )
