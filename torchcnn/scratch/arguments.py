"""Checks of arguments: what `torch.nn.functional` refuses is refused with a `ValueError` here."""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchcnn.scratch.precision import HALF


def whole(value: object) -> bool:
    """Return whether a value is a whole number; True and False are not."""
    return isinstance(value, int | torch.SymInt) and not isinstance(value, bool)


def same_dtype(**tensors: Tensor | None) -> None:
    """Check that tensors have numbers of one dtype, which autocast sees to by itself."""
    present = {name: t for name, t in tensors.items() if t is not None}
    dtypes = {t.dtype for t in present.values()}
    mixed = len(dtypes) > 1 and not _autocast(next(iter(present.values())))
    if mixed or torch.bool in dtypes:
        got = ", ".join(f"{name} {t.dtype}" for name, t in present.items())
        raise ValueError(f"expected numbers of one dtype, got {got}")


def parameters_fit(input: Tensor, shape: Sequence[int], **parameters: Tensor | None) -> None:
    """Check the shape and the dtypes of a normalisation's parameters.

    The input must be floating-point, and the parameters of its dtype; with a half-precision input
    they may be float32, too.
    """
    shaped(shape, **parameters)
    floating(input)
    for name, t in parameters.items():
        allowed = {input.dtype, torch.float32} if input.dtype in HALF else {input.dtype}
        if t is not None and t.dtype not in allowed and not _autocast(input):
            raise ValueError(f"{name} must be {input.dtype} as the input, got {t.dtype}")


def _autocast(x: Tensor) -> bool:
    """Return whether operations on a tensor are subject to autocast."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def floating(x: Tensor) -> None:
    """Check that a tensor has real floating-point numbers."""
    if not x.is_floating_point():
        raise ValueError(f"expected floating-point numbers, got {x.dtype}")


def shaped(shape: Sequence[int], **tensors: Tensor | None) -> None:
    """Check that tensors, where given, have a shape."""
    for name, t in tensors.items():
        if t is not None and tuple(t.shape) != tuple(shape):
            raise ValueError(f"{name} must have the shape {tuple(shape)}, got {tuple(t.shape)}")


def biased(y: Tensor, bias: Tensor) -> Tensor:
    """Return y + bias, after checking that the bias broadcasts to the shape of y."""
    pairs = zip(reversed(bias.shape), reversed(y.shape), strict=False)
    if bias.dim() > y.dim() or not all(a in (1, b) for a, b in pairs):
        raise ValueError(f"a bias {tuple(bias.shape)} does not fit an output {tuple(y.shape)}")
    return y + bias
