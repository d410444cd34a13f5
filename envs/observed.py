"""Observations as numbers: any mixture of spaces read as one flat vector, texts word by word.

This file knows nothing of environments, only of their spaces.
"""

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_CELL = 10  # the largest number in a cell of MiniGrid's image, whose space says 255


class Words(spaces.Box):
    """A text as the numbers of its words, in order, 0 where there is none.

    Numbers are hashes, so that no vocabulary need be known beforehand.

    Args:
        places: how many words count, the first ones.
        buckets: how many numbers there are, besides 0.
    """

    def __init__(self, places: int = 48, buckets: int = 1023) -> None:
        super().__init__(0, buckets, (places,), np.float32)
        self.places, self.buckets = places, buckets

    def read(self, text: str) -> Floats:
        """Return the numbers of a text, float32 `[places]`."""
        numbers = [_number(word, self.buckets) for word in text.split()[: self.places]]
        return np.array(numbers + [0] * (self.places - len(numbers)), dtype=np.float32)


def readable(space: spaces.Space[Any], grid: bool = False) -> spaces.Space[Any]:
    """Return the space of observations as they are read: texts become `Words`.

    Args:
        space: as the environment has it.
        grid: whether images are MiniGrid's, whose numbers stay far below what their space says.

    Raises:
        ValueError: if a part of it has no fixed size, or is unknown.
    """
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: readable(part, grid) for key, part in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple(tuple(readable(part, grid) for part in space.spaces))
    if isinstance(space, spaces.Box):
        small = grid and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[0] < 36
        return spaces.Box(0, _CELL, space.shape, np.uint8) if small else space
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return space
    if isinstance(space, spaces.Text) or _says_text(space):
        return Words()
    raise ValueError(
        f"Nothing reads observations of {space}: wrap the environment so that it gives Box, "
        "Discrete, MultiDiscrete, MultiBinary, Text, or a Dict or Tuple of them."
    )


def flat(space: spaces.Space[Any], observation: Any) -> Floats:
    """Return an observation of a readable space as numbers, float32 `[O]`."""
    return np.asarray(spaces.flatten(space, _read(space, observation)), dtype=np.float32)


def signature_of(observations: spaces.Space[Any], actions: spaces.Space[Any]) -> str:
    """Return a name that two pairs of spaces share exactly if they are the same.

    It tells of the spaces alone, so tasks with the same spaces are not told apart by it.
    """
    digest = hashlib.blake2b(digest_size=6)
    for part in (*_describe(observations), b"->", *_describe(actions)):
        digest.update(part)
    return digest.hexdigest()


def _says_text(space: spaces.Space[Any]) -> bool:
    """Return whether a space of another package holds texts, as MiniGrid's missions do."""
    known = type(space).__module__.startswith("gymnasium.")
    return not known and isinstance(space.sample(), str)


def _read(space: spaces.Space[Any], observation: Any) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _read(part, observation[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_read(part, o) for part, o in zip(space.spaces, observation, strict=True))
    return space.read(observation) if isinstance(space, Words) else observation


@lru_cache(maxsize=65536)
def _number(word: str, buckets: int) -> int:
    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "big") % buckets


def _describe(space: spaces.Space[Any]) -> list[bytes]:
    """Return what tells a space from others, in order."""
    if isinstance(space, spaces.Dict):
        told = [b"{"]
        for key, part in space.spaces.items():
            inside = [b"}"] if isinstance(part, spaces.Dict) else []  # one alone is known without
            told += [key.encode(), *_describe(part), *inside]
        return told
    if isinstance(space, spaces.Tuple):
        return [b"(", *(b for part in space.spaces for b in _describe(part)), b")"]
    kind = f"{type(space).__name__}{space.shape}".encode()
    if isinstance(space, spaces.Box):
        return [kind, *(bound.astype(np.float64).tobytes() for bound in (space.low, space.high))]
    if isinstance(space, spaces.Discrete):
        return [kind, f"{space.n} {space.start}".encode()]
    if isinstance(space, spaces.MultiDiscrete):
        return [kind, space.nvec.tobytes(), space.start.tobytes()]
    return [kind]
