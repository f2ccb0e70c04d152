"""The linear (dense) layer by hand."""

from torch import Tensor


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply y = x W^T + b: (..., d), (q, d), (q,) -> (..., q); a weight (d,) gives (...).

    Source: Zhang et al. 2021, arXiv:2106.11342.

    >>> import torch
    >>> linear(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([5.0]))
    tensor([[16.]])
    """
    y = input @ weight.t()
    return y if bias is None else y + bias
