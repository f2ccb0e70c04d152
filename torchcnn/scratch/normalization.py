"""Batch normalisation by hand (Ioffe and Szegedy 2015, arXiv:1502.03167)."""

import torch
from torch import Tensor


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
    """Normalise each feature over the batch: -> (Y, moving_mean, moving_var).

    mu = mean(X)   var = mean((X - mu)^2)   Y = gamma (X - mu) / sqrt(var + eps) + beta

    X is (n, c), normalised over n, or (n, c, h, w), normalised over n, h and w; gamma, beta and
    the moving statistics are (1, c) or (1, c, 1, 1). In training mode the batch's own mean and
    variance are used, and the returned moving statistics are
    `momentum * moving + (1 - momentum) * batch`, free of the autograd graph; else the moving
    statistics are used, and returned as they are. Two things differ from `torch.nn.BatchNorm2d`:
    `momentum` is the share of the old value (torch: of the new one), and the moving variance takes
    the biased variance, as in the paper's equations for the batch (torch: n / (n - 1) times it).

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
        dims = (0,) if X.dim() == 2 else (0, 2, 3)
        mean = X.mean(dims, keepdim=True)
        var = ((X - mean) ** 2).mean(dims, keepdim=True)
        with torch.no_grad():
            moving_mean = momentum * moving_mean + (1 - momentum) * mean
            moving_var = momentum * moving_var + (1 - momentum) * var
    X_hat = (X - mean) / torch.sqrt(var + eps)
    return gamma * X_hat + beta, moving_mean, moving_var
