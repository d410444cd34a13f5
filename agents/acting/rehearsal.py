"""Rehearsal of experience beside PPO: cloning of what was done, or learning from it once more.

`clone` holds the agent to what it would have done and expected when it last lived there (Wolczyk
et al. 2022, "Disentangling Transfer in Continual Reinforcement Learning", who clone what was done
before; the values as in CLEAR). It rehearses what is older than what is lived now; of what is lived
now it knows more with every update, and `Experience.refresh` writes that over what is kept.

`replay` learns from any stretch once more, by an actor and a critic corrected for what the policy
would do now (V-trace, Espeholt et al. 2018, arXiv:1802.01561, equation 1); `clear` adds the cloning
of policy and value, whatever the spaces (CLEAR, Rolnick et al. 2019, arXiv:1811.11682).

Letters: L steps of a stretch, M stretches.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stillknows.agents.acting.control_agent import ControlAgent, Thoughts
from stillknows.agents.acting.experience import Remembered, think_again
from stillknows.memory import expect

KINDS = ("clone", "replay", "clear")


class Corrected(NamedTuple):
    """What V-trace makes of stretches, `[L, M]` each, without history.

    Attributes:
        target_LM: of the critic.
        advantage_LM: of what was done.
    """

    target_LM: Tensor
    advantage_LM: Tensor


class Rehearsal:
    """The loss of what is rehearsed.

    Args:
        kind: clone, replay or clear.
        cloning: weight of KL(then || now) of the policy.
        value_cloning: weight of half the squared distance of the values.
        learning: weight of the actor and the critic (`replay`, `clear`).
        entropy: weight of the entropy beside them.

    Raises:
        ValueError: if there is no such kind.
    """

    def __init__(
        self,
        kind: str = "clone",
        cloning: float = 1.0,
        value_cloning: float = 0.5,
        learning: float = 1.0,
        entropy: float = 0.01,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"learner.rehearsal.kind={kind}: choose one of {', '.join(KINDS)}.")
        expect.number(0, cloning=cloning, value_cloning=value_cloning)
        expect.number(0, learning=learning, entropy=entropy)
        self.kind, self.cloning, self.value_cloning = kind, cloning, value_cloning
        self.learning, self.entropy = learning, entropy

    def loss(
        self,
        agent: ControlAgent,
        remembered: Sequence[Remembered],
        unit_of: Callable[[str], float],
        discount: float,
    ) -> Tensor:
        """Return the loss of stretches, a mean over them.

        Args:
            agent: who rehearses.
            remembered: stretches, of each pair of spaces together; at least one.
            unit_of: what rewards and values are divided by, by the name of the spaces.
            discount: gamma.
        """
        total, count = torch.zeros((), device=agent.device), 0
        for each, thoughts in zip(remembered, think_again(agent, remembered), strict=True):
            unit, stretches = unit_of(each.signature), each.reward_LM.shape[1]
            total = total + stretches * self._of(agent, each, thoughts, unit, discount)
            count += stretches
        return total / count

    def _of(
        self,
        agent: ControlAgent,
        then: Remembered,
        now: Thoughts,
        unit: float,
        discount: float,
    ) -> Tensor:
        loss = torch.zeros((), device=agent.device)
        if self.kind != "replay":
            loss = loss + self._cloned(agent, then, now, unit)
        if self.kind != "clone":
            loss = loss + self.learning * self._learned(agent, then, now, unit, discount)
        return loss

    def _cloned(self, agent: ControlAgent, then: Remembered, now: Thoughts, unit: float) -> Tensor:
        actions = agent.body(then.signature).actions
        apart = actions.divergence(then.policy_LMW, now.parameters_BS).mean()
        far = 0.5 * (now.value_B - then.value_LM / unit).square().mean()
        return self.cloning * apart + self.value_cloning * far

    def _learned(
        self, agent: ControlAgent, then: Remembered, now: Thoughts, unit: float, discount: float
    ) -> Tensor:
        actions = agent.body(then.signature).actions
        log_prob_LM = actions.log_prob(now.parameters_BS, then.action_LMA)
        log_then_LM = actions.log_prob_whole(then.policy_LMW, then.action_LMA)
        corrected = v_trace(
            log_prob_LM - log_then_LM, then.reward_LM / unit, now.value_B, then.after_LM / unit,
            then.ended_LM, discount,
        )  # fmt: skip
        value = 0.5 * (now.value_B - corrected.target_LM).square().mean()
        entropy = actions.entropy(now.parameters_BS).mean()
        policy = -(corrected.advantage_LM * log_prob_LM).mean()
        return policy + 0.5 * value - self.entropy * entropy


@torch.no_grad()
def v_trace(
    log_ratio_LM: Tensor,
    reward_LM: Tensor,
    value_LM: Tensor,
    after_LM: Tensor,
    ended_LM: Tensor,
    discount: float,
) -> Corrected:
    """Return V-trace targets and advantages with both weights cut at 1.

    `v_s = V_s + sum_t gamma^(t-s) (prod c) d_t`, `d_t = rho_t (r_t + gamma V_(t+1) - V_t)`, and
    the advantage is `rho_s (r_s + gamma v_(s+1) - V_s)`. What follows the last step of a stretch
    that goes on is not known: its target is V itself, and its advantage 0.

    Args:
        log_ratio_LM: log-probability of what was done, now less then.
        reward_LM: r.
        value_LM: V as it is now.
        after_LM: where a step ended the episode, V of what came after.
        ended_LM: where that was; bool.
        discount: gamma.
    """
    rho_LM = log_ratio_LM.exp().clamp(max=1)
    following_LM = torch.where(ended_LM, after_LM, value_LM.roll(-1, 0))
    known_LM = torch.ones_like(ended_LM)
    known_LM[-1] = ended_LM[-1]
    error_LM = known_LM * rho_LM * (reward_LM + discount * following_LM - value_LM)
    target_LM, later_M = torch.empty_like(value_LM), torch.zeros_like(value_LM[0])
    for step in reversed(range(len(value_LM))):
        later_M = error_LM[step] + discount * rho_LM[step] * ~ended_LM[step] * later_M
        target_LM[step] = value_LM[step] + later_M
    beyond_LM = torch.where(ended_LM, after_LM, target_LM.roll(-1, 0))
    advantage_LM = known_LM * rho_LM * (reward_LM + discount * beyond_LM - value_LM)
    return Corrected(target_LM, advantage_LM)
