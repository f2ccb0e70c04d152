"""Normalisation by hand: batch, instance, group, layer and local response normalisation."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from torchcnn.scratch.arguments import parameters_fit, whole
from torchcnn.scratch.precision import widen


def _moments(X: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    """Return the mean and the biased variance over `dims`, which are kept with size 1."""
    X = widen(X)  # the squares of half-precision numbers overflow in half precision
    mean = X.mean(dims, keepdim=True)
    return mean, ((X - mean) ** 2).mean(dims, keepdim=True)


def batch_norm(
    is_training: bool,
    X: Tensor,
    gamma: Tensor,
    beta: Tensor,
    moving_mean: Tensor,
    moving_var: Tensor,
    eps: float,
    momentum: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise each feature over the batch: X -> (Y, moving_mean, moving_var).

    mu = mean(X)   var = mean((X - mu)^2)   Y = gamma (X - mu) / sqrt(var + eps) + beta

    X is (n, c), normalised over n, or (n, c, h, w), normalised over n, h and w; gamma, beta and
    the moving statistics are (1, c) or (1, c, 1, 1). In training mode the mean and variance of the
    batch are used, and the returned moving statistics are
    `momentum * moving + (1 - momentum) * batch`, detached from the autograd graph. Otherwise the
    moving statistics are used, and returned unchanged. Two things differ from
    `torch.nn.BatchNorm2d`: `momentum` is the weight of the old value (PyTorch: of the new one), and
    the moving variance is updated with the biased variance, as in the paper's equations for the
    batch (PyTorch: with n / (n - 1) times it). Y has the dtype of X, and the moving statistics keep
    theirs; half precision is computed in float32.
    Source: Ioffe and Szegedy 2015, arXiv:1502.03167.

    Raises:
        ValueError: if X is neither (n, c) nor (n, c, h, w), gamma, beta or the moving statistics do
            not have the shape or the dtype that belongs to it, eps is negative, or X has at most
            one value per feature in training mode, so that there is no variance to divide by.
    """
    statistics = {"moving_mean": moving_mean, "moving_var": moving_var}
    check_batch_norm(is_training, X, eps, gamma=gamma, beta=beta, **statistics)
    if not is_training:
        mean, var = widen(moving_mean), widen(moving_var)
    else:
        mean, var = _moments(X, [0] if X.dim() == 2 else [0, 2, 3])
        with torch.no_grad():
            new_mean = momentum * widen(moving_mean) + (1 - momentum) * mean
            new_var = momentum * widen(moving_var) + (1 - momentum) * var
            moving_mean, moving_var = new_mean.to(moving_mean.dtype), new_var.to(moving_var.dtype)
    X_hat = (widen(X) - mean) / torch.sqrt(var + eps)
    return (widen(gamma) * X_hat + widen(beta)).to(X.dtype), moving_mean, moving_var


def check_batch_norm(is_training: bool, X: Tensor, eps: float, **of_features: Tensor) -> None:
    """Check the arguments of `batch_norm`; `of_features` are tensors with a number per feature."""
    if X.dim() not in (2, 4):
        raise ValueError(f"expected X of shape (n, c) or (n, c, h, w), got {tuple(X.shape)}")
    parameters_fit(X, (1, X.shape[1], 1, 1)[: X.dim()], **of_features)
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
    if is_training and X.numel() <= X.shape[1]:
        raise ValueError(f"expected more than one value per feature, got {tuple(X.shape)}")


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel of each image: (n, c, ...) -> (n, c, ...).

    Y[n, c] = weight[c] (X[n, c] - mu[n, c]) / sqrt(var[n, c] + eps) + bias[c]

    Running statistics (c,) are updated in place with the images' mean and unbiased variance, which
    get the weight `momentum`. If `use_input_stats` is False, the running statistics normalise X.
    Source: Ulyanov et al. 2016, arXiv:1607.08022.

    Raises:
        ValueError: if the images have one pixel, whose variance is 0, running statistics are needed
            and missing, only one of them is given, or a shape or dtype does not fit.
    """
    if input.dim() < 2:
        raise ValueError(f"expected images (n, c, ...), got {tuple(input.shape)}")
    statistics = {"running_mean": running_mean, "running_var": running_var}
    parameters_fit(input, input.shape[1:2], weight=weight, bias=bias, **statistics)
    if (running_mean is None) != (running_var is None):
        raise ValueError("expected both or neither of running_mean and running_var")
    dims = list(range(2, input.dim()))
    along = (-1, *[1] * len(dims))  # (c,) -> (c, 1, ...)
    if use_input_stats:
        pixels = math.prod(input.shape[2:]) if len(input) else 0
        if pixels == 1:
            raise ValueError(f"expected more than one pixel per image, got {tuple(input.shape)}")
        mean, var = _moments(input, dims)
        with torch.no_grad():
            if running_mean is not None:
                running_mean += momentum * (mean.mean(0).flatten() - running_mean)
            if running_var is not None:
                unbiased = var.mean(0).flatten() * pixels / (pixels - 1)
                running_var += momentum * (unbiased - running_var)
    elif running_mean is None or running_var is None:
        raise ValueError("if use_input_stats is False, running_mean and running_var are needed")
    else:
        mean, var = widen(running_mean).view(along), widen(running_var).view(along)
    X_hat = (widen(input) - mean) / torch.sqrt(var + eps)
    return _scale_and_shift(X_hat, weight, bias, along).to(input.dtype)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each group of channels of each image: (n, c, ...) -> (n, c, ...).

    Y = weight[c] (X - mu[n, g]) / sqrt(var[n, g] + eps) + bias[c]

    where g is the group of channel c.
    Source: Wu and He 2018, arXiv:1803.08494.

    Raises:
        ValueError: if `num_groups` does not divide the number of channels, weight or bias do not
            have the shape (c,) or the dtype of the input, the images are empty, or there is a
            single value to normalise.
    """
    if input.dim() < 2 or 0 in input.shape[1:]:
        raise ValueError(f"expected images (n, c, ...) with pixels, got {tuple(input.shape)}")
    if not whole(num_groups) or num_groups < 1 or input.shape[1] % num_groups:
        raise ValueError(f"{input.shape[1]} channels do not make {num_groups} groups")
    parameters_fit(input, input.shape[1:2], weight=weight, bias=bias)
    if input.numel() == num_groups:
        raise ValueError(f"expected more than one value per group, got {tuple(input.shape)}")
    X = widen(input).unflatten(1, (num_groups, -1))
    mean, var = _moments(X, list(range(2, X.dim())))
    X_hat = ((X - mean) / torch.sqrt(var + eps)).flatten(1, 2)
    along = (-1, *[1] * (input.dim() - 2))
    return _scale_and_shift(X_hat, weight, bias, along).to(input.dtype)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last axes, of `normalized_shape`: (..., shape) -> (..., shape).

    Y = weight (X - mu) / sqrt(var + eps) + bias

    where weight and bias have the shape `normalized_shape`.
    Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450.

    Raises:
        ValueError: if the last axes, weight or bias do not have that shape, or a dtype does not
            fit.
    """
    shape = tuple(normalized_shape)
    if not shape or tuple(input.shape[-len(shape) :]) != shape or not all(map(whole, shape)):
        raise ValueError(f"expected the last axes {shape}, got {tuple(input.shape)}")
    parameters_fit(input, shape, weight=weight, bias=bias)
    mean, var = _moments(input, list(range(-len(shape), 0)))
    X_hat = (widen(input) - mean) / torch.sqrt(var + eps)
    return _scale_and_shift(X_hat, weight, bias, shape).to(input.dtype)


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Normalise over adjacent channels, as AlexNet does: (n, c, ...) -> (n, c, ...).

    Y[c] = X[c] / (k + alpha / size sum_{c'} X[c']^2)^beta

    where c' runs over `size` channels around c, of which `size // 2` come before c. Channels that
    do not exist count as 0. Source: Krizhevsky, Sutskever and Hinton 2012, whose alpha is not
    divided by `size`.

    Raises:
        ValueError: if `size` is not a whole number of at least 1, or these are not images.
    """
    if not whole(size) or size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if input.dim() < 3 or not input.is_floating_point():
        raise ValueError(
            f"expected images (n, c, ...) of floating-point numbers, got {tuple(input.shape)}, "
            f"{input.dtype}"
        )
    if not input.numel():
        return input
    X, before, c = widen(input), size // 2, input.shape[1]
    squares = X.new_zeros(X.shape[0], c + size - 1, *X.shape[2:])
    squares[:, before : before + c] = X**2
    return (X / (k + alpha * squares.unfold(1, size, 1).mean(-1)) ** beta).to(input.dtype)


def _scale_and_shift(
    X_hat: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]
) -> Tensor:
    """Apply the optional weight and bias, reshaped to `shape` for broadcasting."""
    Y = X_hat if weight is None else X_hat * widen(weight).view(shape)
    return Y if bias is None else Y + widen(bias).view(shape)
