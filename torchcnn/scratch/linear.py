"""The linear (dense) layer by hand."""

from torch import Tensor

from torchcnn.scratch.arguments import biased, same_dtype


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply y = x W^T + b: (..., d), (q, d), (q,) -> (..., q); a weight (d,) gives (...).

    Source: Zhang et al. 2021, arXiv:2106.11342.

    >>> import torch
    >>> linear(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([5.0]))
    tensor([[16.]])

    Raises:
        ValueError: if the shapes do not fit, a bias is combined with a weight (d,) and more than
            one vector, or the dtypes differ.
    """
    if (
        not input.dim()
        or weight.dim() not in (1, 2)
        or input.shape[-1] != weight.shape[-1]
        or (weight.dim() == 1 and input.dim() > 1 and bias is not None)
    ):
        raise ValueError(
            f"expected an input (..., d) and a weight (q, d), or (d,) without bias, got "
            f"{tuple(input.shape)} and {tuple(weight.shape)}"
        )
    same_dtype(input=input, weight=weight, bias=bias)
    y = input @ weight.t()
    return y if bias is None else biased(y, bias)
