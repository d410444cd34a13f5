"""The Differentiable Neural Computer, with its exact temporal link and its read feedback.

Graves et al. 2016, Nature 538:471, Methods. One step is: the controller sees the item and what was
read before; usage, allocation, write, link, precedence, read; in this order, so it writes before
it reads. Letters: B rows, I input size, H controller output, N slots, W word size, R read heads.

A policy takes part by multiplying gates: the write gate by 1 - P(skip), and the share of
P(update) + P(merge) moves the write from where the DNC would write to `slot_BN`; the usage of a
`victim_BN` falls before allocation. With the policy None it is the paper's DNC.

This file knows nothing of sentences, questions or tasks.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stillknows.memory import addressing
from stillknows.memory.interface import Decision, Features, Policy, Read
from stillknows.memory.recurrent import WEIGHTY, LSTMController, Recurrent, directed


class DNCState(NamedTuple):
    """The whole of a DNC: memory, how it was used, and the controller's state.

    Attributes:
        memory_BNW: the contents, `[B, N, W]`.
        usage_BN: between 0 and 1, `[B, N]`.
        link_BNN: `[i, j]`: i was written right after j, `[B, N, N]`.
        precedence_BN: how much each slot was the last one written, `[B, N]`.
        write_weights_BN: of the last step, `[B, N]`.
        read_weights_BRN: of the last step, `[B, R, N]`.
        reads_BRW: what was read at the last step, `[B, R, W]`.
        controller: its own state.
        birth_BN: the step of the last weighty write, -1 for none, int64 `[B, N]`.
        last_read_BN: the step of the last weighty write or read, int64 `[B, N]`.
        step_B: items taken so far, int64 `[B]`.
        key_B: names the episode for the noise of random policies, int64 `[B]`.
    """

    memory_BNW: Tensor
    usage_BN: Tensor
    link_BNN: Tensor
    precedence_BN: Tensor
    write_weights_BN: Tensor
    read_weights_BRN: Tensor
    reads_BRW: Tensor
    controller: Any
    birth_BN: Tensor
    last_read_BN: Tensor
    step_B: Tensor
    key_B: Tensor


class Interface(NamedTuple):
    """The interface vector, parsed and squashed."""

    read_keys_BRW: Tensor
    read_strengths_BR: Tensor
    write_key_BW: Tensor
    write_strength_B1: Tensor
    erase_BW: Tensor
    write_BW: Tensor
    free_gates_BR: Tensor
    allocation_gate_B1: Tensor
    write_gate_B1: Tensor
    read_modes_BR3: Tensor


class DNC(Recurrent):
    """A DNC with one write head.

    As a working memory its reads are the R read vectors and, last, the output
    `y_t = W_y h_t + W_r [r^1; ..; r^R]` (R + 1 reads of W numbers).

    Args:
        input_size: width of an item.
        slots: N.
        word_size: W.
        read_heads: R.
        hidden_size: of the LSTM controller, where none is given.
        controller: any controller; its input is the item and all reads, `input_size + R W`.
    """

    def __init__(
        self,
        input_size: int,
        slots: int,
        word_size: int,
        read_heads: int,
        hidden_size: int = 128,
        controller: Any = None,
    ) -> None:
        super().__init__()
        self.slots, self.word_size, self.read_heads = slots, word_size, read_heads
        self.reads = read_heads + 1
        seen = input_size + read_heads * word_size
        self.controller: Any = controller or LSTMController(seen, hidden_size)
        self.sizes = (
            *(read_heads * word_size, read_heads, word_size, 1, word_size, word_size),
            *(read_heads, 1, 1, 3 * read_heads),
        )
        self.interface = nn.Linear(self.controller.output_size, sum(self.sizes))
        self.output = nn.Linear(self.controller.output_size, word_size, bias=False)
        self.read_output = nn.Linear(read_heads * word_size, word_size, bias=False)

    def initial_state(
        self, batch: int, device: torch.device | str = "cpu", key_B: Tensor | None = None
    ) -> DNCState:
        """Return an empty memory; `key_B` (int64 `[B]`) names the episodes."""
        slots_BN = torch.zeros(batch, self.slots, device=device)
        never_BN = torch.full((batch, self.slots), -1, device=device)
        count_B = torch.zeros(batch, dtype=torch.int64, device=device)
        return DNCState(
            memory_BNW=torch.zeros(batch, self.slots, self.word_size, device=device),
            usage_BN=slots_BN,
            link_BNN=torch.zeros(batch, self.slots, self.slots, device=device),
            precedence_BN=slots_BN,
            write_weights_BN=slots_BN,
            read_weights_BRN=torch.zeros(batch, self.read_heads, self.slots, device=device),
            reads_BRW=torch.zeros(batch, self.read_heads, self.word_size, device=device),
            controller=self.controller.initial_state(batch, device),
            birth_BN=never_BN,
            last_read_BN=never_BN,
            step_B=count_B,
            key_B=count_B if key_B is None else key_B.to(device),
        )

    def step(
        self, state: DNCState, item_BI: Tensor, policy: Policy | None = None
    ) -> tuple[DNCState, Read]:
        """Take one item: control, write, read, in the order of the paper."""
        seen_BI = torch.cat([item_BI, state.reads_BRW.flatten(1)], dim=1)  # chi_t
        hidden_BH, controller = self.controller(seen_BI, state.controller)
        interface = self._parse(self.interface(hidden_BH))
        decision = policy.decide(self._features(state, interface)) if policy else None
        state = self._write(state._replace(controller=controller), interface, decision)
        state = self._read(state, interface)
        read_BW = self.read_output(state.reads_BRW.flatten(1))
        output_BW = self.output(hidden_BH) + read_BW  # y_t
        return self._count(state), self._as_read(state, output_BW)

    def _parse(self, vector_BX: Tensor) -> Interface:
        """Split and squash the interface vector xi_t."""
        keys, strengths, key, strength, erase, write, free, allocate, gate, modes = torch.split(
            vector_BX, list(self.sizes), dim=1
        )
        shape = (len(vector_BX), self.read_heads, -1)
        return Interface(
            read_keys_BRW=keys.view(shape),
            read_strengths_BR=addressing.oneplus(strengths),
            write_key_BW=key,
            write_strength_B1=addressing.oneplus(strength),
            erase_BW=torch.sigmoid(erase),
            write_BW=write,
            free_gates_BR=torch.sigmoid(free),
            allocation_gate_B1=torch.sigmoid(allocate),
            write_gate_B1=torch.sigmoid(gate),
            read_modes_BR3=torch.softmax(modes.view(shape), dim=-1),
        )

    def _write(self, state: DNCState, interface: Interface, decision: Decision | None) -> DNCState:
        """Usage, allocation, write, link, precedence."""
        kept_BN = addressing.retention(interface.free_gates_BR, state.read_weights_BRN)  # psi_t
        usage_BN = addressing.usage(state.usage_BN, state.write_weights_BN, kept_BN)  # u_t
        if decision is not None:
            usage_BN = usage_BN * (1 - decision.victim_BN)
        allocated_BN = addressing.allocation_weights(usage_BN)  # a_t
        key_B1W = interface.write_key_BW[:, None]
        found_BN = addressing.content_weights(
            state.memory_BNW, key_B1W, interface.write_strength_B1
        )[:, 0]
        gate_B1 = interface.allocation_gate_B1  # g^a
        weights_BN = gate_B1 * allocated_BN + (1 - gate_B1) * found_BN
        weights_BN = interface.write_gate_B1 * directed(weights_BN, decision)  # w^w_t
        return state._replace(
            usage_BN=usage_BN,
            memory_BNW=addressing.erase_and_write(
                state.memory_BNW, weights_BN, interface.erase_BW, interface.write_BW
            ),
            link_BNN=addressing.temporal_link(state.link_BNN, state.precedence_BN, weights_BN),
            precedence_BN=addressing.precedence(state.precedence_BN, weights_BN),
            write_weights_BN=weights_BN,
        )

    def _read(self, state: DNCState, interface: Interface) -> DNCState:
        """Read by content and by the order of writing: modes [backward, content, forward]."""
        found_BRN = addressing.content_weights(
            state.memory_BNW, interface.read_keys_BRW, interface.read_strengths_BR
        )
        next_BRN, before_BRN = addressing.directional_weights(
            state.link_BNN, state.read_weights_BRN
        )
        backward, content, forward = interface.read_modes_BR3[..., None].unbind(dim=2)
        weights_BRN = backward * before_BRN + content * found_BRN + forward * next_BRN
        return state._replace(
            read_weights_BRN=weights_BRN, reads_BRW=weights_BRN @ state.memory_BNW
        )

    def _features(self, state: DNCState, interface: Interface) -> Features:
        """Describe the slots to a policy; the candidate is the vector that would be written."""
        return self._describe(state, interface.write_BW, state.usage_BN, state.usage_BN)

    def _count(self, state: DNCState) -> DNCState:
        """Note which slots were touched, and let the clock go on."""
        written_BN = state.write_weights_BN.detach() > WEIGHTY
        read_BN = state.read_weights_BRN.detach().amax(dim=1) > WEIGHTY
        step_B1 = state.step_B[:, None]
        return state._replace(
            birth_BN=torch.where(written_BN, step_B1, state.birth_BN),
            last_read_BN=torch.where(written_BN | read_BN, step_B1, state.last_read_BN),
            step_B=state.step_B + 1,
        )
