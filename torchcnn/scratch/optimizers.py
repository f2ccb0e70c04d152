"""Optimisers by hand: plain functions over lists of parameters."""

from collections.abc import Iterable

import torch
from torch import Tensor


def sgd(params: Iterable[Tensor], lr: float, batch_size: int) -> None:
    """One step of stochastic gradient descent, in place: p <- p - lr * grad / batch_size.

    The gradients are those of a loss summed over the batch, hence the division. A parameter
    without a gradient stays as it is; gradients are left for the caller to zero.
    """
    with torch.no_grad():
        for p in params:
            if p.grad is not None:
                p -= lr * p.grad / batch_size
