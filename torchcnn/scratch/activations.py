"""Element-wise activation functions by hand: (...) -> (...)."""

import math

import torch
from torch import Tensor

from torchcnn.scratch.arguments import floating
from torchcnn.scratch.precision import widen


def relu(input: Tensor) -> Tensor:
    """Apply max(x, 0), with gradient 0 at 0: (...) -> (...). Source: Nair and Hinton 2010.

    >>> relu(torch.tensor([-2.0, 0.0, 3.0]))
    tensor([0., 0., 3.])

    Raises:
        ValueError: if the input is boolean or complex.
    """
    if input.dtype == torch.bool or input.is_complex():
        raise ValueError(f"expected real numbers, got {input.dtype}")
    return torch.where(input <= 0, torch.zeros_like(input), input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Apply x where x > 0 and negative_slope * x elsewhere: (...) -> (...).

    Source: Maas, Hannun and Ng 2013.

    >>> leaky_relu(torch.tensor([-2.0, 3.0]), 0.5)
    tensor([-1.,  3.])

    Raises:
        ValueError: if the input is not floating-point.
    """
    floating(input)
    return torch.where(input > 0, input, negative_slope * input)


def sigmoid(input: Tensor) -> Tensor:
    """Apply 1 / (1 + e^-x): (...) -> (...).

    Inputs are clamped from below at the least x for which e^-x does not overflow. Half precision
    is computed in float32, whose range is large enough for every y that float16 can hold.
    Source: LeCun, Bottou, Orr and Müller 1998.

    >>> sigmoid(torch.tensor([0.0, 1e4]))
    tensor([0.5000, 1.0000])
    """
    x = widen(input)
    least = 1 - math.log(torch.finfo(x.dtype).max)  # -87.7 in float32, where y = 8e-39
    return (1 / (1 + torch.exp(-x.clamp(min=least)))).to(input.dtype)


def tanh(input: Tensor) -> Tensor:
    """Apply (e^2x - 1) / (e^2x + 1): (...) -> (...).

    `expm1` keeps it accurate near 0, and beyond ±25 the result is ±1 to the last bit. Half
    precision is computed in float32, because e^12 - 1 overflows in float16.
    Source: LeCun, Bottou, Orr and Müller 1998.

    >>> tanh(torch.tensor([-1e4, 0.0, 1e-8]))
    tensor([-1.0000e+00,  0.0000e+00,  1.0000e-08])
    """
    e = torch.expm1(2 * widen(input).clamp(-25, 25))
    y = e / (e + 2)
    return y.to(input.dtype) if input.is_floating_point() else y
