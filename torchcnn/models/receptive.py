"""Receptive fields: which pixels of the image an output depends on, along height and width."""

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchcnn.layers import (
    BatchNorm,
    FlattenLayer,
    GlobalAvgPool2d,
    SameAvgPool2d,
    SameConv2d,
    SameMaxPool2d,
    same_padding,
)


@dataclass(frozen=True)
class Axis:
    """What the outputs along one axis depend on.

    Output o depends on the pixels `first + stride * o` to `last + stride * o` of the image, counted
    from its first one as if it had no edges. The whole image is -inf to inf.
    """

    stride: int = 1  # distance of two outputs in pixels
    first: float = 0
    last: float = 0

    @property
    def field(self) -> float:
        """The number of pixels from the first to the last that an output depends on."""
        return self.last - self.first + 1

    def window(self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> "Axis":
        """Return the axis after a convolution or pooling, with `padding` before the first pixel."""
        first = self.first - self.stride * padding
        last = self.last + self.stride * (dilation * (kernel - 1) - padding)
        return Axis(self.stride * stride, first, last)

    def everything(self) -> "Axis":
        """Return the axis after a layer whose outputs depend on the whole image."""
        return Axis(self.stride, -math.inf, math.inf)


Axes = tuple[Axis, Axis]  # height and width


def join(*branches: Axes) -> Axes | None:
    """Return the axes of outputs that depend on several branches; None if their strides differ."""
    found = []
    for along in zip(*branches, strict=True):
        strides = {axis.stride for axis in along}
        if len(strides) > 1 and not any(math.isinf(axis.field) for axis in along):
            return None
        first, last = min(axis.first for axis in along), max(axis.last for axis in along)
        found.append(Axis(max(strides), first, last))
    return found[0], found[1]


def _windows(axes: Axes, kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> Axes:
    """Return the axes after windows; each option is a number or a pair (height, width)."""
    options = (_pair(option) for option in (kernel, stride, padding, dilation))
    h, w = (axis.window(*numbers) for axis, *numbers in zip(axes, *options, strict=True))
    return h, w


def _pair(value: Any) -> tuple[int, int]:
    """Return (height, width) from a number or a pair."""
    numbers = tuple(value) if isinstance(value, tuple | list) else (value,)
    return numbers[0], numbers[-1]


# --- layers -------------------------------------------------------------------------------------

_MIXED = (nn.MultiheadAttention, nn.GLU)  # which torch.nn counts among the activations
_IN_PLACE = (nn.Identity, nn.Flatten, nn.Unflatten, nn.ChannelShuffle, BatchNorm, FlattenLayer)
_IN_PLACE_FILES = ("activation", "batchnorm", "dropout", "instancenorm", "normalization")


def after_layer(layer: Any, axes: Axes, x: Tensor, y: Any) -> Axes | None:
    """Return the axes after a layer with the input x and the output y; None if it is not known.

    Normalisation counts as if its statistics were constants, as they are in eval mode in a batch
    norm.
    """
    files = {kind.__module__.removeprefix("torch.nn.modules.") for kind in type(layer).__mro__}
    if isinstance(layer, nn.Softmax | nn.LogSoftmax | nn.Softmin):
        return _softmax(axes, x, layer.dim)
    if isinstance(layer, nn.Linear):
        return everything(axes) if x.dim() == 2 or _is_whole(axes) else None
    in_place = files.intersection(_IN_PLACE_FILES) and not isinstance(layer, _MIXED)
    if in_place or isinstance(layer, _IN_PLACE):
        return axes if _in_place(axes, x, y) else None
    if x.dim() != 4:
        return None
    if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        dilation = getattr(layer, "dilation", 1)
        padding = _padding_before(layer, x)
        return _windows(axes, layer.kernel_size, layer.stride, padding, dilation)
    if isinstance(layer, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d | GlobalAvgPool2d):
        return _adaptive(axes, x, y)
    return _padded(axes, layer.padding) if "padding" in files else None


def _padding_before(layer: Any, x: Tensor) -> tuple[int, int]:
    """Return how many pixels a convolution or pooling adds at the top and on the left."""
    kernel, stride = _pair(layer.kernel_size), _pair(layer.stride)
    dilation = _pair(layer.dilation) if isinstance(layer, nn.Conv2d) else (1, 1)
    if isinstance(layer, SameConv2d | SameMaxPool2d | SameAvgPool2d):
        numbers = zip(x.shape[2:], kernel, stride, dilation, strict=True)
        top, left = (same_padding(*along)[0] for along in numbers)
        return top, left
    if layer.padding == "same":
        return dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2
    return (0, 0) if layer.padding == "valid" else _pair(layer.padding)


def _padded(axes: Axes, sides: Any) -> Axes:
    """Return the axes after padding by `sides`, (left, right, top, bottom, ...)."""
    return _windows(axes, 1, 1, (sides[2] if len(sides) > 2 else 0, sides[0]))


def _adaptive(axes: Axes, x: Tensor, y: Any) -> Axes | None:
    """Return the axes after a pooling to the size of y: one pixel, or windows of equal size."""
    y, found = y[0] if isinstance(y, tuple) else y, []
    for axis, size, count in zip(axes, x.shape[2:], y.shape[2:], strict=True):
        if count != 1 and size % count:
            return None
        step = size // count
        found.append(axis.everything() if count == 1 else axis.window(step, step))
    return found[0], found[1]


def _softmax(axes: Axes, x: Tensor, dim: int | None) -> Axes | None:
    """Return the axes after a softmax along `dim`, over the channels or over a whole vector."""
    if x.dim() == 4 and dim in (1, -3):
        return axes
    return everything(axes) if x.dim() == 2 and dim in (1, -1) else None


def everything(axes: Axes) -> Axes:
    """Return the axes after a layer whose outputs depend on the whole image."""
    return axes[0].everything(), axes[1].everything()


def _is_whole(axes: Axes) -> bool:
    return all(math.isinf(axis.field) for axis in axes)


def _in_place(axes: Axes, x: Tensor, y: Any) -> bool:
    """Return whether the values of y are where those of x were, or no longer have a place."""
    for t in y if isinstance(y, tuple | list) else (y,):
        same = x.dim() >= 4 and t.shape[-2:] == x.shape[-2:]
        if not (same or t.dim() < 4 or t.shape[-2:] == (1, 1) or _is_whole(axes)):
            return False
    return True


# --- functions and methods ----------------------------------------------------------------------


def _everywhere(*names: str) -> set[Any]:
    """Return the methods (by name), operators and functions of torch that have these names."""
    places = (torch, F, operator)
    found = {getattr(place, name) for place in places for name in names if hasattr(place, name)}
    return found | set(names)


_ELEMENTWISE = _everywhere(
    *("add", "sub", "mul", "div", "truediv", "neg", "pow", "abs", "exp", "log", "sqrt", "clamp"),
    *("iadd", "isub", "imul", "itruediv", "add_", "sub_", "mul_", "div_", "maximum", "minimum"),
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("sigmoid", "tanh", "softplus", "hardtanh", "hardsigmoid", "hardswish", "logsigmoid"),
    *("dropout", "dropout2d", "batch_norm", "layer_norm", "group_norm", "instance_norm"),
    *("cat", "concat", "chunk", "split", "flatten", "reshape", "view", "squeeze", "unsqueeze"),
    *("unflatten", "contiguous", "clone", "detach", "to", "float", "local_response_norm"),
)
_MAX_POOLS, _AVG_POOLS = _everywhere("max_pool2d"), _everywhere("avg_pool2d")
_ADAPTIVE_POOLS = _everywhere("adaptive_avg_pool2d", "adaptive_max_pool2d")
_SOFTMAXES = _everywhere("softmax", "log_softmax")
_REDUCTIONS = _everywhere("mean", "sum", "amax")


def after_function(
    function: Any, args: Any, kwargs: dict[str, Any], axes: Axes, inputs: list[Any], y: Any
) -> Axes | None:
    """Return the axes after a function or method with the output y; None if it is not known.

    `inputs` are the arguments that depend on the image, and `axes` are theirs, joined.
    """
    if function in _ELEMENTWISE:
        return axes if all(_in_place(axes, x, y) for x in inputs) else None
    x = inputs[0]
    if function is operator.getitem:
        return _indexed(axes, x, args[1], y)
    if function in _SOFTMAXES:
        return _softmax(axes, x, _named(args, kwargs, "dim").get("dim"))
    if x.dim() != 4:
        return None
    if function in _ADAPTIVE_POOLS:
        return _adaptive(axes, x, y)
    if function in _REDUCTIONS:
        dim = _named(args, kwargs, "dim").get("dim")
        dims = sorted(i % 4 for i in dim) if isinstance(dim, tuple | list) else []
        return everything(axes) if dims == [2, 3] else None
    if function in _MAX_POOLS | _AVG_POOLS:
        last = ["dilation"] if function in _MAX_POOLS else []
        given = _named(args, kwargs, "kernel_size", "stride", "padding", *last)
        kernel = given["kernel_size"]
        stride, padding = given.get("stride") or kernel, given.get("padding", 0)
        return _windows(axes, kernel, stride, padding, given.get("dilation", 1))
    return _padded(axes, _named(args, kwargs, "pad")["pad"]) if function is F.pad else None


def _named(args: Any, kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the arguments by name; `names` are those after the input."""
    return dict(zip(names, args[1:], strict=False)) | kwargs


def _indexed(axes: Axes, x: Any, index: Any, y: Any) -> Axes | None:
    """Return the axes after x[index]."""
    if not isinstance(x, Tensor):  # one of several tensors
        return axes
    parts: list[Any] = list(index) if isinstance(index, tuple) else [index]
    if x.dim() == 4 and all(isinstance(i, slice) or i is ... for i in parts):
        if ... in parts:
            at = parts.index(...)
            parts[at : at + 1] = [slice(None)] * (5 - len(parts))
        parts += [slice(None)] * (4 - len(parts))
        taken = [i.indices(size) for i, size in zip(parts[2:], x.shape[2:], strict=True)]
        h, w = (
            axis.window(1, step, -start) for axis, (start, _, step) in zip(axes, taken, strict=True)
        )
        return h, w
    return axes if _in_place(axes, x, y) else None
