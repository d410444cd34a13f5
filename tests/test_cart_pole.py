"""Cart poles of many kinds against the equations of motion."""

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stillknows.envs  # noqa: F401 (registers)
from stillknows.envs.cart_pole import CartPole
from stillknows.envs.control import control_tasks, spaces_of


@given(
    st.floats(1, 20), st.floats(0.1, 2), st.floats(1, 20), st.booleans(), st.integers(0, 1),
    st.integers(0, 1000),
)  # fmt: skip
def test_a_push_does_what_the_equations_say(gravity, length, force, exchanged, action, seed):
    env = CartPole(gravity, length, -force if exchanged else force)
    before = env.reset(seed=seed)[0]
    after, reward, *_ = env.step(action)
    place, speed, angle, turning = (float(number) for number in env_state(before))
    push = force if (action == 1) != exchanged else -force
    # Florian 2007, "Correct equations for the dynamics of the cart-pole system", no friction
    cart, pole = 1.0, 0.1
    common = (push + pole * length * turning**2 * np.sin(angle)) / (cart + pole)
    turn = (gravity * np.sin(angle) - np.cos(angle) * common) / (
        length * (4 / 3 - pole * np.cos(angle) ** 2 / (cart + pole))
    )
    pull = common - pole * length * turn * np.cos(angle) / (cart + pole)
    step = 0.02
    wanted = [
        place + step * speed, speed + step * pull, angle + step * turning, turning + step * turn,
    ]  # fmt: skip
    assert np.allclose(after[:4], wanted, atol=1e-5)
    assert np.allclose(after[4:], [gravity, length, -force if exchanged else force])
    assert reward == 1.0


def env_state(observation):
    return observation[:4].astype(np.float64)


def test_with_the_other_sign_right_is_left():
    one, other = CartPole(force=12.0), CartPole(force=-12.0)
    assert np.array_equal(one.reset(seed=3)[0][:4], other.reset(seed=3)[0][:4])
    for action in (0, 1, 1, 0, 0, 1):
        assert np.array_equal(one.step(action)[0][:4], other.step(1 - action)[0][:4])


def test_all_kinds_share_their_spaces_and_have_a_threshold():
    kinds = [{"id": "stillknows/CartPole-v0", "name": str(f), "force": f} for f in (10, -10)]
    tasks = control_tasks([*kinds, "CartPole-v1"])
    assert spaces_of(tasks[0]) == spaces_of(tasks[1]) != spaces_of(tasks[2])
    assert [task.reference for task in tasks] == [195, 195, 475]
    spec = gymnasium.spec("stillknows/CartPole-v0")
    assert spec.max_episode_steps == 200
    env = gymnasium.make("stillknows/CartPole-v0", length=2.0)
    assert env.observation_space.contains(env.reset(seed=0)[0])


@pytest.mark.parametrize("wrong", [{"gravity": 0}, {"length": 2.5}, {"force": 0}, {"force": -21}])
def test_what_no_cart_pole_has_is_said(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}=.* is not above 0 and at most"):
        CartPole(**wrong)
    with pytest.raises(ValueError, match=f"{name}=.* is not above 0 and at most"):
        control_tasks([{"id": "stillknows/CartPole-v0", **wrong}])


def test_it_is_shown_as_gymnasiums_is():
    pytest.importorskip("pygame")
    env = gymnasium.make("stillknows/CartPole-v0", length=1.0, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (400, 600, 3)
    env.close()
