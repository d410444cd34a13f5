"""Actions as distributions: choices and numbers, sampled, weighed and handed to an environment.

Every kind is a module of `size` parameters an action, which a head computes. Letters: B rows (or
any leading dimensions), S parameters, A parts of an action, W
numbers that describe a whole distribution.
"""

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn


class Choices(nn.Module):
    """One choice or several independent ones: Discrete, MultiDiscrete, MultiBinary.

    Args:
        space: of the actions.
    """

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary) -> None:
        super().__init__()
        self.space = space
        self.sizes = _sizes(space)
        self.size = self.whole_size = sum(self.sizes)
        self.parts, self.kind = len(self.sizes), torch.int64

    def sample(self, logits_BS: Tensor, generator: torch.Generator) -> Tensor:
        """Draw actions, int64 `[B, A]`."""
        parts = [
            torch.multinomial(part.softmax(dim=-1).cpu(), 1, generator=generator)
            for part in torch.split(logits_BS, self.sizes, dim=-1)
        ]
        return torch.cat(parts, dim=-1).to(logits_BS.device)

    def best(self, logits_BS: Tensor) -> Tensor:
        """Return the likeliest actions, int64 `[B, A]`."""
        parts = [part.argmax(dim=-1) for part in torch.split(logits_BS, self.sizes, dim=-1)]
        return torch.stack(parts, dim=-1)

    def log_prob(self, logits_BS: Tensor, action_BA: Tensor) -> Tensor:
        """Return `log p(a)`, `[B]`."""
        total_B = torch.zeros_like(logits_BS[..., 0])
        for place, part in enumerate(torch.split(logits_BS, self.sizes, dim=-1)):
            chosen = action_BA[..., place, None]
            total_B = total_B + part.log_softmax(dim=-1).gather(-1, chosen)[..., 0]
        return total_B

    def entropy(self, logits_BS: Tensor) -> Tensor:
        """Return the entropy in nats, `[B]`."""
        total_B = torch.zeros_like(logits_BS[..., 0])
        for part in torch.split(logits_BS, self.sizes, dim=-1):
            log_p = part.log_softmax(dim=-1)
            total_B = total_B - (log_p.exp() * log_p).sum(dim=-1)
        return total_B

    def whole(self, logits_BS: Tensor) -> Tensor:
        """Return what describes the distribution: log-probabilities, `[B, W]`."""
        parts = torch.split(logits_BS, self.sizes, dim=-1)
        return torch.cat([part.log_softmax(dim=-1) for part in parts], dim=-1)

    def log_prob_whole(self, whole_BW: Tensor, action_BA: Tensor) -> Tensor:
        """Return `log p(a)`, `[B]`, under what `whole` described."""
        return self.log_prob(whole_BW, action_BA)

    def divergence(self, then_BW: Tensor, logits_BS: Tensor) -> Tensor:
        """Return KL(then || now) in nats, `[B]`, from what `whole` described then."""
        apart_BW = then_BW.exp() * (then_BW - self.whole(logits_BS))
        return apart_BW.sum(dim=-1)

    def native(self, action_BA: Tensor) -> np.ndarray:
        """Return actions as the environments take them."""
        chosen = action_BA.cpu().numpy()
        if isinstance(self.space, spaces.Discrete):
            return np.asarray(chosen[:, 0] + self.space.start)
        shaped = chosen.reshape(-1, *self.space.shape)
        if isinstance(self.space, spaces.MultiDiscrete):
            shaped = shaped + self.space.start
        return np.asarray(shaped.astype(self.space.dtype))


class Numbers(nn.Module):
    """Independent normal numbers, with deviations that do not depend on what is seen: Box.

    The numbers between -1 and 1 are the bounds' range, and what lies beyond is clipped; without
    bounds they are taken as they are.

    Args:
        space: of the actions.
    """

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self.space = space
        self.size = self.parts = int(np.prod(space.shape))
        self.whole_size, self.kind = 2 * self.size, torch.float32
        self.log_deviation_A = nn.Parameter(torch.zeros(self.size))
        self.low_A, self.high_A = (
            np.asarray(bound, dtype=np.float64).ravel() for bound in (space.low, space.high)
        )
        self.bounded_A = np.isfinite(self.low_A) & np.isfinite(self.high_A)

    def sample(self, mean_BS: Tensor, generator: torch.Generator) -> Tensor:
        """Draw actions, `[B, A]`."""
        drawn = torch.randn(mean_BS.shape, generator=generator).to(mean_BS)
        return mean_BS + drawn * self.log_deviation_A.exp()

    def best(self, mean_BS: Tensor) -> Tensor:
        """Return the likeliest actions, `[B, A]`."""
        return mean_BS

    def log_prob(self, mean_BS: Tensor, action_BA: Tensor) -> Tensor:
        """Return the log-density, `[B]`."""
        return self.log_prob_whole(self.whole(mean_BS), action_BA)

    def entropy(self, mean_BS: Tensor) -> Tensor:
        """Return the differential entropy in nats, `[B]`."""
        each_A = self.log_deviation_A + 0.5 * math.log(2 * math.pi * math.e)
        return each_A.sum().expand(mean_BS.shape[:-1])

    def whole(self, mean_BS: Tensor) -> Tensor:
        """Return what describes the distribution: means and logarithms of deviations, `[B, W]`."""
        return torch.cat([mean_BS, self.log_deviation_A.expand_as(mean_BS)], dim=-1)

    def log_prob_whole(self, whole_BW: Tensor, action_BA: Tensor) -> Tensor:
        """Return the log-density, `[B]`, under what `whole` described."""
        mean_BA, log_deviation_BA = whole_BW.chunk(2, dim=-1)
        far_BA = (action_BA - mean_BA) / log_deviation_BA.exp()
        each_BA = -0.5 * far_BA.square() - log_deviation_BA - 0.5 * math.log(2 * math.pi)
        return each_BA.sum(dim=-1)

    def divergence(self, then_BW: Tensor, mean_BS: Tensor) -> Tensor:
        """Return KL(then || now) in nats, `[B]`, from what `whole` described then."""
        then_BA, log_then_BA = then_BW.chunk(2, dim=-1)
        wider_BA = self.log_deviation_A - log_then_BA
        far_BA = (then_BA - mean_BS).square() / (2 * self.log_deviation_A).exp()
        each_BA = wider_BA + 0.5 * ((-2 * wider_BA).exp() + far_BA - 1)
        return each_BA.sum(dim=-1)

    def native(self, action_BA: Tensor) -> np.ndarray:
        """Return actions as the environments take them, within their bounds."""
        chosen = action_BA.double().cpu().numpy()
        low_A = np.where(self.bounded_A, self.low_A, -1.0)
        high_A = np.where(self.bounded_A, self.high_A, 1.0)
        inside = low_A + (np.clip(chosen, -1, 1) + 1) / 2 * (high_A - low_A)
        free = np.clip(chosen, self.low_A, self.high_A)
        shaped = np.where(self.bounded_A, inside, free).reshape(-1, *self.space.shape)
        return np.asarray(shaped.astype(self.space.dtype))


def actions_of(space: spaces.Space[Any]) -> Choices | Numbers:
    """Return the distribution of a space's actions.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(space, spaces.Box):
        return Numbers(space)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return Choices(space)
    raise ValueError(f"No agent here moves {space}: Discrete, MultiDiscrete, MultiBinary or Box.")


def _sizes(space: spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary) -> list[int]:
    """Return how many there are to choose from, in each part of an action."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.ravel()]
    return [2] * int(np.prod(space.shape))
