"""Optimisers by hand, as plain functions of lists of parameters."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def sgd(
    params: Iterable[Tensor],
    lr: float,
    batch_size: int,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    velocities: Sequence[Tensor] | None = None,
    lr_in_velocity: bool = False,
) -> None:
    """Perform one step of stochastic gradient descent, in place: p <- p - lr v.

    v <- momentum v + grad / batch_size + weight_decay p

    The loss is assumed to be summed over the batch, hence the division. Momentum needs
    `velocities`, one tensor per parameter, which are initially 0 and are updated in place.
    Parameters without a gradient are skipped. The caller zeroes the gradients.
    Source: Robbins and Monro 1951; momentum: Polyak 1964.

    `lr_in_velocity` selects Keras's form: v <- momentum v + lr (...), p <- p - v. The two forms
    differ when the learning rate changes: in Keras's, past gradients keep their learning rate.

    Raises:
        ValueError: if `lr`, `momentum` or `weight_decay` is negative, `batch_size` is below 1, or
            there is not one velocity for each parameter.
    """
    params = list(params)
    _not_negative(lr=lr, momentum=momentum, weight_decay=weight_decay)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if momentum and velocities is None:
        raise ValueError("momentum needs velocities, a tensor of zeros for each parameter")
    if velocities is not None and len(velocities) != len(params):
        raise ValueError(f"expected {len(params)} velocities, got {len(velocities)}")
    with torch.no_grad():
        for i, p in enumerate(params):
            if p.grad is None:
                continue
            step = p.grad / batch_size + weight_decay * p
            if lr_in_velocity:
                step = lr * step
            if velocities is not None:
                step = velocities[i].mul_(momentum).add_(step)
            p -= step if lr_in_velocity else lr * step


def adam(
    params: Iterable[Tensor],
    lr: float,
    step: int,
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    eps_hat: bool = False,
) -> None:
    """Perform the step number `step` of Adam, counted from 1, in place.

    m <- b1 m + (1 - b1) g   s <- b2 s + (1 - b2) g^2   with g = grad + weight_decay p
    p <- p - lr (m / (1 - b1^step)) / (sqrt(s / (1 - b2^step)) + eps)

    `means` m and `squares` s hold one tensor per parameter, which are initially 0 and are updated
    in place. Parameters without a gradient are skipped. Source: Kingma and Ba 2014,
    arXiv:1412.6980.

    With `eps_hat`, `eps` is the paper's "epsilon hat", which is added before the bias correction:
    p <- p - lr sqrt(1 - b2^step) / (1 - b1^step) m / (sqrt(s) + eps). Keras does this, with 1e-7.
    In the first steps it has up to 30 times the effect of the same `eps` without `eps_hat`.

    Raises:
        ValueError: if `step` is below 1, `lr`, `eps` or `weight_decay` is negative, a beta is not
            in [0, 1), or there is not one mean and one square for each parameter.
    """
    params = list(params)
    if step < 1:
        raise ValueError(f"step is counted from 1, got {step}")
    _not_negative(lr=lr, eps=eps, weight_decay=weight_decay)
    b1, b2 = betas
    if not (0 <= b1 < 1 and 0 <= b2 < 1):
        raise ValueError(f"betas must lie in [0, 1), got {betas}")
    if not len(params) == len(means) == len(squares):
        raise ValueError(
            f"expected {len(params)} means and squares, got {len(means)} and {len(squares)}"
        )
    with torch.no_grad():
        for p, m, s in zip(params, means, squares, strict=True):
            if p.grad is None:
                continue
            g = p.grad + weight_decay * p
            m.mul_(b1).add_((1 - b1) * g)
            s.mul_(b2).add_((1 - b2) * g**2)
            root = math.sqrt(1 - b2**step)
            added = eps / root if eps_hat else eps
            p -= lr / (1 - b1**step) * m / (torch.sqrt(s) / root + added)


def _not_negative(**options: float) -> None:
    """Check options that must be at least 0."""
    for name, value in options.items():
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
