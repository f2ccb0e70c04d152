"""Dropout by hand (Srivastava et al. 2014)."""

import torch
from torch import Tensor


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Inverted dropout: x m / (1 - p) with m = 0 with probability p, else 1: (...) -> (...).

    The mean of every unit stays what it is, so that out of training there is nothing to do: the
    input itself is returned. The mask follows `torch.manual_seed`.
    Source: Srivastava et al. 2014.

    Raises:
        ValueError: p is no probability.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"the probability of dropping must lie in [0, 1], got {p}")
    if not training or p == 0:
        return input
    if p == 1:
        return torch.zeros_like(input) * input
    keep = torch.empty_like(input).bernoulli_(1 - p)
    return input * (keep / (1 - p))
