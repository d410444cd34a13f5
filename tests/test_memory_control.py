"""Memory control as an environment: its contract, and rewards counted again."""

from pathlib import Path

import gymnasium
import hydra.utils
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.persistence.keeping import save_agent
from stillknows.agents.teaching.clairvoyant import Clairvoyant, best_keeping
from stillknows.agents.teaching.memory_control import MemoryControl
from stillknows.memory.interface import ADD, MERGE, SKIP, UPDATE
from stillknows.memory.policies.rules import EvictOldest

WHERE = "stillknows/WherePerson-v0"
DIALS = {"sentences": 9, "questions": 3, "people": 2, "places": 3, "distractors": 0.3}
ID = "stillknows.agents:stillknows/MemoryControl-v0"


def played(env: MemoryControl, choose: object, seed: int) -> tuple[float, list[dict]]:
    """Return the sum of the rewards of one story, and what was told of each step."""
    env.reset(seed=seed)
    total, infos, over = 0.0, [], False
    while not over:
        _, reward, over, _, info = env.step(np.array(choose(env)))  # type: ignore[operator]
        total += reward
        infos.append(info)
    return total, infos


def oldest(env: MemoryControl) -> tuple[int, int]:
    birth = env._state.birth_BN[0]
    return ADD, int(birth.argmin())


def test_gymnasium_finds_nothing_wrong() -> None:
    env = gymnasium.make(ID, stories=WHERE, slots=3, render_mode=None, **DIALS)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.observation_space.shape == (4 * 32 + 3 * 4 + 1,)


def test_who_keeps_everything_is_paid_for_every_question() -> None:
    env = MemoryControl(WHERE, slots=9, **DIALS)
    for seed in range(5):
        assert played(env, lambda _: (ADD, 0), seed)[0] == 3.0
        assert played(env, lambda _: (SKIP, 0), seed)[0] == 0.0


def test_a_write_has_its_price() -> None:
    env = MemoryControl(WHERE, slots=9, write_cost=0.125, **DIALS)
    assert played(env, lambda _: (ADD, 0), 1)[0] == 3.0 - 9 * 0.125
    refused, infos = played(env, lambda _: (UPDATE, 2), 1)
    assert refused == 0.0
    assert all(info["refused"] for info in infos)


def test_a_plan_is_paid_what_it_is_worth() -> None:
    env = MemoryControl(WHERE, slots=2, **DIALS)
    for seed in range(8):
        env.reset(seed=seed)
        plan = best_keeping(env._trace, 2)
        policy = Clairvoyant([plan])

        def planned(env: MemoryControl, policy: Clairvoyant = policy) -> tuple[int, int]:
            state, t = env._state, env._told
            if policy.until_BT[0, t] <= t:
                return SKIP, 0
            until = [int(policy.until_BT[0, b]) if b >= 0 else -1 for b in state.birth_BN[0]]
            return ADD, int(np.argmin(until))

        assert played(env, planned, seed)[0] == plan.met


def test_observations_tell_contents_and_ages() -> None:
    env = MemoryControl(WHERE, slots=2, width=8, **DIALS)
    env.reset(seed=3)
    for _ in range(3):
        seen, *_ = env.step(np.array([ADD, 0]))
    held = seen[:16].reshape(2, 8)
    items = env._items.numpy()
    np.testing.assert_allclose(held[0], items[2], rtol=1e-6)
    np.testing.assert_allclose(held[1], items[1], rtol=1e-6)
    np.testing.assert_allclose(seen[16:24], items[3], rtol=1e-6)
    np.testing.assert_allclose(seen[24:26], 1.0)
    np.testing.assert_allclose(seen[26:28], np.log1p([1, 2]), rtol=1e-6)
    seen, *_ = env.step(np.array([MERGE, 1]))
    np.testing.assert_allclose(seen[8:16], (items[1] + items[3]) / 2, rtol=1e-5)


def test_a_reader_answers_as_in_a_trial(tmp_path: Path) -> None:
    dials = [f"stream.tasks.{name}={value}" for name, value in DIALS.items()]
    config = compose_config(
        ["arm=none", "controller.width=16", "stream.tasks.tasks=[where_person]", *dials]
    )
    torch.manual_seed(0)
    reader = build_agent(config, hydra.utils.instantiate(config.stream.tasks, _convert_="all"))
    path = tmp_path / "agent.safetensors"
    save_agent(reader, path)
    env = MemoryControl(WHERE, slots=3, reader=str(path), **DIALS)
    for seed in range(3):
        total = played(env, oldest, seed)[0]
        assert env._trial is not None
        with torch.no_grad():
            expected = env._trial.run(EvictOldest(), 3).right_BQ.sum()
        assert total == float(expected)


def test_what_cannot_be_is_said_at_once() -> None:
    with pytest.raises(ValueError, match="should be a whole number, at least 1"):
        MemoryControl(WHERE, slots=0)
    with pytest.raises(ValueError, match="tells no stories"):
        MemoryControl("CartPole-v1")


def test_a_story_that_is_told_has_no_next_statement() -> None:
    env = MemoryControl(WHERE, slots=3, **DIALS)
    played(env, oldest, 0)
    with pytest.raises(ValueError, match=r"This story is told: reset\(\) begins another\."):
        env.step(np.array((ADD, 0)))
    assert played(env, lambda _: (SKIP, 0), 1)[0] == 0.0
