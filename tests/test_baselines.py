"""Baselines do what their papers say, in lifetimes of this project."""

import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import hydra.utils
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.agents.assembly import build_agent
from stillknows.agents.baselines.again import live_again
from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import (
    episodes_of,
    exam_episodes_of,
    inquiry_of,
    live_lifetime,
)
from stillknows.agents.reports import log as logs
from stillknows.memory.episodic import Candidates
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import Balanced, EvictUniformly

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Avalanche's imports
    from avalanche.core import BaseSGDPlugin

    from stillknows.agents.baselines.clear import CLEAR
    from stillknows.agents.baselines.gradient_memory import AGEM, GEM
    from stillknows.agents.baselines.packnet import PackNet
    from stillknows.agents.baselines.penalties import EWC, L2, MAS, SI, LwF, divergence
    from stillknows.agents.baselines.shrink_and_perturb import ShrinkAndPerturb
    from stillknows.agents.strategy import Lifetime, Position
    from stillknows.envs.streams import make_benchmark

TINY = ("debug=tiny", "stream.episodes=24", "stream.exam_episodes=8")
NONE = ("arm=none", "working_policy=evict_oldest")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]


def live(folder: Path, *overrides: str) -> list[logs.Event]:
    live_lifetime(compose_config([*TINY, *overrides]), folder, lambda *_: None)
    return logs.read(folder)


class Life:
    """A tiny life with plugins, an experience at a time."""

    def __init__(self, folder: Path, *plugins: BaseSGDPlugin, overrides: Any = NONE) -> None:
        config = compose_config([*TINY, *overrides])
        torch.manual_seed(config.seed)
        tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
        self.agent = build_agent(config, tasks)
        learner = hydra.utils.instantiate(config.learner, self.agent, seed=0)
        self.log = logs.LifetimeLog(folder)
        self.strategy = Lifetime(
            agent=self.agent,
            learner=learner,
            inquiry=inquiry_of(config, self.agent, folder, tasks),
            log=self.log,
            rows=config.rows,
            exam_episodes=exam_episodes_of(config, tasks),
            seed=0,
            plugins=plugins,
        )
        benchmark = make_benchmark(tasks, episodes_of(config))
        self.experiences = iter(benchmark.train_stream)

    def train(self, experiences: int = 1) -> None:
        for _ in range(experiences):
            self.experience = next(self.experiences)
            self.strategy.position = Position()
            self.strategy.train(self.experience, eval_streams=[])

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        named = self.agent.named_parameters()
        return {n: p.detach().clone() for n, p in named if p.requires_grad}


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Any]:
    lives: list[Life] = []

    def begin(*plugins: BaseSGDPlugin, overrides: Any = NONE) -> Life:
        lives.append(Life(tmp_path / str(len(lives)), *plugins, overrides=overrides))
        return lives[-1]

    yield begin
    for life in lives:
        with closing(life.log):
            pass


def penalty(life: Life, plugin: BaseSGDPlugin) -> float:
    life.strategy.loss = torch.ones(())
    plugin.before_backward(life.strategy)
    return float(life.strategy.loss) - 1.0


def test_l2_is_the_squared_distance_from_where_the_last_task_ended(begin: Any) -> None:
    plugin = L2(3.0)
    life = begin(plugin)
    life.train()
    assert plugin.nbytes == 2 * sum(p.nbytes for p in life.agent.parameters())
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


class Losses(BaseSGDPlugin):  # type: ignore[misc]
    """Keeps the loss before and after what stands between two of these."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def before_backward(self, strategy: Lifetime, **_: Any) -> None:
        self.losses.append(float(strategy.loss))


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


@pytest.mark.parametrize("memory", ["slots", "sparse_slots"])
def test_the_agent_as_it_was_is_held_to_all_that_it_answered(begin: Any, memory: str) -> None:
    room = ("working_memory.slots=5", "stream.episodes=8")  # earlier questions would take some
    life = begin(overrides=(*NONE, f"working_memory={memory}", *room))
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
