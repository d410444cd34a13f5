"""What every lifelong store and its users agree on: candidates, decisions, recalls, answers.

Letters: B rows, D key size, V vector size, A tokens of an answer, T sentences and L tokens of a
story, K neighbours.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stillknows.memory import noise
from stillknows.memory.interface import (
    ADD,
    MERGE,
    SKIP,
    UPDATE,
    Decision,
    Features,
    Policy,
    decided,
    placed,
)
from stillknows.memory.names import Held, Holding, Name

TOKENS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}  # of stories, by their bytes
PROVENANCE = ("id", "task", "episode", "step", "birth", "last_use", "hash")


class Recall(NamedTuple):
    """What the K nearest entries hold.

    Attributes:
        slots_BK: where they are, -1 for none, int64 `[B, K]`.
        weights_BK: the normalised kernel, `[B, K]`, with a gradient to the query.
        distance_BK: squared distance, infinite for none, `[B, K]`.
        answers_BKA: their answers' tokens, 0 behind, int64 `[B, K, A]`.
        vectors_BKV: their vectors, `[B, K, V]`.
        present_BK: which of the K exist, bool `[B, K]`.
        namesakes_BK: how many entries hold the same question, the neighbour itself included, 0 for
            none, int64 `[B, K]`.
    """

    slots_BK: Tensor
    weights_BK: Tensor
    distance_BK: Tensor
    answers_BKA: Tensor
    vectors_BKV: Tensor
    present_BK: Tensor
    namesakes_BK: Tensor

    def mean(self) -> Tensor:
        """Return the weighted mean of the vectors, `[B, V]`."""
        return (self.weights_BK[..., None] * self.vectors_BKV).sum(dim=1)


class Candidates(NamedTuple):
    """Rows that ask to be remembered: `[B, ...]`; `outcome_BF` is loss, reward, TD error.

    `hash_B` names the question (int64). Task, episode and step are provenance: no policy sees
    them.
    """

    key_BD: Tensor
    vector_BV: Tensor
    answers_BA: Tensor
    story_BTL: Tensor
    hash_B: Tensor
    outcome_BF: Tensor
    task_B: Tensor
    episode_B: Tensor
    step_B: Tensor


DIMENSIONS = {name: len(name.rpartition("_")[2]) for name in Candidates._fields}


class Written(NamedTuple):
    """What became of a candidate: the action, and ids of entries (-1 for none)."""

    action: int
    entry: int
    evicted: int


class Entries(NamedTuple):
    """Entries taken out for rehearsal: stories, question last, and answers."""

    story_BTL: Tensor
    answers_BA: Tensor


class Departures:
    """Who leaves first, by a rank that only grows: the lowest, and among equals the lowest slot.

    The next in line are sorted in advance. Whose rank has grown since is passed over, and the
    others keep their order, so that the answer is exact and seldom looks at all entries. The line
    stands on the host: of a GPU it asks the ranks of the first in it.

    Attributes:
        slots_Q: the line, int64.
        ranks_Q: the rank of each when the line was formed, int64.
        passed: how many of the first have left it.
    """

    def __init__(self) -> None:
        self.slots_Q = self.ranks_Q = torch.zeros(0, dtype=torch.int64)
        self.passed = 0

    def first(self, count: int, rank_N: Tensor) -> Tensor:
        """Return the `count` slots that leave first, int64, on the host.

        Args:
            count: at most N.
            rank_N: int64, of the entries that there are.
        """
        if not count:
            return self.slots_Q[:0]
        for _ in range(2):
            window = 4 * count
            first, ranks = (part[self.passed :] for part in (self.slots_Q, self.ranks_Q))
            next_W = first[:window].to(rank_N.device, non_blocking=True)
            stays_W = rank_N[next_W].cpu() == ranks[:window]
            where = stays_W.nonzero()[:, 0]
            if len(where) >= count:
                self.passed += int(where[0])
                return first[where[:count]]
            self.sort(count, rank_N)
        raise AssertionError("More are to leave than there are.")

    def sort(self, count: int, rank_N: Tensor) -> None:
        """Form the line anew, for `count` at a time: so long that it is seldom formed."""
        entries = len(rank_N)
        order_N = rank_N * entries + torch.arange(entries, device=rank_N.device)
        ahead = min(entries, max(64 * count, entries // 16))
        order_Q = order_N.topk(ahead, largest=False).values.cpu()
        self.slots_Q, self.ranks_Q, self.passed = order_Q % entries, order_Q // entries, 0


def blank_columns(
    capacity: int,
    key_size: int,
    vector_size: int,
    answer_length: int,
    story_shape: tuple[int, int],
    device: torch.device | str,
    token_bytes: int = 2,
) -> dict[str, Tensor]:
    """Return the columns of an empty store of N entries, C numbers of provenance each, -1."""
    return {
        "keys_ND": torch.zeros(capacity, key_size, device=device),
        "vectors_NV": torch.zeros(capacity, vector_size, device=device),
        "answers_NA": torch.zeros(capacity, answer_length, dtype=torch.int32, device=device),
        "story_NTL": torch.zeros(capacity, *story_shape, dtype=TOKENS[token_bytes], device=device),
        "uses_N": torch.zeros(capacity, device=device),
        "filled_N": torch.zeros(capacity, dtype=torch.bool, device=device),
        "provenance_NC": torch.full((capacity, len(PROVENANCE)), -1, device=device),
    }


def p_store(
    recall: Recall, prefix_BA: Tensor, position: int, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Return what the neighbours say comes next after a prefix of the answer.

    The kernel's weight of every neighbour whose answer begins with the prefix, normalised, falls
    on its next token.

    Args:
        recall: what the store returned.
        prefix_BA: the answer so far, int64 `[B, A']`.
        position: which token is asked for; equals A'.
        vocabulary: number of tokens (V).

    Returns:
        Probabilities `[B, V]`, zeros where no neighbour agrees, and where one does, bool `[B]`.
    """
    answers_BKA = recall.answers_BKA
    if position >= answers_BKA.shape[2]:
        none = torch.zeros(len(prefix_BA), vocabulary, device=prefix_BA.device)
        return none, torch.zeros_like(none[:, 0], dtype=torch.bool)
    agrees_BK = (answers_BKA[..., :position] == prefix_BA[:, None]).all(dim=2) & recall.present_BK
    next_BK = answers_BKA[..., position]
    agrees_BK = agrees_BK & (next_BK != 0)
    weights_BK = recall.weights_BK * agrees_BK
    total_B1 = weights_BK.sum(dim=1, keepdim=True)
    shares_BK = weights_BK / total_B1.clamp(min=torch.finfo(weights_BK.dtype).tiny)
    zeros_BV = weights_BK.new_zeros(len(prefix_BA), vocabulary)
    return zeros_BV.scatter_add(1, next_BK, shares_BK), agrees_BK.any(dim=1)


def wishes(decision: Decision, filled_BN: Tensor) -> list[list[int]]:
    """Return of each decision the action, the slot, and whether the slot is filled.

    The slot is the victim where there is one, -1 for none. A GPU is asked once for all.
    """
    surest_B, slot_B = decision.slot_BN.max(dim=1)
    leaves_B, victim_B = decision.victim_BN.max(dim=1)
    slot_B = torch.where(leaves_B > 0, victim_B, slot_B)
    filled_B = filled_BN.gather(1, slot_B[:, None])[:, 0]
    slot_B = slot_B.masked_fill(torch.maximum(surest_B, leaves_B) <= 0, -1)
    wishes: list[list[int]] = torch.stack(
        [decision.action_B4.argmax(dim=1), slot_B, filled_B.to(slot_B)], dim=1
    ).tolist()
    return wishes


def plan(
    policy: Policy, decision: Decision, features: Features, empty: Iterator[int], most: int | None
) -> list[tuple[int, int]]:
    """Return what each row does, in order: the action, and the slot, -1 where it does nothing.

    Free slots go to adds in their order. Where the room ended within this step, or the slot went to
    another entry, the policy is asked again for that row, with what has changed.

    Args:
        policy: who decided.
        decision: about all rows, which did not see each other.
        features: that it decided from.
        empty: slots that hold nothing, in order.
        most: how many entries may be added; what comes after them does nothing. None: any number.
    """
    changed: set[int] = set()
    planned, added = [], 0
    for row, (action, slot, filled) in enumerate(wishes(decision, features.filled_BN)):
        if action == ADD and (free := next(empty, -1)) >= 0:
            slot, filled = free, 0
        elif slot in changed or (action == ADD and slot < 0):
            seen = with_changes(features, row, changed)
            action, slot, _ = wishes(decided(policy, seen), seen.filled_BN)[0]
            filled = int(features.filled_BN[row, slot])
        old = slot >= 0 and filled and slot not in changed
        spent = action == ADD and most is not None and added >= most
        if action == SKIP or slot < 0 or (action != ADD and not old) or spent:
            planned.append((SKIP, -1))
            continue
        if action == ADD:
            changed.add(slot)
            added += 1
        planned.append((action, slot))
    return planned


def place_in_order(
    held: Held,
    known: list[int],
    names: list[Name],
    empty: Iterator[int],
    leaving: Iterator[tuple[int, int]],
    next_id: int,
) -> tuple[list[int], list[Written]]:
    """Refresh what is known and add the rest, row by row; note it in `held`.

    Args:
        held: who holds what.
        known: the slot that held each row before, -1 for none.
        names: of the rows.
        empty: slots that hold nothing, in order.
        leaving: slots that are left when none is empty, in order, and the names there.
        next_id: of the next entry.

    Returns:
        The slot of each row, and what became of it.
    """
    slots, written, added = [], [], set()
    for slot, (name, answer) in zip(known, names, strict=True):
        if slot >= 0 and slot not in added:
            action, entry, gone = UPDATE, held.drop(name, slot), -1
        else:
            action, entry, gone = ADD, next_id, -1
            slot = next(empty, -1)
            if slot < 0:
                slot, old = next(leaving)
                gone = held.drop(old, slot)
            added.add(slot)
            next_id += 1
        held.add(name, slot, Holding(entry, answer))
        slots.append(slot)
        written.append(Written(action, entry, gone))
    return slots, written


def with_changes(features: Features, row: int, changed: set[int]) -> Features:
    """Return the features of one row after the slots in `changed` went to new entries."""
    parts: Any = (None if part is None else part[row : row + 1].clone() for part in features)
    one = Features(*parts)
    slots = list(changed)
    for part in (one.usage_BN, one.age_BN, one.idle_BN, one.similarity_BN):
        part[0, slots] = 0
    one.filled_BN[0, slots] = True
    if one.namesakes_BM is not None:
        one.namesakes_BM[0, slots] = 1
    if one.peers_BM is not None:
        one.peers_BM[0, slots] = 1
    if int(one.known_B) in changed:
        one.known_B.fill_(-1)
    return one


def count_peers(answers_NA: Tensor, filled_N: Tensor, answers_BA: Tensor) -> Tensor:
    """Return how many filled slots hold the answer of each slot, and of each candidate.

    Returns:
        `[B, N + 1]`, int64: 0 for empty slots, last that of the candidate.
    """
    both = torch.cat([answers_NA, answers_BA.to(answers_NA)])
    _, which = torch.unique(noise.hash_rows(both.long()), return_inverse=True)
    slots = len(answers_NA)
    count = torch.zeros_like(which).index_add_(0, which[:slots], filled_N.long())[which]
    held_N, own_B = count[:slots] * filled_N, count[slots:]
    return torch.cat([held_N.expand(len(own_B), -1), own_B[:, None]], dim=1)


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[int]:
    """Return the slots that do not hold the same in two sets of columns."""
    pairs = [(first[name].to(second[name].device), second[name]) for name in first]
    differs = [(one != other)[:, None].flatten(1).any(dim=1) for one, other in pairs]
    return torch.stack(differs).any(dim=0).nonzero()[:, 0].tolist()


def fill(
    columns: dict[str, Tensor],
    last: dict[int, int],
    candidates: Candidates,
    written: list[Written],
    rate: float,
    clock: int,
) -> None:
    """Write contents into slots.

    An add replaces, an update moves the vector by a rate and replaces the rest, and a merge goes
    halfway with key and vector.

    Args:
        columns: of the store.
        last: the slots and the row of candidates that stays in each.
        candidates: all of them.
        written: what became of each.
        rate: of updates.
        clock: the time of the write.
    """
    rows, part = list(last.values()), candidates
    if rows != list(range(len(written))):
        part = Candidates(*(column[placed(rows, column.device)] for column in candidates))
    at_S = placed(list(last), columns["uses_N"].device)
    for name, new_SX, update in (
        ("keys_ND", part.key_BD, 1.0),
        ("vectors_NV", part.vector_BV, rate),
    ):
        if not columns[name].shape[1]:
            continue
        shares = [{ADD: 1.0, UPDATE: update, MERGE: 0.5}[written[row].action] for row in rows]
        new_SX = _sent(new_SX, columns[name])
        if min(shares, default=1.0) < 1:
            share_S1 = _sent(torch.tensor(shares, dtype=new_SX.dtype), new_SX)[:, None]
            held_SX = columns[name][at_S]
            moved_SX = held_SX + share_S1 * (new_SX - held_SX)
            new_SX = torch.where(share_S1 < 1, moved_SX, new_SX)
        columns[name][at_S] = new_SX
    answers_SA = fit(part.answers_BA, columns["answers_NA"].shape[1])
    columns["answers_NA"][at_S] = _sent(answers_SA, columns["answers_NA"])
    columns["story_NTL"][at_S] = _sent(part.story_BTL, columns["story_NTL"])
    where_SC = torch.stack([part.task_B, part.episode_B, part.step_B], dim=1)
    columns["provenance_NC"][at_S, 1:4] = _sent(where_SC, at_S)
    columns["provenance_NC"][:, PROVENANCE.index("last_use")].index_fill_(0, at_S, clock)


def _sent(part: Tensor, like: Tensor) -> Tensor:
    """Return numbers as those of a column, on its device, without waiting for it."""
    return part.to(like, non_blocking=True)


def fit(answer_BA: Tensor, length: int) -> Tensor:
    """Return answers cut or padded to `length` tokens, int32 `[B, length]`."""
    cut_BA = answer_BA[:, :length].to(torch.int32)
    missing = length - cut_BA.shape[1]
    return torch.nn.functional.pad(cut_BA, (0, missing)) if missing else cut_BA
