"""Plasticity from the activations of a layer on a reference batch, `[B, H]`: B inputs, H units.

This file knows nothing of networks: it takes arrays.
"""

import numpy as np
from numpy.typing import NDArray

TAUS = (0.0, 0.025, 0.1)  # thresholds of Sokar et al. 2023


def dormant_share(activations_BH: NDArray[np.floating], tau: float) -> float:
    """Return the share of units with `s_i = E|h_i| / (1/H sum_k E|h_k|) <= tau`.

    (Sokar et al. 2023, the dormant neuron phenomenon, definition 3.1.) In a layer that is silent
    all units are dormant; NaN for one that is not finite.

    Args:
        activations_BH: of a layer, after its nonlinearity.
        tau: threshold; 0 counts the units that are always 0.
    """
    size_H = np.abs(np.asarray(activations_BH, dtype=float)).mean(axis=0)
    if not np.isfinite(size_H).all():
        return float("nan")
    return float((size_H <= tau * size_H.mean()).mean())


def effective_rank(activations_BH: NDArray[np.floating]) -> float:
    """Return `exp(H(p))` with `p = sigma / sum sigma`, sigma the singular values.

    (Roy and Vetterli 2007, the effective rank.) Between 1 and the rank; 0 for a layer that is
    silent, NaN for one that is not finite.

    Args:
        activations_BH: of a layer.
    """
    activations_BH = np.asarray(activations_BH, dtype=float)
    if not np.isfinite(activations_BH).all():
        return float("nan")
    sigma = np.linalg.svd(activations_BH, compute_uv=False)
    if sigma.sum() == 0:
        return 0.0
    share = sigma[sigma > 0] / sigma.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
