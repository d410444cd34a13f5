"""NEC: the lifelong store of Neural Episodic Control, keys and values with a nearest-neighbour read.

Pritzel et al. 2017, "Neural Episodic Control", arXiv:1703.01988: a differentiable neural
dictionary; a read weighs the K nearest keys by the inverse-distance kernel (equations 1, 2 and 5),
a known state is updated, an unknown one appended, and a full store evicts. Here a policy makes
that choice; values are answers (token sequences) and vectors, and every entry keeps the raw text
it came from and its provenance.

The store is large, so it is changed in place. It belongs to one lifetime. It knows nothing of
words, tasks or environments.

Letters: B rows, N entries, D key size, V vector size, A tokens of an answer, T sentences and L
tokens of a story, K neighbours, C columns of provenance.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stillknows.memory import noise
from stillknows.memory.interface import ADD, MERGE, SKIP, UPDATE, Decision, Features, Policy
from stillknows.memory.knn import inverse_distance_weights, nearest

IDENTITIES = ("question", "text", "none")
_PROVENANCE = ("id", "task", "episode", "step", "birth", "last_use", "hash")


class Recall(NamedTuple):
    """What the K nearest entries hold.

    Attributes:
        slots_BK: where they are, -1 for none, int64 `[B, K]`.
        weights_BK: the normalised kernel, `[B, K]`, with a gradient to the query.
        distance_BK: squared distance, infinite for none, `[B, K]`.
        answers_BKA: their answers' tokens, 0 behind, int64 `[B, K, A]`.
        vectors_BKV: their vectors, `[B, K, V]`.
        present_BK: which of the K exist, bool `[B, K]`.
    """

    slots_BK: Tensor
    weights_BK: Tensor
    distance_BK: Tensor
    answers_BKA: Tensor
    vectors_BKV: Tensor
    present_BK: Tensor


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


class Written(NamedTuple):
    """What became of a candidate: the action, and ids of entries (-1 for none)."""

    action: int
    entry: int
    evicted: int


class Entries(NamedTuple):
    """Entries taken out for rehearsal: stories, question last, and answers."""

    story_BTL: Tensor
    answers_BA: Tensor


class NEC:
    """A store of `capacity` entries.

    Args:
        capacity: how many entries it holds at most (N).
        key_size: D; 0 for a plain replay buffer, which is not read.
        vector_size: V; 0 to keep no vectors.
        policy: decides what is written and who leaves.
        answer_length: the most tokens of an answer (A).
        story_shape: the most sentences and tokens of a sentence that are kept (T, L).
        neighbours: how many entries a read takes (K; 50 in the paper).
        delta: of the kernel.
        identity: when an entry is known already. `question`: the same question is stored, and
            always with this answer (a fact that holds is refreshed, a question whose answer
            depends on the story is appended); `text`: the same story and answer; `none`: never.
        key: names the lifetime, for the noise of random policies.
        device: where it lives.

    Raises:
        ValueError: if the capacity is below 1 or `identity` is none of the three.
    """

    def __init__(
        self,
        capacity: int,
        key_size: int,
        vector_size: int,
        policy: Policy,
        *,
        answer_length: int = 4,
        story_shape: tuple[int, int] = (32, 16),
        neighbours: int = 8,
        delta: float = 1e-3,
        identity: str = "question",
        key: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity={capacity}: a store holds at least one entry.")
        if identity not in IDENTITIES:
            raise ValueError(f"identity={identity!r}: choose one of {', '.join(IDENTITIES)}.")
        self.capacity, self.policy, self.identity = capacity, policy, identity
        self.answer_length, self.story_shape = answer_length, tuple(story_shape)
        self.neighbours, self.delta, self.key = neighbours, delta, key
        whole = {"dtype": torch.int64, "device": device}
        self.columns: dict[str, Tensor] = {
            "keys_ND": torch.zeros(capacity, key_size, device=device),
            "vectors_NV": torch.zeros(capacity, vector_size, device=device),
            "answers_NA": torch.zeros(capacity, answer_length, dtype=torch.int32, device=device),
            "story_NTL": torch.zeros(capacity, *story_shape, dtype=torch.int16, device=device),
            "uses_N": torch.zeros(capacity, device=device),
            "filled_N": torch.zeros(capacity, dtype=torch.bool, device=device),
            "provenance_NC": torch.full((capacity, len(_PROVENANCE)), -1, **whole),  # type: ignore[call-overload]
        }
        self.seen = self.clock = self.next_id = 0
        self._slots_of: dict[int, list[int]] = defaultdict(list)
        self._frozen = False

    @classmethod
    def within(cls, bytes: int, **arguments: Any) -> "NEC":
        """Return the largest store whose columns fit into so many bytes.

        Raises:
            ValueError: if not one entry fits.
        """
        one = cls(1, **arguments).nbytes
        if bytes < one:
            raise ValueError(f"bytes={bytes}: one entry takes {one}; give the store more.")
        return cls(bytes // one, **arguments)

    def __len__(self) -> int:
        """Return how many entries it holds."""
        return int(self.columns["filled_N"].sum())

    @property
    def bytes_per_entry(self) -> int:
        """Bytes of one entry in all columns."""
        return self.nbytes // self.capacity

    @property
    def nbytes(self) -> int:
        """Bytes of all columns, whether filled or not."""
        return sum(column.nbytes for column in self.columns.values())

    def provenance(self, name: str) -> Tensor:
        """Return a column of provenance, int64 `[N]`, -1 where empty.

        Args:
            name: id, task, episode, step, birth, last_use or hash.
        """
        return self.columns["provenance_NC"][:, _PROVENANCE.index(name)]

    def recall(self, query_BD: Tensor) -> Recall:
        """Return the K nearest entries; a read counts as use unless the store is frozen."""
        filled_N = self.columns["filled_N"]
        distance_BK, slots_BK = nearest(
            query_BD, self.columns["keys_ND"], filled_N, self.neighbours
        )
        weights_BK = inverse_distance_weights(distance_BK, self.delta)
        present_BK, at_BK = slots_BK >= 0, slots_BK.clamp(min=0)
        if not self._frozen:
            self._touch(slots_BK[present_BK], weights_BK.detach()[present_BK])
        return Recall(
            slots_BK,
            weights_BK,
            distance_BK,
            self.columns["answers_NA"][at_BK].long() * present_BK[..., None],
            self.columns["vectors_NV"][at_BK] * present_BK[..., None],
            present_BK,
        )

    def remember(self, candidates: Candidates) -> list[Written]:
        """Offer candidates to the policy, one after the other, and do what it decides.

        Returns:
            What became of each.

        Raises:
            RuntimeError: if the store is frozen.
        """
        if self._frozen:
            raise RuntimeError("The store is frozen: an examination writes nothing.")
        texts = self._texts(candidates)
        self.clock += 1
        return [
            self._offer(Candidates(*(column[row : row + 1] for column in candidates)), texts[row])
            for row in range(len(candidates.hash_B))
        ]

    def sample(self, size: int, key: int) -> Tensor:
        """Return up to `size` different filled slots, every one as likely; the same for a key."""
        filled = self.columns["filled_N"].nonzero()[:, 0]
        whole = torch.tensor([key], dtype=torch.int64, device=filled.device)
        order = noise.uniform(whole, torch.zeros_like(whole), len(filled))[0].argsort(stable=True)
        return filled[order[:size]]

    def entries(self, slots: Tensor) -> Entries:
        """Return what the entries at `slots` rehearse."""
        return Entries(self.columns["story_NTL"][slots].long(), self.columns["answers_NA"][slots])

    def rekey(self, encode: Callable[[Tensor], Tensor], probes: int = 64) -> float:
        """Compute every key again from its raw text.

        Args:
            encode: stories `[B, T, L]` to keys `[B, D]`.
            probes: how many entries are asked for their neighbours before and after.

        Returns:
            The share of the probes' K nearest neighbours that stay (recall@K).
        """
        if not self.columns["keys_ND"].shape[1]:
            return 1.0
        filled = self.columns["filled_N"].nonzero()[:, 0]
        probe = self.sample(probes, self.clock)
        before = self._neighbours_of(probe)
        for chunk in filled.split(1024):
            self.columns["keys_ND"][chunk] = encode(self.columns["story_NTL"][chunk].long())
        after = self._neighbours_of(probe)
        same = (before[:, :, None] == after[:, None]) & (before >= 0)[:, :, None]
        return float(same.any(dim=2).sum() / (before >= 0).sum().clamp(min=1))

    def snapshot(self) -> dict[str, Any]:
        """Return all that the store knows, as a copy."""
        counters = {"seen": self.seen, "clock": self.clock, "next_id": self.next_id}
        return {"columns": {k: v.clone() for k, v in self.columns.items()}, **counters}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Become what `snapshot` was taken of."""
        self.columns = {name: column.clone() for name, column in snapshot["columns"].items()}
        self.seen, self.clock = snapshot["seen"], snapshot["clock"]
        self.next_id = snapshot["next_id"]
        self._slots_of = defaultdict(list)
        hashes, births = self.provenance("hash").tolist(), self.provenance("id").tolist()
        for slot in sorted(self.columns["filled_N"].nonzero()[:, 0].tolist(), key=births.__getitem__):
            self._slots_of[hashes[slot]].append(slot)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let reads touch nothing and writes raise, for an examination."""
        before, self._frozen = self._frozen, True
        try:
            yield
        finally:
            self._frozen = before

    def _texts(self, candidates: Candidates) -> list[int]:
        """Return a number that names each whole text: story, question and answer."""
        tokens = torch.cat([candidates.story_BTL.flatten(1), candidates.answers_BA], dim=1).long()
        place = noise.mix(torch.arange(tokens.shape[1], device=tokens.device))
        mixed: list[int] = noise.mix(noise.mix(tokens) ^ place).sum(dim=1).tolist()
        return mixed

    def _offer(self, one: Candidates, text: int) -> Written:
        name = text if self.identity == "text" else int(one.hash_B)
        features = self._features(one, self._known(one, name))
        action, slot = _choose(self.policy.decide(features), features)
        self.seen += 1
        if action == SKIP or slot < 0:
            return Written(SKIP, -1, -1)
        evicted = -1
        if action == ADD:
            evicted = self._clear(slot) if self.columns["filled_N"][slot] else -1
            self._slots_of[name].append(slot)
            self._stamp(slot, one, name)
        self._fill(slot, one, merge=action == MERGE)
        return Written(action, int(self.provenance("id")[slot]), evicted)

    def _known(self, one: Candidates, name: int) -> int:
        """Return the slot that holds this item already, or -1."""
        slots = self._slots_of.get(name, ())
        if self.identity == "none" or not slots:
            return -1
        answer = _fit(one.answers_BA[0], self.answer_length)
        agree = (self.columns["answers_NA"][list(slots)] == answer).all()
        return slots[-1] if agree else -1

    def _features(self, one: Candidates, known: int) -> Features:
        columns = self.columns
        filled_BN = columns["filled_N"][None]
        device = filled_BN.device
        similarity_BN = torch.zeros_like(columns["uses_N"])[None]
        if getattr(self.policy, "needs_similarity", True):
            similarity_BN = torch.cosine_similarity(one.key_BD, columns["keys_ND"])[None]
        counter = torch.tensor([self.seen], device=device)
        key = torch.tensor([self.key], device=device)
        return Features(
            candidate_BW=one.key_BD,
            similarity_BN=similarity_BN * filled_BN,
            usage_BN=columns["uses_N"][None],
            age_BN=(self.seen - self.provenance("birth")[None]) * filled_BN.float(),
            idle_BN=(self.clock - self.provenance("last_use")[None]) * filled_BN.float(),
            filled_BN=filled_BN,
            seen_B=counter,
            noise_BM=noise.uniform(key, counter, self.capacity + 1),
            known_B=torch.tensor([known], device=device),
            outcome_BF=one.outcome_BF,
        )

    def _clear(self, slot: int) -> int:
        """Forget the entry at a slot and return its id."""
        entry, name = int(self.provenance("id")[slot]), int(self.provenance("hash")[slot])
        self._slots_of[name].remove(slot)
        if not self._slots_of[name]:
            del self._slots_of[name]
        self.columns["filled_N"][slot] = False
        return entry

    def _stamp(self, slot: int, one: Candidates, name: int) -> None:
        """Give a new entry its id and its provenance."""
        where = [int(one.task_B), int(one.episode_B), int(one.step_B)]
        row = [self.next_id, *where, self.seen, self.clock, name]
        self.columns["provenance_NC"][slot] = torch.tensor(row)
        self.columns["uses_N"][slot] = 0
        self.columns["filled_N"][slot] = True
        self.next_id += 1

    def _fill(self, slot: int, one: Candidates, merge: bool) -> None:
        """Write the content: over what was there, or (merge) halfway between the two."""
        share = 0.5 if merge else 1.0
        for name, new in (("keys_ND", one.key_BD[0]), ("vectors_NV", one.vector_BV[0])):
            if self.columns[name].shape[1]:
                self.columns[name][slot].lerp_(new.to(self.columns[name]), share)
        self.columns["answers_NA"][slot] = _fit(one.answers_BA[0], self.answer_length)
        self.columns["story_NTL"][slot] = one.story_BTL[0].to(torch.int16)
        self.provenance("last_use")[slot] = self.clock

    def _touch(self, slots: Tensor, weights: Tensor) -> None:
        self.columns["uses_N"].index_add_(0, slots, weights)
        self.provenance("last_use")[slots] = self.clock

    def _neighbours_of(self, probe: Tensor) -> Tensor:
        columns = self.columns
        query = columns["keys_ND"][probe]
        return nearest(query, columns["keys_ND"], columns["filled_N"], self.neighbours)[1]


def p_store(recall: Recall, prefix_BA: Tensor, position: int, vocabulary: int) -> tuple[Tensor, Tensor]:
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


def _choose(decision: Decision, features: Features) -> tuple[int, int]:
    """Return the sampled action and the slot it concerns (-1 for none)."""
    action = int(decision.action_B4.argmax())
    full = bool(features.filled_BN.all())
    place_N = decision.victim_BN[0] if action == ADD and full else decision.slot_BN[0]
    slot = int(place_N.argmax())
    if action in (UPDATE, MERGE) and not bool(features.filled_BN[0, slot]):
        return SKIP, -1
    return action, slot if float(place_N[slot]) > 0 else -1


def _fit(answer_A: Tensor, length: int) -> Tensor:
    """Return an answer cut or padded to `length` tokens, int32."""
    cut = answer_A[:length].to(torch.int32)
    return torch.nn.functional.pad(cut, (0, length - len(cut)))
