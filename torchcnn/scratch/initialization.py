"""Weight initialisation by hand, in place, so that signals neither explode nor vanish.

`fan_in` and `fan_out` are the numbers of weights that lead into and out of one unit: c kh kw and
o kh kw for a kernel (o, c, kh, kw).
"""

import math

import torch
from torch import Tensor

from torchcnn.scratch.arguments import floating


def _fans(tensor: Tensor) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight."""
    if tensor.dim() < 2:
        raise ValueError(f"expected a weight with two axes or more, got {tuple(tensor.shape)}")
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


def _both_fans(tensor: Tensor) -> int:
    """Return fan_in + fan_out, the divisor of Glorot's variance."""
    fans = sum(_fans(tensor))
    if not fans:
        raise ValueError(f"expected a weight with elements, got {tuple(tensor.shape)}")
    return fans


def _gain(nonlinearity: str, a: float) -> float:
    """Return the factor by which a nonlinearity requires larger weights."""
    if nonlinearity == "leaky_relu" and (isinstance(a, bool) or not isinstance(a, int | float)):
        raise ValueError(f"expected a number as the slope of leaky ReLU, got {a!r}")
    gains = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2)}
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + a**2))
    if nonlinearity not in gains:
        names = ", ".join((*gains, "leaky_relu"))
        raise ValueError(f"expected one of {names}, got {nonlinearity!r}")
    return gains[nonlinearity]


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    """Return gain / sqrt(fan), where the fan is fan_in or fan_out, as `mode` says."""
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"expected the mode fan_in or fan_out, got {mode!r}")
    fan = max(_fans(tensor)[mode == "fan_out"], 1)  # 0 for a tensor without elements
    return _gain(nonlinearity, a) / math.sqrt(fan)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Fill in place from U(a, b): (...) -> (...). Source: Zhang et al. 2021, arXiv:2106.11342.

    Raises:
        ValueError: if the tensor is not floating-point, a > b, or the dtype cannot hold a, b or
            b - a.
    """
    floating(tensor)
    most = torch.finfo(tensor.dtype).max
    if not (-most <= a <= b <= most and b - a <= most):
        raise ValueError(f"expected -{most} <= a <= b <= {most} and no larger span, got {a}, {b}")
    with torch.no_grad():
        return tensor.uniform_(a, b)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill in place from N(mean, std^2): (...) -> (...).

    Source: Zhang et al. 2021, arXiv:2106.11342.

    Raises:
        ValueError: if the tensor is not floating-point, or the standard deviation is negative.
    """
    floating(tensor)
    if not std >= 0:
        raise ValueError(f"the standard deviation must be at least 0, got {std}")
    with torch.no_grad():
        return tensor.normal_(mean, std)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill in place from U(-a, a) with a = gain sqrt(6 / (fan_in + fan_out)).

    With gain 1 the variance is 2 / (fan_in + fan_out), a compromise between activations in the
    forward pass and gradients in the backward pass. Keras calls it `glorot_uniform`.
    Source: Glorot and Bengio 2010.

    Raises:
        ValueError: if the tensor has fewer than two axes, no elements, or whole numbers, or the
            gain is negative.
    """
    bound = gain * math.sqrt(6 / _both_fans(tensor))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill in place from N(0, gain^2 2 / (fan_in + fan_out)). Source: Glorot and Bengio 2010.

    Raises:
        ValueError: as for `xavier_uniform_`.
    """
    return normal_(tensor, 0.0, gain * math.sqrt(2 / _both_fans(tensor)))


def glorot_normal_(tensor: Tensor) -> Tensor:
    """Fill in place from a truncated normal of variance 2 / (fan_in + fan_out).

    It is Keras's `glorot_normal`: values beyond 2 standard deviations of the normal are drawn
    again, and the normal is widened to make up for the variance that this removes.
    Source: Glorot and Bengio 2010.

    Raises:
        ValueError: as for `xavier_uniform_`.
    """
    cut = 0.87962566103423978  # standard deviation of N(0, 1) truncated at ±2
    std = math.sqrt(2 / _both_fans(tensor))
    normal_(tensor)
    with torch.no_grad():
        while (beyond := tensor.abs() > 2).any():
            tensor[beyond] = torch.randn_like(tensor[beyond])
        return tensor.mul_(std / cut)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Fill in place from U(-b, b) with b = gain sqrt(3 / fan), with the gain of the nonlinearity.

    The gain is sqrt(2) for ReLU, which halves the variance; `a` is the slope of leaky ReLU. A
    tensor without elements stays as it is.
    Source: He et al. 2015, arXiv:1502.01852.

    Raises:
        ValueError: if the tensor has fewer than two axes or is not floating-point, or the mode, the
            nonlinearity or its slope is unknown.
    """
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Fill in place from N(0, gain^2 / fan). Source: He et al. 2015, arXiv:1502.01852.

    Raises:
        ValueError: as for `kaiming_uniform_`.
    """
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))
