"""What all tests share: one thread, so that runs are equal, and properties without a clock."""

import pytest
import torch
from hypothesis import settings
from omegaconf import DictConfig

from stillknows.agents.configuration import compose_config

torch.set_num_threads(1)
settings.register_profile("stillknows", deadline=None, derandomize=True)
settings.load_profile("stillknows")

TINY = ("debug=tiny", "stream.episodes=16", "stream.exam_episodes=8")


@pytest.fixture
def tiny() -> DictConfig:
    """Return the smallest configuration with everything switched on."""
    return compose_config(TINY)
