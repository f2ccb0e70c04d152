"""Dropout by hand (Srivastava et al. 2014)."""

import torch
from torch import Tensor

from torchcnn.scratch.arguments import floating


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Apply inverted dropout, y = x m / (1 - p): (...) -> (...).

    Each element of the mask m is 0 with probability p and 1 otherwise, as `torch.manual_seed`
    determines. Dividing by 1 - p preserves the expected value, so that nothing remains to be done
    outside training, where the input itself is returned.
    Source: Srivastava et al. 2014.

    Raises:
        ValueError: if p is not in [0, 1], or elements are dropped from whole numbers.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"the probability of dropping must lie in [0, 1], got {p}")
    if not training or p == 0:
        return input
    if p == 1:
        return torch.zeros_like(input) * input
    floating(input)
    keep = torch.empty_like(input).bernoulli_(1 - p)
    return input * (keep / (1 - p))
