"""Shrink and perturb: weights a little smaller and a little new (Ash and Adams 2020).

Importing this module imports Avalanche.
"""

from typing import Any

import torch
from avalanche.core import BaseSGDPlugin

from stillknows.agents.strategy import Lifetime


class ShrinkAndPerturb(BaseSGDPlugin):  # type: ignore[misc]
    """When a task begins, and it is not the first: w ← shrink · w + perturb · s · noise.

    s is the spread that the weights of a tensor had when the life began, noise is normal.

    Args:
        shrink: what is left of the weights.
        perturb: how much of their first spread is added.
    """

    def __init__(self, shrink: float = 0.8, perturb: float = 0.1) -> None:
        super().__init__()
        if not 0 <= shrink <= 1 or perturb < 0:
            raise ValueError(
                f"shrink={shrink} is a share from 0 to 1, perturb={perturb} not below 0."
            )
        self.shrink, self.perturb = shrink, perturb
        self.spreads: dict[str, float] = {}

    @torch.no_grad()
    def before_training_exp(self, strategy: Lifetime, **_: Any) -> None:
        """Shrink and perturb whatever learns."""
        learning = {n: w for n, w in strategy.model.named_parameters() if w.requires_grad}
        if not self.spreads:
            self.spreads = {n: float(w.std(correction=0)) for n, w in learning.items()}
            return
        seed = strategy.seed * 1_000_003 + strategy.clock.train_exp_counter
        draw = torch.Generator().manual_seed(seed)
        for name, weight in learning.items():
            noise = torch.randn(weight.shape, generator=draw).to(weight)
            weight.mul_(self.shrink).add_(noise, alpha=self.perturb * self.spreads[name])
