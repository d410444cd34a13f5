"""Rules that keep a variety: of things alike, one is enough.

Letters: B rows, N slots, M = N + 1 (the candidate is last), W word size.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from stillknows.memory.interface import MERGE, Decision, Features, one_hot
from stillknows.memory.policies.rules import WriteEverything


class EvictAlike(WriteEverything):
    """Of the two that are most alike, the older leaves; the candidate always stays.

    So the least distance among what is held stays as large as can be, one step at a time: a
    k-centre of what came so far, with a preference for the later word.
    """

    needs_content = fills_room = True

    def urgency(self, features: Features) -> Tensor:
        """Return the highest cosine to anything that came later, the candidate included.

        Raises:
            ValueError: in a memory that shows no contents.
        """
        if features.content_BNW is None:
            raise ValueError(
                "evict_alike compares contents: give it to a working memory of slots, and another "
                "policy to the episodic memory."
            )
        vectors_BMW = torch.cat([features.content_BNW, features.candidate_BW[:, None]], dim=1)
        vectors_BMW = normalize(vectors_BMW, dim=2)
        alike_BNM = vectors_BMW[:, :-1] @ vectors_BMW.transpose(1, 2)
        age_BM = pad(features.age_BN, (0, 1), value=-1.0)
        later_BNM = age_BM[:, None] < features.age_BN[:, :, None]
        return alike_BNM.masked_fill(~later_BNM, -2.0).amax(dim=2)


class MergeAlike(WriteEverything):
    """Writes while there is room; then each candidate is merged into what is most like it.

    Online k-means with a fixed step: the centre moves halfway to the candidate.
    """

    needs_similarity = fills_room = True

    def decide(self, features: Features) -> Decision:
        """Return one-hot decisions."""
        decision = super().decide(features)
        merges_B1 = decision.victim_BN.sum(dim=1, keepdim=True) > 0
        slots = features.filled_BN.shape[1]
        merge_B4 = one_hot(torch.full_like(features.known_B, MERGE), 4)
        nearest_BN = one_hot(features.similarity_BN.argmax(dim=1), slots)
        return Decision(
            torch.where(merges_B1, merge_B4, decision.action_B4),
            torch.where(merges_B1, nearest_BN, decision.slot_BN),
            torch.where(merges_B1, 0.0, decision.victim_BN),
            decision.log_prob_B,
        )

    def urgency(self, features: Features) -> Tensor:
        """Return nothing: nobody leaves."""
        return torch.zeros_like(features.age_BN)
