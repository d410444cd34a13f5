"""What all tests share: one thread, so that runs are equal, and a tiny configuration."""

import pytest
import torch
from omegaconf import DictConfig

from stillknows.agents.train import compose_config

torch.set_num_threads(1)

TINY = ("debug=tiny", "stream.episodes=16", "stream.exam_episodes=8")


@pytest.fixture
def tiny() -> DictConfig:
    return compose_config(TINY)
