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

from stillknows.memory import expect

Step = tuple[Any, Tensor, Tensor]


class Link(Protocol):
    """What a DNC asks of its links."""

    def initial_state(
        self, batch: int, heads: int, slots: int, device: torch.device | str = "cpu"
    ) -> Any:
        """Return the state before the first write: no slot follows another."""
        ...

    def step(self, state: Any, weights_BJN: Tensor, read_BRN: Tensor) -> Step:
        """Take a write, then follow the links from where was read.

        Args:
            state: before the write; it stays as it was.
            weights_BJN: of the write, at most 1 in sum a head.
            read_BRN: weights of the reads of the step before.

        Returns:
            The state after the write, and with its link `f = L w` and `b = L^T w` of the read
            weights, `[B, J, R, N]` each.
        """
        ...


def precedence(precedence_BJN: Tensor, weights_BJN: Tensor) -> Tensor:
    """Return `p_t = (1 - sum w_t) p_{t-1} + w_t`, `[B, J, N]`."""
    return (1 - weights_BJN.sum(dim=-1, keepdim=True)) * precedence_BJN + weights_BJN


class ExactState(NamedTuple):
    """The matrix `[B, J, N, N]` and the precedence `[B, J, N]`."""

    link_BJNN: Tensor
    precedence_BJN: Tensor


class ExactLink:
    """The link of the paper; a step costs N x N.

    Args:
        fused: take its gradient by hand, which keeps one matrix a step instead of three; the slower
            way is equal, and is taken under autocast.
    """

    def __init__(self, fused: bool = True) -> None:
        self.fused = fused

    def initial_state(
        self, batch: int, heads: int, slots: int, device: torch.device | str = "cpu"
    ) -> ExactState:
        """Return zeros."""
        precedence_BJN = torch.zeros(batch, heads, slots, device=device)
        return ExactState(precedence_BJN[..., None].repeat(1, 1, 1, slots), precedence_BJN)

    def step(self, state: ExactState, weights_BJN: Tensor, read_BRN: Tensor) -> Step:
        """Apply the equation as it stands; multiply by the matrix and by its transpose."""
        read_BJRN = read_BRN[:, None].expand(-1, weights_BJN.shape[1], -1, -1)
        before = (state.link_BJNN, state.precedence_BJN)
        mixed = torch.is_autocast_enabled(weights_BJN.device.type)
        step = _FusedStep.apply if self.fused and not mixed else _plain_step
        link_BJNN, forward, backward = step(*before, weights_BJN, read_BJRN)
        after = ExactState(link_BJNN, precedence(state.precedence_BJN, weights_BJN))
        return after, forward, backward


def _plain_step(
    link: Tensor, precedence: Tensor, weights: Tensor, read: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `L_t`, `L_t w` and `L_t^T w`; leading axes are alike."""
    row, column = weights[..., :, None], weights[..., None, :]
    link = (1 - row - column) * link + row * precedence[..., None, :]
    own = torch.eye(weights.shape[-1], dtype=torch.bool, device=weights.device)
    link = link.masked_fill(own, 0.0)
    return link, read @ link.transpose(-1, -2), read @ link


class _FusedStep(torch.autograd.Function):
    """`_plain_step` with its gradient by hand: of N x N it keeps `L_{t-1}` and `L_t` alone.

    With `G = dL_t + df^T w + w^T db` (diagonal 0) the gradients are `dL_{t-1} = G (1 - w_i - w_j)`,
    `dw_i = sum_j G_ij (p_j - L_ij) - sum_j G_ji L_ji` and `dp_j = sum_i w_i G_ij`.
    """

    @staticmethod
    def forward(
        ctx: Any, link: Tensor, precedence: Tensor, weights: Tensor, read: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        after = _decayed(link, weights)
        after.add_(weights[..., :, None] * precedence[..., None, :])
        after = _hollow(after)
        ctx.save_for_backward(link, precedence, weights, read, after)
        return after, read @ after.transpose(-1, -2), read @ after

    @staticmethod
    def backward(
        ctx: Any, dlink: Tensor, dforward: Tensor, dbackward: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        link, precedence, weights, read, after = ctx.saved_tensors
        left = torch.cat([dforward, read], dim=-2).transpose(-1, -2)
        gradient = _hollow(dlink + left @ torch.cat([read, dbackward], dim=-2))
        dread = dforward @ after + dbackward @ after.transpose(-1, -2)
        product = gradient * link
        dweights = (gradient @ precedence[..., None])[..., 0] - product.sum(-1) - product.sum(-2)
        dprecedence = (weights[..., None, :] @ gradient)[..., 0, :]
        return _decayed(gradient, weights), dprecedence, dweights, dread


def _hollow(matrix: Tensor) -> Tensor:
    """Return the matrix with zeros on its diagonal, in place unless a compiler would miss it.

    Compiled for a CPU, a mask of truth values is no vector code, and numbers are.
    """
    if torch.compiler.is_compiling():
        place_N = torch.arange(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        return matrix * (place_N[:, None] - place_N).abs().clamp(max=1)
    matrix.diagonal(dim1=-2, dim2=-1).zero_()
    return matrix


def _decayed(link: Tensor, weights: Tensor) -> Tensor:
    """Return `(1 - w_i - w_j) L[i, j]`, a new tensor."""
    kept = (1 - weights)[..., :, None] - weights[..., None, :]
    return kept.mul_(link)


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
        expect.whole(1, links=links)
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

    def step(self, state: SparseState, weights_BJN: Tensor, read_BRN: Tensor) -> Step:
        """Write; gather what every slot follows; scatter to what it follows."""
        state = self._write(state, weights_BJN)
        batch, heads, slots, kept = state.strength_BJNK.shape
        reads = read_BRN.shape[1]
        before = state.before_BJNK[:, :, None].expand(-1, -1, reads, -1, -1).flatten(3)
        read_BJRN = read_BRN[:, None].expand(-1, heads, -1, -1)
        strength = state.strength_BJNK[:, :, None]
        found = read_BJRN.gather(3, before).view(batch, heads, reads, slots, kept)
        sent = (strength * read_BJRN[..., None]).flatten(3)
        backward = torch.zeros_like(read_BJRN).scatter_add(3, before, sent)
        return state, (found * strength).sum(dim=4), backward

    def _write(self, state: SparseState, weights_BJN: Tensor) -> SparseState:
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
        expect.whole(1, history=history)
        self.history = history

    def initial_state(
        self, batch: int, heads: int, slots: int, device: torch.device | str = "cpu"
    ) -> FactoredState:
        """Return a history of nothing."""
        nothing_BJHN = torch.zeros(batch, heads, self.history, slots, device=device)
        return FactoredState(nothing_BJHN, nothing_BJHN, nothing_BJHN[:, :, 0])

    def step(self, state: FactoredState, weights_BJN: Tensor, read_BRN: Tensor) -> Step:
        """Write; multiply by one factor and then by the other."""
        state = self._write(state, weights_BJN)
        read_B1RN = read_BRN[:, None]
        written, before = state.written_BJHN, state.before_BJHN
        diagonal_BJRN = (written * before).sum(dim=2)[:, :, None] * read_B1RN
        forward = (read_B1RN @ before.transpose(2, 3)) @ written
        backward = (read_B1RN @ written.transpose(2, 3)) @ before
        return state, forward - diagonal_BJRN, backward - diagonal_BJRN

    def _write(self, state: FactoredState, weights_BJN: Tensor) -> FactoredState:
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


def _at(values_BJN: Tensor, index_BJNK: Tensor) -> Tensor:
    """Return `values[index]` for every slot's K indices, `[B, J, N, K]`."""
    return values_BJN.gather(2, index_BJNK.flatten(2)).view(index_BJNK.shape)
