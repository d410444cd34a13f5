"""What the checks of memories share: a bench to work on, faults, and what is expected of numbers.

It knows nothing of any memory; the checks are in `check_working.py` and `check_store.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

ROUNDING = {"rtol": 1e-3, "atol": 1e-4}  # what batches of other sizes may differ by
_SUM = 1e-4  # what a sum of weights may exceed 1 by


class MemoryFault(ValueError):  # noqa: N818 (a finding, not a failure of the check)
    """A memory breaks its contract; the sentence begins with the name of the check."""


class Bench(NamedTuple):
    """What a check works with.

    Attributes:
        memory: a copy that the check may spoil.
        item_size: width of an item, for a working memory.
        steps: of the long run.
        device: where the memory is.
        dtype: of items.
    """

    memory: Any
    item_size: int
    steps: int
    device: torch.device
    dtype: torch.dtype = torch.float32

    def draw(self, *shape: int, seed: int = 0) -> Tensor:
        """Return normal numbers, the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator).to(self.device, self.dtype)


def kind(tensor: Tensor) -> str:
    """Return the type and shape of a tensor in words."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def leaves(state: Any, path: str = "the state") -> dict[str, Tensor]:
    """Return the tensors of a state by their paths.

    Raises:
        MemoryFault: if a part is neither a tensor nor a NamedTuple.
    """
    if isinstance(state, Tensor):
        return {path: state}
    expect(
        hasattr(state, "_fields"),
        f"{path} is of type {type(state).__name__}; make it a tensor or a NamedTuple of tensors.",
    )
    found: dict[str, Tensor] = {}
    for name, part in zip(state._fields, state, strict=True):
        found.update(leaves(part, name if path == "the state" else f"{path}.{name}"))
    return found


def held_beside(module: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors that stand in attributes of a module and its parts, lists included."""
    for part in module.modules():
        for name, value in vars(part).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                yield from tensors_in(value)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in lists, tuples and dictionaries of anything."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)


def expect(holds: bool, sentence: str) -> None:
    """Raise a `MemoryFault` of the sentence unless something holds."""
    if not holds:
        raise MemoryFault(sentence)


def expect_same(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Expect the same names with bit for bit the same numbers; `what` ends the sentence."""
    expect(got.keys() == wanted.keys(), f"{sorted(got.keys() ^ wanted.keys())} {what}")
    for name, tensor in got.items():
        there = wanted[name].to(tensor.device)
        alike = kind(tensor) == kind(there) and torch.equal(tensor, there)
        expect(alike, f"{name} {what}")


def expect_near(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Expect the same numbers but for rounding; `what` ends the sentence."""
    expect(got.keys() == wanted.keys(), f"{sorted(got.keys() ^ wanted.keys())} {what}")
    for name, tensor in got.items():
        first, second = tensor.cpu().double(), wanted[name].cpu().double()
        alike = first.shape == second.shape and torch.allclose(
            first, second, **ROUNDING, equal_nan=True
        )
        expect(alike, f"{name} {what}")


def expect_finite(tensors: Mapping[str, Tensor | None], what: str) -> None:
    """Expect finite numbers wherever there is a tensor; `what` ends the sentence."""
    for name, tensor in tensors.items():
        finite = tensor is None or bool(tensor.isfinite().all())
        expect(finite, f"{name} is not finite {what}")


def expect_weights(weights: Tensor, where: str) -> None:
    """Expect non-negative weights that sum to at most 1 along the last dimension."""
    sums = weights.sum(dim=-1)
    if not (weights >= 0).all():
        raise MemoryFault(f"a weight {where} is {weights.min():.4g}; weights are 0 or more.")
    if not (sums <= 1 + _SUM).all():
        raise MemoryFault(
            f"weights of a read sum to {sums.max():.4g} {where}; normalise them to at most 1."
        )
