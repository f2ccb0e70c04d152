"""Convolution by hand; what networks call so is cross-correlation: the kernel is not flipped."""

import torch
from torch import Tensor


def corr2d(X: Tensor, K: Tensor) -> Tensor:
    """Two-dimensional cross-correlation: (h, w), (kh, kw) -> (h - kh + 1, w - kw + 1).

    Y[i, j] = sum_{a, b} X[i + a, j + b] K[a, b]

    Written as the definition reads, a loop over the output's pixels; gradients flow to both.

    >>> import torch
    >>> corr2d(torch.arange(9.0).view(3, 3), torch.arange(4.0).view(2, 2))
    tensor([[19., 25.],
            [37., 43.]])

    Raises:
        ValueError: an argument that is not a matrix, or a kernel larger than the image.
    """
    if X.dim() != 2 or K.dim() != 2 or K.shape[0] > X.shape[0] or K.shape[1] > X.shape[1]:
        raise ValueError(
            f"expected an image (h, w) and a kernel no larger, got {tuple(X.shape)} and "
            f"{tuple(K.shape)}"
        )
    kh, kw = K.shape
    h, w = X.shape[0] - kh + 1, X.shape[1] - kw + 1
    Y = X.new_zeros(h, w, dtype=torch.result_type(X, K))
    for i in range(h):
        for j in range(w):
            Y[i, j] = (X[i : i + kh, j : j + kw] * K).sum()
    return Y
