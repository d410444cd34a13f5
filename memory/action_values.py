"""Action values by neighbourhood: a NEC store for each action, for control.

Pritzel et al. 2017, "Neural Episodic Control", arXiv:1703.01988: Q(s, a) is the kernel-weighted
mean of the values of the K nearest keys in the store of a (equation 1); a known state's value moves
towards its N-step return (equation 4), an unknown one is appended; the loss of replayed states
reaches the encoder and the keys and values that were gathered. Model-free episodic control
(Blundell et al. 2016, arXiv:1606.04460) is the same with `kernel="mean"` and `update="max"`.

This file knows no environment and no encoder. Letters: B rows, A actions, N entries of a store,
D key size, K neighbours, U distinct entries that were gathered, T steps of an episode.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stillknows.memory import expect, native
from stillknows.memory.episodic import Candidates
from stillknows.memory.interface import Policy
from stillknows.memory.knn import by_halves, inverse_distance_weights
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictIdle
from stillknows.memory.refusals import refuse

KERNELS = ("inverse_distance", "mean")
UPDATES = ("average", "max")


class _Gathered(NamedTuple):
    """Entries that took part in a read, as leaves of its graph; of slots that still hold them."""

    store: int
    slots_U: Tensor
    ids_U: Tensor
    keys_UD: Tensor
    values_U: Tensor


class ActionValues:
    """Q(s, a) for `actions` actions.

    Args:
        actions: A.
        capacity: entries of each action's store (5 x 10^5 in the paper).
        key_size: D.
        neighbours: K (50 in the paper; 11 for model-free episodic control).
        delta: of the inverse-distance kernel, on squared distances.
        kernel: `inverse_distance`, or `mean` of the neighbours, where a state that is stored
            itself is worth exactly what is stored.
        update: of a known state: `average`, Q += update_rate (R - Q), or `max`(Q, R).
        update_rate: the tabular learning rate (alpha).
        learning_rate: of the gathered keys and values, by RMSProp; 0 leaves them to the updates.
        decay: of RMSProp's mean square.
        epsilon: added to its root.
        empty: the value of every state for an action that was never written.
        policy: makes the eviction rule of a store; the paper's is the longest not a neighbour.
        device: where the stores live.

    Raises:
        ValueError: if `kernel` or `update` is unknown.
    """

    def __init__(
        self,
        actions: int,
        capacity: int,
        key_size: int,
        *,
        neighbours: int = 50,
        delta: float = 1e-3,
        kernel: str = "inverse_distance",
        update: str = "average",
        update_rate: float = 0.1,
        learning_rate: float = 0.0,
        decay: float = 0.95,
        epsilon: float = 0.01,
        empty: float = 0.0,
        policy: Callable[[], Policy] = EvictIdle,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, value, known in (("kernel", kernel, KERNELS), ("update", update, UPDATES)):
            if value not in known:
                raise ValueError(f"{name}={value!r}: choose {' or '.join(known)}.")
        expect.whole(1, actions=actions, key_size=key_size, neighbours=neighbours)
        expect.above(0, delta=delta, epsilon=epsilon)
        expect.number(0, learning_rate=learning_rate)
        expect.number(0, 1, decay=decay, update_rate=update_rate)
        expect.above(-math.inf, empty=empty)
        self.neighbours, self.delta, self.kernel, self.update = neighbours, delta, kernel, update
        self.learning_rate, self.decay, self.epsilon = learning_rate, decay, epsilon
        self.empty = empty
        self.stores = [
            NEC(
                capacity,
                key_size,
                1,
                policy(),
                answer_length=1,
                story_shape=(0, 0),
                update_rate=1.0 if update == "max" else update_rate,
                key=action,
                device=device,
            )
            for action in range(actions)
        ]
        # RMSProp's mean squares, a row an entry, and whose they are: a new entry begins at 0.
        self._squares = [torch.zeros(capacity, key_size + 1, device=device) for _ in self.stores]
        self._owners = [torch.full((capacity,), -1, device=device) for _ in self.stores]
        self._gathered: list[_Gathered] = []

    def values(self, query_BD: Tensor, hash_B: Tensor) -> Tensor:
        """Return Q, `[B, A]`, with a gradient to the query.

        Args:
            query_BD: keys of the states.
            hash_B: names of the states, int64 `[B]`.
        """
        at_once = not (torch.is_grad_enabled() and query_BD.requires_grad)
        if at_once and native.searches(query_BD, [s.columns["keys_ND"] for s in self.stores]):
            return self._values_at_once(query_BD, hash_B)
        columns = [
            self._values_of(action, query_BD, hash_B, False, False)
            for action in range(len(self.stores))
        ]
        return torch.stack(columns, dim=1)

    def replay(self, action_B: Tensor, query_BD: Tensor, hash_B: Tensor) -> Tensor:
        """Return Q of the actions that were taken, `[B]`, to learn from.

        The gradient reaches query, keys and values; the states themselves are left out, since
        they would answer with their own targets.

        Args:
            action_B: int64 `[B]`.
            query_BD: keys of the states.
            hash_B: their names, int64 `[B]`.
        """
        value_B = query_BD.new_zeros(len(query_BD))
        for action in range(len(self.stores)):
            rows = (action_B == action).nonzero()[:, 0]
            if len(rows):
                learned_B = self._values_of(action, query_BD[rows], hash_B[rows], True, True)
                value_B = value_B.index_put((rows,), learned_B)
        return value_B

    def write(self, action_B: Tensor, key_BD: Tensor, hash_B: Tensor, return_B: Tensor) -> None:
        """Take returns of states: update what is known, append the rest, row by row.

        A state that comes again with the same action finds what its earlier row left; who leaves
        is told by what was used before.

        Actions, names and returns are best on the host, where they come from, and keys where the
        stores are: then a GPU is waited for only where something has to leave, once an action.

        Args:
            action_B: what was done, int64 `[B]`.
            key_BD: keys of the states.
            hash_B: their names, int64 `[B]`.
            return_B: their N-step returns.

        Raises:
            ValueError: if there is no such action, or a number is NaN or infinite.
        """
        actions, names = action_B.tolist(), hash_B.tolist()
        done, key_BD, return_B = sorted(set(actions)), key_BD.detach(), return_B.detach()
        last = len(self.stores) - 1
        if wrong := [action for action in done if not 0 <= action <= last]:
            raise ValueError(f"There is no action {wrong[0]}: choose 0 to {last}.")
        states = names if len(done) == 1 else list(zip(actions, names, strict=True))
        first, repeats = self.stores[0], len(set(states)) < len(states)
        if repeats or len(done) > 1:  # then nothing is written where a part cannot be
            refuse(key=(key_BD, first.columns["keys_ND"].shape[1]), vector=(return_B[:, None], 1))
        if repeats or len(states) > first.capacity:
            for run in _runs(states, first.capacity):
                self.write(action_B[run], key_BD[run], hash_B[run], return_B[run])
            return
        parts: Any = [(key_BD,), (hash_B,), (return_B,)]
        if len(done) > 1:  # by action, and in order of the rows within each
            rows = torch.tensor(sorted(range(len(actions)), key=actions.__getitem__))
            key_BD = key_BD[rows.to(key_BD.device, non_blocking=True)]
            each = [actions.count(action) for action in done]
            wholes = key_BD, hash_B[rows], return_B[rows]
            parts = [torch.split_with_sizes(whole, each) for whole in wholes]
        for action, own_BD, names_B, values_B in zip(done, *parts, strict=True):
            store, values_B = self.stores[action], values_B.to(key_BD, non_blocking=True)
            if self.update == "max":
                known_B = store.find(names_B).to(key_BD.device, non_blocking=True)
                held_B = store.columns["vectors_NV"][known_B.clamp(min=0), 0]
                values_B = torch.where(known_B >= 0, torch.maximum(held_B, values_B), values_B)
            store.take(_candidates(own_BD, names_B, values_B))

    def descend(self) -> None:
        """Move what `replay` gathered since the last call; call it after `backward`.

        An entry that has left in between is moved no more.

        Raises:
            RuntimeError: if the stores are frozen.
        """
        for store in self.stores:
            store.expect_thawed("moves nothing")
        for gathered in self._gathered:
            if gathered.values_U.grad is not None:
                self._move(gathered)
        self._gathered = []

    def _move(self, gathered: _Gathered) -> None:
        """Take a step of RMSProp with the keys and values of entries, as far as they are held."""
        action, slots_U, ids_U, keys_UD, values_U = gathered
        columns, squares = self.stores[action].columns, self._squares[action]
        held_U = self.stores[action].provenance("id")[slots_U] == ids_U
        new_U1 = (self._owners[action][slots_U] != ids_U)[:, None]
        pull_UD = torch.zeros_like(keys_UD) if keys_UD.grad is None else keys_UD.grad
        gradient = torch.cat([pull_UD, values_U.grad[:, None]], dim=1)  # type: ignore[index]
        square = squares[slots_U].masked_fill(new_U1, 0)
        square = self.decay * square + (1 - self.decay) * gradient.square()
        step = self.learning_rate * gradient / (square.sqrt() + self.epsilon)
        step = step.masked_fill(~held_U[:, None], 0)
        squares[slots_U] = torch.where(held_U[:, None], square, squares[slots_U])
        self._owners[action][slots_U] = torch.where(held_U, ids_U, self._owners[action][slots_U])
        before = columns["keys_ND"]._version
        columns["keys_ND"][slots_U] -= step[:, :-1]
        self.stores[action].rounded.note(columns["keys_ND"], before, slots_U)
        columns["vectors_NV"][slots_U] -= step[:, -1:]

    def __len__(self) -> int:
        """Return how many entries all stores hold."""
        return sum(len(store) for store in self.stores)

    @property
    def nbytes(self) -> int:
        """Bytes of all stores and of RMSProp's mean squares."""
        beside = sum(part.nbytes for part in (*self._squares, *self._owners))
        return beside + sum(store.nbytes for store in self.stores)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Read without a trace: no use is counted, nothing can be written."""
        with ExitStack() as stack:
            for store in self.stores:
                stack.enter_context(store.frozen())
            yield

    def snapshot(self) -> dict[str, Any]:
        """Return everything as a tree of tensors and numbers."""
        return {
            "stores": [store.snapshot() for store in self.stores],
            "squares": [square.clone() for square in self._squares],
            "owners": [owner.clone() for owner in self._owners],
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Become what a snapshot says."""
        for store, kept in zip(self.stores, snapshot["stores"], strict=True):
            store.restore(kept)
        self._squares = [square.clone() for square in snapshot["squares"]]
        self._owners = [owner.clone() for owner in snapshot["owners"]]
        self._gathered = []

    def _values_at_once(self, query_BD: Tensor, hash_B: Tensor) -> Tensor:
        """Return Q, `[B, A]`, without a gradient."""
        refuse(query=(query_BD, self.stores[0].columns["keys_ND"].shape[1]))
        value_BA = native.values(
            query_BD,
            [store.columns for store in self.stores],
            [store.size for store in self.stores],
            [store.begin_read() for store in self.stores],
            self.neighbours,
            -1.0 if self.kernel == "mean" else self.delta,
            self.empty,
            [store.rounded.of(store.columns, store.size) for store in self.stores],
        )
        if self.kernel == "mean":
            for action, store in enumerate(self.stores):
                value_BA[:, action] = _or_own(value_BA[:, action], store, store.find(hash_B))
        return value_BA

    def _values_of(
        self, action: int, query_BD: Tensor, hash_B: Tensor, learn: bool, exclude: bool
    ) -> Tensor:
        """Return Q of one action, `[B]`; with `exclude` the states themselves are left out."""
        store = self.stores[action]
        store.begin_read()
        if not len(store):
            return query_BD.new_full((len(query_BD),), self.empty)
        own_B = None
        if exclude or self.kernel == "mean":
            own_B = store.find(hash_B).to(query_BD.device, non_blocking=True)
        distance_BK, slots_BK = self._nearest(
            store, query_BD.detach() if learn else query_BD, own_B if exclude else None
        )
        value_BK = store.columns["vectors_NV"][slots_BK.clamp(min=0), 0]
        if learn:
            distance_BK, value_BK = self._gather(action, query_BD, slots_BK)
        weights_BK, present_BK = self._weights(distance_BK), slots_BK >= 0
        store.touch(slots_BK, weights_BK)
        value_B = by_halves(weights_BK * value_BK)
        value_B = torch.where(present_BK.any(dim=1), value_B, self.empty)
        if self.kernel == "mean" and own_B is not None and not exclude:
            value_B = _or_own(value_B, store, own_B)
        return value_B

    def _gather(self, action: int, query_BD: Tensor, slots_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Return distances and values of entries, `[B, K]`, as leaves that `descend` will move."""
        columns = self.stores[action].columns
        slots_U, index_BK = slots_BK.clamp(min=0).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        keys_UD = columns["keys_ND"][slots_U].requires_grad_()
        values_U = columns["vectors_NV"][slots_U, 0].requires_grad_()
        ids_U = self.stores[action].provenance("id")[slots_U]
        self._gathered.append(_Gathered(action, slots_U, ids_U, keys_UD, values_U))
        distance_BK = by_halves((query_BD[:, None] - keys_UD[index_BK]).square())
        return distance_BK.masked_fill(slots_BK < 0, torch.inf), values_U[index_BK]

    def _nearest(
        self, store: NEC, query_BD: Tensor, without_B: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return distances and slots of the K nearest, without one slot of each row."""
        if without_B is None:
            return store.nearest(query_BD, self.neighbours)
        distance_BK, slots_BK = store.nearest(query_BD, self.neighbours + 1)
        own_BK = (slots_BK == without_B[:, None]) & (without_B >= 0)[:, None]
        own_BK[:, -1] |= ~own_BK.any(dim=1)  # where it was not found, the farthest is one too many
        others_BK = own_BK.long().argsort(dim=1, stable=True)[:, :-1]
        return distance_BK.gather(1, others_BK), slots_BK.gather(1, others_BK)

    def _weights(self, distance_BK: Tensor) -> Tensor:
        if self.kernel == "inverse_distance":
            return inverse_distance_weights(distance_BK, self.delta)
        present_BK = distance_BK.isfinite().to(distance_BK)
        return present_BK / present_BK.sum(dim=1, keepdim=True).clamp(min=1)


def n_step_returns(
    rewards_T: Tensor, bootstrap_T: Tensor, steps: int, discount: float, last: float = 0.0
) -> Tensor:
    """Return `R_t = sum_{j<N} gamma^j r_{t+j} + gamma^N V(s_{t+N})`, `[T]` (equation 3).

    Args:
        rewards_T: of an episode, `r_t` after the action in `s_t`.
        bootstrap_T: `V(s_t) = max_a Q(s_t, a)` as it was when `s_t` was met.
        steps: N.
        discount: gamma.
        last: V of the state after the last step, 0 where the episode was over.
    """
    length = len(rewards_T)
    rewards_T = rewards_T.to(bootstrap_T)  # rewards may be whole numbers
    returns = rewards_T.new_zeros(length)
    for t in range(length):
        span = min(steps, length - t)
        power = discount ** torch.arange(span).to(rewards_T)
        tail = bootstrap_T[t + steps] if t + steps < length else last
        returns[t] = (power * rewards_T[t : t + span]).sum() + discount**span * tail
    return returns


def _runs(states: Sequence[Hashable], longest: int) -> Iterator[slice]:
    """Yield runs of rows, in none of which a state comes twice."""
    begun, seen = 0, set[Hashable]()
    for row, state in enumerate(states):
        if state in seen or len(seen) == longest:
            yield slice(begun, row)
            begun, seen = row, set()
        seen.add(state)
    yield slice(begun, len(states))


def _or_own(value_B: Tensor, store: NEC, own_B: Tensor) -> Tensor:
    """Return what a store holds of the states themselves, at `own_B`, and values for the rest."""
    held_B = store.columns["vectors_NV"][own_B.clamp(min=0), 0]
    return torch.where(own_B >= 0, held_B, value_B)


def _candidates(key_BD: Tensor, hash_B: Tensor, value_B: Tensor) -> Candidates:
    """Return rows with values and names, and nothing to read or to answer."""
    rows = key_BD.shape[0]
    whole, answers, story, outcomes = _nothing(rows, key_BD.device)
    return Candidates(
        key_BD=key_BD,
        vector_BV=value_B[:, None],
        answers_BA=answers,
        story_BTL=story,
        hash_B=hash_B,
        outcome_BF=outcomes,
        task_B=whole,
        episode_B=whole,
        step_B=whole,
    )


@lru_cache(maxsize=64)
def _nothing(rows: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return zeros for whole numbers, answers, stories and outcomes, which nobody changes."""
    whole = torch.zeros(rows, dtype=torch.int64, device=device)
    return whole, whole[:, None], whole.new_zeros(rows, 0, 0), whole.new_zeros(rows, 3).float()
