"""Reduce a PyTorch network to a graph that can be compared with the graph of a Keras model."""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, Node

from torchcnn.keras_io.files import Refused
from torchcnn.keras_io.graphs import (
    Op,
    activation,
    new_channels,
    padding_name,
    pool_facts,
    pooling,
    through,
    unpadded,
)
from torchcnn.layers import (
    BatchNorm,
    FlattenLayer,
    GlobalAvgPool2d,
    SameAvgPool2d,
    SameConv2d,
    SameMaxPool2d,
)


def kind_of(module: nn.Module) -> str:
    """Return conv, dense or norm for a layer whose weights Keras has too, else an empty string."""
    if isinstance(module, nn.Conv2d):
        return "conv"
    if isinstance(module, nn.Linear):
        return "dense"
    return "norm" if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | BatchNorm) else ""


def keras_name(name: str) -> str:
    """Return a valid Keras name, without dots: stage1.0.conv1 -> stage1_0_conv1."""
    return name.replace(".", "_")


def conv_padding(conv: nn.Conv2d, before: tuple[int, ...] = (0, 0, 0, 0)) -> str | tuple[int, ...]:
    """Return the padding of a convolution: "same" as in Keras, or (top, bottom, left, right).

    `before` is a padding of zeros that the input has already, from a layer in front.
    """
    if isinstance(conv, SameConv2d) or conv.padding == "same":
        return padding_name("same", conv.kernel_size, conv.stride, conv.dilation, before)
    own: Any = (0, 0) if conv.padding == "valid" else conv.padding
    (h, w), (top, bottom, left, right) = own, before
    zeros = (top + h, bottom + h, left + w, right + w)
    return padding_name("valid", conv.kernel_size, conv.stride, conv.dilation, zeros)


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


def torch_ops(net: nn.Module, graph: Graph) -> Op:
    """Return the output node of a network's reduced graph.

    Raises:
        Refused: if the network computes something that has no known counterpart in Keras.
    """
    ops: dict[Node, Op] = {}
    called: set[nn.Module] = set()
    for node in graph.nodes:
        inputs = [ops[n] for n in node.all_input_nodes]
        if node.op == "placeholder":
            ops[node] = Op("input", node.name)
        elif node.op == "call_module":
            module = net.get_submodule(str(node.target))
            if kind_of(module) and module in called:
                raise Refused(f"the network calls its layer {node.target} twice")
            called.add(module)
            ops[node] = _torch_op(str(node.target), module, inputs)
        elif node.op == "output" and len(inputs) == 1:
            ops[node] = inputs[0]
        else:
            ops[node] = _torch_function(node, inputs)
    return ops[next(iter(reversed(graph.nodes)))]


def _torch_function(node: Node, inputs: list[Op]) -> Op:
    """Return the node of a function or a tensor method."""
    args: Any = node.args
    dim = node.kwargs.get("dim", args[1] if len(args) > 1 else 0)
    if node.target in (operator.add, torch.add) and len(inputs) == 2:
        return Op("add", node.name, inputs=inputs)
    if node.target is torch.cat and dim == 1:
        return Op("concat", node.name, inputs=inputs)
    if len(inputs) == 1:
        (source,) = inputs
        if node.target is F.pad and len(args[1]) == 6 and not any(args[1][:4]):
            return new_channels(node.name, tuple(args[1][4:]), source)
        if node.target in (torch.flatten, "flatten") and args[1:] == (1,):
            return through(node.name, source)
        if node.target is operator.getitem and (steps := _steps(args[1])):
            return pooling("max_pool", node.name, pool_facts((1, 1), steps, "valid"), source)
        if node.target == "mean" and dim in ((2, 3), [2, 3], (-2, -1), [-2, -1]):
            return Op("global_avg", node.name, inputs=[source])
        if node.target in LAYERS:
            options = {key: value for key, value in node.kwargs.items() if key != "input"}
            return _weightless(node.name, LAYERS[node.target](*args[1:], **options), source)
    what = getattr(node.target, "__name__", node.target)
    raise Refused(f"the network computes {what} between its layers, unknown to Keras")


def _steps(slices: Any) -> tuple[int, int] | None:
    """Return the two strides of x[:, :, ::2, ::2], and None for any other index."""
    if not isinstance(slices, tuple) or not all(isinstance(s, slice) for s in slices):
        return None
    steps = [s.step or 1 for s in slices]
    if any(s.start or s.stop is not None for s in slices) or steps[:2] != [1, 1]:
        return None
    height, width = (*steps[2:], 1, 1)[:2]
    return height, width


def _torch_op(name: str, module: Any, inputs: list[Op]) -> Op:
    """Return the node of a layer."""
    kind = kind_of(module)
    if isinstance(module, nn.ZeroPad2d):
        left, right, top, bottom = module.padding
        return Op("pad", name, {"zeros": (top, bottom, left, right)}, inputs)
    if not kind and any(True for _ in module.parameters()):
        raise Refused(
            f"layer {name} is a {type(module).__name__}; weights are known only for "
            "convolutions, dense layers and batch norms"
        )
    if len(inputs) != 1:
        raise Refused(f"layer {name} has {len(inputs)} inputs")
    (source,) = inputs
    if not kind:
        return _weightless(name, module, source)
    if kind == "conv" and module.padding_mode != "zeros":
        raise Refused(f"layer {name} pads with {module.padding_mode!r}, but Keras pads with zeros")
    if kind == "conv":
        source, zeros = unpadded(source)
        facts = {
            "kernel": _kernel_shape(module),
            "bias": module.bias is not None,
            "strides": module.stride,
            "dilation": module.dilation,
            "padding": conv_padding(module, zeros),
        }
    elif kind == "dense":
        kernel = (module.in_features, module.out_features)
        facts = {"kernel": kernel, "bias": module.bias is not None}
    else:
        features = module.gamma.numel() if isinstance(module, BatchNorm) else module.num_features
        facts = {"features": int(features), "epsilon": float(module.eps)}
    return Op(kind, name, facts, [source])


def _weightless(name: str, module: Any, source: Op) -> Op:
    """Return the node of an activation or a pooling; layers that change no value have none."""
    match module:
        case nn.MaxPool2d() | nn.AvgPool2d():
            return _pooling(name, module, source)
        case GlobalAvgPool2d():
            return Op("global_avg", name, inputs=[source])
        case nn.AdaptiveAvgPool2d(output_size=1 | (1, 1)):
            return Op("global_avg", name, inputs=[source])
        case nn.AdaptiveMaxPool2d(output_size=1 | (1, 1)):
            return Op("global_max", name, inputs=[source])
        case nn.AdaptiveAvgPool2d():
            # Between equal convolutions and equal dense layers it can only be the identity.
            return through(name, source)
        case nn.Flatten() if (module.start_dim, module.end_dim) != (1, -1):
            raise Refused(f"layer {name} must flatten every axis but the first")
        case FlattenLayer() | nn.Flatten() | nn.Unflatten() | nn.Identity():
            return through(name, source)
        case nn.modules.dropout._DropoutNd():
            return through(name, source)
    options = dict(vars(module))
    if isinstance(module, nn.GELU):
        options["approximate"] = module.approximate != "none"
    return activation(type(module).__name__, options, name, source)


def _pooling(name: str, pool: Any, source: Op) -> Op:
    """Return the node of a max or average pooling."""
    kind = "max_pool" if isinstance(pool, nn.MaxPool2d) else "avg_pool"
    window, strides, (h, w) = map(_pair, (pool.kernel_size, pool.stride, pool.padding))
    if isinstance(pool, SameMaxPool2d | SameAvgPool2d):
        return pooling(kind, name, pool_facts(window, strides, "same"), source)
    zeros = (h, h, w, w)
    if kind == "avg_pool" and any(zeros) and pool.count_include_pad:
        source, zeros = Op("pad", name, {"zeros": zeros}, [source]), (0, 0, 0, 0)
    others = {
        "dilation": _pair(getattr(pool, "dilation", 1)),
        "ceil_mode": pool.ceil_mode,
        "divisor_override": getattr(pool, "divisor_override", None),
    }
    return pooling(kind, name, pool_facts(window, strides, "valid", zeros, **others), source)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _kernel_shape(conv: nn.Conv2d) -> tuple[int, ...]:
    """Return the shape of a convolution's kernel in Keras: (h, w, in / groups, out)."""
    return (*conv.kernel_size, conv.in_channels // conv.groups, conv.out_channels)
