"""Slots: a working memory of discrete slots, addressed by content, usage and time order.

The DNC's addressing (Graves et al. 2016, Nature 538:471) without the wait: what is written does
not depend on what is read, so the items of an episode are encoded in parallel and only the
decisions are a scan over time, on features that carry no gradient. A read makes several hops:
in every hop the query, and the slots among themselves, attend to what came before them; the
nearer in time, the stronger (the part of the temporal links; the bias is that of Press et al.
2022, "Train Short, Test Long", arXiv:2108.12409, with the order of writing as position).
A slot that was written with probability p enters every attention with log p, so the gradient of
the answer's loss reaches the policy through the read.

This file knows nothing of sentences, questions or tasks.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stillknows.memory import expect
from stillknows.memory.interface import (
    ADD,
    MERGE,
    SKIP,
    Decision,
    Features,
    Policy,
    Read,
    decided,
    fills_room,
    noise_for,
    typed_as,
)
from stillknows.memory.pool import Pool, pick

_FLOOR = 1e-6  # the least strength: log of it is finite
_STEEPEST = 1e4  # nats for a place: what is empty stays below what is filled


class SlotsState(NamedTuple):
    """The whole of the memory; N slots of W numbers for each of B rows.

    Attributes:
        values_BNW: what the slots hold, `[B, N, W]`.
        strength_BN: the probability with which each was written, 0 where empty, `[B, N]`.
        birth_BN: the step of the last write, -1 where empty, int64 `[B, N]`.
        last_read_BN: the step of the last write or weighty read, int64 `[B, N]`.
        usage_BN: read weights summed since the slot was filled, `[B, N]`.
        writes_B: writes expected so far, the sum of their probabilities, `[B]`.
        step_B: items taken so far, int64 `[B]`.
        key_B: names the episode for the noise of random policies, int64 `[B]`.
    """

    values_BNW: Tensor
    strength_BN: Tensor
    birth_BN: Tensor
    last_read_BN: Tensor
    usage_BN: Tensor
    writes_B: Tensor
    step_B: Tensor
    key_B: Tensor


class Hop(nn.Module):
    """One hop of a read: attention biased by time and strength, then a two-layer network."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_network = nn.RMSNorm(width)
        self.network = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        nn.init.normal_(self.out.weight, std=0.02)

    def forward(self, x_BSW: Tensor, context_BCW: Tensor, bias_BHSC: Tensor) -> tuple[Tensor, ...]:
        """Return the new `[B, S, W]` and the attention weights `[B, H, S, C]`."""
        split = (x_BSW.shape[0], -1, self.heads, x_BSW.shape[2] // self.heads)
        context_BCW = self.norm_attention(context_BCW)
        query_BHSE = self.query(self.norm_attention(x_BSW)).view(split).transpose(1, 2)
        key_BCW, value_BCW = self.key_value(context_BCW).chunk(2, dim=-1)
        key_BHCE, value_BHCE = (z.reshape(split).transpose(1, 2) for z in (key_BCW, value_BCW))
        scores_BHSC = query_BHSE @ key_BHCE.transpose(2, 3) / math.sqrt(split[3])
        weights_BHSC = torch.softmax(scores_BHSC + bias_BHSC, dim=-1)
        read_BSW = (weights_BHSC @ value_BHCE).transpose(1, 2).reshape(x_BSW.shape)
        x_BSW = x_BSW + self.out(read_BSW)
        return x_BSW + self.network(self.norm_network(x_BSW)), weights_BHSC


class Slots(nn.Module):
    """A working memory of `slots` vectors of `word_size` numbers, read in `hops` hops.

    Args:
        slots: how many it holds (N).
        word_size: the width of an item (W).
        hops: attention layers of one read.
        heads: attention heads; `word_size` is a multiple of it.
        recency: how strongly each head prefers what is nearer in time, one number a head, in
            nats for one place in the order of writing; 0 is no preference.
        tied: whether all hops have the same weights, as the steps of a Universal Transformer
            (Dehghani et al. 2019, arXiv:1807.03819): steps of a kind are then learned once, and
            chains of them are learned by heart less.

    Raises:
        ValueError: if the heads do not divide the word size, or `recency` does not fit them.
    """

    holds_items = True  # a slot is one item, whose number is its birth

    recency: Tensor
    query_mark: nn.Parameter

    def __init__(
        self,
        slots: int,
        word_size: int,
        hops: int = 3,
        heads: int = 4,
        recency: tuple[float, ...] = (2.0, 1.0, 0.25, 0.0),
        tied: bool = False,
    ) -> None:
        super().__init__()
        expect.whole(1, slots=slots, word_size=word_size, hops=hops, heads=heads)
        if word_size % heads:
            raise ValueError(f"word_size={word_size} is no multiple of heads={heads}; change one.")
        if len(recency) != heads:
            raise ValueError(
                f"recency has {len(recency)} numbers for {heads} heads; give one each."
            )
        self.slots, self.word_size, self.reads = slots, word_size, hops
        self.hops = nn.ModuleList(Hop(word_size, heads) for _ in range(1 if tied else hops))
        for number, each in enumerate(recency):
            expect.number(-_STEEPEST, _STEEPEST, **{f"recency[{number}]": each})
        self.register_buffer("recency", torch.tensor(tuple(map(float, recency))))
        self.query_mark = nn.Parameter(torch.randn(word_size) * 0.1)
        self.oldest = slots  # among more, older ones are not told apart by age
        self.ages = nn.Embedding(slots + 1, word_size)
        nn.init.normal_(self.ages.weight, std=0.3)

    def initial_state(
        self, batch: int, device: torch.device | str = "cpu", key_B: Tensor | None = None
    ) -> SlotsState:
        """Return an empty memory; `key_B` (int64 `[B]`) names the episodes."""
        floats = torch.zeros(batch, self.slots, device=device)
        whole = torch.full((batch, self.slots), -1, device=device)
        counter = torch.zeros(batch, dtype=torch.int64, device=device)
        values = torch.zeros(batch, self.slots, self.word_size, device=device)
        keys = counter if key_B is None else key_B.to(device)
        state = SlotsState(values, floats, whole, whole, floats, floats[:, 0], counter, keys)
        return typed_as(self, state)

    def step(self, state: SlotsState, item_BW: Tensor, policy: Policy) -> tuple[SlotsState, Read]:
        """Read with the item as the query, then write it as the policy decides."""
        here = torch.ones(len(item_BW), 1, dtype=torch.bool, device=item_BW.device)
        state, read = self.read(state, item_BW)
        return self.write(state, item_BW[:, None], here, policy), read

    def sequence(
        self, state: SlotsState, items_BTW: Tensor, present_BT: Tensor, policy: Policy
    ) -> tuple[SlotsState, Read]:
        """Write the first T - 1 items, then read with the last, which is not written."""
        if not items_BTW.shape[1]:
            raise ValueError("A sequence of no items has no read: give at least one.")
        state = self.write(state, items_BTW[:, :-1], present_BT[:, :-1], policy)
        return self.read(state, items_BTW[:, -1])

    def write(
        self, state: SlotsState, items_BTW: Tensor, present_BT: Tensor, policy: Policy
    ) -> SlotsState:
        """Take T items in their order, each as the policy decides.

        The scan moves no vectors: it keeps, for every slot, where in the pool of old slots and
        items its content stands, and fetches them at the end (`pool`). Only a merge changes the
        pool: the item moves halfway to what it meets. A policy that writes everything while there
        is room is not asked until there is none.

        Args:
            state: the memory before; it stays as it is.
            items_BTW: the candidates, `[B, T, W]`.
            present_BT: False where a row has no item at that place (its clock stands still).
            policy: decides from `Features`.

        Returns:
            The memory after.

        Raises:
            ValueError: if the items have another width.
        """
        self._check_width(items_BTW)
        items_BTW = items_BTW.to(state.values_BNW)  # of a layer under autocast they are of half
        on_gpu = present_BT.device.type != "cpu"
        short = on_gpu and present_BT.shape[1] == 1  # a step, in which nobody waits for a GPU
        fit = _fitting(state, present_BT) if fills_room(policy) and not short else 0
        if fit:
            state = _append(state, items_BTW[:, :fit], present_BT[:, :fit])
            items_BTW, present_BT = items_BTW[:, fit:], present_BT[:, fit:]
        if not present_BT.shape[1]:
            return state
        pool = Pool(state.values_BNW, state.birth_BN, items_BTW, policy)
        for t, present_B in enumerate(present_BT.unbind(dim=1)):
            features = self._features(state, items_BTW[:, t], pool.similarity(t), policy)
            features = pool.show(features, t)
            target_BN, merge_B, strength_B = resolve(decided(policy, features), features)
            target_BN = target_BN & present_B[:, None]
            pool.put(t, target_BN, merge_B)
            state = _bookkeeping(state, target_BN, strength_B, present_B)
        return state._replace(values_BNW=pool.held())

    def read(self, state: SlotsState, query_BW: Tensor) -> tuple[SlotsState, Read]:
        """Return what `hops` hops find for the query, one read a hop, and count it as usage.

        The slots stand in the order of their writing, the query after them; as many take part as
        the fullest row holds. An empty memory gives the query itself, changed only by the hops'
        networks.

        Returns:
            The state with usage counted, and `Read` with R = hops, K slots: `values_BRW` is the
            query after each hop; the weights are means over heads, without what fell on the
            query itself.

        Raises:
            ValueError: if the query has another width.
        """
        self._check_width(query_BW)
        order_BN, strength_BN = self._taking_part(state, query_BW)
        filled_BN = state.birth_BN.gather(1, order_BN) >= 0
        held = order_BN.shape[1]
        values_BNW = pick(state.values_BNW, order_BN)
        bias_BHSS = self._bias(strength_BN, filled_BN)
        ages_N = torch.arange(held, 0, -1, device=query_BW.device).clamp(max=self.oldest)
        x_BSW = torch.cat(
            [values_BNW + self.ages(ages_N), (query_BW + self.query_mark)[:, None]], dim=1
        )
        values, weights = [], []
        for number in range(self.reads):
            hop = self.hops[number % len(self.hops)]
            rows = slice(-1, None) if number == self.reads - 1 else slice(None)
            x_BSW, weights_BHSS = hop(x_BSW[:, rows], x_BSW, bias_BHSS[:, :, rows])
            values.append(x_BSW[:, -1])
            weights.append(weights_BHSS[:, :, -1, :-1].mean(dim=1))
        weights_BRN = torch.stack(weights, dim=1)
        read = Read(
            torch.stack(values, dim=1), order_BN[:, None].expand_as(weights_BRN), weights_BRN
        )
        return counted(state, read), read

    def _check_width(self, vectors: Tensor) -> None:
        if vectors.shape[-1] != self.word_size:
            raise ValueError(
                f"A vector of {vectors.shape[-1]} numbers for a memory ({type(self).__name__}) "
                f"with word_size={self.word_size}: make them the same."
            )

    def _taking_part(self, state: SlotsState, query_BW: Tensor) -> tuple[Tensor, Tensor]:
        """Return which slots a read looks at, in the order of writing, and their strengths."""
        held = fullest(state.birth_BN >= 0)
        order_BN = state.birth_BN.argsort(dim=1, stable=True)[:, self.slots - held :]
        return order_BN, state.strength_BN.gather(1, order_BN)

    def _bias(self, strength_BN: Tensor, filled_BN: Tensor) -> Tensor:
        """Return what is added to the scores `[B, H, N + 1, N + 1]`: time, strength, emptiness."""
        places = strength_BN.shape[1] + 1
        place = torch.arange(places, device=strength_BN.device)
        distance = (place[:, None] - place[None, :]).float()
        time_HSS = (-self.recency[:, None, None] * distance).masked_fill(distance < 0, -torch.inf)
        strength_BN = strength_BN.clamp(min=_FLOOR).log().masked_fill(~filled_BN, -1e9)
        strength_BS = nn.functional.pad(strength_BN, (0, 1))
        own = torch.eye(places, dtype=torch.bool, device=strength_BN.device)
        strength_BSS = strength_BS[:, None, :].masked_fill(own, 0.0)
        return time_HSS + strength_BSS[:, None]

    def _features(
        self, state: SlotsState, item_BW: Tensor, similarity_BN: Tensor | None, policy: Policy
    ) -> Features:
        filled_BN = state.birth_BN >= 0
        step_B1 = state.step_B[:, None]
        usage_BN = state.usage_BN
        return Features(
            candidate_BW=item_BW.detach(),
            similarity_BN=torch.zeros_like(usage_BN) if similarity_BN is None else similarity_BN,
            usage_BN=usage_BN,
            age_BN=torch.where(filled_BN, step_B1 - state.birth_BN, 0).float(),
            idle_BN=torch.where(filled_BN, step_B1 - state.last_read_BN, 0).float(),
            filled_BN=filled_BN,
            seen_B=state.step_B,
            noise_BM=noise_for(policy, state.key_B, state.step_B, self.slots),
            known_B=torch.full_like(state.step_B, -1),
            strength_BN=state.strength_BN.detach(),
        )


def fullest(filled_BN: Tensor) -> int:
    """Return how many slots the fullest row holds; on a GPU, not to wait, as if it held all."""
    if filled_BN.device.type != "cpu":
        return filled_BN.shape[1]
    return int(filled_BN.sum(dim=1).max())


def _fitting(state: SlotsState, present_BT: Tensor) -> int:
    """Return for how many steps, from the first on, every row has a free slot for its items."""
    free_B1 = (state.birth_BN < 0).sum(dim=1, keepdim=True)
    return int((present_BT.cumsum(dim=1) <= free_B1).all(dim=0).sum())


def _append(state: SlotsState, items_BTW: Tensor, present_BT: Tensor) -> SlotsState:
    """Write all items that are there into the first free slots, in their order."""
    free_first_BN = (state.birth_BN >= 0).long().argsort(dim=1, stable=True)
    rank_BT = (present_BT.cumsum(dim=1) - 1).clamp(min=0, max=free_first_BN.shape[1] - 1)
    row, time = present_BT.nonzero(as_tuple=True)
    where = row, free_first_BN.gather(1, rank_BT)[row, time]
    birth = (state.step_B[:, None] + rank_BT)[row, time]
    one, nothing = state.strength_BN.new_ones(()), state.usage_BN.new_zeros(())
    count_B = present_BT.sum(dim=1)
    return state._replace(
        values_BNW=state.values_BNW.index_put(where, items_BTW[row, time]),
        strength_BN=state.strength_BN.index_put(where, one),
        birth_BN=state.birth_BN.index_put(where, birth),
        last_read_BN=state.last_read_BN.index_put(where, birth),
        usage_BN=state.usage_BN.index_put(where, nothing),
        writes_B=state.writes_B + count_B,
        step_B=state.step_B + count_B,
    )


def resolve(decision: Decision, features: Features) -> tuple[Tensor, Tensor, Tensor]:
    """Return the slot that is written (bool `[B, N]`), where it merges (0 or 1), and how strongly.

    An add that names no slot takes the first that is free; one that finds no room, the victim's.
    """
    action_B = decision.action_B4.detach().argmax(dim=1)
    add_B1 = (action_B == ADD)[:, None]
    roomless_B1 = features.filled_BN.all(dim=1, keepdim=True) & add_B1
    place_BN = torch.where(roomless_B1, decision.victim_BN, decision.slot_BN).detach()
    nowhere_B1 = add_B1 & ~roomless_B1 & ~decision.slot_BN.any(dim=1, keepdim=True)
    place_BN = torch.where(nowhere_B1, (~features.filled_BN).float(), place_BN)  # the first free
    slots = torch.arange(place_BN.shape[1], device=place_BN.device)
    best_BN = place_BN.argmax(dim=1, keepdim=True) == slots
    target_BN = best_BN & (place_BN > 0) & (action_B != SKIP)[:, None]
    merge_B = (action_B == MERGE).float()
    strength_B = decision.action_B4[:, ADD:].sum(dim=1)
    return target_BN, merge_B, strength_B


def _bookkeeping(
    state: SlotsState, target_BN: Tensor, strength_B: Tensor, present_B: Tensor
) -> SlotsState:
    step_B1 = state.step_B[:, None]
    return state._replace(
        strength_BN=torch.where(target_BN, strength_B[:, None], state.strength_BN),
        birth_BN=torch.where(target_BN, step_B1, state.birth_BN),
        last_read_BN=torch.where(target_BN, step_B1, state.last_read_BN),
        usage_BN=torch.where(target_BN, 0.0, state.usage_BN),
        writes_B=state.writes_B + strength_B * present_B,
        step_B=state.step_B + present_B,
    )


def counted(state: SlotsState, read: Read) -> SlotsState:
    """Count a read as usage: its hops' mean weights; a read is weighty from 1/(2N) on."""
    weights_BN = torch.zeros_like(state.usage_BN)
    total_BN = read.weights_BRK.detach().mean(dim=1)
    weights_BN.scatter_(1, read.slots_BRK[:, 0], total_BN)
    weighty_BN = weights_BN > 0.5 / weights_BN.shape[1]
    return state._replace(
        usage_BN=state.usage_BN + weights_BN,
        last_read_BN=torch.where(weighty_BN, state.step_B[:, None], state.last_read_BN),
    )
