"""Learning in parts, through a stated length, in mixed precision, with optimisers of PyTorch."""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import hydra.utils
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.agents.learner import QuestionLearner
from stillknows.agents.remembering import Marked
from stillknows.agents.thought import Thought
from stillknows.envs.tasks import Task, make

TINY = ("debug=tiny", "stream.episodes=16", "stream.exam_episodes=8")
ALONE = (*TINY, "arm=none")


def built(config: DictConfig) -> tuple[MemoryAgent, QuestionLearner, list[Task]]:
    torch.manual_seed(0)
    tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    agent = build_agent(config, tasks)
    return agent, hydra.utils.instantiate(config.learner, agent, seed=0), tasks


def lived(*overrides: str, updates: int = 4, rows: int = 8) -> tuple[list[float], list[Tensor]]:
    """Return the losses of some updates and the weights after them."""
    agent, learner, tasks = built(compose_config([*ALONE, *overrides]))
    part = rows // learner.accumulate
    envs = make(tasks[0], part, tasks[0].train)
    learner.begin(updates)
    losses = []
    for update in range(updates):
        for first in range(0, rows, part):
            if first:
                learner.part()
            episode = update * rows + first
            live(agent, envs, learner, task=0, seed=episode, options={"episode": episode})
        losses.append(learner.update().loss)
    return losses, [p.detach().clone() for p in agent.parameters()]


@pytest.mark.parametrize("policy", ["evict_oldest", "retention"])
def test_a_batch_in_parts_is_the_same_batch(policy: str) -> None:
    options = (f"working_policy={policy}", "learner.write_cost=0.1", "learner.matrix_rate=0")
    whole, weights = lived(*options)
    parts, others = lived(*options, "learner.accumulate=4")
    assert whole[0] != whole[-1]
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)
    for one, other in zip(weights, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::SyntaxWarning")
def test_parts_must_divide_the_rows(tmp_path: Any) -> None:
    from stillknows.agents.lifetime import live_lifetime

    config = compose_config([*TINY, "rows=8", "learner.accumulate=3"])
    with pytest.raises(ValueError, match="does not divide rows=8"):
        live_lifetime(config, tmp_path, lambda *_: None)
    with pytest.raises(Exception, match="=0 should be a whole number, at least 1"):
        built(compose_config([*TINY, "learner.accumulate=0"]))


class Cutting:
    """Listens like a learner, and takes the gradient of every part on its own."""

    def __init__(self, agent: MemoryAgent, horizon: int | None) -> None:
        self.agent, self.horizon = agent, horizon
        self.losses: list[Tensor] = []
        self.total = {n: torch.zeros_like(p) for n, p in agent.named_parameters()}
        self.questions = 0

    def mark(self, thought: Thought, marked: Marked) -> None:
        targets = self.agent.answer_tokens(marked.targets)
        self.losses.append(self.agent.surprise(thought, targets)[0])

    def part(self) -> None:
        weights = {n: p for n, p in self.agent.named_parameters() if p.requires_grad}
        if self.losses:
            loss = torch.cat(self.losses)
            self.questions += len(loss)
            found = torch.autograd.grad(loss.sum(), list(weights.values()), allow_unused=True)
            for name, grad in zip(weights, found, strict=True):
                if grad is not None:
                    self.total[name] += grad
        self.losses = []


def gradients(horizon: int | None, rows: int = 8) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the mean gradient as the learner takes it, and part by part."""
    agent, learner, tasks = built(
        compose_config([*ALONE, f"learner.horizon={horizon or 'null'}", "learner.clip=1e9"])
    )
    twin = Cutting(copy.deepcopy(agent), horizon)
    envs = make(tasks[1], rows, tasks[1].train)
    taken: dict[str, Tensor] = {}

    def keep(step: Callable[[], None]) -> None:
        taken.update({n: p.grad.clone() for n, p in agent.named_parameters() if p.grad is not None})
        step()

    learner.optimizer.step = partial(keep, learner.optimizer.step)  # type: ignore[method-assign]
    learner.begin(1)
    live(agent, envs, learner, task=0, seed=0)
    learner.update()
    live(twin.agent, envs, twin, task=0, seed=0)
    twin.part()
    return taken, {n: total / twin.questions for n, total in twin.total.items()}


def test_gradients_go_back_through_the_stated_steps_and_no_further() -> None:
    whole, expected = gradients(None)
    for name, grad in whole.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-6)
    cut, expected = gradients(3)
    for name, grad in cut.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-6)
    far, _ = gradients(10_000)
    for name, grad in far.items():
        torch.testing.assert_close(grad, whole[name], rtol=1e-4, atol=1e-6)
    assert max((cut[name] - whole[name]).abs().max().item() for name in whole) > 1e-5


# --- Optimisers and schedules ------------------------------------------------------------------


def rates(schedule: Callable[..., Any], updates: int) -> list[list[float]]:
    """Return the learning rate of every part before each update of two experiences."""
    agent, _, tasks = built(compose_config(ALONE))
    learner = QuestionLearner(agent, schedule=schedule)
    envs = make(tasks[0], 2, tasks[0].train)
    seen = []
    for _ in range(2):
        learner.begin(updates)
        for _ in range(updates):
            seen.append([group["lr"] for group in learner.optimizer.param_groups])
            live(agent, envs, learner, task=0, seed=0)
            learner.update()
    return seen


def test_a_schedule_of_pytorch_begins_anew_in_each_experience() -> None:
    seen = rates(partial(CosineAnnealingLR, eta_min=0.0), updates=4)
    expected = [0.5 * (1 + math.cos(math.pi * n / 4)) for n in range(4)] * 2
    for number, height in enumerate(expected):
        assert seen[number] == pytest.approx([r * height for r in (0.004, 0.004, 0.006)])
    falling = rates(partial(LinearLR, start_factor=1.0, end_factor=0.5), updates=4)
    assert [row[0] for row in falling[:4]] == pytest.approx([0.004, 0.0035, 0.003, 0.0025])
    cycle = rates(partial(OneCycleLR, max_lr=0.01, total_steps=9), updates=4)
    assert max(row[0] for row in cycle) <= 0.01


def test_an_optimizer_of_pytorch_takes_the_place_of_ours() -> None:
    config = compose_config(
        [
            *ALONE,
            "learner.optimizer={_target_: torch.optim.SGD, _partial_: true, lr: 0.5}",
            "learner.schedule={_target_: torch.optim.lr_scheduler.ConstantLR, _partial_: true, "
            "factor: 1.0}",
            "learner.clip=1e9",
        ]
    )
    agent, learner, tasks = built(config)
    old = {n: p.detach().clone() for n, p in agent.named_parameters()}
    learner.begin(1)
    live(agent, make(tasks[0], 4, tasks[0].train), learner, task=0, seed=0)
    loss = torch.cat(learner._losses).mean()
    weights = {n: p for n, p in agent.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(loss, list(weights.values()), retain_graph=True, allow_unused=True)
    learner.update()
    for (name, weight), grad in zip(weights.items(), grads, strict=True):
        moved = old[name] if grad is None else old[name] - 0.5 * grad
        torch.testing.assert_close(weight.detach(), moved, rtol=1e-5, atol=1e-7)


# --- Mixed precision ---------------------------------------------------------------------------


@pytest.mark.parametrize("controller", ["transformer", "lstm", "longformer", "transformer_xl"])
def test_mixed_precision_is_near_and_weights_stay_whole(controller: str) -> None:
    agent, learner, tasks = built(
        compose_config([*TINY, f"controller={controller}", "agent.precision=bfloat16"])
    )
    exact = copy.deepcopy(agent)
    exact.precision = "float32"
    logits = []
    for one in (agent, exact):
        state = one.initial_state(1)
        _, state, _ = one.step(("mary went to the garden .",), (False,), state)
        _, _, thought = one.step(("where is mary ?",), (True,), state)
        assert thought is not None
        assert thought.fused_BD.dtype == torch.float32
        logits.append(one.log_probabilities(thought, one.answer_tokens(["garden"]))[0])
    assert 0 < (logits[0] - logits[1]).abs().max() < 0.1 * logits[1].abs().max()
    learner.begin(2)
    envs = make(tasks[0], 4, tasks[0].train)
    for _ in range(2):
        live(agent, envs, learner, task=0, seed=0)
        assert math.isfinite(learner.update().loss)
    assert {p.dtype for p in agent.parameters()} == {torch.float32}


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="choose float32 or bfloat16"):
        built(compose_config([*TINY, "agent.precision=float8"]))
