"""What a lifelong store refuses to write or to be asked, each in one sentence.

Letters: B rows, X numbers of a vector, T sentences and L tokens of a story.
"""

import math

import torch
from torch import Tensor

from stillknows.memory import native


def refuse(**vectors: tuple[Tensor, int]) -> None:
    """Raise a ValueError if vectors `[B, X]` are not of their width, or are NaN or infinite.

    Numbers are looked at on the CPU only: on a GPU that would wait for each step. There a key that
    is NaN is never found, and what a query that is NaN reads is NaN.

    Args:
        vectors: by name, with the width they should have; one of width 0 is not looked at.
    """
    for name, (vector_BX, size) in vectors.items():
        if size and vector_BX.dim() != 2:
            raise ValueError(f"The {name} has the shape {list(vector_BX.shape)}: give it rows.")
        if size and vector_BX.shape[1] != size:
            raise ValueError(
                f"The {name} has {vector_BX.shape[1]} numbers where this store keeps {size}: give "
                "it vectors of its own width."
            )
        if size and vector_BX.device.type == "cpu" and not _is_finite(vector_BX.detach().float()):
            raise ValueError(
                f"The {name} is NaN or infinite, and the store is left as it is: look at the "
                "observation, the reward and the loss that it came from."
            )


def refuse_tokens(**tokens: tuple[Tensor, torch.dtype]) -> None:
    """Raise a ValueError if a token is too large for what is kept of it; looked at on the CPU only.

    Args:
        tokens: by name, of candidates, with the type that a store keeps them in.
    """
    for name, (token_BL, kept) in tokens.items():
        bounds = torch.iinfo(kept)
        if token_BL.device.type != "cpu" or not token_BL.numel():
            continue
        least, most = (int(token) for token in token_BL.long().aminmax())
        if least < bounds.min or most > bounds.max:
            way_out = ": make it with more token_bytes" if name == "story" else ""
            raise ValueError(
                f"The {name} has a token {most if most > bounds.max else least} where this store "
                f"keeps {bounds.min} to {bounds.max}{way_out}."
            )


def _is_finite(numbers: Tensor) -> bool:
    """Return whether all are: if their sum is, they are."""
    if (told := native.is_finite(numbers)) is not None:
        return told
    return math.isfinite(numbers.sum()) or bool(numbers.isfinite().all())
