"""Functions and methods that a network calls between its layers: which of them Keras has, too.

Whatever has another argument than those that are read here is not recognised.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node


def _max_pool2d(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> nn.Module:
    """Return the layer of a call of `F.max_pool2d`; its arguments are in another order."""
    return nn.MaxPool2d(kernel_size, stride, padding, dilation, return_indices, ceil_mode)


# Functions and methods that may stand between layers, with the layer that does the same.
LAYERS: dict[Any, Callable[..., nn.Module]] = {
    F.relu: nn.ReLU,
    torch.relu: nn.ReLU,
    "relu": nn.ReLU,
    F.leaky_relu: nn.LeakyReLU,
    torch.sigmoid: nn.Sigmoid,
    "sigmoid": nn.Sigmoid,
    torch.tanh: nn.Tanh,
    "tanh": nn.Tanh,
    F.max_pool2d: _max_pool2d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    F.dropout: lambda *args, **kwargs: nn.Identity(),
}


def layer_of(node: Node) -> nn.Module | None:
    """Return the layer that does what a call of a function or method does, if there is one."""
    if node.target not in LAYERS:
        return None
    options = {key: value for key, value in node.kwargs.items() if key != "input"}
    return LAYERS[node.target](*node.args[1:], **options)


def arguments(node: Node, *names: str) -> dict[str, Any]:
    """Return the arguments of a call by their names; those without a name get a number."""
    names += tuple(map(str, range(len(names), len(node.args))))
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def channel_padding(node: Node) -> tuple[int, int] | None:
    """Return the channels of zeros that a node adds before and after; None if it does not."""
    if node.target is not F.pad:
        return None
    match arguments(node, "input", "pad", "mode", "value"):
        case {"pad": [0, 0, 0, 0, int(before), int(after)], **others} if min(before, after) >= 0:
            others.pop("input", None)
            plain = others.pop("mode", "constant") == "constant" and not others.pop("value", None)
            return (before, after) if plain and not others else None
    return None


def is_flattening(node: Node, axes: int = 4) -> bool:
    """Whether a node is a function or method that flattens all axes but the batch's."""
    if node.target not in (torch.flatten, "flatten"):
        return False
    given = {"end_dim": -1} | arguments(node, "input", "start_dim", "end_dim")
    given.pop("input", None)
    return given in ({"start_dim": 1, "end_dim": end} for end in (-1, axes - 1))


def axes_of_mean(node: Node) -> int | None:
    """Return how many axes a mean over all pixels returns; None for other calls."""
    given = {"keepdim": False} | arguments(node, "input", "dim", "keepdim")
    dim, keepdim = given.pop("dim", None), given.pop("keepdim")
    of_pixels = isinstance(dim, list | tuple) and tuple(dim) in ((2, 3), (-2, -1))
    if node.target != "mean" or not of_pixels or given.keys() != {"input"}:
        return None
    return 4 if keepdim else 2


def strides(slices: Any) -> tuple[int, int] | None:
    """Return the two strides of x[:, :, ::2, ::2], and None for any other index."""
    if not isinstance(slices, tuple) or not all(isinstance(s, slice) for s in slices):
        return None
    steps = [s.step or 1 for s in slices]
    if any(s.start or s.stop is not None for s in slices) or steps[:2] != [1, 1]:
        return None
    height, width = (*steps[2:], 1, 1)[:2]
    return height, width
