"""Rewards of different tasks on one scale: the running deviation of what they add up to.

Letters: T steps, B rows.
"""

import math
from typing import Any

import torch
from torch import Tensor


class Spread:
    """The running deviation of discounted returns, by which rewards are made comparable.

    One for each pair of spaces. The variance is of all that was seen, by the parallel update of
    Chan et al. 1979.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0.0, 0.0, 0.0

    def scale(
        self, reward_TB: Tensor, ended_TB: Tensor, return_B: Tensor, discount: float
    ) -> tuple[Tensor, Tensor]:
        """Take the rewards of T steps, and return them over the deviation of returns.

        Args:
            reward_TB: of the steps.
            ended_TB: whether a step ends an episode.
            return_B: what the episodes had added up to before, 0 where one begins.
            discount: gamma.

        Returns:
            The scaled rewards, and what the episodes have added up to now.
        """
        return_B, seen = return_B.to(reward_TB), []
        for reward_B, ended_B in zip(reward_TB, ended_TB, strict=True):
            return_B = return_B * discount + reward_B
            seen.append(return_B)
            return_B = return_B * ~ended_B
        self._take(torch.stack(seen))
        return reward_TB / self.deviation, return_B

    @property
    def deviation(self) -> float:
        """The deviation of the returns so far, 1 as long as there is none."""
        variance = self.squares / self.count if self.count else 0.0
        return math.sqrt(variance) if variance > 1e-8 else 1.0

    def state(self) -> dict[str, Any]:
        """Return the statistics as a tree."""
        return dict(vars(self))

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` returned."""
        vars(self).update({name: state[name] for name in vars(self)})

    def _take(self, values: Tensor) -> None:
        count, mean = values.numel(), values.mean().item()
        squares = (values - mean).square().sum().item()
        total, far = self.count + count, mean - self.mean
        self.squares += squares + far * far * self.count * count / total
        self.mean += far * count / total
        self.count = total
