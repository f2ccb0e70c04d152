"""Normalisation by hand: over the batch, over the image, over channels, over neighbours."""

from collections.abc import Sequence

import torch
from torch import Tensor


def _moments(X: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over `dims`, which stay as axes of 1."""
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
    """Batch norm: normalise each feature over the batch: -> (Y, moving_mean, moving_var).

    mu = mean(X)   var = mean((X - mu)^2)   Y = gamma (X - mu) / sqrt(var + eps) + beta

    X is (n, c), normalised over n, or (n, c, h, w), normalised over n, h and w; gamma, beta and
    the moving statistics are (1, c) or (1, c, 1, 1). In training mode the batch's own mean and
    variance are used, and the returned moving statistics are
    `momentum * moving + (1 - momentum) * batch`, free of the autograd graph; else the moving
    statistics are used, and returned as they are. Two things differ from `torch.nn.BatchNorm2d`:
    `momentum` is the share of the old value (torch: of the new one), and the moving variance takes
    the biased variance, as in the paper's equations for the batch (torch: n / (n - 1) times it).
    Source: Ioffe and Szegedy 2015, arXiv:1502.03167.

    Raises:
        ValueError: X is neither (n, c) nor (n, c, h, w), gamma, beta and the moving statistics are
            not of the shape that goes with it, or there is no more than one value a feature to
            train on, whose variance is nothing to divide by.
    """
    if X.dim() not in (2, 4):
        raise ValueError(f"expected X of shape (n, c) or (n, c, h, w), got {tuple(X.shape)}")
    shape = (1, X.shape[1], 1, 1)[: X.dim()]
    if any(t.shape != shape for t in (gamma, beta, moving_mean, moving_var)):
        got = [tuple(t.shape) for t in (gamma, beta, moving_mean, moving_var)]
        raise ValueError(f"for X of shape {tuple(X.shape)} expected statistics {shape}, got {got}")
    if not is_training:
        mean, var = moving_mean, moving_var
    else:
        if X.numel() <= X.shape[1]:
            raise ValueError(f"expected more than one value a feature, got {tuple(X.shape)}")
        mean, var = _moments(X, [0] if X.dim() == 2 else [0, 2, 3])
        with torch.no_grad():
            moving_mean = momentum * moving_mean + (1 - momentum) * mean
            moving_var = momentum * moving_var + (1 - momentum) * var
    X_hat = (X - mean) / torch.sqrt(var + eps)
    return gamma * X_hat + beta, moving_mean, moving_var


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
    """Normalise each channel of each image by itself: (n, c, ...) -> (n, c, ...).

    Y[n, c] = weight[c] (X[n, c] - mu[n, c]) / sqrt(var[n, c] + eps) + bias[c]

    If running statistics (c,) are given, they take the share `momentum` of the images' mean, and of
    their unbiased variance, in place; without `use_input_stats` they are what is normalised by.
    Source: Ulyanov et al. 2016, arXiv:1607.08022.

    Raises:
        ValueError: images of one pixel, which is its own mean, or no statistics to use.
    """
    dims = list(range(2, input.dim()))
    along = (-1, *[1] * len(dims))  # (c,) -> (c, 1, ...)
    if use_input_stats:
        pixels = input[0, 0].numel() if len(input) else 0
        if pixels == 1:
            raise ValueError(f"expected more than one pixel an image, got {tuple(input.shape)}")
        mean, var = _moments(input, dims)
        with torch.no_grad():
            if running_mean is not None:
                running_mean += momentum * (mean.mean(0).flatten() - running_mean)
            if running_var is not None:
                unbiased = var.mean(0).flatten() * pixels / (pixels - 1)
                running_var += momentum * (unbiased - running_var)
    elif running_mean is None or running_var is None:
        raise ValueError("without use_input_stats running_mean and running_var are needed")
    else:
        mean, var = running_mean.view(along), running_var.view(along)
    X_hat = (input - mean) / torch.sqrt(var + eps)
    return _scale_and_shift(X_hat, weight, bias, along)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise groups of channels of each image by themselves: (n, c, ...) -> (n, c, ...).

    Y = weight[c] (X - mu[n, g]) / sqrt(var[n, g] + eps) + bias[c], g the group of channel c

    Source: Wu and He 2018, arXiv:1803.08494.

    Raises:
        ValueError: channels that cannot be divided into `num_groups`.
    """
    if input.shape[1] % num_groups:
        raise ValueError(f"{input.shape[1]} channels do not make {num_groups} groups")
    X = input.unflatten(1, (num_groups, -1))
    mean, var = _moments(X, list(range(2, X.dim())))
    X_hat = ((X - mean) / torch.sqrt(var + eps)).flatten(1, 2)
    return _scale_and_shift(X_hat, weight, bias, (-1, *[1] * (input.dim() - 2)))


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last axes, which are `normalized_shape`: (..., shape) -> (..., shape).

    Y = weight (X - mu) / sqrt(var + eps) + bias, weight and bias of `normalized_shape`

    Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450.

    Raises:
        ValueError: the last axes are others.
    """
    shape = tuple(normalized_shape)
    if not shape or tuple(input.shape[-len(shape) :]) != shape:
        raise ValueError(f"expected the last axes {shape}, got {tuple(input.shape)}")
    mean, var = _moments(input, list(range(-len(shape), 0)))
    return _scale_and_shift((input - mean) / torch.sqrt(var + eps), weight, bias, shape)


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """AlexNet's norm, by the channels on both sides: (n, c, ...) -> (n, c, ...).

    Y[c] = X[c] / (k + alpha / size sum_{c'} X[c']^2)^beta, over `size` channels c' around c

    of which `size // 2` come before, and those that do not exist count as 0. Source: Krizhevsky,
    Sutskever and Hinton 2012, whose alpha is not divided by `size`.

    Raises:
        ValueError: a size below one.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    before, c = size // 2, input.shape[1]
    squares = input.new_zeros(input.shape[0], c + size - 1, *input.shape[2:])
    squares[:, before : before + c] = input**2
    return input / (k + alpha * squares.unfold(1, size, 1).mean(-1)) ** beta


def _scale_and_shift(
    X_hat: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]
) -> Tensor:
    Y = X_hat if weight is None else X_hat * weight.view(shape)
    return Y if bias is None else Y + bias.view(shape)
