"""Penalties that hold weights where earlier tasks left them: L2, EWC, MAS, SI and LwF.

Each is an Avalanche plugin that adds to `strategy.loss` before the backward pass. Where Avalanche's
own works for agents that live episodes (EWC, MAS) it is used, with importances taken from answers.
Importing this module imports Avalanche. Letters: B rows, S places in an answer, V tokens of the
vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from avalanche.core import BaseSGDPlugin
from avalanche.training.plugins import EWCPlugin, MASPlugin
from avalanche.training.utils import ParamData
from torch import Tensor, nn

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.baselines.again import Asked, live_again
from stillknows.agents.strategy import Lifetime


class EWC(EWCPlugin):  # type: ignore[misc]
    """Avalanche's EWC with the Fisher information of answers (Kirkpatrick et al. 2017).

    The importance of a weight is the mean square, over episodes of the task just learned, of the
    gradient of the log-probability of their answers.

    Args:
        ewc_lambda: weight of the penalty.
        batches: how many episodes the importances are taken from.
    """

    def __init__(self, ewc_lambda: float, batches: int = 64) -> None:
        super().__init__(ewc_lambda=ewc_lambda, mode="separate")
        self.batches = batches

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept across tasks."""
        return _bytes((self.saved_params, self.importances))

    def after_training_exp(self, strategy: Lifetime, **kwargs: Any) -> None:
        """Take the importances of the experience that ends."""
        strategy.experience.dataset = strategy
        super().after_training_exp(strategy, **kwargs)
        del strategy.experience.dataset
        number = strategy.clock.train_exp_counter
        self.saved_params[number] = _of_learning(strategy.model, self.saved_params[number])

    def compute_importances(
        self,
        model: MemoryAgent,
        criterion: Any,
        optimizer: Any,
        dataset: Lifetime,
        *_: Any,
        **__: Any,
    ) -> dict[str, ParamData]:
        """Return the diagonal of the Fisher information of the answers, or of what is done."""
        if hasattr(dataset, "surprises"):  # a life of acting
            losses = dataset.surprises(self.batches)
            return _mean_gradients(model, losses, self.batches, Tensor.square)
        episodes = live_again(dataset, self.batches)
        losses = (torch.cat([asked.loss_B for asked in steps]).sum() for steps in episodes)
        return _mean_gradients(model, losses, self.batches, Tensor.square)


class L2(EWC):
    """Holds all weights alike: EWC with every importance 1, the simplest of the penalties.

    Args:
        ewc_lambda: weight of the penalty.
    """

    def __init__(self, ewc_lambda: float) -> None:
        super().__init__(ewc_lambda)

    def compute_importances(self, model: MemoryAgent, *_: Any, **__: Any) -> dict[str, ParamData]:
        """Return ones for whatever learns."""
        return _param_data({n: torch.ones_like(p).detach() for n, p in _learning(model).items()})


class MAS(MASPlugin):  # type: ignore[misc]
    """Avalanche's MAS (Aljundi et al. 2018) with the sensitivity of what is answered.

    The importance of a weight is the mean absolute gradient, over episodes of the task just
    learned, of the squared length of the probabilities of the answers' tokens.

    Args:
        lambda_reg: weight of the penalty.
        alpha: share of the earlier importances in the running mean.
        batches: how many episodes the importances are taken from.
    """

    def __init__(self, lambda_reg: float, alpha: float = 0.5, batches: int = 64) -> None:
        super().__init__(lambda_reg=lambda_reg, alpha=alpha)
        self.batches = batches

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept across tasks."""
        return _bytes((self.params, self.importance))

    def after_training_exp(self, strategy: Lifetime, **kwargs: Any) -> None:
        """Take the importances of the experience that ends."""
        super().after_training_exp(strategy, **kwargs)
        self.params: dict[str, ParamData] = _of_learning(strategy.model, self.params)

    def before_backward(self, strategy: Lifetime, **_: Any) -> None:
        """Add the penalty, from the second experience on; Avalanche's refuses a loss of 0.

        A batch that was learned from in parts has no other loss left.
        """
        learning, importance = _learning(strategy.model), self.importance or {}
        for name in (name for name in learning if name in importance):
            moved = (learning[name] - self.params[name].data).square()
            held = (importance[name].data * moved).sum()
            strategy.loss = strategy.loss + self._lambda * held

    def _get_importance(self, strategy: Lifetime) -> dict[str, ParamData]:
        lengths = (
            torch.cat([_squared_length(asked) for asked in steps]).sum()
            for steps in live_again(strategy, self.batches)
        )
        return _mean_gradients(strategy.agent, lengths, self.batches, Tensor.abs)


class SI(BaseSGDPlugin):  # type: ignore[misc]
    """Synaptic intelligence (Zenke et al. 2017): holds weights by what their path earned.

    A weight's ω is the sum over updates of -(gradient of the task's loss) · (its move); when an
    experience ends, Ω += max(0, ω) / ((move in the experience)² + ξ) (equation 5). Adds
    c Σ Ω (w - w at the end of the last experience)² (equation 4). Avalanche's own keeps no copy of
    the weights on a CPU, so that there every move is 0.

    Args:
        c: weight of the penalty.
        xi: ξ, keeps the quotient bounded.
    """

    def __init__(self, c: float, xi: float = 1e-3) -> None:
        super().__init__()
        self.c, self.xi = c, xi
        self.importance: dict[str, Tensor] = {}  # Ω
        self.earned: dict[str, Tensor] = {}  # ω
        self.start: dict[str, Tensor] = {}
        self._last: dict[str, tuple[Tensor, Tensor]] = {}  # weight and gradient before the update

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept across tasks."""
        return _bytes((self.importance, self.start))

    def before_training_exp(self, strategy: Lifetime, **_: Any) -> None:
        """Begin the path."""
        learning = _learning(strategy.model)
        self.start = {name: weight.detach().clone() for name, weight in learning.items()}
        self.earned = {name: torch.zeros_like(weight) for name, weight in self.start.items()}

    def before_backward(self, strategy: Lifetime, **_: Any) -> None:
        """Add the penalty, from the second experience on."""
        for name, weight in _learning(strategy.model).items():
            if name in self.importance:
                held = self.importance[name] * (weight - self.start[name]).square()
                strategy.loss = strategy.loss + self.c * held.sum()

    @torch.no_grad()
    def after_backward(self, strategy: Lifetime, **_: Any) -> None:
        """Keep the weights and the gradient of the task's loss, that is, without the penalty's."""
        self._last = {}
        for name, weight in _learning(strategy.model).items():
            if weight.grad is not None:
                gradient = weight.grad.clone()
                if name in self.importance:
                    gradient -= 2 * self.c * self.importance[name] * (weight - self.start[name])
                self._last[name] = weight.clone(), gradient

    @torch.no_grad()
    def after_update(self, strategy: Lifetime, **_: Any) -> None:
        """Add what the moves earned."""
        learning = _learning(strategy.model)
        for name, (weight, gradient) in self._last.items():
            self.earned[name] -= gradient * (learning[name] - weight)

    @torch.no_grad()
    def after_training_exp(self, strategy: Lifetime, **_: Any) -> None:
        """Turn what was earned into importance."""
        for name, weight in _learning(strategy.model).items():
            moved = (weight - self.start[name]).square() + self.xi
            before = self.importance.get(name, torch.zeros_like(moved))
            self.importance[name] = before + self.earned[name].clamp(min=0) / moved


class LwF(BaseSGDPlugin):  # type: ignore[misc]
    """Learning without forgetting (Li and Hoiem 2016): answers new questions as it did before.

    Adds `alpha T² KL(before || now)` of the answers' tokens at temperature T, where `before` is the
    agent as the last experience left it, asked what is asked now, with the noise of the same
    episode. Avalanche's own wants classes and a batch of images.

    Args:
        alpha: weight of the distillation.
        temperature: T, above 1 makes the unlikely count more.
    """

    def __init__(self, alpha: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__()
        self.alpha, self.temperature = alpha, temperature
        self.before: dict[str, Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept across tasks."""
        return _bytes(self.before)

    def before_training(self, strategy: Lifetime, **_: Any) -> None:
        """Refuse a learner that lets the history of its questions go before an update."""
        if strategy.learner.accumulate > 1 or strategy.learner.horizon:
            raise ValueError("LwF distils whole batches: leave accumulate at 1, horizon at null.")

    def before_backward(self, strategy: Lifetime, **_: Any) -> None:
        """Add the distillation, from the second experience on."""
        if self.before:
            terms = [self._divergence(strategy.agent, asked) for asked in strategy.learner.asked]
            strategy.loss = strategy.loss + self.alpha * torch.cat(terms).mean()

    def after_training_exp(self, strategy: Lifetime, **_: Any) -> None:
        """Keep the weights that learn: of the others no answer is another."""
        self.before = {n: p.detach().clone() for n, p in _learning(strategy.agent).items()}

    def _divergence(self, agent: MemoryAgent, asked: Asked) -> Tensor:
        """Return T² KL(before || now) of each question, `[B]`, in nats."""
        before = {f"agent.{name}": value for name, value in self.before.items()}
        given = (asked.stories, asked.target_BA, asked.key_B)
        with torch.no_grad():
            then_BSV = torch.func.functional_call(_Answering(agent), before, given)
        soft = [(z / self.temperature).log_softmax(dim=2) for z in (then_BSV, asked.logs_BSV)]
        return self.temperature**2 * divergence(soft[0], soft[1], asked.present)


def _squared_length(asked: Asked) -> Tensor:
    """Return the squared length of the probabilities at an answer's places, `[B]`."""
    return (asked.logs_BSV.exp().square().sum(dim=2) * asked.present).sum(dim=1)


class _Answering(nn.Module):
    """An agent as a function of its weights."""

    def __init__(self, agent: MemoryAgent) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, stories: Any, target_BA: Tensor, key_B: Tensor | None) -> Tensor:
        """Return the log-probabilities of the answers' tokens, `[B, S, V]`."""
        thought = self.agent.rehearse(stories, key_B)
        return self.agent.log_probabilities(thought, target_BA[:, :-1])[1]


def divergence(then_BSV: Tensor, now_BSV: Tensor, present_BS: Tensor) -> Tensor:
    """Return the sum over an answer's places of KL(then || now), `[B]`, in nats.

    Args:
        then_BSV: log-probabilities, without history.
        now_BSV: the same as they are now.
        present_BS: which places count.
    """
    apart_BS = (then_BSV.exp() * (then_BSV - now_BSV)).sum(dim=2)
    return (apart_BS * present_BS).sum(dim=1)


def _mean_gradients(
    model: nn.Module, losses: Iterator[Tensor], count: int, measure: Any
) -> dict[str, ParamData]:
    """Return the mean over `count` losses of a measure of their gradients, by weight."""
    weights = _learning(model)
    means = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                means[name] += measure(gradient) / count
    return _param_data(means)


def _learning(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _of_learning(model: nn.Module, kept: dict[str, ParamData]) -> dict[str, ParamData]:
    """Return what is kept of the weights that learn; Avalanche keeps the others too."""
    return {name: kept[name] for name in _learning(model)}


def _param_data(tensors: dict[str, Tensor]) -> dict[str, ParamData]:
    return {
        name: ParamData(name, value.shape, init_tensor=value, device=value.device)
        for name, value in tensors.items()
    }


def _bytes(tree: Any) -> int:
    """Return the bytes of all tensors in dictionaries and tuples."""
    if isinstance(tree, dict | tuple):
        return sum(map(_bytes, tree.values() if isinstance(tree, dict) else tree))
    data = tree.data if isinstance(tree, ParamData) else tree
    return data.nbytes if isinstance(data, Tensor) else 0
