"""Baselines that project gradients, share out weights, or keep answers and examples."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from baseline_lives import (
    Life,
    Losses,
    begin,  # noqa: F401
    live,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.memory.episodic import Candidates
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import Balanced, EvictUniformly

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Avalanche's imports

    from stillknows.agents.baselines.clear import CLEAR
    from stillknows.agents.baselines.gradient_memory import AGEM, GEM
    from stillknows.agents.baselines.packnet import PackNet
    from stillknows.agents.baselines.shrink_and_perturb import ShrinkAndPerturb


pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]


def point(life: Life, gradient: torch.Tensor) -> None:
    """Make this the gradient of all weights."""
    parts = gradient.split([w.numel() for w in life.agent.parameters()])
    for weight, part in zip(life.agent.parameters(), parts, strict=True):
        weight.grad = part.view_as(weight).clone()


def pointed(life: Life) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in life.agent.parameters()])


def test_agem_never_goes_against_the_mean_stored_gradient(begin: Any) -> None:
    plugin = AGEM(patterns=12, sample=4, story_shape=(16, 12))
    life = begin(plugin)
    life.train(2)
    assert plugin.nbytes == 2 * 12 * 2 * (16 * 12 + life.agent.answer_length)
    life.strategy.clock.train_iterations = 6
    plugin.before_training_iteration(life.strategy)
    stored = plugin.reference_gradients
    assert float(stored.norm()) > 0
    noise = torch.randn(len(stored), generator=torch.Generator().manual_seed(0))
    sideways = noise - (noise @ stored) / (stored @ stored) * stored
    for share, left in ((-0.5, 0.0), (0.5, 0.5)):
        point(life, share * stored + sideways)
        plugin.after_backward(life.strategy)
        torch.testing.assert_close(pointed(life), left * stored + sideways, atol=1e-4, rtol=1e-3)


def test_gem_goes_against_no_experience(begin: Any) -> None:
    plugin = GEM(patterns=6, memory_strength=0.0, story_shape=(16, 12))
    life = begin(plugin)
    life.train(2)
    assert plugin.nbytes == 2 * 6 * (2 * (16 * 12 + life.agent.answer_length) + 8)
    life.strategy.clock.train_exp_counter = 2
    plugin.before_training_iteration(life.strategy)
    stored = plugin.G.double()
    assert len(stored) == 2
    against = -(stored[0] / stored[0].norm() + stored[1] / stored[1].norm()).float()
    point(life, against)
    plugin.after_backward(life.strategy)
    now = stored @ pointed(life).double()
    assert float((stored @ against.double()).max()) < 0
    assert float(now.min()) > -1e-2 * float(stored.norm())
    point(life, -against)
    plugin.after_backward(life.strategy)
    torch.testing.assert_close(pointed(life), -against)


def test_packnet_answers_every_task_as_right_after_it(tmp_path: Path) -> None:
    events = live(tmp_path / "life", "arm=packnet", "working_policy=evict_oldest")
    assert events[0]["protocol"] == "identity told"
    exams = [e for e in events if e["event"] == "examination" and e["arm"] == "agent"]
    seen: dict[int, set[float]] = {}
    for exam in exams:
        if exam["after"] > exam["task"]:
            seen.setdefault(exam["task"], set()).add(exam["loss"])
    assert {task: len(losses) for task, losses in seen.items()} == dict.fromkeys(range(5), 1)


def test_packnet_gives_every_task_its_share(begin: Any) -> None:
    plugin = PackNet()
    life = begin(plugin)
    life.train(5)
    name = max(life.weights, key=lambda n: life.weights[n].numel())
    shares = plugin.owner[name].flatten().bincount(minlength=6) / plugin.owner[name].numel()
    np.testing.assert_allclose(shares, [0, 0.2, 0.2, 0.2, 0.2, 0.2], atol=0.01)
    assert plugin.nbytes == sum(w.numel() for w in life.weights.values())


def test_packnet_leaves_to_later_tasks_what_no_task_used(begin: Any) -> None:
    plugin = PackNet()
    life = begin(plugin)
    life.train(3)
    for owner in (o for o in plugin.owner.values() if o.dim() > 1 and o.numel() > 100):
        shares = owner.flatten().bincount(minlength=4) / owner.numel()
        assert (shares[1:] < 0.21).all()  # of five tasks
    positions = plugin.owner["controller.positions"]
    assert (positions[-1] < 2).all()  # no text is as long: after the first pruning it is 0


def test_packnet_counts_more_tasks_than_a_byte_does(begin: Any) -> None:
    plugin = PackNet()
    life = begin(plugin)
    life.strategy.experience = next(life.experiences)
    life.strategy.experience.origin_stream = range(200)
    plugin.before_training_exp(life.strategy)
    plugin.number = 199
    plugin._prune(life.agent, 0.5)
    assert int(plugin.owner["controller.positions"].max()) == 199


def test_shrink_and_perturb_by_hand(begin: Any) -> None:
    plugin = ShrinkAndPerturb(shrink=0.5, perturb=0.3)
    life = begin(plugin)
    first = life.weights
    plugin.before_training_exp(life.strategy)  # the first experience
    assert all(torch.equal(first[n], w) for n, w in life.weights.items())
    plugin.before_training_exp(life.strategy)
    for name, weight in life.weights.items():
        noise = weight - 0.5 * first[name]
        if noise.numel() > 900 and plugin.spreads[name] > 0:
            spread = float(first[name].std(correction=0))
            assert float(noise.std()) == pytest.approx(0.3 * spread, rel=0.1)
            assert abs(float(noise.mean())) < 0.05 * spread
    with pytest.raises(ValueError, match="share from 0 to 1"):
        ShrinkAndPerturb(shrink=2)


def test_clear_keeps_one_answer_for_every_entry(begin: Any) -> None:
    before, plugin, after = Losses(), CLEAR(cloning=1.0), Losses()
    small = ("arm=clear", "working_policy=evict_oldest", "episodic_memory.bytes=20000")
    life = begin(before, plugin, after, overrides=small)
    life.train(2)
    store = life.agent.episodic_memory
    assert len(store) == store.capacity  # entries left, and their answers with them
    assert sorted(plugin.then) == sorted(store.provenance("id").tolist())
    added = np.subtract(after.losses, before.losses)
    assert added[0] == 0
    assert (added[1:] > 0).all()
    assert all(float(logs_.exp()[0].sum()) == pytest.approx(1, abs=0.01)
               for logs_ in plugin.then.values())  # fmt: skip
    with pytest.raises(ValueError, match="CLEAR rehearses"):
        begin(CLEAR()).train()


def _offer(policy: Any, answers: list[int], capacity: int) -> list[int]:
    store = NEC(capacity, 0, 0, policy, answer_length=1, story_shape=(1, 1), identity="none")
    for first in range(0, len(answers), 3):
        some = torch.tensor(answers[first : first + 3])
        rows = len(some)
        blank = torch.zeros(rows, dtype=torch.int64)
        store.remember(
            Candidates(
                key_BD=torch.zeros(rows, 0),
                vector_BV=torch.zeros(rows, 0),
                answers_BA=some[:, None] + 5,
                story_BTL=torch.ones(rows, 1, 1, dtype=torch.int64),
                hash_B=torch.arange(first, first + rows),
                outcome_BF=torch.zeros(rows, 3),
                task_B=blank,
                episode_B=blank,
                step_B=blank,
            )
        )
    return np.bincount(store.columns["answers_NA"][:, 0].numpy() - 5, minlength=3)[:3].tolist()


def test_a_balanced_store_holds_every_answer_alike() -> None:
    answers = np.random.default_rng(0).choice(3, size=600, p=[0.8, 0.15, 0.05]).tolist()
    assert _offer(Balanced(), answers, 30) == [10, 10, 10]
    assert _offer(EvictUniformly(), answers, 30)[0] > 18


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2), min_size=12, max_size=60))
def test_a_balanced_store_is_as_even_as_what_it_met(answers: list[int]) -> None:
    held, met = _offer(Balanced(), answers, 12), np.bincount(answers, minlength=3)
    assert sum(held) == 12
    for own, given_ in zip(held, met, strict=True):
        assert own >= min(given_, max(held) - 2 * 3)  # the three of a step do not see each other
