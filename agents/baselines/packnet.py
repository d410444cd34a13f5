"""PackNet: each task its own weights, found by pruning (Mallya and Lazebnik 2018).

Importing this module imports Avalanche.
"""

from typing import Any

import torch
from avalanche.core import BaseSGDPlugin
from torch import Tensor, nn

from stillknows.agents.strategy import Lifetime

FREE = 0


class PackNet(BaseSGDPlugin):  # type: ignore[misc]
    """Trains on what is free, prunes it to a share, trains that again, and freezes it.

    A task's share is what leaves as much to each task to come; the last keeps all. Whatever has
    one dimension learns in the first experience alone. In an examination the weights of later tasks
    are 0, for which the task's identity must be told.

    Args:
        retrain: share of an experience's updates, its last, after the pruning.
    """

    told = "identity"

    def __init__(self, retrain: float = 0.3) -> None:
        super().__init__()
        if not 0 < retrain < 1:
            raise ValueError(f"retrain={retrain} is a share of the updates, between 0 and 1.")
        self.retrain = retrain
        self.number = self.updates = 0
        self.owner: dict[str, Tensor] = {}  # of each weight the experience that uses it, from 1
        self.tasks: list[tuple[int, ...]] = []  # those of each experience
        self._fixed: dict[str, Tensor] = {}
        self._all: dict[str, Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the masks."""
        return sum(owner.nbytes for owner in self.owner.values())

    def before_training_exp(self, strategy: Lifetime, **_: Any) -> None:
        """Begin with what is free."""
        self.number += 1
        self.updates = 0
        self.tasks.append(strategy.experience.numbers)
        few = len(strategy.experience.origin_stream) <= torch.iinfo(torch.int8).max
        for name, weight in _learning(strategy.model):
            if name not in self.owner:
                self.owner[name] = torch.zeros_like(
                    weight, dtype=torch.int8 if few else torch.int16
                )
        self._fix(strategy.model, FREE)

    def after_backward(self, strategy: Lifetime, **_: Any) -> None:
        """Leave no gradient to what is fixed."""
        for name, weight in _learning(strategy.model):
            if weight.grad is not None:
                weight.grad[self._is_fixed(name, weight)] = 0

    def after_update(self, strategy: Lifetime, **_: Any) -> None:
        """Undo what momentum and decay did to what is fixed; prune when it is time."""
        self._hold(strategy.model)
        self.updates += 1
        if self.updates == max(1, round((1 - self.retrain) * strategy.learner.planned)):
            left = len(strategy.experience.origin_stream) - self.number + 1
            self._prune(strategy.model, 1 / left)

    def before_eval_exp(self, strategy: Lifetime, **_: Any) -> None:
        """Leave only the weights of the examined task and of those before it."""
        task = strategy.experience.numbers[0]
        lived = [number for number, tasks in enumerate(self.tasks, start=1) if task in tasks]
        self._all = {}
        if not lived:
            return
        for name, weight in _learning(strategy.model):
            self._all[name] = weight.detach().clone()
            later = (self.owner[name] > lived[-1]) | (self.owner[name] == FREE)
            weight.data[later & (weight.dim() > 1)] = 0

    def after_eval_exp(self, strategy: Lifetime, **_: Any) -> None:
        """Put all weights back."""
        for name, weight in _learning(strategy.model):
            if name in self._all:
                weight.data.copy_(self._all[name])
        self._all = {}

    @torch.no_grad()
    def _prune(self, model: nn.Module, share: float) -> None:
        """Keep the largest share of each matrix's free weights; the rest is 0 and free.

        What never moved from 0, such as places beyond all texts so far, is kept by no task.
        """
        for name, weight in _learning(model):
            free = self.owner[name] == FREE
            kept = round(share * int(free.sum()))
            if weight.dim() < 2 or not kept:
                continue
            least = weight[free].abs().topk(kept).values[-1]
            self.owner[name][free & (weight.abs() >= least) & (weight != 0)] = self.number
            weight[self.owner[name] == FREE] = 0
        self._fix(model, self.number)

    def _fix(self, model: nn.Module, learning: int) -> None:
        """Hold everything but what belongs to `learning`."""
        self._learning_owner = learning
        self._fixed = {name: weight.detach().clone() for name, weight in _learning(model)}

    def _is_fixed(self, name: str, weight: Tensor) -> Tensor:
        if weight.dim() < 2:
            return torch.full_like(self.owner[name], self.number > 1, dtype=torch.bool)
        return self.owner[name] != self._learning_owner

    @torch.no_grad()
    def _hold(self, model: nn.Module) -> None:
        for name, weight in _learning(model):
            fixed = self._is_fixed(name, weight)
            weight.copy_(torch.where(fixed, self._fixed[name], weight))


def _learning(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
