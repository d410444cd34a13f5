"""NEC: the lifelong store of Neural Episodic Control, keys and values read by neighbourhood.

Pritzel et al. 2017, "Neural Episodic Control", arXiv:1703.01988: a differentiable neural
dictionary; a read weighs the K nearest keys by the inverse-distance kernel (equations 1, 2 and 5),
a known state is updated, an unknown one appended, and a full store evicts. Here a policy makes
that choice; values are answers (token sequences) and vectors, and every entry keeps the raw text
it came from and its provenance.

The store is large, so it is changed in place. It belongs to one lifetime. It knows nothing of
words, tasks or environments.

Letters: B rows, N entries, D key size, V vector size, A tokens of an answer, T sentences and L
tokens of a story, K neighbours.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stillknows.memory import episodic, expect, native, noise
from stillknows.memory.episodic import Candidates, Departures, Entries, Recall, Written
from stillknows.memory.interface import ADD, SKIP, Decision, Features, Policy, decided, placed
from stillknows.memory.knn import Lengths, inverse_distance_weights, nearest, share_kept
from stillknows.memory.names import Census, Holding, Name, Names
from stillknows.memory.offering import features_of
from stillknows.memory.ordered import Ordered
from stillknows.memory.refusals import refuse
from stillknows.memory.rounded import Rounded
from stillknows.memory.stores.kept import Kept, renewed
from stillknows.memory.stores.store import COUNTERS, Store, TensorStore, are_alike, holdings
from stillknows.memory.table import Table

IDENTITIES = ("question", "text", "none")
_NOTHING = Written(SKIP, -1, -1)


class NEC(Kept, Ordered):
    """A store of `capacity` entries.

    Args:
        capacity: how many entries it holds at most (N).
        key_size: D; 0 for a plain replay buffer, which is not read.
        vector_size: V; 0 to keep no vectors.
        policy: decides what is written and who leaves.
        answer_length: the most tokens of an answer (A).
        story_shape: the most sentences and tokens of a sentence that are kept (T, L).
        token_bytes: of a token of a story: 1, 2 for vocabularies beyond 255, 4 beyond 32,767.
        neighbours: how many entries a read takes (K; 50 in the paper).
        delta: of the kernel.
        update_rate: how far an update moves a stored vector to the new one. 1 for answers; for
            N-step returns (a store for each action, `vector_size` 1, the state's hash, blank
            answers) the alpha of equation 4, Q_i += alpha (Q_N - Q_i).
        identity: when an entry is known, and refreshed. `question`: the same question is stored,
            and always with this answer; `text`: the same story and answer; `none`: never.
        key: names the lifetime, for the noise of random policies.
        writes: how many entries a step may add at most, in the order of its rows; None: any number.
        device: where it lives.

    Raises:
        ValueError: if a number cannot be, or `identity` is none of the three.
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
        token_bytes: int = 2,
        neighbours: int = 8,
        delta: float = 1e-3,
        update_rate: float = 1.0,
        identity: str = "question",
        key: int = 0,
        writes: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        expect.whole(1, capacity=capacity, neighbours=neighbours, answer_length=answer_length)
        expect.whole(0, key_size=key_size, vector_size=vector_size)
        expect.above(0, delta=delta)
        expect.number(0, 1, update_rate=update_rate)
        expect.whole(1, writes=capacity if writes is None else writes)
        if token_bytes not in (1, 2, 4):
            raise ValueError(f"token_bytes={token_bytes}: choose 1, 2 or 4.")
        if identity not in IDENTITIES:
            raise ValueError(f"identity={identity!r}: choose one of {', '.join(IDENTITIES)}.")
        self.capacity, self.policy, self.identity = capacity, policy, identity
        self.answer_length, self.update_rate = answer_length, update_rate
        expect.pair(0, story_shape=story_shape)
        self.story_shape = (story_shape[0], story_shape[1])
        self.neighbours, self.delta, self.key, self.writes = neighbours, delta, key, writes
        self.columns = episodic.blank_columns(
            capacity, key_size, vector_size, answer_length, self.story_shape, device, token_bytes
        )
        self.seen = self.clock = self.next_id = self.size = 0
        self.store: Store = TensorStore()
        self._frozen = False
        self._index()
        if hasattr(policy, "begin"):
            policy.begin(capacity)

    @classmethod
    def within(cls, bytes: int, **arguments: Any) -> "NEC":
        """Return the largest store whose columns fit into so many bytes.

        Raises:
            ValueError: if not one entry fits.
        """
        expect.whole(1, bytes=bytes)
        one = cls(1, **arguments).nbytes
        if bytes < one:
            raise ValueError(f"bytes={bytes}: one entry takes {one}; give the store more.")
        return cls(bytes // one, **arguments)

    def __len__(self) -> int:
        """Return how many entries it holds; they are in the first slots, where none was deleted."""
        return self.size - len(self.holes)

    @property
    def nbytes(self) -> int:
        """Bytes of all columns, whether filled or not."""
        return sum(column.nbytes for column in self.columns.values())

    def provenance(self, name: str) -> Tensor:
        """Return a column of provenance, int64 `[N]`, -1 where empty.

        Args:
            name: id, task, episode, step, birth, last_use or hash.
        """
        return self.columns["provenance_NC"][:, episodic.PROVENANCE.index(name)]

    def namesakes(self) -> Tensor:
        """Return how many entries hold each slot's question, itself too; 0 where empty, `[N]`."""
        return self.names.count_all(self.provenance("hash")) * self.columns["filled_N"]

    def recall(self, query_BD: Tensor) -> Recall:
        """Return the K nearest entries; a read counts as use unless the store is frozen."""
        distance_BK, slots_BK = self.nearest(query_BD, self.neighbours)
        weights_BK = inverse_distance_weights(distance_BK, self.delta)
        present_BK, at_BK = slots_BK >= 0, slots_BK.clamp(min=0)
        self.touch(slots_BK, weights_BK)
        return Recall(
            slots_BK,
            weights_BK,
            distance_BK,
            self.columns["answers_NA"][at_BK].long() * present_BK[..., None],
            self.columns["vectors_NV"][at_BK] * present_BK[..., None],
            present_BK,
            self.names.count_at(at_BK, self.provenance("hash")[at_BK]) * present_BK,
        )

    def nearest(self, query_BD: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
        """Return squared distances and slots of the nearest entries, as `knn.nearest` does.

        Raises:
            ValueError: if the query is of another width, NaN or infinite, or there are no keys.
        """
        keys_ND, filled_N = self.columns["keys_ND"], self.columns["filled_N"]
        if not keys_ND.shape[1]:
            raise ValueError("This store has no keys (key_size=0) and is not read: give it some.")
        refuse(query=(query_BD, keys_ND.shape[1]))
        reach = max(1, self.size)
        length_N = rounded = None
        if native.searches(query_BD, (keys_ND,)):
            rounded = self.rounded.of(self.columns, reach)
        elif keys_ND.is_cpu:
            length_N = self._lengths.of(keys_ND, filled_N)[:reach]
        return nearest(query_BD, keys_ND[:reach], filled_N[:reach], neighbours, length_N, rounded)

    def begin_read(self) -> int | None:
        """Begin a read at a time of its own, return it; None while frozen. `recall` begins none."""
        self.clock += not self._frozen
        return None if self._frozen else self.clock

    def touch(self, slots: Tensor, weights: Tensor) -> None:
        """Count a read of entries (repeats add up) as use, unless the store is frozen.

        Args:
            slots: int64, -1 for none, of any shape.
            weights: of the same shape.
        """
        if self._frozen:
            return
        slots, uses_N = slots.flatten(), self.columns["uses_N"]
        there, at = slots >= 0, slots.clamp(min=0)
        weights = weights.detach().flatten().to(uses_N)
        uses_N.index_add_(0, at, torch.where(there, weights, 0))
        now = torch.where(there, self.clock, -1)  # the clock never goes back
        self.provenance("last_use").scatter_reduce_(0, at, now, "amax")

    def find(self, hash_B: Tensor) -> Tensor:
        """Return the newest slot of each name, -1 where it is not held, int64 `[B]`."""
        return self.names.newest(hash_B)

    def remember(self, candidates: Candidates) -> list[Written]:
        """Do as `take` does, and return what became of each row."""
        told = self.take(candidates)
        return [Written(*row) for row in told.T.tolist()] if isinstance(told, Tensor) else told

    def take(self, candidates: Candidates) -> list[Written] | Tensor:
        """Offer candidates to the policy and do what it decides, in the order of the rows.

        Returns what became of each as it is at hand: as `Written`, or so in int64 `[3, B]`.

        Raises:
            RuntimeError: if the store is frozen.
            ValueError: if a candidate has other sizes than the store, or is NaN or infinite.
        """
        self.expect_thawed("writes nothing")
        hash_B = self._hashes(candidates)
        while len(hash_B):
            self.store.prepare(self)
            write = self._write_at_once if self._writes_at_once(candidates) else self._offer
            before = self.columns["keys_ND"]._version
            slots, written = write(candidates, hash_B)
            self.rounded.note(self.columns["keys_ND"], before, slots)
            if self.store.write(self, "write", slots):
                return written
            if hasattr(self.policy, "undo_write"):
                self.policy.undo_write()
        return []

    def sample(self, size: int, key: int, before: int | None = None, facts: bool = True) -> Tensor:
        """Return up to `size` different filled slots, every one as likely; the same for a key.

        Args:
            size: how many.
            key: of the draw.
            before: only entries born when fewer candidates than this had been `seen`.
            facts: also entries whose question no other entry holds.

        Returns:
            Where the wanted are, int64; where none is wanted, of any entries.
        """
        wanted_N = self.columns["filled_N"].clone()
        if before is not None:
            wanted_N &= self.provenance("birth") < before
        if not facts:
            wanted_N &= self.namesakes() > 1
        filled = (wanted_N if wanted_N.any() else self.columns["filled_N"]).nonzero()[:, 0]
        whole = torch.tensor([key], dtype=torch.int64, device=filled.device)
        order = noise.uniform(whole, torch.zeros_like(whole), len(filled))[0].argsort(stable=True)
        return filled[order[:size]]

    def entries(self, slots: Tensor) -> Entries:
        """Return what the entries at `slots` rehearse."""
        return Entries(self.columns["story_NTL"][slots].long(), self.columns["answers_NA"][slots])

    def rekey(self, encode: Callable[[Tensor], Tensor], probes: int = 64) -> float:
        """Compute every key again from its raw text; raises what `take` does.

        Args:
            encode: stories `[B, T, L]` to keys `[B, D]`.
            probes: how many entries are asked for their neighbours before and after.

        Returns:
            The share of the probes' K nearest neighbours that stay (recall@K).
        """
        if not self.columns["keys_ND"].shape[1]:
            return 1.0
        self.expect_thawed("changes no key")
        while True:
            self.store.follow(self)
            filled = self.columns["filled_N"].nonzero()[:, 0]
            probe = self.sample(probes, self.clock)
            before = self.nearest(self.columns["keys_ND"][probe], self.neighbours)[1]
            self.columns["keys_ND"][filled] = renewed(self.columns, filled, encode)
            if self.store.write(self, "rekey", (), filled.tolist()):
                break
        after = self.nearest(self.columns["keys_ND"][probe], self.neighbours)[1]
        return share_kept(before, after)

    def snapshot(self) -> dict[str, Any]:
        """Return all that the store knows, as a copy."""
        columns = {name: column.clone() for name, column in self.columns.items()}
        return {"columns": columns, **{name: getattr(self, name) for name in COUNTERS}}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Become what `snapshot` was taken of.

        Raises:
            ValueError: if that was a store of another capacity or other sizes.
        """
        if not are_alike(snapshot["columns"], self.columns):
            raise ValueError("The snapshot is of a store of other sizes; build one like it first.")
        while True:
            self.store.follow(self)
            before, counters = self.columns, [getattr(self, name) for name in COUNTERS]
            self.columns = {name: column.clone() for name, column in snapshot["columns"].items()}
            vars(self).update({name: snapshot[name] for name in COUNTERS})
            self._index()
            slots = episodic.differing(before, self.columns)
            alike = not slots and counters == [snapshot[name] for name in COUNTERS]
            if alike or self.store.write(self, "restore", slots):
                return

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let reads touch nothing and writes raise, for an examination."""
        before, self._frozen = self._frozen, True
        try:
            yield
        finally:
            self._frozen = before

    def _hashes(self, candidates: Candidates) -> Tensor:
        """Return the number that each row is known by."""
        if self.identity != "text":
            return candidates.hash_B
        answers_BA = episodic.fit(candidates.answers_BA, self.answer_length)
        tokens_BL = torch.cat([candidates.story_BTL.flatten(1), answers_BA], dim=1).long()
        return noise.hash_rows(tokens_BL)

    def _offer(self, candidates: Candidates, hash_B: Tensor) -> tuple[list[int], list[Written]]:
        """Ask the policy, do what it decides; return the slots that changed, and all."""
        self.refuse(candidates)
        candidates = Candidates(*(part.detach() for part in candidates))
        answers = episodic.fit(candidates.answers_BA, self.answer_length).tolist()
        names: list[Name] = list(zip(hash_B.tolist(), map(tuple, answers), strict=True))
        known = [-1 if self.identity == "none" else self.names.known(*name) for name in names]
        if self._in_order(len(names)):
            self.clock += 1
            slots, written = self._place_in_order(known, names)
        else:
            features = features_of(self, candidates, known, names)
            slots, written = self._settle(decided(self.policy, features), features, names)
        last = {slot: row for row, slot in enumerate(slots) if slot >= 0}
        episodic.fill(self.columns, last, candidates, written, self.update_rate, self.clock)
        added = {slot: row for slot, row in last.items() if written[row].action == ADD}
        if added and hasattr(self.policy, "observe_write"):
            where = placed(list(added), self.columns["filled_N"].device)
            rows = placed(list(added.values()), candidates.outcome_BF.device)
            self.policy.observe_write(where, candidates.outcome_BF[rows])
        self.seen += len(names)
        return list(last), written

    def _settle(
        self, decision: Decision, features: Features, names: list[Name]
    ) -> tuple[list[int], list[Written]]:
        """Give every row its slot, in order, and keep count of who holds what."""
        planned = episodic.plan(self.policy, decision, features, self._empty(), self.writes)
        self.clock += 1
        slots, written = [], []
        begun, named = dict[int, int](), dict[int, int]()
        for (action, slot), (name, answer) in zip(planned, names, strict=True):
            slots.append(slot)
            if slot < 0:
                written.append(_NOTHING)
                continue
            before = self.names.at(slot)
            gone = entry = -1 if before is None else self.names.drop(before, slot)
            if action == ADD:
                entry = begun[slot] = self.next_id
                self.next_id += 1
            named[slot] = name
            self.names.add(name, slot, Holding(entry, answer))
            written.append(Written(action, entry, gone if action == ADD else -1))
        self._stamp(begun, named)
        return slots, written

    def _stamp(self, begun: dict[int, int], named: dict[int, int]) -> None:
        """Begin new entries, whose ids are given by slot, and name slots, new ones among them."""
        device = self.columns["uses_N"].device
        if begun:
            others = [-1, -1, -1, self.seen, self.clock]
            rows = [[entry, *others, named[slot]] for slot, entry in begun.items()]
            at_S, new_SC = (placed(numbers, device) for numbers in (list(begun), rows))
            self.columns["provenance_NC"][at_S] = new_SC
            self.columns["uses_N"].index_fill_(0, at_S, 0)
            self.columns["filled_N"].index_fill_(0, at_S, True)
            self.size = max(self.size, 1 + max(begun))
            self.holes.difference_update(begun)
        if renamed := named.keys() - begun.keys():
            pairs = [(slot, named[slot]) for slot in renamed]
            at_S, name_S = placed(pairs, device).unbind(dim=1)
            self.provenance("hash")[at_S] = name_S

    def _index(self) -> None:
        """Note anew who holds what, from the columns alone."""
        filled_N = self.columns["filled_N"]
        self.holes = set((~filled_N[: self.size]).nonzero()[:, 0].tolist())
        self.departures, self._lengths, self.rounded = Departures(), Lengths(), Rounded()
        self.names: Names | Table
        if Table.holds(self.columns):
            self.names = Table(self.columns)
            return
        slots = filled_N.nonzero()[:, 0]
        held = holdings({name: column[slots] for name, column in self.columns.items()})
        there = filled_N.device
        census = Census(self.capacity, there) if there.type == "cuda" else None
        pairs = zip(slots.tolist(), held, strict=True)
        self.names = Names(((name, slot, one) for slot, (name, one) in pairs), census)
