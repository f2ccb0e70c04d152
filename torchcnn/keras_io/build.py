"""Networks to Keras: the same layers, under the same names, with the same weights."""

import operator
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

from torchcnn.keras_io.graphs import conv_padding, keras_name, kind_of, torch_ops
from torchcnn.keras_io.layout import keras_views
from torchcnn.layers import (
    BatchNorm,
    FlattenLayer,
    GlobalAvgPool2d,
    SameAvgPool2d,
    SameMaxPool2d,
)
from torchcnn.models.analysis import layer_graph

LAST = "channels_last"  # whatever keras.json says


def _keras() -> Any:
    import torch._dynamo  # noqa: F401  loads Triton: after TensorFlow it would abort the process

    try:
        import keras
    except ImportError as error:
        raise ValueError("a Keras model needs Keras: pip install 'torchcnn[keras]'") from error
    return keras


def to_keras(net: nn.Module, input_size: tuple[int, int, int] | None = None) -> Any:
    """A functional Keras model that computes what the network does, with its weights.

    Images are (n, h, w, c) there, and the outputs are logits. The layers bear the names of the
    torch modules, `stage1_0` for `stage1.0`; what one layer of Keras cannot say is said by several:
    explicit zeros in front of a convolution are `<name>_pad`. In training one thing differs outside
    the `tf_` networks: Keras's batch norm keeps the biased variance, torch's the unbiased one.

    Args:
        input_size: (channels, height, width); None leaves height and width open, and the model
            takes all sizes that the network takes.

    Raises:
        ValueError: a layer that has no counterpart in Keras, or Keras is not installed.
    """
    keras, graph = _keras(), layer_graph(net)
    torch_ops(net, graph)  # refuses what is not known to be the same there
    views = keras_views(net, graph, input_size[0] if input_size else None)
    channels, height, width = input_size or (_channels(net, graph.nodes), None, None)
    builder = _Builder(keras, net)
    made: dict[Node, Any] = {}
    for node in graph.nodes:
        inputs = [made[n] for n in node.all_input_nodes]
        if node.op == "placeholder":
            made[node] = source = keras.Input((height, width, channels), dtype=builder.dtype)
        elif node.op == "call_module":
            made[node] = builder.module(node, inputs[0])
        elif node.op in ("call_function", "call_method"):
            made[node] = builder.function(node, inputs)
        else:  # the output; torch_ops has refused all else
            made[node] = inputs[0]
    model = keras.Model(source, made[next(iter(reversed(graph.nodes)))])
    for name, weights in views.items():
        layer = model.get_layer(keras_name(name))
        for variable, view in zip(layer.weights, weights.values(), strict=True):
            variable.assign(view.cpu().reshape(tuple(variable.shape)).numpy())
    return model


def _channels(net: nn.Module, nodes: Any) -> int | None:
    """Of the images, as the first convolution takes them; a dense layer does not say."""
    layers = [net.get_submodule(str(n.target)) for n in nodes if n.op == "call_module"]
    first = next((m for m in layers if isinstance(m, nn.Conv2d | nn.Linear)), None)
    return first.in_channels if isinstance(first, nn.Conv2d) else None


def save_keras_weights(net: nn.Module, path: str | Path) -> None:
    """Write the weights of `to_keras(net)`, as `keras.Model.load_weights` reads them.

    They fit that model, and others of the same layers that list them in the same order.

    Raises:
        ValueError: the name does not end in `.weights.h5`, or as `to_keras` does.
        OSError: it cannot be written; what was there before is still there.
    """
    path = Path(path)
    if not path.name.endswith(".weights.h5"):
        raise ValueError(f"Keras wants a file name that ends in .weights.h5, got {path}")
    temporary = path.with_name(f"{path.name.removesuffix('.weights.h5')}.tmp.weights.h5")
    try:
        to_keras(net).save_weights(temporary, overwrite=True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class _Builder:
    """Calls Keras's layers on symbolic tensors, with the settings of torch's."""

    def __init__(self, keras: Any, net: nn.Module) -> None:
        self.keras, self.net = keras, net
        self.calls: Counter[str] = Counter()  # a ReLU called twice is two layers of Keras
        first = next(net.parameters(), torch.empty(0))
        self.dtype = str(first.dtype).removeprefix("torch.")

    def make(self, kind: str, x: Any, name: str, **settings: Any) -> Any:
        layer = getattr(self.keras.layers, kind)(name=name, dtype=self.dtype, **settings)
        return layer(x)

    def module(self, node: Node, x: Any) -> Any:
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
                return make("ZeroPadding2D", padding=((top, bottom), (left, right)),
                            data_format=LAST)  # fmt: skip
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
        padding = conv_padding(conv)
        if isinstance(padding, tuple) and any(padding):
            top, bottom, left, right = padding
            x = self.make("ZeroPadding2D", x, f"{name}_pad", padding=((top, bottom), (left, right)),
                          data_format=LAST)  # fmt: skip
        return self.make(
            "Conv2D", x, name, filters=conv.out_channels, kernel_size=conv.kernel_size,
            strides=conv.stride, padding="same" if padding == "same" else "valid",
            dilation_rate=conv.dilation, groups=conv.groups, use_bias=conv.bias is not None,
            data_format=LAST,
        )  # fmt: skip

    def norm(self, norm: Any, x: Any, name: str, block: str) -> Any:
        if norm.momentum is None:
            raise ValueError(f"layer {name} averages all batches alike, which Keras does not")
        kept = norm.momentum if isinstance(norm, BatchNorm) else 1 - norm.momentum
        layer = self.keras.layers.BatchNormalization(
            epsilon=norm.eps, momentum=kept, name=name, dtype=self.dtype
        )
        frozen = getattr(self.net.get_submodule(block), "frozen_norm", False)
        return layer(x, training=False) if frozen else layer(x)

    def pool(self, pool: Any, x: Any, name: str) -> Any:
        (size, stride, pad) = (
            v if isinstance(v, tuple) else (v, v)
            for v in (pool.kernel_size, pool.stride, pool.padding)
        )
        kind = "MaxPooling2D" if isinstance(pool, nn.MaxPool2d) else "AveragePooling2D"
        make = partial(self.make, kind, data_format=LAST)
        if isinstance(pool, SameMaxPool2d | SameAvgPool2d):
            return make(x, name, pool_size=size, strides=stride, padding="same")
        if (
            pool.ceil_mode
            or getattr(pool, "dilation", 1) not in (1, (1, 1))
            or getattr(pool, "divisor_override", None)
        ):
            raise ValueError(f"layer {name} has a ceil_mode, dilation or divisor, unknown to Keras")
        if pad == (0, 0):
            return make(x, name, pool_size=size, strides=stride, padding="valid")
        symmetric = all(k == 2 * p + 1 for k, p in zip(size, pad, strict=True))
        if kind == "AveragePooling2D" or not symmetric:
            raise ValueError(f"layer {name} has a padding of {pad}, which Keras's poolings lack")
        # SAME at stride 1 is symmetric; the stride comes after, by windows of one pixel.
        x = make(x, name, pool_size=size, strides=1, padding="same")
        if stride == (1, 1):
            return x
        return make(x, f"{name}_stride", pool_size=1, strides=stride, padding="valid")

    def function(self, node: Node, inputs: list[Any]) -> Any:
        """What the blocks compute between their layers."""
        if node.target in (operator.add, torch.add) and len(inputs) == 2:
            return self.keras.layers.Add(name=node.name, dtype=self.dtype)(inputs)
        if node.target is torch.cat:
            return self.keras.layers.Concatenate(-1, name=node.name, dtype=self.dtype)(inputs)
        (x,) = inputs
        if node.target is operator.getitem:  # every second pixel
            slices: Any = node.args[1]
            steps = [s.step or 1 for s in slices[2:]]
            return self.make("MaxPooling2D", x, node.name, pool_size=1, strides=tuple(steps),
                             padding="valid", data_format=LAST)  # fmt: skip
        if node.target is F.pad:  # channels of zeros: Keras pads the two axes before the last
            pads: Any = node.args[1]
            *around, before, behind = pads
            if not any(around):
                x = self.make("Permute", x, f"{node.name}_in", dims=(1, 3, 2))
                x = self.make("ZeroPadding2D", x, node.name, padding=((0, 0), (before, behind)),
                              data_format=LAST)  # fmt: skip
                return self.make("Permute", x, f"{node.name}_out", dims=(1, 3, 2))
        raise ValueError(f"{node.target} has no counterpart in Keras")


def _features(net: nn.Module, flatten: Node) -> int:
    """How many numbers leave a flatten, as the next layer that says it takes them."""
    node = flatten
    while node.users:
        (node,) = node.users
        module: Any = net.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Linear):
            return module.in_features
    raise ValueError(f"layer {flatten.target} leaves a vector of unknown length: give input_size")
