"""Baselines do what their papers say, in lifetimes of this project."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from baseline_lives import (
    NONE,
    Life,
    Losses,
    begin,  # noqa: F401
    live,
)

from stillknows.agents.baselines.again import live_again

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Avalanche's imports
    from avalanche.core import BaseSGDPlugin

    from stillknows.agents.baselines.penalties import EWC, L2, MAS, SI, LwF, divergence
    from stillknows.agents.strategy import Lifetime


pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]


def penalty(life: Life, plugin: BaseSGDPlugin) -> float:
    life.strategy.loss = torch.ones(())
    plugin.before_backward(life.strategy)
    return float(life.strategy.loss) - 1.0


def test_l2_is_the_squared_distance_from_where_the_last_task_ended(begin: Any) -> None:
    plugin = L2(3.0)
    life = begin(plugin)
    life.train()
    assert plugin.nbytes == 2 * sum(w.nbytes for w in life.weights.values())
    life.strategy.clock.train_exp_counter = 1
    assert penalty(life, plugin) == pytest.approx(0.0, abs=1e-6)
    moved = 0.0
    with torch.no_grad():
        for number, weight in enumerate(w for w in life.agent.parameters() if w.requires_grad):
            weight += 0.01 * (number + 1)
            moved += weight.numel() * (0.01 * (number + 1)) ** 2
    assert penalty(life, plugin) == pytest.approx(3.0 * moved, rel=1e-3)


@pytest.mark.parametrize("kind", ["ewc", "mas"])
def test_importances_are_those_of_finite_differences(begin: Any, kind: str) -> None:
    plugin = EWC(1.0, batches=3) if kind == "ewc" else MAS(1.0, batches=3)
    life = begin(plugin)
    life.train()
    kept = plugin.importances[0] if kind == "ewc" else plugin.importance
    name = max((n for n in kept if n.startswith("fuse")), key=lambda n: kept[n].data.max())
    weight = dict(life.agent.named_parameters())[name]
    place = int(kept[name].data.argmax())

    def totals() -> np.ndarray:
        values = []
        life.strategy.experience = life.experience
        for steps in live_again(life.strategy, 3):
            if kind == "ewc":
                values.append(sum(asked.loss_B.sum().item() for asked in steps))
            else:
                values.append(
                    sum(
                        float((asked.logs_BSV.exp() ** 2).sum(2)[asked.target_BA != 0].sum())
                        for asked in steps
                    )
                )
        return np.array(values)

    step, flat = 1e-2, weight.data.view(-1)
    with torch.no_grad():
        flat[place] += step
        above = totals()
        flat[place] -= 2 * step
        below = totals()
    slopes = (above - below) / (2 * step)
    expected = (slopes**2).mean() if kind == "ewc" else np.abs(slopes).mean()
    assert float(kept[name].data.view(-1)[place]) == pytest.approx(expected, rel=0.05)


def test_mas_holds_batches_that_are_learned_from_in_parts(begin: Any) -> None:
    whole, parts = (
        begin(MAS(10.0, batches=3), overrides=(*NONE, f"learner.accumulate={count}"))
        for count in (1, 2)
    )
    for life in (whole, parts):
        life.train(2)
    for name, weight in whole.weights.items():
        torch.testing.assert_close(parts.weights[name], weight, atol=1e-3, rtol=1e-2)


def test_bytes_are_those_of_copies_of_what_learns(begin: Any) -> None:
    plugins = EWC(1.0, batches=2), MAS(1.0, batches=2), SI(1.0), LwF()
    life = begin(*plugins)
    life.train(2)
    learning = sum(weight.nbytes for weight in life.weights.values())
    assert learning < sum(weight.nbytes for weight in life.agent.parameters())  # of keys none does
    assert [plugin.nbytes / learning for plugin in plugins] == [4, 2, 2, 1]


class Heard(BaseSGDPlugin):  # type: ignore[misc]
    """Keeps the stories of all questions that are learned from."""

    def __init__(self) -> None:
        super().__init__()
        self.stories: list[tuple[str, ...]] = []

    def before_backward(self, strategy: Lifetime, **_: Any) -> None:
        self.stories += [story for asked in strategy.learner.asked for story in asked.stories]


def test_what_is_lived_again_is_what_was_lived(begin: Any) -> None:
    plugin = Heard()
    life = begin(plugin)
    for _ in range(2):
        plugin.stories.clear()
        life.train()
        life.strategy.experience = life.experience
        again = list(live_again(life.strategy, 40))
        told = {story for steps in again for asked in steps for story in asked.stories}
        assert told == set(plugin.stories)  # 24 episodes, of which 16 come again
        newest = {asked.stories[0] for asked in again[0]}
        assert newest <= set(plugin.stories[-24:])


class Followed(BaseSGDPlugin):  # type: ignore[misc]
    """Follows one weight: where it was, and the gradient there."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.at, self.gradients = name, [], []

    def before_training_exp(self, strategy: Lifetime, **_: Any) -> None:
        self.at = [self._weight(strategy)]
        self.gradients = []

    def after_backward(self, strategy: Lifetime, **_: Any) -> None:
        gradient = dict(strategy.model.named_parameters())[self.name].grad
        self.gradients.append(gradient.numpy().copy())

    def after_update(self, strategy: Lifetime, **_: Any) -> None:
        self.at.append(self._weight(strategy))

    def _weight(self, strategy: Lifetime) -> np.ndarray:
        return dict(strategy.model.named_parameters())[self.name].detach().numpy().copy()


def test_si_holds_weights_by_what_their_path_earned(begin: Any) -> None:
    name = "controller.embedding.weight"
    plugin, path = SI(c=2.0, xi=1e-2), Followed(name)
    life = begin(path, plugin, overrides=("arm=none", "working_policy=actor"))
    assert name in life.weights
    life.train()
    moves = np.diff(path.at, axis=0)
    earned = -(np.array(path.gradients) * moves).sum(axis=0)
    expected = np.maximum(earned, 0) / (moves.sum(axis=0) ** 2 + 1e-2)
    np.testing.assert_allclose(plugin.importance[name], expected, rtol=2e-3, atol=1e-7)
    assert expected.max() > 1e-3
    plugin.before_training_exp(life.strategy)
    assert penalty(life, plugin) == 0.0
    with torch.no_grad():
        dict(life.agent.named_parameters())[name].add_(0.1)
    assert penalty(life, plugin) == pytest.approx(2.0 * 0.01 * expected.sum(), rel=1e-2)


def test_si_does_not_count_the_pull_of_its_own_penalty(begin: Any) -> None:
    plugin = SI(c=2.0)
    life = begin(plugin)
    life.train()
    plugin.before_training_exp(life.strategy)
    learning = {n: w for n, w in life.agent.named_parameters() if w.requires_grad}
    for weight in learning.values():
        weight.data += 0.1
        weight.grad = None
    life.strategy.loss = torch.zeros((), requires_grad=True) * 1.0
    plugin.before_backward(life.strategy)
    life.strategy.loss.backward()
    assert max(float(w.grad.abs().max()) for w in learning.values()) > 1e-3
    plugin.after_backward(life.strategy)
    for weight in learning.values():
        weight.data += 0.1
    plugin.after_update(life.strategy)
    assert max(float(earned.abs().max()) for earned in plugin.earned.values()) < 1e-6


@pytest.mark.parametrize("arm", ["ewc", "si", "clear", "packnet"])
def test_fresh_agents_are_held_to_no_earlier_task(tmp_path: Path, arm: str) -> None:
    with pytest.raises(ValueError, match="keeps something of earlier tasks"):
        live(tmp_path / "life", f"arm={arm}", "working_policy=evict_oldest", "protocol=scratch")


def test_divergence_is_that_of_numpy() -> None:
    draw = np.random.default_rng(0)
    then, now = (draw.dirichlet(np.ones(5), size=(3, 4)) for _ in range(2))
    present = draw.random((3, 4)) < 0.6
    expected = [
        sum(
            then[b, s, v] * np.log(then[b, s, v] / now[b, s, v])
            for s in range(4)
            for v in range(5)
            if present[b, s]
        )
        for b in range(3)
    ]
    logs_ = [torch.from_numpy(np.log(part)) for part in (then, now)]
    found = divergence(logs_[0], logs_[1], torch.from_numpy(present))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_lwf_asks_the_agent_as_it_was(begin: Any) -> None:
    before, after = Losses(), Losses()
    life = begin(before, LwF(2.0), after)
    life.train(2)
    added = np.subtract(after.losses, before.losses)
    half = len(added) // 2
    np.testing.assert_allclose(added[:half], 0)  # nothing to hold to
    assert added[half] == pytest.approx(0, abs=1e-5)  # the weights are still the same
    assert (added[half + 1 :] > 1e-6).all()
    with pytest.raises(ValueError, match="leave accumulate at 1"):
        begin(LwF(), overrides=(*NONE, "learner.accumulate=2")).train()


@pytest.mark.parametrize("policy", ["evict_oldest", "evict_uniformly", "retention"])
@pytest.mark.parametrize("memory", ["slots", "sparse_slots", "dnc"])
def test_the_agent_as_it_was_is_held_to_all_that_it_answered(
    begin: Any, memory: str, policy: str
) -> None:
    room = ("working_memory.slots=5", "stream.episodes=8")  # earlier questions would take some
    parts = (f"working_memory={memory}", f"working_policy={policy}")  # some draw what leaves
    life = begin(overrides=("arm=none", *parts, *room))
    life.train()
    life.strategy.experience = life.experience
    plugin = LwF()
    with torch.no_grad():
        for weight in life.agent.fuse.parameters():  # what is read must matter
            weight.mul_(20)
        plugin.after_training_exp(life.strategy)
        for steps in live_again(life.strategy, 4):
            assert len(steps) == 3  # questions of one story
            for asked in steps:
                assert float(plugin._divergence(life.agent, asked)) < 1e-5
