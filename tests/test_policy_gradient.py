"""The policy gradient of memory policies, against all that could have been decided."""

import itertools
from typing import Any

import pytest
import torch
from known import Known
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from stillknows.agents.teaching.policy_learning import Baseline, Teacher, _through_reward
from stillknows.memory.interface import Decision, Features, written

PRICE = 0.8


class Coin(nn.Module):
    """Writes statement n with a probability of its own, whatever it is."""

    learns_by = "log_prob"
    explores = True
    needs_similarity = False

    def __init__(self, statements: int, told: bool = True) -> None:
        super().__init__()
        self.logit_T, self.told = nn.Parameter(torch.linspace(-0.5, 0.5, statements)), told

    def decide(self, features: Features) -> Decision:
        logit_B = self.logit_T[features.seen_B]
        kept_B = features.noise_BM[:, -1] < torch.sigmoid(logit_B)
        log_prob_B = torch.where(kept_B, logsigmoid(logit_B), logsigmoid(-logit_B))
        decision = written(features, kept_B, features.age_BN)
        return decision._replace(log_prob_B=log_prob_B) if self.told else decision


def trial_of(stories: int) -> Known:
    """Return stories of four statements, asked for the second of them after two and at the end."""
    trial = Known(stories, 4, seed=0)
    trial.items_BTD = torch.eye(4)[torch.tensor([2, 1, 0, 3])].expand(stories, 4, 4).contiguous()
    (last,) = trial.questions
    trial.questions = [last._replace(after_B=torch.full((stories,), 2)), last]
    return trial


def expected_gradient(logit_T: Tensor) -> Tensor:
    """Return that of the mean reward of both questions, over all sixteen ways to decide."""
    logit_T = logit_T.detach().double().requires_grad_()
    chance_T = torch.sigmoid(logit_T)
    total = torch.zeros((), dtype=torch.float64)
    for way in itertools.product((0.0, 1.0), repeat=4):
        kept_T = torch.tensor(way, dtype=torch.float64)
        chance = (kept_T * chance_T + (1 - kept_T) * (1 - chance_T)).prod()
        total = total + chance * 2 * (kept_T[1] - PRICE * kept_T.mean())
    return torch.autograd.grad(total, logit_T)[0]


def test_what_is_written_after_a_question_pays_the_price_of_writing_too() -> None:
    torch.manual_seed(0)
    policy, baseline = Coin(4), Baseline(4)
    for parameter in baseline.network[2].parameters():
        nn.init.zeros_(parameter)  # any baseline will do
    _through_reward(policy, baseline, trial_of(20_000), 4, PRICE).backward()
    assert policy.logit_T.grad is not None
    wanted_T = expected_gradient(policy.logit_T).float()
    torch.testing.assert_close(-policy.logit_T.grad, wanted_T, atol=0.012, rtol=0)


class Worthless(nn.Module):
    learns_by = "worth"


class Weightless:
    learns_by = "log_prob"


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (Worthless(), r"Worthless learns by worth: give it worth\(features\)"),
        (Weightless(), "Weightless has no weights"),
    ],
)
def test_who_is_taught_has_what_its_way_takes(policy: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Teacher(policy, 4)


def test_who_does_not_tell_how_likely_its_decisions_were_is_told_so() -> None:
    teacher = Teacher(Coin(4, told=False), 4)
    with pytest.raises(ValueError, match=r"Coin learns by log_prob.* has no gradient"):
        teacher.update(trial_of(2), 4)
