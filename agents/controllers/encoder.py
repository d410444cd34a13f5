"""Encoders of observations, chosen by their space: vectors, images, choices, text, and mixtures.

An observation comes flat, as `gymnasium.spaces.flatten` leaves it, and is taken apart again by its
space. Letters: B rows, O numbers of a flat observation, D width, N numbers or characters of a part.
"""

from collections.abc import Iterator, Mapping
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from stillknows.envs.observed import Words
from stillknows.memory.memory_network import position_encoding

_ENDLESS = 1e6  # bounds beyond it are none


class SpaceEncoder(nn.Module):
    """Embeds flat observations of a space: each part on its own, then all together.

    Args:
        space: of observations; dictionaries and tuples may be nested.
        width: of the embedding (D).

    Raises:
        ValueError: if a part of the space has no fixed size (Sequence, Graph), or is unknown.
    """

    def __init__(self, space: spaces.Space[Any], width: int) -> None:
        super().__init__()
        leaves = list(_leaves(space))
        self.parts = nn.ModuleList(part_encoder(leaf, width) for leaf in leaves)
        self.sizes = [spaces.flatdim(leaf) for leaf in leaves]
        self.join = nn.Linear(len(leaves) * width, width) if len(leaves) > 1 else None

    def forward(self, flat_BO: Tensor) -> Tensor:
        """Return `[B, D]`."""
        pieces = torch.split(flat_BO, self.sizes, dim=1)
        parts = [part(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        if self.join is None:
            only_BD: Tensor = parts[0]
            return only_BD
        joined_BD: Tensor = self.join(torch.relu(torch.cat(parts, dim=1)))
        return joined_BD


class Scaled(nn.Module):
    """Numbers of a box; those with bounds are scaled to [-1, 1], the others stay."""

    low_N: Tensor
    span_N: Tensor

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        low_N, span_N = _bounds(space)
        self.register_buffer("low_N", low_N)
        self.register_buffer("span_N", span_N)

    def scaled(self, flat_BN: Tensor) -> Tensor:
        """Return `[B, N]`."""
        bounded_N = self.span_N > 0
        scaled_BN = 2 * (flat_BN - self.low_N) / torch.where(bounded_N, self.span_N, 1.0) - 1
        return torch.where(bounded_N, scaled_BN, flat_BN)


class Vector(Scaled):
    """Scaled numbers through a hidden layer."""

    def __init__(self, space: spaces.Box, width: int) -> None:
        super().__init__(space)
        self.layers = nn.Sequential(
            nn.Linear(len(self.low_N), 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )

    def forward(self, flat_BN: Tensor) -> Tensor:
        """Return `[B, D]`."""
        embedded_BD: Tensor = self.layers(self.scaled(flat_BN))
        return embedded_BD


class Image(Scaled):
    """Convolutions: those of Mnih et al. 2015 from 36 pixels on, two of 3 x 3 below.

    The channels are the last dimension where that is the smallest, else the first; an image of two
    dimensions has one.
    """

    def __init__(self, space: spaces.Box, width: int) -> None:
        super().__init__(space)
        self.shape = space.shape if len(space.shape) == 3 else (*space.shape, 1)
        self.last = self.shape[2] <= min(self.shape[:2])
        channels = self.shape[2] if self.last else self.shape[0]
        sides = self.shape[:2] if self.last else self.shape[1:]
        layers = _nature(channels) if min(sides) >= 36 else _small(channels)
        with torch.no_grad():
            size = nn.Sequential(*layers)(torch.zeros(1, channels, *sides)).shape[1]
        self.layers = nn.Sequential(*layers, nn.Linear(size, width))

    def forward(self, flat_BN: Tensor) -> Tensor:
        """Return `[B, D]`."""
        image = self.scaled(flat_BN).view(-1, *self.shape)
        embedded_BD: Tensor = self.layers(image.permute(0, 3, 1, 2) if self.last else image)
        return embedded_BD


class Characters(nn.Module):
    """An LSTM over the characters of a text, up to its end."""

    def __init__(self, space: spaces.Text, width: int) -> None:
        super().__init__()
        self.end = len(space.character_set)
        self.embedding = nn.Embedding(self.end + 1, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, flat_BN: Tensor) -> Tensor:
        """Return `[B, D]`, the state after the last character; of no text, after a blank."""
        ids_BN = flat_BN.long()
        last_B = ((ids_BN != self.end).sum(dim=1) - 1).clamp(min=0)
        hidden_BND, _ = self.lstm(self.embedding(ids_BN))
        last_BD: Tensor = hidden_BND[torch.arange(len(ids_BN), device=ids_BN.device), last_B]
        return last_BD


class WordSum(nn.Module):
    """Embeddings of words, weighed by position (Sukhbaatar et al. 2015, section 4.1) and added."""

    def __init__(self, space: Words, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(space.buckets + 1, width)

    def forward(self, flat_BN: Tensor) -> Tensor:
        """Return `[B, D]`, zeros for no text."""
        ids_BN = flat_BN.long()
        place_ND = position_encoding(ids_BN.shape[1], self.embedding.embedding_dim)
        words_BND = self.embedding(ids_BN) * (ids_BN > 0)[..., None]
        summed_BD: Tensor = (words_BND * place_ND.to(words_BND)).sum(dim=1)
        return summed_BD


@singledispatch
def part_encoder(space: Any, width: int) -> nn.Module:
    """Return the encoder of a space that is no mixture; register one for a space of your own.

    Raises:
        ValueError: if nobody handles such a space.
    """
    raise ValueError(
        f"Nothing encodes observations of {space}: wrap the environment so that it gives Box, "
        "Discrete, MultiDiscrete, MultiBinary, Text, or a Dict or Tuple of them."
    )


@part_encoder.register(spaces.Box)
def _(space: spaces.Box, width: int) -> nn.Module:
    is_image = len(space.shape) in (2, 3) and min(sorted(space.shape)[-2:]) > 2
    return Image(space, width) if is_image else Vector(space, width)


@part_encoder.register(Words)
def _(space: Words, width: int) -> nn.Module:
    return WordSum(space, width)


@part_encoder.register(spaces.Discrete)
@part_encoder.register(spaces.MultiDiscrete)
@part_encoder.register(spaces.MultiBinary)
def _(space: spaces.Space[Any], width: int) -> nn.Module:
    """One row of weights for each choice, as an embedding has; ones and zeros come in."""
    return nn.Linear(spaces.flatdim(space), width)


@part_encoder.register(spaces.Text)
def _(space: spaces.Text, width: int) -> nn.Module:
    return Characters(space, width)


def _leaves(space: spaces.Space[Any]) -> Iterator[spaces.Space[Any]]:
    """Yield the parts of a space in the order of `gymnasium.spaces.flatten`."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner = space.spaces.values() if isinstance(space.spaces, Mapping) else space.spaces
        for part in inner:
            yield from _leaves(part)
    else:
        yield space


def _bounds(space: spaces.Box) -> tuple[Tensor, Tensor]:
    """Return the lower bounds and the spans, 0 and -1 where there are none."""
    low_N = np.asarray(space.low, dtype=np.float64).ravel()
    high_N = np.asarray(space.high, dtype=np.float64).ravel()
    bounded_N = (np.abs(low_N) < _ENDLESS) & (np.abs(high_N) < _ENDLESS) & (high_N > low_N)
    span_N = np.where(bounded_N, np.where(bounded_N, high_N, 0) - np.where(bounded_N, low_N, 0), -1)
    low_N = np.where(bounded_N, low_N, 0.0)
    return torch.tensor(low_N, dtype=torch.float32), torch.tensor(span_N, dtype=torch.float32)


def _nature(channels: int) -> list[nn.Module]:
    sizes = ((channels, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1))
    convolutions = [
        layer
        for a, b, size, stride in sizes
        for layer in (nn.Conv2d(a, b, size, stride), nn.ReLU())
    ]
    return [*convolutions, nn.Flatten()]


def _small(channels: int) -> list[nn.Module]:
    first, second = nn.Conv2d(channels, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
    return [first, nn.ReLU(), second, nn.ReLU(), nn.Flatten()]
