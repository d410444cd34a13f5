"""Gradients held to what was stored: Avalanche's GEM and A-GEM for agents that live episodes.

After each experience some of its questions are stored, with their stories, as tokens; from then on
no update may raise the loss of what is stored, as far as its gradient tells. Importing this module
imports Avalanche. Letters: P patterns, T sentences and L tokens of a story, A tokens of an answer.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from avalanche.training.plugins import AGEMPlugin, GEMPlugin
from torch import Tensor

from stillknows.agents.baselines.again import live_again
from stillknows.agents.remembering import story_tokens
from stillknows.agents.strategy import Lifetime
from stillknows.memory import expect


class AGEM(AGEMPlugin):  # type: ignore[misc]
    """Avalanche's A-GEM (Chaudhry et al. 2019): no update against the mean stored gradient.

    Args:
        patterns: questions stored of each experience.
        sample: questions drawn from what is stored, in an update, of each experience as many.
        story_shape: the newest sentences that are stored, and tokens of each (T, L).
    """

    def __init__(self, patterns: int, sample: int = 32, story_shape: Sequence[int] = (16, 12)):
        expect.whole(1, patterns=patterns, sample=sample)
        super().__init__(patterns_per_experience=patterns, sample_size=sample)
        self.story_shape = tuple(story_shape)
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self.buffer_dliter = None  # what is drawn follows from the number of the update

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored."""
        return sum(part.nbytes for pair in self.buffers for part in pair)

    def before_training_iteration(self, strategy: Lifetime, **kwargs: Any) -> None:
        """Take the gradient of what is stored."""
        strategy._criterion = _loss(strategy)
        self.drawn = strategy.seed * 2**32 + strategy.clock.train_iterations
        super().before_training_iteration(strategy, **kwargs)

    def after_training_exp(self, strategy: Lifetime, **_: Any) -> None:
        """Store questions of the experience that ends."""
        self.buffers.append(_patterns(strategy, self.patterns_per_experience, self.story_shape))

    def sample_from_memory(self) -> list[Tensor]:
        """Return stories, answers, and 0 for the task of each, which is hidden."""
        draw = torch.Generator().manual_seed(self.drawn)
        each = max(1, self.sample_size // len(self.buffers))
        stories, answers = [], []
        for story_PTL, answer_PA in self.buffers:
            chosen = torch.randperm(len(story_PTL), generator=draw)[:each]
            stories.append(story_PTL[chosen])
            answers.append(answer_PA[chosen])
        identity = torch.zeros(each * len(stories), dtype=torch.int64)
        return [torch.cat(stories), torch.cat(answers), identity]


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
        expect.whole(1, patterns=patterns)
        super().__init__(patterns_per_experience=patterns, memory_strength=memory_strength)
        self.story_shape = tuple(story_shape)

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored."""
        stored = (self.memory_x, self.memory_y, self.memory_tid)
        return sum(part.nbytes for kept in stored for part in kept.values())

    def before_training_iteration(self, strategy: Lifetime, **kwargs: Any) -> None:
        """Take the gradients of what is stored."""
        strategy._criterion = _loss(strategy)
        super().before_training_iteration(strategy, **kwargs)

    def after_training_exp(self, strategy: Lifetime, **_: Any) -> None:
        """Store questions of the experience that ends."""
        number = strategy.clock.train_exp_counter
        stored = _patterns(strategy, self.patterns_per_experience, self.story_shape)
        self.memory_x[number], self.memory_y[number] = stored
        self.memory_tid[number] = torch.zeros(len(stored[0]), dtype=torch.int64)  # hidden


def _loss(strategy: Lifetime) -> Any:
    """Return the mean -log p of right answers, of the controller alone, as a criterion."""

    def mean_loss(thought: Any, answers_PA: Tensor) -> Tensor:
        return strategy.agent.surprise(thought, answers_PA.long())[1].mean()

    return mean_loss


def _patterns(strategy: Lifetime, count: int, story_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the stories `[P, T, L]` and answers `[P, A]` of questions of the experience."""
    tokenizer = strategy.agent.tokenizer
    small = torch.int16 if len(tokenizer) <= torch.iinfo(torch.int16).max else torch.int32
    stories, answers = zip(*islice(_questions(strategy, count), count), strict=True)
    length = strategy.agent.answer_length
    fitted = [torch.nn.functional.pad(a, (0, length - len(a))) for a in answers]
    return story_tokens(tokenizer, stories, story_shape).to(small), torch.stack(fitted).to(small)


def _questions(strategy: Lifetime, episodes: int) -> Iterator[tuple[Any, Tensor]]:
    """Yield each question's story and answer tokens."""
    for steps in live_again(strategy, episodes):
        for asked in steps:
            yield from zip(asked.stories, asked.target_BA, strict=True)
