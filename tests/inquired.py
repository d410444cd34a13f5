"""A life with its last examination."""

from pathlib import Path
from typing import Any

import gymnasium
import pytest

from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import live_lifetime
from stillknows.envs.tasks import Task
from stillknows.envs.text import Story

SMALL = (
    *("debug=tiny", "stream.tasks.tasks=[where_person,count_objects]", "rows=8"),
    *("stream.episodes=16", "stream.exam_episodes=4", "stream.tasks.lag=4"),
    "episodic_memory.bytes=60000",
)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short life with everything that can be asked in the end."""
    folder = tmp_path_factory.mktemp("run") / "both-seed0"
    options = ["anatomy=true", "generalisation=[names,longer,misleading]", "agent.answer_length=1"]
    live_lifetime(compose_config([*SMALL, *options]), folder, lambda *_: None)
    return folder


def _story(task: Task, seed: int, options: dict[str, Any]) -> Story:
    env: Any = gymnasium.make(task.id, disable_env_checker=True, **task.exam).unwrapped
    env.reset(seed=seed, options=options)
    story: Story = env._story
    return story
