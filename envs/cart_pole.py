"""Cart poles of many kinds: Gymnasium's, with other physics that are part of what is seen.

A family of tasks with the same spaces, as in contextual reinforcement learning (Benjamins et al.
2023, "Contextualize Me: The Case for Context in Reinforcement Learning"): what is right in one is
wrong in another where the force has the other sign, and much the same where the pole is longer.
This file knows nothing of agents.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from stillknows.envs.observed import Floats

_LARGEST = {"gravity": 20.0, "length": 2.0, "force": 20.0}


class CartPole(CartPoleEnv):
    """A pole on a cart; 1 for every step until it falls.

    Args:
        gravity: in m/s^2, above 0, at most 20.
        length: of half the pole, in m, above 0, at most 2.
        force: of a push to the right, in N; below 0, right and left are exchanged. At most 20.
        render_mode: how it is shown, as Gymnasium's.

    Raises:
        ValueError: if one of them is out of bounds.
    """

    def __init__(
        self,
        gravity: float = 9.8,
        length: float = 0.5,
        force: float = 10.0,
        render_mode: str | None = None,
    ) -> None:
        for name, given in (("gravity", gravity), ("length", length), ("force", abs(force))):
            if not 0 < given <= _LARGEST[name]:
                raise ValueError(f"{name}={given:g} is not above 0 and at most {_LARGEST[name]:g}")
        super().__init__(render_mode=render_mode)
        self.gravity, self.length, self.force_mag = gravity, length, force
        self.polemass_length = self.masspole * length
        self.kind = np.array([gravity, length, force], dtype=np.float32)
        state: Any = self.observation_space
        largest = np.array([*_LARGEST.values()], dtype=np.float32)
        lowest = np.array([0, 0, -_LARGEST["force"]], dtype=np.float32)
        self.observation_space = spaces.Box(
            np.concatenate([state.low, lowest]), np.concatenate([state.high, largest])
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Begin with the pole nearly upright; see `step` for what is seen."""
        state, info = super().reset(seed=seed, options=options)
        return np.concatenate([state, self.kind]), info

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Push left (0) or right (1); see cart, pole, their velocities, and the physics, `[7]`."""
        plain: Any = super()
        state, reward, over, cut, info = plain.step(action)
        return np.concatenate([state, self.kind]), float(reward), over, cut, info
