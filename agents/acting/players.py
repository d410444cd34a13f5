"""Who acts where nothing is learned: by the likeliest action, by drawing, or at random."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from stillknows.agents.acting.control_agent import ControlAgent


class Player(Protocol):
    """Acts in episodes side by side."""

    def begin(self, rows: int, key_B: np.ndarray) -> None:
        """Begin an episode in every row; `key_B` names them."""
        ...

    def act(self, observation_BO: np.ndarray) -> np.ndarray:
        """Return an action for every row, as the environments take them."""
        ...


@contextmanager
def at_rest(agent: nn.Module) -> Iterator[None]:
    """Let nothing of an agent explore as it does in training, for as long as this lasts."""
    training = agent.training
    agent.eval()
    try:
        yield
    finally:
        agent.train(training)


class CorePlayer:
    """An agent with a core, whose state begins afresh with every episode.

    Args:
        agent: who acts; nothing of it changes.
        signature: of the spaces.
        sampled: whether actions are drawn; else they are the likeliest.
        seed: of what is drawn.

    Attributes:
        trust: the share of a lifelong store in what is done.
    """

    trust = 0.0

    def __init__(
        self, agent: ControlAgent, signature: str, sampled: bool = False, seed: int = 0
    ) -> None:
        self.agent, self.signature, self.sampled = agent, signature, sampled
        self.generator = torch.Generator().manual_seed(seed)
        self._state: Any = None

    def begin(self, rows: int, key_B: np.ndarray) -> None:
        """Begin with a fresh core."""
        self._state = self.agent.initial_state(rows, torch.from_numpy(key_B))

    @torch.no_grad()
    def act(self, observation_BO: np.ndarray) -> np.ndarray:
        """Return an action for every row."""
        seen_BO = torch.tensor(observation_BO, device=self.agent.device)
        with at_rest(self.agent):
            self._state, thoughts = self.agent.step(self.signature, seen_BO, self._state)
        actions = self.agent.body(self.signature).actions
        parameters_BS = self.distribution(thoughts.parameters_BS, observation_BO)
        if self.sampled:
            return actions.native(actions.sample(parameters_BS, self.generator))
        return actions.native(actions.best(parameters_BS))

    def distribution(self, parameters_BS: Tensor, observation_BO: np.ndarray) -> Tensor:
        """Return the parameters of what is acted by: those of the agent."""
        return parameters_BS


class RandomPlayer:
    """The floor: any action, each as likely as the others.

    Args:
        space: of the actions.
        seed: of what is drawn.
    """

    def __init__(self, space: spaces.Space[Any], seed: int = 0) -> None:
        self.space, self.seed = space, seed
        self._rows: list[spaces.Space[Any]] = []

    def begin(self, rows: int, key_B: np.ndarray) -> None:
        """Begin, each row with draws of its own episode."""
        self._rows = [copy.deepcopy(self.space) for _ in range(rows)]
        for space, key in zip(self._rows, key_B.tolist(), strict=True):
            space.seed((self.seed * 1_000_003 + key) % 2**31)

    def act(self, observation_BO: np.ndarray) -> np.ndarray:
        """Return an action for every row."""
        return np.stack([np.asarray(space.sample()) for space in self._rows])
