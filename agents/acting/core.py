"""Cores: what an acting agent remembers in an episode. An LSTM, a GRU, a working memory, or none.

A core takes one vector a step and returns one. Its state is a value, a named tuple of tensors, so
it can be kept, cut into rows and reset by row like that of any working memory. Letters: B rows,
D width, R reads, W word size.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from stillknows.memory.interface import Policy, WorkingMemory
from stillknows.memory.recurrent import LSTMController, LSTMState, NoState

KINDS = ("lstm", "gru", "none")


class Core(Protocol):
    """What an acting agent asks of its core."""

    def initial_state(self, rows: int, device: torch.device, key_B: Tensor | None = None) -> Any:
        """Return the state before the first step of an episode; `key_B` names the episodes."""
        ...

    def step(self, state: Any, seen_BD: Tensor) -> tuple[Any, Tensor]:
        """Take one step: the state after, and `[B, D]`."""
        ...


class LSTMCore(nn.Module):
    """An LSTM cell.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.controller = LSTMController(width, width)
        _begin(self.controller.cell)

    def initial_state(
        self, rows: int, device: torch.device, key_B: Tensor | None = None
    ) -> LSTMState:
        """Return zeros."""
        return self.controller.initial_state(rows, device)

    def step(self, state: LSTMState, seen_BD: Tensor) -> tuple[LSTMState, Tensor]:
        """Take one step."""
        hidden_BD, state = self.controller(seen_BD, state)
        return state, hidden_BD


class GRUState(NamedTuple):
    """The state of a GRU, `[B, D]`."""

    hidden_BD: Tensor


class GRUCore(nn.Module):
    """A GRU cell.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.cell = width, nn.GRUCell(width, width)
        _begin(self.cell)

    def initial_state(
        self, rows: int, device: torch.device, key_B: Tensor | None = None
    ) -> GRUState:
        """Return zeros."""
        return GRUState(torch.zeros(rows, self.width, device=device))

    def step(self, state: GRUState, seen_BD: Tensor) -> tuple[GRUState, Tensor]:
        """Take one step."""
        hidden_BD = self.cell(seen_BD, state.hidden_BD)
        return GRUState(hidden_BD), hidden_BD


class NoCore(nn.Module):
    """Nothing is remembered: what is seen now is all there is."""

    def initial_state(
        self, rows: int, device: torch.device, key_B: Tensor | None = None
    ) -> NoState:
        """Return nothing."""
        return NoState()

    def step(self, state: NoState, seen_BD: Tensor) -> tuple[NoState, Tensor]:
        """Return what was seen."""
        return state, seen_BD


class MemoryCore(nn.Module):
    """A working memory: what is seen is written as its policy decides, and joined by what it reads.

    Args:
        memory: any working memory of items of D numbers.
        policy: a rule, or one that learns from the loss.
        width: D.

    Raises:
        ValueError: if the policy learns from stories, which are not told here.
    """

    def __init__(self, memory: WorkingMemory, policy: Policy, width: int) -> None:
        super().__init__()
        if getattr(policy, "learns_by", "loss") != "loss":
            raise ValueError(
                f"{type(policy).__name__} learns from stories, and an acting agent is told none: "
                "choose working_policy=evict_oldest, another rule, or retention."
            )
        self.memory: Any = memory
        self.policy: Any = policy
        self.join = nn.Linear(width + memory.reads * memory.word_size, width)

    def initial_state(self, rows: int, device: torch.device, key_B: Tensor | None = None) -> Any:
        """Return an empty memory."""
        return self.memory.initial_state(rows, device, key_B)

    def step(self, state: Any, seen_BD: Tensor) -> tuple[Any, Tensor]:
        """Write and read in the order of the memory's own paper, and join."""
        state, read = self.memory.step(state, seen_BD, self.policy)
        joined_BD = self.join(torch.cat([seen_BD, read.values_BRW.flatten(1)], dim=1))
        return state, torch.tanh(joined_BD)


def build_core(
    kind: str, width: int, memory: WorkingMemory | None = None, policy: Policy | None = None
) -> Core:
    """Return the core of an acting agent: its working memory, or where it has none, `kind`.

    Raises:
        ValueError: if the kind is unknown.
    """
    if memory is not None and policy is not None:
        return MemoryCore(memory, policy, width)
    if kind not in KINDS:
        raise ValueError(f"learner.core={kind}: choose {', '.join(KINDS)}, or a working_memory.")
    if kind == "none":
        return NoCore()
    return LSTMCore(width) if kind == "lstm" else GRUCore(width)


def _begin(cell: nn.RNNCellBase) -> None:
    """Begin with orthogonal weights and no biases."""
    for name, parameter in cell.named_parameters():
        if name.startswith("weight"):
            nn.init.orthogonal_(parameter)
        else:
            nn.init.zeros_(parameter)
