"""An agent that acts: a body for each pair of spaces, and one core that all bodies share.

Tasks of a stream may see and move in different spaces. An encoder, an actor and a critic belong to
one pair of (observations, actions), a *body*; which one is used is told by the spaces alone, never
by the task, so two tasks with the same spaces share everything. What is learned in the core is
shared by all.

Letters: T steps, B rows, O numbers of an observation, D width, S parameters of a distribution,
A parts of an action.
"""

import math
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from stillknows.agents.acting.actions import Choices, Numbers, actions_of
from stillknows.agents.acting.core import Core
from stillknows.agents.controllers.encoder import SpaceEncoder
from stillknows.envs.observed import signature_of
from stillknows.memory.interface import reset_rows


class Thoughts(NamedTuple):
    """What an agent makes of what it sees.

    Attributes:
        parameters_BS: of the distribution of its actions.
        value_B: the return that it expects.
    """

    parameters_BS: Tensor
    value_B: Tensor


class Body(nn.Module):
    """Encoder, actor and critic of one pair of spaces.

    Args:
        observations: as they are read (`envs.observed.readable`).
        actions: of the environment.
        width: D.
    """

    def __init__(
        self, observations: spaces.Space[Any], actions: spaces.Space[Any], width: int
    ) -> None:
        super().__init__()
        self.encoder = SpaceEncoder(observations, width)
        self.observation_size = spaces.flatdim(observations)
        self.actions: Choices | Numbers = actions_of(actions)
        self.actor = _head(width, self.actions.size, 0.01)
        self.critic = _head(width, 1, 1.0)
        for layer in self.encoder.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                _begin(layer, math.sqrt(2))

    def encode(self, observation_BO: Tensor) -> Tensor:
        """Return `[B, D]`, between -1 and 1."""
        return torch.tanh(self.encoder(observation_BO))

    def think(self, core_BD: Tensor) -> Thoughts:
        """Return the distribution of actions and the value, for any leading dimensions."""
        return Thoughts(self.actor(core_BD), self.critic(core_BD)[..., 0])


class ControlAgent(nn.Module):
    """Bodies around a core.

    Args:
        core: what is remembered within an episode.
        width: D.
        seed: of the bodies' first weights.
    """

    def __init__(self, core: Core, width: int, seed: int = 0) -> None:
        super().__init__()
        self.core: Any = core
        self.width, self.seed = width, seed
        self.bodies = nn.ModuleDict()
        self._anchor = nn.Buffer(torch.zeros(()), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._anchor.device

    def meet(self, observations: spaces.Space[Any], actions: spaces.Space[Any]) -> str:
        """Return the name of a pair of spaces; a body is made when it is met for the first time.

        Its first weights depend on the agent's seed and the spaces alone, not on when they are met.
        """
        signature = signature_of(observations, actions)
        if signature not in self.bodies:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed((int(signature, 16) + self.seed) % 2**63)
                body = Body(observations, actions, self.width)
            self.bodies[signature] = body.to(self.device)
        return signature

    def body(self, signature: str) -> Body:
        """Return the body of a pair of spaces."""
        body: Any = self.bodies[signature]
        assert isinstance(body, Body)
        return body

    def initial_state(self, rows: int, key_B: Tensor | None = None) -> Any:
        """Return the core's state before the first step of episodes, named by `key_B`."""
        return self.core.initial_state(rows, self.device, key_B)

    def step(self, signature: str, observation_BO: Tensor, state: Any) -> tuple[Any, Thoughts]:
        """Take one step in every row."""
        body = self.body(signature)
        state, core_BD = self.core.step(state, body.encode(observation_BO))
        return state, body.think(core_BD)

    def begin_rows(self, state: Any, started_B: Tensor, key_B: Tensor) -> Any:
        """Return the state with those rows fresh whose episode begins."""
        if not started_B.any():
            return state
        return reset_rows(state, self.initial_state(len(started_B), key_B), started_B)

    def sequence(
        self,
        signature: str,
        observation_TBO: Tensor,
        state: Any,
        started_TB: Tensor,
        key_TB: Tensor,
    ) -> Thoughts:
        """Think again through T steps in which episodes may begin.

        Args:
            signature: of the spaces.
            observation_TBO: what was seen.
            state: of the core before the first step.
            started_TB: where an episode begins; bool.
            key_TB: names of the episodes, int64.

        Returns:
            Parameters `[T, B, S]` and values `[T, B]`.
        """
        body = self.body(signature)
        seen_TBD = body.encode(observation_TBO.flatten(0, 1)).view(*started_TB.shape, -1)
        return body.think(self.through(seen_TBD, state, started_TB, key_TB))

    def through(self, seen_TBD: Tensor, state: Any, started_TB: Tensor, key_TB: Tensor) -> Tensor:
        """Return what the core makes of T steps that bodies have encoded, `[T, B, D]`."""
        outputs = []
        for t, seen_BD in enumerate(seen_TBD):
            state = self.begin_rows(state, started_TB[t], key_TB[t])
            state, core_BD = self.core.step(state, seen_BD)
            outputs.append(core_BD)
        return torch.stack(outputs)


def _head(width: int, size: int, gain: float) -> nn.Sequential:
    hidden, last = nn.Linear(width, width), nn.Linear(width, size)
    _begin(hidden, math.sqrt(2))
    _begin(last, gain)
    return nn.Sequential(hidden, nn.Tanh(), last)


def _begin(layer: nn.Linear | nn.Conv2d, gain: float) -> None:
    """Begin with orthogonal weights and no bias (Saxe et al. 2014, arXiv:1312.6120)."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
