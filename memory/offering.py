"""What a policy is told when candidates ask a lifelong store to be remembered.

It knows what `episodic.py` says of a store. Letters: B rows, N entries, D key size, M = N + 1.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stillknows.memory import interface
from stillknows.memory.episodic import Candidates, count_peers, fit
from stillknows.memory.interface import Features, needs_peers
from stillknows.memory.names import Name

if TYPE_CHECKING:
    from stillknows.memory.nec import NEC


def features_of(
    memory: "NEC", candidates: Candidates, known: list[int], names: list[Name]
) -> Features:
    """Return the features of all rows; rows of one step do not see each other.

    Args:
        memory: who is asked.
        candidates: the rows.
        known: the slot that holds each of them already, -1 for none.
        names: of the rows.
    """
    columns, rows = memory.columns, len(names)
    filled_N, device = columns["filled_N"].clone(), columns["filled_N"].device
    key_BD = candidates.key_BD.to(columns["keys_ND"], non_blocking=True)
    similarity_BN = torch.zeros(rows, 1, device=device).expand(-1, memory.capacity)
    if interface.needs(memory.policy, "similarity"):
        normal = torch.nn.functional.normalize
        similarity_BN = normal(key_BD) @ normal(columns["keys_ND"]).T * filled_N
    seen_B = torch.arange(memory.seen, memory.seen + rows, device=device)
    age_N = ((memory.seen - memory.provenance("birth")) * filled_N).float()
    idle_N = ((memory.clock + 1 - memory.provenance("last_use")) * filled_N).float()
    return Features(
        candidate_BW=key_BD,
        similarity_BN=similarity_BN,
        usage_BN=columns["uses_N"].clone().expand(rows, -1),
        age_BN=age_N.expand(rows, -1),
        idle_BN=idle_N.expand(rows, -1),
        filled_BN=filled_N.expand(rows, -1),
        seen_B=seen_B,
        noise_BM=interface.noise_for(
            memory.policy, torch.full_like(seen_B, memory.key), seen_B, memory.capacity
        ),
        known_B=interface.placed(known, device),
        outcome_BF=candidates.outcome_BF.to(device, non_blocking=True),
        namesakes_BM=_namesakes_with(memory, names),
        peers_BM=_peers_with(memory, candidates) if needs_peers(memory.policy) else None,
    )


def _peers_with(memory: "NEC", candidates: Candidates) -> Tensor:
    """Return how many entries share the answer of every slot, and of each candidate."""
    answers_BA = fit(candidates.answers_BA, memory.answer_length)
    return count_peers(memory.columns["answers_NA"], memory.columns["filled_N"], answers_BA)


def _namesakes_with(memory: "NEC", names: list[Name]) -> Tensor | None:
    """Return the namesakes of every slot, and last those of each candidate, `[B, N + 1]`."""
    if not getattr(memory.policy, "needs_namesakes", False):
        return None
    held_N = memory.namesakes().expand(len(names), -1)
    hash_B = interface.placed([name for name, _ in names], held_N.device)
    return torch.cat([held_N, memory.names.count(hash_B)[:, None]], dim=1)
