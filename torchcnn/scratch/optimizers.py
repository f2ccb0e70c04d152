"""Optimisers by hand: plain functions over lists of parameters."""

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
    """One step of stochastic gradient descent, in place: p <- p - lr v.

    v <- momentum v + grad / batch_size + weight_decay p

    The gradients are those of a loss summed over the batch, hence the division. Momentum needs
    `velocities`, one tensor a parameter, zeros at the start, which are updated in place. A
    parameter without a gradient stays as it is; gradients are left for the caller to zero.
    Source: Robbins and Monro 1951; the momentum is Polyak's of 1964.

    Keras's form, `lr_in_velocity`, moves by v itself: v <- momentum v + lr (...), p <- p - v. The
    two part when the learning rate changes: here the past keeps the rate that it was made with.

    Raises:
        ValueError: momentum without velocities.
    """
    if momentum and velocities is None:
        raise ValueError("momentum needs velocities, a tensor of zeros for each parameter")
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
    """Step number `step`, from 1, of Adam, in place.

    m <- b1 m + (1 - b1) g   s <- b2 s + (1 - b2) g^2   with g = grad + weight_decay p
    p <- p - lr (m / (1 - b1^step)) / (sqrt(s / (1 - b2^step)) + eps)

    `means` m and `squares` s are one tensor a parameter, zeros at the start, and are updated in
    place. A parameter without a gradient stays as it is. Source: Kingma and Ba 2014,
    arXiv:1412.6980.

    With `eps_hat`, `eps` is what the paper calls so: it is added before the root is corrected,
    p <- p - lr sqrt(1 - b2^step) / (1 - b1^step) m / (sqrt(s) + eps). So does Keras, with 1e-7; in
    the first steps it weighs up to 30 times what the other does.

    Raises:
        ValueError: a step below one.
    """
    if step < 1:
        raise ValueError(f"steps are counted from 1, got {step}")
    b1, b2 = betas
    with torch.no_grad():
        for p, m, s in zip(params, means, squares, strict=True):
            if p.grad is None:
                continue
            g = p.grad + weight_decay * p
            m.mul_(b1).add_((1 - b1) * g)
            s.mul_(b2).add_((1 - b2) * g**2)
            root = math.sqrt(1 - b2**step)
            p -= lr / (1 - b1**step) * m / (torch.sqrt(s) / root + (eps / root if eps_hat else eps))
