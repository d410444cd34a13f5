"""Observations of every space are embedded by what they are; each encoder is its equation."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from stillknows.agents.acting.control import EpisodicControl, live_control
from stillknows.agents.controllers.encoder import Image, SpaceEncoder, part_encoder
from stillknows.memory.action_values import ActionValues

SPACES: dict[str, spaces.Space[Any]] = {
    "vector": spaces.Box(-2.0, 4.0, (5,)),
    "unbounded": spaces.Box(-np.inf, np.inf, (3,)),
    "image": spaces.Box(0, 255, (7, 7, 3), np.uint8),
    "large image": spaces.Box(0, 255, (4, 40, 44), np.uint8),
    "grey": spaces.Box(0.0, 1.0, (9, 8)),
    "discrete": spaces.Discrete(6, start=2),
    "several": spaces.MultiDiscrete([3, 4]),
    "bits": spaces.MultiBinary(5),
    "text": spaces.Text(8),
    "dictionary": spaces.Dict(
        {"where": spaces.Discrete(4), "seen": spaces.Box(0, 1, (2,)), "said": spaces.Text(4)}
    ),
    "nested": spaces.Tuple(
        (spaces.Dict({"a": spaces.Discrete(3), "b": spaces.MultiBinary(2)}), spaces.Discrete(2))
    ),
}


def flat(space: spaces.Space[Any], count: int) -> torch.Tensor:
    space.seed(0)
    rows = [np.asarray(spaces.flatten(space, space.sample()), np.float32) for _ in range(count)]
    return torch.from_numpy(np.stack(rows))


@pytest.mark.parametrize("name", SPACES)
def test_every_space_is_embedded_row_by_row_and_every_weight_learns(name: str) -> None:
    torch.manual_seed(0)
    encoder = SpaceEncoder(SPACES[name], 6)
    rows = flat(SPACES[name], 9)
    embedded = encoder(rows)
    assert embedded.shape == (9, 6)
    torch.testing.assert_close(embedded[3:4], encoder(rows[3:4]), rtol=1e-4, atol=1e-5)
    embedded.square().sum().backward()
    for weight_name, weight in encoder.named_parameters():
        assert weight.grad is not None, weight_name
        assert weight.grad.abs().sum() > 0, weight_name


def test_a_bounded_vector_is_scaled_and_an_unbounded_one_is_not() -> None:
    low, high = np.array([-1.0, -np.inf, 10.0]), np.array([1.0, np.inf, 30.0])
    encoder = part_encoder(spaces.Box(low, high, dtype=np.float64), 4)
    w = {name: value.detach().numpy() for name, value in encoder.named_parameters()}
    row = np.array([0.5, 7.0, 15.0], dtype=np.float32)
    scaled = np.array([0.5, 7.0, -0.5])
    hidden = np.maximum(0, w["layers.0.weight"] @ scaled + w["layers.0.bias"])
    expected = w["layers.2.weight"] @ hidden + w["layers.2.bias"]
    got = encoder(torch.from_numpy(row)[None])[0].detach().numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("last", [True, False])
def test_a_small_image_goes_through_two_convolutions(last: bool) -> None:
    torch.manual_seed(0)
    shape = (4, 5, 3) if last else (3, 4, 5)
    encoder = Image(spaces.Box(0, 255, shape, np.uint8), 6)
    picture = np.random.default_rng(0).integers(0, 256, shape)
    x = picture / 255 * 2 - 1
    x = x.transpose(2, 0, 1) if last else x
    for layer in (encoder.layers[0], encoder.layers[2]):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        out = np.zeros((len(weight), *x.shape[1:]))
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                window = padded[:, i : i + 3, j : j + 3]
                out[:, i, j] = (weight * window).sum((1, 2, 3)) + bias
        x = np.maximum(0, out)
    last_layer = encoder.layers[-1]
    expected = last_layer.weight.detach().numpy() @ x.ravel() + last_layer.bias.detach().numpy()
    row = torch.from_numpy(picture.ravel().astype(np.float32))[None]
    np.testing.assert_allclose(encoder(row)[0].detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@given(st.integers(2, 7), st.integers(-3, 3))
def test_a_choice_is_a_row_of_weights(count: int, start: int) -> None:
    space = spaces.Discrete(count, start=start)
    encoder = part_encoder(space, 4)
    for choice in range(count):
        row = torch.tensor(spaces.flatten(space, np.int64(start + choice)), dtype=torch.float32)
        expected = encoder.weight[:, choice] + encoder.bias
        torch.testing.assert_close(encoder(row[None])[0], expected)


def test_a_text_is_read_to_its_end_and_in_its_order() -> None:
    short, long = spaces.Text(4, charset="abc"), spaces.Text(9, charset="abc")
    encoder = part_encoder(short, 5)

    def embedded(space: spaces.Text, text: str) -> torch.Tensor:
        row = torch.from_numpy(spaces.flatten(space, text).astype(np.float32))
        return encoder(row[None])[0]

    torch.testing.assert_close(embedded(short, "abb"), embedded(long, "abb"))
    assert not torch.allclose(embedded(short, "ab"), embedded(short, "ba"))
    assert not torch.allclose(embedded(short, ""), embedded(short, "a"))


def test_parts_stand_where_flatten_puts_them() -> None:
    space = SPACES["dictionary"]
    assert isinstance(space, spaces.Dict)
    encoder = SpaceEncoder(space, 6)
    sample = space.sample()
    rows = torch.from_numpy(np.asarray(spaces.flatten(space, sample), np.float32))[None]
    pieces = rows.split(encoder.sizes, dim=1)
    for piece, (key, part) in zip(pieces, space.spaces.items(), strict=True):
        np.testing.assert_allclose(piece[0], spaces.flatten(part, sample[key]))


@pytest.mark.parametrize("space", [spaces.Sequence(spaces.Discrete(3)), spaces.Space((2,))])
def test_a_space_that_nobody_handles_is_one_sentence(space: spaces.Space[Any]) -> None:
    with pytest.raises(ValueError, match="Nothing encodes observations of"):
        SpaceEncoder(space, 4)


class Corridor(gymnasium.Env[Any, Any]):
    """Five places in a row, told by a dictionary of a picture and a word; the way out is right."""

    observation_space = spaces.Dict(
        {"picture": spaces.Box(0, 255, (5, 5), np.uint8), "word": spaces.Text(6)}
    )
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.turn = 0, 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = max(0, self.place + (1 if action else -1))
        self.turn += 1
        out = self.place == 4
        return self._seen(), float(out), out, self.turn >= 30, {}

    def _seen(self) -> dict[str, Any]:
        picture = np.zeros((5, 5), np.uint8)
        picture[:, self.place] = 255
        return {"picture": picture, "word": f"place{self.place}"}


def test_an_agent_lives_in_pictures_and_words() -> None:
    torch.manual_seed(0)
    space = Corridor.observation_space
    memory = ActionValues(actions=2, capacity=500, key_size=8, neighbours=5, learning_rate=1e-3)
    embed = SpaceEncoder(space, 8)
    agent = EpisodicControl(
        spaces.flatdim(space), memory, key_size=8, embed=embed, explore_for=300, replay=1000
    )
    before = [p.detach().clone() for p in embed.parameters()]
    episodes = live_control(agent, [Corridor()], steps=800)
    assert np.mean([episode.total for episode in episodes[-20:]]) > 0.9
    assert any(not torch.equal(a, b) for a, b in zip(before, embed.parameters(), strict=True))
