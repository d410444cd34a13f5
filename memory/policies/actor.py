"""An actor over factored actions: it samples what to do, and tells how likely that was.

P(decision) = P(action) P(slot | action): the action is one of those it may take; an add into a full
memory names who leaves, an update or a merge names where. What a policy gradient needs of it
(Williams 1992, REINFORCE) is the log-probability of the whole decision; the samples come from the
noise among the features, so that decisions replay.

Letters: B rows, N slots, M = N + 1 (the candidate is last), W word size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stillknows.memory import expect
from stillknows.memory.interface import ACTIONS, ADD, SKIP, Decision, Features, one_hot, written
from stillknows.memory.policies.acting import Desk
from stillknows.memory.policies.choosing import Terms, choose
from stillknows.memory.policies.scorer import Noted, Scorer

_NEVER = -1e9  # the logit of what cannot be
_LEAVING, _MET = 4, 5  # outputs of the scorer, after the four actions


class ActorPolicy(nn.Module):
    """Samples decisions while it is taught (`explores`), takes the likeliest otherwise.

    Args:
        word_size: width of a candidate (W).
        hidden: width of its network.
        actions: what it may do beside `skip` and `add`: `update`, `merge`.
        alike: how strongly it begins as the rule by which, of the two that are most alike, the
            older leaves; a logit per cosine.
        saves: whether it may skip while there is room, to save writes; without it everything is
            written until the memory is full, but for what it tries while it is taught.

    Raises:
        ValueError: if an action is unknown.
    """

    mix_XO: Tensor
    needs_similarity = False
    needs_content = True
    learns_by = "log_prob"
    explores = False

    def __init__(
        self,
        word_size: int,
        hidden: int = 32,
        actions: Sequence[str] = (),
        alike: float = 10.0,
        saves: bool = False,
    ) -> None:
        super().__init__()
        expect.number(0, alike=alike)
        for action in actions:
            if action not in ACTIONS:
                raise ValueError(f"actions: '{action}' is none of {', '.join(ACTIONS)}.")
        self.scorer = Scorer(word_size, hidden, outputs=6)
        self.allowed = [name in ("skip", "add", *actions) for name in ACTIONS]
        self.saves = saves
        mix_XO = torch.zeros(2, 6)  # all that the likeliest decision needs: add before skip, and
        mix_XO[0, ADD], mix_XO[0, SKIP], mix_XO[1, _LEAVING] = 1, -1, -1  # who stays
        self.register_buffer("mix_XO", mix_XO, persistent=False)
        last = self.scorer.network[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()
            last.bias[ADD] = 2.0  # at first nearly everything is written
            self.scorer.alike[_LEAVING] = alike

    @property
    def needs_noise(self) -> bool:
        """Whether it samples."""
        return self.explores

    @property
    def fills_room(self) -> bool:
        """Whether it need not be asked while there is room."""
        return self._greedy and not self.saves

    @property
    def _greedy(self) -> bool:
        """Whether it does the likeliest of skip and add: what it does all its life."""
        return not self.explores and self.allowed == [True, True, False, False]

    def note(self, content_BPW: Tensor) -> Noted | Desk:
        """Return what its network makes of contents; with a gradient only where it samples."""
        if not self.explores:
            with torch.inference_mode():
                return self.scorer.note(content_BPW, self.mix_XO if self._greedy else None)
        return self.scorer.note(content_BPW)

    def decide(self, features: Features) -> Decision:
        """Return one-hot decisions; where it samples, their log-probabilities, with a gradient."""
        if self._greedy:
            return self._likeliest(features)
        scores_BM6 = self.scorer(features)
        filled_BN = features.filled_BN
        full_B = filled_BN.all(dim=1)
        may_B4 = self._may(filled_BN, full_B)
        actions_B4 = scores_BM6[:, -1, :4].masked_fill(~may_B4, _NEVER).log_softmax(dim=1)
        leaving_BN, met_BN = (
            scores_BM6[:, :-1, place].masked_fill(~filled_BN, _NEVER).log_softmax(dim=1)
            for place in (_LEAVING, _MET)
        )
        action_B = self._pick(actions_B4, features.noise_BM[:, -1:])
        slots_BN = torch.where((action_B == ADD)[:, None], leaving_BN, met_BN)
        slot_B = self._pick(slots_BN, features.noise_BM[:, :-1])
        adds_B, names_B = action_B == ADD, action_B > ADD
        evicts_B = adds_B & full_B
        log_prob_B = actions_B4.gather(1, action_B[:, None])[:, 0]
        of_slot_B = slots_BN.gather(1, slot_B[:, None])[:, 0]
        log_prob_B = log_prob_B + torch.where(evicts_B | names_B, of_slot_B, 0.0)
        free_B = (~filled_BN).float().argmax(dim=1)
        where_B = torch.where(names_B, slot_B, torch.where(adds_B & ~full_B, free_B, -1))
        slots = filled_BN.shape[1]
        return Decision(
            one_hot(action_B, 4),
            one_hot(where_B, slots),
            one_hot(torch.where(evicts_B, slot_B, -1), slots),
            log_prob_B,
        )

    def _likeliest(self, features: Features) -> Decision:
        """Return the likeliest decision, in few operations."""
        if isinstance(features.noted, Desk):
            wanted_BM, staying_BM = features.noted.scores(features).unbind()
            terms = Terms(threshold=0.0, competes=False, takes_room=not self.saves)
            return choose(features.filled_BN, staying_BM, wanted_BM, terms)
        with torch.inference_mode():
            scores_BMX = self.scorer(features)
            if features.noted is None:
                scores_BMX = scores_BMX @ self.mix_XO.t()
        wanted_B = scores_BMX[:, -1, 0] > 0
        if not self.saves:
            wanted_B = wanted_B | ~features.filled_BN.all(dim=1)
        return written(features, wanted_B, -scores_BMX[:, :-1, 1])

    def _may(self, filled_BN: Tensor, full_B: Tensor) -> Tensor:
        """Return which actions are open to it, bool `[B, 4]`."""
        may_B4 = torch.tensor(self.allowed, device=full_B.device).repeat(len(full_B), 1)
        may_B4[:, ADD + 1 :] &= filled_BN.any(dim=1, keepdim=True)
        may_B4[:, SKIP] &= full_B | (self.saves or self.explores)
        return may_B4

    def _pick(self, log_probs: Tensor, noise: Tensor) -> Tensor:
        """Return an index a row: sampled where it explores, else the likeliest.

        One number of noise is inverted along the cumulative probabilities; one for each choice
        makes Gumbel noise.
        """
        if not self.explores:
            return log_probs.argmax(dim=1)
        if noise.shape[1] == 1:
            total = log_probs.exp().cumsum(dim=1)  # its last may be less than 1, and than the noise
            return ((total < noise) & (total < total[:, -1:])).sum(dim=1)
        gumbel = -(-noise.clamp(1e-7, 1 - 1e-7).log()).log()
        return (log_probs.detach() + gumbel).argmax(dim=1)
