"""Candidates that tests of stores remember."""

import torch

from stillknows.memory.episodic import Candidates


def rows(*pairs: tuple[int, int], episode: int = 0, seed: int = 0) -> Candidates:
    """Return candidates: (name of the question, answer) a row."""
    random = torch.Generator().manual_seed(seed)
    names, answers = (torch.tensor(part) for part in zip(*pairs, strict=True))
    count, whole = len(pairs), torch.arange(len(pairs))
    return Candidates(
        key_BD=torch.randn(count, 4, generator=random),
        vector_BV=torch.randn(count, 3, generator=random),
        answers_BA=answers[:, None],
        story_BTL=torch.stack([names + 1, answers, names + 1], dim=1)[:, None].repeat(1, 2, 1),
        hash_B=names,
        outcome_BF=torch.rand(count, 3, generator=random),
        task_B=whole * 0 + 1,
        episode_B=whole * 0 + episode,
        step_B=whole,
    )
