"""Reduce a PyTorch network to a graph that can be compared with the graph of a Keras model."""

import operator
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node

from torchcnn.keras_io.calls import (
    arguments,
    axes_of_mean,
    channel_padding,
    is_flattening,
    layer_of,
    strides,
)
from torchcnn.keras_io.files import Refused
from torchcnn.keras_io.graphs import (
    ACTIVATIONS,
    Op,
    activation,
    flatten,
    join,
    listed,
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
    as_defined,
    unchanged,
)

# Layers of images; torch itself has some of them for vectors, too, but takes their axes otherwise.
OF_IMAGES = (
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.ZeroPad2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    GlobalAvgPool2d,
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


def torch_ops(net: nn.Module, graph: Graph) -> Op:
    """Return the output node of a network's reduced graph.

    Raises:
        Refused: if the network computes something that has no known counterpart in Keras.
    """
    if not unchanged(net):
        raise Refused("the network has hooks, or a forward pass beside its class's")
    ops: dict[Node, Op] = {}
    used: set[int] = set()  # the ids of layers with weights, and of the weights
    for node in graph.nodes:
        inputs = [ops[n] for n in node.all_input_nodes]
        if node.op == "placeholder":
            ops[node] = Op("input", node.name)
        elif node.op == "call_module":
            module = net.get_submodule(str(node.target))
            if kind_of(module):
                ids = {id(module), *map(id, module.parameters())}
                if ids & used:
                    raise Refused(f"the network uses the weights of its layer {node.target} twice")
                used |= ids
            _check_in_place(node, module)
            ops[node] = _torch_op(str(node.target), module, inputs)
        elif node.op == "output" and isinstance(node.args[0], Node):
            ops[node] = inputs[0]
        else:
            ops[node] = _torch_function(node, ops)
    output = ops[next(iter(reversed(graph.nodes)))]
    for op, _ in listed(Op("output", "the output", inputs=[output])):
        flat = [source for source in op.inputs if source.kind == "flatten"]
        if flat and op.kind != "dense":
            raise Refused(
                f"{op.name} takes the images that {flat[0].name} flattens, which Keras does in "
                "another order: only dense layers may"
            )
    return output.bare


def _check_in_place(node: Node, layer: nn.Module) -> None:
    """Check that a layer does not overwrite what another one needs after it."""
    if not getattr(layer, "inplace", False) or isinstance(layer, nn.modules.dropout._DropoutNd):
        return
    later: Any = node.next
    while later.op != "root":
        if node.all_input_nodes[0] in later.all_input_nodes:
            raise Refused(f"{node.name} overwrites the input of {later.name}")
        later = later.next


def _torch_function(node: Node, ops: dict[Node, Op]) -> Op:
    """Return the node of a function or a tensor method."""
    inputs = [ops[n] for n in node.all_input_nodes]
    args: Any = node.args
    if node.target in (operator.add, torch.add) and len(inputs) == len(args) == 2:
        if node.kwargs.get("alpha", 1) == 1 and node.kwargs.keys() <= {"alpha"}:
            return join("add", node.name, inputs)
    elif node.target is torch.cat:
        match arguments(node, "tensors", "dim"):
            case {"tensors": [*tensors], "dim": 1 | -3 | -1 as dim, **others}:
                parts = [ops[n] for n in tensors]
                if not others and dim in (1, 1 - parts[0].axes):
                    return join("concat", node.name, parts)
    elif len(inputs) == 1:
        (source,) = inputs
        if zeros := channel_padding(node):
            return new_channels(node.name, zeros, source)
        if is_flattening(node, source.axes):
            return flatten(node.name, source)
        if node.target is operator.getitem and (steps := strides(args[1])):
            return pooling("max_pool", node.name, pool_facts((1, 1), steps, "valid"), source)
        if source.axes == 4 and (axes := axes_of_mean(node)):
            pixel = Op("global_avg", node.name, inputs=[source])
            return pixel if axes == 4 else flatten(node.name, pixel)
        if layer := layer_of(node):
            _check_in_place(node, layer)
            return _torch_op(node.name, layer, inputs)
    what = getattr(node.target, "__name__", node.target)
    raise Refused(f"the network computes {what} in {node.name}, unknown to Keras as it is there")


def _torch_op(name: str, module: Any, inputs: list[Op]) -> Op:
    """Return the node of a layer."""
    kind = kind_of(module)
    if not kind and any(True for _ in module.parameters()):
        raise Refused(
            f"layer {name} is a {type(module).__name__}; weights are known only for "
            "convolutions, dense layers and batch norms"
        )
    if not as_defined(module) or hasattr(module, "parametrizations"):
        raise Refused(f"layer {name} has hooks, parametrizations or a forward pass of its own")
    if len(inputs) != 1:
        raise Refused(f"layer {name} has {len(inputs)} inputs")
    (source,) = inputs
    if isinstance(module, OF_IMAGES) and source.axes != 4:
        raise Refused(f"layer {name} takes images, here vectors")
    if isinstance(module, nn.ZeroPad2d) and min(module.padding) >= 0:
        left, right, top, bottom = module.padding
        return Op("pad", name, {"zeros": (top, bottom, left, right)}, inputs)
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
            "groups": module.groups,
            "dilation": module.dilation,
            "padding": conv_padding(module, zeros),
        }
    elif kind == "dense":
        _check_vectors(name, source)
        kernel = (module.in_features, module.out_features)
        facts = {"kernel": kernel, "bias": module.bias is not None}
    else:
        features = module.gamma.numel() if isinstance(module, BatchNorm) else module.num_features
        facts = {"features": int(features), "epsilon": float(module.eps)}
    return Op(kind, name, facts, [source])


def _check_vectors(name: str, source: Op) -> None:
    """Check that a dense layer takes vectors, as far as the axes of the input are known."""
    first = source
    while first.kind in ACTIVATIONS or first.kind == "norm":
        (first,) = first.inputs
    if source.axes != 2 and first.kind != "input":
        raise Refused(f"dense layer {name} takes images that are not flattened")


def _weightless(name: str, module: Any, source: Op) -> Op:
    """Return the node of an activation or a pooling; layers that change no value have none."""
    match module:
        case nn.MaxPool2d(return_indices=False) | nn.AvgPool2d():
            return _pooling(name, module, source)
        case GlobalAvgPool2d() | nn.AdaptiveAvgPool2d(output_size=1 | (1, 1)):
            return Op("global_avg", name, inputs=[source])
        case nn.AdaptiveMaxPool2d(output_size=1 | (1, 1), return_indices=False):
            return Op("global_max", name, inputs=[source])
        case FlattenLayer() | nn.Flatten(start_dim=1, end_dim=-1):
            return flatten(name, source)
        case nn.Unflatten(dim=1, unflattened_size=(_, 1, 1)) if source.axes == 2:
            return Op("pixel", name, inputs=[source])
        case nn.Identity() | nn.modules.dropout._DropoutNd():
            return through(name, source)
        case nn.Softmax() | nn.LogSoftmax() if module.dim not in (1, 1 - source.axes):
            raise Refused(f"layer {name} works along axis {module.dim}, not the channels")
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
