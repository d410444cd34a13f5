"""What memories that own their recurrence share: controllers, policies' say, reads, sequences.

The Neural Turing Machine and the Differentiable Neural Computer feed what they read back into a
controller, so items are taken one by one. Letters: B rows, I input size, H controller output,
N slots, W word size, R read heads, T items.

This file knows no equation of either.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from stillknows.memory.interface import (
    MERGE,
    SKIP,
    UPDATE,
    Decision,
    Features,
    Policy,
    Read,
    needs,
    needs_content,
    noise_for,
    reset_rows,
)
from stillknows.memory.policies.rules import WriteNothing

WEIGHTY = 0.05  # a write or read weight from which a slot counts as touched


class Controller(Protocol):
    """What such a memory asks of it: `controller(input_BI, state) -> (output_BH, state)`."""

    output_size: int

    def initial_state(self, batch: int, device: torch.device | str) -> Any:
        """Return the state before the first step."""
        ...

    def __call__(self, input_BI: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Take one step."""
        ...


class LSTMState(NamedTuple):
    """Hidden and cell state of an LSTM, `[B, H]` each."""

    hidden_BH: Tensor
    cell_BH: Tensor


class LSTMController(nn.Module):
    """One LSTM cell as a controller.

    Args:
        input_size: I, the item and all reads.
        hidden_size: H.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(input_size, hidden_size)
        self.output_size = hidden_size

    def initial_state(self, batch: int, device: torch.device | str) -> LSTMState:
        """Return zeros."""
        zeros = torch.zeros(batch, self.output_size, device=device)
        return LSTMState(zeros, zeros)

    def forward(self, input_BI: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """Take one step."""
        hidden_BH, cell_BH = self.cell(input_BI, tuple(state))
        return hidden_BH, LSTMState(hidden_BH, cell_BH)


class NoState(NamedTuple):
    """The state of a controller that has none."""


class FeedForwardController(nn.Module):
    """One layer as a controller, `tanh(W x + b)`: what it remembers is in the memory alone.

    Args:
        input_size: I, the item and all reads.
        hidden_size: H.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(input_size, hidden_size)
        self.output_size = hidden_size

    def initial_state(self, batch: int, device: torch.device | str) -> NoState:
        """Return nothing."""
        return NoState()

    def forward(self, input_BI: Tensor, state: NoState) -> tuple[Tensor, NoState]:
        """Take one step."""
        return torch.tanh(self.layer(input_BI)), state


class NormalisedController(nn.Module):
    """A controller whose input and output are layer-normalised (Ba et al. 2016, arXiv:1607.06450).

    Franke et al. 2018, arXiv:1807.02658, normalise the controller of a DNC that answers questions.

    Args:
        input_size: I, the item and all reads.
        controller: takes what was normalised; its state stays its own.
    """

    def __init__(self, input_size: int, controller: Any) -> None:
        super().__init__()
        self.controller: Any = controller
        self.seen = nn.LayerNorm(input_size)
        self.said = nn.LayerNorm(controller.output_size)
        self.output_size = controller.output_size

    def initial_state(self, batch: int, device: torch.device | str) -> Any:
        """Return the controller's."""
        return self.controller.initial_state(batch, device)

    def forward(self, input_BI: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Take one step."""
        output_BH, state = self.controller(self.seen(input_BI), state)
        return self.said(output_BH), state


def default_controller(
    input_size: int, hidden_size: int, feed_forward: bool, normalised: bool = False
) -> Controller:
    """Return the controller of a memory that was given none: an LSTM, or one layer."""
    kind = FeedForwardController if feed_forward else LSTMController
    controller = kind(input_size, hidden_size)
    return NormalisedController(input_size, controller) if normalised else controller


class Recurrent(nn.Module):
    """A memory of N slots that takes items one by one; subclasses say how it begins and steps.

    The state of a subclass has at least `memory_BNW`, `read_weights_BRN`, `reads_BRW`, `birth_BN`,
    `last_read_BN`, `step_B` and `key_B`.

    Attributes:
        input_size: width of an item.
        slots: N.
        word_size: W.
        think: blank items after the last of a sequence, before the read that counts (Csordas and
            Schmidhuber 2019, arXiv:1904.10278, take 3 before an answer): what was read first can
            lead to what is read next.
        query_writes: whether the last item of a sequence, the query, is written like any other,
            and whether thinking writes. Who reads what it has just written need not look further.
            What a DNC's free gates set free is free all the same.
    """

    input_size: int
    slots: int
    word_size: int
    think: int
    query_writes: bool = True

    def initial_state(
        self, batch: int, device: torch.device | str = "cpu", key_B: Tensor | None = None
    ) -> Any:
        """Return the state before the first item; `key_B` (int64 `[B]`) names the episodes."""
        raise NotImplementedError

    def step(self, state: Any, item_BI: Tensor, policy: Policy | None = None) -> tuple[Any, Read]:
        """Take one item."""
        raise NotImplementedError

    def sequence(
        self, state: Any, items_BTI: Tensor, present_BT: Tensor, policy: Policy | None = None
    ) -> tuple[Any, Read]:
        """Take T items one by one, then think; return the last read. Every row has the last item.

        Args:
            state: before the first; it stays as it was.
            items_BTI: `[B, T, input_size]`.
            present_BT: bool `[B, T]`; where it is False the row's state stays as it was.
            policy: as in `step`.

        Raises:
            ValueError: if there is no item, or items have other dimensions.
        """
        _expect_items(items_BTI)
        state = self.write(state, items_BTI[:, :-1], present_BT[:, :-1], policy)
        asked = policy if self.query_writes else WriteNothing()
        state, read = self.step(state, items_BTI[:, -1], asked)
        for _ in range(self.think):
            state, read = self.step(state, torch.zeros_like(items_BTI[:, -1]), asked)
        return state, read

    def write(
        self, state: Any, items_BTI: Tensor, present_BT: Tensor, policy: Policy | None = None
    ) -> Any:
        """Take T items one by one, none of them a query; return the state after the last.

        Args:
            state: before the first; it stays as it was.
            items_BTI: `[B, T, input_size]`.
            present_BT: bool `[B, T]`; where it is False the row's state stays as it was.
            policy: as in `step`.
        """
        for t, every in enumerate(_everywhere(present_BT)):
            after, _ = self.step(state, items_BTI[:, t], policy)
            state = after if every else reset_rows(after, state, ~present_BT[:, t])
        return state

    def outputs(
        self, state: Any, items_BTI: Tensor, policy: Policy | None = None, checkpoint: int = 0
    ) -> tuple[Any, Tensor]:
        """Take T items one by one; return the output (the last read) of every step.

        Args:
            state: before the first; it stays as it was.
            items_BTI: `[B, T, input_size]`, T at least 1.
            policy: as in `step`.
            checkpoint: keep for the gradient only the state at every so many steps, and take the
                steps between again when the gradient is taken; 0 keeps everything.

        Returns:
            The state after the last, and `[B, T, W]`.

        Raises:
            ValueError: if there is no item, or items have other dimensions.
        """
        _expect_items(items_BTI)

        def take(state: Any, items: Sequence[Tensor]) -> tuple[Any, Tensor]:
            values = []
            for item_BI in items:
                state, read = self.step(state, item_BI, policy)
                values.append(read.values_BRW[:, -1])
            return state, torch.stack(values, dim=1)

        items = items_BTI.unbind(dim=1)
        if not checkpoint:
            return take(state, items)
        chunks = []
        for first in range(0, len(items), checkpoint):
            chunk = items[first : first + checkpoint]
            state, values_BCW = torch_checkpoint(take, state, chunk, use_reentrant=False)
            chunks.append(values_BCW)
        return state, torch.cat(chunks, dim=1)

    def _describe(
        self,
        state: Any,
        candidate_BW: Tensor,
        usage_BN: Tensor,
        strength_BN: Tensor,
        policy: Policy,
    ) -> Features:
        """Describe the slots to a policy, without a gradient."""
        candidate_BW, memory_BNW = candidate_BW.detach(), state.memory_BNW.detach()
        filled_BN = state.birth_BN >= 0
        step_B1 = state.step_B[:, None]
        similarity_BN = torch.zeros_like(usage_BN)
        if needs(policy, "similarity"):
            similarity_BN = torch.cosine_similarity(candidate_BW[:, None], memory_BNW, dim=2)
        return Features(
            candidate_BW=candidate_BW,
            similarity_BN=similarity_BN * filled_BN,
            usage_BN=usage_BN.detach(),
            age_BN=torch.where(filled_BN, step_B1 - state.birth_BN, 0).float(),
            idle_BN=torch.where(filled_BN, step_B1 - state.last_read_BN, 0).float(),
            filled_BN=filled_BN,
            seen_B=state.step_B,
            noise_BM=noise_for(policy, state.key_B, state.step_B, self.slots),
            known_B=torch.full_like(state.step_B, -1),
            strength_BN=strength_BN.detach(),
            content_BNW=memory_BNW if needs_content(policy) else None,
        )

    def _check_item(self, state: Any, item_BI: Tensor) -> None:
        if item_BI.shape[1] != self.input_size:
            raise ValueError(
                f"An item of {item_BI.shape[1]} numbers for a memory ({type(self).__name__}) with "
                f"input_size={self.input_size}: make them the same."
            )
        rows = len(state.reads_BRW)
        if len(item_BI) != rows:
            raise ValueError(f"{len(item_BI)} items for a state of {rows} rows: give one a row.")

    def _as_read(self, state: Any, output_BW: Tensor) -> Read:
        """Return the reads and the output; the output's weights are the mean of the heads'."""
        weights_BRN = state.read_weights_BRN
        weights_BRN = torch.cat([weights_BRN, weights_BRN.mean(dim=1, keepdim=True)], dim=1)
        slots = torch.arange(self.slots, device=output_BW.device).expand_as(weights_BRN)
        values_BRW = torch.cat([state.reads_BRW, output_BW[:, None]], dim=1)
        return Read(values_BRW, slots, weights_BRN)


def _expect_items(items_BTI: Tensor) -> None:
    """Raise a ValueError if items are not `[B, T, input_size]`, T at least 1."""
    if items_BTI.ndim != 3:
        raise ValueError(
            f"Items of the shape {list(items_BTI.shape)}: give them as [batch, steps, input_size]."
        )
    if not items_BTI.shape[1]:
        raise ValueError("A sequence of no items has no read: give at least one.")


def _everywhere(present_BT: Tensor) -> list[bool]:
    """Return at which places every row is known to have an item; a GPU is not waited for."""
    if present_BT.device.type != "cpu":
        return [False] * present_BT.shape[1]
    everywhere: list[bool] = present_BT.all(dim=0).tolist()
    return everywhere


def directed(weights_BJN: Tensor, decision: Decision | None) -> Tensor:
    """Return write weights after a policy's word: less by P(skip), in part at `slot_BN`."""
    if decision is None:
        return weights_BJN
    skip_B11 = decision.action_B4[:, SKIP, None, None]
    at_slot_B11 = decision.action_B4[:, UPDATE : MERGE + 1].sum(dim=1)[:, None, None]
    at_slot_BJN = at_slot_B11 * decision.slot_BN[:, None]
    return (1 - skip_B11 - at_slot_B11) * weights_BJN + at_slot_BJN
