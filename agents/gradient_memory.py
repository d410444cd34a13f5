"""Gradients held to what was stored: Avalanche's GEM and A-GEM for agents that live episodes.

After each experience some of its questions are stored, with their stories, as tokens; from then on
no update may raise the loss of what is stored, as far as its gradient tells. Importing this module
imports Avalanche. Letters: P patterns, T sentences and L tokens of a story, A tokens of an answer.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.plugins import AGEMPlugin, GEMPlugin
from torch import Tensor
from torch.utils.data import TensorDataset

from stillknows.agents.again import Asked, live_again
from stillknows.agents.remembering import story_tokens
from stillknows.agents.strategy import Lifetime


class AGEM(AGEMPlugin):  # type: ignore[misc]
    """Avalanche's A-GEM (Chaudhry et al. 2019): no update against the mean stored gradient.

    Args:
        patterns: questions stored of each experience.
        sample: questions drawn from what is stored, in an update.
        story_shape: the newest sentences that are stored, and tokens of each (T, L).
    """

    def __init__(self, patterns: int, sample: int = 32, story_shape: Sequence[int] = (16, 12)):
        super().__init__(patterns_per_experience=patterns, sample_size=sample)
        self.story_shape, self.nbytes = story_shape, 0

    def before_training_exp(self, strategy: Lifetime, **_: Any) -> None:
        """Let Avalanche know how answers are scored."""
        strategy._criterion = _loss(strategy)

    def after_training_exp(self, strategy: Lifetime, **kwargs: Any) -> None:
        """Store questions of the experience that ends."""
        strategy.experience.dataset, nbytes = _store(
            strategy, self.patterns_per_experience, self.story_shape
        )
        super().after_training_exp(strategy, **kwargs)
        self.nbytes += nbytes
        del strategy.experience.dataset


class GEM(GEMPlugin):  # type: ignore[misc]
    """Avalanche's GEM (Lopez-Paz and Ranzato 2017): no update against any experience's gradient.

    Args:
        patterns: questions stored of each experience; all of them are read again in every update.
        memory_strength: margin of the constraints (gamma of the paper).
        story_shape: the newest sentences that are stored, and tokens of each (T, L).
    """

    def __init__(
        self, patterns: int, memory_strength: float = 0.5, story_shape: Sequence[int] = (16, 12)
    ):
        super().__init__(patterns_per_experience=patterns, memory_strength=memory_strength)
        self.story_shape, self.nbytes = story_shape, 0

    def before_training_exp(self, strategy: Lifetime, **_: Any) -> None:
        """Let Avalanche know how answers are scored."""
        strategy._criterion = _loss(strategy)

    def after_training_exp(self, strategy: Lifetime, **kwargs: Any) -> None:
        """Store questions of the experience that ends."""
        strategy.experience.dataset, nbytes = _store(
            strategy, self.patterns_per_experience, self.story_shape
        )
        super().after_training_exp(strategy, **kwargs)
        self.nbytes += nbytes
        del strategy.experience.dataset


def _loss(strategy: Lifetime) -> Any:
    """Return the mean -log p of right answers, of the controller alone, as a criterion."""

    def mean_loss(thought: Any, answers_PA: Tensor) -> Tensor:
        return strategy.agent.surprise(thought, answers_PA.long())[1].mean()

    return mean_loss


def _store(
    strategy: Lifetime, patterns: int, story_shape: Sequence[int]
) -> tuple[AvalancheDataset[Any], int]:
    """Return questions of the experience that ends (story, answer, 0 for its task), and bytes."""
    tokenizer = strategy.agent.tokenizer
    small = torch.int16 if len(tokenizer) <= torch.iinfo(torch.int16).max else torch.int32
    flat = (pair for steps in live_again(strategy, patterns) for pair in _pairs(steps))
    stories, answers = zip(*islice(flat, patterns), strict=True)
    length = strategy.agent.answer_length
    story_PTL = story_tokens(tokenizer, stories, story_shape).to(small)
    answer_PA = torch.stack([_fit(answer, length) for answer in answers]).to(small)
    identity_P = torch.zeros(len(stories), dtype=torch.int64)  # hidden: the same for all
    data = AvalancheDataset([TensorDataset(story_PTL, answer_PA, identity_P)])
    return data, story_PTL.nbytes + answer_PA.nbytes


def _pairs(steps: Sequence[Asked]) -> Any:
    """Yield each question's story and answer tokens."""
    for asked in steps:
        yield from zip(asked.stories, asked.target_BA, strict=True)


def _fit(answer_A: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(answer_A, (0, length - len(answer_A)))
