"""Optimisers: Muon for the matrices beside AdamW for the rest, used as one.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) moves a matrix along its
momentum with all singular values made equal. A small agent leaves the plateaus of chained
questions several times sooner with it than with AdamW alone. This file knows nothing of agents.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from stillknows.memory import expect


class Optimizers:
    """Several optimisers of different parameters, used as one.

    Every group knows its `highest` learning rate, from which a schedule sets `lr`.

    Args:
        parts: the optimisers.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        for part in parts:
            if _asks(part.step, "closure"):
                raise ValueError(
                    f"{type(part).__name__} wants to compute losses again and again, and a batch "
                    "is lived once: choose an optimiser that moves by the gradient alone."
                )
        self.parts = parts
        for group in self.param_groups:
            group["highest"] = group["lr"]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts; what is changed in them holds."""
        return [group for part in self.parts for group in part.param_groups]

    def set_height(self, share: float) -> None:
        """Set every learning rate to a share of its highest."""
        for group in self.param_groups:
            group["lr"] = group["highest"] * share

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each part."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` returned."""
        for part, saved in zip(self.parts, state["parts"], strict=True):
            load_optimizer(part, saved)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Give an optimiser back its state, which has been a tree: without tuples, from any file.

    Raises:
        ValueError: if it is the state of an optimiser of other parameters.
    """
    for mine, group in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        for parameter, number in zip(mine["params"], group["params"], strict=True):
            shapes = [x.shape for x in _state_of(saved, number) if isinstance(x, torch.Tensor)]
            if not all(_fits(shape, parameter.shape) for shape in shapes):
                raise ValueError("The state of the optimiser is of other weights.")
        group.update({k: tuple(group[k]) for k, v in mine.items() if isinstance(v, tuple)})
    optimizer.load_state_dict(saved)


def _fits(shape: torch.Size, whole: torch.Size) -> bool:
    """Return whether numbers of this shape can belong to a weight: to each, each row, or all."""
    sizes = zip(reversed(shape), reversed(whole), strict=False)
    return len(shape) <= len(whole) and all(own in (1, size) for own, size in sizes)


def _state_of(saved: dict[str, Any], number: int) -> list[Any]:
    return list(saved["state"].get(number, {}).values())


def clip_gradient(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Shorten a gradient to a norm at most.

    Raises:
        ValueError: if it is NaN or infinite, before it has reached a weight.
    """
    if not nn.utils.clip_grad_norm_(parameters, largest).isfinite():
        raise ValueError(
            "The gradient is NaN or infinite, and no weight was moved by it: learn at a lower rate "
            "(learner.learning_rate), and look at the last losses in the log."
        )


def height(
    done: float, planned: float, warmup: int = 20, fall: float = 1.0, rest: float = 0.1
) -> float:
    """Return the share of the highest learning rate that holds after `done` of `planned` updates.

    Args:
        done: updates before this one, or seconds of a time that is planned.
        planned: all of them.
        warmup: updates over which the rate rises from 0, along a line.
        fall: share of the updates, the last, in which it falls, along half a cosine.
        rest: what is left at the end.
    """
    fallen = (done / planned - (1 - fall)) / fall if fall else 0.0
    high = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, fallen))))
    return min(1.0, (done + 1) / max(1, warmup)) * (rest + (1 - rest) * high)


def build_schedules(
    optimizer: Optimizers, schedule: Callable[..., LRScheduler], updates: int
) -> list[LRScheduler]:
    """Begin a schedule of PyTorch anew, on every part of an optimiser.

    Args:
        optimizer: its groups go back to their highest learning rates.
        schedule: takes an optimiser, such as `partial(CosineAnnealingLR, eta_min=1e-5)`. Whichever
            of T_max, total_steps and total_iters it asks for and was not given is `updates`.
        updates: how many there will be.

    Raises:
        ValueError: if it asks for what nobody gives.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["highest"]
        group.pop("initial_lr", None)
    given = getattr(schedule, "keywords", {})
    asked = inspect.signature(schedule).parameters
    length = {n: updates for n in ("T_max", "total_steps", "total_iters") if n in asked}
    missing = {name: value for name, value in length.items() if name not in given}
    try:
        made = [schedule(part, **missing) for part in optimizer.parts]
    except TypeError as error:
        raise ValueError(f"learner.schedule cannot be made: {error}.") from error
    if any(_asks(each.step, "metrics") for each in made):
        raise ValueError(
            f"{type(made[0]).__name__} waits for a metric, and an update has none: choose a "
            "schedule of updates."
        )
    return made


def _asks(step: Callable[..., Any], name: str) -> bool:
    """Return whether a step cannot be taken without an argument of this name."""
    asked = inspect.signature(step).parameters.get(name)
    return asked is not None and asked.default is inspect.Parameter.empty


def build_optimizer(
    module: nn.Module, learning_rate: float, matrix_rate: float, weight_decay: float
) -> Optimizers:
    """Return an optimiser of all weights of a module that learn.

    Args:
        module: whose parameters.
        learning_rate: of AdamW.
        matrix_rate: of Muon, which takes the weights of linear and recurrent layers; 0 leaves
            them to AdamW.
        weight_decay: of whatever has two dimensions or more.

    Raises:
        ValueError: if a rate is negative.
    """
    expect.number(
        0, learning_rate=learning_rate, matrix_rate=matrix_rate, weight_decay=weight_decay
    )
    matrices = _matrices(module) if matrix_rate else []
    taken = {id(matrix) for matrix in matrices}
    rest = [p for p in module.parameters() if p.requires_grad and id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    parts: list[Any] = [torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))]
    if matrices:
        parts.append(torch.optim.Muon(matrices, matrix_rate, weight_decay))
    return Optimizers(*parts)


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    """Return the weights of linear and recurrent layers: from vectors to vectors, both wide."""
    layers = [x for x in module.modules() if isinstance(x, nn.Linear | nn.RNNCellBase | nn.RNNBase)]
    weights = {id(p): p for layer in layers for p in layer.parameters(recurse=False)}
    return [p for p in weights.values() if p.requires_grad and p.dim() == 2 and min(p.shape) > 1]
