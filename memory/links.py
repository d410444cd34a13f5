"""Temporal links of the Differentiable Neural Computer: which slot was written after which.

Three kinds behind one interface. `ExactLink` keeps the whole matrix, `SparseLink` the K strongest
links of every slot, `FactoredLink` a history of writes from which the matrix is never formed. All
of them keep, for each write head, the precedence `p_t = (1 - sum w_t) p_{t-1} + w_t` and the link

    L_t[i,j] = (1 - w_t[i] - w_t[j]) L_{t-1}[i,j] + w_t[i] p_{t-1}[j],  L_t[i,i] = 0

or what stands for it (Graves et al. 2016, Nature 538:471, Methods). `L[i,j]` says that slot i was
written right after slot j. States are values, rows first.

Letters: B rows, J write heads, R read heads, N slots, K links of a slot, H writes of a history.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

Followed = tuple[Tensor, Tensor]


class Link(Protocol):
    """What a DNC asks of its links."""

    def initial_state(
        self, batch: int, heads: int, slots: int, device: torch.device | str = "cpu"
    ) -> Any:
        """Return the state before the first write: no slot follows another."""
        ...

    def update(self, state: Any, weights_BJN: Tensor) -> Any:
        """Return the state after a write with these weights, which sum to at most 1 a head."""
        ...

    def follow(self, state: Any, read_BRN: Tensor) -> Followed:
        """Return `f = L w` and `b = L^T w` of read weights, `[B, J, R, N]` each."""
        ...


def precedence(precedence_BJN: Tensor, weights_BJN: Tensor) -> Tensor:
    """Return `p_t = (1 - sum w_t) p_{t-1} + w_t`, `[B, J, N]`."""
    return (1 - weights_BJN.sum(dim=-1, keepdim=True)) * precedence_BJN + weights_BJN


class ExactState(NamedTuple):
    """The matrix `[B, J, N, N]` and the precedence `[B, J, N]`."""

    link_BJNN: Tensor
    precedence_BJN: Tensor


class ExactLink:
    """The link of the paper; a step costs N x N."""

    def initial_state(
        self, batch: int, heads: int, slots: int, device: torch.device | str = "cpu"
    ) -> ExactState:
        """Return zeros."""
        precedence_BJN = torch.zeros(batch, heads, slots, device=device)
        return ExactState(precedence_BJN[..., None].repeat(1, 1, 1, slots), precedence_BJN)

    def update(self, state: ExactState, weights_BJN: Tensor) -> ExactState:
        """Apply the equation as it stands."""
        row, column = weights_BJN[..., :, None], weights_BJN[..., None, :]
        link_BJNN = (1 - row - column) * state.link_BJNN + row * state.precedence_BJN[..., None, :]
        diagonal_NN = torch.eye(weights_BJN.shape[2], dtype=torch.bool, device=row.device)
        return ExactState(
            link_BJNN.masked_fill(diagonal_NN, 0.0), precedence(state.precedence_BJN, weights_BJN)
        )

    def follow(self, state: ExactState, read_BRN: Tensor) -> Followed:
        """Multiply by the matrix and by its transpose."""
        read_B1RN = read_BRN[:, None]
        return read_B1RN @ state.link_BJNN.transpose(2, 3), read_B1RN @ state.link_BJNN


class SparseState(NamedTuple):
    """For every slot the slots it follows `[B, J, N, K]`, how strongly, and the precedence."""

    before_BJNK: Tensor
    strength_BJNK: Tensor
    precedence_BJN: Tensor


class SparseLink:
    """The K strongest links of every slot; a step costs N x K x K.

    A slot may follow any of the K slots that come first by precedence. Rows of L sum to at most 1,
    so what is dropped is below 1/K (the sparse link matrix of the paper's Methods).

    Args:
        links: K; with K = N and more it is exact.

    Raises:
        ValueError: if K is below 1.
    """

    def __init__(self, links: int = 8) -> None:
        if links < 1:
            raise ValueError(f"links={links}: a slot keeps at least one link.")
        self.links = links

    def initial_state(
        self, batch: int, heads: int, slots: int, device: torch.device | str = "cpu"
    ) -> SparseState:
        """Return no link: strength 0 to the slots with the lowest numbers."""
        kept = min(self.links, slots)
        strength_BJNK = torch.zeros(batch, heads, slots, kept, device=device)
        before_K = torch.arange(kept, device=device)
        precedence_BJN = torch.zeros(batch, heads, slots, device=device)
        return SparseState(before_K.expand_as(strength_BJNK), strength_BJNK, precedence_BJN)

    def update(self, state: SparseState, weights_BJN: Tensor) -> SparseState:
        """Weaken the links that are kept, add those to the first by precedence, keep the best."""
        kept = state.strength_BJNK.shape[3]
        row_BJN1 = weights_BJN[..., None]
        column_BJNK = _at(weights_BJN, state.before_BJNK)
        old_BJNK = (1 - row_BJN1 - column_BJNK) * state.strength_BJNK
        first_BJ1K = state.precedence_BJN.topk(kept, dim=2).indices[:, :, None]
        first_BJNK = first_BJ1K.expand_as(old_BJNK)
        new_BJNK = row_BJN1 * _at(state.precedence_BJN, first_BJNK)
        same_BJNKK = first_BJNK[..., None] == state.before_BJNK[..., None, :]  # new, then kept
        new_BJNK = new_BJNK + (same_BJNKK * old_BJNK[..., None, :]).sum(dim=4)
        old_BJNK = old_BJNK.masked_fill(same_BJNKK.any(dim=3), 0.0)
        own_N1 = torch.arange(weights_BJN.shape[2], device=weights_BJN.device)[:, None]
        new_BJNK = new_BJNK.masked_fill(first_BJNK == own_N1, 0.0)
        before = torch.cat([first_BJNK, state.before_BJNK], dim=3)
        strength_BJNK, best_BJNK = torch.cat([new_BJNK, old_BJNK], dim=3).topk(kept, dim=3)
        before_BJNK = before.gather(3, best_BJNK)
        return SparseState(
            before_BJNK, strength_BJNK, precedence(state.precedence_BJN, weights_BJN)
        )

    def follow(self, state: SparseState, read_BRN: Tensor) -> Followed:
        """Gather what every slot follows; scatter to what it follows."""
        batch, heads, slots, kept = state.strength_BJNK.shape
        reads = read_BRN.shape[1]
        before = state.before_BJNK[:, :, None].expand(-1, -1, reads, -1, -1).flatten(3)
        read_BJRN = read_BRN[:, None].expand(-1, heads, -1, -1)
        strength = state.strength_BJNK[:, :, None]
        found = read_BJRN.gather(3, before).view(batch, heads, reads, slots, kept)
        sent = (strength * read_BJRN[..., None]).flatten(3)
        backward = torch.zeros_like(read_BJRN).scatter_add(3, before, sent)
        return (found * strength).sum(dim=4), backward


class FactoredState(NamedTuple):
    """Of the last writes what was written and what came before, decayed, `[B, J, H, N]`; p."""

    written_BJHN: Tensor
    before_BJHN: Tensor
    precedence_BJN: Tensor


class FactoredLink:
    """A link that is never formed; a step costs N x H.

    With the decay taken as a product, `(1 - w[i]) (1 - w[j])` for `1 - w[i] - w[j]` (the same where
    a write goes to one slot alone), the link is a sum over writes s of outer products, each factor
    decayed by the writes since:

        L_t = sum_s u_s v_s^T,  u_s = w_s prod_{r>s} (1 - w_r),  v_s = p_{s-1} prod_{r>s} (1 - w_r)

    less its diagonal. When the history is full, the write leaves of which least is left.

    Args:
        history: H; nothing is lost in episodes of at most as many steps.

    Raises:
        ValueError: if H is below 1.
    """

    def __init__(self, history: int = 64) -> None:
        if history < 1:
            raise ValueError(f"history={history}: it holds at least one write.")
        self.history = history

    def initial_state(
        self, batch: int, heads: int, slots: int, device: torch.device | str = "cpu"
    ) -> FactoredState:
        """Return a history of nothing."""
        nothing_BJHN = torch.zeros(batch, heads, self.history, slots, device=device)
        return FactoredState(nothing_BJHN, nothing_BJHN, nothing_BJHN[:, :, 0])

    def update(self, state: FactoredState, weights_BJN: Tensor) -> FactoredState:
        """Let the history fade and put the new write where least is left."""
        kept_BJ1N = 1 - weights_BJN[:, :, None]
        left_BJH = state.written_BJHN.detach().sum(dim=3) * state.before_BJHN.detach().sum(dim=3)
        place_BJ1 = left_BJH.argmin(dim=2, keepdim=True)
        history_H = torch.arange(left_BJH.shape[2], device=place_BJ1.device)
        new_BJH1 = (place_BJ1 == history_H)[..., None]
        return FactoredState(
            torch.where(new_BJH1, weights_BJN[:, :, None], state.written_BJHN * kept_BJ1N),
            torch.where(new_BJH1, state.precedence_BJN[:, :, None], state.before_BJHN * kept_BJ1N),
            precedence(state.precedence_BJN, weights_BJN),
        )

    def follow(self, state: FactoredState, read_BRN: Tensor) -> Followed:
        """Multiply by one factor and then by the other."""
        read_B1RN = read_BRN[:, None]
        written, before = state.written_BJHN, state.before_BJHN
        diagonal_BJRN = (written * before).sum(dim=2)[:, :, None] * read_B1RN
        forward = (read_B1RN @ before.transpose(2, 3)) @ written
        backward = (read_B1RN @ written.transpose(2, 3)) @ before
        return forward - diagonal_BJRN, backward - diagonal_BJRN


def _at(values_BJN: Tensor, index_BJNK: Tensor) -> Tensor:
    """Return `values[index]` for every slot's K indices, `[B, J, N, K]`."""
    return values_BJN.gather(2, index_BJNK.flatten(2)).view(index_BJNK.shape)
