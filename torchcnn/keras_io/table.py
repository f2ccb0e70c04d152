"""The layers that are known to be equal in PyTorch and Keras, in one table for both directions.

What is not in it, or has another option than it allows, is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from torchcnn.keras_io.files import Config, Refused
from torchcnn.keras_io.graphs import Facts, Op
from torchcnn.layers import (
    BatchNorm,
    FlattenLayer,
    GlobalAvgPool2d,
    SameAvgPool2d,
    SameConv2d,
    SameMaxPool2d,
)


@dataclass(frozen=True)
class Layer:
    """A layer of both frameworks."""

    kind: str  # of its node in a graph
    torch: tuple[type[nn.Module], ...]  # its classes in PyTorch, including their subclasses
    keras: str  # its class in Keras
    only: Config = field(default_factory=dict)  # options of either, with all values that are known
    of_torch: Callable[[Any], Facts] = lambda module: {}  # the facts of a module
    of_keras: Callable[[Config], Facts] = lambda config: {}  # those that the weights do not show
    options: Callable[[Op], Config] = lambda op: {}  # options of Keras's layer that are no facts


def keras_name(name: str) -> str:
    """Return a valid Keras name, without dots: stage1.0.conv1 -> stage1_0_conv1."""
    return name.replace(".", "_")


def _pair(value: Any) -> tuple[int, int]:
    """Return an option that is one number, or one for the height and one for the width."""
    height, width = (value, value) if isinstance(value, int) else value
    return height, width


def _torch_padding(module: Any) -> Any:
    if isinstance(module, SameConv2d | SameMaxPool2d | SameAvgPool2d):
        return "same"
    if isinstance(module.padding, str):
        return module.padding
    height, width = _pair(module.padding)
    return height, height, width, width


def _conv(conv: Any) -> Facts:
    kernel = (*conv.kernel_size, conv.in_channels, conv.out_channels)
    facts = {"kernel": kernel, "use_bias": conv.bias is not None}
    return facts | {"strides": conv.stride, "padding": _torch_padding(conv)}


def _torch_norm(norm: Any) -> Facts:
    features = norm.gamma.numel() if isinstance(norm, BatchNorm) else norm.num_features
    return {"features": features, "epsilon": norm.eps}


def _torch_pool(pool: Any) -> Facts:
    window, strides = _pair(pool.kernel_size), _pair(pool.stride)
    return {"pool_size": window, "strides": strides, "padding": _torch_padding(pool)}


def _keras_pool(config: Config) -> Facts:
    window = _pair(config["pool_size"])
    strides = _pair(config.get("strides") or window)
    return {"pool_size": window, "strides": strides, "padding": config["padding"]}


ONE = (1, (1, 1), [1, 1])

# fmt: off
CONV = {"dilation": ONE, "dilation_rate": ONE, "groups": (1,), "padding_mode": ("zeros",)}
POOL = {"dilation": ONE, "ceil_mode": (False,), "return_indices": (False,),
        "divisor_override": (None,)}
LAYERS = [
    Layer("convolution", (nn.Conv2d,), "Conv2D", CONV, _conv,
          lambda c: {"strides": _pair(c["strides"]), "padding": c["padding"]},
          lambda op: {"filters": op.facts["kernel"][3], "kernel_size": op.facts["kernel"][:2]}),
    Layer("dense layer", (nn.Linear,), "Dense", {},
          lambda m: {"kernel": (m.in_features, m.out_features), "use_bias": m.bias is not None},
          options=lambda op: {"units": op.facts["kernel"][1]}),
    Layer("batch norm", (nn.BatchNorm1d, nn.BatchNorm2d, BatchNorm), "BatchNormalization",
          {"affine": (True,), "track_running_stats": (True,)}, _torch_norm,
          lambda c: {"epsilon": c["epsilon"]}),
    Layer("relu", (nn.ReLU,), "ReLU",
          {"max_value": (None,), "negative_slope": (0, None), "threshold": (0, None)}),
    Layer("sigmoid", (nn.Sigmoid,), "Activation", options=lambda op: {"activation": "sigmoid"}),
    Layer("softmax", (), "Softmax"),
    Layer("max pooling", (nn.MaxPool2d,), "MaxPooling2D", POOL, _torch_pool, _keras_pool),
    Layer("average pooling", (nn.AvgPool2d,), "AveragePooling2D", POOL, _torch_pool, _keras_pool),
    Layer("global average pooling", (GlobalAvgPool2d,), "GlobalAveragePooling2D",
          options=lambda op: {"keepdims": op.axes == 4}),
    Layer("padding", (nn.ZeroPad2d,), "ZeroPadding2D", {},
          lambda m: {"zeros": tuple(m.padding[i] for i in (2, 3, 0, 1))},
          lambda c: {"zeros": (*c["padding"][0], *c["padding"][1])}),
    Layer("flattening", (FlattenLayer, nn.Flatten), "Flatten",
          {"start_dim": (1,), "end_dim": (-1,)}),
    Layer("dropout", (nn.Dropout,), "Dropout"),
    Layer("sum", (), "Add"),
    Layer("concatenation", (), "Concatenate"),
]
# fmt: on
WITH_WEIGHTS = ("convolution", "dense layer", "batch norm")
ACTIVATIONS = ("relu", "sigmoid", "softmax")  # their kinds are Keras's names of them
JOINS = ("sum", "concatenation")

KINDS = {row.kind: row for row in LAYERS}
KERAS = {row.keras: row for row in LAYERS if row.keras != "Activation"}
_TORCH = {kind: row for row in LAYERS for kind in row.torch}


def of_module(module: nn.Module) -> Layer | None:
    """Return the row of a module's class, if there is one."""
    return next((_TORCH[kind] for kind in type(module).__mro__ if kind in _TORCH), None)


def check_options(row: Layer, name: str, options: Config) -> None:
    """Refuse a layer with an option that the table does not allow."""
    for key, known in row.only.items():
        value = options.get(key, known[0])
        if value not in known:
            raise Refused(f"{name} has {key} {value!r}, of which only {known[0]!r} is supported")
