"""Policies that learn: retention for a working memory, utility for a lifelong store.

Neither knows tasks or words. Letters: B rows, N slots, W word size.
"""

import torch
from torch import Tensor, nn

from stillknows.memory.interface import ADD, SKIP, UPDATE, Decision, Features, one_hot
from stillknows.memory.rules import first_argmax


class RetentionPolicy(nn.Module):
    """Keeps what the answers need: the weakest of the slots and the candidate leaves.

    A small network gives the candidate a strength, P(add) = sigmoid(network(candidate)). The
    memory biases its attention by log P(add), so the gradient of the answer's loss reaches the
    network through the read: no sampling, no variance. A price on expected writes (the learner's
    `write_cost`) pulls down what no answer needs. When there is no room, the slot with the
    lowest strength leaves, or the candidate does if its own is lower. In training the comparison
    is perturbed by logistic noise, so that what is refused now can still prove its worth.

    Args:
        word_size: width of a candidate (W).
        hidden: width of the network.
        threshold: strength below which nothing is written even if there is room.
        exploration: scale of the noise in training, in units of the strength's logit.
    """

    needs_similarity = False

    def __init__(
        self, word_size: int, hidden: int = 32, threshold: float = 0.0, exploration: float = 1.0
    ) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(word_size, hidden), nn.GELU(), nn.Linear(hidden, 1))
        last = self.network[2]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, 2.0)  # at first nearly everything is kept as it is
        self.threshold, self.exploration = threshold, exploration

    def decide(self, features: Features) -> Decision:
        """Return P(add) under `ADD` where the candidate is kept, with a gradient, else skip.

        Raises:
            ValueError: if the memory gives no strengths.
        """
        if features.strength_BN is None:
            raise ValueError("RetentionPolicy needs a memory that keeps strengths, such as slots.")
        strength_B = torch.sigmoid(self.network(features.candidate_BW))[:, 0]
        full_B = features.filled_BN.all(dim=1)
        rank_BM = torch.cat([features.strength_BN, strength_B[:, None]], dim=1).logit(eps=1e-6)
        if self.training:
            rank_BM = rank_BM + self.exploration * features.noise_BM.logit(eps=1e-6)
        held_BN = rank_BM[:, :-1].masked_fill(~features.filled_BN, torch.inf)
        wanted_B = ~full_B | (rank_BM[:, -1] > held_BN.amin(dim=1))
        kept_B = (strength_B > self.threshold) & wanted_B
        add_B4 = one_hot(torch.full_like(features.known_B, ADD), 4)
        skip_B4 = one_hot(torch.full_like(features.known_B, SKIP), 4)
        # A kept candidate is written whatever its strength, which is its weight in reads. What is
        # refused has no place; its strength still counts as an expected write.
        refused_B4 = skip_B4 + strength_B[:, None] * (add_B4 - skip_B4)
        action_B4 = torch.where(kept_B[:, None], strength_B[:, None] * add_B4, refused_B4)
        slots = features.filled_BN.shape[1]
        free_B = first_argmax((~features.filled_BN).float())
        free_B = torch.where(full_B | ~kept_B, -1, free_B)
        victim_B = torch.where(full_B & kept_B, first_argmax(-held_BN), -1)
        nothing_B = torch.zeros_like(strength_B)
        return Decision(action_B4, one_hot(free_B, slots), one_hot(victim_B, slots), nothing_B)


class UtilityPolicy(nn.Module):
    """Keeps the entries that were worth most as neighbours: a critic of the value of an entry.

    The agent reports what each neighbour of an answer was worth: its kernel weight times the gain
    in log-probability of the right answer over the controller alone (`observe_credit`). The mean
    of what an entry earned for each time it was read is its utility, shrunk towards what a small
    network predicted of it from its outcome when it was written. The lowest utility leaves; a
    candidate whose prediction is lower than that is refused, unless explored.

    Args:
        hidden: width of the network.
        learning_rate: of Adam.
        explore: share of the refused that are written all the same.
        grace: writes during which a new entry cannot be evicted.
        prior: how many reads the prediction counts for.
    """

    needs_similarity = False
    utility_N: Tensor
    reads_N: Tensor
    inputs_NF: Tensor

    def __init__(
        self,
        hidden: int = 16,
        learning_rate: float = 1e-2,
        explore: float = 0.1,
        grace: int = 256,
        prior: float = 2.0,
    ) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate)
        self.explore, self.grace, self.prior = explore, grace, prior
        self.begin(0)

    def begin(self, capacity: int) -> None:
        """Keep accounts of `capacity` entries, all of them new; the store calls this."""
        self.register_buffer("utility_N", torch.zeros(capacity))
        self.register_buffer("reads_N", torch.zeros(capacity))
        self.register_buffer("inputs_NF", torch.zeros(capacity, 4))

    @torch.no_grad()
    def decide(self, features: Features) -> Decision:
        """Return one-hot decisions: refresh what is known, add, or skip.

        Raises:
            ValueError: if there is no outcome: this policy is for a lifelong store.
        """
        if features.outcome_BF is None:
            raise ValueError("UtilityPolicy needs outcomes: use it as episodic_policy.")
        known_B, full_B = features.known_B >= 0, features.filled_BN.all(dim=1)
        inputs_BF = torch.cat([features.outcome_BF.clamp(max=10), known_B.float()[:, None]], dim=1)
        predicted_B = self.network(inputs_BF)[:, 0]
        young_BN = features.age_BN < min(self.grace, features.filled_BN.shape[1] // 2)
        worth_BN = self.utility_N.masked_fill(young_BN | ~features.filled_BN, torch.inf)
        victim_B = first_argmax(-worth_BN)
        lowest_B = worth_BN.amin(dim=1)
        wanted_B = (predicted_B >= lowest_B) | (features.noise_BM[:, -1] < self.explore)
        action_B = torch.where(~full_B | wanted_B, ADD, SKIP)
        action_B = torch.where(known_B, UPDATE, action_B)
        slots = features.filled_BN.shape[1]
        free_B = torch.where(full_B, -1, first_argmax((~features.filled_BN).float()))
        slot_B = torch.where(known_B, features.known_B, free_B)
        victim_B = torch.where(full_B & (action_B == ADD), victim_B, -1)
        return Decision(
            one_hot(action_B, 4),
            one_hot(slot_B, slots),
            one_hot(victim_B, slots),
            torch.zeros_like(predicted_B),
        )

    @torch.no_grad()
    def observe_write(self, slots: Tensor, outcome_BF: Tensor) -> None:
        """Begin the account of entries just added at `slots` `[B]` with their outcomes `[B, 3]`."""
        inputs_BF = torch.cat([outcome_BF.clamp(max=10), torch.zeros(len(slots), 1)], dim=1)
        self.inputs_NF[slots] = inputs_BF
        self.utility_N[slots] = self.network(inputs_BF)[:, 0]
        self.reads_N[slots] = 0

    @torch.no_grad()
    def observe_credit(self, slots: Tensor, credit: Tensor) -> None:
        """Book what entries earned as neighbours, `[M]` slots (repeats add up) and amounts."""
        earned_N = torch.zeros_like(self.utility_N).index_add(0, slots, credit.to(self.utility_N))
        times_N = torch.zeros_like(self.utility_N).index_add(
            0, slots, torch.ones_like(credit, dtype=self.utility_N.dtype)
        )
        weight_N = self.reads_N + self.prior
        total_N = self.utility_N * weight_N + earned_N
        self.reads_N += times_N
        self.utility_N.copy_(total_N / (weight_N + times_N))

    def learn(self) -> None:
        """Move the network one step towards the utility of the entries that were read."""
        read = (self.reads_N > 0).nonzero()[:, 0]
        if not len(read):
            return
        loss = (self.network(self.inputs_NF[read])[:, 0] - self.utility_N[read]).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
