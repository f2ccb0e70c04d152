"""Softmax and loss functions by hand."""

import torch
from torch import Tensor


def _reduce(loss: Tensor, reduction: str, divisor: Tensor | int) -> Tensor:
    """Reduce a loss; "mean" divides the sum by `divisor`."""
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f"reduction must be none, sum or mean, got {reduction!r}")
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / divisor


def _weighted(loss: Tensor, reduction: str, weight: Tensor | None) -> Tensor:
    """Reduce a loss that has an optional weight for each element."""
    if weight is None:
        return _reduce(loss, reduction, max(loss.numel(), 1))
    return _reduce(weight * loss, reduction, weight.sum())


def log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Apply log softmax(x) = x - max - log sum_j e^(x_j - max) along `dim`: (...) -> (...).

    Subtracting the maximum leaves the result unchanged and prevents e^x from overflowing.
    Source: Goodfellow, Bengio and Courville 2016, section 4.1.

    >>> import torch
    >>> log_softmax(torch.tensor([1000.0, 1000.0]), 0)
    tensor([-0.6931, -0.6931])
    """
    x = input if dtype is None else input.to(dtype)
    if not x.numel():
        return x.clone()
    x = x - x.detach().amax(dim, keepdim=True)
    return x - x.exp().sum(dim, keepdim=True).log()


def softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Apply e^x_i / sum_j e^x_j along `dim`, which is positive and sums to 1: (...) -> (...).

    Source: Bridle 1990.

    >>> import torch
    >>> softmax(torch.tensor([0.0, 0.0, 1000.0]), 0)
    tensor([0., 0., 1.])
    """
    x = input if dtype is None else input.to(dtype)
    if not x.numel():
        return x.clone()
    e = (x - x.detach().amax(dim, keepdim=True)).exp()
    return e / e.sum(dim, keepdim=True)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross-entropy of logits: (n, k, ...), (n, ...) -> a scalar, or (n, ...).

    l = -sum_j w_j t_j log softmax(x)_j

    where t is 1 for the target class and 0 elsewhere; `label_smoothing` e turns it into
    (1 - e) t + e / k. Targets are classes (n, ...) or probabilities t of the shape of the logits.
    The mean divides by the sum of the weights of the target classes, or, for probabilities, by the
    number of examples. Where the class is `ignore_index` the loss is 0 and does not count. Logits
    (k,) without a batch are accepted too.
    Source: Bridle 1990; label smoothing: Szegedy et al. 2015, arXiv:1512.00567.

    >>> import torch
    >>> cross_entropy(torch.zeros(2, 10), torch.tensor([3, 7]))
    tensor(2.3026)

    Raises:
        ValueError: if the reduction is unknown, or the label smoothing is not in [0, 1].
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    dim = 0 if input.dim() == 1 else 1
    k = input.shape[dim]
    log_p = log_softmax(input, dim)
    w = input.new_ones(k) if weight is None else weight
    by_class = w.view(-1, *[1] * (input.dim() - dim - 1))  # (k, 1, ...), to broadcast along `dim`
    if target.is_floating_point():
        t = (1 - label_smoothing) * target + label_smoothing / k
        loss = -(by_class * t * log_p).sum(dim)
        return _reduce(loss, reduction, max(loss.numel(), 1))
    counts = target != ignore_index
    classes = target.where(counts, 0)
    w_target = w[classes] * counts
    loss = -w_target * log_p.gather(dim, classes.unsqueeze(dim)).squeeze(dim)
    if label_smoothing:
        everywhere = -(by_class * log_p).sum(dim) * counts
        loss = (1 - label_smoothing) * loss + label_smoothing / k * everywhere
    return _reduce(loss, reduction, w_target.sum())


def mse_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """Return the squared error (x - y)^2: (...), (...) -> a scalar, or (...) if not reduced.

    `weight` has the shape of the input; the mean divides by the sum of the weights.
    Source: Zhang et al. 2021, arXiv:2106.11342.

    >>> import torch
    >>> mse_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0]))
    tensor(4.5000)
    """
    return _weighted((input - target) ** 2, reduction, weight)


def l1_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """Return the absolute error |x - y|: (...), (...) -> a scalar, or (...) if not reduced.

    `weight` has the shape of the input; the mean divides by the sum of the weights.
    Source: Zhang et al. 2021, arXiv:2106.11342.

    >>> import torch
    >>> l1_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0]))
    tensor(1.5000)
    """
    return _weighted((input - target).abs(), reduction, weight)
