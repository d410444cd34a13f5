"""The mathematics of addressing a memory: pure functions of tensors.

Equations of Graves et al. 2016, "Hybrid computing using a neural network with dynamic external
memory", Nature 538:471, Methods. Letters: B rows, N slots, W word size, R read heads.
"""

import torch
from torch import Tensor

_EPSILON = 1e-6


def oneplus(x: Tensor) -> Tensor:
    """Return `1 + log(1 + exp(x))`, at least 1."""
    return 1 + torch.nn.functional.softplus(x)


def content_weights(memory_BNW: Tensor, keys_BRW: Tensor, strengths_BR: Tensor) -> Tensor:
    """Return `C(M, k, beta)[i] = softmax_i(beta cos(k, M[i]))`, `[B, R, N]`.

    The cosine is `u.v / (|u| |v| + e)` with `|u| = sqrt(sum u^2 + e)`, so that an all-zero slot has
    similarity 0 and a finite gradient.
    """
    lengths_BN = (memory_BNW.square().sum(-1) + _EPSILON).sqrt()
    lengths_BR = (keys_BRW.square().sum(-1) + _EPSILON).sqrt()
    products_BRN = keys_BRW @ memory_BNW.transpose(1, 2)
    cosine_BRN = products_BRN / (lengths_BR[..., None] * lengths_BN[:, None] + _EPSILON)
    return torch.softmax(strengths_BR[..., None] * cosine_BRN, dim=-1)


def retention(free_gates_BR: Tensor, read_weights_BRN: Tensor) -> Tensor:
    """Return `psi = prod_r (1 - f^r w^{r,r}_{t-1})`: how much is not freed, `[B, N]`."""
    return (1 - free_gates_BR[..., None] * read_weights_BRN).prod(dim=1)


def usage(usage_BN: Tensor, write_weights_BN: Tensor, retention_BN: Tensor) -> Tensor:
    """Return `u_t = (u_{t-1} + w_{t-1} - u_{t-1} w_{t-1}) psi_t`, `[B, N]`."""
    return (usage_BN + write_weights_BN - usage_BN * write_weights_BN) * retention_BN


def allocation_weights(usage_BN: Tensor) -> Tensor:
    """Return `a[phi_j] = (1 - u[phi_j]) prod_{i<j} u[phi_i]`, phi sorting by usage, `[B, N]`.

    Ties go to the lower slot. The gradient passes through the values, not through the order.
    Usage is first scaled to `e + (1 - e) u`, which keeps the gradient of the product finite.
    """
    usage_BN = _EPSILON + (1 - _EPSILON) * usage_BN
    sorted_BN, order_BN = usage_BN.sort(dim=1, stable=True)
    before_BN = torch.cumprod(torch.nn.functional.pad(sorted_BN, (1, 0), value=1.0), dim=1)[:, :-1]
    return torch.zeros_like(usage_BN).scatter(1, order_BN, (1 - sorted_BN) * before_BN)


def erase_and_write(
    memory_BNW: Tensor, weights_BN: Tensor, erase_BW: Tensor, vector_BW: Tensor
) -> Tensor:
    """Return `M_t = M_{t-1} (1 - w e^T) + w v^T`, `[B, N, W]`."""
    weights_BN1 = weights_BN[..., None]
    return memory_BNW * (1 - weights_BN1 * erase_BW[:, None]) + weights_BN1 * vector_BW[:, None]


def temporal_link(link_BNN: Tensor, precedence_BN: Tensor, weights_BN: Tensor) -> Tensor:
    """Return `L_t[i,j] = (1 - w[i] - w[j]) L_{t-1}[i,j] + w[i] p_{t-1}[j]`, zero diagonal.

    `precedence_BN` is that of the step before. `L[i, j]` says that slot i was written after j.
    """
    row_BN1, column_B1N = weights_BN[:, :, None], weights_BN[:, None]
    link_BNN = (1 - row_BN1 - column_B1N) * link_BNN + row_BN1 * precedence_BN[:, None]
    diagonal_NN = torch.eye(weights_BN.shape[1], dtype=torch.bool, device=weights_BN.device)
    return link_BNN.masked_fill(diagonal_NN, 0.0)


def precedence(precedence_BN: Tensor, weights_BN: Tensor) -> Tensor:
    """Return `p_t = (1 - sum w_t) p_{t-1} + w_t`, `[B, N]`."""
    return (1 - weights_BN.sum(dim=1, keepdim=True)) * precedence_BN + weights_BN


def directional_weights(link_BNN: Tensor, read_weights_BRN: Tensor) -> tuple[Tensor, Tensor]:
    """Return `f = L w_{t-1}` and `b = L^T w_{t-1}`, the slots written next and before."""
    forward_BRN = read_weights_BRN @ link_BNN.transpose(1, 2)
    return forward_BRN, read_weights_BRN @ link_BNN
