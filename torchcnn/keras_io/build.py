"""Build Keras models from networks, with the same layers, layer names and weights."""

import operator
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from torchcnn.keras_io.calls import channel_padding
from torchcnn.keras_io.graphs import listed
from torchcnn.keras_io.layout import keras_views
from torchcnn.keras_io.networks import (
    conv_padding,
    keras_name,
    kind_of,
    torch_ops,
)
from torchcnn.layers import (
    BatchNorm,
    FlattenLayer,
    GlobalAvgPool2d,
    SameAvgPool2d,
    SameMaxPool2d,
)
from torchcnn.models.analysis import layer_graph

LAST = "channels_last"  # given explicitly, because a user's keras.json may set another default


def _keras() -> Any:
    """Import Keras."""
    try:
        import keras
    except ImportError as error:
        raise ValueError(
            "building a Keras model requires Keras: pip install 'torchcnn[keras]'"
        ) from error
    return keras


def to_keras(net: nn.Module, input_size: tuple[int, int, int] | None = None) -> Any:
    """Build a functional Keras model that computes what the network computes, with its weights.

    The model takes images (n, h, w, c) and returns logits. Its layers have the names of the
    PyTorch modules with underscores for dots, `stage1_0` for `stage1.0`. A layer without a single
    equivalent in Keras becomes several: the explicit zeros in front of a convolution, for example,
    are a layer `<name>_pad`. Outside the `tf_` networks, training differs in one respect: Keras's
    batch norm tracks the biased variance, PyTorch's the unbiased one.

    Args:
        net: the network to convert.
        input_size: (channels, height, width). With None the height and width stay undefined, and
            the model accepts every size that the network accepts.

    Raises:
        ValueError: if a layer has no counterpart in Keras, or Keras is not installed.
    """
    keras, graph = _keras(), layer_graph(net)
    for op, _ in listed(torch_ops(net, graph)):  # it raises an error for what has no counterpart
        if op.kind == "dense" and op.inputs[0].axes == 4 and not op.inputs[0].flat:
            raise ValueError(f"layer {op.name} takes vectors; Keras models are built for images")
    views = keras_views(net, graph, input_size[0] if input_size else None)
    channels, height, width = input_size or (_channels(net, graph.nodes), None, None)
    builder = _Builder(keras, net)
    tensors: dict[Node, Any] = {}
    for node in graph.nodes:
        inputs = [tensors[n] for n in node.all_input_nodes]
        if node.op == "placeholder":
            tensors[node] = source = keras.Input((height, width, channels), dtype=builder.dtype)
        elif node.op == "call_module":
            tensors[node] = builder.module(node, inputs[0])
        elif node.op in ("call_function", "call_method"):
            tensors[node] = builder.function(node, inputs)
        else:  # the output: `torch_ops` accepts no other kind of node
            tensors[node] = inputs[0]
    model = keras.Model(source, tensors[next(iter(reversed(graph.nodes)))])
    for name, weights in views.items():
        layer = model.get_layer(keras_name(name))
        for variable, view in zip(layer.weights, weights.values(), strict=True):
            if view.dtype == torch.bfloat16:  # NumPy does not have it
                view = view.float()
            variable.assign(view.cpu().reshape(tuple(variable.shape)).numpy())
    return model


def _channels(net: nn.Module, nodes: Any) -> int | None:
    """Return the number of image channels, or None if the first layer with weights is dense."""
    layers = [net.get_submodule(str(n.target)) for n in nodes if n.op == "call_module"]
    first = next((m for m in layers if isinstance(m, nn.Conv2d | nn.Linear)), None)
    return first.in_channels if isinstance(first, nn.Conv2d) else None


def save_keras_weights(net: nn.Module, path: str | Path) -> None:
    """Save the weights of `to_keras(net)` in the format that `keras.Model.load_weights` reads.

    The file can be loaded into that model, and into others with the same layers in the same order.

    Raises:
        ValueError: if the name does not end in `.weights.h5`, or as for `to_keras`.
        OSError: if the file cannot be written; an existing file is then left unchanged.
    """
    path = Path(path)
    if not path.name.endswith(".weights.h5"):
        raise ValueError(f"the name of the file must end in .weights.h5 for Keras, got {path}")
    temporary = path.with_name(f"{path.name.removesuffix('.weights.h5')}.tmp.weights.h5")
    try:
        to_keras(net).save_weights(temporary, overwrite=True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class _Builder:
    """Calls Keras layers, with the settings of the PyTorch modules, on symbolic tensors."""

    def __init__(self, keras: Any, net: nn.Module) -> None:
        self.keras, self.net = keras, net
        self.calls: Counter[str] = Counter()  # a ReLU that is called twice becomes two Keras layers
        first = next(net.parameters(), torch.empty(0))
        self.dtype = str(first.dtype).removeprefix("torch.")

    def make(self, kind: str, x: Any, name: str, **settings: Any) -> Any:
        """Create a Keras layer of the class `kind` and call it on `x`."""
        layer = getattr(self.keras.layers, kind)(name=name, dtype=self.dtype, **settings)
        return layer(x)

    def zero_pad(self, x: Any, name: str, height: tuple[int, int], width: tuple[int, int]) -> Any:
        """Add rows (top, bottom) and columns (left, right) of zeros."""
        return self.make("ZeroPadding2D", x, name, padding=(height, width), data_format=LAST)

    def module(self, node: Node, x: Any) -> Any:
        """Apply the counterpart of a module."""
        module: Any = self.net.get_submodule(str(node.target))
        name = keras_name(str(node.target))
        self.calls[name] += 1
        if (call := self.calls[name]) > 1:
            if kind_of(module):
                raise ValueError(f"layer {node.target} is called twice")
            name = f"{name}_{call}"
        make = partial(self.make, x=x, name=name)
        match module:
            case nn.Conv2d():
                return self.conv(module, x, name)
            case nn.Linear():
                return make("Dense", units=module.out_features, use_bias=module.bias is not None)
            case nn.BatchNorm1d() | nn.BatchNorm2d() | BatchNorm():
                return self.norm(module, x, name, str(node.target).rpartition(".")[0])
            case nn.MaxPool2d() | nn.AvgPool2d():
                return self.pool(module, x, name)
            case GlobalAvgPool2d():
                return make("GlobalAveragePooling2D", keepdims=True, data_format=LAST)
            case nn.ZeroPad2d():
                left, right, top, bottom = module.padding
                return self.zero_pad(x, name, (top, bottom), (left, right))
            case FlattenLayer() | nn.Flatten() if None in x.shape[1:]:
                return make("Reshape", target_shape=(_features(self.net, node),))
            case FlattenLayer() | nn.Flatten():
                return make("Flatten", data_format=LAST)
            case nn.Dropout():
                return make("Dropout", rate=module.p)
            case nn.ReLU():
                return make("ReLU")
            case nn.LeakyReLU():
                return make("LeakyReLU", negative_slope=module.negative_slope)
            case nn.Sigmoid():
                return make("Activation", activation="sigmoid")
            case nn.Tanh():
                return make("Activation", activation="tanh")
            case nn.Identity():
                return x
        raise ValueError(f"layer {name}, a {type(module).__name__}, has no counterpart in Keras")

    def conv(self, conv: nn.Conv2d, x: Any, name: str) -> Any:
        """Apply the counterpart of a convolution, preceded by zero padding if it needs any."""
        padding = conv_padding(conv)
        if isinstance(padding, tuple) and any(padding):
            top, bottom, left, right = padding
            x = self.zero_pad(x, f"{name}_pad", (top, bottom), (left, right))
        return self.make(
            "Conv2D",
            x,
            name,
            filters=conv.out_channels,
            kernel_size=conv.kernel_size,
            strides=conv.stride,
            padding="same" if padding == "same" else "valid",
            dilation_rate=conv.dilation,
            groups=conv.groups,
            use_bias=conv.bias is not None,
            data_format=LAST,
        )

    def norm(self, norm: Any, x: Any, name: str, block: str) -> Any:
        """Apply the counterpart of a batch norm; `block` is the module that contains it."""
        if norm.momentum is None:
            raise ValueError(f"layer {name} has momentum=None, which Keras does not support")
        kept = norm.momentum if isinstance(norm, BatchNorm) else 1 - norm.momentum
        layer = self.keras.layers.BatchNormalization(
            epsilon=norm.eps, momentum=kept, name=name, dtype=self.dtype
        )
        frozen = getattr(self.net.get_submodule(block), "frozen_norm", False)
        return layer(x, training=False) if frozen else layer(x)

    def pool(self, pool: Any, x: Any, name: str) -> Any:
        """Apply the counterpart of a max or average pooling."""
        (size, stride, pad) = (
            v if isinstance(v, tuple) else (v, v)
            for v in (pool.kernel_size, pool.stride, pool.padding)
        )
        kind = "MaxPooling2D" if isinstance(pool, nn.MaxPool2d) else "AveragePooling2D"
        make = partial(self.make, kind, data_format=LAST)
        if isinstance(pool, SameMaxPool2d | SameAvgPool2d):
            return make(x, name, pool_size=size, strides=stride, padding="same")
        dilated = getattr(pool, "dilation", 1) not in (1, (1, 1))
        if pool.ceil_mode or dilated or getattr(pool, "divisor_override", None):
            raise ValueError(
                f"layer {name} has a ceil_mode, dilation or divisor_override, which Keras's "
                "pooling layers lack"
            )
        if pad == (0, 0):
            return make(x, name, pool_size=size, strides=stride, padding="valid")
        symmetric = all(k == 2 * p + 1 for k, p in zip(size, pad, strict=True))
        if kind == "AveragePooling2D" or not symmetric:
            raise ValueError(
                f"layer {name} has a padding of {pad}, which Keras's pooling layers lack"
            )
        # Only at stride 1 is "same" this symmetric padding, so a pooling with a window of one pixel
        # applies the stride afterwards.
        x = make(x, name, pool_size=size, strides=1, padding="same")
        if stride == (1, 1):
            return x
        return make(x, f"{name}_stride", pool_size=1, strides=stride, padding="valid")

    def function(self, node: Node, inputs: list[Any]) -> Any:
        """Apply the counterpart of a function that a block calls between its layers."""
        if node.target in (operator.add, torch.add) and len(inputs) == 2:
            return self.keras.layers.Add(name=node.name, dtype=self.dtype)(inputs)
        if node.target is torch.cat:
            return self.keras.layers.Concatenate(-1, name=node.name, dtype=self.dtype)(inputs)
        (x,) = inputs
        if node.target is operator.getitem:  # a strided slice, x[:, :, ::2, ::2]
            slices: Any = node.args[1]
            steps = tuple(s.step or 1 for s in slices[2:])
            make = partial(self.make, "MaxPooling2D", data_format=LAST)
            return make(x, node.name, pool_size=1, strides=steps, padding="valid")
        if zeros := channel_padding(node):
            # Keras pads rows and columns only, so the channels take the place of the columns.
            x = self.make("Permute", x, f"{node.name}_in", dims=(1, 3, 2))
            x = self.zero_pad(x, node.name, (0, 0), zeros)
            return self.make("Permute", x, f"{node.name}_out", dims=(1, 3, 2))
        raise ValueError(f"{node.target} has no counterpart in Keras")


def _features(net: nn.Module, flatten: Node) -> int:
    """Return the length of the vectors that a flatten returns, from the dense layer after it."""
    node = flatten
    while node.users:
        (node,) = node.users
        module: Any = net.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Linear):
            return module.in_features
    raise ValueError(f"layer {flatten.target} returns a vector of unknown length: give input_size")
