"""Rules: policies that do not learn. Each decides from features alone, so its decisions replay.

All of them refresh an entry that is known already, fill free slots first, and differ in what
they refuse and in who leaves; where slots are equal, the lowest. They know nothing of words,
tasks, or the memory that asks. Letters: B rows, N slots, M = N + 1 noises, F outcome features.
"""

import torch
from torch import Tensor

from stillknows.memory.interface import ADD, SKIP, UPDATE, Decision, Features, one_hot


class WriteEverything:
    """Writes every candidate; subclasses say who leaves when there is no room.

    Args:
        refresh: update the slot that holds this very item already, if there is one.
    """

    needs_similarity = False
    needs_noise = False

    def __init__(self, refresh: bool = True) -> None:
        self.refresh = refresh

    def decide(self, features: Features) -> Decision:
        """Return one-hot decisions.

        Args:
            features: of the candidates, for B rows and N slots.

        Returns:
            The action; at an add the first free slot, or, where none is free, who leaves; at an
            update the slot that is known. What an action does not need is zeros.
        """
        slots = features.filled_BN.shape[1]
        full_B = features.filled_BN.all(dim=1)
        action_B = torch.where(self.accepts(features), ADD, SKIP)
        if self.refresh:
            action_B = torch.where(features.known_B >= 0, UPDATE, action_B)
        adds_B = action_B == ADD
        free_B = (~features.filled_BN).float().argmax(dim=1)
        slot_B = torch.where(adds_B & ~full_B, free_B, -1)
        slot_B = torch.where(action_B == UPDATE, features.known_B, slot_B)
        victim_B = torch.where(adds_B & full_B, self.urgency(features).argmax(dim=1), -1)
        nothing_B = torch.zeros(len(full_B), device=full_B.device)
        return Decision(
            one_hot(action_B, 4), one_hot(slot_B, slots), one_hot(victim_B, slots), nothing_B
        )

    def accepts(self, features: Features) -> Tensor:
        """Return which candidates are written, bool `[B]`."""
        return torch.ones_like(features.known_B, dtype=torch.bool)

    def urgency(self, features: Features) -> Tensor:
        """Return how urgently each slot should be left, `[B, N]`; the highest leaves."""
        raise NotImplementedError


class EvictOldest(WriteEverything):
    """First in, first out."""

    leaves_first = "birth"

    def urgency(self, features: Features) -> Tensor:
        """Return the age."""
        return features.age_BN


class EvictIdle(WriteEverything):
    """Least recently used."""

    leaves_first = "last_use"

    def urgency(self, features: Features) -> Tensor:
        """Return the time since the last use."""
        return features.idle_BN


class EvictRare(WriteEverything):
    """Least frequently used."""

    fills_room = True

    def urgency(self, features: Features) -> Tensor:
        """Return the negative usage."""
        return -features.usage_BN


class EvictRead(WriteEverything):
    """What was read most is done with and leaves, the oldest where nothing was read.

    As the DNC with its free gates open (Graves et al. 2016, Nature 538:471, Methods): a slot counts
    as used from its write on, and less with every weight it is read with.
    """

    fills_room = True

    def urgency(self, features: Features) -> Tensor:
        """Return the weight of all reads, and by age up to 1e-4: so the unread are told apart."""
        oldest_B1 = features.age_BN.amax(dim=1, keepdim=True).clamp(min=1)
        return features.usage_BN + 1e-4 * features.age_BN / oldest_B1


class EvictUniformly(WriteEverything):
    """Every slot is as likely to be left: the `random` policy of the reports."""

    needs_noise = fills_room = True

    def urgency(self, features: Features) -> Tensor:
        """Return noise."""
        return features.noise_BM[:, :-1]


class Reservoir(EvictUniformly):
    """A uniform sample of all candidates so far, where none of them comes twice.

    What comes again while it is held refreshes its slot, and counts as a candidate all the same:
    `refresh=False` samples repeats, too. Vitter 1985, "Random sampling with a reservoir", ACM TOMS
    11:37, algorithm R.
    """

    fills_room = True

    def accepts(self, features: Features) -> Tensor:
        """Accept the candidate numbered n (from 0) with probability N / (n + 1) when full."""
        slots = features.filled_BN.shape[1]
        chance_B = slots / (features.seen_B + 1)
        return ~features.filled_BN.all(dim=1) | (features.noise_BM[:, -1] < chance_B)


class Balanced(EvictUniformly):
    """As many entries of each answer, as far as there are any: who leaves has the commonest answer.

    The greedy sampler of GDumb (Prabhu et al. 2020, ECCV, algorithm 1), with answers for classes: a
    full store takes a candidate only if fewer entries than of the commonest hold its answer.
    """

    fills_room = needs_peers = True

    def accepts(self, features: Features) -> Tensor:
        """Accept anything while there is room, and then what is rarer than the commonest."""
        peers_BM = _told(features.peers_BM, "answers")
        rare_B = peers_BM[:, -1] < peers_BM[:, :-1].amax(dim=1)
        return ~features.filled_BN.all(dim=1) | rare_B

    def urgency(self, features: Features) -> Tensor:
        """Return noise among the entries of the commonest answer, less elsewhere."""
        peers_BN = _told(features.peers_BM, "answers")[:, :-1]
        commonest_BN = peers_BN == peers_BN.amax(dim=1, keepdim=True)
        return torch.where(commonest_BN, super().urgency(features), -1.0)


class KeepFacts(EvictUniformly):
    """Keeps facts for recall, and of everything else a sample for rehearsal.

    A question that one entry alone holds counts as a fact: whenever it was asked again it had the
    same answer, so that the entry was refreshed. A question never heard is written always; who
    leaves is drawn from what is no fact, and, where all are facts, it is the longest idle. The
    rest is a reservoir of the n slots without facts: a candidate enters with probability
    n / (candidates so far), facts counted, so the more often facts are asked, the more the old
    outweighs the new.
    """

    needs_namesakes = True

    def accepts(self, features: Features) -> Tensor:
        """Accept what was never heard, and of the rest a share; anything while there is room."""
        namesakes_BM = _told(features.namesakes_BM, "questions")
        chance_B = (namesakes_BM[:, :-1] > 1).sum(dim=1) / (features.seen_B + 1)
        new_B = (namesakes_BM[:, -1] == 0) | ~features.filled_BN.all(dim=1)
        return new_B | (features.noise_BM[:, -1] < chance_B)

    def urgency(self, features: Features) -> Tensor:
        """Return noise for what is no fact; less than nothing, growing with idleness, for facts."""
        idle_BN = -1 / (1 + features.idle_BN)
        facts_BN = _told(features.namesakes_BM, "questions")[:, :-1] == 1
        return torch.where(facts_BN, idle_BN, super().urgency(features))


class Surprise(EvictOldest):
    """Writes only what was answered with a loss above a threshold.

    Args:
        threshold: in nats.
        refresh: update the slot that holds this very item already, if there is one.
    """

    def __init__(self, threshold: float = 0.1, refresh: bool = True) -> None:
        super().__init__(refresh)
        self.threshold = threshold

    def accepts(self, features: Features) -> Tensor:
        """Compare the loss.

        Raises:
            ValueError: in a working memory, which decides before an answer is marked.
        """
        if features.outcome_BF is None:
            raise ValueError(
                "A working memory decides before the answer is marked, so nothing surprises it: "
                "give this policy to the episodic memory and another to the working memory."
            )
        return features.outcome_BF[:, 0] > self.threshold


class Novelty(EvictOldest):
    """Writes only what resembles nothing that is held.

    Args:
        threshold: the highest cosine similarity that still counts as new.
        refresh: update the slot that holds this very item already, if there is one.
    """

    needs_similarity = True

    def __init__(self, threshold: float = 0.95, refresh: bool = True) -> None:
        super().__init__(refresh)
        self.threshold = threshold

    def accepts(self, features: Features) -> Tensor:
        """Compare the highest similarity."""
        alike_BN = features.similarity_BN.masked_fill(~features.filled_BN, -torch.inf)
        return alike_BN.amax(dim=1) <= self.threshold


class WriteNothing(EvictOldest):
    """Never writes."""

    def __init__(self) -> None:
        super().__init__(refresh=False)

    def accepts(self, features: Features) -> Tensor:
        """Accept nothing."""
        return torch.zeros_like(features.known_B, dtype=torch.bool)


def _told(counts_BM: Tensor | None, what: str) -> Tensor:
    if counts_BM is None:
        raise ValueError(
            f"Only a lifelong store tells {what} apart: give this policy to the episodic memory "
            "and another to the working memory."
        )
    return counts_BM
