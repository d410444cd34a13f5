"""Recall for acting: what was done in the nearest remembered states, as far as it can be trusted.

A state is known by the last few observations of its episode, which no learning moves: the keys of
what is remembered never go stale. The K nearest say, by the inverse-distance kernel of episodic
control (Pritzel et al. 2017, equations 2 and 5), how likely each action was when the agent last
lived in their spaces. It acts by `(1 - g) p_weights + g p_store`, where the trust g is measured,
not learned: of remembered states, each asked without its own stretch, it is the share with which
the mixture makes what was done then likeliest. Where the weights have forgotten, the neighbours
foretell it better and the trust rises; where they know more than neighbours tell, it falls.

PPO learns from what its own policy did, so that in training the agent acts by its weights; recall
is for acting where nothing is learned. Only actions that are chosen (not numbers) are recalled.

Letters: B rows, L steps of a stretch, M stretches, O numbers of an observation, H observations of a
key, D = H O, N remembered steps, K neighbours, W numbers that describe a distribution.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stillknows.agents.acting.actions import Choices
from stillknows.agents.acting.control_agent import ControlAgent
from stillknows.agents.acting.experience import Remembered, think_again
from stillknows.agents.acting.players import CorePlayer, at_rest
from stillknows.memory import expect
from stillknows.memory.knn import inverse_distance_weights, nearest

_ROUNDS = 64


class Recall:
    """How is recalled.

    Args:
        window: observations of a key (H).
        neighbours: K.
        probes: how many remembered steps the trust is measured by, at most.
        delta: of the kernel.

    Raises:
        ValueError: if a number is below 1.
    """

    def __init__(
        self, window: int = 4, neighbours: int = 16, probes: int = 512, delta: float = 1e-3
    ) -> None:
        expect.whole(1, window=window, neighbours=neighbours, probes=probes)
        expect.above(0, delta=delta)
        self.window, self.neighbours, self.probes, self.delta = window, neighbours, probes, delta

    def recollect(self, agent: ControlAgent, then: Remembered | None) -> "Recollection | None":
        """Return what can be recalled of stretches, None if that is nothing."""
        if then is None or not isinstance(agent.body(then.signature).actions, Choices):
            return None
        found = Recollection(self, then)
        return found if found.measure(agent, then) else None


class Recollection:
    """Remembered steps of one pair of spaces, to be asked.

    Args:
        how: is recalled.
        then: the stretches.

    Attributes:
        trust: g; 0 until it is measured.
    """

    def __init__(self, how: Recall, then: Remembered) -> None:
        self.how, self.trust = how, 0.0
        seen_XO = then.observation_LMO.flatten(0, 1)
        self.unit_O = seen_XO.std(dim=0, correction=0).clamp(min=1e-3)
        keys_LMD, whole_LM = windows(
            then.observation_LMO / self.unit_O, then.started_LM, how.window
        )
        stretch_LM = torch.arange(whole_LM.shape[1], device=seen_XO.device).expand_as(whole_LM)
        self.keys_ND, self.policy_NW = keys_LMD[whole_LM], then.policy_LMW[whole_LM]
        self.stretch_N, self.known_LM = stretch_LM[whole_LM], whole_LM
        self.filled_N = torch.ones_like(self.stretch_N, dtype=torch.bool)

    def likely(self, key_BD: Tensor, without_B: Tensor | None = None) -> Tensor:
        """Return how likely each choice was in the nearest states, `[B, W]`.

        Args:
            key_BD: last observations, as `windows` joins them.
            without_B: of each row, the stretch that does not answer.
        """
        most = 1 if without_B is None else 1 + int(self.stretch_N.bincount().max())
        wanted = self.how.neighbours + most - 1
        distance_BK, slots_BK = nearest(key_BD, self.keys_ND, self.filled_N, wanted)
        if without_B is not None:
            own_BK = self.stretch_N[slots_BK.clamp(min=0)] == without_B[:, None]
            distance_BK = distance_BK.masked_fill(own_BK, torch.inf)
            order_BK = distance_BK.argsort(dim=1, stable=True)[:, : self.how.neighbours]
            distance_BK, slots_BK = distance_BK.gather(1, order_BK), slots_BK.gather(1, order_BK)
        weights_BK = inverse_distance_weights(distance_BK, self.how.delta)
        then_BKW = self.policy_NW[slots_BK.clamp(min=0)].exp()
        return (weights_BK[..., None] * then_BKW).sum(dim=1)

    @torch.no_grad()
    def measure(self, agent: ControlAgent, then: Remembered) -> bool:
        """Measure the trust; return whether there was anything to measure it by."""
        actions: Any = agent.body(then.signature).actions
        with at_rest(agent):
            now_LMS = think_again(agent, [then])[0].parameters_BS
        own_NW = actions.whole(now_LMS)[self.known_LM]
        every = max(1, -(-len(own_NW) // self.how.probes))
        chosen_n = torch.arange(0, len(own_NW), every)
        if self.stretch_N.unique().numel() < 2:  # type: ignore[no-untyped-call]
            return False
        likely_nW = self.likely(self.keys_ND[chosen_n], self.stretch_N[chosen_n])
        then_nW = self.policy_NW[chosen_n].exp()
        self.trust = mixing_weight(own_NW[chosen_n].exp(), likely_nW, then_nW)
        return True


class RecallingPlayer(CorePlayer):
    """An agent with a core that also asks what it did in such states, and leaves no trace.

    Args:
        agent: who acts.
        signature: of the spaces.
        recollection: what it remembers of them.
        sampled: whether actions are drawn.
        seed: of what is drawn.
    """

    def __init__(
        self,
        agent: ControlAgent,
        signature: str,
        recollection: Recollection,
        sampled: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(agent, signature, sampled, seed)
        self.recollection, self.trust = recollection, recollection.trust
        self._last_BHO = torch.zeros(0)

    def begin(self, rows: int, key_B: np.ndarray) -> None:
        """Begin with a fresh core, and with nothing seen."""
        super().begin(rows, key_B)
        known = self.recollection
        self._last_BHO = known.unit_O.new_zeros(rows, known.how.window, len(known.unit_O))

    def distribution(self, parameters_BS: Tensor, observation_BO: np.ndarray) -> Tensor:
        """Return the mixture of what the weights and the neighbours say."""
        known, actions = self.recollection, self.agent.body(self.signature).actions
        seen_B1O = torch.tensor(observation_BO, device=known.unit_O.device)[:, None] / known.unit_O
        self._last_BHO = torch.cat([self._last_BHO[:, 1:], seen_B1O], dim=1)
        own_BW = actions.whole(parameters_BS).exp()
        return torch.lerp(own_BW, known.likely(self._last_BHO.flatten(1)), self.trust).log()


class Windows(NamedTuple):
    """Keys of all steps of stretches `[L, M, D]`, and which of them are whole `[L, M]`."""

    keys_LMD: Tensor
    whole_LM: Tensor


def windows(observation_LMO: Tensor, started_LM: Tensor, size: int) -> Windows:
    """Return for every step the last observations of its episode, oldest first, 0 before it began.

    A key is whole if it lacks nothing that was seen: the stretch, or the episode in it, began no
    later than its first observation.

    Args:
        observation_LMO: what was seen.
        started_LM: where an episode began.
        size: observations of a key (H).
    """
    steps = torch.arange(len(started_LM), device=started_LM.device)
    began_LM = torch.where(started_LM, steps[:, None], -1).cummax(dim=0).values
    shown = []
    for back in reversed(range(size)):
        at_L = steps - back
        there_LM = (at_L[:, None] >= began_LM) & (at_L >= 0)[:, None]
        shown.append(torch.where(there_LM[..., None], observation_LMO[at_L.clamp(min=0)], 0.0))
    whole_LM = (began_LM >= 0) | (steps >= size - 1)[:, None]
    return Windows(torch.cat(shown, dim=2), whole_LM)


def mixing_weight(one_NW: Tensor, other_NW: Tensor, true_NW: Tensor) -> float:
    """Return the g under which `(1 - g) one + g other` is likeliest where `true` is drawn from.

    By expectation maximisation: `g <- sum true g other / ((1 - g) one + g other) / sum true`.

    Args:
        one_NW: how likely each choice is by one account.
        other_NW: by another.
        true_NW: how likely it is.
    """
    one, other, true = (part.double() for part in (one_NW, other_NW, true_NW))
    weight = 0.5
    for _ in range(_ROUNDS):
        share = weight * other / ((1 - weight) * one + weight * other).clamp(min=1e-12)
        weight = float((true * share).sum() / true.sum())
    return weight
