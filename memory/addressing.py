"""The mathematics of addressing a memory: pure functions of tensors.

Equations of Graves et al. 2016, "Hybrid computing using a neural network with dynamic external
memory", Nature 538:471, Methods. Letters: B rows, N slots, W word size, R read heads.

Nothing here makes the host wait for a GPU, gradients included: those of `prod` and `cumprod` would,
since they look for zeros.
"""

from typing import Any

import torch
from torch import Tensor

_EPSILON = 1e-6


def oneplus(x: Tensor) -> Tensor:
    """Return `1 + log(1 + exp(x))`, at least 1."""
    return 1 + torch.nn.functional.softplus(x)


def content_weights(
    memory_BNW: Tensor, keys_BRW: Tensor, strengths_BR: Tensor, masks_BRW: Tensor | None = None
) -> Tensor:
    """Return `C(M, k, beta)[i] = softmax_i(beta cos(k, M[i]))`, `[B, R, N]`.

    The cosine is `u.v / (|u| |v| + e)` with `|u| = sqrt(sum u^2 + e)`, so that an all-zero slot has
    similarity 0 and a finite gradient. With masks m, both vectors are multiplied by m first
    (Csordas and Schmidhuber 2019, arXiv:1904.10278, section 3.1).
    """
    if masks_BRW is None:
        lengths_BRN = (memory_BNW.square().sum(-1) + _EPSILON).sqrt()[:, None]
    else:
        keys_BRW = keys_BRW * masks_BRW
        lengths_BRN = (masks_BRW.square() @ memory_BNW.square().transpose(1, 2) + _EPSILON).sqrt()
    lengths_BR = (keys_BRW.square().sum(-1) + _EPSILON).sqrt()
    if masks_BRW is not None:
        keys_BRW = keys_BRW * masks_BRW  # the slots' mask, moved over to the keys
    products_BRN = keys_BRW @ memory_BNW.transpose(1, 2)
    cosine_BRN = products_BRN / (lengths_BR[..., None] * lengths_BRN + _EPSILON)
    return torch.softmax(strengths_BR[..., None] * cosine_BRN, dim=-1)


def retention(free_gates_BR: Tensor, read_weights_BRN: Tensor) -> Tensor:
    """Return `psi = prod_r (1 - f^r w^{r,r}_{t-1})`: how much is not freed, `[B, N]`."""
    return _product_of_heads(1 - free_gates_BR[..., None] * read_weights_BRN)


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
    before_BN = _RunningProduct.apply(torch.nn.functional.pad(sorted_BN, (1, 0), value=1.0))[:, :-1]
    return torch.zeros_like(usage_BN).scatter(1, order_BN, (1 - sorted_BN) * before_BN)


def allocation_by_head(usage_BN: Tensor, shares_BJ1: Tensor) -> Tensor:
    """Return the allocation weights of several write heads, one after another, `[B, J, N]`.

    Each head sees the usage as if those before it had written where they allocate, with their share
    `g^w g^a`: `u <- u + (1 - u) g a` (the paper has one head; this is the order of its released
    code).
    """
    allocated = []
    for head in range(shares_BJ1.shape[1]):
        allocated.append(allocation_weights(usage_BN))
        usage_BN = usage_BN + (1 - usage_BN) * shares_BJ1[:, head] * allocated[-1]
    return torch.stack(allocated, dim=1)


def combined(weights_BJN: Tensor) -> Tensor:
    """Return `1 - prod_j (1 - w^j)`: how much several write heads together wrote, `[B, N]`."""
    return 1 - _product_of_heads(1 - weights_BJN)


def erase_and_write(
    memory_BNW: Tensor, weights_BJN: Tensor, erase_BJW: Tensor, vectors_BJW: Tensor
) -> Tensor:
    """Return `M_t = M_{t-1} prod_j (1 - w^j e^j^T) + sum_j w^j v^j^T`, `[B, N, W]`."""
    for weights_BN, erase_BW in zip(weights_BJN.unbind(1), erase_BJW.unbind(1), strict=True):
        memory_BNW = memory_BNW * (1 - weights_BN[..., None] * erase_BW[:, None])
    return memory_BNW + weights_BJN.transpose(1, 2) @ vectors_BJW


def sharpen(weights: Tensor, strengths: Tensor) -> Tensor:
    """Return `S(d, s)[i] = ((d[i] + e) / max(d + e))^s / sum_i (...)^s` over the last axis.

    Csordas and Schmidhuber 2019, "Improving Differentiable Neural Computers Through Memory Masking,
    De-allocation, and Link Distribution Sharpness Control", arXiv:1904.10278, section 3.3.

    Args:
        weights: d, `[..., N]`; what rounding left below 0 is 0.
        strengths: s, `[...]`.
    """
    weights = weights.clamp(min=0) + _EPSILON
    powers = (weights / weights.amax(dim=-1, keepdim=True)) ** strengths[..., None]
    return powers / powers.sum(dim=-1, keepdim=True)


def _product_of_heads(parts_BRN: Tensor) -> Tensor:
    """Return the product over R heads, `[B, N]`."""
    if parts_BRN.device.type == "cpu":
        return parts_BRN.prod(dim=1)
    return _one_by_one(parts_BRN)


def _one_by_one(parts_BRN: Tensor) -> Tensor:
    """Return the same product, a head at a time; its gradient asks nothing of the host."""
    product_BN, *others = parts_BRN.unbind(dim=1)
    for part_BN in others:
        product_BN = product_BN * part_BN
    return product_BN


class _RunningProduct(torch.autograd.Function):
    """`cumprod` along the rows of numbers that are never 0, `[B, N]`."""

    @staticmethod
    def forward(ctx: Any, numbers_BN: Tensor) -> Tensor:
        product_BN = torch.cumprod(numbers_BN, dim=1)
        ctx.save_for_backward(numbers_BN, product_BN)
        return product_BN

    @staticmethod
    def backward(ctx: Any, gradient_BN: Tensor) -> Tensor:
        numbers_BN, product_BN = ctx.saved_tensors
        later_BN = (product_BN * gradient_BN).flip(1).cumsum(dim=1).flip(1)
        gradient_BN = later_BN / numbers_BN
        return gradient_BN
