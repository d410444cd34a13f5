"""The Differentiable Neural Computer, with its temporal links and its read feedback.

Graves et al. 2016, Nature 538:471, Methods. One step is: the controller sees the item and what was
read before; usage, allocation, write, link, precedence, read; in this order, so it writes before
it reads. Several write heads are allocated one after another, each with links of its own, and read
modes are backward (each write head), content, forward (each write head). Three switches are those
of Csordas and Schmidhuber 2019, arXiv:1904.10278: masked content, de-allocation, sharp links.

A policy takes part by multiplying gates: the write gate by 1 - P(skip), and the share of
P(update) + P(merge) moves the write from where the DNC would write to `slot_BN`; the usage of a
`victim_BN` falls before allocation. With the policy None it is the paper's DNC.

This file knows nothing of sentences, questions or tasks. Letters: B rows, I input size,
H controller output, N slots, W word size, J write heads, R read heads, P read modes (1 + 2 J).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stillknows.memory import addressing, expect
from stillknows.memory.interface import Decision, Features, Policy, Read, decided, typed_as
from stillknows.memory.links import ExactLink, Link
from stillknows.memory.recurrent import (
    WEIGHTY,
    Recurrent,
    default_controller,
    directed,
)


class DNCState(NamedTuple):
    """The whole of a DNC: memory, how it was used, and the controller's state.

    Attributes:
        memory_BNW: the contents, `[B, N, W]`.
        usage_BN: between 0 and 1, `[B, N]`.
        link: which slot was written after which, a state of the DNC's link.
        write_weights_BJN: of the last step, `[B, J, N]`.
        read_weights_BRN: of the last step, `[B, R, N]`.
        reads_BRW: what was read at the last step, `[B, R, W]`.
        controller: its own state.
        birth_BN: the step of the last weighty write, -1 for none, int64 `[B, N]`.
        last_read_BN: the step of the last weighty write or read, int64 `[B, N]`.
        uses_BN: read weights summed; a write takes its share away, `[B, N]`. Policies see it.
        step_B: items taken so far, int64 `[B]`.
        key_B: names the episode for the noise of random policies, int64 `[B]`.
    """

    memory_BNW: Tensor
    usage_BN: Tensor
    link: Any
    write_weights_BJN: Tensor
    read_weights_BRN: Tensor
    reads_BRW: Tensor
    controller: Any
    birth_BN: Tensor
    last_read_BN: Tensor
    uses_BN: Tensor
    step_B: Tensor
    key_B: Tensor


class Interface(NamedTuple):
    """The interface vector, parsed and squashed; None is what is switched off."""

    read_keys_BRW: Tensor
    read_strengths_BR: Tensor
    write_keys_BJW: Tensor
    write_strengths_BJ: Tensor
    erase_BJW: Tensor
    write_BJW: Tensor
    free_gates_BR: Tensor
    allocation_gates_BJ: Tensor
    write_gates_BJ: Tensor
    read_modes_BRP: Tensor
    read_masks_BRW: Tensor | None
    write_masks_BJW: Tensor | None
    sharpness_BRQ: Tensor | None


class DNC(Recurrent):
    """A Differentiable Neural Computer.

    As a working memory its reads are the R read vectors and, last, the output
    `y_t = W_y h_t + W_r [r^1; ..; r^R]` (R + 1 reads of W numbers).

    Args:
        input_size: width of an item.
        slots: N.
        word_size: W.
        read_heads: R.
        hidden_size: of the controller, where none is given.
        feed_forward: whether that is one layer instead of an LSTM.
        controller: any controller; its input is the item and all reads, `input_size + R W`.
        write_heads: J.
        link: one of `links.py`; None is the exact one.
        masked: content is compared under a mask of each head's own.
        least_mask: the lowest value of a mask; above 0 the mask of a new DNC learns sooner.
        deallocate: the contents of a slot fade as it is freed.
        sharp: each head sharpens what the links lead to.
        think: blank items after a sequence, before its read.
        normalised: whether the controller that is made here is layer-normalised.
        associative_start: whether a new DNC is near an associative memory: every item goes to a
            slot of its own and stays, and heads read by content, sharply, with the key that the
            item would be written as. The equations are the paper's; they begin elsewhere.
        query_writes: whether the query, the last item of a sequence, is written, and thinking too.

    Raises:
        ValueError: if a size is below 1 or the least mask is not in [0, 1).
    """

    def __init__(
        self,
        input_size: int,
        slots: int,
        word_size: int,
        read_heads: int,
        hidden_size: int = 128,
        controller: Any = None,
        *,
        feed_forward: bool = False,
        write_heads: int = 1,
        link: Link | None = None,
        masked: bool = False,
        least_mask: float = 0.0,
        deallocate: bool = False,
        sharp: bool = False,
        think: int = 0,
        normalised: bool = False,
        associative_start: bool = False,
        query_writes: bool = True,
    ) -> None:
        super().__init__()
        expect.whole(1, input_size=input_size, slots=slots)
        expect.whole(2 if normalised else 1, hidden_size=hidden_size)  # one alone is always 0 then
        expect.whole(1, word_size=word_size, read_heads=read_heads, write_heads=write_heads)
        expect.whole(0, think=think)
        if not 0 <= least_mask < 1:
            raise ValueError(f"least_mask={least_mask}: choose a value from 0 up to below 1.")
        self.input_size, self.slots, self.word_size = input_size, slots, word_size
        self.read_heads, self.write_heads, self.link = read_heads, write_heads, link or ExactLink()
        self.masked, self.least_mask, self.deallocate = masked, least_mask, deallocate
        self.reads, self.sharp, self.think = read_heads + 1, sharp, think
        self.query_writes = query_writes
        seen = input_size + read_heads * word_size
        self.controller: Any = controller or default_controller(
            seen, hidden_size, feed_forward, normalised
        )
        self.sizes = self._sizes()
        self.interface = nn.Linear(self.controller.output_size, sum(self.sizes))
        self.output = nn.Linear(self.controller.output_size, word_size, bias=False)
        self.read_output = nn.Linear(read_heads * word_size, word_size, bias=False)
        if associative_start:
            self._begin_associative()

    @torch.no_grad()
    def _begin_associative(self) -> None:
        """Let the interface write to new slots, and read by content with what would be written."""
        weight_XH, bias_X = self.interface.weight.detach(), self.interface.bias.detach()
        weights, biases = (torch.split(part, list(self.sizes)) for part in (weight_XH, bias_X))
        read_keys, strengths, _, _, _, write, free, allocate, gates, modes, *_ = range(len(biases))
        written_XH = weights[write].repeat(self.read_heads, 1)
        weights[read_keys].copy_(written_XH[: len(weights[read_keys])])
        for part in (read_keys, write):
            biases[part].zero_()
        biases[strengths].add_(4)
        for part, bias in ((free, -2), (allocate, 2), (gates, 2)):
            biases[part].add_(bias)
        biases[modes].view(self.read_heads, -1)[:, self.write_heads].add_(2)  # by content

    def initial_state(
        self, batch: int, device: torch.device | str = "cpu", key_B: Tensor | None = None
    ) -> DNCState:
        """Return an empty memory; `key_B` (int64 `[B]`) names the episodes."""
        slots_BN = torch.zeros(batch, self.slots, device=device)
        never_BN = torch.full((batch, self.slots), -1, device=device)
        count_B = torch.zeros(batch, dtype=torch.int64, device=device)
        state = DNCState(
            memory_BNW=torch.zeros(batch, self.slots, self.word_size, device=device),
            usage_BN=slots_BN,
            link=self.link.initial_state(batch, self.write_heads, self.slots, device),
            write_weights_BJN=torch.zeros(batch, self.write_heads, self.slots, device=device),
            read_weights_BRN=torch.zeros(batch, self.read_heads, self.slots, device=device),
            reads_BRW=torch.zeros(batch, self.read_heads, self.word_size, device=device),
            controller=self.controller.initial_state(batch, device),
            birth_BN=never_BN,
            last_read_BN=never_BN,
            uses_BN=slots_BN,
            step_B=count_B,
            key_B=count_B if key_B is None else key_B.to(device),
        )
        return typed_as(self, state)

    def step(
        self, state: DNCState, item_BI: Tensor, policy: Policy | None = None
    ) -> tuple[DNCState, Read]:
        """Take one item: control, write, read, in the order of the paper.

        Raises:
            ValueError: if the item has another width, or there are more or fewer than rows.
        """
        self._check_item(state, item_BI)
        seen_BI = torch.cat([item_BI, state.reads_BRW.flatten(1)], dim=1)  # chi_t
        hidden_BH, controller = self.controller(seen_BI, state.controller)
        interface = self._parse(self.interface(hidden_BH))
        decision = None
        if policy is not None:
            decision = decided(policy, self._features(state, interface, policy), soft=True)
        state = self._write(state._replace(controller=controller), interface, decision)
        state = self._read(state, interface)
        read_BW = self.read_output(state.reads_BRW.flatten(1))
        output_BW = self.output(hidden_BH) + read_BW  # y_t
        return self._count(state), self._as_read(state, output_BW)

    def _sizes(self) -> tuple[int, ...]:
        """Return how many numbers each part of the interface vector has."""
        reads, writes, word = self.read_heads, self.write_heads, self.word_size
        return (
            *(reads * word, reads, writes * word, writes, writes * word, writes * word),
            *(reads, writes, writes, reads * (1 + 2 * writes)),
            *((reads * word, writes * word) if self.masked else (0, 0)),
            reads * 2 * writes if self.sharp else 0,
        )

    def _parse(self, vector_BX: Tensor) -> Interface:
        """Split and squash the interface vector xi_t."""
        keys, strengths, write_keys, write_strengths, erase, write, free, *rest = torch.split(
            vector_BX, list(self.sizes), dim=1
        )
        allocate, gates, modes, read_masks, write_masks, sharpness = rest
        by_read, by_write = ((len(keys), n, -1) for n in (self.read_heads, self.write_heads))
        return Interface(
            read_keys_BRW=keys.view(by_read),
            read_strengths_BR=addressing.oneplus(strengths),
            write_keys_BJW=write_keys.view(by_write),
            write_strengths_BJ=addressing.oneplus(write_strengths),
            erase_BJW=torch.sigmoid(erase).view(by_write),
            write_BJW=write.view(by_write),
            free_gates_BR=torch.sigmoid(free),
            allocation_gates_BJ=torch.sigmoid(allocate),
            write_gates_BJ=torch.sigmoid(gates),
            read_modes_BRP=torch.softmax(modes.view(by_read), dim=-1),
            read_masks_BRW=self._mask(read_masks, by_read),
            write_masks_BJW=self._mask(write_masks, by_write),
            sharpness_BRQ=addressing.oneplus(sharpness).view(by_read) if self.sharp else None,
        )

    def _mask(self, numbers: Tensor, shape: tuple[int, int, int]) -> Tensor | None:
        if not self.masked:
            return None
        return self.least_mask + (1 - self.least_mask) * torch.sigmoid(numbers).view(shape)

    def _write(self, state: DNCState, interface: Interface, decision: Decision | None) -> DNCState:
        """Usage, allocation and write."""
        kept_BN = addressing.retention(interface.free_gates_BR, state.read_weights_BRN)  # psi_t
        written_BN = addressing.combined(state.write_weights_BJN)
        usage_BN = addressing.usage(state.usage_BN, written_BN, kept_BN)  # u_t
        if decision is not None:
            usage_BN = usage_BN * (1 - decision.victim_BN)
        found_BJN = addressing.content_weights(
            state.memory_BNW,
            interface.write_keys_BJW,
            interface.write_strengths_BJ,
            interface.write_masks_BJW,
        )
        gates_BJ1, chosen_BJ1 = (
            gates[..., None] for gates in (interface.write_gates_BJ, interface.allocation_gates_BJ)
        )  # g^w, g^a
        allocated_BJN = addressing.allocation_by_head(usage_BN, gates_BJ1 * chosen_BJ1)  # a_t
        weights_BJN = chosen_BJ1 * allocated_BJN + (1 - chosen_BJ1) * found_BJN
        weights_BJN = gates_BJ1 * directed(weights_BJN, decision)  # w^w_t
        memory_BNW = state.memory_BNW * kept_BN[..., None] if self.deallocate else state.memory_BNW
        return state._replace(
            usage_BN=usage_BN,
            memory_BNW=addressing.erase_and_write(
                memory_BNW, weights_BJN, interface.erase_BJW, interface.write_BJW
            ),
            write_weights_BJN=weights_BJN,
        )

    def _read(self, state: DNCState, interface: Interface) -> DNCState:
        """Link and precedence; read by content and by the order of writing."""
        found_BRN = addressing.content_weights(
            state.memory_BNW,
            interface.read_keys_BRW,
            interface.read_strengths_BR,
            interface.read_masks_BRW,
        )
        link, forward_BJRN, backward_BJRN = self.link.step(
            state.link, state.write_weights_BJN, state.read_weights_BRN
        )
        linked = torch.cat([backward_BJRN, forward_BJRN], dim=1).transpose(1, 2)  # [B, R, 2J, N]
        if interface.sharpness_BRQ is not None:
            linked = addressing.sharpen(linked, interface.sharpness_BRQ)
        heads = self.write_heads
        ways = torch.cat([linked[:, :, :heads], found_BRN[:, :, None], linked[:, :, heads:]], dim=2)
        weights_BRN = (interface.read_modes_BRP[..., None] * ways).sum(dim=2)
        return state._replace(
            link=link, read_weights_BRN=weights_BRN, reads_BRW=weights_BRN @ state.memory_BNW
        )

    def _features(self, state: DNCState, interface: Interface, policy: Policy) -> Features:
        """Describe the slots to a policy; the candidate is the mean of what would be written."""
        candidate_BW = interface.write_BJW.mean(dim=1)
        return self._describe(state, candidate_BW, state.uses_BN, state.usage_BN, policy)

    def _count(self, state: DNCState) -> DNCState:
        """Note which slots were touched, and let the clock go on."""
        write_BJN, read_BRN = state.write_weights_BJN.detach(), state.read_weights_BRN.detach()
        written_BN, read_BN = (x.amax(dim=1) > WEIGHTY for x in (write_BJN, read_BRN))
        step_B1 = state.step_B[:, None]
        return state._replace(
            birth_BN=torch.where(written_BN, step_B1, state.birth_BN),
            last_read_BN=torch.where(written_BN | read_BN, step_B1, state.last_read_BN),
            uses_BN=torch.addcmul(
                read_BRN.sum(dim=1), state.uses_BN, 1 - addressing.combined(write_BJN)
            ),
            step_B=state.step_B + 1,
        )
