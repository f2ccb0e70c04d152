"""Reduce a network to a graph that can be compared with the graph of a Keras model.

Only layers with weights, paddings, and the operations that join branches become nodes.
"""

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, Node

from torchcnn.keras_io.files import KerasLayer, Refused
from torchcnn.layers import BatchNorm, SameConv2d

Facts = dict[str, Any]  # properties that must agree, under the names that error messages use


@dataclass(eq=False)
class Op:
    """A node of a reduced graph."""

    kind: str  # a key of `files.KINDS`
    name: str
    facts: Facts = field(default_factory=dict)
    inputs: list["Op"] = field(default_factory=list)
    depth: int = 0  # number of nodes on the longest path from the input
    signature: int = 0  # equal for nodes whose subgraphs are equal
    weights: KerasLayer | None = None  # set for nodes of a Keras model

    def __post_init__(self) -> None:
        self.depth = 1 + max((op.depth for op in self.inputs), default=0)
        input_signatures = [op.signature for op in self.inputs]
        if self.kind == "add":  # a sum does not depend on the order of its terms
            input_signatures = sorted(input_signatures)
        self.signature = hash((self.kind, repr(self.facts), tuple(input_signatures)))


def listed(output: Op) -> list[tuple[Op, list[int]]]:
    """List every node after its inputs, with the positions of these inputs in the list.

    Equal graphs give equal lists. The terms of a sum are visited in a fixed order, the longest
    branch first, so that the order in which they are written does not matter.
    """
    position: dict[Op, int] = {}
    rows: list[tuple[Op, list[int]]] = []

    def visit(op: Op) -> None:
        if op in position:
            return
        inputs = op.inputs
        if op.kind == "add":
            inputs = sorted(inputs, key=lambda i: (-i.depth, i.signature))
        for i in inputs:
            visit(i)
        position[op] = len(rows)
        rows.append((op, [position[i] for i in inputs]))

    visit(output)
    return rows


# --- PyTorch ------------------------------------------------------------------------------------


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


def padding_name(
    padding: str, kernel: Any, stride: Any, dilation: Any, zeros: tuple[int, ...]
) -> Any:
    """Return one description for all paddings with the same effect.

    Symmetric zeros that keep the size at stride 1 are "same", and "same" never pads a 1×1 kernel.
    """
    window = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if not any(window):
        return zeros
    if padding == "same":
        return "same" if not any(zeros) else (*zeros, "same")
    half = (window[0] / 2, window[0] / 2, window[1] / 2, window[1] / 2)
    return "same" if tuple(stride) == (1, 1) and zeros == half else zeros


def unpadded(source: Op) -> tuple[Op, tuple[int, ...]]:
    """Return the input of a padding node and the zeros that it adds; other nodes add none."""
    if source.kind == "pad":
        return source.inputs[0], source.facts["zeros"]
    return source, (0, 0, 0, 0)


def through(name: str, source: Op) -> Op:
    """Skip a layer without weights, unless it separates a padding from its convolution."""
    return Op("after", name, inputs=[source]) if source.kind == "pad" else source


# Functions and methods that may stand between layers, because they do not affect the weights.
WEIGHTLESS = {
    F.relu,
    torch.relu,
    torch.sigmoid,
    torch.tanh,
    F.max_pool2d,
    F.avg_pool2d,
    F.adaptive_avg_pool2d,
    F.dropout,
    "relu",
    "sigmoid",
    "tanh",
    "mean",
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
        if node.target is F.pad and len(args[1]) == 6 and not any(args[1][:4]):
            return new_channels(node.name, tuple(args[1][4:]), inputs[0])
        flattens = node.target in (torch.flatten, "flatten") and args[1:] == (1,)
        slices = node.target is operator.getitem and args[1][:2] == (slice(None),) * 2
        if flattens or slices or node.target in WEIGHTLESS:
            return through(node.name, inputs[0])
    what = getattr(node.target, "__name__", node.target)
    raise Refused(f"the network computes {what} between its layers, unknown to Keras")


def new_channels(name: str, zeros: tuple[int, int], source: Op) -> Op:
    """Return the node that adds channels of zeros before and after the existing ones."""
    return Op("channels", name, {"zeros": zeros}, [source]) if any(zeros) else source


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
    if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) != (1, -1):
        raise Refused(f"layer {name} must flatten every axis but the first")
    if not kind:
        return through(name, inputs[0])
    (source,) = inputs
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


def _kernel_shape(conv: nn.Conv2d) -> tuple[int, ...]:
    """Return the shape of a convolution's kernel in Keras: (h, w, in / groups, out)."""
    return (*conv.kernel_size, conv.in_channels // conv.groups, conv.out_channels)
