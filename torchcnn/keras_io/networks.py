"""Read a PyTorch network as a graph that can be compared with Keras's, and its weights."""

import math
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, Node

from torchcnn.keras_io.files import Refused
from torchcnn.keras_io.graphs import Op, layer, ordered
from torchcnn.keras_io.table import JOINS, WITH_WEIGHTS, check_options, of_module
from torchcnn.layers import BatchNorm, FlattenLayer, as_defined, unchanged

# Layers that may return their input, or a view of it.
SHARING = (nn.Identity, nn.Dropout, nn.Flatten, FlattenLayer)
CHANGES = (*JOINS, "padding of channels")  # what has other channels than its input, but no weights


def torch_ops(net: nn.Module, graph: Graph) -> Op:
    """Return the output node of a network's graph."""
    if not unchanged(net):
        raise Refused("the network has hooks, or a forward pass beside its class's")
    ops: dict[Node, Op] = {}
    used: set[int] = set()  # the ids of weights
    for node in graph.nodes:
        inputs = [ops[n] for n in node.all_input_nodes]
        if node.op == "placeholder" and not ops:
            ops[node] = Op("input", node.name)
        elif node.op == "call_module" and len(inputs) == 1:
            module = net.get_submodule(str(node.target))
            ops[node] = _module(net, str(node.target), module, inputs[0])
            _check_in_place(net, node, module)
            ids = set(map(id, module.parameters()))
            if ids & used:
                raise Refused(f"the network uses the weights of its layer {node.target} twice")
            used |= ids
        elif node.op == "output" and isinstance(node.args[0], Node):
            ops[node] = inputs[0]
        else:
            ops[node] = _function(node, ops)
    output = ops[next(iter(reversed(graph.nodes)))]
    Op("output", "the output", inputs=[output])  # it checks that this is no flattened image
    return output


def _module(net: nn.Module, name: str, module: Any, source: Op) -> Op:
    """Return the node of a layer."""
    if not as_defined(module) or hasattr(module, "parametrizations"):
        raise Refused(f"layer {name} has hooks, parametrizations or a forward pass of its own")
    if isinstance(module, nn.Identity):
        return source
    row = of_module(module)
    if row is None:
        raise Refused(f"layer {name} is a {type(module).__name__}, which is not supported")
    check_options(row, f"layer {name}", vars(module))
    training: dict[str, Any] = {}
    if row.kind == "dropout":
        training = {"rate": module.p}
    if row.kind == "batch norm":
        if module.momentum is None:
            raise Refused(f"layer {name} has momentum None, which Keras does not support")
        # The part of the old statistics that a step keeps.
        kept = module.momentum if isinstance(module, BatchNorm) else 1 - module.momentum
        block = net.get_submodule(name.rpartition(".")[0])
        frozen = getattr(block, "frozen_norm", False)  # in Keras, that is a layer not to be trained
        training = {"momentum": kept, "trainable": not frozen}
    return layer(row.kind, name, row.of_torch(module), source, training=training)


def _check_in_place(net: nn.Module, node: Node, module: nn.Module) -> None:
    """Check that a layer does not overwrite what another one needs after it."""
    if not getattr(module, "inplace", False) or isinstance(module, nn.Dropout):
        return
    nodes = list(node.graph.nodes)
    place, memory = nodes.index(node), _memory(net, node)
    overwritten = {n for n in nodes[:place] if _memory(net, n) is memory}
    for later in nodes[place + 1 :]:
        if overwritten & set(later.all_input_nodes):
            raise Refused(f"{node.name} overwrites the input of {later.name}")


def _memory(net: nn.Module, node: Node) -> Node:
    """Return the node that made the memory in which the value of a node lies."""
    module = net.get_submodule(str(node.target)) if node.op == "call_module" else None
    is_view = node.target is operator.getitem or isinstance(module, SHARING)
    if is_view or getattr(module, "inplace", False):
        return _memory(net, node.all_input_nodes[0])
    return node


def _function(node: Node, ops: dict[Node, Op]) -> Op:
    """Return the node of a function that a block calls between its layers."""
    inputs = [ops[n] for n in node.all_input_nodes]
    args: Any = node.args
    if node.target is operator.add and len(inputs) == 2:
        return Op("sum", node.name, inputs=inputs)
    if node.target is torch.cat and (args[1:], node.kwargs) in (((), {"dim": 1}), ((1,), {})):
        return Op("concatenation", node.name, inputs=[ops[n] for n in args[0]])
    whole = slice(None)
    match node.target, args[1:]:
        case operator.getitem, ((_, _, slice(step=h), slice(step=w)) as index,):
            steps = (whole, whole, slice(None, None, h), slice(None, None, w))
            if index == steps and isinstance(h, int) and isinstance(w, int):  # x[:, :, ::2, ::2]
                facts = {"pool_size": (1, 1), "strides": (h, w), "padding": "same"}
                return layer("max pooling", node.name, facts, inputs[0])
        case F.pad, ((0, 0, 0, 0, int(before), int(after)),) if min(before, after) >= 0:
            if node.kwargs == {"mode": "constant", "value": None}:
                facts = {"zeros": (before, after)}
                return layer("padding of channels", node.name, facts, inputs[0])
    what = getattr(node.target, "__name__", node.target)
    raise Refused(f"the network computes {what} in {node.name}, which is not supported")


# --- weights ------------------------------------------------------------------------------------


def keras_views(
    net: nn.Module, output: Op, image_channels: int | None = None
) -> dict[str, dict[str, Tensor]]:
    """Return the weights of every layer under Keras's names and in its order, by layer name.

    The tensors are views in Keras's layout: writing to them changes the network. The kernel of a
    dense layer has the shape (pixels, channels, out); Keras stores (pixels * channels, out).
    """
    ops = ordered(output)
    channels: dict[Op, int | None] = {}  # None if they are not known
    views = {}
    for op in ops:
        before = [channels[source] for source in op.inputs]
        known = [c for c in before if c]
        if op.kind in CHANGES and len(known) < len(before):
            raise Refused(f"the channels that {op.name} joins are not known")
        match op.kind:
            case "input":
                channels[op] = image_channels or read_channels(ops)
            case "convolution" | "dense layer":
                channels[op] = op.facts["kernel"][-1]
            case "concatenation":
                channels[op] = sum(known)
            case "sum":  # one channel goes with several
                channels[op] = max(known)
            case "padding of channels":
                channels[op] = sum(known) + sum(op.facts["zeros"])
            case _:
                channels[op] = before[0]
        if op.kind in WITH_WEIGHTS:
            flat = op.kind == "dense layer" and op.sources[0].kind == "flattening"
            views[op.name] = _views(net.get_submodule(op.name), before[0] if flat else 1, flat)
    return views


def read_channels(ops: list[Op]) -> int | None:
    """Return the channels of the image, if the first layer that shows them is a convolution."""
    first = next((op for op in ops if op.kind in (*WITH_WEIGHTS, *CHANGES)), None)
    return first.facts["kernel"][2] if first and first.kind == "convolution" else None


def _views(module: Any, channels: int | None, flat: bool) -> dict[str, Tensor]:
    """Return the weights of one layer; if it takes `flat` images, they have so many channels."""
    if not isinstance(module, nn.Conv2d | nn.Linear):
        names = ["weight", "bias", "running_mean", "running_var"]
        if isinstance(module, BatchNorm):
            names = ["gamma", "beta", "moving_mean", "moving_var"]
        views = [getattr(module, name).detach().view(-1) for name in names]
        return dict(zip(("gamma", "beta", "moving_mean", "moving_var"), views, strict=True))
    weight = module.weight.detach()
    if isinstance(module, nn.Linear):
        channels = (channels or _image_channels(module.in_features)) if flat else module.in_features
        kernel = weight.unflatten(1, (channels, -1)).permute(2, 1, 0)  # from (out, c, pixels)
    else:
        kernel = weight.permute(2, 3, 1, 0)
    return {"kernel": kernel} | ({"bias": module.bias.detach()} if module.bias is not None else {})


def _image_channels(features: int) -> int:
    """Return the channels, 1 or 3, of a square image with this many values."""
    for channels in (1, 3):
        if math.isqrt(features // channels) ** 2 * channels == features:
            return channels
    raise Refused(f"{features} inputs do not form a square image of 1 or 3 channels")
