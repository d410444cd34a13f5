"""Recurrent PPO: proximal policy optimisation of an agent that remembers within an episode.

Schulman et al. 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347. A minibatch
holds whole stretches of rows in their order; each is thought through again from the core's state
before it, and the core begins anew where an episode does, so that before the first update every
action is exactly as likely as it was when it was taken. The learner is not told which task it
lives in, nor when another one begins.

Letters: T steps, B rows, L steps of a stretch, M stretches of a minibatch.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from stillknows.agents.acting.control_agent import ControlAgent
from stillknows.agents.acting.control_learner import NO_HOOKS, Hooks, Lived
from stillknows.agents.acting.core import build_core
from stillknows.agents.acting.experience import Experience
from stillknows.agents.acting.players import CorePlayer
from stillknows.agents.acting.recollection import Recall, RecallingPlayer
from stillknows.agents.acting.rehearsal import Rehearsal
from stillknows.agents.acting.rollout import Rollout, Stage, advantages, collect, cut, stretches_of
from stillknows.agents.acting.spread import Spread
from stillknows.agents.optimizer import clip_gradient
from stillknows.agents.persistence.container import as_state, as_tree
from stillknows.memory import expect
from stillknows.memory.episodic import Written
from stillknows.memory.interface import Policy, WorkingMemory, map_state
from stillknows.memory.nec import NEC


class Losses(NamedTuple):
    """Losses of a minibatch, each a mean over its steps.

    Attributes:
        policy: the clipped objective, negative.
        value: half the squared error of the critic.
        entropy: of the policy, in nats.
        divergence: about KL(old, new), in nats: `mean(ratio - 1 - log ratio)`.
        clipped: share of the steps whose ratio lies beyond the clip.
    """

    policy: Tensor
    value: Tensor
    entropy: Tensor
    divergence: Tensor
    clipped: Tensor


class RecurrentPPO:
    """Trains an acting agent by PPO.

    Args:
        width: of bodies and core (D).
        core: lstm, gru or none, where there is no working memory.
        memory: a working memory as the core.
        policy: of the working memory.
        horizon: steps of a row in one update (T).
        sequence: steps of a stretch, through which gradients go back (L); None for all T.
        epochs: how often each step is learned from.
        minibatches: into how many parts an epoch is cut, at most as many as there are stretches.
        learning_rate: of Adam.
        anneal: the rate falls to 0 along a line in each experience; the learner is then told where
            experiences begin.
        discount: gamma.
        trace: lambda of the advantages.
        clip: of the ratio, epsilon.
        clip_value: of the change of a value, None for no clip.
        entropy: weight of the entropy.
        value: weight of the critic's loss.
        largest_gradient: norm at which the gradient is clipped.
        largest_divergence: an update ends with the epoch in which the policy moved further than
            this, in nats; None never.
        scale_rewards: by the running deviation of returns, one for each pair of spaces.
        store_of: makes a lifelong store of vectors of so many numbers; None: nothing is kept
            beyond an episode.
        offered: stretches of an update that ask to be remembered.
        refresh: stretches that are renewed after every update.
        boundaries: whether what is to be rehearsed is told when an experience begins; else
            something else begins where the spaces change.
        rehearse: stretches that are rehearsed beside every minibatch; 0: none.
        rehearsal: how.
        recall: how what was done is recalled in examinations; None: not at all.
        seed: of weights, actions and minibatches.
        device: where it computes.

    Raises:
        ValueError: if the stretches do not divide the horizon, or a number is below 1.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        core: str = "lstm",
        memory: WorkingMemory | None = None,
        policy: Policy | None = None,
        horizon: int = 128,
        sequence: int | None = None,
        epochs: int = 4,
        minibatches: int = 4,
        learning_rate: float = 1e-3,
        anneal: bool = False,
        discount: float = 0.99,
        trace: float = 0.95,
        clip: float = 0.2,
        clip_value: float | None = None,
        entropy: float = 0.01,
        value: float = 0.5,
        largest_gradient: float = 0.5,
        largest_divergence: float | None = None,
        scale_rewards: bool = True,
        store_of: Callable[[int], NEC] | None = None,
        offered: int = 32,
        refresh: int = 512,
        boundaries: bool = True,
        rehearse: int = 0,
        rehearsal: Rehearsal | None = None,
        recall: Recall | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.horizon, self.chunk = horizon, horizon if sequence is None else sequence
        expect.whole(1, width=width, horizon=horizon, sequence=self.chunk, epochs=epochs)
        expect.whole(1, minibatches=minibatches, offered=offered)
        expect.whole(0, refresh=refresh, rehearse=rehearse)
        expect.number(0, 1, discount=discount, trace=trace)
        expect.number(0, learning_rate=learning_rate, entropy=entropy, value=value)
        expect.above(0, clip=clip, largest_gradient=largest_gradient)
        for name, bound in (("clip_value", clip_value), ("largest_divergence", largest_divergence)):
            expect.above(0, **({} if bound is None else {name: bound}))
        if horizon % self.chunk:
            raise ValueError(f"learner.sequence={sequence} does not divide horizon={horizon}.")
        self.epochs, self.minibatches, self.anneal = epochs, minibatches, anneal
        self.learning_rate, self.discount, self.trace = learning_rate, discount, trace
        self.clip, self.clip_value, self.entropy, self.value = clip, clip_value, entropy, value
        self.largest_gradient, self.largest_divergence = largest_gradient, largest_divergence
        self.scale_rewards, self.told_boundaries = scale_rewards, anneal
        self.agent = ControlAgent(build_core(core, width, memory, policy), width, seed).to(device)
        core_group = {"params": _learning(self.agent.core)}
        self.optimizer = torch.optim.Adam([core_group], learning_rate, eps=1e-5)
        self.generator = torch.Generator().manual_seed(seed)
        self.spreads: dict[str, Spread] = {}
        self.updates = self.moves = 0
        self.experience = Experience(self.agent, store_of, self.chunk) if store_of else None
        self.offered, self.rehearse, self.recall = offered, rehearse, recall
        self.refresh, self.rehearsal = refresh, rehearsal or Rehearsal()
        self.told_boundaries |= boundaries and bool(store_of) and self.rehearsal.kind == "clone"
        self.boundaries, self._lived = boundaries, ""

    def meet(self, observations: spaces.Space[Any], actions: spaces.Space[Any]) -> str:
        """Prepare for a pair of spaces; return its name."""
        known = set(self.agent.bodies)
        signature = self.agent.meet(observations, actions)
        if signature not in known:
            parameters = _learning(self.agent.body(signature))
            self.optimizer.add_param_group({"params": parameters})
            self.spreads[signature] = Spread()
        return signature

    def begin(self) -> None:
        """Hear that an experience begins."""
        if self.experience is not None and self.boundaries:
            self.experience.begin()

    def update(
        self,
        signature: str,
        stage: Stage,
        share: float = 0.0,
        hooks: Hooks = NO_HOOKS,
    ) -> Lived:
        """Live T steps in every row of a stage and learn from them.

        Args:
            signature: of the stage's spaces.
            stage: where to live.
            share: of the experience that is over; only `anneal` looks at it.
            hooks: hear of every move of the weights (Avalanche's regularisers do).
        """
        if self.experience is not None and not self.boundaries and signature != self._lived:
            self.experience.begin()
        self._lived = signature
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * (1 - share if self.anneal else 1)
        rollout = collect(self.agent, signature, stage, self.horizon, self.chunk, self.generator)
        if self.scale_rewards:
            scaled, stage.return_B = self.spreads[signature].scale(
                rollout.reward_TB, rollout.ended_TB, stage.return_B, self.discount
            )
            rollout = rollout._replace(reward_TB=scaled)
        advantage_TB = advantages(
            rollout.reward_TB, rollout.value_TB, rollout.next_value_TB, rollout.ended_TB,
            self.discount, self.trace,
        )  # fmt: skip
        numbers = self._learn(rollout, advantage_TB, hooks)
        written = self._remember(rollout, advantage_TB)
        self.updates += 1
        steps = rollout.reward_TB.numel()
        return Lived(steps, stage.take_ended(), stage.take_faults(), numbers, written)

    def player(self, signature: str, sampled: bool = False, seed: int = 0) -> CorePlayer:
        """Return who acts in examinations: by the likeliest action, or by drawing."""
        if self.recall is not None and self.experience is not None:
            known = self.recall.recollect(self.agent, self.experience.of(signature))
            if known is not None:
                return RecallingPlayer(self.agent, signature, known, sampled, seed)
        return CorePlayer(self.agent, signature, sampled, seed)

    def surprises(self, signature: str, stage: Stage, batches: int) -> Iterator[Tensor]:
        """Yield `-log p` of what is done in T steps of a stage, summed, with its gradient.

        Whoever asks how much a weight matters to what is done (EWC) squares its gradient.
        """
        generator = torch.Generator().manual_seed(self.updates)
        body = self.agent.body(signature)
        for _ in range(batches):
            rollout = collect(self.agent, signature, stage, self.horizon, self.horizon, generator)
            thoughts = self.agent.sequence(
                signature, rollout.observation_TBO, rollout.states[0], rollout.started_TB,
                rollout.key_TB,
            )  # fmt: skip
            yield -body.actions.log_prob(thoughts.parameters_BS, rollout.action_TBA).sum()

    @property
    def entries(self) -> int:
        """How many memories are kept beyond an episode."""
        return 0 if self.experience is None else len(self.experience)

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept beyond an episode, beside the weights."""
        return 0 if self.experience is None else self.experience.nbytes

    def state(self) -> dict[str, Any]:
        """Return all that another update depends on, as a tree of tensors and numbers."""
        return {
            "agent": dict(self.agent.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "spreads": {name: spread.state() for name, spread in self.spreads.items()},
            "updates": self.updates,
            "moves": self.moves,
            "lived": self._lived,
            "experience": {} if self.experience is None else self.experience.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; the same spaces were met, in the same order."""
        self.agent.load_state_dict(state["agent"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        for name, kept in state["spreads"].items():
            self.spreads[name].restore(kept)
        self.updates, self.moves = state["updates"], state.get("moves", 0)
        self._lived = state.get("lived", "")
        if self.experience is not None:
            self.experience.restore(state.get("experience", {}))

    def pack(self, carried: Any) -> Any:
        """Return what is carried from step to step as a tree."""
        return as_tree(carried)

    def unpack(self, tree: Any, rows: int) -> Any:
        """Return what `pack` made a tree of."""
        return map_state(Tensor.clone, as_state(self.agent.initial_state(rows), tree))

    def _learn(self, rollout: Rollout, advantage_TB: Tensor, hooks: Hooks) -> dict[str, float]:
        """Learn from what was lived; return means over the minibatches."""
        seen: list[tuple[float, ...]] = []
        for _ in range(self.epochs):
            first = len(seen)
            for stretches, advantage_LM in self._minibatches(rollout, advantage_TB):
                losses = self.losses(stretches, advantage_LM)
                total = losses.policy + self.value * losses.value - self.entropy * losses.entropy
                rehearsed = self._rehearsed()
                self._move(hooks.before_backward(total + rehearsed), hooks)
                seen.append(tuple(part.item() for part in (total, *losses, rehearsed)))
            moved = [numbers[4] for numbers in seen[first:]]
            if self.largest_divergence and sum(moved) / len(moved) > self.largest_divergence:
                break
        names = ("loss", "policy_loss", "value_loss", "entropy", "divergence", "clipped",
                 "rehearsed_loss")  # fmt: skip
        means = (sum(column) / len(seen) for column in zip(*seen, strict=True))
        return dict(zip(names, means, strict=True))

    def _rehearsed(self) -> Tensor:
        """Return the loss of stretches drawn from the store, 0 where nothing is rehearsed."""
        self.moves += 1
        if self.experience is None or not self.rehearse:
            return torch.zeros((), device=self.agent.device)
        drawn = self.experience.draw(self.rehearse, self.moves, old=self.rehearsal.kind == "clone")
        if not drawn:
            return torch.zeros((), device=self.agent.device)
        return self.rehearsal.loss(self.agent, drawn, self._unit, self.discount)

    def _remember(self, rollout: Rollout, advantage_TB: Tensor) -> Sequence[Written]:
        """Offer some of what was lived to the store."""
        if self.experience is None:
            return ()
        stretches = len(rollout.states) * rollout.ended_TB.shape[1]
        draws = torch.Generator().manual_seed(self.updates)
        places = torch.randperm(stretches, generator=draws)[: self.offered]
        written = self.experience.remember(
            stretches_of(rollout, places),
            cut(advantage_TB, rollout.chunk)[:, places],
            self._unit(rollout.signature),
        )
        if self.rehearsal.kind == "clone":
            self.experience.refresh(self._unit, self.refresh, self.updates)
        return written

    def _unit(self, signature: str) -> float:
        """Return what rewards of a pair of spaces are divided by."""
        return self.spreads[signature].deviation if self.scale_rewards else 1.0

    def losses(self, rollout: Rollout, advantage_TB: Tensor) -> Losses:
        """Return the losses of stretches, which are a rollout whose rows are M stretches."""
        body = self.agent.body(rollout.signature)
        thoughts = self.agent.sequence(
            rollout.signature, rollout.observation_TBO, rollout.states[0], rollout.started_TB,
            rollout.key_TB,
        )  # fmt: skip
        log_prob_TB = body.actions.log_prob(thoughts.parameters_BS, rollout.action_TBA)
        entropy = body.actions.entropy(thoughts.parameters_BS).mean()
        target_TB = advantage_TB + rollout.value_TB
        deviation = advantage_TB.std(correction=min(1, advantage_TB.numel() - 1))
        standard_TB = (advantage_TB - advantage_TB.mean()) / (deviation + 1e-8)
        log_ratio_TB = log_prob_TB - rollout.log_prob_TB
        ratio_TB = log_ratio_TB.exp()
        return Losses(
            policy=policy_loss(ratio_TB, standard_TB, self.clip),
            value=value_loss(thoughts.value_B, rollout.value_TB, target_TB, self.clip_value),
            entropy=entropy,
            divergence=(ratio_TB - 1 - log_ratio_TB).mean(),
            clipped=((ratio_TB - 1).abs() > self.clip).float().mean(),
        )

    def _minibatches(
        self, rollout: Rollout, advantage_TB: Tensor
    ) -> Iterator[tuple[Rollout, Tensor]]:
        """Yield stretches in a random order, each once."""
        rows = rollout.ended_TB.shape[1]
        stretches = len(rollout.states) * rows
        order = torch.randperm(stretches, generator=self.generator)
        for places in order.tensor_split(min(self.minibatches, stretches)):
            yield stretches_of(rollout, places), cut(advantage_TB, rollout.chunk)[:, places]

    def _move(self, loss: Tensor, hooks: Hooks) -> None:
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        hooks.after_backward()
        clip_gradient(self.agent.parameters(), self.largest_gradient)
        self.optimizer.step()
        hooks.after_step()


def policy_loss(ratio_TB: Tensor, advantage_TB: Tensor, clip: float) -> Tensor:
    """Return `-mean(min(r A, clip(r, 1 - e, 1 + e) A))` (Schulman et al. 2017, equation 7)."""
    clipped_TB = ratio_TB.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio_TB * advantage_TB, clipped_TB * advantage_TB).mean()


def value_loss(
    value_TB: Tensor, old_TB: Tensor, target_TB: Tensor, clip: float | None = None
) -> Tensor:
    """Return half the mean squared error; with a clip, the larger of it and the clipped one's."""
    error_TB = (value_TB - target_TB).square()
    if clip is not None:
        near_TB = old_TB + (value_TB - old_TB).clamp(-clip, clip)
        error_TB = torch.maximum(error_TB, (near_TB - target_TB).square())
    return 0.5 * error_TB.mean()


def _learning(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]
