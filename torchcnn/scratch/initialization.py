"""Initialisation by hand: weights drawn in place, so that signals neither grow nor vanish.

`fan_in` and `fan_out` are the weights that lead into, and out of, one unit: of a kernel
(o, c, kh, kw) they are c kh kw and o kh kw.
"""

import math

import torch
from torch import Tensor


def _fans(tensor: Tensor) -> tuple[int, int]:
    if tensor.dim() < 2:
        raise ValueError(f"expected a weight of two axes or more, got {tuple(tensor.shape)}")
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


def _gain(nonlinearity: str, a: float) -> float:
    gains = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2),
             "leaky_relu": math.sqrt(2 / (1 + a**2))}  # fmt: skip
    if nonlinearity not in gains:
        raise ValueError(f"expected one of {', '.join(gains)}, got {nonlinearity!r}")
    return gains[nonlinearity]


def _fan(tensor: Tensor, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode is fan_in or fan_out, got {mode!r}")
    return _fans(tensor)[mode == "fan_out"]


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """U(a, b), in place: (...) -> (...). Source: Zhang et al. 2021, arXiv:2106.11342."""
    with torch.no_grad():
        return tensor.uniform_(a, b)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """N(mean, std^2), in place: (...) -> (...). Source: Zhang et al. 2021, arXiv:2106.11342."""
    with torch.no_grad():
        return tensor.normal_(mean, std)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """U(-a, a) with a = gain sqrt(6 / (fan_in + fan_out)), in place: Keras's `glorot_uniform`.

    Its variance is 2 / (fan_in + fan_out): a compromise between signals that go forward and
    gradients that come back. Source: Glorot and Bengio 2010.
    """
    bound = gain * math.sqrt(6 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """N(0, gain^2 2 / (fan_in + fan_out)), in place. Source: Glorot and Bengio 2010."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(_fans(tensor))))


def glorot_normal_(tensor: Tensor) -> Tensor:
    """Keras's `glorot_normal`: as `xavier_normal_`, in place, but never beyond 2 deviations.

    What lies beyond is drawn again; the normal is wider by as much as that takes from its variance.
    Source: Glorot and Bengio 2010.
    """
    cut = 0.87962566103423978  # standard deviation of N(0, 1) cut at ±2
    std = math.sqrt(2 / sum(_fans(tensor)))
    normal_(tensor)
    with torch.no_grad():
        while (beyond := tensor.abs() > 2).any():
            tensor[beyond] = torch.randn_like(tensor[beyond])
        return tensor.mul_(std / cut)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """U(-b, b) with b = gain sqrt(3 / fan), in place; the gain is that of the nonlinearity.

    sqrt(2) for ReLU, which throws half of the variance away; `a` is leaky ReLU's slope.
    Source: He et al. 2015, arXiv:1502.01852.
    """
    bound = _gain(nonlinearity, a) * math.sqrt(3 / _fan(tensor, mode))
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """N(0, gain^2 / fan), in place. Source: He et al. 2015, arXiv:1502.01852."""
    return normal_(tensor, 0.0, _gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)))
