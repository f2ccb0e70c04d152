"""Softmax and loss functions by hand."""

import torch
from torch import Tensor

from torchcnn.scratch.arguments import floating, same_dtype, shaped, whole
from torchcnn.scratch.precision import HALF, widen


def _reduce(loss: Tensor, reduction: str, divisor: Tensor | int) -> Tensor:
    """Reduce a loss; "mean" divides the sum by `divisor`."""
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f"reduction must be none, sum or mean, got {reduction!r}")
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / divisor


def _weighted(loss: Tensor, reduction: str, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Reduce a loss that has an optional weight for each element; `dtype` is that of the input."""
    if weight is None:
        result = _reduce(loss, reduction, loss.numel())
    else:
        dtype, w = torch.promote_types(dtype, weight.dtype), widen(weight)
        result = _reduce(w * loss, reduction, w.sum())
    return result.to(dtype) if dtype in HALF else result


def _check_pair(
    input: Tensor, target: Tensor, reduction: str, weight: Tensor | None
) -> torch.dtype:
    """Check that predictions can be compared with targets, and return the dtype of differences."""
    try:
        torch.broadcast_shapes(input.shape, target.shape)
    except RuntimeError as error:
        raise ValueError(
            f"expected targets of the shape of the input, got {tuple(target.shape)} for "
            f"{tuple(input.shape)}"
        ) from error
    shaped(input.shape, weight=weight)
    dtype = torch.promote_types(input.dtype, target.dtype)
    fractions = dtype.is_floating_point or dtype.is_complex
    if torch.bool in (input.dtype, target.dtype) or (reduction == "mean" and not fractions):
        raise ValueError(f"expected floating-point numbers, got {input.dtype} and {target.dtype}")
    return dtype


def _shifted(input: Tensor, dim: int, dtype: torch.dtype | None) -> tuple[Tensor, torch.dtype]:
    """Return the input of a softmax minus its maximum along `dim`, and the dtype of the result."""
    x = input if dtype is None else input.to(dtype)
    floating(x)
    axes = max(x.dim(), 1)  # a scalar counts as a vector of one number
    if not whole(dim) or not -axes <= dim < axes:
        raise ValueError(f"dim must lie in [{-axes}, {axes - 1}], got {dim!r}")
    dtype, x = x.dtype, widen(x)
    return (x - x.detach().amax(dim, keepdim=True) if x.numel() else x), dtype


def log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Apply log softmax(x) = x - max - log sum_j e^(x_j - max) along `dim`: (...) -> (...).

    Subtracting the maximum leaves the result unchanged and prevents e^x from overflowing.
    Source: Goodfellow, Bengio and Courville 2016, section 4.1.

    >>> log_softmax(torch.tensor([1000.0, 1000.0]), 0)
    tensor([-0.6931, -0.6931])

    Raises:
        ValueError: if there is no such axis, or the numbers are not floating-point.
    """
    x, dtype = _shifted(input, dim, dtype)
    return (x - x.exp().sum(dim, keepdim=True).log()).to(dtype)


def softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Apply e^x_i / sum_j e^x_j along `dim`, which is positive and sums to 1: (...) -> (...).

    Source: Bridle 1990.

    >>> softmax(torch.tensor([0.0, 0.0, 1000.0]), 0)
    tensor([0., 0., 1.])

    Raises:
        ValueError: if there is no such axis, or the numbers are not floating-point.
    """
    x, dtype = _shifted(input, dim, dtype)
    e = x.exp()
    return (e / e.sum(dim, keepdim=True)).to(dtype)


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
    number of examples. Where the class is `ignore_index` the loss and its gradient are 0 and do not
    count; the mean of nothing is NaN. Logits (k,) without a batch are accepted too.
    Source: Bridle 1990; label smoothing: Szegedy et al. 2015, arXiv:1512.00567.

    >>> cross_entropy(torch.zeros(2, 10), torch.tensor([3, 7]))
    tensor(2.3026)

    Raises:
        ValueError: if shapes or dtypes do not fit, a class is not one of k, the reduction unknown,
            the smoothing not in [0, 1], or classes are ignored and probabilities given.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    _check_classes(input, target, weight, ignore_index)
    dim = 0 if input.dim() == 1 else 1
    k, probabilities = input.shape[dim], target.is_floating_point()
    dtype = input.dtype
    for other in (target, weight) if probabilities else ():
        dtype = dtype if other is None else torch.promote_types(dtype, other.dtype)
    log_p = log_softmax(widen(input), dim)
    w = log_p.new_ones(k) if weight is None else widen(weight)
    by_class = w.view(-1, *[1] * (input.dim() - dim - 1))  # (k, 1, ...), to broadcast along `dim`
    if probabilities:
        t = (1 - label_smoothing) * widen(target) + label_smoothing / k
        loss = -(by_class * t * log_p).sum(dim)
        return _reduce(loss, reduction, loss.numel()).to(dtype)
    target = target.long()
    counts = target != ignore_index
    classes = target.where(counts, 0)
    try:
        picked = log_p.gather(dim, classes.unsqueeze(dim)).squeeze(dim)
        w_target = w[classes] * counts
    except (IndexError, RuntimeError) as error:  # shapes fit, so that a class is out of range
        got = str(error).splitlines()[0]
        raise ValueError(f"the classes must lie in [0, {k - 1}], got: {got}") from error

    def reduced(loss: Tensor) -> Tensor:  # times 0 would not do: 1 / 0, the mean's gradient, is inf
        return _reduce(loss.where(counts, 0), reduction, w_target.sum())

    loss = reduced(-w_target * picked)
    if label_smoothing:
        everywhere = reduced(-(by_class * log_p).sum(dim))
        loss = (1 - label_smoothing) * loss + label_smoothing / k * everywhere
    return loss.to(dtype)


def _check_classes(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> None:
    """Check the arguments of `cross_entropy`."""
    floating(input)
    if not input.dim():
        raise ValueError("expected logits (n, k, ...) or (k,), got a scalar")
    dim = 0 if input.dim() == 1 else 1
    if target.is_floating_point():
        shaped(input.shape, target=target)
        if ignore_index >= 0:
            raise ValueError(
                f"ignore_index is only for classes, got {ignore_index} and probabilities"
            )
    else:
        shaped((*input.shape[:dim], *input.shape[dim + 1 :]), target=target)
        if target.dtype not in (torch.int64, torch.uint8) or not whole(ignore_index):
            raise ValueError(
                f"expected classes as int64 or uint8 and a whole ignore_index, got {target.dtype} "
                f"and {ignore_index!r}"
            )
        same_dtype(input=input, weight=weight)
    shaped((input.shape[dim],), weight=weight)


def mse_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """Return the squared error (x - y)^2: (...), (...) -> a scalar, or (...) if not reduced.

    `weight` has the shape of the input; the mean divides by the sum of the weights.
    Source: Zhang et al. 2021, arXiv:2106.11342.

    >>> mse_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0]))
    tensor(4.5000)

    Raises:
        ValueError: if the shapes do not fit, the numbers are whole, or the reduction is unknown.
    """
    dtype = _check_pair(input, target, reduction, weight)
    if not dtype.is_floating_point:
        raise ValueError(f"expected floating-point numbers, got {dtype}")
    return _weighted((widen(input) - widen(target)) ** 2, reduction, weight, dtype)


def l1_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """Return the absolute error |x - y|: (...), (...) -> a scalar, or (...) if not reduced.

    `weight` has the shape of the input; the mean divides by the sum of the weights.
    Source: Zhang et al. 2021, arXiv:2106.11342.

    >>> l1_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0]))
    tensor(1.5000)

    Raises:
        ValueError: if the shapes do not fit, the mean of whole numbers is asked for, or the
            reduction is unknown.
    """
    dtype = _check_pair(input, target, reduction, weight)
    return _weighted((widen(input) - widen(target)).abs(), reduction, weight, dtype)
