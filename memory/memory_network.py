"""The end-to-end Memory Network: a query meets every memory, some hops long.

Sukhbaatar, Szlam, Weston, Fergus 2015, arXiv:1503.08895; equations by their numbers, the rest by
sections. Items are vectors, so the embeddings A, B and C are matrices on them; the paper's
sentences are sums of words weighed by `position_encoding`. The state, what is written and who
leaves are those of `slots.py`: a slot written with probability p enters every hop with p, so the
gradient of the answer's loss reaches the policy. The answer matrix belongs to the agent, and is
tied to nothing here; nor is half of the query rectified, as in the paper's language model.

Letters beside those of the interface: S embeddings, V the numbers an embedding gives (V = W).
This file knows nothing of sentences, questions or tasks.
"""

import math

import torch
from torch import Tensor, nn

from stillknows.memory import expect, noise
from stillknows.memory.interface import Read
from stillknows.memory.slots import Slots, SlotsState, counted

TYINGS = ("adjacent", "layer-wise")
_FLOOR = 1e-6  # the least strength: log of it is finite


def position_encoding(length: int, width: int) -> Tensor:
    """Return `l_kj = (1 - j/J) - (k/d)(1 - 2j/J)`, counted from 1 (section 4.1).

    A sentence of J words is the sum over j of `l_j` times the embedding of its word j.

    Args:
        length: words of the sentence (J).
        width: numbers of an embedding (d).

    Returns:
        One row a word, `[length, width]`.
    """
    j_J1 = torch.arange(1, length + 1)[:, None] / length
    k_W = torch.arange(1, width + 1) / width
    return (1 - j_J1) - k_W * (1 - 2 * j_J1)


class MemoryNetwork(Slots):
    """A working memory of `slots` vectors of `word_size` numbers, read in `hops` hops.

    Matrices start so that an embedded item of unit numbers has numbers of 0.25, as the paper's
    sentences of six words have under its N(0, 0.1); H starts as the identity.

    Args:
        slots: how many it holds (N), and how many ages are told apart.
        word_size: the width of an item (W).
        hops: K.
        tying: `adjacent` (`A^(k+1) = C^k`, `B = A^1`) or `layer-wise` (one A, one C, B apart, and
            `u^(k+1) = H u^k + o^k`), for the temporal encodings too (section 2.2).
        linear_start: whether the hops begin without their softmax, until `end_linear_start`; it
            helps where an answer takes several hops.
        empty_share: how many empty memories, for each one held, stand in between in training.

    Attributes:
        linear_start: whether they are without it now; `state_dict` holds it.

    Raises:
        ValueError: if a size is less than 1, the share is none, or the tying is unknown.
    """

    holds_items = True  # a slot is one item, whose number is its birth

    def __init__(
        self,
        slots: int,
        word_size: int,
        hops: int = 3,
        *,
        tying: str = "adjacent",
        linear_start: bool = False,
        empty_share: float = 0.1,
    ) -> None:
        nn.Module.__init__(self)  # what Slots learns for its own reads has no place here
        _check(tying, empty_share, slots=slots, word_size=word_size, hops=hops)
        self.slots, self.word_size, self.reads = slots, word_size, hops
        self.linear_start, self.empty_share = linear_start, empty_share
        self.adjacent = tying == "adjacent"
        count = hops + 1 if self.adjacent else 2
        self.embeddings = nn.ModuleList(_embedding(word_size) for _ in range(count))
        self.times = nn.Parameter(torch.randn(count, slots, word_size) * 0.1)
        if not self.adjacent:
            self.question = _embedding(word_size)  # B
            self.recurrence = _embedding(word_size)  # H
            nn.init.eye_(self.recurrence.weight)

    def end_linear_start(self) -> None:
        """Put the softmax back into the hops, once the loss has stopped falling (section 4.2)."""
        self.linear_start = False

    def read(self, state: SlotsState, query_BW: Tensor) -> tuple[SlotsState, Read]:
        """Return what the hops find for the query (equations 1 and 2), and count it as usage.

        With `m_i = A x_i + T_A(i)`, `c_i = C x_i + T_C(i)` and `u^1 = B q`, a hop is

            p_i = softmax_i(u . m_i + log strength_i)      linear: p_i = strength_i (u . m_i)
            o = sum_i p_i c_i,    u' = u + o               layer-wise: u' = H u + o

        over the slots that hold something. An empty memory gives o = 0.

        Args:
            state: the memory; it stays as it is.
            query_BW: `[B, W]`.

        Returns:
            The state with usage counted, and `Read` with R = hops and K = N: `values_BRW` is u
            after each hop, the weights are p (in a linear start any number, which counts as
            usage between 0 and 1).

        Raises:
            ValueError: if the query has another width.
        """
        self._check_width(query_BW)
        embedded_SBNV = torch.stack([embed(state.values_BNW) for embed in self.embeddings])
        embedded_SBNV = embedded_SBNV + self.times[:, self._ages(state)]
        query_BV = (self.embeddings[0] if self.adjacent else self.question)(query_BW)
        values, weights = [], []
        for hop in range(self.reads):
            first = hop if self.adjacent else 0
            memory_BNV, output_BNV = embedded_SBNV[first], embedded_SBNV[first + 1]
            weights_BN = self._attend(state, (memory_BNV @ query_BV[..., None])[..., 0])
            kept_BV = query_BV if self.adjacent else self.recurrence(query_BV)
            query_BV = kept_BV + (weights_BN[:, None] @ output_BNV)[:, 0]
            values.append(query_BV)
            weights.append(weights_BN)
        weights_BRN = torch.stack(weights, dim=1)
        slots = torch.arange(self.slots, device=query_BW.device).expand_as(weights_BRN)
        read = Read(torch.stack(values, dim=1), slots, weights_BRN)
        return counted(state, read._replace(weights_BRK=weights_BRN.clamp(0, 1))), read

    def _attend(self, state: SlotsState, scores_BN: Tensor) -> Tensor:
        """Return `p_i` of one hop; what is empty has none."""
        if self.linear_start:
            return scores_BN * state.strength_BN  # 0 where empty
        filled_BN = state.birth_BN >= 0
        scores_BN = scores_BN + state.strength_BN.clamp(min=_FLOOR).log()
        lowest = torch.finfo(scores_BN.dtype).min
        return torch.softmax(scores_BN.masked_fill(~filled_BN, lowest), dim=1) * filled_BN

    def _ages(self, state: SlotsState) -> Tensor:
        """Return the row of T for each slot, the newest first, int64 `[B, N]` (section 4.1).

        In training, behind each memory, on its newer side, stands an empty one with probability
        `empty_share`, which makes it and all older ones older. A memory keeps its empty one for
        the whole episode, in any batch. Ages past the last row share it.
        """
        order_BN = state.birth_BN.argsort(dim=1, descending=True, stable=True)
        places_BN = torch.ones_like(order_BN)
        if self.training:
            keys = noise.mix(state.key_B).repeat_interleave(self.slots)  # not the policy's numbers
            draws_BN = noise.uniform(keys, state.birth_BN.flatten(), 1).view(order_BN.shape)
            places_BN = places_BN + (draws_BN < self.empty_share)
        ages_BN = places_BN.gather(1, order_BN).cumsum(dim=1) - 1
        oldest = self.times.shape[1] - 1
        return torch.zeros_like(order_BN).scatter(1, order_BN, ages_BN).clamp(max=oldest)

    def get_extra_state(self) -> Tensor:
        """Return whether the start is linear, for `state_dict`."""
        return torch.tensor(self.linear_start)

    def set_extra_state(self, state: Tensor) -> None:
        """Take from `load_state_dict` whether the start is linear."""
        self.linear_start = bool(state)


def _embedding(word_size: int) -> nn.Linear:
    """Return a matrix on vectors, as it starts."""
    matrix = nn.Linear(word_size, word_size, bias=False)
    nn.init.normal_(matrix.weight, std=0.25 / math.sqrt(word_size))
    return matrix


def _check(tying: str, empty_share: float, **sizes: int) -> None:
    """Raise a ValueError if an option cannot be."""
    expect.whole(1, **sizes)
    if tying not in TYINGS:
        raise ValueError(f"tying={tying!r}: choose {' or '.join(TYINGS)}.")
    if not 0 <= empty_share <= 1:
        raise ValueError(f"empty_share={empty_share}: give a share between 0 and 1.")
