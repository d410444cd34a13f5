"""Policies that learn: retention for a working memory, utility for a lifelong store.

Neither knows tasks or words. Letters: B rows, N slots, W word size, F outcome features (loss,
reward, temporal-difference error), C columns of an account.
"""

from typing import Any

import torch
from torch import Tensor, nn

from stillknows.memory import expect
from stillknows.memory.interface import (
    ADD,
    SKIP,
    UPDATE,
    Decision,
    Features,
    one_hot,
    slot_and_victim,
)
from stillknows.memory.policies.acting import acts
from stillknows.memory.policies.choosing import Terms, choose

_EPS = 1e-6  # strengths nearer than this to 0, or to 1, are equal


class RetentionPolicy(nn.Module):
    """Keeps what the answers need: the weakest of the slots and the candidate leaves.

    A small network gives the candidate a strength, P(add) = sigmoid(network(candidate)). The
    memory biases its attention by log P(add), so the gradient of the answer's loss reaches the
    network through the read: no sampling, no variance. A price on expected writes (the learner's
    `write_cost`) pulls down what no answer needs. When there is no room, the slot with the
    lowest strength leaves, or the candidate does if its own is lower still; among equals the new
    one stays, since it is the later word. In training the comparison
    is perturbed by logistic noise, so that what is refused now can still prove its worth.

    Args:
        word_size: width of a candidate (W).
        hidden: width of the network.
        threshold: strength below which nothing is written even if there is room.
        exploration: scale of the noise in training, in units of the strength's logit.
    """

    needs_similarity = False
    learns_by = "loss"

    def __init__(
        self, word_size: int, hidden: int = 32, threshold: float = 0.0, exploration: float = 1.0
    ) -> None:
        super().__init__()
        expect.whole(1, word_size=word_size, hidden=hidden)
        expect.number(0, exploration=exploration)
        self.network = nn.Sequential(nn.Linear(word_size, hidden), nn.GELU(), nn.Linear(hidden, 1))
        last = self.network[2]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, 2.0)  # at first nearly everything is kept as it is
        self.threshold, self.exploration = threshold, exploration

    @property
    def needs_noise(self) -> bool:
        """Whether it explores."""
        return self.training

    def decide(self, features: Features) -> Decision:
        """Return P(add) under `ADD`, with a gradient; where it is refused, the rest under `SKIP`.

        Args:
            features: of the candidates; `strength_BN` is what this policy gave the slots.

        Returns:
            A kept candidate has no probability of a skip: it is written, whatever its strength,
            which is its weight in reads. A refused one has neither slot nor victim; its strength
            still counts as an expected write.

        Raises:
            ValueError: if the memory gives no strengths.
        """
        if features.strength_BN is None:
            raise ValueError("RetentionPolicy needs a memory that keeps strengths, such as slots.")
        if acts(features.strength_BN) and features.noted is not None and not self.training:
            return self._acted(features)
        if features.noted is not None and features.place_BM is not None:
            strength_B1 = features.noted.gather(1, features.place_BM[:, -1:])
        else:
            strength_B1 = torch.sigmoid(self.network(features.candidate_BW))
        full_B1 = features.filled_BN.all(dim=1, keepdim=True)
        rank_BM = torch.cat([features.strength_BN, strength_B1], dim=1).logit(eps=_EPS)
        if self.training:
            rank_BM = rank_BM + self.exploration * features.noise_BM.logit(eps=_EPS)
        rank_BM = rank_BM.detach()
        held_BN = rank_BM[:, :-1].masked_fill(~features.filled_BN, torch.inf)
        wanted_B1 = ~full_B1 | (rank_BM[:, -1:] >= held_BN.amin(dim=1, keepdim=True))
        kept_B1 = (strength_B1 > self.threshold) & wanted_B1
        nothing_B2 = torch.zeros_like(strength_B1).expand(-1, 2)
        action_B4 = torch.cat([(1 - strength_B1) * ~kept_B1, strength_B1, nothing_B2], dim=1)
        slot_BN, victim_BN = slot_and_victim(features, kept_B1[:, 0], -held_BN)
        return Decision(action_B4, slot_BN, victim_BN, nothing_B2[:, 0])

    def _acted(self, features: Features) -> Decision:
        """Return the decision from what is noted, where nothing is learned from it nor explored."""
        assert features.place_BM is not None
        assert features.strength_BN is not None
        strength_B1 = features.noted.gather(1, features.place_BM[:, -1:])
        terms = Terms(self.threshold, margin=_EPS)
        return choose(features.filled_BN, features.strength_BN, strength_B1, terms)

    def note(self, content_BPW: Tensor) -> Tensor:
        """Return the strength of each content, `[B, P]`."""
        strength_BP1: Tensor = torch.sigmoid(self.network(content_BPW))
        return strength_BP1[..., 0]


class UtilityPolicy(nn.Module):
    """Keeps the entries that were worth most as neighbours: a critic of the value of an entry.

    The agent reports what each neighbour of an answer was worth: its kernel weight times the gain
    in probability of the right answer over the controller alone (`observe_credit`). What an entry
    earned for the weight with which it was used is its utility, shrunk towards what a small network
    predicts of it: from its outcome when it was written, and from how many entries hold its
    question now (a question whose answer depends on the story has many). The network learns from
    what became of all that were given time, also of those that were never used, which earned
    nothing, and of some that left: who learned from survivors alone would expect too much. Where
    several leave in one step, only what left for the last counts: the store asks again for each
    row, and shows what was written in the step as new.

    What is worth more than the floor is kept for recall, the most useful longest. The rest is worth
    little as a neighbour and is kept for rehearsal: a reservoir (Vitter 1985) in the n slots that
    are left to it, which a candidate enters with probability n / (candidates so far), and from
    which leaves whoever is drawn. Only where no slot is left to it does the lowest utility leave,
    and a candidate whose prediction is lower than that is refused, unless explored.

    Accounts and network move to the device of the store with the first decision, and
    `state_dict` holds all of it, the optimizer too.

    Args:
        hidden: width of the network; 0: none, the mean of all is expected of each.
        learning_rate: of Adam.
        explore: share of the refused that are written where all is worth keeping for recall.
        floor: gain in probability a use above which an entry is kept for recall; -1: all are.
        grace: candidates during which a new entry cannot be evicted, at most half the capacity.
        prior: how many uses the prediction counts for.
        departures: how many of the last that left are kept (R); those that count are learned from.

    Raises:
        ValueError: if `prior` is not positive, or `departures` is negative.
    """

    needs_similarity = False
    needs_namesakes = True
    earned_N: Tensor
    uses_N: Tensor
    outcome_NF: Tensor
    namesakes_N: Tensor
    settled_N: Tensor
    left_RC: Tensor

    def __init__(
        self,
        hidden: int = 16,
        learning_rate: float = 1e-2,
        explore: float = 0.05,
        floor: float = 0.03,
        grace: int = 32,
        prior: float = 8.0,
        departures: int = 1024,
    ) -> None:
        super().__init__()
        expect.whole(0, hidden=hidden, grace=grace, departures=departures)
        expect.number(0, learning_rate=learning_rate)
        expect.number(0, 1, explore=explore)
        expect.above(0, prior=prior)
        layers = (nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 1)) if hidden else (Mean(),)
        self.network = nn.Sequential(*layers)
        for part in self.network[2:].parameters():
            nn.init.zeros_(part)  # nothing is expected of anything before something has earned
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate)
        self.explore, self.floor, self.grace, self.prior = explore, floor, grace, prior
        self.departures = departures
        self.begin(0)

    def begin(self, capacity: int) -> None:
        """Keep accounts of `capacity` entries, all of them new; the store calls this."""
        self.register_buffer("earned_N", torch.zeros(capacity))
        self.register_buffer("uses_N", torch.zeros(capacity))
        self.register_buffer("outcome_NF", torch.zeros(capacity, 3))
        self.register_buffer("namesakes_N", torch.zeros(capacity))
        self.register_buffer("settled_N", torch.zeros(capacity))  # 1 where its grace is over
        self.register_buffer("left_RC", torch.zeros(self.departures, 6))  # as `_account`
        self._left_before_RC = self.left_RC

    @property
    def accounts(self) -> dict[str, Tensor]:
        """What is kept of each entry by name, each `[N]`, to be kept with it and changed in place.

        What it earned, the weight of its uses, and its outcome when it was written.
        """
        outcome_FN = self.outcome_NF.unbind(dim=1)
        outcome = dict(zip(("loss", "reward", "error"), outcome_FN, strict=True))
        return {"earned": self.earned_N, "weight": self.uses_N, **outcome}

    def utility(self, namesakes_RN: Tensor) -> Tensor:
        """Return what each entry is worth, in probability of the right answer a use, `[R, N]`.

        Args:
            namesakes_RN: how many entries hold the question of each, for R possible stores.
        """
        expected_RN = self._predict(self.outcome_NF.expand(len(namesakes_RN), -1, -1), namesakes_RN)
        return (self.earned_N + self.prior * expected_RN) / (self.uses_N + self.prior)

    @torch.no_grad()
    def decide(self, features: Features) -> Decision:
        """Return one-hot decisions: refresh what is known, add, or skip.

        Args:
            features: of the candidates, with their outcomes `[B, 3]` and namesakes `[B, N + 1]`.

        Returns:
            As a rule's (`rules.WriteEverything.decide`). While every entry is protected by its
            grace, what finds no room is refused.

        Raises:
            ValueError: if there is no outcome: this policy is for a lifelong store.
        """
        if features.outcome_BF is None or features.namesakes_BM is None:
            raise ValueError("UtilityPolicy needs outcomes: use it as episodic_policy.")
        self.to(features.filled_BN.device)
        self._left_before_RC = self.left_RC
        slots = features.filled_BN.shape[1]
        namesakes_RN = _distinct(features.namesakes_BM[:, :-1]).to(self.earned_N)
        self.namesakes_N.copy_(namesakes_RN[-1])
        expected_B = self._predict(features.outcome_BF, features.namesakes_BM[:, -1] + 1)
        filled_RN = once(features.filled_BN)
        known_B, full_B = features.known_B >= 0, filled_RN.all(dim=1)
        rank_BN, plain_RN = self._ranks(self.utility(namesakes_RN), features)
        lowest_B, leaver_B = rank_BN.min(dim=1)
        chance_B = plain_RN.sum(dim=1) / (features.seen_B + 1)
        chance_B = torch.where(lowest_B > self.floor, self.explore, chance_B)
        wanted_B = (expected_B > self.floor) & (expected_B >= lowest_B)
        wanted_B |= (features.noise_BM[:, -1] < chance_B) & lowest_B.isfinite()
        action_B = torch.where(~full_B | wanted_B, ADD, SKIP)
        action_B = torch.where(known_B, UPDATE, action_B)
        free_B = (~filled_RN).float().argmax(dim=1)
        slot_B = torch.where(known_B, features.known_B, torch.where(full_B, -1, free_B))
        victim_B = torch.where(full_B & (action_B == ADD), leaver_B, -1)
        return Decision(
            one_hot(action_B, 4),
            one_hot(slot_B, slots),
            one_hot(victim_B, slots),
            torch.zeros_like(lowest_B),
        )

    def _ranks(self, utility_RN: Tensor, features: Features) -> tuple[Tensor, Tensor]:
        """Return who leaves, the lowest first, `[B, N]`, and which entries are for rehearsal.

        Notes whose grace is over.
        """
        filled_RN, age_RN = once(features.filled_BN), once(features.age_BN)
        plain_RN = filled_RN & (utility_RN <= self.floor)
        drawn_BN = self.floor - features.noise_BM[:, :-1]
        young_RN = age_RN < min(self.grace, age_RN.shape[1] // 2)
        self.settled_N.copy_((filled_RN & ~young_RN)[-1])
        rank_RN = utility_RN.masked_fill(young_RN, torch.inf)
        return torch.where(plain_RN & ~young_RN, drawn_BN, rank_RN), plain_RN

    @torch.no_grad()
    def observe_write(self, slots: Tensor, outcome_BF: Tensor) -> None:
        """Begin the account of entries just added at `slots` `[B]` with their outcomes `[B, 3]`.

        The account of whoever left for them is closed.
        """
        self.left_RC = torch.cat([self.left_RC, self._account(slots)])[len(slots) :]
        self.settled_N[slots] = 0
        self.outcome_NF[slots] = outcome_BF.to(self.outcome_NF)
        self.namesakes_N[slots] = 1
        self.earned_N[slots] = 0
        self.uses_N[slots] = 0

    def undo_write(self) -> None:
        """Take back what was noted since `decide` beside the accounts, which the store mends.

        It calls this where another writer of the same memory was first, and asks anew.
        """
        self.left_RC = self._left_before_RC

    @torch.no_grad()
    def observe_credit(self, slots: Tensor, credit: Tensor, weight: Tensor) -> None:
        """Book what entries earned as neighbours.

        With c what an entry earned, n the weight of its uses, p the prior and e what is predicted
        of it, its utility is (c + p e) / (n + p).

        Args:
            slots: which entries, int64 `[M]`; repeats add up.
            credit: what each of them earned, in probability of the right answer, `[M]`.
            weight: with which each was used, `[M]`.
        """
        self.earned_N.index_add_(0, slots, credit.to(self.earned_N))
        self.uses_N.index_add_(0, slots, weight.to(self.uses_N))

    def learn(self) -> None:
        """Move the network one step towards what became of entries, present and departed."""
        account_XC = torch.cat([self._account(slice(None)), self.left_RC])
        outcome_XF, (namesakes_X, gain_X, counts_X) = account_XC[:, :3], account_XC[:, 3:].T
        if not counts_X.any():
            return
        error_X = self._predict(outcome_XF, namesakes_X) - gain_X
        loss = (counts_X * error_X.square()).sum() / counts_X.sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def get_extra_state(self) -> dict[str, Any]:
        """Return the optimizer's state, for `state_dict`."""
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the optimizer's state from `load_state_dict`."""
        self.optimizer.load_state_dict(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        """Take also a state of before it was kept who left."""
        for name in ("settled_N", "left_RC"):
            state_dict.setdefault(prefix + name, getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *more)

    def _account(self, slots: Tensor | slice) -> Tensor:
        """Return of some entries outcome, namesakes, gain a use, and whether they count, `[B, C]`.

        Those that were never used gained nothing, and a weight of use below 1 counts as 1, so that
        who was hardly used gained little; those in their grace do not count.
        """
        gain_B = self.earned_N[slots] / self.uses_N[slots].clamp(min=1)
        told_3B = (self.namesakes_N[slots], gain_B, self.settled_N[slots])
        return torch.cat([self.outcome_NF[slots], torch.stack(told_3B, dim=1)], dim=1)

    def _predict(self, outcome_XF: Tensor, namesakes_X: Tensor) -> Tensor:
        """Return the utility expected of entries with such outcomes and numbers of namesakes."""
        seen_XF = outcome_XF.to(self.earned_N).clamp(-10, 10)
        namesakes_X1 = namesakes_X[..., None].to(seen_XF).log1p()
        expected_X1: Tensor = self.network(torch.cat([seen_XF, namesakes_X1], dim=-1))
        return expected_X1[..., 0]


class Mean(nn.Module):
    """A number that is the same for all."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1))

    def forward(self, x_XF: Tensor) -> Tensor:
        """Return the number in the place of every vector."""
        return self.mean.expand(*x_XF.shape[:-1], 1)


def once(part_BN: Tensor) -> Tensor:
    """Return one row of what is the same memory for every row, as it is for one store."""
    return part_BN[:1] if part_BN.stride(0) == 0 else part_BN


def _distinct(namesakes_BN: Tensor) -> Tensor:
    """Return one row where all are the same, as they are for one store."""
    same = bool((namesakes_BN == namesakes_BN[:1]).all())
    return namesakes_BN[:1] if same else namesakes_BN
